package join

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
)

// fakeServers is a cluster that servers can join.
type fakeServers struct {
	mu       sync.Mutex
	members  []Member
	promoted int // attempts
}

func (*fakeServers) Options() map[string]string {
	return map[string]string{"cluster-cidr": "10.42.0.0/16", "cluster-domain": "cluster.local", "disable": ""}
}

func (*fakeServers) Bootstrap() (map[string][]byte, error) {
	return map[string][]byte{"tls/server-ca.key": []byte("key")}, nil
}

func (s *fakeServers) AddMember(_ context.Context, m NewMember) ([]Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, Member{ID: 1<<63 + 1, Peers: []string{m.Peer}})
	return s.members, nil
}

func (s *fakeServers) Promote(context.Context, uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.promoted++; s.promoted < 2 {
		return fmt.Errorf("it lags: %w", ErrNotYet)
	}
	return nil
}

func (s *fakeServers) Members(context.Context) (Members, error) {
	return Members{Cluster: "1", List: s.members}, nil
}

func TestServers(t *testing.T) {
	f := newFixture(t)
	valid, err := token.New(nil, token.Server, "joinsecret")
	if err != nil {
		t.Fatal(err)
	}
	f.store.token = valid
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := func(text string) *Client {
		t.Helper()
		c := f.client(t, text)
		c.User = token.Server
		if err := c.FindCA(ctx); err != nil {
			t.Fatal(err)
		}
		return c
	}
	server := NewServer{Node: "server-2", Secret: secret, Options: map[string]string{"cluster-cidr": "10.42.0.0/16", "cluster-domain": "cluster.local", "newer": "x"}}
	refused := func(what, tokenText string, s NewServer, want ...string) {
		t.Helper()
		_, err := client(tokenText).Bootstrap(ctx, s)
		var no *Refused
		if !errors.As(err, &no) {
			t.Errorf("%s: error is %v", what, err)
			return
		}
		for _, text := range want {
			if !strings.Contains(no.Message, text) {
				t.Errorf("%s: doesn't say %q, but: %s", what, text, no.Message)
			}
		}
	}
	refused("SQLite", "joinsecret", server, "--cluster-init")
	f.handler.Servers = &fakeServers{}
	refused("another secret", "server:othersecret", server, "server/token")
	refused("a node's token", "node:joinsecret", server, "server/token")
	refused("a bootstrap token", "abcdef.0123456789abcdef", server, "server/token")
	other := server
	other.Options = map[string]string{"cluster-cidr": "10.52.0.0/16", "disable": "coredns"}
	refused("other options", "joinsecret", other, `cluster-cidr is "10.42.0.0/16" on this server and "10.52.0.0/16"`, `disable is not set on this server and "coredns"`)
	nameless := server
	nameless.Node = "-"
	refused("no name", "joinsecret", nameless, "right form")

	c := client("joinsecret")
	files, err := c.Bootstrap(ctx, server)
	if err != nil || string(files["tls/server-ca.key"]) != "key" {
		t.Fatalf("the files are %v, error %v", files, err)
	}
	thief := server
	thief.Secret = strings.Repeat("x", len(secret))
	refused("a stolen name", "joinsecret", thief, "belongs to another machine")

	members, err := c.AddMember(ctx, NewMember{Node: "server-2", Secret: secret, Name: "server-2-1", Peer: "https://192.0.2.2:2380"})
	if err != nil || len(members) != 1 || members[0].ID != 1<<63+1 {
		t.Fatalf("the members are %v, error %v", members, err)
	}
	if err := c.Promote(ctx, members[0].ID); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Members(ctx); err != nil || again.Cluster != "1" || len(again.List) != 1 {
		t.Errorf("the members are %v, error %v", again, err)
	}
}

// TestOneRefuses goes on to the next server when one refuses, and says so if
// nobody else answers.
func TestOneRefuses(t *testing.T) {
	f := newFixture(t)
	other := newFixture(t) // of another cluster, at an address that a server has had
	c := f.client(t, f.token(t))
	if err := c.FindCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	refusing := strings.TrimPrefix(other.URL, "https://")
	c.Servers = append([]string{refusing}, c.Servers...)
	if _, err := c.Cluster(t.Context()); err != nil {
		t.Errorf("the second server answers, but: %v", err)
	}
	other.Close()
	gone := newFixture(t)
	gone.Close()
	f.store.machines["taken"] = HashSecret("another machine's secret, 32 and more")
	c.Servers = append(c.Servers, strings.TrimPrefix(gone.URL, "https://"))
	_, err := c.Certificates(t.Context(), "taken", secret, keys(t), Names{DNS: []string{"taken"}})
	var no *Refused
	if !errors.As(err, &no) || !strings.Contains(no.Message, "belongs to another machine") {
		t.Errorf("one refuses, the others are gone: error is %v", err)
	}
}

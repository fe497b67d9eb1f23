package datastore

import (
	"testing"

	"github.com/kedge-k8s/kedge/pkg/join"
)

func TestMemberOf(t *testing.T) {
	for _, test := range []struct {
		member, node string
		want         bool
	}{
		{newName("node"), "node", true},
		{"node-01234567", "node", true},
		{"node-1-01234567", "node-1", true},
		{"node-1-01234567", "node", false},
		{"node-0123456", "node", false},
		{"node-0123456x", "node", false},
		{"", "node", false},
		{"", "", false},
	} {
		if got := MemberOf(test.member, test.node); got != test.want {
			t.Errorf("%q is one of %q: %v", test.member, test.node, got)
		}
	}
}

func TestInitialCluster(t *testing.T) {
	const own = "https://192.0.2.2:2380"
	first := join.Member{Name: "a", Peers: []string{"https://192.0.2.1:2380"}}
	got, err := initialCluster([]join.Member{first, {Peers: []string{own}}}, "b", own)
	if want := "a=https://192.0.2.1:2380,b=https://192.0.2.2:2380"; err != nil || got != want {
		t.Errorf("it is %q, error %v, want %q", got, err, want)
	}
	if _, err := initialCluster([]join.Member{first}, "b", own); err == nil {
		t.Error("an answer without this server is taken")
	}
	got, err = initialCluster([]join.Member{{ID: 10, Peers: first.Peers}, {Peers: []string{own}}}, "b", own)
	if want := "member-a=https://192.0.2.1:2380,b=https://192.0.2.2:2380"; err != nil || got != want {
		t.Errorf("with another that joins it is %q, error %v, want %q", got, err, want)
	}
}

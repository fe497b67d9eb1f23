package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/token"
)

// Paths of the protocol between servers. Each request is a POST with the
// cluster's token; the token of agents will not do.
const (
	serversPath   = Prefix + "servers/"
	bootstrapPath = serversPath + "bootstrap"
	memberPath    = serversPath + "member"
	promotePath   = serversPath + "promote"
	membersPath   = serversPath + "members"
)

// NewServer is a machine that wants to be a further server of the cluster.
type NewServer struct {
	Node string `json:"node"`
	// Secret is the machine's, as when a node joins.
	Secret string `json:"secret"`
	// Options are those that all servers must agree on, by name.
	Options map[string]string `json:"options"`
}

// Member is a member of the cluster's etcd.
type Member struct {
	ID    uint64   `json:"id"`
	Name  string   `json:"name"` // empty until it has started once
	Peers []string `json:"peers"`
}

// Members are all members of a cluster's etcd.
type Members struct {
	Cluster string   `json:"cluster"` // its ID
	List    []Member `json:"members"`
}

// NewMember asks for a place among the members of the cluster's etcd.
type NewMember struct {
	Node   string `json:"node"`
	Secret string `json:"secret"`
	Name   string `json:"name"`
	Peer   string `json:"peer"` // URL
}

// Servers lets further servers join.
type Servers interface {
	// Options are this server's; see NewServer.
	Options() map[string]string
	// Bootstrap returns what all servers have in common, files by name.
	Bootstrap() (map[string][]byte, error)
	// AddMember makes a place for a new member, which is a learner at first. What
	// the node's earlier members have left is removed. It returns all members.
	AddMember(ctx context.Context, m NewMember) ([]Member, error)
	// Promote makes a learner that has caught up a full member.
	Promote(ctx context.Context, id uint64) error
	Members(ctx context.Context) (Members, error)
}

// ErrNotYet says that a server is asked too early: it may be asked again.
var ErrNotYet = errors.New("not yet")

var errSingle = errors.New(`this server keeps its state in SQLite, which is for one server alone: start it with --cluster-init, which takes the state over into etcd, and join again`)

func (h *Handler) handleServers() {
	h.mux.HandleFunc("POST "+bootstrapPath, serverRequest(h, h.bootstrap))
	h.mux.HandleFunc("POST "+memberPath, serverRequest(h, h.addMember))
	h.mux.HandleFunc("POST "+promotePath, serverRequest(h, func(ctx context.Context, m Member) (any, error) {
		return nil, h.Servers.Promote(ctx, m.ID)
	}))
	h.mux.HandleFunc("POST "+membersPath, serverRequest(h, func(ctx context.Context, _ struct{}) (any, error) {
		return h.Servers.Members(ctx)
	}))
}

// denied is an error that asking again will not change.
type denied struct{ error }

// Deny makes an error one that asking again will not change.
func Deny(err error) error { return denied{err} }

// serverRequest makes the handler of one request between servers.
func serverRequest[T any](h *Handler, do func(context.Context, T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&request); err != nil {
			h.fail(w, r, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
			return
		}
		user, password, _ := r.BasicAuth()
		given, err := token.FromBasicAuth(user, password)
		if err != nil || !h.Tokens.IsServer(given) {
			h.fail(w, r, http.StatusUnauthorized, errors.New("only the token of servers lets a server join, and this is not it, or no longer: a server has it in the file server/token of its data directory"))
			return
		}
		if h.Servers == nil {
			h.fail(w, r, http.StatusConflict, errSingle)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
		defer cancel()
		answer, err := do(ctx, request)
		var no denied
		switch {
		case errors.As(err, &no):
			h.fail(w, r, http.StatusConflict, err)
		case errors.Is(err, ErrNotYet):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(failure{Message: err.Error()})
		case err != nil:
			h.fail(w, r, http.StatusServiceUnavailable, err)
		default:
			h.answer(w, answer)
		}
	}
}

func (h *Handler) bootstrap(ctx context.Context, s NewServer) (any, error) {
	if err := disagreement(h.Servers.Options(), s.Options); err != nil {
		return nil, Deny(err)
	}
	if err := h.claim(ctx, s.Node, s.Secret); err != nil {
		return nil, err
	}
	files, err := h.Servers.Bootstrap()
	if err != nil {
		return nil, err
	}
	h.Log.Info("a server joins", "component", "join", "node", s.Node)
	return files, nil
}

func (h *Handler) addMember(ctx context.Context, m NewMember) (any, error) {
	if err := h.claim(ctx, m.Node, m.Secret); err != nil {
		return nil, err
	}
	return h.Servers.AddMember(ctx, m)
}

// claim refuses a machine whose name is another's.
func (h *Handler) claim(ctx context.Context, node, secret string) error {
	if !validNode(node) || len(secret) < minSecret {
		return Deny(fmt.Errorf("node name %q or the machine's secret has not the right form", node))
	}
	err := h.Machines.Claim(ctx, node, secret)
	if errors.Is(err, ErrNameTaken) {
		return Deny(nameTaken(node))
	}
	return err
}

// disagreement says in which options a server differs from this one.
func disagreement(own, other map[string]string) error {
	var differ []string
	for name, value := range own {
		if theirs, given := other[name]; given && theirs != value {
			differ = append(differ, fmt.Sprintf("%s is %s on this server and %s on the one that joins", name, shown(value), shown(theirs)))
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return fmt.Errorf("all servers of a cluster must agree on their options: %s; give the joining server the cluster's", strings.Join(differ, ", "))
}

func shown(value string) string {
	if value == "" {
		return "not set"
	}
	return fmt.Sprintf("%q", value)
}

// Bootstrap asks for what all servers have in common.
func (c *Client) Bootstrap(ctx context.Context, s NewServer) (map[string][]byte, error) {
	var files map[string][]byte
	err := c.post(ctx, bootstrapPath, s, &files)
	return files, err
}

// AddMember asks for a place among the members of etcd, and returns all members.
func (c *Client) AddMember(ctx context.Context, m NewMember) ([]Member, error) {
	var members []Member
	err := c.post(ctx, memberPath, m, &members)
	return members, err
}

// Promote asks for a learner to be made a full member, until it has caught up.
func (c *Client) Promote(ctx context.Context, id uint64) error {
	return c.post(ctx, promotePath, Member{ID: id}, nil)
}

// Members asks which members etcd has.
func (c *Client) Members(ctx context.Context) (Members, error) {
	var members Members
	err := c.post(ctx, membersPath, struct{}{}, &members)
	return members, err
}

// post sends a request between servers, and reads the answer unless into is nil.
func (c *Client) post(ctx context.Context, path string, request, into any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return c.each(ctx, func(ctx context.Context, server string) error {
		answer, err := c.do(ctx, c.tls(), http.MethodPost, server, path, body, true)
		if err != nil || into == nil {
			return err
		}
		return decode(server, answer, into)
	})
}

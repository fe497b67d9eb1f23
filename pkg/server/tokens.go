package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/kedge-k8s/kedge/pkg/bootstraptoken"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// tokens makes the cluster's own tokens, as a component, and checks those that
// machines join with.
type tokens struct {
	config config.Join
	paths  config.Paths
	layout pki.Layout

	client kubernetes.Interface // for bootstrap tokens
	others func() int           // how many other servers there are; nil: there can't be any

	mu           sync.RWMutex
	server, node token.Token
}

func newTokens(c config.Join, paths config.Paths, layout pki.Layout) *tokens {
	return &tokens{config: c, paths: paths, layout: layout}
}

func (*tokens) Name() string               { return "tokens" }
func (*tokens) Needs() []string            { return []string{"certificates"} }
func (*tokens) Stop(context.Context) error { return nil }

// Start makes the tokens that are not configured, and writes all to their files.
func (t *tokens) Start(context.Context) error {
	ca, err := os.ReadFile(t.layout.ServerCA().Cert)
	if err != nil {
		return err
	}
	if t.server, err = ensureToken(ca, token.Server, t.config.Token, t.paths.Token()); err != nil {
		return fmt.Errorf("the cluster's token: %w", err)
	}
	if t.node, err = ensureToken(ca, token.Node, t.config.AgentToken, t.paths.AgentToken()); err != nil {
		return fmt.Errorf("the agents' token: %w", err)
	}
	// The name under which scripts look for it.
	link := t.paths.NodeToken()
	if target, err := os.Readlink(link); err == nil && target == "token" {
		return nil
	}
	_ = os.Remove(link)
	return os.Symlink("token", link)
}

// ensureToken returns the configured secret as a token, or else the file's, or
// else a new one. The file holds it afterwards, in its full form.
func ensureToken(ca []byte, user string, configured config.Secret, path string) (token.Token, error) {
	secret := token.NewSecret()
	if configured != "" {
		given, err := token.Parse(configured.Reveal())
		if err != nil {
			return token.Token{}, err
		}
		if err := given.VerifyCA(ca); err != nil && !errors.Is(err, token.ErrNoCAHash) {
			return token.Token{}, err
		}
		secret = given.Secret()
	} else if found, _, err := token.ReadFile(path); err == nil {
		secret = found.Secret()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return token.Token{}, err
	}
	t, err := token.New(ca, user, secret)
	if err != nil {
		return token.Token{}, err
	}
	return t, token.WriteFile(path, t)
}

// Check implements join.Tokens. With a bare secret agents join as nodes,
// whichever of the two secrets it is.
func (t *tokens) Check(ctx context.Context, given token.Token) error {
	if given.BootstrapID != "" {
		return bootstraptoken.Check(ctx, t.client, given, time.Now())
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	own := t.node.Equal(given) || t.server.Equal(given)
	if asServer, err := token.New(nil, token.Server, given.Secret()); err == nil && given.User == token.Node {
		own = t.server.Equal(asServer) || own
	}
	if !own {
		return join.ErrUnknownToken
	}
	return nil
}

// IsServer implements join.Tokens.
func (t *tokens) IsServer(given token.Token) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.server.Equal(given)
}

// secret is that of the cluster's token.
func (t *tokens) secret() string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.server.Secret()
}

// rotate replaces the cluster's own tokens. From now on nobody joins with the old
// ones; who has joined has certificates.
func (t *tokens) rotate(context.Context, control.None) (control.Rotated, error) {
	for _, configured := range []struct {
		secret  config.Secret
		options string
	}{
		{t.config.Token, "--token, --token-file or KEDGE_TOKEN"},
		{t.config.AgentToken, "--agent-token, --agent-token-file or KEDGE_AGENT_TOKEN"},
	} {
		if configured.secret != "" {
			return control.Rotated{}, fmt.Errorf("this server is given its token by its configuration (%s), and would have the old one again at its next start: change it there, and restart the server", configured.options)
		}
	}
	if t.others != nil && t.others() > 0 {
		return control.Rotated{}, fmt.Errorf("the cluster has %d other servers, which would go on with the old tokens: give all servers the new ones by --token-file and --agent-token-file (or KEDGE_TOKEN, KEDGE_AGENT_TOKEN), and restart one after the other", t.others())
	}
	ca, err := os.ReadFile(t.layout.ServerCA().Cert)
	if err != nil {
		return control.Rotated{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var rotated control.Rotated
	for _, own := range []struct {
		token *token.Token
		user  string
		path  string
	}{
		{&t.server, token.Server, t.paths.Token()},
		{&t.node, token.Node, t.paths.AgentToken()},
	} {
		fresh, err := token.New(ca, own.user, token.NewSecret())
		if err != nil {
			return rotated, err
		}
		if err := token.WriteFile(own.path, fresh); err != nil {
			return rotated, err
		}
		*own.token = fresh
		rotated.Files = append(rotated.Files, own.path)
	}
	return rotated, nil
}

package controlplane

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// earlyLimit is how long a request that came before the apiserver was ready
// waits for it.
const earlyLimit = 30 * time.Second

// listener opens the apiserver's port before there is an apiserver, which is
// long in the making. Who connects meanwhile waits, and is not refused: the
// kubelet can be made at the same time.
type listener struct {
	serving *options.SecureServingOptions
}

// Listener is the component that opens the apiserver's port. The apiserver needs
// it.
func (a *APIServer) Listener() component.Component {
	return &listener{a.options.SecureServing.SecureServingOptions}
}

func (*listener) Name() string { return "listener" }

// Needs has the port stay closed where the datastore can't be reached, so that
// others try another server.
func (*listener) Needs() []string { return []string{"certificates", "datastore"} }

func (l *listener) Start(ctx context.Context) error {
	if l.serving.PermitPortSharing || l.serving.PermitAddressSharing {
		return nil // upstream opens the port, as the user's arguments say
	}
	address := net.JoinHostPort(l.serving.BindAddress.String(), strconv.Itoa(l.serving.BindPort))
	var listen net.ListenConfig
	opened, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	l.serving.Listener = opened
	return nil
}

// Stop closes the port, which the apiserver has done if it ever served.
func (l *listener) Stop(context.Context) error {
	if l.serving.Listener == nil {
		return nil
	}
	if err := l.serving.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// onceReady has requests wait until the apiserver is ready: before that, its
// authorizer refuses what it is about to allow. Questions about its health
// don't wait, nor does the apiserver's client of itself, which makes it ready.
func (a *APIServer) onceReady(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !early(r) {
			limit := time.NewTimer(earlyLimit)
			select {
			case <-a.ready:
			case <-limit.C:
			case <-r.Context().Done():
			}
			limit.Stop()
		}
		next.ServeHTTP(w, r)
	})
}

func early(r *http.Request) bool {
	switch r.URL.Path {
	case "/healthz", "/livez", "/readyz":
		return true
	}
	return r.TLS != nil && r.TLS.ServerName == genericapiserver.LoopbackClientServerNameOverride
}

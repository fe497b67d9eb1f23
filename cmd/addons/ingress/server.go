package ingress

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents" // asked for by the others
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// listen says where requests are taken.
type listen struct {
	http, https string // addresses; HTTP/3 is at the second one too
	grace       time.Duration
}

// object is a part of Caddy's configuration.
type object = map[string]any

// caddyConfig is Caddy's configuration. It never changes: what does is live.
func caddyConfig(at listen) ([]byte, error) {
	route := []any{object{"handle": []any{object{"handler": "kedge_ingress"}}}}
	server := func(address string, protocols ...string) object {
		return object{
			"listen":          []string{address},
			"protocols":       protocols,
			"routes":          route,
			"automatic_https": object{"disable": true},
			"trusted_proxies": object{"source": "kedge_ingress"},
			// The client is the last address that no trusted proxy wrote.
			"trusted_proxies_strict": 1,
			"max_header_bytes":       64 << 10,
			// Streams may be silent for long.
			"read_idle_timeout":  -1,
			"write_idle_timeout": -1,
		}
	}
	https := server(at.https, "h1", "h2", "h3")
	https["tls_connection_policies"] = []any{object{}}
	https["allow_0rtt"] = false // early data can be replayed
	return json.Marshal(object{
		"admin": object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{
			"level": "WARN", "writer": object{"output": "stderr"},
		}}},
		"storage": object{"module": "kedge_none"},
		"apps": object{
			"http": object{
				"grace_period": at.grace.String(),
				"http_port":    portOf(at.http), "https_port": portOf(at.https),
				"servers": object{"http": server(at.http, "h1", "h2c"), "https": https},
			},
			"tls": object{
				"disable_ocsp_stapling": true,
				"disable_storage_check": true,
				"disable_storage_clean": true,
				"automation": object{"policies": []any{object{
					"get_certificate": []any{object{"via": "kedge_ingress"}},
				}}},
			},
		},
	})
}

// portOf is the port of an address, which Caddy wants to know once more.
func portOf(address string) int {
	port := 0
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		_, _ = fmt.Sscanf(address[i+1:], "%d", &port)
	}
	return port
}

// startCaddy serves what is live, until caddy.Stop.
func startCaddy(l *live, at listen) error {
	current.Store(l)
	config, err := caddyConfig(at)
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("start Caddy: %w", err)
	}
	return nil
}

// observed serves metrics and tells whether requests are taken.
func observed(l *live, ready func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(l.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return mux
}

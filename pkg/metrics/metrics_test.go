package metrics

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

func TestCollector(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.EnsureCA(pki.KeyPair{Cert: filepath.Join(dir, "ca.crt"), Key: filepath.Join(dir, "ca.key")}, "the-ca")
	if err != nil {
		t.Fatal(err)
	}
	files := pki.KeyPair{Cert: filepath.Join(dir, "x.crt"), Key: filepath.Join(dir, "x.key")}
	if err := ca.EnsureCertificate(files, pki.Request{CommonName: "me"}); err != nil {
		t.Fatal(err)
	}
	c := &Collector{
		About: func(context.Context, control.None) (control.Description, error) {
			return control.Description{
				Role: "server", Version: "v1", Node: "n", Certificates: []string{dir, filepath.Join(dir, "none")},
				Datastore: control.Datastore{Kind: "SQLite", Dir: dir},
				Servers: []control.ServerState{
					{Address: "a:1", State: "failed"}, {Address: "b:1", State: "suspect"}, {Address: "c:1", State: "idle"},
					{Address: "d:1", State: "healthy"}, {Address: "e:1", State: "healthy", Connections: 3},
				},
			}, nil
		},
		Tunnels: func() int { return 2 },
		Size:    func(string) uint64 { return 7 },
	}
	const want = `
# HELP kedge_build_info Which Kedge this is, in its labels; the value is 1.
# TYPE kedge_build_info gauge
kedge_build_info{node="n",role="server",version="v1"} 1
# HELP kedge_datastore_size_bytes Size of the datastore's files on this machine.
# TYPE kedge_datastore_size_bytes gauge
kedge_datastore_size_bytes{datastore="SQLite"} 7
# HELP kedge_loadbalancer_server_health State of a server of the load balancer: 1=FAILED, 3=UNCHECKED, 4=RECOVERING, 5=HEALTHY, 7=ACTIVE.
# TYPE kedge_loadbalancer_server_health gauge
kedge_loadbalancer_server_health{name="kedge-agent-load-balancer",server="a:1"} 1
kedge_loadbalancer_server_health{name="kedge-agent-load-balancer",server="b:1"} 4
kedge_loadbalancer_server_health{name="kedge-agent-load-balancer",server="c:1"} 3
kedge_loadbalancer_server_health{name="kedge-agent-load-balancer",server="d:1"} 5
kedge_loadbalancer_server_health{name="kedge-agent-load-balancer",server="e:1"} 7
# HELP kedge_tunnel_nodes Number of nodes whose tunnel to this server is open.
# TYPE kedge_tunnel_nodes gauge
kedge_tunnel_nodes 2
`
	err = testutil.CollectAndCompare(c, strings.NewReader(want), "kedge_build_info", "kedge_datastore_size_bytes", "kedge_loadbalancer_server_health", "kedge_tunnel_nodes")
	if err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(c, "kedge_certificate_expiration_seconds"); n != 2 {
		t.Errorf("%d certificates, want 2", n)
	}
	for key, left := range certificates([]string{dir}, time.Now()) {
		if key.file == "x.crt" && (left < 300*24*time.Hour || key.subject != "CN=me" || key.usage != "client") {
			t.Errorf("%+v: %s", key, left)
		}
	}
}

func TestDials(t *testing.T) {
	d := NewDials()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(d)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = listener.Close()
	if _, err := d.Dial(t.Context(), "tcp", listener.Addr().String()); err == nil {
		t.Error("a closed port answers")
	}
	if n := testutil.CollectAndCount(d); n != 2 {
		t.Errorf("%d series, want one of each status", n)
	}
}

// Package metrics is what Kedge tells Prometheus of itself, beside what the parts
// of Kubernetes tell: names and meanings are k3s's, with kedge_ for k3s_, where it
// has them.
package metrics

import (
	"context"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// balancerName is the label name of the load balancer's metrics.
const balancerName = "kedge-agent-load-balancer"

// The states of a load balancer's server, as k3s numbers them.
const (
	failed     = 1
	unchecked  = 3
	recovering = 4
	healthy    = 5
	active     = 7
)

var (
	info = prometheus.NewDesc("kedge_build_info",
		"Which Kedge this is, in its labels; the value is 1.", []string{"version", "role", "node"}, nil)
	expiration = prometheus.NewDesc("kedge_certificate_expiration_seconds",
		"Remaining lifetime in seconds of the certificate, labeled by file, certificate subject and usage.", []string{"file", "subject", "usage"}, nil)
	connections = prometheus.NewDesc("kedge_loadbalancer_server_connections",
		"Count of current connections to a server of the load balancer.", []string{"name", "server"}, nil)
	health = prometheus.NewDesc("kedge_loadbalancer_server_health",
		"State of a server of the load balancer: 1=FAILED, 3=UNCHECKED, 4=RECOVERING, 5=HEALTHY, 7=ACTIVE.", []string{"name", "server"}, nil)
	tunnels = prometheus.NewDesc("kedge_tunnel_nodes",
		"Number of nodes whose tunnel to this server is open.", nil, nil)
	database = prometheus.NewDesc("kedge_datastore_size_bytes",
		"Size of the datastore's files on this machine.", []string{"datastore"}, nil)
)

// Collector reads Kedge's metrics when they are asked for.
type Collector struct {
	// About says what runs here.
	About func(context.Context, control.None) (control.Description, error)
	// Tunnels counts the open tunnels of a server; nil: it has none.
	Tunnels func() int
	// Size adds up the files of the datastore in a directory.
	Size func(dir string) uint64
}

// aboutLimit is how long the process may take to say what it is.
const aboutLimit = 3 * time.Second

// Describe implements prometheus.Collector.
func (*Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{info, expiration, connections, health, tunnels, database} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), aboutLimit)
	defer cancel()
	d, err := c.About(ctx, control.None{})
	if err != nil {
		out <- prometheus.NewInvalidMetric(info, err)
		return
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(info, 1, d.Version, d.Role, d.Node)
	for key, left := range certificates(d.Certificates, time.Now()) {
		gauge(expiration, left.Seconds(), key.file, key.subject, key.usage)
	}
	for _, s := range d.Servers {
		gauge(connections, float64(s.Connections), balancerName, s.Address)
		gauge(health, state(s), balancerName, s.Address)
	}
	if c.Tunnels != nil {
		gauge(tunnels, float64(c.Tunnels()))
	}
	if d.Datastore.Dir != "" && c.Size != nil {
		gauge(database, float64(c.Size(d.Datastore.Dir)), d.Datastore.Kind)
	}
}

func state(s control.ServerState) float64 {
	switch s.State {
	case "failed":
		return failed
	case "suspect":
		return recovering
	case "healthy":
		if s.Connections > 0 {
			return active
		}
		return healthy
	}
	return unchecked
}

type certificate struct{ file, subject, usage string }

// certificates returns how long the certificates in directories, and in those
// below, are still valid. Of several alike in one file it is the first to end.
func certificates(dirs []string, now time.Time) map[certificate]time.Duration {
	found := map[certificate]time.Duration{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".crt" {
				return nil //nolint:nilerr // one that can't be read has no metric, which is told by its absence
			}
			entries, err := pki.InspectFile(path)
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			for _, e := range entries {
				key := certificate{filepath.Base(path), e.Subject, e.Usage}
				if left := e.NotAfter.Sub(now); found[key] == 0 || left < found[key] {
					found[key] = left
				}
			}
			return nil
		})
	}
	return found
}

// Dials times the connections that a load balancer opens to servers.
type Dials struct{ *prometheus.HistogramVec }

// NewDials makes the histogram, which the caller registers.
func NewDials() Dials {
	return Dials{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "kedge_loadbalancer_dial_duration_seconds",
		Help:    "Time in seconds taken to dial a connection to a server, labeled by load balancer name and success/failure status.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	}, []string{"name", "status"})}
}

// Dial connects as a net.Dialer does, and takes the time.
func (d Dials) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	began := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	status := "success"
	if err != nil {
		status = "error"
	}
	d.WithLabelValues(balancerName, status).Observe(time.Since(began).Seconds())
	return conn, err
}

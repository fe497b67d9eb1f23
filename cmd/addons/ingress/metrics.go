package ingress

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what Prometheus may ask for.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rebuild  prometheus.Histogram
	routes   prometheus.Gauge
}

func newMetrics() *metrics {
	labels := []string{"kind", "namespace", "name"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kedge_ingress_requests_total",
			Help: "Requests by the object that routed them (none: no route) and by status.",
		}, append(labels, "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kedge_ingress_request_duration_seconds",
			Help:    "How long requests took, to the end of the response.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 2.5, 10, 60},
		}, labels),
		rebuild: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kedge_ingress_rebuild_duration_seconds",
			Help:    "How long it took to make the routes anew after a change.",
			Buckets: []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5},
		}),
		routes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kedge_ingress_routes",
			Help: "Routes that are served.",
		}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.rebuild, m.routes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// observe counts a request; found is nil if nothing was served.
func (m *metrics) observe(found *route, status int, took time.Duration) {
	var from owner
	if found != nil {
		from = found.owner
	}
	m.requests.WithLabelValues(from.kind, from.namespace, from.name, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(from.kind, from.namespace, from.name).Observe(took.Seconds())
}

// forget drops the figures of objects that are no more.
func (m *metrics) forget(from owner) {
	labels := prometheus.Labels{"kind": from.kind, "namespace": from.namespace, "name": from.name}
	m.requests.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
}

// Package ingress serves Ingresses and Gateway API's HTTPRoutes with Caddy. Caddy is
// configured once; its modules of this package read routes, endpoints, certificates
// and settings that are replaced while it runs, so that no change drops a request.
package ingress

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	gateway "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
)

// options are those of the command line.
type options struct {
	kubeconfig string
	observe    string
	drain      time.Duration
	listen     listen
	self       identity
}

// Main is the ingress add-on's program.
func Main() {
	o := options{self: identity{podIP: os.Getenv("POD_IP")}}
	f := flag.NewFlagSet("ingress", flag.ExitOnError)
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` to reach the cluster by; in a pod it needs none")
	f.StringVar(&o.listen.http, "http", ":80", "`address` for HTTP")
	f.StringVar(&o.listen.https, "https", ":443", "`address` for HTTPS and HTTP/3")
	f.StringVar(&o.observe, "observe", ":9180", "`address` for metrics and probes")
	f.StringVar(&o.self.namespace, "namespace", "kube-system", "`namespace` of our own Service and settings")
	f.StringVar(&o.self.service, "service", "ingress", "`name` of our own Service")
	f.DurationVar(&o.drain, "drain", 5*time.Second, "how long requests are taken after SIGTERM, until all know that we end")
	f.DurationVar(&o.listen.grace, "grace", 20*time.Second, "how long requests may take to end after that")
	_ = f.Parse(os.Args[1:]) // exits by itself

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	klog.SetSlogLogger(logger)
	err := run(ctx, o)
	stop()
	if err != nil {
		slog.Error("the ingress ends", "err", err)
		os.Exit(1)
	}
}

func newClients(kubeconfig string) (clients, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return clients{}, err
	}
	config.UserAgent = "kedge-ingress"
	config.QPS, config.Burst = 50, 100
	var c clients
	if c.gateway, err = gateway.NewForConfig(config); err != nil {
		return c, err
	}
	if c.metadata, err = metadata.NewForConfig(metadata.ConfigFor(config)); err != nil {
		return c, err
	}
	typed := rest.CopyConfig(config)
	typed.ContentType = "application/vnd.kubernetes.protobuf"
	c.kubernetes, err = kubernetes.NewForConfig(typed)
	return c, err
}

// run serves until ctx ends, and then a little longer.
func run(ctx context.Context, o options) error {
	c, err := newClients(o.kubeconfig)
	if err != nil {
		return fmt.Errorf("reach the cluster: %w", err)
	}
	l, err := newLive()
	if err != nil {
		return err
	}
	k := newController(c, o.self, l, portOf(o.listen.http))

	var started atomic.Bool
	observe := &http.Server{Addr: o.observe, Handler: observed(l, started.Load), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 2)
	go func() { // ends with observe.Close
		if err := observe.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("metrics and probes: %w", err)
		}
	}()
	defer func() { _ = observe.Close() }()

	follow, stop := context.WithCancel(context.WithoutCancel(ctx)) // longer than ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := k.run(follow); err != nil {
			failed <- err
		}
	}()
	defer func() {
		stop()
		<-ended
	}()

	// Requests are taken when it is known where they go.
	for !k.ready.Load() {
		select {
		case <-time.After(20 * time.Millisecond): // once, at the start
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	if err := startCaddy(l, o.listen); err != nil {
		return err
	}
	started.Store(true)
	select {
	case err = <-failed:
	case <-ctx.Done():
		// The other nodes hear of the end a little later.
		time.Sleep(o.drain)
	}
	return errors.Join(err, caddy.Stop())
}

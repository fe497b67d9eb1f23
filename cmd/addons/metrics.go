package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/logs"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"
)

// nodesPath is where Kedge's servers pass on what a kubelet says of its node;
// see pkg/controlplane.
const nodesPath = "/kedge/nodes"

// metricsServer keeps what nodes and pods use and serves it as metrics.k8s.io,
// until SIGTERM. It is metrics-server with its flags, but for the way to the
// kubelets: that leads through the cluster's servers, which reach every node.
func metricsServer() {
	logs.InitLogs()
	err := runMetricsServer(os.Args[1:], genericapiserver.SetupSignalHandler())
	logs.FlushLogs()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "metrics-server:", err)
		os.Exit(1)
	}
}

func runMetricsServer(args []string, stop <-chan struct{}) error {
	o := options.NewOptions()
	o.SecureServing.ServerCert.CertDirectory = "" // its own certificate stays in memory
	flags := pflag.NewFlagSet("metrics-server", pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if errs := o.Validate(); len(errs) > 0 {
		return errors.Join(errs...)
	}
	config, err := o.ServerConfig()
	if err != nil {
		return err
	}
	server, err := url.Parse(config.Kubelet.Client.Host + "/")
	if err != nil {
		return fmt.Errorf("the servers' address: %w", err)
	}
	// Kubelets are asked for by the names of their nodes.
	config.Kubelet.AddressTypePriority = []corev1.NodeAddressType{corev1.NodeHostName}
	config.Kubelet.Client.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return throughServers{server, next}
	})
	s, err := config.Complete()
	if err != nil {
		return err
	}
	return s.RunUntil(stop)
}

// throughServers sends requests for https://NODE:PORT/PATH to the cluster's
// servers.
type throughServers struct {
	server *url.URL
	next   http.RoundTripper
}

func (t throughServers) RoundTrip(r *http.Request) (*http.Response, error) {
	through := r.Clone(r.Context())
	through.URL = t.server.JoinPath(nodesPath, r.URL.Hostname(), r.URL.Path)
	through.Host = ""
	return t.next.RoundTrip(through)
}

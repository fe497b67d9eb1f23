// Package noproxy keeps what stays inside of a cluster from the proxy that the
// environment names.
package noproxy

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Cluster is what no proxy leads to.
type Cluster struct {
	Ranges []netip.Prefix // of pods and Services
	Domain string
	Nodes  []string // addresses and names, with or without a port
}

var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "CONTAINERD_HTTP_PROXY", "CONTAINERD_HTTPS_PROXY"}

// Set adds the cluster to the variables NO_PROXY and no_proxy, if there is a proxy.
// Go reads them once, at a process's first request.
func (c Cluster) Set() error {
	if !slices.ContainsFunc(proxies, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	names := []string{"NO_PROXY", "no_proxy"}
	var list []string
	add := func(item string) {
		if item = strings.TrimSpace(item); item != "" && !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	for _, name := range names {
		for item := range strings.SplitSeq(os.Getenv(name), ",") {
			add(item)
		}
	}
	add(".svc")
	add("." + c.Domain)
	for _, r := range c.Ranges {
		add(r.String())
	}
	for _, n := range c.Nodes {
		add(n)
	}
	for _, name := range names {
		if err := os.Setenv(name, strings.Join(list, ",")); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

package config

import (
	"slices"
	"strconv"
	"strings"
)

// Etcd is the configuration of the embedded etcd, the datastore of clusters with
// several servers.
type Etcd struct {
	ClusterInit   bool // begin a cluster that further servers can join
	ExposeMetrics bool // serve metrics on the node's address too
	Args          []Arg
}

// serverJoinOptions are those of servers about the other servers of a cluster.
func serverJoinOptions() []Option {
	return []Option{
		serverOption(),
		{
			Name: "cluster-init", Kind: Bool, Category: categoryDatastore,
			Help: "Keep the cluster's state in embedded etcd, so that further servers can join; what SQLite holds is taken over",
			bind: one(parseBool, func(s *Server) *bool { return &s.Etcd.ClusterInit }),
		},
		{
			Name: "etcd-arg", Kind: List, Whole: true, Category: categoryDatastore,
			Help: "Pass this argument to the embedded etcd, as `KEY=VALUE`; may be repeated",
			bind: many(parseArg, func(s *Server) *[]Arg { return &s.Etcd.Args }),
		},
		{
			Name: "etcd-expose-metrics", Kind: Bool, Category: categoryDatastore,
			Help: "Serve the embedded etcd's metrics on the node's address too, to everybody on port 2381",
			bind: one(parseBool, func(s *Server) *bool { return &s.Etcd.ExposeMetrics }),
		},
	}
}

// serverOption is that of agents, and of all servers but a cluster's first.
func serverOption() Option {
	return Option{
		Name: "server", Aliases: []string{"s"}, Category: categoryJoin,
		Help: "Join the cluster of the server at this `URL`, as https://HOST:PORT",
		bind: one(parseServer, func(s *Server) *string { return &s.Join.Server }),
	}
}

// Agreed are the options that all servers of a cluster must agree on, by name,
// each in the one form that equal values have.
func (s *Server) Agreed() map[string]string {
	n := s.Network
	disabled := slices.Clone(s.AddOns.Disabled)
	slices.Sort(disabled)
	return map[string]string{
		"cluster-cidr":               join(n.ClusterCIDRs),
		"cluster-dns":                join(n.ClusterDNS),
		"cluster-domain":             n.ClusterDomain,
		"default-local-storage-path": s.AddOns.LocalStoragePath,
		"disable":                    strings.Join(slices.Compact(disabled), ","),
		"disable-cloud-controller":   strconv.FormatBool(s.ControlPlane.DisableCloudController),
		"disable-helm-controller":    strconv.FormatBool(s.AddOns.DisableHelm),
		"disable-kube-proxy":         strconv.FormatBool(n.DisableKubeProxy),
		"disable-network-policy":     strconv.FormatBool(n.DisableNetworkPolicy),
		"egress-selector-mode":       n.EgressSelectorMode,
		"embedded-registry":          strconv.FormatBool(s.Images.EmbeddedRegistry),
		"flannel-backend":            n.FlannelBackend,
		"flannel-external-ip":        strconv.FormatBool(n.FlannelExternalIP),
		"flannel-ipv6-masq":          strconv.FormatBool(n.FlannelIPv6Masq),
		"service-cidr":               join(n.ServiceCIDRs),
		"service-node-port-range":    n.NodePorts.String(),
		"system-default-registry":    s.Images.DefaultRegistry,
	}
}

package config

import (
	"errors"
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

	Reset            bool   // make this server the only member, and end
	ResetRestorePath string // with the state of this snapshot, a file or name; empty: its own
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
			Name: "cluster-reset", Kind: Bool, Category: categoryDatastore,
			Help: "Make this server the only member of its embedded etcd when the others are lost, say what to do next, and end",
			bind: one(parseBool, func(s *Server) *bool { return &s.Etcd.Reset }),
		},
		{
			Name: "cluster-reset-restore-path", Category: categoryDatastore,
			Help: "Go back to this `SNAPSHOT` in cluster-reset, a file or the name of one of kedge snapshot list or, with etcd-s3, in the bucket",
			bind: one(parseText, func(s *Server) *string { return &s.Etcd.ResetRestorePath }),
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

// checkReset wants a reset to be one of the embedded etcd.
func (l *loader) checkReset() error {
	e := l.server.Etcd
	if e.ResetRestorePath != "" && !e.Reset {
		return l.settings["cluster-reset-restore-path"].refuse(errors.New("has no effect without cluster-reset; give both, or use kedge snapshot restore"))
	}
	if e.Reset && l.server.Datastore.Endpoint != "" {
		return l.settings["cluster-reset"].refuse(errors.New("is for the embedded etcd, and can't go with datastore-endpoint; remove one of them"))
	}
	return nil
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

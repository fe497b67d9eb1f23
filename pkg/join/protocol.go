// Package join is how a machine becomes a node of a cluster and stays one: the
// protocol, the handler that a server has in front of its apiserver, and the
// client of an agent. All of it goes over the apiserver's own port:
//
//	GET  /v1-kedge/ca            the CA bundle that servers are recognized by; for anybody
//	GET  /v1-kedge/cluster       what all nodes of the cluster agree on
//	POST /v1-kedge/certificates  certificates for the keys that a node made
//	GET  /v1-kedge/connect       the tunnel through which the apiserver reaches the node
//	POST /v1-kedge/servers/…     what further servers need; see Servers
//
// A machine that joins shows a token (HTTP basic authentication, see package
// token); a node shows the client certificate it has. The name of a node belongs
// to the machine that took it first: the machine makes a secret of its own and
// shows it with every request for certificates.
package join

import (
	"net/netip"
)

// Paths of the protocol.
const (
	Prefix           = "/v1-kedge/"
	caPath           = Prefix + "ca"
	clusterPath      = Prefix + "cluster"
	certificatesPath = Prefix + "certificates"
	connectPath      = Prefix + "connect"
)

// versionHeader carries the version of the agent.
const versionHeader = "Kedge-Version"

// Cluster is what all nodes of a cluster agree on.
type Cluster struct {
	Version           string         `json:"version"`
	ClusterCIDRs      []netip.Prefix `json:"clusterCIDRs"`
	ServiceCIDRs      []netip.Prefix `json:"serviceCIDRs"`
	ClusterDNS        []netip.Addr   `json:"clusterDNS"`
	ClusterDomain     string         `json:"clusterDomain"`
	DisableKubeProxy  bool           `json:"disableKubeProxy,omitempty"`
	ExternalCloud     bool           `json:"externalCloud,omitempty"` // a cloud provider initializes the nodes
	FlannelBackend    string         `json:"flannelBackend"`
	FlannelExternalIP bool           `json:"flannelExternalIP,omitempty"`
	FlannelIPv6Masq   bool           `json:"flannelIPv6Masq,omitempty"`
	NetworkPolicy     bool           `json:"networkPolicy"`
	ServiceLB         bool           `json:"serviceLB"`
	EgressMode        string         `json:"egressMode"`
	EmbeddedRegistry  bool           `json:"embeddedRegistry,omitempty"`
	SupervisorMetrics bool           `json:"supervisorMetrics,omitempty"`
	DefaultRegistry   string         `json:"defaultRegistry,omitempty"` // in front of the names of packaged images
	// Servers are all servers, as host:port.
	Servers []string `json:"servers"`
}

// Identity names one of the identities of a node.
type Identity string

// The identities of a node, each with a key of its own.
const (
	Kubelet   Identity = "kubelet"         // system:node:NAME
	Serving   Identity = "kubelet-serving" // of the kubelet's own API
	KubeProxy Identity = "kube-proxy"      // system:kube-proxy
	Agent     Identity = "agent"           // Kedge's own parts on the node
)

// Identities are all identities of a node.
func Identities() []Identity { return []Identity{Kubelet, Serving, KubeProxy, Agent} }

// The users and groups that certificates of nodes are for.
const (
	// AgentGroup holds Kedge's own parts on all nodes.
	AgentGroup      = "system:kedge:nodes"
	agentUserPrefix = "system:kedge:node:"
	nodeGroup       = "system:nodes"
	nodeUserPrefix  = "system:node:"
)

// AgentUser is the user of Kedge's own parts on a node.
func AgentUser(node string) string { return agentUserPrefix + node }

// Annotations with which a node says of itself what its kubelet can't, for the
// cloud provider. Values are lists with commas.
const (
	ExternalIPAnnotation  = "kedge.io/external-ip"
	InternalDNSAnnotation = "kedge.io/internal-dns"
	ExternalDNSAnnotation = "kedge.io/external-dns"
)

// certificatesRequest asks for a node's certificates.
type certificatesRequest struct {
	Node string `json:"node"`
	// Secret is the machine's, the same for ever.
	Secret string `json:"secret"`
	// Requests are PKCS #10 certificate requests in PEM. What a certificate says is
	// up to the server, but for the names of the serving one.
	Requests map[Identity]string `json:"requests"`
}

// Certificates are what a node gets.
type Certificates struct {
	ServerCA string `json:"serverCA"` // PEM: signs what servers and kubelets serve with
	ClientCA string `json:"clientCA"` // PEM: signs the kubelets' clients
	// Issued are PEM chains by identity.
	Issued map[Identity]string `json:"issued"`
}

// failure is the body of an answer that is not 200.
type failure struct {
	Message string `json:"message"`
}

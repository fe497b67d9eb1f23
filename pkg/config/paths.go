package config

import "path/filepath"

const (
	// RuntimeDir holds sockets and state that a reboot may clear.
	RuntimeDir = "/run/kedge"
	// KubeletDir is the kubelet's root directory. It stays where every
	// kubelet has it, because storage drivers mount it by that path.
	KubeletDir = "/var/lib/kubelet"
	// SysctlFile holds the kernel's settings as they were before Kedge.
	SysctlFile = RuntimeDir + "/sysctls.json"
	// ReadyFile is there while a Kedge runs whose node has been Ready, and holds
	// its process id.
	ReadyFile = RuntimeDir + "/ready"
	// NodePasswordFile holds the secret that keeps the node's name its own. It
	// is outside the data directory, to outlive it: the name stays the node's
	// when that is deleted.
	NodePasswordFile = "/etc/kedge/node/password" //nolint:gosec // a path
)

// InstallFile is the record of the installation, beside the configuration.
func InstallFile(configFile string) string {
	return filepath.Join(filepath.Dir(configFile), "install.json")
}

// Paths is the layout of the data directory.
type Paths struct {
	DataDir string // absolute
}

// Payload holds the unpacked programs, one directory for each version.
func (p Paths) Payload() string { return filepath.Join(p.DataDir, "data") }

// Storage holds the volumes of class local-path unless configured otherwise.
func (p Paths) Storage() string { return filepath.Join(p.DataDir, "storage") }

// Server is the directory of what only a control plane keeps.
func (p Paths) Server() string { return filepath.Join(p.DataDir, "server") }

// DB is the directory of the embedded datastore.
func (p Paths) DB() string { return filepath.Join(p.Server(), "db") }

// Snapshots is the directory of snapshots unless configured otherwise.
func (p Paths) Snapshots() string { return filepath.Join(p.DB(), "snapshots") }

// Etcd is the directory of this server's member of the cluster's etcd.
func (p Paths) Etcd() string { return filepath.Join(p.DB(), "etcd") }

// EtcdCluster is the file that names the cluster which this server is a member of
// in etcd. It is apart from the data, to tell a loss of that from a new server.
func (p Paths) EtcdCluster() string { return filepath.Join(p.Server(), "etcd-cluster") }

// ResetFlag is there from a reset of the cluster until the server starts.
func (p Paths) ResetFlag() string { return filepath.Join(p.DB(), "reset-flag") }

// TLS is the directory of the cluster's CAs and the server's certificates.
func (p Paths) TLS() string { return filepath.Join(p.Server(), "tls") }

// Cred is the directory of the control plane's kubeconfigs, and of the keys that
// Secrets are encrypted with.
func (p Paths) Cred() string { return filepath.Join(p.Server(), "cred") }

// AuditLog is the audit log unless configured otherwise.
func (p Paths) AuditLog() string { return filepath.Join(p.Server(), "logs", "audit.log") }

// Token is the file of the cluster's token, with which servers join, and
// agents too.
func (p Paths) Token() string { return filepath.Join(p.Server(), "token") }

// AgentToken is the file of the token with which only agents join.
func (p Paths) AgentToken() string { return filepath.Join(p.Server(), "agent-token") }

// NodeToken is the file of the token to give to an agent.
func (p Paths) NodeToken() string { return filepath.Join(p.Server(), "node-token") }

// Manifests is the directory whose YAML files are applied to the cluster.
func (p Paths) Manifests() string { return filepath.Join(p.Server(), "manifests") }

// Static is the directory of files that Helm charts are taken from by the URL
// https://%{KUBERNETES_API}%/static/.
func (p Paths) Static() string { return filepath.Join(p.Server(), "static") }

// Agent is the directory of what every node keeps.
func (p Paths) Agent() string { return filepath.Join(p.DataDir, "agent") }

// AgentPKI is the directory of the node's certificates and keys.
func (p Paths) AgentPKI() string { return filepath.Join(p.Agent(), "pki") }

// AgentEtc is the directory of the configuration written for the node's
// components, their kubeconfigs included.
func (p Paths) AgentEtc() string { return filepath.Join(p.Agent(), "etc") }

// Images is the directory whose image archives are imported at start.
func (p Paths) Images() string { return filepath.Join(p.Agent(), "images") }

// Containerd is containerd's root directory: images, snapshots, containers.
func (p Paths) Containerd() string { return filepath.Join(p.Agent(), "containerd") }

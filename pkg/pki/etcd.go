package pki

import "path/filepath"

// The authorities and certificates of the embedded etcd are apart from the
// cluster's: who may speak to etcd may do anything. Names follow k3s.

// EtcdDir holds all of them.
func (l Layout) EtcdDir() string { return filepath.Join(l.dir, "etcd") }

// EtcdServerCA signs what etcd serves its clients with, and the clients.
func (l Layout) EtcdServerCA() KeyPair { return l.etcd("server-ca") }

// EtcdPeerCA signs what the members of etcd know each other by.
func (l Layout) EtcdPeerCA() KeyPair { return l.etcd("peer-ca") }

// EtcdServing is what the member of this server serves its clients with.
func (l Layout) EtcdServing() KeyPair { return l.etcd("server-client") }

// EtcdClient is what this server's apiserver is known to etcd by.
func (l Layout) EtcdClient() KeyPair { return l.etcd("client") }

// EtcdPeer is what the member of this server is known to the others by.
func (l Layout) EtcdPeer() KeyPair { return l.etcd("peer-server-client") }

func (l Layout) etcd(name string) KeyPair {
	return KeyPair{Cert: filepath.Join(l.EtcdDir(), name+".crt"), Key: filepath.Join(l.EtcdDir(), name+".key")}
}

// Package upgradeplan has a cluster upgrade itself as Plans say: objects of the kind
// that rancher/system-upgrade-controller has made known, so that manifests for it
// carry over.
//
// The controller, on the server that leads, resolves a Plan's version, picks nodes
// by the rules of Kubernetes' versions, and assigns them the upgrade by an annotation
// of the node. The Kedge on that node carries it out with kedge upgrade, which goes
// back when the new version does not work, and reports by another annotation of its
// own node, the only one that it may change. All that is decided is decided from these
// objects: whoever leads next goes on.
package upgradeplan

// Package robustness injures servers while clients write, and checks that nothing
// was lost that was acknowledged, and that every answer is one that a cluster
// without a fault could have given.
//
// Its clients create, update, delete, get and list ConfigMaps through the API of
// each server, from that server's own host: a server that is cut off from the
// others still has clients. Every request and every answer is recorded, and every
// event of watches that go on where they were. When the faults are over, package
// history looks for what can't be.
//
// The faults: SIGKILL of a server, power cuts of a host, a file system without
// space, SIGSTOP for seconds, a network that is cut.
//
//	go test -tags robustness -v ./tests/robustness -percent 10 -seed 7
package robustness

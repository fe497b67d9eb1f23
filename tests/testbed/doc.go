// Package testbed makes hosts on one machine and runs the built Kedge on them.
//
// A host is a set of namespaces (network, mount, process, host name, IPC and
// cgroup) with a small process of the testbed as its process 1. Everything a
// host starts lives in these namespaces: when process 1 goes, the kernel kills
// the rest, and mounts, links and firewall rules go with it. Process 1 goes
// when the testbed tells it to, and when the test process ends in whatever way,
// because it waits on a pipe from it. What can then be left, a directory and
// empty cgroups, is removed by the next testbed that starts.
//
// The hosts of a bed are joined by a switch: a bridge in a network namespace of
// its own. The machine's own network, /etc, /var/lib and cgroups stay as they
// are: a host has private copies.
//
//	bed := testbed.New(t)
//	host, err := bed.Host("node")
//	server, err := host.Start("server")
//	err = server.WaitReady(ctx, time.Minute)
//	out, err := host.Kubectl(ctx, "get", "nodes")
//
// Making hosts needs root, a kernel with overlayfs, and the program ip.
package testbed

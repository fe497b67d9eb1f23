// Package netpol enforces the NetworkPolicies of networking.k8s.io/v1 for the
// pods of one node, with one nftables table of its own: inet kedge-netpol.
//
// # Parts
//
// feed.go brings policies, namespaces and pods from the API server;
// policy.go reads policies; cluster.go is the cluster's state and finds out
// what a change concerns; rules.go says which rules follow, as a value that
// knows nothing of nft; writer.go writes the difference of two such values as
// one transaction; controller.go ties them together; monitor.go notices that
// another program deleted the table.
//
// While there are no policies, only policies are watched, and there is no
// table. Policies that are for no pod of this node have no rules here.
//
// # The table
//
// A packet is judged twice where it is forwarded: by the policies for egress of
// the pod that it comes from, and by those for ingress of the pod that it goes
// to. These are two base chains, because accept in one does not end the other.
// For the same reason their order, and that of a host firewall's chains at the
// same hook, does not matter: whoever drops a packet has the last word. They are
// at priority filter, after destination addresses of Services were replaced by
// those of pods and before source addresses are masqueraded, so that packets
// have the addresses of pods.
//
// A verdict map finds the chain for the address of a pod of this node. Pods that
// the same policies are for share it. It jumps to the chains of the policies,
// which accept; what comes back is refused if the pod is isolated. For a policy
// that lets pods with app=web be reached at port 80 from pods with app=shop:
//
//	chain forward-ingress {
//		type filter hook forward priority filter; policy accept;
//		ct direction reply goto ingress-reply
//		goto ingress
//	}
//	chain ingress {
//		ip daddr vmap @ingress-ip4
//		ip daddr @isolated-ingress-ip4 goto refuse
//		ip6 daddr vmap @ingress-ip6
//		ip6 daddr @isolated-ingress-ip6 goto refuse
//	}
//	map ingress-ip4 {
//		type ipv4_addr : verdict
//		elements = { 10.42.0.7 : jump ingress-ip4-hphuefeunmbwmc7m }
//	}
//	set isolated-ingress-ip4 {
//		type ipv4_addr
//		elements = { 10.42.0.7 }
//	}
//	chain ingress-ip4-hphuefeunmbwmc7m {
//		jump ingress-ip4/default/allow-shop
//	}
//	chain ingress-ip4/default/allow-shop {
//		ip saddr @pods-ip4-npd73yhgbiafzmlq tcp dport 80 accept
//	}
//	set pods-ip4-npd73yhgbiafzmlq {
//		type ipv4_addr
//		comment "default/[app=shop]"
//		elements = { 10.42.0.9, 10.42.1.4 }
//	}
//
// A set holds the pods that one pair of selectors chooses, and policies that
// have the pair in common share it: a pod that comes or goes is an element in
// the sets that it belongs to and nothing else. Named ports are looked up in
// sets of address, protocol and port, because each pod has its own number for
// the name. An ipBlock is written into its rule as the ranges that its
// exceptions leave.
//
// # Transactions
//
// Every change is one transaction. The kernel switches rules and sets at one
// moment, but a packet that is under way then meets the rules of before and
// looks up what it has not looked up yet in the sets of after: a new chain that
// it is sent to is still empty for it. That is why chains only accept, and why
// what isolates a pod is a rule that never changes and a set in which the pod
// stays. For the same reason the table is written over, and not deleted, when
// it is to be written anew.
//
// # Connections
//
// No packet is accepted because its connection once was. Each one is judged by
// the policies in force now, whichever end sends it: packets of the end that
// opened the connection by the chains above, and those of the other end by a
// second set of chains with the same rules for the way back, in which source
// and destination, and their ports, have changed places. Connection tracking
// says only which end a packet comes from. So a connection that is forbidden
// stops in both directions with the transaction that forbids it, nothing has to
// be looked up or deleted in the connection table, and a connection that is
// allowed again goes on. To let pass all of ct state established would keep
// forbidden connections alive; to let pass all replies would keep alive those
// in which only the server sends, like a stream over UDP. And to delete entries
// of the connection table would not even be safe: the next packet of a server
// makes a new entry, with the server as the end that opened the connection.
//
// Packets that are not tracked are judged as if they opened a connection.
//
// # What always passes
//
// What the node itself sends to its own pods, such as the kubelet's probes, is
// never judged: the node's own packets come through the hook output, which
// nothing else does, so that nobody can forge them. There, only replies to
// connections that pods opened are looked at. In the hook input, packets from
// pods to the node are judged by the policies for egress. Pods that use their
// node's network are that node: no policy is for them and no selector finds
// them.
//
// A pod reaches itself, also by way of a Service. Errors by ICMP pass if they
// belong to a connection, and so does what IPv6 needs to find neighbours.
//
// # Bridges
//
// Packets between two pods on the node's bridge come through the hook forward
// only while net.bridge.bridge-nf-call-iptables and -ip6tables are 1. Pods on a
// bridge could also use the link-local addresses that the kernel gives them,
// which nobody else knows: between ports of the bridge, and from there to the
// node, these are refused while any pod of the node is isolated.
//
// # Limits
//
// Multicasts and broadcasts on the bridge are judged for egress only: they have
// no pod's address as their destination. A pod with the capability to forge
// source addresses is not kept from it. And if the connection table is emptied
// by hand, the kernel takes whoever sends next for the end that opened the
// connection.
package netpol

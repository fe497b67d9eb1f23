// Package servicelb is the service load balancer: it gives Services of type
// LoadBalancer the addresses of nodes. kube-proxy serves what a Service's status
// says, on every node, so there is nothing else to run.
//
// On the server a [Controller] decides which Service gets which addresses (see
// [Decide]) and writes them into the statuses. A condition of type
// [ConditionType] marks the statuses that it wrote. On each node a [Reporter]
// says, in an annotation of its Node, which of the ports that Services want are
// used by programs of the machine: to serve such a port would take it from them.
package servicelb

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// balanced is what TestServiceLB puts Services in front of: a pod on each node
// that answers HTTP and UDP.
const balanced = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
	selector: {matchLabels: {app: web}}
	template:
		metadata: {labels: {app: web}}
		spec:
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=8080, --udp-port=8081]}]
`

// lbFleet is a server with an agent, and a host outside of the cluster, all with
// addresses of both families.
type lbFleet struct {
	*fleet
	*sandbox
	agent   *agent
	outside *testbed.Host
	six     map[*testbed.Host]string
}

var dualStack = []string{"--cluster-cidr=10.42.0.0/16,fd42::/48", "--service-cidr=10.43.0.0/16,fd43::/112"}

func newLBFleet(t *testing.T) *lbFleet {
	t.Helper()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}, bed: bed}
	a := &agent{name: "agent-1", host: newHost(t, bed, "agent-1")}
	f.agents = []*agent{a}
	lb := &lbFleet{fleet: f, agent: a, outside: newHost(t, bed, "outside"), six: map[*testbed.Host]string{}}
	for i, host := range []*testbed.Host{f.node, a.host, lb.outside} {
		lb.six[host] = fmt.Sprintf("2001:db8:1::%d", i+1)
		if _, err := host.Exec(t.Context(), "sh", "-c", "ip -6 addr add "+lb.six[host]+"/64 dev eth0 nodad"); err != nil {
			t.Fatal(err)
		}
	}
	f.start(t, dualStack...)
	f.join(t, a)
	f.waitNode(t, a.name)
	f.loadImages(t)
	if err := a.host.LoadImage(t.Context(), f.images.Agnhost.Archive); err != nil {
		t.Fatal(err)
	}
	lb.sandbox = f.sandbox(t)
	lb.apply(balanced)
	lb.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	return lb
}

// with is the same for a subtest.
func (f *lbFleet) with(t *testing.T) *lbFleet {
	s := *f.sandbox
	s.t = t
	g := *f
	g.sandbox = &s
	return &g
}

// service makes a Service of type LoadBalancer; spec is the rest of it.
func (f *lbFleet) service(name, spec string) {
	f.t.Helper()
	f.apply("apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {type: LoadBalancer, selector: {app: web}, " + spec + "}\n")
}

// given waits until the Service has exactly these addresses, in this order.
func (f *lbFleet) given(service string, want ...string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("Service %s to have the addresses %q", service, want), func() (bool, string) {
		out, err := f.try("get", "service/"+service, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		return err == nil && slices.Equal(strings.Fields(out), want), fmt.Sprint(out, err)
	})
}

// warned waits for an event about the Service.
func (f *lbFleet) warned(service, reason, text string) {
	f.t.Helper()
	eventually(f.t, "a warning about Service "+service, func() (bool, string) {
		out, err := f.try("get", "events", "--field-selector", "type=Warning,reason="+reason+",involvedObject.name="+service,
			"-o", "jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, text), fmt.Sprint(out, err)
	})
}

func (f *lbFleet) four(host *testbed.Host) string { return host.Address.String() }

// answer is what a URL on an address answers a host.
func answer(ctx context.Context, from *testbed.Host, address, port, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return get(ctx, from, "http://"+net.JoinHostPort(address, port)+"/"+path)
}

// reaches waits until a host is answered on an address.
func (f *lbFleet) reaches(from *testbed.Host, address, port string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s to reach %s port %s", from.Name, address, port), func() (bool, string) {
		out, err := answer(f.t.Context(), from, address, port, "hostname")
		return err == nil && strings.HasPrefix(out, "web-"), fmt.Sprint(out, err)
	})
}

// refused waits until a host is not answered on an address.
func (f *lbFleet) refused(from *testbed.Host, address, port string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s not to reach %s port %s", from.Name, address, port), func() (bool, string) {
		out, err := answer(f.t.Context(), from, address, port, "hostname")
		return err != nil, out
	})
}

// listen runs a program on a host that answers HTTP on a port.
func (f *lbFleet) listen(host *testbed.Host, port string) {
	f.t.Helper()
	program := host.Command(f.t.Context(), f.fleet.images.AgnhostProgram, "netexec", "--http-port="+port, "--udp-port=-1")
	if err := host.StartCommand(program); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	eventually(f.t, "the program on "+host.Name, func() (bool, string) {
		out, err := answer(f.t.Context(), host, "127.0.0.1", port, "hostname")
		return err == nil, out
	})
}

// TestServiceLB has a server and an agent give Services their addresses.
func TestServiceLB(t *testing.T) {
	t.Parallel()
	f := newLBFleet(t)
	for _, test := range []struct {
		name string
		run  func(*lbFleet)
	}{
		{"Cluster", testLBCluster},
		{"Local", testLBLocal},
		{"UDP", testLBUDP},
		{"SourceRanges", testLBSourceRanges},
		{"OwnPorts", testLBOwnPorts},
		{"HostPorts", testLBHostPorts},
		{"HostPortPod", testLBHostPortPod},
		{"TwoServices", testLBTwoServices},
		{"Class", testLBClass},
		{"TypeChange", testLBTypeChange},
		{"Nodes", testLBNodes},
		{"NodeDown", testLBNodeDown},
		{"Disable", testLBDisable},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(f.with(t)) })
	}
}

func testLBCluster(f *lbFleet) {
	f.service("cluster", "ipFamilyPolicy: RequireDualStack, allocateLoadBalancerNodePorts: false, ports: [{port: 8000, targetPort: 8080}]")
	began := time.Now()
	all := []string{f.four(f.fleet.node), f.four(f.agent.host), f.six[f.fleet.node], f.six[f.agent.host]}
	f.given("cluster", all...)
	f.t.Logf("the Service had addresses after %s", time.Since(began).Round(10*time.Millisecond))
	f.check("the mode", f.field("service/cluster", ".status.loadBalancer.ingress[*].ipMode"), "VIP VIP VIP VIP")
	f.check("the node port", f.field("service/cluster", ".spec.ports[0].nodePort"), "")
	pod := f.pods("app=web")[0]
	for _, address := range all {
		for _, from := range []*testbed.Host{f.outside, f.fleet.node, f.agent.host} {
			f.reaches(from, address, "8000")
		}
		eventually(f.t, "a pod to reach "+address, func() (bool, string) {
			out, err := f.try("exec", pod, "--", "/agnhost", "connect", "--timeout=2s", net.JoinHostPort(address, "8000"))
			return err == nil, fmt.Sprint(out, err)
		})
	}
}

func testLBLocal(f *lbFleet) {
	f.apply(`
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {app: alone}}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=8080]}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
	type: LoadBalancer
	ipFamilyPolicy: RequireDualStack
	externalTrafficPolicy: Local
	selector: {app: alone}
	ports: [{port: 8001, targetPort: 8080}]
`)
	f.given("local", f.four(f.agent.host), f.six[f.agent.host])
	for address, want := range map[string]string{f.four(f.agent.host): f.four(f.outside), f.six[f.agent.host]: f.six[f.outside]} {
		eventually(f.t, "the client's own address to be seen at "+address, func() (bool, string) {
			out, err := answer(f.t.Context(), f.outside, address, "8001", "clientip")
			client, _, _ := net.SplitHostPort(out)
			return err == nil && client == want, fmt.Sprint(out, err)
		})
	}
	f.refused(f.outside, f.four(f.fleet.node), "8001")
	f.kubectl("delete", "pod/alone")
	f.given("local")
}

func testLBUDP(f *lbFleet) {
	f.service("udp", "ports: [{port: 8002, protocol: UDP, targetPort: 8081}]")
	f.given("udp", f.four(f.fleet.node), f.four(f.agent.host))
	for _, host := range []*testbed.Host{f.fleet.node, f.agent.host} {
		eventually(f.t, "an answer over UDP on "+host.Name, func() (bool, string) {
			conn, err := f.outside.Dial(f.t.Context(), "udp", net.JoinHostPort(f.four(host), "8002"))
			if err != nil {
				return false, err.Error()
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write([]byte("hostname")); err != nil {
				return false, err.Error()
			}
			buffer := make([]byte, 100)
			n, err := conn.Read(buffer)
			return err == nil && strings.HasPrefix(string(buffer[:n]), "web-"), fmt.Sprint(string(buffer[:n]), err)
		})
	}
}

func testLBSourceRanges(f *lbFleet) {
	f.service("ranges", "loadBalancerSourceRanges: ["+f.four(f.outside)+"/32], ports: [{port: 8003, targetPort: 8080}]")
	f.given("ranges", f.four(f.fleet.node), f.four(f.agent.host))
	f.reaches(f.outside, f.four(f.fleet.node), "8003")
	f.kubectl("patch", "service/ranges", "-p", `{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}`)
	f.refused(f.outside, f.four(f.fleet.node), "8003")
	f.refused(f.outside, f.four(f.agent.host), "8003")
}

func testLBOwnPorts(f *lbFleet) {
	f.service("api", "ports: [{name: api, port: 6443, targetPort: 8080}, {name: web, port: 8004, targetPort: 8080}]")
	f.service("kubelet", "ports: [{port: 10250, targetPort: 8080}]")
	f.service("vxlan", "ports: [{port: 8472, protocol: UDP, targetPort: 8081}]")
	f.warned("api", "PortReserved", "port 6443/TCP is Kedge's own (API server)")
	f.warned("kubelet", "PortReserved", "port 10250/TCP is Kedge's own (kubelet)")
	f.warned("vxlan", "PortReserved", "port 8472/UDP is Kedge's own (pod network)")
	for _, service := range []string{"api", "kubelet", "vxlan"} {
		f.given(service)
	}
}

func testLBHostPorts(f *lbFleet) {
	f.listen(f.agent.host, "8005")
	f.service("taken", "ports: [{port: 8005, targetPort: 8080}]")
	f.given("taken", f.four(f.fleet.node))
	f.warned("taken", "PortUsedOnNode", "port 8005/TCP is used by agnhost on node agent-1")
	f.reaches(f.outside, f.four(f.fleet.node), "8005")
	if out, err := answer(f.t.Context(), f.outside, f.four(f.agent.host), "8005", "hostname"); err != nil || out != "agent-1" {
		f.t.Errorf("the program on the agent's host answers %q, error %v", out, err)
	}
}

// testLBHostPortPod has a pod with the port on one node.
func testLBHostPortPod(f *lbFleet) {
	f.apply(`
apiVersion: v1
kind: Pod
metadata: {name: holder}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=80], ports: [{containerPort: 80, hostPort: 8012}]}]
`)
	f.wait("condition=Ready", "pod/holder")
	f.service("held", "ports: [{port: 8012, targetPort: 8080}]")
	f.given("held", f.four(f.fleet.node))
	f.warned("held", "PortUsedOnNode", "port 8012/TCP is used by pod "+f.namespace+"/holder on node agent-1")
	f.kubectl("delete", "pod/holder")
	f.given("held", f.four(f.fleet.node), f.four(f.agent.host))
}

func testLBTwoServices(f *lbFleet) {
	nodes := []string{f.four(f.fleet.node), f.four(f.agent.host)}
	f.service("first", "ports: [{port: 8006, targetPort: 8080}]")
	f.given("first", nodes...)
	time.Sleep(time.Second) // by which the second is younger, as objects' ages are kept
	f.service("second", "ports: [{port: 8006, targetPort: 8080}]")
	f.warned("second", "PortTaken", "belongs to Service "+f.namespace+"/first")
	f.given("second")
	f.given("first", nodes...)
	f.kubectl("delete", "service/first")
	f.given("second", nodes...)
	f.reaches(f.outside, nodes[1], "8006")
}

func testLBClass(f *lbFleet) {
	f.service("theirs", "loadBalancerClass: example.com/lb, ports: [{port: 8007, targetPort: 8080}]")
	f.service("ours", "loadBalancerClass: kedge.io/servicelb, ports: [{port: 8007, targetPort: 8080}]")
	f.given("ours", f.four(f.fleet.node), f.four(f.agent.host))
	f.check("the status of another's", f.field("service/theirs", ".status"), `{"loadBalancer":{}}`)
}

func testLBTypeChange(f *lbFleet) {
	f.service("change", "ports: [{port: 8008, targetPort: 8080}]")
	f.reaches(f.outside, f.four(f.agent.host), "8008")
	f.kubectl("patch", "service/change", "-p", `{"spec":{"type":"ClusterIP"}}`)
	eventually(f.t, "the status to be empty", func() (bool, string) {
		status := f.field("service/change", ".status")
		return status == `{"loadBalancer":{}}`, status
	})
	f.refused(f.outside, f.four(f.agent.host), "8008")
}

func testLBNodes(f *lbFleet) {
	server, agent := f.four(f.fleet.node), f.four(f.agent.host)
	f.service("nodes", "ports: [{port: 8009, targetPort: 8080}]")
	f.given("nodes", server, agent)
	for _, label := range []string{"node.kubernetes.io/exclude-from-external-load-balancers=true"} {
		f.kubectl("label", "node/node", label)
		f.given("nodes", agent)
		f.kubectl("label", "node/node", strings.Split(label, "=")[0]+"-")
		f.given("nodes", server, agent)
	}
	f.kubectl("label", "node/agent-1", "svccontroller.k3s.cattle.io/enablelb=true")
	f.given("nodes", agent)
	f.kubectl("label", "service/nodes", "svccontroller.kedge.io/lbpool=edge")
	f.warned("nodes", "NoNodeInPool", "svccontroller.kedge.io/lbpool=edge")
	f.given("nodes")
	f.kubectl("label", "node/agent-1", "svccontroller.kedge.io/lbpool=edge")
	f.given("nodes", agent)
	f.kubectl("label", "node/agent-1", "svccontroller.kedge.io/lbpool-", "svccontroller.k3s.cattle.io/enablelb-")
	f.kubectl("label", "service/nodes", "svccontroller.kedge.io/lbpool-")
	f.given("nodes", server, agent)
}

func testLBNodeDown(f *lbFleet) {
	server, agent := f.four(f.fleet.node), f.four(f.agent.host)
	f.service("down", "ports: [{port: 8010, targetPort: 8080}]")
	f.given("down", server, agent)
	if err := f.agent.process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.given("down", server)
	f.reaches(f.outside, server, "8010")
	// It comes back with an address that a router has for it: packets still arrive
	// at its own.
	const router = "203.0.113.9"
	f.join(f.t, f.agent, "--node-external-ip="+router)
	f.given("down", server, router, agent)
	f.reaches(f.outside, agent, "8010")
}

// testLBDisable starts the server without the load balancer.
func testLBDisable(f *lbFleet) {
	f.service("disabled", "ports: [{port: 8011, targetPort: 8080}]")
	f.reaches(f.outside, f.four(f.agent.host), "8011")
	if _, code, err := f.fleet.server.Stop(limit); err != nil || code != 0 {
		f.t.Fatalf("the server stops with code %d, error %v", code, err)
	}
	f.fleet.start(f.t, append([]string{"--disable=servicelb"}, dualStack...)...)
	f.given("disabled")
	eventually(f.t, "no Service to be marked", func() (bool, string) {
		out, err := f.try("get", "services", "-A", "-o", "jsonpath={.items[*].status.conditions}")
		return err == nil && out == "", fmt.Sprint(out, err)
	})
	f.refused(f.outside, f.four(f.agent.host), "8011")
}

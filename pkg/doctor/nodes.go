package doctor

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kedge-k8s/kedge/pkg/hostcheck"
)

const (
	// leaseNamespace has a lease for each node, which its kubelet renews every ten
	// seconds.
	leaseNamespace = "kube-node-lease"
	leaseAge       = 40 * time.Second
	// nodeLimit is how long a kubelet may take to answer.
	nodeLimit = 8 * time.Second
)

// checkNodes looks whether the apiserver reaches each node's kubelet and each
// kubelet the apiserver; on an agent, whether it reaches the servers.
func (d *Doctor) checkNodes(ctx context.Context) []hostcheck.Finding {
	if !d.running {
		return nil
	}
	if d.self.Role != "server" {
		return d.checkServers(ctx)
	}
	if d.client == nil {
		return []hostcheck.Finding{unknownf("nodes", "the cluster can't be asked")}
	}
	nodes, err := d.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return []hostcheck.Finding{unknownf("nodes", "%v", err)}
	}
	found := make([]hostcheck.Finding, 2*len(nodes.Items))
	var wg sync.WaitGroup
	for i := range nodes.Items {
		node := &nodes.Items[i]
		wg.Go(func() { found[2*i] = d.towards(ctx, node) })
		wg.Go(func() { found[2*i+1] = d.from(ctx, node) })
	}
	wg.Wait()
	return found
}

// towards asks a kubelet through the apiserver, as kubectl logs does.
func (d *Doctor) towards(ctx context.Context, node *corev1.Node) hostcheck.Finding {
	name := "to " + node.Name
	ctx, cancel := context.WithTimeout(ctx, nodeLimit)
	defer cancel()
	began := time.Now()
	err := d.client.CoreV1().RESTClient().Get().Resource("nodes").Name(node.Name).SubResource("proxy").Suffix("healthz").Do(ctx).Error()
	if err != nil {
		return warning(name, fmt.Sprintf("the server does not reach the kubelet of %s, so that kubectl logs and exec fail: %v", node.Name, err),
			"is Kedge running there (kedge status)? Its log says whether its tunnel to this server is up; a firewall between them must let it reach port 6443 here")
	}
	return okf(name, "its kubelet answers in %s", ms(time.Since(began)))
}

// from looks when a kubelet has last reached the apiserver.
func (d *Doctor) from(ctx context.Context, node *corev1.Node) hostcheck.Finding {
	name := "from " + node.Name
	lease, err := d.client.CoordinationV1().Leases(leaseNamespace).Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return unknownf(name, "%v", err)
	}
	if lease.Spec.RenewTime == nil {
		return unknownf(name, "its kubelet has not reported yet")
	}
	age := time.Since(lease.Spec.RenewTime.Time)
	if age > leaseAge {
		return warning(name, fmt.Sprintf("the kubelet of %s has reached no server for %s", node.Name, age.Round(time.Second)),
			"start the machine, and Kedge on it; if both run, look on it with kedge doctor")
	}
	return okf(name, "its kubelet reached a server %s ago", age.Round(time.Second).Abs())
}

// checkServers connects to each server that an agent knows.
func (d *Doctor) checkServers(ctx context.Context) []hostcheck.Finding {
	var found []hostcheck.Finding
	for _, s := range d.self.Servers {
		name := "server " + s.Address
		ctx, cancel := context.WithTimeout(ctx, nodeLimit)
		began := time.Now()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Address)
		cancel()
		if err != nil {
			found = append(found, warning(name, "it can't be reached: "+err.Error(), "look whether it runs, and whether a firewall, there or here, lets this machine reach the port"))
			continue
		}
		_ = conn.Close()
		found = append(found, okf(name, "answers in %s", ms(time.Since(began))))
	}
	return found
}

// lastWarnings returns what the newest warning about each pod says, by
// namespace/name. What the kubelet says of containers that fail is known from the
// pod itself.
func lastWarnings(ctx context.Context, client kubernetes.Interface) map[string]string {
	events, err := client.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=Pod"})
	if err != nil {
		return nil
	}
	said, when := map[string]string{}, map[string]time.Time{}
	for _, e := range events.Items {
		if e.Reason == "Failed" || e.Reason == "BackOff" {
			continue
		}
		pod := e.InvolvedObject.Namespace + "/" + e.InvolvedObject.Name
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		if said[pod] == "" || at.After(when[pod]) {
			said[pod], when[pod] = oneLine(e.Reason+": "+e.Message), at
		}
	}
	return said
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > 300 {
		return string(runes[:299]) + "…"
	}
	return s
}

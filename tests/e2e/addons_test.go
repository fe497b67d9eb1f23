//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// addOnObjects are one or two objects of each packaged add-on. That of servicelb
// is in the server: see testServiceLBDisabled.
var addOnObjects = map[string][]string{
	"coredns":        {"-n=kube-system deployment/coredns", "-n=kube-system service/kube-dns"},
	"gateway-api":    {"crd/gateways.gateway.networking.k8s.io", "crd/httproutes.gateway.networking.k8s.io"},
	"ingress":        {"-n=kube-system daemonset/ingress", "ingressclass/kedge"},
	"local-storage":  {"storageclass/local-path"},
	"metrics-server": {"-n=kube-system deployment/metrics-server", "apiservice/v1beta1.metrics.k8s.io"},
	"runtimes":       {"runtimeclass/crun", "runtimeclass/wws"},
}

// TestDisable starts a control plane with each add-on disabled alone, with all,
// and with none, one after the other.
func TestDisable(t *testing.T) {
	t.Parallel()
	node := newHost(t, testbed.New(t), "node")
	s := &sandbox{cluster: &cluster{node: node}, t: t}
	start := func(t *testing.T, disabled ...string) {
		t.Helper()
		if server := s.server; server != nil {
			if _, code, err := server.Stop(time.Minute); err != nil || code != 0 {
				t.Fatalf("the server ended with code %d, error %v", code, err)
			}
		}
		server, err := node.Start("server", "--disable-agent", "--disable="+strings.Join(disabled, ","))
		if err != nil {
			t.Fatal(err)
		}
		s.server = server
		if err := server.WaitAPI(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
	}
	// only waits until the objects of all but the disabled add-ons are there, and
	// none of the others.
	only := func(t *testing.T, disabled ...string) {
		t.Helper()
		for name, objects := range addOnObjects {
			for _, object := range objects {
				wanted := !slices.Contains(disabled, name)
				eventually(t, fmt.Sprintf("%s to be there: %t", object, wanted), func() (bool, string) {
					out, err := node.Kubectl(t.Context(), append([]string{"get", "--ignore-not-found", "-o=name"}, strings.Fields(object)...)...)
					return err == nil && (out != "") == wanted, fmt.Sprint(out, err)
				})
			}
		}
	}
	var all []string
	for name := range addOnObjects {
		all = append(all, name)
	}
	slices.Sort(all)

	t.Run("all", func(t *testing.T) {
		start(t, append([]string{"servicelb"}, all...)...)
		only(t, all...)
	})
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			start(t, name)
			only(t, name)
		})
	}
	const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: default}
spec: {hostnames: [mine.example.com]}
`
	t.Run("kind in use", func(t *testing.T) {
		sandbox := &sandbox{cluster: s.cluster, t: t, namespace: "default"}
		sandbox.apply(route)
		start(t, "gateway-api")
		eventually(t, "the Addon to go", func() (bool, string) {
			out, err := node.Kubectl(t.Context(), "-n", "kube-system", "get", "addon", "gateway-api", "--ignore-not-found", "-o=name")
			return err == nil && out == "", fmt.Sprint(out, err)
		})
		sandbox.check("the route", sandbox.kubectl("get", "httproute", "mine", "-o=name"), "httproute.gateway.networking.k8s.io/mine")
		sandbox.check("definitions that nobody uses", sandbox.kubectl("get", "crd/gateways.gateway.networking.k8s.io", "--ignore-not-found", "-o=name"), "")
		if log := s.server.Log(); !strings.Contains(log, "definition=httproutes.gateway.networking.k8s.io") {
			t.Error("the log does not say that a definition stays")
		}
	})
	t.Run("none", func(t *testing.T) {
		start(t)
		only(t)
		s.check("the route", s.kubectl("-n=default", "get", "httproute", "mine", "-o=name"), "httproute.gateway.networking.k8s.io/mine")
	})
}

package ingress

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"
)

// eventually waits for a check to say nothing more.
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state := check()
		if state == "" {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: still %s", what, state)
		}
	}
}

// TestController follows a fake cluster: endpoints, statuses, events, settings, the
// class of Gateways, and which pod of two writes.
func TestController(t *testing.T) {
	cluster := newFakeCluster()
	web := cluster.addService("web")
	ingress := cluster.simple(t, "a.test", "Prefix", "/", "web")
	broken := cluster.simple(t, "b.test", "Prefix", "/", "gone")
	own := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ingress"}}
	own.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	slice := func(namespace, service string, addresses ...string) *discoveryv1.EndpointSlice {
		port, name := int32(8080), "http"
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		}
		for _, address := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
		}
		return s
	}
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "kedge", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: ControllerName},
	}
	client := fake.NewClientset(web, ingress, broken, own, class,
		slice("kube-system", "ingress", "10.42.0.5", "10.42.1.5"), slice("default", "web", "10.42.0.9"))
	gateways := gatewayfake.NewSimpleClientset()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	crds := metadatafake.NewSimpleMetadataClient(scheme, &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: "httproutes.gateway.networking.k8s.io"},
	})
	start := func(podIP string) *controller {
		l, err := newLive()
		if err != nil {
			t.Fatal(err)
		}
		k := newController(clients{client, gateways, crds}, identity{"kube-system", "ingress", podIP}, l, 80)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return k
	}
	second := start("10.42.1.5")
	eventually(t, "the second pod", func() string {
		if !second.ready.Load() {
			return "not ready"
		}
		return ""
	})
	time.Sleep(50 * time.Millisecond) // it has no reason to write
	if got, _ := client.NetworkingV1().Ingresses("default").Get(t.Context(), ingress.Name, metav1.GetOptions{}); len(got.Status.LoadBalancer.Ingress) > 0 {
		t.Error("a pod that does not lead writes statuses")
	}
	k := start("10.42.0.5")

	route := func() *route { return k.live.table.Load().match(request("GET", "http://a.test/")) }
	endpoints := func() []string {
		found := route()
		if found == nil || found.backends[0].pool == nil {
			return nil
		}
		return *found.backends[0].pool.addresses.Load()
	}
	eventually(t, "the route", func() string {
		if got := endpoints(); !slices.Equal(got, []string{"10.42.0.9:8080"}) {
			return strings.Join(got, " ")
		}
		return ""
	})
	before := route()
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice("default", "web", "10.42.0.9", "10.42.1.9"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "more endpoints", func() string {
		if got := endpoints(); len(got) != 2 {
			return strings.Join(got, " ")
		}
		return ""
	})
	if before != route() && before.backends[0].pool != route().backends[0].pool {
		t.Error("a change of endpoints makes another pool")
	}
	eventually(t, "the status", func() string {
		got, err := client.NetworkingV1().Ingresses("default").Get(t.Context(), ingress.Name, metav1.GetOptions{})
		if err != nil || len(got.Status.LoadBalancer.Ingress) != 1 || got.Status.LoadBalancer.Ingress[0].IP != "192.0.2.1" {
			return "not there"
		}
		return ""
	})
	eventually(t, "the event", func() string {
		list, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].Message != "the Service default/gone is not there" || list.Items[0].InvolvedObject.Name != broken.Name {
			return "not there"
		}
		return ""
	})
	eventually(t, "the GatewayClass", func() string {
		got, err := gateways.GatewayV1().GatewayClasses().Get(t.Context(), "kedge", metav1.GetOptions{})
		if err != nil || !strings.Contains(reasons(got.Status.Conditions), "Accepted=True") {
			return "not accepted"
		}
		return ""
	})
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: settingsName}, Data: map[string]string{"access-log": "true"}}
	if _, err := client.CoreV1().ConfigMaps("kube-system").Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the settings", func() string {
		if !k.live.settings.Load().accessLog {
			return "off"
		}
		return ""
	})
	if err := client.NetworkingV1().Ingresses("default").Delete(t.Context(), ingress.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the route to go", func() string {
		if route() != nil {
			return "there"
		}
		return ""
	})
}

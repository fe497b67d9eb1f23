package ingress

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// gatewayCluster has the class kedge and what a text in YAML has: Gateways,
// HTTPRoutes and ReferenceGrants, parted by lines of ---.
func gatewayCluster(t *testing.T, text string) *fakeCluster {
	t.Helper()
	c := newFakeCluster()
	c.addService("web", "10.0.0.1:80")
	c.gateway = &gatewayObjects{
		classes: []*gatewayv1.GatewayClass{
			{ObjectMeta: metav1.ObjectMeta{Name: "kedge"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}},
			{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "example.com/other"}},
		},
		namespaces: func(name string) map[string]string { return map[string]string{"team": name} },
	}
	for i, part := range strings.Split(strings.ReplaceAll(text, "\t", "  "), "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(part), &kind); err != nil {
			t.Fatal(err)
		}
		into := func(object metav1.Object) {
			if err := yaml.UnmarshalStrict([]byte(part), object); err != nil {
				t.Fatalf("%v in %s", err, part)
			}
			if object.GetNamespace() == "" {
				object.SetNamespace("default")
			}
			object.SetCreationTimestamp(metav1.NewTime(time.Unix(int64(i), 0)))
			object.SetGeneration(1)
		}
		switch kind.Kind {
		case "Gateway":
			g := &gatewayv1.Gateway{}
			into(g)
			c.gateway.gateways = append(c.gateway.gateways, g)
		case "HTTPRoute":
			r := &gatewayv1.HTTPRoute{}
			into(r)
			c.gateway.routes = append(c.gateway.routes, r)
		case "ReferenceGrant":
			g := &gatewayv1beta1.ReferenceGrant{}
			into(g)
			c.gateway.grants = append(c.gateway.grants, g)
		}
	}
	return c
}

// reasons gives conditions as TYPE=STATUS/REASON.
func reasons(conditions []metav1.Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, c.Type+"="+string(c.Status)+"/"+c.Reason)
	}
	return strings.Join(all, " ")
}

const plainGateway = `
kind: Gateway
metadata: {name: gateway}
spec:
	gatewayClassName: kedge
	listeners: [{name: http, protocol: HTTP, port: 80}]
---
`

func TestHTTPRouteStatus(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"accepted": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{name: web, port: 80}]}]`, "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"},
		"no such listener": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway, sectionName: https}]
	rules: [{backendRefs: [{name: web, port: 80}]}]`, "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs"},
		"no Service": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{name: gone, port: 80}]}]`, "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound"},
		"no port": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{name: web, port: 81}]}]`, "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound"},
		"another kind": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{group: example.com, kind: Bucket, name: web, port: 80}]}]`, "Accepted=True/Accepted ResolvedRefs=False/InvalidKind"},
		"another namespace's gateway": {plainGateway + `
kind: HTTPRoute
metadata: {namespace: other}
spec:
	parentRefs: [{name: gateway, namespace: default}]
	rules: []`, "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs"},
		"another namespace's Service": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]`, "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted"},
		"other hosts": {strings.Replace(plainGateway, "port: 80", "port: 80, hostname: '*.a.test'", 1) + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	hostnames: [b.test, a.test]
	rules: [{backendRefs: [{name: web, port: 80}]}]`, "Accepted=False/NoMatchingListenerHostname ResolvedRefs=True/ResolvedRefs"},
		"unsupported filter": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules:
	- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]
		backendRefs: [{name: web, port: 80}]`, "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"},
		"one rule unsupported": {plainGateway + `
kind: HTTPRoute
spec:
	parentRefs: [{name: gateway}]
	rules:
	- backendRefs: [{name: web, port: 80}]
	- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]
		backendRefs: [{name: web, port: 80}]`, "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs PartiallyInvalid=True/UnsupportedValue"},
	} {
		b := gatewayCluster(t, test.text).build()
		if len(b.gateway.routes) != 1 {
			t.Errorf("%s: %d routes", name, len(b.gateway.routes))
			continue
		}
		parents := b.gateway.routes[0].status()
		if len(parents) != 1 || reasons(parents[0].Conditions) != test.want {
			t.Errorf("%s: %+v, want %s", name, parents, test.want)
		}
	}
}

func TestGatewayStatus(t *testing.T) {
	c := gatewayCluster(t, `
kind: Gateway
metadata: {name: gateway}
spec:
	gatewayClassName: kedge
	listeners:
	- {name: http, protocol: HTTP, port: 80}
	- {name: odd, protocol: HTTP, port: 8080}
	- {name: tcp, protocol: TCP, port: 80}
	- {name: tls, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}}
	- {name: gone, protocol: HTTPS, port: 443, hostname: x.test, tls: {certificateRefs: [{name: gone}]}}
	- {name: foreign, protocol: HTTPS, port: 443, hostname: y.test, tls: {certificateRefs: [{name: cert, namespace: other}]}}
	- {name: grpc, protocol: HTTP, port: 80, hostname: z.test, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}
---
kind: HTTPRoute
metadata: {name: route}
spec:
	parentRefs: [{name: gateway, sectionName: http}, {name: gateway, sectionName: tls}]
	rules: [{backendRefs: [{name: web, port: 80}]}]`)
	c.secrets[objectName{"default", "cert"}] = newAuthority(t).secret("cert", "1", "a.test")
	b := c.build()
	status := b.gateway.gateways[0].status([]corev1.LoadBalancerIngress{{IP: "192.0.2.1"}})
	want := map[string]string{
		"http":    "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed Conflicted=False/NoConflicts",
		"odd":     "Accepted=False/PortUnavailable ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid Conflicted=False/NoConflicts",
		"tcp":     "Accepted=False/UnsupportedProtocol ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid Conflicted=False/NoConflicts",
		"tls":     "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed Conflicted=False/NoConflicts",
		"gone":    "Accepted=True/Accepted ResolvedRefs=False/InvalidCertificateRef Programmed=False/Invalid Conflicted=False/NoConflicts",
		"foreign": "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted Programmed=False/Invalid Conflicted=False/NoConflicts",
		"grpc":    "Accepted=True/Accepted ResolvedRefs=False/InvalidRouteKinds Programmed=False/Invalid Conflicted=False/NoConflicts",
	}
	attached := map[string]int32{"http": 1, "tls": 1}
	for _, l := range status.Listeners {
		if got := reasons(l.Conditions); got != want[string(l.Name)] || l.AttachedRoutes != attached[string(l.Name)] {
			t.Errorf("listener %s: %s with %d routes, want %s with %d", l.Name, got, l.AttachedRoutes, want[string(l.Name)], attached[string(l.Name)])
		}
	}
	if got := reasons(status.Conditions); got != "Accepted=True/ListenersNotValid Programmed=True/Programmed" {
		t.Errorf("the Gateway: %s", got)
	}
	if len(status.Addresses) != 1 || status.Addresses[0].Value != "192.0.2.1" {
		t.Errorf("its addresses: %+v", status.Addresses)
	}
	// Told once more, nothing changes, the times included.
	c.gateway.gateways[0].Status = status
	if again := c.build().gateway.gateways[0].status([]corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}); reasons(again.Conditions) != reasons(status.Conditions) ||
		again.Conditions[0].LastTransitionTime != status.Conditions[0].LastTransitionTime {
		t.Errorf("the status changes without a reason: %+v", again)
	}
	table := newTable(b.routes)
	for url, served := range map[string]bool{"http://q.test/": true, "https://q.test/": true} {
		if got := table.match(request("GET", url)) != nil; got != served {
			t.Errorf("%s is served: %t", url, got)
		}
	}
	if c := (&certificates{byName: b.certificates}); c.find("a.test") == nil || c.find("q.test") == nil || c.find("x.test") == nil {
		t.Error("the certificate of a listener without a host is not that of all")
	}
}

func TestReferenceGrant(t *testing.T) {
	c := gatewayCluster(t, plainGateway+`
kind: HTTPRoute
metadata: {name: route}
spec:
	parentRefs: [{name: gateway}]
	rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]
---
kind: ReferenceGrant
metadata: {name: grant, namespace: other}
spec:
	from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
	to: [{group: "", kind: Service, name: web}]`)
	elsewhere := *c.services["default/web"]
	elsewhere.Namespace = "other"
	c.services["other/web"] = &elsewhere
	if got := reasons(c.build().gateway.routes[0].status()[0].Conditions); got != "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs" {
		t.Errorf("with a grant: %s", got)
	}
	c.gateway.grants[0].Spec.From[0].Namespace = "third"
	if got := reasons(c.build().gateway.routes[0].status()[0].Conditions); got != "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted" {
		t.Errorf("with a grant for others: %s", got)
	}
}

// TestOtherParents: what other controllers wrote stays, what is not ours any more goes.
func TestOtherParents(t *testing.T) {
	c := gatewayCluster(t, `
kind: Gateway
metadata: {name: theirs}
spec:
	gatewayClassName: other
	listeners: [{name: http, protocol: HTTP, port: 80}]
---
kind: HTTPRoute
metadata: {name: route}
spec:
	parentRefs: [{name: theirs}]
	rules: [{backendRefs: [{name: web, port: 80}]}]`)
	b := c.build()
	if len(b.routes)+len(b.gateway.gateways)+len(b.gateway.routes) != 0 {
		t.Errorf("objects of another class are ours: %+v", b.gateway)
	}
	c.gateway.routes[0].Status.Parents = []gatewayv1.RouteParentStatus{
		{ParentRef: gatewayv1.ParentReference{Name: "theirs"}, ControllerName: "example.com/other"},
		{ParentRef: gatewayv1.ParentReference{Name: "theirs"}, ControllerName: ControllerName},
	}
	parents := c.build().gateway.routes[0].status()
	if len(parents) != 1 || parents[0].ControllerName != "example.com/other" {
		t.Errorf("the parents are %+v", parents)
	}
}

// TestHTTPRouteServed asks Caddy for what routes say.
func TestHTTPRouteServed(t *testing.T) {
	s := newSite(t)
	c := gatewayCluster(t, strings.Replace(plainGateway, "port: 80", "port: 80, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: default}}}}", 1)+`
kind: HTTPRoute
metadata: {name: route}
spec:
	parentRefs: [{name: gateway}]
	hostnames: [a.test, "*.deep.test"]
	rules:
	- matches: [{path: {type: PathPrefix, value: /api}}]
		filters:
		- {type: URLRewrite, urlRewrite: {hostname: inner.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
		- {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Extra, value: given}]}}
		- {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Added, value: here}], remove: [X-Removed]}}
		backendRefs: [{name: one, port: 80}]
	- matches: [{headers: [{name: version, value: two}]}, {queryParams: [{name: version, value: "[23]", type: RegularExpression}]}]
		backendRefs: [{name: two, port: 80}]
	- matches: [{path: {type: Exact, value: /moved}}]
		filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.test, path: {type: ReplaceFullPath, replaceFullPath: /there}, statusCode: 301}}]
	- matches: [{path: {type: PathPrefix, value: /none}}]
	- matches: [{path: {type: RegularExpression, value: "/number/[0-9]+"}}]
		backendRefs: [{name: two, port: 80}]
	- matches: [{path: {type: PathPrefix, value: /split}}]
		backendRefs: [{name: one, port: 80, weight: 1}, {name: two, port: 80, weight: 3}, {name: gone, port: 80, weight: 0}]
	- backendRefs: [{name: one, port: 80}]`)
	c.addService("one", echo(t, "one"))
	c.addService("two", echo(t, "two"))
	s.cluster, s.pools.slices = c, c.slicesOf
	s.update()
	client := s.client()
	for _, test := range []struct {
		url     string
		headers []string
		status  int
		backend string
		want    string
		header  string
	}{
		{url: "http://a.test/", status: 200, backend: "one", want: "GET / host=a.test"},
		{url: "http://x.y.deep.test/", status: 200, backend: "one"},
		{url: "http://deep.test/", status: 404},
		{url: "http://a.test/api/x?q", status: 200, backend: "one", want: "GET /v2/x?q host=inner.test", header: "X-Added: here"},
		{url: "http://a.test/api", status: 200, backend: "one", want: "extra=given", header: "X-Removed: "},
		{url: "http://a.test/", headers: []string{"Version", "two"}, status: 200, backend: "two"},
		{url: "http://a.test/?version=3", status: 200, backend: "two"},
		{url: "http://a.test/?version=4", status: 200, backend: "one", header: "X-Removed: here"},
		{url: "http://a.test/moved", status: 301, header: "Location: https://new.test/there"},
		{url: "http://a.test/none", status: 500},
		{url: "http://a.test/number/12", status: 200, backend: "two"},
		{url: "http://a.test/number/12a", status: 200, backend: "one"},
	} {
		status, header, body := s.ask(client, "GET", test.url, nil, test.headers...)
		if status != test.status || header.Get("Backend") != test.backend || !strings.Contains(body, test.want) {
			t.Errorf("%s %v: %d by %s: %s", test.url, test.headers, status, header.Get("Backend"), body)
		}
		if name, value, ok := strings.Cut(test.header, ": "); ok && header.Get(name) != value {
			t.Errorf("%s: header %s is %q, want %q", test.url, name, header.Get(name), value)
		}
	}
	count := make(map[string]int)
	for range 400 {
		_, header, _ := s.ask(client, "GET", "http://a.test/split", nil)
		count[header.Get("Backend")]++
	}
	if count["two"] < 220 || count["one"] < 40 || count["one"]+count["two"] != 400 {
		t.Errorf("weights of 1 and 3 share 400 requests as %v", count)
	}
}

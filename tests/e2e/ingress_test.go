//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

const routedWeb = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
	replicas: 2
	strategy: {rollingUpdate: {maxUnavailable: 0}}
	selector: {matchLabels: {app: web}}
	template:
		metadata: {labels: {app: web}}
		spec:
			terminationGracePeriodSeconds: 15
			containers:
			- name: web
				image: AGNHOST
				args: [netexec, --http-port=8080]
				lifecycle: {preStop: {sleep: {seconds: 6}}}
				readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
	tls: [{hosts: [a.test], secretName: a}]
	rules:
	- host: a.test
		http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: broken}
spec:
	rules:
	- host: broken.test
		http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]}
`

const routedByGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
	gatewayClassName: kedge
	listeners:
	- {name: http, protocol: HTTP, port: 80}
	- {name: odd, protocol: HTTP, port: 8080}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
	parentRefs: [{name: gateway, sectionName: http}]
	hostnames: [g.test]
	rules:
	- matches: [{path: {type: PathPrefix, value: /api}}]
		filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
		backendRefs: [{name: web, port: 80}]
	- matches: [{path: {type: PathPrefix, value: /gone}}]
		backendRefs: [{name: gone, port: 80}]
`

// TestIngress serves Ingresses and HTTPRoutes at the addresses of two nodes.
func TestIngress(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.beside = newHost(t, f.bed, "beside")
	s := f.sandbox(t)
	system := func(args ...string) string {
		t.Helper()
		return s.kubectl(append(args, "--namespace=kube-system")...)
	}
	eventually(t, "the ingress to be deployed", func() (bool, string) {
		out, err := s.try("get", "daemonset/ingress", "--namespace=kube-system")
		return err == nil, out
	})
	system("rollout", "status", "daemonset/ingress", fmt.Sprintf("--timeout=%.0fs", limit.Seconds()))
	nodes := []*testbed.Host{f.node, f.agents[0].host}
	addresses := []string{nodes[0].Address.String(), nodes[1].Address.String()}
	eventually(t, "the ingress to have both nodes' addresses", func() (bool, string) {
		out := system("get", "service/ingress", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		return strings.Contains(out, addresses[0]) && strings.Contains(out, addresses[1]), out
	})
	s.apply(routedWeb)
	s.rollout("deployment/web")

	t.Run("HTTP", func(t *testing.T) {
		for _, address := range addresses {
			eventually(t, address+" to serve a.test", func() (bool, string) {
				status, body := ask(t, s.beside, address, "http://a.test/header?key=X-Forwarded-For")
				return status == http.StatusOK && body == s.beside.Address.String(), fmt.Sprint(status, body)
			})
			for url, want := range map[string]int{"http://other.test/": http.StatusNotFound, "http://broken.test/": http.StatusServiceUnavailable} {
				if status, body := ask(t, s.beside, address, url); status != want {
					t.Errorf("%s at %s: %d %s, want %d", url, address, status, body, want)
				}
			}
		}
	})
	t.Run("Status", func(t *testing.T) {
		eventually(t, "the Ingress to have the nodes' addresses", func() (bool, string) {
			out := s.field("ingress/web", ".status.loadBalancer.ingress[*].ip")
			return strings.Contains(out, addresses[0]) && strings.Contains(out, addresses[1]), out
		})
		eventually(t, "an event that says what is missing", func() (bool, string) {
			out := s.kubectl("get", "events", "--field-selector=involvedObject.name=broken", "-o", "jsonpath={.items[*].message}")
			return out == "the Service "+s.namespace+"/gone is not there", out
		})
	})
	t.Run("TLS", func(t *testing.T) {
		for _, version := range []string{"first", "second"} {
			s.apply(certificate(t, "a", version, "a.test"))
			for _, address := range addresses {
				eventually(t, address+" to show the "+version+" certificate", func() (bool, string) {
					got := presented(t, s.beside, address, "a.test")
					return got == version, got
				})
			}
		}
	})
	t.Run("Gateway", func(t *testing.T) {
		s.apply(routedByGateway)
		for _, address := range addresses {
			eventually(t, address+" to serve g.test", func() (bool, string) {
				status, body := ask(t, s.beside, address, "http://g.test/api/hostname")
				return status == http.StatusOK && strings.HasPrefix(body, "web-"), fmt.Sprint(status, body)
			})
			if status, body := ask(t, s.beside, address, "http://g.test/gone"); status != http.StatusInternalServerError {
				t.Errorf("a backend that is not there: %d %s, want 500", status, body)
			}
		}
		eventually(t, "the statuses", func() (bool, string) {
			class, gateway, route := s.field("gatewayclass/kedge", ".status.conditions[?(@.type=='Accepted')].status"),
				s.field("gateway/gateway", ".status.conditions[?(@.type=='Programmed')].status")+
					s.field("gateway/gateway", ".status.listeners[?(@.name=='odd')].conditions[?(@.type=='Accepted')].reason")+
					s.field("gateway/gateway", ".status.listeners[?(@.name=='http')].attachedRoutes"),
				s.field("httproute/web", ".status.parents[0].conditions[?(@.type=='Accepted')].status")+
					s.field("httproute/web", ".status.parents[0].conditions[?(@.type=='ResolvedRefs')].reason")
			return class == "True" && gateway == "TruePortUnavailable1" && route == "TrueBackendNotFound",
				fmt.Sprint(class, " ", gateway, " ", route)
		})
	})
	t.Run("Rollout", func(t *testing.T) {
		// Nobody notices that all pods are replaced.
		ctx, stop := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		for _, address := range addresses {
			workers.Go(func() {
				for asked := 0; ; asked++ {
					if ctx.Err() != nil {
						t.Logf("%d requests to %s", asked, address)
						return
					}
					if status, body := ask(t, s.beside, address, "http://a.test/hostname"); status != http.StatusOK {
						t.Errorf("request %d to %s: %d %s", asked, address, status, body)
						return
					}
				}
			})
		}
		s.kubectl("rollout", "restart", "deployment/web")
		s.rollout("deployment/web")
		time.Sleep(time.Second) // of requests to the new pods
		stop()
		workers.Wait()
	})
	t.Run("Idle", func(t *testing.T) {
		out, err := f.node.Exec(t.Context(), "sh", "-c", `for p in /proc/[0-9]*; do grep -qz '^ingress$' $p/cmdline 2>/dev/null && grep -E '^(Rss|Pss|Private_Dirty|Pss_Anon):' $p/smaps_rollup && grep Threads $p/status; done`)
		t.Logf("memory of an ingress process (%v):\n%s", err, out)
	})
}

// ask requests a URL whose host is at address, from a host, and gives the status,
// 0 if there is no answer, and the body.
func ask(t *testing.T, from *testbed.Host, address, url string) (int, string) {
	t.Helper()
	client := from.HTTP()
	transport := client.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(to)
		return from.Dial(ctx, network, net.JoinHostPort(address, port))
	}
	transport.DisableKeepAlives = true
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, strings.TrimSpace(string(body))
}

// presented gives the organisation in the certificate that is shown for a name.
func presented(t *testing.T, from *testbed.Host, address, name string) string {
	t.Helper()
	raw, err := from.Dial(t.Context(), "tcp", net.JoinHostPort(address, "443"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = raw.Close() }()
	connection := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	if err := connection.HandshakeContext(t.Context()); err != nil {
		return err.Error()
	}
	return strings.Join(connection.ConnectionState().PeerCertificates[0].Subject.Organization, " ")
}

// certificate is a Secret with a certificate of an organisation for a name.
func certificate(t *testing.T, secret, organisation, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	template.Subject.Organization = []string{organisation}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return `
apiVersion: v1
kind: Secret
metadata: {name: ` + secret + `}
type: kubernetes.io/tls
data: {tls.crt: ` + encode("CERTIFICATE", der) + `, tls.key: ` + encode("PRIVATE KEY", raw) + `}
`
}

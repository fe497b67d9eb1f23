package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// fakeCluster is a cluster of objects that a test made.
type fakeCluster struct {
	list      []*networkingv1.Ingress
	services  map[string]*corev1.Service // by namespace/name
	secrets   map[objectName]*corev1.Secret
	slices    map[string][]*discoveryv1.EndpointSlice
	gateway   *gatewayObjects
	isDefault bool
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		services:  make(map[string]*corev1.Service),
		secrets:   make(map[objectName]*corev1.Secret),
		slices:    make(map[string][]*discoveryv1.EndpointSlice),
		isDefault: true,
	}
}

func (c *fakeCluster) ingresses() []*networkingv1.Ingress {
	return append([]*networkingv1.Ingress(nil), c.list...)
}

func (c *fakeCluster) ingressClass(name string) *networkingv1.IngressClass {
	switch name {
	case "kedge":
		return &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: ControllerName}}
	case "nginx":
		return &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "k8s.io/ingress-nginx"}}
	}
	return nil
}

func (c *fakeCluster) defaultClass() bool { return c.isDefault }

func (c *fakeCluster) service(namespace, name string) *corev1.Service {
	return c.services[namespace+"/"+name]
}

func (c *fakeCluster) tlsSecret(name objectName) *corev1.Secret {
	if s := c.secrets[name]; s != nil && s.Type == corev1.SecretTypeTLS {
		return s
	}
	return nil
}

func (c *fakeCluster) secret(name objectName) *corev1.Secret { return c.secrets[name] }
func (c *fakeCluster) gateways() *gatewayObjects             { return c.gateway }

func (c *fakeCluster) slicesOf(namespace, service string) []*discoveryv1.EndpointSlice {
	return c.slices[namespace+"/"+service]
}

// addService makes a Service in the namespace default with a port 80 and endpoints.
func (c *fakeCluster) addService(name string, addresses ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	c.services["default/"+name] = s
	c.slices["default/"+name] = endpointSlices("http", addresses...)
	return s
}

// endpointSlices makes one slice for each endpoint, because in tests each is at a
// port of its own.
func endpointSlices(port string, addresses ...string) []*discoveryv1.EndpointSlice {
	var made []*discoveryv1.EndpointSlice
	for _, address := range addresses {
		host, number, _ := net.SplitHostPort(address)
		n, _ := strconv.Atoi(number)
		number32 := int32(n)
		made = append(made, &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number32}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{host}}},
		})
	}
	return made
}

// addIngress adds the Ingress of a text in YAML, with tabs or not.
func (c *fakeCluster) addIngress(t testing.TB, text string) *networkingv1.Ingress {
	t.Helper()
	i := &networkingv1.Ingress{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\t", "  ")), i); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if i.Namespace == "" {
		i.Namespace = "default"
	}
	i.UID = types.UID(i.Namespace + "/" + i.Name)
	i.CreationTimestamp = metav1.NewTime(time.Unix(int64(len(c.list)), 0))
	c.list = append(c.list, i)
	return i
}

// simple is an Ingress for a host, with a path of a kind to a Service.
func (c *fakeCluster) simple(t testing.TB, host, kind, path, service string, annotations ...string) *networkingv1.Ingress {
	t.Helper()
	i := c.addIngress(t, `
metadata: {name: "`+strings.NewReplacer("/", "-", "*", "any", ".", "-").Replace(host+path)+"-"+strconv.Itoa(len(c.list))+`"}
spec:
	rules:
	- host: "`+host+`"
		http: {paths: [{path: "`+path+`", pathType: `+kind+`, backend: {service: {name: `+service+`, port: {number: 80}}}}]}
`)
	i.Annotations = make(map[string]string)
	for k := 0; k < len(annotations); k += 2 {
		i.Annotations[annotations[k]] = annotations[k+1]
	}
	return i
}

// build makes the routes.
func (c *fakeCluster) build() *build {
	p := &pools{slices: c.slicesOf}
	return newBuild(c, p, &parsed{}, func(string) *tls.Certificate { return nil }, &settings{})
}

// problems are those of an Ingress by name.
func (b *build) problems(name string) []string {
	for _, r := range b.reports {
		if r.ingress.Name == name {
			return r.problems
		}
	}
	return nil
}

// authority is a CA of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// secret makes a Secret with a certificate for names.
func (a *authority) secret(name, version string, names ...string) *corev1.Secret {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: version}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: version},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		},
	}
}

func tlsEntry(secret string, hosts ...string) networkingv1.IngressTLS {
	return networkingv1.IngressTLS{Hosts: hosts, SecretName: secret}
}

func (*fakeCluster) trusted(t testing.TB, ranges ...string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, each := range ranges {
		p, err := parsePrefix(each)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

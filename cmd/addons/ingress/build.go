package ingress

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

const (
	kindIngress   = "Ingress"
	kindHTTPRoute = "HTTPRoute"
)

// ControllerName is what an IngressClass or a GatewayClass names to be served here.
const ControllerName = "kedge.io/ingress"

// cluster is what the routes are made from. What is not there is nil.
type cluster interface {
	ingresses() []*networkingv1.Ingress
	ingressClass(name string) *networkingv1.IngressClass
	defaultClass() bool // whether Ingresses without a class are for us
	service(namespace, name string) *corev1.Service
	tlsSecret(name objectName) *corev1.Secret
	secret(name objectName) *corev1.Secret // of any type; it is watched from now on
	gateways() *gatewayObjects             // nil: there is no Gateway API
}

// build is one making of everything from the cluster's objects.
type build struct {
	cluster  cluster
	pools    *pools
	parsed   *parsed
	acme     func(name string) *tls.Certificate
	settings *settings

	routes       []*route
	certificates map[string]*tls.Certificate
	acmeNames    map[string]objectName // who asked for a certificate
	reports      []report
	gateway      *gatewayStatus
}

// report is what there is to say of an Ingress.
type report struct {
	ingress  *networkingv1.Ingress
	problems []string
}

// newBuild makes everything.
func newBuild(c cluster, p *pools, known *parsed, acme func(string) *tls.Certificate, set *settings) *build {
	b := &build{
		cluster: c, pools: p, parsed: known, acme: acme, settings: set,
		certificates: make(map[string]*tls.Certificate),
		acmeNames:    make(map[string]objectName),
	}
	b.pools.begin()
	b.parsed.begin()
	list := slices.DeleteFunc(c.ingresses(), func(i *networkingv1.Ingress) bool { return !b.ours(i) })
	slices.SortFunc(list, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name),
		)
	})
	for _, ingress := range list {
		b.ingress(ingress)
	}
	if objects := c.gateways(); objects != nil {
		b.gateway = b.gatewayAPI(objects)
	}
	b.parsed.end()
	b.pools.end()
	return b
}

// ours says whether an Ingress is of our class.
func (b *build) ours(i *networkingv1.Ingress) bool {
	name := i.Annotations["kubernetes.io/ingress.class"]
	if i.Spec.IngressClassName != nil {
		name = *i.Spec.IngressClassName
	}
	if name == "" {
		return b.cluster.defaultClass()
	}
	class := b.cluster.ingressClass(name)
	return class != nil && class.Spec.Controller == ControllerName
}

// ingressBuild is the making of what one Ingress asks for.
type ingressBuild struct {
	*build
	object   *networkingv1.Ingress
	said     *directives
	policy   *policy
	owner    owner
	problems []string
	order    int
}

func (b *build) ingress(object *networkingv1.Ingress) {
	in := &ingressBuild{
		build: b, object: object, said: readAnnotations(object.Annotations),
		owner: owner{kindIngress, object.Namespace, object.Name, object.CreationTimestamp.Time},
	}
	in.problems = in.said.problems
	in.makePolicy()
	secured := in.tls()
	hosts := []string{}
	for _, rule := range object.Spec.Rules {
		host := strings.ToLower(rule.Host)
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
		if rule.HTTP == nil {
			continue
		}
		for i := range rule.HTTP.Paths {
			in.path(host, &rule.HTTP.Paths[i], secured)
		}
	}
	if object.Spec.DefaultBackend != nil {
		// For what no rule takes, at its own hosts before those of others.
		if !slices.Contains(hosts, "") {
			hosts = append(hosts, "")
		}
		for _, host := range hosts {
			r := in.newRoute(host, secured)
			r.kind, r.last = pathPrefix, true
			in.backend(r, object.Spec.DefaultBackend)
		}
	} else if in.said.redirect != "" && len(object.Spec.Rules) == 0 {
		in.problems = append(in.problems, "there is no rule that could redirect")
	}
	b.reports = append(b.reports, report{object, in.problems})
}

func (in *ingressBuild) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(in.problems, text) {
		in.problems = append(in.problems, text)
	}
}

func (in *ingressBuild) makePolicy() {
	d := in.said
	in.policy = &policy{
		redirectHTTPS: d.redirectHTTPS, allow: d.allow, refused: d.refused,
		bodySize: d.bodySize, upstream: d.upstream,
	}
	if d.affinity {
		in.policy.affinity = &affinity{d.affinityCookie, d.affinityMaxAge}
	}
	if d.authSecret == "" {
		return
	}
	name := objectName{in.object.Namespace, d.authSecret}
	if namespace, rest, ok := strings.Cut(d.authSecret, "/"); ok {
		if namespace != in.object.Namespace {
			in.policy.refused = "authentication is not set up correctly"
			in.problem("the Secret %s with the passwords is in another namespace; nobody is let in: copy it to %s", d.authSecret, in.object.Namespace)
			return
		}
		name.name = rest
	}
	secret := in.cluster.secret(name)
	if secret == nil {
		in.policy.refused = "authentication is not set up correctly"
		in.problem("the Secret %s with the passwords is not there; nobody is let in until it is", name)
		return
	}
	auth, err := in.parsed.auth(secret, d.authRealm)
	if err != nil {
		in.policy.refused = "authentication is not set up correctly"
		in.problem("the Secret %s with the passwords can't be used, nobody is let in: %v", name, err)
		return
	}
	in.policy.auth = auth
}

// tls takes the certificates over, and says which hosts have one.
func (in *ingressBuild) tls() map[string]bool {
	secured := make(map[string]bool)
	for _, entry := range in.object.Spec.TLS {
		var pair *tls.Certificate
		if entry.SecretName != "" {
			name := objectName{in.object.Namespace, entry.SecretName}
			var err error
			pair, err = in.parsed.pair(in.cluster.tlsSecret(name))
			switch {
			case err != nil:
				in.problem("the Secret %s has no usable certificate: %v", name, err)
			case pair == nil && !in.said.acme:
				in.problem("the Secret %s of type kubernetes.io/tls is not there; its hosts have a certificate that no client trusts", name)
			}
		}
		hosts := entry.Hosts
		if len(hosts) == 0 && pair != nil {
			hosts = names(pair)
		}
		for _, host := range hosts {
			host = strings.ToLower(host)
			secured[host] = true
			switch {
			case pair != nil:
				in.certificate(host, pair)
			case in.said.acme:
				in.wantACME(host)
			}
		}
	}
	if in.said.acme && len(in.object.Spec.TLS) == 0 {
		for _, rule := range in.object.Spec.Rules {
			if rule.Host != "" {
				secured[strings.ToLower(rule.Host)] = true
				in.wantACME(strings.ToLower(rule.Host))
			}
		}
	}
	return secured
}

func (in *ingressBuild) wantACME(host string) {
	if in.settings.acme.server == "" {
		in.problem("a certificate for %s is asked for, but no ACME server is set: give acme-server in the ConfigMap %s", host, settingsName)
		return
	}
	if strings.HasPrefix(host, "*.") {
		in.problem("ACME gives no certificate for %s: only DNS challenges can prove a wildcard; give a Secret", host)
		return
	}
	if _, ok := in.acmeNames[host]; !ok {
		in.acmeNames[host] = objectName{in.object.Namespace, in.object.Name}
	}
	if pair := in.acme(host); pair != nil {
		in.certificate(host, pair)
	}
}

// certificate sets the certificate of a host; the first that does so wins.
func (b *build) certificate(host string, pair *tls.Certificate) {
	if b.certificates[host] == nil {
		b.certificates[host] = pair
	}
}

func (in *ingressBuild) newRoute(host string, secured map[string]bool) *route {
	in.order++
	r := &route{
		pattern: pattern{host: host, oneLabel: true, schemes: in.said.schemes},
		owner:   in.owner, order: in.order, policy: in.policy,
	}
	if in.said.redirectHTTPSIfTLS && securedHost(host, secured) && !in.policy.redirectHTTPS {
		stricter := *in.policy
		stricter.redirectHTTPS = true
		r.policy = &stricter
	}
	switch d := in.said; {
	case d.redirect != "":
		r.redirect = &redirect{url: d.redirect, status: d.redirectStatus}
	case d.appRoot != "":
		r.redirect = &redirect{url: d.appRoot, status: http.StatusFound, onlyAt: "/"}
	}
	in.routes = append(in.routes, r)
	return r
}

func securedHost(host string, secured map[string]bool) bool {
	_, parent, _ := strings.Cut(host, ".")
	return secured[host] || secured["*."+parent]
}

func (in *ingressBuild) path(host string, p *networkingv1.HTTPIngressPath, secured map[string]bool) {
	kind := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		kind = *p.PathType
	}
	path := p.Path
	if path == "" {
		path = "/"
	}
	r := in.newRoute(host, secured)
	switch {
	case kind == networkingv1.PathTypeExact:
		r.kind, r.path = pathExact, path
	case in.said.useRegexp && strings.ContainsAny(path, `()[]*+?|^$\`):
		compiled, err := regexp.Compile("(?i)^" + strings.TrimPrefix(path, "^"))
		if err != nil {
			in.problem("the path %s is no regular expression: %v", path, err)
			in.routes = in.routes[:len(in.routes)-1]
			return
		}
		r.kind, r.path, r.regexp = pathRegexp, path, compiled
	default:
		r.kind, r.path = pathPrefix, prefix(path)
	}
	switch d := in.said; {
	case d.stripPrefix && r.kind == pathPrefix:
		r.rewrite = rewrite{prefix: true, strip: r.path, target: d.rewriteTarget}
	case d.rewriteTarget != "":
		r.rewrite = rewrite{full: true, target: d.rewriteTarget, regexp: r.regexp}
	}
	in.backend(r, &p.Backend)
}

// backend gives a route its Service.
func (in *ingressBuild) backend(r *route, to *networkingv1.IngressBackend) {
	r.weight = 1
	r.backends = []backend{{weight: 1}}
	if in.said.redirect != "" {
		return // it never gets there
	}
	if to.Service == nil {
		in.problem("a backend that is a %s can't be served, only Services", to.Resource.Kind)
		return
	}
	name := objectName{in.object.Namespace, to.Service.Name}
	service := in.cluster.service(name.namespace, name.name)
	if service == nil {
		in.problem("the Service %s is not there", name)
		return
	}
	port := findPort(service, to.Service.Port)
	if port == nil {
		in.problem("the Service %s has no port %s", name, cmp.Or(to.Service.Port.Name, strconv.Itoa(int(to.Service.Port.Number))))
		return
	}
	found := in.servicePool(service, port)
	if found == nil {
		in.problem("the Service %s is of type ExternalName; these are served if external-name-services is true in the ConfigMap %s", name, settingsName)
		return
	}
	r.backends[0].pool = found
	r.backends[0].protocol = portProtocol(service, port)
	if in.said.protocol != nil {
		r.backends[0].protocol = *in.said.protocol
	}
	if r.policy.affinity == nil && service.Annotations[traefikPrefix+"service.sticky.cookie"] == "true" {
		sticky := *r.policy
		sticky.affinity = &affinity{cookie: cmp.Or(service.Annotations[traefikPrefix+"service.sticky.cookie.name"], in.said.affinityCookie)}
		r.policy = &sticky
	}
}

func findPort(service *corev1.Service, wanted networkingv1.ServiceBackendPort) *corev1.ServicePort {
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		if port.Protocol != corev1.ProtocolTCP && port.Protocol != "" {
			continue
		}
		if (wanted.Name != "" && port.Name == wanted.Name) || (wanted.Name == "" && port.Port == wanted.Number) {
			return port
		}
	}
	return nil
}

// servicePool gives the endpoints of a port; nil if they are a name outside of the
// cluster, which must be allowed.
func (b *build) servicePool(service *corev1.Service, port *corev1.ServicePort) *pool {
	if service.Spec.Type != corev1.ServiceTypeExternalName {
		return b.pools.get(poolKey{service.Namespace, service.Name, port.Name})
	}
	if !b.settings.externalNames {
		return nil
	}
	return newPool(net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(port.Port))))
}

// portProtocol is what the Service says its port speaks.
func portProtocol(service *corev1.Service, port *corev1.ServicePort) protocol {
	said := ""
	if port.AppProtocol != nil {
		said = strings.ToLower(*port.AppProtocol)
	}
	if scheme := service.Annotations[traefikPrefix+"service.serversscheme"]; scheme != "" {
		said = scheme
	}
	switch said {
	case "https":
		return protocolHTTPS
	case "h2c", "kubernetes.io/h2c", "grpc":
		return protocolH2C
	}
	return protocolHTTP
}

// parsed keeps what was read from Secrets while these stay as they are.
type parsed struct {
	pairs cached[*tls.Certificate]
	auths cached[*basicAuth] // with the passwords that are known to be right
}

func (p *parsed) begin() {
	p.pairs.used = make(map[string]bool)
	p.auths.used = make(map[string]bool)
}

// end forgets what was not used since begin.
func (p *parsed) end() {
	p.pairs.end()
	p.auths.end()
}

// pair gives the certificate of a Secret; nil if there is no Secret.
func (p *parsed) pair(secret *corev1.Secret) (*tls.Certificate, error) {
	if secret == nil {
		return nil, nil
	}
	return p.pairs.get(secret, "", func() (*tls.Certificate, error) {
		return parsePair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	})
}

func (p *parsed) auth(secret *corev1.Secret, realm string) (*basicAuth, error) {
	return p.auths.get(secret, realm, func() (*basicAuth, error) { return newBasicAuth(secret, realm) })
}

// cached keeps values made from Secrets.
type cached[T any] struct {
	kept map[string]cachedValue[T]
	used map[string]bool
}

type cachedValue[T any] struct {
	version string
	value   T
	err     error
}

func (c *cached[T]) get(from *corev1.Secret, variant string, read func() (T, error)) (T, error) {
	key := string(from.UID) + " " + from.Namespace + "/" + from.Name + " " + variant
	c.used[key] = true
	if found, ok := c.kept[key]; ok && found.version == from.ResourceVersion {
		return found.value, found.err
	}
	value, err := read()
	if c.kept == nil {
		c.kept = make(map[string]cachedValue[T])
	}
	c.kept[key] = cachedValue[T]{from.ResourceVersion, value, err}
	return value, err
}

func (c *cached[T]) end() {
	for key := range c.kept {
		if !c.used[key] {
			delete(c.kept, key)
		}
	}
}

package ingress

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
)

// gatewayObjects are the cluster's objects of Gateway API.
type gatewayObjects struct {
	classes    []*gatewayv1.GatewayClass
	gateways   []*gatewayv1.Gateway
	routes     []*gatewayv1.HTTPRoute
	grants     []*gatewayv1beta1.ReferenceGrant
	namespaces func(name string) map[string]string // labels
}

// gatewayStatus is what the statuses are to be, but for addresses.
type gatewayStatus struct {
	classes  []*gatewayv1.GatewayClass
	gateways []*gatewayState
	routes   []*routeState
}

type gatewayState struct {
	object    *gatewayv1.Gateway
	listeners []*listener
}

// listener is a listener of a Gateway, as far as it is understood.
type listener struct {
	spec       *gatewayv1.Listener
	schemes    scheme
	host       string
	usable     bool // routes can be attached
	accepted   metav1.Condition
	resolved   metav1.Condition
	kinds      []gatewayv1.RouteGroupKind
	attached   int32
	namespaces func(string) bool
}

type routeState struct {
	object  *gatewayv1.HTTPRoute
	parents []parentState
}

type parentState struct {
	ref        gatewayv1.ParentReference
	conditions []metav1.Condition
}

// condition says whether something is so, and why.
func condition[T, R ~string](kind T, ok bool, reason R, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if ok {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: string(kind), Status: status, Reason: string(reason), Message: message}
}

// gatewayAPI makes the routes of HTTPRoutes, and what the statuses are to say.
func (b *build) gatewayAPI(objects *gatewayObjects) *gatewayStatus {
	status := &gatewayStatus{}
	ours := make(map[gatewayv1.ObjectName]bool)
	for _, class := range objects.classes {
		if class.Spec.ControllerName == ControllerName {
			ours[gatewayv1.ObjectName(class.Name)] = true
			status.classes = append(status.classes, class)
		}
	}
	byName := make(map[objectName]*gatewayState)
	for _, gateway := range objects.gateways {
		if !ours[gateway.Spec.GatewayClassName] {
			continue
		}
		state := &gatewayState{object: gateway}
		for i := range gateway.Spec.Listeners {
			state.listeners = append(state.listeners, b.listener(objects, gateway, &gateway.Spec.Listeners[i]))
		}
		byName[objectName{gateway.Namespace, gateway.Name}] = state
		status.gateways = append(status.gateways, state)
	}
	for _, object := range objects.routes {
		state := &routeState{object: object}
		var rules []*rule // made when a parent is ours
		for _, ref := range object.Spec.ParentRefs {
			name := objectName{object.Namespace, string(ref.Name)}
			if ref.Namespace != nil {
				name.namespace = string(*ref.Namespace)
			}
			gateway := byName[name]
			if gateway == nil || (ref.Kind != nil && *ref.Kind != "Gateway") || (ref.Group != nil && *ref.Group != gatewayv1.GroupName) {
				continue
			}
			if rules == nil {
				rules = b.rules(objects, object)
			}
			state.parents = append(state.parents, parentState{ref, b.attach(object, &ref, gateway, rules)})
		}
		// A route that was ours and is not any more has an old status to remove.
		if len(state.parents) > 0 || slices.ContainsFunc(object.Status.Parents, ownParent) {
			status.routes = append(status.routes, state)
		}
	}
	return status
}

func ownParent(p gatewayv1.RouteParentStatus) bool { return p.ControllerName == ControllerName }

func (b *build) listener(objects *gatewayObjects, gateway *gatewayv1.Gateway, spec *gatewayv1.Listener) *listener {
	l := &listener{spec: spec, usable: true}
	if spec.Hostname != nil {
		l.host = strings.ToLower(string(*spec.Hostname))
	}
	l.accepted = condition(gatewayv1.ListenerConditionAccepted, true, gatewayv1.ListenerReasonAccepted, "")
	l.resolved = condition(gatewayv1.ListenerConditionResolvedRefs, true, gatewayv1.ListenerReasonResolvedRefs, "")
	refuse := func(reason gatewayv1.ListenerConditionReason, message string) {
		l.usable = false
		l.accepted = condition(gatewayv1.ListenerConditionAccepted, false, reason, message)
	}
	switch {
	case spec.Protocol == gatewayv1.HTTPProtocolType && spec.Port == 80:
		l.schemes = schemeHTTP
	case spec.Protocol == gatewayv1.HTTPSProtocolType && spec.Port == 443:
		l.schemes = schemeHTTPS
	case spec.Protocol == gatewayv1.HTTPProtocolType:
		refuse(gatewayv1.ListenerReasonPortUnavailable, "HTTP is served at port 80 only")
	case spec.Protocol == gatewayv1.HTTPSProtocolType:
		refuse(gatewayv1.ListenerReasonPortUnavailable, "HTTPS is served at port 443 only")
	default:
		refuse(gatewayv1.ListenerReasonUnsupportedProtocol, "only HTTP and HTTPS are served")
	}
	b.routeKinds(l)
	l.namespaces = allowedNamespaces(objects, gateway, spec)
	if spec.Protocol == gatewayv1.HTTPSProtocolType {
		b.listenerTLS(objects, gateway, l)
	}
	return l
}

// routeKinds says which kinds of routes a listener takes: of those it names,
// HTTPRoute.
func (b *build) routeKinds(l *listener) {
	group := gatewayv1.Group(gatewayv1.GroupName)
	http := gatewayv1.RouteGroupKind{Group: &group, Kind: kindHTTPRoute}
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		l.kinds = []gatewayv1.RouteGroupKind{http}
		return
	}
	l.kinds = []gatewayv1.RouteGroupKind{}
	for _, kind := range l.spec.AllowedRoutes.Kinds {
		if kind.Kind == kindHTTPRoute && (kind.Group == nil || *kind.Group == group) {
			l.kinds = append(l.kinds, http)
			continue
		}
		l.resolved = condition(gatewayv1.ListenerConditionResolvedRefs, false, gatewayv1.ListenerReasonInvalidRouteKinds,
			fmt.Sprintf("routes of kind %s are not served", kind.Kind))
	}
	l.usable = l.usable && len(l.kinds) > 0
}

func allowedNamespaces(objects *gatewayObjects, gateway *gatewayv1.Gateway, spec *gatewayv1.Listener) func(string) bool {
	from := gatewayv1.NamespacesFromSame
	if spec.AllowedRoutes != nil && spec.AllowedRoutes.Namespaces != nil && spec.AllowedRoutes.Namespaces.From != nil {
		from = *spec.AllowedRoutes.Namespaces.From
	}
	switch from {
	case gatewayv1.NamespacesFromAll:
		return func(string) bool { return true }
	case gatewayv1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(spec.AllowedRoutes.Namespaces.Selector)
		if err != nil {
			return func(string) bool { return false }
		}
		return func(name string) bool { return selector.Matches(labels.Set(objects.namespaces(name))) }
	case gatewayv1.NamespacesFromSame:
		return func(name string) bool { return name == gateway.Namespace }
	default:
		return func(string) bool { return false }
	}
}

func (b *build) listenerTLS(objects *gatewayObjects, gateway *gatewayv1.Gateway, l *listener) {
	tls := l.spec.TLS
	refuse := func(reason gatewayv1.ListenerConditionReason, format string, args ...any) {
		l.resolved = condition(gatewayv1.ListenerConditionResolvedRefs, false, reason, fmt.Sprintf(format, args...))
	}
	if tls == nil || (tls.Mode != nil && *tls.Mode != gatewayv1.TLSModeTerminate) {
		l.usable = false
		l.accepted = condition(gatewayv1.ListenerConditionAccepted, false, gatewayv1.ListenerReasonUnsupportedValue, "TLS is terminated only: tls.mode must be Terminate")
		return
	}
	found := false
	for _, ref := range tls.CertificateRefs {
		name := objectName{gateway.Namespace, string(ref.Name)}
		if ref.Namespace != nil {
			name.namespace = string(*ref.Namespace)
		}
		if (ref.Kind != nil && *ref.Kind != "Secret") || (ref.Group != nil && *ref.Group != "") {
			refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "certificates are taken from Secrets only")
			continue
		}
		if !objects.granted("Gateway", gateway.Namespace, "Secret", name) {
			refuse(gatewayv1.ListenerReasonRefNotPermitted, "no ReferenceGrant in namespace %s lets this Gateway use the Secret %s", name.namespace, name.name)
			continue
		}
		pair, err := b.parsed.pair(b.cluster.tlsSecret(name))
		switch {
		case err != nil:
			refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "the Secret %s has no usable certificate: %v", name, err)
			continue
		case pair == nil:
			refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "the Secret %s of type kubernetes.io/tls is not there", name)
			continue
		}
		found = true
		hosts := []string{l.host}
		if l.host == "" {
			hosts = append(names(pair), "")
		}
		for _, host := range hosts {
			b.certificate(host, pair)
			if strings.HasPrefix(host, "*.") && l.host != "" {
				b.certificate("*"+host, pair) // of all levels below
			}
		}
	}
	if len(tls.CertificateRefs) == 0 {
		refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "tls.certificateRefs is empty")
	}
	l.usable = l.usable && found
}

// granted says whether an object may refer to another one.
func (o *gatewayObjects) granted(kind, from, toKind string, to objectName) bool {
	if from == to.namespace {
		return true
	}
	for _, grant := range o.grants {
		if grant.Namespace != to.namespace {
			continue
		}
		fromHere := slices.ContainsFunc(grant.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
			return f.Group == gatewayv1.GroupName && string(f.Kind) == kind && string(f.Namespace) == from
		})
		toThere := slices.ContainsFunc(grant.Spec.To, func(t gatewayv1.ReferenceGrantTo) bool {
			return t.Group == "" && string(t.Kind) == toKind && (t.Name == nil || string(*t.Name) == to.name)
		})
		if fromHere && toThere {
			return true
		}
	}
	return false
}

// attach adds the rules of an HTTPRoute to the listeners that a reference means,
// and says what became of it.
func (b *build) attach(object *gatewayv1.HTTPRoute, ref *gatewayv1.ParentReference, gateway *gatewayState, rules []*rule) []metav1.Condition {
	accepted := condition(gatewayv1.RouteConditionAccepted, false, gatewayv1.RouteReasonNoMatchingParent, "the Gateway has no such listener")
	for _, l := range gateway.listeners {
		if (ref.SectionName != nil && *ref.SectionName != l.spec.Name) || (ref.Port != nil && *ref.Port != l.spec.Port) {
			continue
		}
		if len(l.kinds) == 0 || !l.namespaces(object.Namespace) {
			if accepted.Reason == string(gatewayv1.RouteReasonNoMatchingParent) {
				accepted = condition(gatewayv1.RouteConditionAccepted, false, gatewayv1.RouteReasonNotAllowedByListeners,
					"the listener takes no HTTPRoutes of this namespace: see its allowedRoutes")
			}
			continue
		}
		hosts := commonHosts(l.host, object.Spec.Hostnames)
		if len(hosts) == 0 {
			if accepted.Status != metav1.ConditionTrue {
				accepted = condition(gatewayv1.RouteConditionAccepted, false, gatewayv1.RouteReasonNoMatchingListenerHostname,
					"no host name of the route is one of the listener's")
			}
			continue
		}
		accepted = condition(gatewayv1.RouteConditionAccepted, true, gatewayv1.RouteReasonAccepted, "")
		l.attached++
		if !l.usable {
			continue
		}
		for _, host := range hosts {
			for _, rule := range rules {
				b.routes = append(b.routes, rule.at(host, l.schemes)...)
			}
		}
	}
	resolved := condition(gatewayv1.RouteConditionResolvedRefs, true, gatewayv1.RouteReasonResolvedRefs, "")
	var unsupported []string
	for _, rule := range rules {
		if rule.unresolved != nil && resolved.Status == metav1.ConditionTrue {
			resolved = *rule.unresolved
		}
		if rule.unsupported != "" {
			unsupported = append(unsupported, rule.unsupported)
		}
	}
	conditions := []metav1.Condition{accepted, resolved}
	switch message := strings.Join(unsupported, "; "); {
	case message == "":
	case len(unsupported) == len(rules) && accepted.Status == metav1.ConditionTrue:
		conditions[0] = condition(gatewayv1.RouteConditionAccepted, false, gatewayv1.RouteReasonUnsupportedValue, message)
	default:
		conditions = append(conditions, condition(gatewayv1.RouteConditionPartiallyInvalid, true, gatewayv1.RouteReasonUnsupportedValue, message))
	}
	return conditions
}

// commonHosts gives the hosts that a listener and a route have in common; an empty
// name is all hosts.
func commonHosts(listener string, route []gatewayv1.Hostname) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	var common []string
	for _, name := range route {
		host := strings.ToLower(string(name))
		switch {
		case listener == "" || host == listener || within(host, listener):
			common = append(common, host)
		case within(listener, host):
			common = append(common, listener)
		}
	}
	return common
}

// within says whether a host, perhaps a wildcard, is below a wildcard.
func within(host, wildcard string) bool {
	return strings.HasPrefix(wildcard, "*.") && strings.HasSuffix(host, wildcard[1:]) && host != wildcard
}

// rule is a rule of an HTTPRoute, ready to be put at hosts.
type rule struct {
	routes      []*route // one for each match
	unresolved  *metav1.Condition
	unsupported string // what can't be done
}

// at copies the routes of a rule to a host.
func (r *rule) at(host string, schemes scheme) []*route {
	copies := make([]*route, 0, len(r.routes))
	for _, each := range r.routes {
		made := *each
		made.host, made.schemes = host, schemes
		copies = append(copies, &made)
	}
	return copies
}

// openPolicy is that of routes without annotations.
var openPolicy = &policy{}

func (b *build) rules(objects *gatewayObjects, object *gatewayv1.HTTPRoute) []*rule {
	from := owner{kindHTTPRoute, object.Namespace, object.Name, object.CreationTimestamp.Time}
	var made []*rule
	order := 0
	for i := range object.Spec.Rules {
		spec := &object.Spec.Rules[i]
		rule := &rule{}
		base := route{owner: from, policy: openPolicy}
		redirected := rule.filters(&base, spec.Filters)
		rule.timeouts(&base, spec.Timeouts)
		for k := range spec.BackendRefs {
			b.backendRef(objects, object, rule, &base, &spec.BackendRefs[k])
		}
		if len(spec.BackendRefs) == 0 && !redirected {
			base.broken = http.StatusInternalServerError
		}
		if rule.unsupported != "" {
			base.broken, base.redirect = http.StatusInternalServerError, nil
		}
		matches := spec.Matches
		if len(matches) == 0 {
			matches = []gatewayv1.HTTPRouteMatch{{}}
		}
		for k := range matches {
			one := base
			order++
			one.order = order
			if err := one.match(&matches[k]); err != nil {
				rule.unsupported = err.Error()
				continue
			}
			rule.routes = append(rule.routes, &one)
		}
		made = append(made, rule)
	}
	return made
}

// match takes over which requests are meant.
func (r *route) match(m *gatewayv1.HTTPRouteMatch) error {
	r.kind = pathPrefix
	if m.Path != nil {
		value := "/"
		if m.Path.Value != nil {
			value = *m.Path.Value
		}
		kind := gatewayv1.PathMatchPathPrefix
		if m.Path.Type != nil {
			kind = *m.Path.Type
		}
		switch kind {
		case gatewayv1.PathMatchExact:
			r.kind, r.path = pathExact, value
		case gatewayv1.PathMatchPathPrefix:
			r.path = prefix(value)
		case gatewayv1.PathMatchRegularExpression:
			compiled, err := regexp.Compile("^(?:" + value + ")$")
			if err != nil {
				return fmt.Errorf("path %q is no regular expression", value)
			}
			r.kind, r.path, r.regexp = pathRegexp, value, compiled
		default:
			return fmt.Errorf("paths of type %s are not known", kind)
		}
	}
	if m.Method != nil {
		r.method = string(*m.Method)
	}
	r.headers, r.query = nil, nil
	for _, h := range m.Headers {
		one, err := newValueMatch(http.CanonicalHeaderKey(string(h.Name)), h.Value, h.Type != nil && *h.Type == gatewayv1.HeaderMatchRegularExpression)
		if err != nil {
			return err
		}
		r.headers = append(r.headers, one)
	}
	for _, q := range m.QueryParams {
		one, err := newValueMatch(string(q.Name), q.Value, q.Type != nil && *q.Type == gatewayv1.QueryParamMatchRegularExpression)
		if err != nil {
			return err
		}
		r.query = append(r.query, one)
	}
	// What replaces the prefix must know which one.
	if r.rewrite.prefix {
		r.rewrite.strip = r.path
	}
	if r.redirect != nil && r.redirect.prefix {
		own := *r.redirect
		own.strip = r.path
		r.redirect = &own
	}
	return nil
}

func newValueMatch(name, value string, isRegexp bool) (valueMatch, error) {
	m := valueMatch{name: name, value: value}
	if isRegexp {
		compiled, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return m, fmt.Errorf("%s: %q is no regular expression", name, value)
		}
		m.regexp = compiled
	}
	return m, nil
}

// filters takes over what is done to requests; it says whether they are redirected.
func (r *rule) filters(to *route, filters []gatewayv1.HTTPRouteFilter) (redirected bool) {
	for i := range filters {
		switch f := &filters[i]; {
		case f.RequestHeaderModifier != nil:
			to.request = newHeaderChange(f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			to.response = newHeaderChange(f.ResponseHeaderModifier)
		case f.RequestRedirect != nil:
			redirected = true
			to.redirect = newRedirect(f.RequestRedirect)
		case f.URLRewrite != nil:
			if f.URLRewrite.Hostname != nil {
				to.rewrite.host = string(*f.URLRewrite.Hostname)
			}
			if p := f.URLRewrite.Path; p != nil {
				to.rewrite.target, to.rewrite.prefix = pathModifier(p)
				to.rewrite.full = !to.rewrite.prefix
			}
		default:
			r.unsupported = fmt.Sprintf("the filter %s is not supported", f.Type)
		}
	}
	return redirected
}

func pathModifier(p *gatewayv1.HTTPPathModifier) (target string, prefix bool) {
	if p.Type == gatewayv1.PrefixMatchHTTPPathModifier && p.ReplacePrefixMatch != nil {
		return *p.ReplacePrefixMatch, true
	}
	if p.ReplaceFullPath != nil {
		return *p.ReplaceFullPath, false
	}
	return "/", false
}

func newRedirect(f *gatewayv1.HTTPRequestRedirectFilter) *redirect {
	d := &redirect{status: http.StatusFound}
	if f.StatusCode != nil {
		d.status = *f.StatusCode
	}
	if f.Scheme != nil {
		d.scheme = *f.Scheme
	}
	if f.Hostname != nil {
		d.host = string(*f.Hostname)
	}
	if f.Port != nil {
		d.port = int(*f.Port)
	}
	if f.Path != nil {
		d.path, d.prefix = pathModifier(f.Path)
		d.replace = !d.prefix
	}
	return d
}

func newHeaderChange(f *gatewayv1.HTTPHeaderFilter) headerChange {
	c := headerChange{remove: f.Remove}
	for _, h := range f.Set {
		c.set = append(c.set, header{string(h.Name), h.Value})
	}
	for _, h := range f.Add {
		c.add = append(c.add, header{string(h.Name), h.Value})
	}
	return c
}

func (r *rule) timeouts(to *route, t *gatewayv1.HTTPRouteTimeouts) {
	if t == nil {
		return
	}
	for _, each := range []*gatewayv1.Duration{t.Request, t.BackendRequest} {
		if each == nil {
			continue
		}
		took, err := time.ParseDuration(string(*each))
		if err != nil {
			r.unsupported = fmt.Sprintf("the timeout %q is no duration", *each)
			continue
		}
		if took > 0 && (to.timeout == 0 || took < to.timeout) {
			to.timeout = took
		}
	}
}

// backendRef adds a backend. One that can't be resolved keeps its share of the
// requests, which fail.
func (b *build) backendRef(objects *gatewayObjects, object *gatewayv1.HTTPRoute, r *rule, to *route, ref *gatewayv1.HTTPBackendRef) {
	made := backend{weight: 1}
	if ref.Weight != nil {
		made.weight = *ref.Weight
	}
	if len(ref.Filters) > 0 {
		r.unsupported = "filters of single backends are not supported"
	}
	unresolved := func(reason gatewayv1.RouteConditionReason, format string, args ...any) {
		c := condition(gatewayv1.RouteConditionResolvedRefs, false, reason, fmt.Sprintf(format, args...))
		r.unresolved = &c
	}
	name := objectName{object.Namespace, string(ref.Name)}
	if ref.Namespace != nil {
		name.namespace = string(*ref.Namespace)
	}
	switch service := b.cluster.service(name.namespace, name.name); {
	case (ref.Kind != nil && *ref.Kind != "Service") || (ref.Group != nil && *ref.Group != "" && *ref.Group != "core"):
		unresolved(gatewayv1.RouteReasonInvalidKind, "a backend of kind %s can't be served, only Services", *cmp.Or(ref.Kind, new(gatewayv1.Kind)))
	case !objects.granted(kindHTTPRoute, object.Namespace, "Service", name):
		unresolved(gatewayv1.RouteReasonRefNotPermitted, "no ReferenceGrant in namespace %s lets this HTTPRoute use the Service %s", name.namespace, name.name)
	case service == nil:
		unresolved(gatewayv1.RouteReasonBackendNotFound, "the Service %s is not there", name)
	default:
		port := servicePort(service, ref.Port)
		if port == nil {
			unresolved(gatewayv1.RouteReasonBackendNotFound, "the Service %s has no such port", name)
			break
		}
		if made.pool = b.servicePool(service, port); made.pool == nil {
			unresolved(gatewayv1.RouteReasonBackendNotFound, "the Service %s is of type ExternalName; these are served if external-name-services is true in the ConfigMap %s", name, settingsName)
			break
		}
		made.protocol = portProtocol(service, port)
	}
	to.backends = append(to.backends, made)
	to.weight += made.weight
}

func servicePort(service *corev1.Service, number *gatewayv1.PortNumber) *corev1.ServicePort {
	for i := range service.Spec.Ports {
		if port := &service.Spec.Ports[i]; number != nil && port.Port == *number && port.Protocol != corev1.ProtocolUDP {
			return port
		}
	}
	return nil
}

// setConditions brings conditions up to date, and keeps the times of those that
// stay as they are.
func setConditions(to *[]metav1.Condition, generation int64, wanted ...metav1.Condition) {
	for _, c := range wanted {
		c.ObservedGeneration = generation
		meta.SetStatusCondition(to, c)
	}
}

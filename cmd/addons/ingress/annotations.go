package ingress

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Prefixes of annotations. Kedge's own win over the others.
const (
	ownPrefix     = "ingress.kedge.io/"
	nginxPrefix   = "nginx.ingress.kubernetes.io/"
	traefikPrefix = "traefik.ingress.kubernetes.io/"
)

// directives is what the annotations of an Ingress say.
type directives struct {
	redirectHTTPS      bool // always
	redirectHTTPSIfTLS bool // if the host has a certificate
	schemes            scheme
	authSecret         string
	authRealm          string
	bodySize           int64
	upstream           upstreamOptions
	rewriteTarget      string
	stripPrefix        bool
	useRegexp          bool
	affinity           bool
	affinityCookie     string
	affinityMaxAge     int
	protocol           *protocol
	allow              []netip.Prefix
	redirect           string
	redirectStatus     int
	appRoot            string
	acme               bool

	refused  string   // a protection was asked for in words that are not understood
	problems []string // one line each, for the user
}

// setter takes the value of an annotation over.
type setter func(d *directives, value string) error

// ownAnnotations are those of Kedge, without their prefix.
var ownAnnotations = map[string]setter{
	"redirect-https": boolean(func(d *directives, v bool) { d.redirectHTTPS = v }),
	"auth-secret":    func(d *directives, v string) error { d.authSecret = v; return nil },
	"auth-realm":     func(d *directives, v string) error { d.authRealm = v; return nil },
	"body-size": func(d *directives, v string) (err error) {
		d.bodySize, err = size(v)
		return err
	},
	"connect-timeout": timeout(func(d *directives, v time.Duration) { d.upstream.connectTimeout = v }),
	"read-timeout":    timeout(func(d *directives, v time.Duration) { d.upstream.readTimeout = v }),
	"send-timeout":    timeout(func(d *directives, v time.Duration) { d.upstream.sendTimeout = v }),
	"rewrite-target": func(d *directives, v string) error {
		if !strings.HasPrefix(v, "/") {
			return fmt.Errorf("%q is not a path", v)
		}
		d.rewriteTarget = v
		return nil
	},
	"strip-prefix": boolean(func(d *directives, v bool) { d.stripPrefix = v }),
	"use-regex":    boolean(func(d *directives, v bool) { d.useRegexp = v }),
	"affinity": func(d *directives, v string) error {
		if v != "cookie" {
			return fmt.Errorf("%q is not cookie", v)
		}
		d.affinity = true
		return nil
	},
	"affinity-cookie": func(d *directives, v string) error {
		if v == "" || strings.ContainsAny(v, " \t=;,\"") {
			return fmt.Errorf("%q is no name of a cookie", v)
		}
		d.affinityCookie = v
		return nil
	},
	"affinity-max-age": timeout(func(d *directives, v time.Duration) { d.affinityMaxAge = int(v.Seconds()) }),
	"backend-protocol": func(d *directives, v string) error {
		p, err := backendProtocol(v)
		if err == nil {
			d.protocol = &p
		}
		return err
	},
	"backend-verify": boolean(func(d *directives, v bool) { d.upstream.verify = v }),
	"backend-server-name": func(d *directives, v string) error {
		name := strings.ToLower(v)
		if len(validation.IsDNS1123Subdomain(name)) > 0 {
			return fmt.Errorf("%q is no DNS name", v)
		}
		d.upstream.serverName = name
		return nil
	},
	"allow-source": allowSource,
	"redirect":     redirectTo(302),
	"redirect-status": func(d *directives, v string) error {
		status, err := strconv.Atoi(v)
		if err != nil || !slices.Contains([]int{301, 302, 303, 307, 308}, status) {
			return fmt.Errorf("%q is none of 301, 302, 303, 307, 308", v)
		}
		d.redirectStatus = status
		return nil
	},
	"app-root": func(d *directives, v string) error {
		if !strings.HasPrefix(v, "/") {
			return fmt.Errorf("%q is not a path", v)
		}
		d.appRoot = v
		return nil
	},
	"acme": boolean(func(d *directives, v bool) { d.acme = v }),
}

// nginxAnnotations are the commonest of ingress-nginx.
var nginxAnnotations = map[string]setter{
	"ssl-redirect":          boolean(func(d *directives, v bool) { d.redirectHTTPSIfTLS = v }),
	"force-ssl-redirect":    ownAnnotations["redirect-https"],
	"auth-secret":           ownAnnotations["auth-secret"],
	"auth-realm":            ownAnnotations["auth-realm"],
	"auth-secret-type":      ignored, // both kinds are told apart by what is in them
	"auth-type":             authType,
	"proxy-body-size":       ownAnnotations["body-size"],
	"proxy-connect-timeout": ownAnnotations["connect-timeout"],
	"proxy-read-timeout":    ownAnnotations["read-timeout"],
	"proxy-send-timeout":    ownAnnotations["send-timeout"],
	"rewrite-target": func(d *directives, v string) error {
		d.useRegexp = true // as there
		return ownAnnotations["rewrite-target"](d, v)
	},
	"use-regex":               ownAnnotations["use-regex"],
	"affinity":                ownAnnotations["affinity"],
	"affinity-mode":           ignored,
	"session-cookie-name":     ownAnnotations["affinity-cookie"],
	"session-cookie-max-age":  ownAnnotations["affinity-max-age"],
	"session-cookie-expires":  ignored, // goes with session-cookie-max-age
	"session-cookie-path":     ignored,
	"backend-protocol":        ownAnnotations["backend-protocol"],
	"proxy-ssl-verify":        boolean(func(d *directives, v bool) { d.upstream.verify = v }),
	"proxy-ssl-name":          ownAnnotations["backend-server-name"],
	"proxy-ssl-server-name":   ignored, // it is always sent
	"whitelist-source-range":  allowSource,
	"allowlist-source-range":  allowSource,
	"permanent-redirect":      redirectTo(301),
	"permanent-redirect-code": ownAnnotations["redirect-status"],
	"temporal-redirect":       redirectTo(302),
	"temporal-redirect-code":  ownAnnotations["redirect-status"],
	"app-root":                ownAnnotations["app-root"],
	"websocket-services":      ignored, // all are
	"proxy-buffering":         ignored, // it never buffers
	"proxy-request-buffering": ignored,
	"proxy-buffer-size":       ignored,
	"proxy-buffers-number":    ignored,
	"proxy-http-version":      ignored,
	"service-upstream":        ignored,
	"enable-access-log":       ignored,
}

// traefikAnnotations are those of Traefik that need no object of its own.
var traefikAnnotations = map[string]setter{
	"router.entrypoints": func(d *directives, v string) error {
		d.schemes = 0
		for _, name := range strings.Split(v, ",") {
			switch strings.TrimSpace(name) {
			case "web":
				d.schemes |= schemeHTTP
			case "websecure":
				d.schemes |= schemeHTTPS
			}
		}
		if d.schemes == 0 {
			d.schemes = schemeBoth
			return fmt.Errorf("%q is neither web nor websecure", v)
		}
		return nil
	},
	"router.tls": boolean(func(d *directives, v bool) {
		if v {
			d.schemes = schemeHTTPS
		}
	}),
	"router.pathmatcher": ignored,
}

// otherAnnotations are those that all controllers have in common.
var otherAnnotations = map[string]setter{
	"kubernetes.io/tls-acme": ownAnnotations["acme"],
}

// readAnnotations understands the annotations of an Ingress, and says what it
// doesn't.
func readAnnotations(annotations map[string]string) *directives {
	d := &directives{schemes: schemeBoth, authRealm: "authentication required", affinityCookie: "kedge-ingress"}
	known := []struct {
		prefix  string
		setters map[string]setter
	}{
		{"", otherAnnotations},
		{traefikPrefix, traefikAnnotations},
		{nginxPrefix, nginxAnnotations},
		{ownPrefix, ownAnnotations},
	}
	for _, set := range known {
		var unknown []string
		for _, key := range sortedKeys(annotations) {
			name, ok := strings.CutPrefix(key, set.prefix)
			if !ok {
				continue
			}
			take, ok := set.setters[name]
			switch {
			case !ok && set.prefix != "":
				unknown = append(unknown, name)
			case !ok:
			default:
				if err := take(d, annotations[key]); err != nil {
					d.problems = append(d.problems, fmt.Sprintf("annotation %s: %v", key, err))
				}
			}
		}
		if len(unknown) > 0 {
			d.problems = append(d.problems, fmt.Sprintf("annotations that are not known have no effect: %s%s",
				set.prefix, strings.Join(unknown, ", "+set.prefix)))
		}
	}
	return d
}

func ignored(*directives, string) error { return nil }

func boolean(set func(*directives, bool)) setter {
	return func(d *directives, v string) error {
		switch strings.ToLower(v) {
		case "true", "on", "yes":
			set(d, true)
		case "false", "off", "no":
			set(d, false)
		default:
			return fmt.Errorf("%q is neither true nor false", v)
		}
		return nil
	}
}

// timeout takes durations such as 1m30s; a bare number is seconds.
func timeout(set func(*directives, time.Duration)) setter {
	return func(d *directives, v string) error {
		took, err := duration(v)
		if err != nil {
			return err
		}
		set(d, took)
		return nil
	}
}

func duration(v string) (time.Duration, error) {
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	took, err := time.ParseDuration(v)
	if err != nil || took < 0 {
		return 0, fmt.Errorf("%q is no duration such as 30s", v)
	}
	return took, nil
}

// size takes Kubernetes' quantities and nginx's 8m; 0 is no limit.
func size(v string) (int64, error) {
	wrong := fmt.Errorf("%q is no size such as 8Mi", v)
	v = strings.TrimSpace(v)
	var factor int64
	switch lower := strings.ToLower(v); {
	case strings.HasSuffix(lower, "k"):
		factor = 1 << 10
	case strings.HasSuffix(lower, "m"):
		factor = 1 << 20
	case strings.HasSuffix(lower, "g"):
		factor = 1 << 30
	default:
		quantity, err := resource.ParseQuantity(v)
		if err != nil || quantity.Sign() < 0 {
			return 0, wrong
		}
		return quantity.Value(), nil
	}
	number, err := strconv.ParseInt(v[:len(v)-1], 10, 64)
	if err != nil || number < 0 || number > math.MaxInt64/factor {
		return 0, wrong
	}
	return number * factor, nil
}

func backendProtocol(v string) (protocol, error) {
	switch strings.ToUpper(v) {
	case "HTTP", "AUTO_HTTP":
		return protocolHTTP, nil
	case "HTTPS", "GRPCS":
		return protocolHTTPS, nil
	case "H2C", "GRPC":
		return protocolH2C, nil
	}
	return protocolHTTP, fmt.Errorf("%q is none of HTTP, HTTPS, H2C, GRPC, GRPCS", v)
}

// allowSource refuses everybody when it does not understand who is allowed.
func allowSource(d *directives, v string) error {
	d.allow = nil
	for _, each := range strings.Split(v, ",") {
		each = strings.TrimSpace(each)
		if each == "" {
			continue
		}
		p, err := parsePrefix(each)
		if err != nil {
			d.refused = "who may use this host is not set up correctly"
			return fmt.Errorf("%q is no address or range of addresses; nobody is let in", each)
		}
		d.allow = append(d.allow, p)
	}
	return nil
}

func parsePrefix(v string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(v); err == nil {
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	return p.Masked(), err
}

func authType(d *directives, v string) error {
	if v != "basic" {
		d.refused = "the authentication asked for is not supported"
		return fmt.Errorf("%q is not basic; nobody is let in", v)
	}
	return nil
}

func redirectTo(status int) setter {
	return func(d *directives, v string) error {
		if u, err := url.Parse(v); err != nil || v == "" || (u.Scheme == "" && !strings.HasPrefix(v, "/")) {
			return fmt.Errorf("%q is no URL", v)
		}
		d.redirect = v
		if d.redirectStatus == 0 {
			d.redirectStatus = status
		}
		return nil
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

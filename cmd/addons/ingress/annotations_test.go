package ingress

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestAnnotations(t *testing.T) {
	h2c, https := protocolH2C, protocolHTTPS
	base := func(change func(*directives)) *directives {
		d := readAnnotations(nil)
		change(d)
		return d
	}
	tests := []struct {
		annotations string // KEY=VALUE
		want        *directives
	}{
		{"", base(func(*directives) {})},
		{"unrelated/key=x", base(func(*directives) {})},
		{"ingress.kedge.io/redirect-https=true", base(func(d *directives) { d.redirectHTTPS = true })},
		{"nginx.ingress.kubernetes.io/force-ssl-redirect=true", base(func(d *directives) { d.redirectHTTPS = true })},
		{"nginx.ingress.kubernetes.io/ssl-redirect=true", base(func(d *directives) { d.redirectHTTPSIfTLS = true })},
		{"ingress.kedge.io/body-size=8Mi", base(func(d *directives) { d.bodySize = 8 << 20 })},
		{"nginx.ingress.kubernetes.io/proxy-body-size=8m", base(func(d *directives) { d.bodySize = 8 << 20 })},
		{"nginx.ingress.kubernetes.io/proxy-body-size=0", base(func(*directives) {})},
		{"nginx.ingress.kubernetes.io/proxy-body-size=8m ingress.kedge.io/body-size=100", base(func(d *directives) { d.bodySize = 100 })},
		{"ingress.kedge.io/read-timeout=1m30s", base(func(d *directives) { d.upstream.readTimeout = 90 * time.Second })},
		{"nginx.ingress.kubernetes.io/proxy-read-timeout=90", base(func(d *directives) { d.upstream.readTimeout = 90 * time.Second })},
		{"nginx.ingress.kubernetes.io/backend-protocol=GRPC", base(func(d *directives) { d.protocol = &h2c })},
		{"ingress.kedge.io/backend-protocol=https", base(func(d *directives) { d.protocol = &https })},
		{"ingress.kedge.io/backend-server-name=Web.internal", base(func(d *directives) { d.upstream.serverName = "web.internal" })},
		{"nginx.ingress.kubernetes.io/affinity=cookie nginx.ingress.kubernetes.io/session-cookie-name=sid nginx.ingress.kubernetes.io/session-cookie-max-age=60",
			base(func(d *directives) { d.affinity, d.affinityCookie, d.affinityMaxAge = true, "sid", 60 })},
		{"nginx.ingress.kubernetes.io/permanent-redirect=https://x/", base(func(d *directives) { d.redirect, d.redirectStatus = "https://x/", 301 })},
		{"traefik.ingress.kubernetes.io/router.entrypoints=websecure", base(func(d *directives) { d.schemes = schemeHTTPS })},
		{"kubernetes.io/tls-acme=true", base(func(d *directives) { d.acme = true })},
		{"nginx.ingress.kubernetes.io/proxy-buffering=off", base(func(*directives) {})},
	}
	for _, test := range tests {
		annotations := make(map[string]string)
		for _, each := range strings.Fields(test.annotations) {
			key, value, _ := strings.Cut(each, "=")
			annotations[key] = value
		}
		if got := readAnnotations(annotations); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.annotations, got, test.want)
		}
	}
}

func TestAnnotationProblems(t *testing.T) {
	for annotation, want := range map[string]string{
		"ingress.kedge.io/body-size=big":                                `annotation ingress.kedge.io/body-size: "big" is no size such as 8Mi`,
		"ingress.kedge.io/read-timeout=soon":                            `annotation ingress.kedge.io/read-timeout: "soon" is no duration such as 30s`,
		"ingress.kedge.io/redirect-https=maybe":                         `annotation ingress.kedge.io/redirect-https: "maybe" is neither true nor false`,
		"ingress.kedge.io/redirect=nowhere":                             `annotation ingress.kedge.io/redirect: "nowhere" is no URL`,
		"ingress.kedge.io/backend-server-name={env.HOME}":               `annotation ingress.kedge.io/backend-server-name: "{env.HOME}" is no DNS name`,
		"nginx.ingress.kubernetes.io/proxy-ssl-name={file./etc/passwd}": `annotation nginx.ingress.kubernetes.io/proxy-ssl-name: "{file./etc/passwd}" is no DNS name`,
		"ingress.kedge.io/redirct=x":                                    `annotations that are not known have no effect: ingress.kedge.io/redirct`,
		"nginx.ingress.kubernetes.io/configuration-snippet=x":           `annotations that are not known have no effect: nginx.ingress.kubernetes.io/configuration-snippet`,
		"nginx.ingress.kubernetes.io/auth-type=digest":                  `annotation nginx.ingress.kubernetes.io/auth-type: "digest" is not basic; nobody is let in`,
		"nginx.ingress.kubernetes.io/whitelist-source-range=10.0.0/8":   `annotation nginx.ingress.kubernetes.io/whitelist-source-range: "10.0.0/8" is no address or range of addresses; nobody is let in`,
	} {
		key, value, _ := strings.Cut(annotation, "=")
		if got := readAnnotations(map[string]string{key: value}).problems; len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", annotation, got, want)
		}
	}
}

func TestBasicAuth(t *testing.T) {
	file := strings.Join([]string{
		"# made with openssl passwd -apr1, htpasswd -B and htpasswd -s",
		"apr:$apr1$abcdefgh$ZAdX7G.l3eDbgTYbm5ePE0", // secret pass
		"short:$apr1$ab$eIePjsejfBGR8ITtu2z0U1",     // x
		"sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",     // password
		"",
	}, "\n")
	secrets := map[string]*corev1.Secret{
		"file":  {Data: map[string][]byte{"auth": []byte(file)}},
		"users": {Data: map[string][]byte{"users": []byte(file)}},
		"basic": {Type: corev1.SecretTypeBasicAuth, Data: map[string][]byte{"username": []byte("me"), "password": []byte("mine")}},
		"map":   {Data: map[string][]byte{"apr": []byte("$apr1$abcdefgh$ZAdX7G.l3eDbgTYbm5ePE0")}},
	}
	tests := []struct {
		secret, user, password string
		want                   bool
	}{
		{"file", "apr", "secret pass", true},
		{"file", "apr", "Secret pass", false},
		{"file", "short", "x", true},
		{"file", "sha", "password", true},
		{"file", "sha", "passwords", false},
		{"file", "nobody", "x", false},
		{"users", "short", "x", true},
		{"basic", "me", "mine", true},
		{"basic", "me", "other", false},
		{"map", "apr", "secret pass", true},
	}
	for _, test := range tests {
		auth, err := newBasicAuth(secrets[test.secret], "r")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it is known
			r := request("GET", "http://h/")
			r.SetBasicAuth(test.user, test.password)
			if got := auth.permits(r); got != test.want {
				t.Errorf("%s %s %s: %t, want %t", test.secret, test.user, test.password, got, test.want)
			}
		}
		if auth.permits(request("GET", "http://h/")) {
			t.Errorf("%s: lets a request without a name in", test.secret)
		}
	}
	for text, want := range map[string]string{
		"justaname":    "line 1 is not NAME:HASH",
		"me:plaintext": `the hash of user "me" is of no form that is understood; make it with htpasswd -B`,
		"":             "it has no users",
	} {
		if _, err := newBasicAuth(&corev1.Secret{Data: map[string][]byte{"auth": []byte(text)}}, ""); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestProblems has what users get wrong, each with the one line that says so.
func TestProblems(t *testing.T) {
	c := newFakeCluster()
	c.addService("web", "10.0.0.1:80")
	outside := c.addService("outside")
	outside.Spec.Type, outside.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	broken := newAuthority(t).secret("broken", "1", "h")
	broken.Data["tls.key"] = []byte("no key")
	c.secrets[objectName{"default", "broken"}] = broken
	rules := `rules: [{host: h, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]`
	for text, want := range map[string]string{
		`spec: {defaultBackend: {service: {name: gone, port: {number: 80}}}}`:    "the Service default/gone is not there",
		`spec: {defaultBackend: {service: {name: web, port: {number: 81}}}}`:     "the Service default/web has no port 81",
		`spec: {defaultBackend: {service: {name: web, port: {name: grpc}}}}`:     "the Service default/web has no port grpc",
		`spec: {defaultBackend: {service: {name: outside, port: {number: 80}}}}`: "the Service default/outside is of type ExternalName; these are served if external-name-services is true in the ConfigMap ingress",
		`spec: {tls: [{hosts: [h], secretName: gone}], ` + rules + `}`:           "the Secret default/gone of type kubernetes.io/tls is not there; its hosts have a certificate that no client trusts",
		`spec: {tls: [{hosts: [h], secretName: broken}], ` + rules + `}`:         "the Secret default/broken has no usable certificate: tls: failed to find any PEM data in key input",
	} {
		i := c.addIngress(t, "{metadata: {name: one}, "+text+"}")
		if got := c.build().problems("one"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		c.list = nil
		_ = i
	}
	for annotations, want := range map[string]string{
		"ingress.kedge.io/auth-secret=gone":       "the Secret default/gone with the passwords is not there; nobody is let in until it is",
		"ingress.kedge.io/auth-secret=other/gone": "the Secret other/gone with the passwords is in another namespace; nobody is let in: copy it to default",
		"ingress.kedge.io/auth-secret=broken":     `the Secret default/broken with the passwords can't be used, nobody is let in: the hash of user "tls.crt" is of no form that is understood; make it with htpasswd -B`,
		"ingress.kedge.io/acme=true":              "a certificate for h is asked for, but no ACME server is set: give acme-server in the ConfigMap ingress",
	} {
		key, value, _ := strings.Cut(annotations, "=")
		i := c.simple(t, "h", "Prefix", "/", "web", key, value)
		got := c.build().problems(i.Name)
		if want := strings.ReplaceAll(want, `"tls.crt"`, `"tls.key"`); len(got) != 1 || (got[0] != want && got[0] != strings.ReplaceAll(want, "tls.key", "tls.crt")) {
			t.Errorf("%s: %q, want %q", annotations, got, want)
		}
		c.list = nil
	}
}

func TestSettings(t *testing.T) {
	got, problems := readSettings(&corev1.ConfigMap{Data: map[string]string{
		"access-log": "true", "body-size": "1g", "trusted-proxies": "10.0.0.0/8, 192.168.1.1",
		"default-certificate": "default/cert", "acme-server": "letsencrypt", "acme-email": "me@example.com",
	}})
	if len(problems) > 0 || !got.accessLog || got.bodySize != 1<<30 || len(got.trustedProxies) != 2 ||
		got.certificate.String() != "default/cert" || got.acme.server != LetsEncrypt || got.acme.email != "me@example.com" {
		t.Errorf("%+v, %q", got, problems)
	}
	for key, want := range map[string]string{
		"acces-log=true":              "acces-log has no effect: it is not known",
		"access-log=perhaps":          `access-log has no effect: "perhaps" is neither true nor false`,
		"trusted-proxies=all":         `trusted-proxies has no effect: "all" is no address or range of addresses`,
		"default-certificate=cert":    `default-certificate has no effect: "cert" is not NAMESPACE/NAME of a Secret`,
		"acme-server=http://plain/":   `acme-server has no effect: "http://plain/" is neither letsencrypt nor the https URL of an ACME server's directory`,
		"acme-server=example.com/dir": `acme-server has no effect: "example.com/dir" is neither letsencrypt nor the https URL of an ACME server's directory`,
	} {
		key, value, _ := strings.Cut(key, "=")
		if _, problems := readSettings(&corev1.ConfigMap{Data: map[string]string{key: value}}); len(problems) != 1 || problems[0] != want {
			t.Errorf("%s: %q, want %q", key, problems, want)
		}
	}
}

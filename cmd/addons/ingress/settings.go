package ingress

import (
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// settingsName is the ConfigMap, beside our own pods, with the settings of the
// whole ingress. Users make it; without it all are at their defaults.
const settingsName = "ingress"

// LetsEncrypt is the ACME server that acme-server: letsencrypt stands for.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// readSettings reads the ConfigMap, and says what it doesn't understand.
func readSettings(from *corev1.ConfigMap) (*settings, []string) {
	s := &settings{}
	if from == nil {
		return s, nil
	}
	var problems []string
	for _, key := range sortedKeys(from.Data) {
		value := strings.TrimSpace(from.Data[key])
		var err error
		switch key {
		case "access-log":
			s.accessLog, err = truth(value)
		case "redirect-https":
			s.redirectHTTPS, err = truth(value)
		case "external-name-services":
			s.externalNames, err = truth(value)
		case "body-size":
			s.bodySize, err = size(value)
		case "trusted-proxies":
			for _, each := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
				prefix, wrong := parsePrefix(each)
				if wrong != nil {
					err = fmt.Errorf("%q is no address or range of addresses", each)
					continue
				}
				s.trustedProxies = append(s.trustedProxies, prefix)
			}
		case "default-certificate":
			namespace, name, ok := strings.Cut(value, "/")
			if !ok {
				err = fmt.Errorf("%q is not NAMESPACE/NAME of a Secret", value)
				break
			}
			s.certificate = objectName{namespace, name}
		case "acme-server":
			s.acme.server = value
			if strings.EqualFold(value, "letsencrypt") {
				s.acme.server = LetsEncrypt
			}
			if u, wrong := url.Parse(s.acme.server); wrong != nil || u.Scheme != "https" || u.Host == "" {
				s.acme.server = ""
				err = fmt.Errorf("%q is neither letsencrypt nor the https URL of an ACME server's directory", value)
			}
		case "acme-email":
			s.acme.email = value
		case "acme-ca":
			s.acme.ca = value
		default:
			err = fmt.Errorf("it is not known")
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s has no effect: %v", key, err))
		}
	}
	return s, problems
}

func truth(value string) (v bool, err error) {
	err = boolean(func(_ *directives, set bool) { v = set })(nil, value)
	return v, err
}

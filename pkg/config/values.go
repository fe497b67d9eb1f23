package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/token"
)

// The parsers turn the text of one value into its type. Their errors begin
// with the text and end with what to give instead.

func parseText(s string) (string, error) { return s, nil }

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is not true or false; give one of them", s)
	}
	return b, nil
}

func parseNumber(s string, least, most int, what string) (int, error) {
	n, err := strconv.Atoi(s)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, fmt.Errorf("%q is not a number; give a %s from %d to %d", s, what, least, most)
	case err != nil || n < least || n > most:
		return 0, fmt.Errorf("%s is out of range; give a %s from %d to %d", s, what, least, most)
	}
	return n, nil
}

func parsePort(s string) (uint16, error) {
	n, err := parseNumber(s, 1, 65535, "port")
	return uint16(n), err //nolint:gosec // parseNumber keeps it in range
}

func parseVerbosity(s string) (int, error) { return parseNumber(s, 0, 10, "level") }

func parseVModule(s string) (string, error) {
	for module := range strings.SplitSeq(s, ",") {
		pattern, level, _ := strings.Cut(module, "=")
		if module == "" { // as a trailing comma makes it
			continue
		}
		if _, err := strconv.ParseUint(level, 10, 31); err != nil || pattern == "" {
			return "", fmt.Errorf("%q is not a source file pattern with a level; give PATTERN=LEVEL, such as reflector=4", module)
		}
	}
	return s, nil
}

// parsePath makes a path absolute, so that it means the same to every part of
// Kedge. An empty one stays empty.
func parsePath(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return filepath.Abs(s)
}

func parseNeededPath(s string) (string, error) {
	if s == "" {
		return "", errors.New("is empty; give a path")
	}
	return parsePath(s)
}

// parseEndpoint accepts a socket as a path or with the scheme unix, and returns
// it with the scheme.
func parseEndpoint(s string) (string, error) {
	const scheme = "unix://"
	path := strings.TrimPrefix(s, scheme)
	if s == "" {
		return "", nil
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not a socket; give its absolute path, such as /run/containerd/containerd.sock", s)
	}
	return scheme + filepath.Clean(path), nil
}

func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("%q is not a file mode; give three octal digits, such as 0600 or 0640", s)
	}
	mode := fs.FileMode(n)
	if mode&0o002 != 0 {
		return 0, fmt.Errorf("%q lets everyone write the administrator's kubeconfig; give a mode such as 0600 or 0640", s)
	}
	return mode, nil
}

func parseImage(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.HasPrefix(s, "-") {
		return "", fmt.Errorf("%q is not an image; give a reference such as registry.example.com/pause:1", s)
	}
	return s, nil
}

var registryPrefix = regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)

// parseRegistry takes what names of images can begin with.
func parseRegistry(s string) (string, error) {
	if s != "" && !registryPrefix.MatchString(s) {
		return "", fmt.Errorf("%q is not a registry; give HOST, HOST:PORT or HOST/PATH without a scheme, such as registry.example.com:5000", s)
	}
	return s, nil
}

// choice returns a parser that takes only the given values.
func choice(what string, choices []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(choices, s) {
			return s, nil
		}
		return "", fmt.Errorf("unknown %s %q; %s", what, s, didYouMean(s, choices, "give one of: "+strings.Join(choices, ", ")))
	}
}

// parseAddr takes an IP address without a zone. IPv4 addresses must be written
// as such, as the rest of Kubernetes refuses the IPv6 notation of them.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address; give one such as 192.0.2.10 or 2001:db8::10", s)
	}
	return a, nil
}

// parseBindAddr takes an address to listen on.
func parseBindAddr(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err == nil && a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%s cannot be listened on; give an address of this host, or 0.0.0.0 for all", s)
	}
	return a, err
}

// parseHostAddr takes an address at which others reach this host.
func parseHostAddr(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err == nil && (a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast()) {
		return netip.Addr{}, fmt.Errorf("%s is no address at which other hosts reach this one; give one of its network interfaces", s)
	}
	return a, err
}

// parseRange takes a range of addresses that can be given to pods or Services.
func parseRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not an address range; give a CIDR such as 10.42.0.0/16 or fd42::/56", s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has address bits behind its prefix length; did you mean %s?", s, m)
	}
	for _, special := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", // this network, loopback, link-local, multicast and above
		"::/127", "fe80::/10", "ff00::/8", // unspecified and loopback, link-local, multicast
	} {
		if special := netip.MustParsePrefix(special); p.Overlaps(special) {
			return netip.Prefix{}, fmt.Errorf("%s overlaps %s, which has a special meaning; give a private range such as 10.42.0.0/16 or fd42::/56", s, special)
		}
	}
	return p, nil
}

// parseServiceRange keeps ranges between what Kedge's own Services need and
// the largest that kube-apiserver takes, which is 20 address bits.
func parseServiceRange(s string) (netip.Prefix, error) {
	p, err := parseRange(s)
	if err != nil {
		return p, err
	}
	width := p.Addr().BitLen()
	switch bits := width - p.Bits(); {
	case bits > 20:
		return netip.Prefix{}, fmt.Errorf("%s is larger than Kubernetes allows for Services; give a range from /%d to /%d", s, width-20, width-4)
	case bits < 4:
		return netip.Prefix{}, fmt.Errorf("%s is too small for Services; give a range from /%d to /%d", s, width-20, width-4)
	}
	return p, nil
}

func parseNodePorts(s string) (NodePortRange, error) {
	first, last, _ := strings.Cut(s, "-")
	low, errLow := parsePort(first)
	high, errHigh := parsePort(last)
	if errLow != nil || errHigh != nil || low > high {
		return NodePortRange{}, fmt.Errorf("%q is not a port range; give FIRST-LAST, ports from 1 to 65535, such as 30000-32767", s)
	}
	return NodePortRange{First: low, Last: high}, nil
}

func parseDomain(s string) (string, error) {
	if !isDNSName(s) {
		return "", fmt.Errorf("%q is not a DNS domain; give lower-case letters, digits, - and dots, such as cluster.local", s)
	}
	return s, nil
}

// parseServer takes the URL of a server and returns it with its port. Of a
// value it refuses it tells no more than the host and the port, as the rest may
// hold a password, and one that could be a token it does not tell at all.
func parseServer(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if t, err := token.Parse(s); err == nil && (t.CAHash != "" || t.BootstrapID != "") {
		return "", errors.New("is a token; give the URL of a server, such as https://kedge.example.com:6443, and the token with --token")
	}
	scheme, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		rest = s
	}
	u, err := url.Parse("https://" + rest)
	if err != nil || strings.HasSuffix(u.Host, ":") {
		return "", errServer
	}
	host, errHost := parseSAN(u.Hostname())
	port, errPort := parsePort(cmp.Or(u.Port(), "6443"))
	if errHost != nil || errPort != nil || strings.HasPrefix(host, "*") {
		return "", errServer
	}
	server := "https://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
	switch {
	case !hasScheme && !strings.ContainsAny(u.Host, ".:"):
		return "", errServer
	case !hasScheme:
		return "", fmt.Errorf("has no scheme; give %s", server)
	case !strings.EqualFold(scheme, "https"):
		return "", fmt.Errorf("is not an https URL; give %s", server)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(rest, "?#"):
		return "", fmt.Errorf("has more than a host and a port; give %s", server)
	}
	return server, nil
}

var errServer = errors.New("is not the URL of a server; give one such as https://kedge.example.com:6443")

// parseToken takes a well-formed token of any kind.
func parseToken(s string) (Secret, error) {
	t, err := token.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%w; give one as a server has it in the file server/token of its data directory", err)
	}
	return Secret(t.Reveal()), nil
}

// readTokenFile reads the token in a file.
func readTokenFile(path string) (s Secret, warning string, err error) {
	t, warning, err := token.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(path, "/"):
		// It may be the token itself.
		return "", "", errors.New("names a file that does not exist; name one that holds the token")
	case err != nil:
		return "", "", fmt.Errorf("%w; name a file that holds the token", err)
	}
	return Secret(t.Reveal()), warning, nil
}

// parseSAN takes an IP address or a host name, whose first label may be "*".
func parseSAN(s string) (string, error) {
	if a, err := parseAddr(s); err == nil {
		return a.String(), nil
	}
	name := strings.ToLower(s)
	if !isHostName(strings.TrimPrefix(name, "*.")) {
		return "", fmt.Errorf("%q is neither a host name nor an IP address; give one without scheme and port, such as kedge.example.com", s)
	}
	return name, nil
}

// parseHostName takes a host name, which is no IP address.
func parseHostName(s string) (string, error) {
	name := strings.ToLower(s)
	if !isHostName(name) {
		return "", fmt.Errorf("%q is not a host name; give one such as node1.example.com", s)
	}
	return name, nil
}

// parseInterface takes what Linux takes for the name of a network interface.
func parseInterface(s string) (string, error) {
	if len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\r\n") {
		return "", fmt.Errorf("%q is not a network interface; give one that ip link lists, such as eth0", s)
	}
	return s, nil
}

// parseNodeName takes a host name, as the kubelet does regardless of case.
func parseNodeName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSpace(s))
	if len(name) > 63 || !isDNSName(name) {
		return "", fmt.Errorf("%q is not a node name; give up to 63 letters, digits, - or dots, with a letter or digit at either end", s)
	}
	return name, nil
}

const labelRule = `up to 63 letters, digits, "-", "_" or ".", with a letter or digit at either end`

// parseLabel takes a label that a node may give itself.
func parseLabel(s string) (key, val string, err error) {
	key, val, given := strings.Cut(s, "=")
	switch {
	case !given:
		return "", "", fmt.Errorf("%q is not a label; give KEY=VALUE", s)
	case !isLabelKey(key):
		return "", "", fmt.Errorf(`%q is not a label key; give %s, and before it a DNS name and "/" if wanted`, key, labelRule)
	case !isLabelValue(val):
		return "", "", fmt.Errorf("%q is not a label value; give none or %s", val, labelRule)
	case isReservedLabel(key):
		return "", "", fmt.Errorf("%q is reserved by Kubernetes, a node cannot give it to itself; set it with: kedge kubectl label node NODE %s", key, s)
	}
	return key, val, nil
}

// parseTaint takes KEY=VALUE:EFFECT; "=VALUE" may be missing.
func parseTaint(s string) (Taint, error) {
	effects := []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
	label, effect, given := strings.Cut(s, ":")
	key, val, _ := strings.Cut(label, "=")
	switch {
	case !given:
		return Taint{}, fmt.Errorf("%q is not a taint; give KEY=VALUE:EFFECT, such as dedicated=db:NoSchedule", s)
	case !isLabelKey(key):
		return Taint{}, fmt.Errorf(`%q is not a taint key; give %s, and before it a DNS name and "/" if wanted`, key, labelRule)
	case !isLabelValue(val):
		return Taint{}, fmt.Errorf("%q is not a taint value; give none or %s", val, labelRule)
	case !slices.Contains(effects, effect):
		return Taint{}, fmt.Errorf("unknown taint effect %q; %s", effect, didYouMean(effect, effects, "give one of: "+strings.Join(effects, ", ")))
	}
	return Taint{Key: key, Value: val, Effect: effect}, nil
}

// parseArg takes KEY=VALUE; KEY alone means KEY=true, as on a command line.
// Its errors keep the value to themselves, which may be a secret.
func parseArg(s string) (Arg, error) {
	name, val, given := strings.Cut(strings.TrimPrefix(s, "--"), "=")
	if !given {
		val = "true"
	}
	switch {
	case name == "":
		return Arg{}, errors.New("an argument has no name; give KEY=VALUE")
	case strings.ContainsAny(name, " \t\r\n") || strings.HasPrefix(name, "-"):
		return Arg{}, fmt.Errorf("%q is not an argument's name; give KEY=VALUE, each argument by itself", name)
	}
	return Arg{Name: name, Value: val}, nil
}

// isDNSName checks for a DNS-1123 subdomain: lower-case labels with dots between.
func isDNSName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isName(label, "-") || strings.ToLower(label) != label {
			return false
		}
	}
	return len(s) <= 253
}

// isHostName checks for a DNS name. One that ends in a number is an address
// that was mistyped.
func isHostName(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	return isDNSName(s) && strings.Trim(last, "0123456789") != ""
}

// isLabelKey checks for a name with, perhaps, a DNS name and "/" before it.
func isLabelKey(s string) bool {
	domain, name, qualified := strings.Cut(s, "/")
	if !qualified {
		return isName(s, "-_.")
	}
	return isDNSName(domain) && isName(name, "-_.")
}

func isLabelValue(s string) bool { return s == "" || isName(s, "-_.") }

// isName checks for 1 to 63 ASCII letters and digits; those of inner may stand
// between them.
func isName(s, inner string) bool {
	alphanumeric := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	}
	for i := range len(s) {
		edge := i == 0 || i == len(s)-1
		if !alphanumeric(s[i]) && (edge || strings.IndexByte(inner, s[i]) < 0) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 63
}

// isReservedLabel tells whether Kubernetes keeps a node from giving itself the
// label: all of its own are but the ones below, by the rules of the kubelet and
// of the NodeRestriction admission.
func isReservedLabel(key string) bool {
	domain, _, qualified := strings.Cut(key, "/")
	within := func(parent string) bool {
		return domain == parent || strings.HasSuffix(domain, "."+parent)
	}
	if !qualified || !within("kubernetes.io") && !within("k8s.io") {
		return false
	}
	if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
		return false
	}
	return !slices.Contains([]string{
		"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch",
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type",
		"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	}, key)
}

// Checks of whole lists.

func oneRangePerFamily(ranges []netip.Prefix) error {
	addrs := make([]netip.Addr, len(ranges))
	for i, r := range ranges {
		addrs[i] = r.Addr()
	}
	if twiceInAFamily(addrs) {
		return fmt.Errorf("%s are two ranges of one IP family or more than two; give at most one IPv4 and one IPv6 range", join(ranges))
	}
	return nil
}

func oneAddrPerFamily(addrs []netip.Addr) error {
	if twiceInAFamily(addrs) {
		return fmt.Errorf("%s are two addresses of one IP family or more than two; give at most one IPv4 and one IPv6 address", join(addrs))
	}
	return nil
}

func twiceInAFamily(addrs []netip.Addr) bool {
	return len(addrs) > 2 || len(addrs) == 2 && addrs[0].Is4() == addrs[1].Is4()
}

func distinctTaints(taints []Taint) error {
	for i, t := range taints {
		if slices.ContainsFunc(taints[:i], func(u Taint) bool { return u.Key == t.Key && u.Effect == t.Effect }) {
			return fmt.Errorf("taint %q with effect %s is given twice; give it once", t.Key, t.Effect)
		}
	}
	return nil
}

// join writes a list as a person gives it.
func join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

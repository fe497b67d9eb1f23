package noproxy

import (
	"net/netip"
	"net/url"
	"os"
	"testing"

	"golang.org/x/net/http/httpproxy"
)

var cluster = Cluster{
	Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd43::/112")},
	Domain: "cluster.local",
	Nodes:  []string{"192.0.2.1", "2001:db8::1", "server.example:6443"},
}

func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range append(proxies, "NO_PROXY", "no_proxy") {
		t.Setenv(name, "")
	}
}

func TestSet(t *testing.T) {
	noEnvironment(t)
	t.Setenv("https_proxy", "http://proxy:3128")
	t.Setenv("NO_PROXY", "intra.example, 192.0.2.1")
	t.Setenv("no_proxy", ".lower.example")
	if err := cluster.Set(); err != nil {
		t.Fatal(err)
	}
	const want = "intra.example,192.0.2.1,.lower.example,.svc,.cluster.local,10.42.0.0/16,fd43::/112,2001:db8::1,server.example:6443"
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	// As Go reads it.
	choose := httpproxy.FromEnvironment().ProxyFunc()
	for address, proxied := range map[string]bool{
		"https://10.42.3.4:8443": false, "https://[fd43::1]": false, "https://web.default.svc": false, "https://web.default.svc.cluster.local": false,
		"https://192.0.2.1:10250": false, "https://[2001:db8::1]:10250": false, "https://server.example:6443": false, "https://a.intra.example": false,
		"https://registry.example": true, "https://192.0.2.2:10250": true, "https://10.43.0.1": true,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if proxy, err := choose(u); err != nil || (proxy != nil) != proxied {
			t.Errorf("%s goes through %v, error %v", address, proxy, err)
		}
	}
}

func TestNoProxy(t *testing.T) {
	noEnvironment(t)
	t.Setenv("NO_PROXY", "a")
	if err := cluster.Set(); err != nil || os.Getenv("NO_PROXY") != "a" || os.Getenv("no_proxy") != "" {
		t.Errorf("NO_PROXY is %s, no_proxy %s, error %v", os.Getenv("NO_PROXY"), os.Getenv("no_proxy"), err)
	}
}

package dashboard

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"9.9.9.9":              true,
		"2606:4700::1111":      true,
		"127.0.0.1":            false,
		"::1":                  false,
		"0.0.0.0":              false,
		"::":                   false,
		"10.43.0.1":            false,
		"172.20.0.1":           false,
		"192.168.1.1":          false,
		"fd00::1":              false,
		"169.254.169.254":      false, // where clouds keep secrets
		"fe80::1":              false,
		"100.64.0.1":           false,
		"198.18.0.1":           false,
		"224.0.0.1":            false,
		"255.255.255.255":      false,
		"240.0.0.1":            false,
		"::ffff:9.9.9.9":       true,
		"::ffff:10.0.0.1":      false,
		"::ffff:127.0.0.1":     false,
		"64:ff9b::a2b:1":       false, // NAT64 of 10.43.0.1
		"2002:a2b:1::1":        false, // 6to4 of it
		"2001:0:4136:e378::1":  false,
		"2001:db8::1":          false,
		"fec0::1":              false,
		"ff02::1":              false,
		"2001:4860:4860::8888": true,
	} {
		if got := newFetcher(nil).permit(netip.AddrPortFrom(netip.MustParseAddr(address), 443).String()) == nil; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
	f := newFetcher([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")})
	for address, want := range map[string]bool{"10.1.2.3:8080": true, "10.2.0.1:443": false, "9.9.9.9:80": true, "9.9.9.9:6443": false, "nonsense": false} {
		if got := f.permit(address) == nil; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

func TestFetch(t *testing.T) {
	files := http.NewServeMux()
	files.HandleFunc("/good.yaml", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" {
			t.Error("the user's token goes to another server")
		}
		_, _ = w.Write([]byte("kind: Pod # é"))
	})
	files.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxFetched+1)) })
	files.HandleFunc("/binary", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{0xff, 0xfe}) })
	files.Handle("/moved", http.RedirectHandler("/good.yaml", http.StatusFound))
	files.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	files.Handle("/inside", http.RedirectHandler("http://169.254.169.254/latest", http.StatusFound))
	files.Handle("/file", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	elsewhere := httptest.NewServer(files)
	t.Cleanup(elsewhere.Close)
	server, _ := serve(t, with{fetch: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	strict, _ := serve(t, with{})

	login := func(server *httptest.Server) []string {
		_, body := do(t, "POST", server.URL+"/session", `{"token":"`+good+`"}`, "Content-Type: application/json")
		_, rest, _ := strings.Cut(body, `"csrf":"`)
		proof, _, _ := strings.Cut(rest, `"`)
		return []string{"Cookie: kedge-dashboard=" + good, "X-Kedge-Csrf: " + proof}
	}
	for name, c := range map[string]struct {
		server *httptest.Server
		url    string
		want   int
		says   string
	}{
		"a file":            {server, elsewhere.URL + "/good.yaml", 200, "kind: Pod # é"},
		"moved":             {server, elsewhere.URL + "/moved", 200, "kind: Pod"},
		"for ever":          {server, elsewhere.URL + "/loop", 422, "too many redirects"},
		"to the inside":     {server, elsewhere.URL + "/inside", 422, "public internet"},
		"to a local file":   {server, elsewhere.URL + "/file", 422, "https://"},
		"too large":         {server, elsewhere.URL + "/large", 422, "1 MiB"},
		"no text":           {server, elsewhere.URL + "/binary", 422, "no text"},
		"missing":           {server, elsewhere.URL + "/missing", 422, "404"},
		"a file here":       {server, "file:///etc/passwd", 422, "https://"},
		"with a password":   {server, "https://user:secret@example.com/", 422, "password"},
		"the machine":       {strict, elsewhere.URL + "/good.yaml", 422, "public internet"},
		"its name":          {strict, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1) + "/good.yaml", 422, "public internet"},
		"as one number":     {strict, "http://2130706433/", 422, ""},
		"in IPv6":           {strict, "http://[::ffff:127.0.0.1]/", 422, "public internet"},
		"a cloud's secrets": {strict, "http://169.254.169.254/", 422, "public internet"},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := do(t, "POST", c.server.URL+"/fetch", `{"url":"`+c.url+`"}`, append(login(c.server), "Content-Type: application/json")...)
			if response.code != c.want || !strings.Contains(body, c.says) {
				t.Errorf("%s: %d %s, want %d with %q", c.url, response.code, body, c.want, c.says)
			}
			if kind := response.header.Get("Content-Type"); c.want == 200 && kind != "text/plain; charset=utf-8" || response.header.Get("Content-Security-Policy") != dataPolicy {
				t.Errorf("it comes as %s, with the policy %s", kind, response.header.Get("Content-Security-Policy"))
			}
		})
	}
	body := `{"url":"` + elsewhere.URL + `/good.yaml"}`
	for name, c := range map[string]struct {
		header []string
		want   int
	}{
		"nobody":          {nil, 401},
		"without proof":   {login(server)[:1], 403},
		"a wrong token":   {[]string{"Cookie: kedge-dashboard=bad", "X-Kedge-Csrf: " + csrf("bad")}, 401},
		"of another site": {append(login(server), "Sec-Fetch-Site: cross-site"), 403},
	} {
		if response, _ := do(t, "POST", server.URL+"/fetch", body, c.header...); response.code != c.want {
			t.Errorf("%s: %d, want %d", name, response.code, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := settings(dir).provider("", ""); p != nil || err != nil {
		t.Errorf("without settings: %v, %v", p, err)
	}
	if p, err := settings(dir).provider("https://a.test", "kedge"); err != nil || p == nil || p.clientID != "kedge" || len(p.scopes) != 3 {
		t.Errorf("with the API server's: %+v, %v", p, err)
	}
	write("oidc-issuer-url", "https://b.test\n")
	write("oidc-scopes", "openid groups")
	write("fetch-networks", "10.1.2.3/16, fd00::/8\n")
	if p, err := settings(dir).provider("https://a.test", "kedge"); err != nil || p == nil || p.issuer != "https://b.test" || len(p.scopes) != 2 {
		t.Errorf("with others: %+v, %v", p, err)
	}
	if all, err := settings(dir).networks(); err != nil || len(all) != 2 || all[0].String() != "10.1.0.0/16" {
		t.Errorf("the networks are %v, %v", all, err)
	}
	write("oidc-ca.crt", "none")
	if _, err := settings(dir).provider("", "kedge"); err == nil || !strings.Contains(err.Error(), "oidc-ca.crt") {
		t.Errorf("a wrong authority: %v", err)
	}
	write("fetch-networks", "10.1.2.3")
	if _, err := settings(dir).networks(); err == nil || !strings.Contains(err.Error(), "fetch-networks") {
		t.Errorf("a wrong network: %v", err)
	}
}

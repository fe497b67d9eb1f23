//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// browser is a client that keeps the dashboard's session, as a browser does.
type browser struct {
	t    *testing.T
	base string // ends with a slash
	csrf string
	*http.Client
}

func newBrowser(t *testing.T, host *testbed.Host, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := host.HTTP()
	client.Jar = jar
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // its certificate is self-made
	return &browser{t: t, base: base, Client: client}
}

// reply is a response whose body has been read.
type reply struct {
	code   int
	header http.Header
	body   string
}

// ask makes a request; header is NAME: VALUE.
func (b *browser) ask(method, path, body string, header ...string) reply {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := b.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return reply{response.StatusCode, response.Header, ""}
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(content)}
}

// want makes a request and checks the code of the answer.
func (b *browser) want(code int, method, path, body string, header ...string) string {
	b.t.Helper()
	got := b.ask(method, path, body, header...)
	if got.code != code {
		b.t.Errorf("%s %s: %d %.300s, want %d", method, path, got.code, got.body, code)
	}
	return got.body
}

func (b *browser) logIn(token string) {
	b.t.Helper()
	login, _ := json.Marshal(map[string]any{"token": token})
	var session struct{ User, CSRF string }
	if err := json.Unmarshal([]byte(b.want(http.StatusOK, http.MethodPost, "session", string(login), "Content-Type: application/json")), &session); err != nil || session.CSRF == "" {
		b.t.Fatalf("the login gave %+v, error %v", session, err)
	}
	b.csrf = session.CSRF
}

// exec runs a command in a pod.
func (b *browser) exec(namespace, pod string) {
	b.t.Helper()
	query := base64.RawURLEncoding.EncodeToString([]byte("command=true&stdout=true"))
	b.want(http.StatusSwitchingProtocols, http.MethodGet, "stream/exec/"+namespace+"/"+pod, "", append(strings.Split(socket, "|"),
		"Sec-Websocket-Protocol: kedge-dashboard, kedge-csrf."+b.csrf+", kedge-query."+query+", v5.channel.k8s.io")...)
}

const socket = "Connection: Upgrade|Upgrade: websocket|Sec-Websocket-Version: 13|Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

var dashboardAddress = regexp.MustCompile(`(http://127\.0\.0\.1:\d+/[0-9a-f]{32}/)#token=(\S+)`)

// openDashboard runs kedge dashboard and returns the address that it prints, and the
// token in it.
func openDashboard(s *sandbox) (address, token string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	command := s.node.Command(ctx, s.node.Binary, "dashboard", "--no-open")
	stdout, err := command.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := s.node.StartCommand(command); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = command.Wait()
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if found := dashboardAddress.FindStringSubmatch(lines.Text()); found != nil {
			token, err := url.QueryUnescape(found[2])
			if err != nil {
				s.t.Fatal(err)
			}
			return found[1], token
		}
	}
	_ = command.Wait()
	s.t.Fatalf("kedge dashboard printed no address: %s", stderr.String())
	return "", ""
}

// testDashboard uses the dashboard's server as its page does, and as others might.
func testDashboard(s *sandbox) {
	dashboard := func(args ...string) string {
		s.t.Helper()
		return s.kubectl(append(args, "--namespace=kubernetes-dashboard")...)
	}
	eventually(s.t, "the dashboard to be deployed", func() (bool, string) {
		out, err := s.try("get", "deployment/kubernetes-dashboard", "--namespace=kubernetes-dashboard")
		return err == nil, out
	})
	dashboard("rollout", "status", "deployment/kubernetes-dashboard", fmt.Sprintf("--timeout=%.0fs", limit.Seconds()))
	s.shell("lasting")

	address, token := openDashboard(s)
	direct := "https://" + dashboard("get", "service/kubernetes-dashboard", "-o", "jsonpath={.spec.clusterIP}") + "/"
	for name, base := range map[string]string{"through kedge dashboard": address, "at its Service": direct} {
		s.t.Run(name, func(t *testing.T) {
			b := newBrowser(t, s.node, base)
			page := b.ask(http.MethodGet, "", "")
			if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self';") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("the page's policy is %q", policy)
			}
			script := regexp.MustCompile(`src="\./(assets/[^"]+\.js)"`).FindStringSubmatch(page.body)
			if script == nil {
				t.Fatalf("the page has no script: %s", page.body)
			}
			b.want(http.StatusOK, http.MethodGet, script[1], "")
			b.want(http.StatusNotFound, http.MethodGet, "assets/missing.js", "")

			const pods = "api/v1/namespaces/default/pods"
			b.want(http.StatusUnauthorized, http.MethodGet, pods, "")
			b.want(http.StatusUnauthorized, http.MethodGet, pods, "", "Authorization: Bearer "+token)
			b.want(http.StatusUnauthorized, http.MethodPost, "session", `{"token":"wrong"}`, "Content-Type: application/json")
			b.want(http.StatusUnsupportedMediaType, http.MethodPost, "session", `{"token":"wrong"}`, "Content-Type: text/plain")
			b.want(http.StatusBadRequest, http.MethodPost, "session", `{"token":"`+strings.Repeat("x", 70_000)+`"}`, "Content-Type: application/json")
			b.logIn(token)
			b.want(http.StatusOK, http.MethodGet, pods, "")
			b.want(http.StatusOK, http.MethodGet, "apis/apps/v1/deployments", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
			b.want(http.StatusForbidden, http.MethodGet, pods, "", "Sec-Fetch-Site: cross-site")

			configMap := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"made-"}}`
			maps := "api/v1/namespaces/" + s.namespace + "/configmaps"
			b.want(http.StatusForbidden, http.MethodPost, maps, configMap, "Content-Type: application/json")
			b.want(http.StatusCreated, http.MethodPost, maps, configMap, "Content-Type: application/json", "X-Kedge-Csrf: "+b.csrf)
			b.want(http.StatusBadRequest, http.MethodGet, "api/v1/namespaces/kube-system/services/https:metrics-server:/proxy/", "")
			for _, path := range []string{"metrics", "healthz/../metrics", "api/v1/..%2f..%2fmetrics", "stream/watch/metrics", "logs/", "stream/exec/a/b/c"} {
				if got := b.ask(http.MethodGet, path, ""); got.code == http.StatusOK {
					t.Errorf("%s is served: %.200s", path, got.body)
				}
			}

			handshake := append(strings.Split(socket, "|"), "Origin: https://elsewhere.test")
			watch := "stream/watch/" + pods
			b.want(http.StatusForbidden, http.MethodGet, watch, "", handshake...)
			b.want(http.StatusForbidden, http.MethodGet, watch, "", append(handshake, "Sec-Websocket-Protocol: kedge-dashboard, kedge-csrf.guess")...)
			b.want(http.StatusSwitchingProtocols, http.MethodGet, watch, "", append(handshake, "Sec-Websocket-Protocol: kedge-dashboard, kedge-csrf."+b.csrf)...)
			b.exec(s.namespace, "lasting")

			b.want(http.StatusForbidden, http.MethodDelete, "session", "")
			b.want(http.StatusNoContent, http.MethodDelete, "session", "", "X-Kedge-Csrf: "+b.csrf)
			b.want(http.StatusUnauthorized, http.MethodGet, pods, "")
		})
	}
	// Who does not know the path gets nothing from kedge dashboard.
	u, err := url.Parse(address)
	if err != nil {
		s.t.Fatal(err)
	}
	stranger := newBrowser(s.t, s.node, "http://"+u.Host+"/")
	stranger.want(http.StatusNotFound, http.MethodGet, "", "")
	stranger.want(http.StatusNotFound, http.MethodGet, "api/v1/secrets", "")
	stranger.base = address
	stranger.want(http.StatusNotFound, http.MethodGet, "..%2f..%2f..%2fsecrets", "")

	// The user's rights, and no more.
	out, err := s.node.Kedge(s.t.Context(), "dashboard", "token", "--role=view", "--ttl=10m")
	if err != nil {
		s.t.Fatal(err)
	}
	viewer := newBrowser(s.t, s.node, direct)
	viewer.logIn(strings.TrimSpace(out))
	eventually(s.t, "the role to be in force", func() (bool, string) {
		got := viewer.ask(http.MethodGet, "api/v1/nodes", "")
		return got.code == http.StatusOK, got.body
	})
	viewer.want(http.StatusForbidden, http.MethodGet, "api/v1/secrets", "")
	viewer.want(http.StatusForbidden, http.MethodDelete, "api/v1/namespaces/"+s.namespace+"/pods/lasting", "", "X-Kedge-Csrf: "+viewer.csrf)
	out, _ = s.try("auth", "can-i", "--list", "--as=system:serviceaccount:kubernetes-dashboard:kubernetes-dashboard", "--no-headers")
	if strings.Contains(out, "pods") || strings.Contains(out, "secrets") {
		s.t.Errorf("the dashboard has rights of its own: %s", out)
	}

	// Who may edit may do so where it was said, and not make himself an administrator.
	if _, err := s.node.Kedge(s.t.Context(), "dashboard", "token", "--role=edit", "--user=bob", "--namespace="+s.namespace); err != nil {
		s.t.Fatal(err)
	}
	may := func(verb, what, namespace string) bool {
		out, _ := s.try("auth", "can-i", verb, what, "--namespace="+namespace, "--as=system:serviceaccount:kubernetes-dashboard:bob")
		return strings.HasPrefix(out, "yes")
	}
	eventually(s.t, "the right to edit", func() (bool, string) { return may("create", "pods", s.namespace), "" })
	for _, namespace := range []string{"default", "kube-system", "kubernetes-dashboard"} {
		if may("create", "pods", namespace) || may("create", "serviceaccounts/token", namespace) || may("get", "secrets", namespace) || !may("get", "pods", namespace) {
			s.t.Errorf("bob may change what is in %s, or not see it", namespace)
		}
	}
	if _, err := s.node.Kedge(s.t.Context(), "dashboard", "token", "--role=edit", "--user=bob"); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the right to edit in another namespace", func() (bool, string) {
		return may("create", "pods", "default") && !may("create", "pods", s.namespace), ""
	})
	for flags, want := range map[string]string{
		"--role=all":                          "view, edit or admin",
		"--ttl=1s":                            "at least 10m",
		"--user=A_B":                          "service account",
		"--namespace=default":                 "--role edit",
		"--role=edit --namespace=kube-system": "--role admin",
		"--role=edit --namespace=kubernetes-dashboard": "--role admin",
		"--role=edit --namespace=absent":               `"absent" not found`,
	} {
		if _, err := s.node.Kedge(s.t.Context(), append([]string{"dashboard", "token"}, strings.Fields(flags)...)...); err == nil || !strings.Contains(err.Error(), want) {
			s.t.Errorf("kedge dashboard token %s: %v, want %q", flags, err, want)
		}
	}
}

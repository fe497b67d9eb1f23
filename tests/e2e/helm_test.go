//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// helmChart makes a chart's archive.
func helmChart(t *testing.T, name, version string, files map[string]string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	zip := gzip.NewWriter(&buffer)
	out := tar.NewWriter(zip)
	all := map[string]string{"Chart.yaml": fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)}
	maps.Copy(all, files)
	for _, file := range slices.Sorted(maps.Keys(all)) {
		text := all[file]
		if path.Ext(file) != ".tgz" {
			text = strings.ReplaceAll(text, "\t", "  ")
		}
		if err := out.WriteHeader(&tar.Header{Name: name + "/" + file, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// say is a template of a ConfigMap that shows the values a to g.
const say = `
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}"}
data:
	values: "{{ .Values.a }} {{ .Values.b }} {{ .Values.c }} {{ .Values.d }} {{ .Values.e }} {{ .Values.f }} {{ .Values.g }}"
	version: "{{ .Chart.Version }}"
	revision: "{{ .Release.Revision }}"
`

// publish serves on a port of a host until the test ends or the returned
// function is called.
func publish(t *testing.T, host *testbed.Host, port int, handler http.Handler, certificates ...tls.Certificate) (address string, stop func()) {
	t.Helper()
	address = net.JoinHostPort(host.Address.String(), strconv.Itoa(port))
	listener, err := listen(host, address)
	if err != nil {
		t.Fatal(err)
	}
	if len(certificates) > 0 {
		listener = tls.NewListener(listener, &tls.Config{Certificates: certificates})
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	stop = sync.OnceFunc(func() { _ = server.Close() })
	t.Cleanup(stop)
	return address, stop
}

// chartRepository serves an index of charts and the charts, by name and version.
type chartRepository struct {
	user, password string
	archives       map[string][]byte // by NAME-VERSION.tgz
}

func (r *chartRepository) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if user, password, _ := request.BasicAuth(); user != r.user || password != r.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if archive, ok := r.archives[path.Base(request.URL.Path)]; ok {
		_, _ = w.Write(archive)
		return
	}
	entries := map[string][]map[string]any{}
	for file, archive := range r.archives {
		name, version, _ := strings.Cut(strings.TrimSuffix(file, ".tgz"), "-")
		sum := sha256.Sum256(archive)
		entries[name] = append(entries[name], map[string]any{
			"apiVersion": "v2", "name": name, "version": version, "urls": []string{file}, "digest": hex.EncodeToString(sum[:]),
		})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "entries": entries})
}

// chartRegistry is a registry that holds one chart.
func chartRegistry(t *testing.T, archive []byte, user, password string) *registry {
	t.Helper()
	r := &registry{user: user, password: password, blobs: map[string][]byte{}}
	add := func(mediaType string, content []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		r.blobs[d.Digest.String()] = content
		return d
	}
	manifest := v1.Manifest{
		MediaType: v1.MediaTypeImageManifest,
		Config:    add("application/vnd.cncf.helm.config.v1+json", []byte("{}")),
		Layers:    []v1.Descriptor{add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive)},
	}
	manifest.SchemaVersion = 2
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	r.image = add(v1.MediaTypeImageManifest, raw)
	return r
}

// realHelm builds the helm command.
func realHelm(t *testing.T) string {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "build", "helm")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "helm.sh/helm/v4/cmd/helm")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build helm: %v: %s", err, out)
	}
	return program
}

// helmState waits for a HelmChart's state and a part of its message.
func (s *sandbox) helmState(name, state, message string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("HelmChart %s to be %s with %q", name, state, message), func() (bool, string) {
		out, err := s.try("get", "helmchart/"+name, "-o", "jsonpath={.status.state}: {.status.message}")
		got, text, _ := strings.Cut(out, ": ")
		return err == nil && got == state && strings.Contains(text, message), fmt.Sprint(out, err)
	})
}

// helmShows waits for a key of the release's ConfigMap.
func (s *sandbox) helmShows(name, key, want string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s of release %s to be %q", key, name, want), func() (bool, string) {
		out, err := s.try("get", "configmap/"+name, "-o", "jsonpath={.data."+key+"}")
		return err == nil && out == want, fmt.Sprint(out, err)
	})
}

// helmEvent waits for an event of a HelmChart.
func (s *sandbox) helmEvent(name, reason string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("event %s of HelmChart %s", reason, name), func() (bool, string) {
		out, err := s.try("get", "events", "--field-selector=involvedObject.kind=HelmChart,involvedObject.name="+name, "-o", "jsonpath={.items[*].reason}")
		return err == nil && slices.Contains(strings.Fields(out), reason), fmt.Sprint(out, err)
	})
}

func encoded(archive []byte) string { return base64.StdEncoding.EncodeToString(archive) }

// TestHelm installs charts in every way there is.
func TestHelm(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	helm := realHelm(t)
	t.Run("parallel", func(t *testing.T) {
		for _, test := range []struct {
			name string
			run  func(*sandbox, string)
		}{
			{"Repository", testHelmRepository},
			{"OCI", testHelmOCI},
			{"Content", testHelmContent},
			{"Local", testHelmLocal},
			{"Unavailable", testHelmUnavailable},
			{"Failing", testHelmFailing},
			{"Namespaces", testHelmNamespaces},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(c.sandbox(t), helm)
			})
		}
	})
	t.Run("Restart", func(t *testing.T) { testHelmRestart(c.sandbox(t), helm) })
}

// testHelmRepository takes a chart from a repository through its life.
func testHelmRepository(s *sandbox, helm string) {
	repo := &chartRepository{archives: map[string][]byte{}}
	for _, version := range []string{"1.0.0", "1.1.0", "2.0.0"} {
		repo.archives["say-"+version+".tgz"] = helmChart(s.t, "say", version, map[string]string{
			"templates/say.yaml": say,
			"values.yaml":        "a: chart\nb: chart\nc: chart\nd: chart\ne: chart\nf: chart\ng: chart\n",
		})
	}
	address, stop := publish(s.t, s.beside, 8001, repo)
	s.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: values}
data: {values.yaml: "{c: map, d: map, e: map, f: map}"}
---
apiVersion: v1
kind: Secret
metadata: {name: values}
stringData: {values.yaml: "{d: secret, e: secret, f: secret}"}
---
apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata: {name: say}
spec: {valuesContent: "{e: config, f: config}"}
---
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: say}
spec:
	repo: http://` + address + `
	chart: say
	version: ^1.0.0
	targetNamespace: ` + s.namespace + `-target
	createNamespace: true
	jobImage: ignored:1
	bootstrap: true
	valuesContent: "{a: content, b: content, c: content, d: content, e: content, f: content}"
	values: {b: values, c: values, d: values, e: values, f: values}
	valuesConfigMaps: [{name: values, keys: [values.yaml]}]
	valuesSecrets: [{name: values, keys: [values.yaml]}]
	set: {f: "set,1", g: 7}
`)
	s.helmState("say", "Deployed", "say-1.1.0 is revision 1")
	s.wait("condition=Ready", "helmchart/say")
	s.helmEvent("say", "Installed")
	target := *s
	target.namespace += "-target"
	target.helmShows("say", "values", "content values map secret config set,1 7")

	out, err := s.node.Exec(s.t.Context(), helm, "--kubeconfig", "/etc/kedge/kedge.yaml", "list", "--namespace", target.namespace, "--output", "json")
	if err != nil {
		s.t.Fatal(err)
	}
	var releases []struct{ Name, Revision, Status, Chart string }
	if err := json.Unmarshal([]byte(out), &releases); err != nil || len(releases) != 1 {
		s.t.Fatalf("helm list: %v: %s", err, out)
	}
	r := releases[0]
	s.check("helm list", strings.Join([]string{r.Name, r.Revision, r.Status, r.Chart}, " "), "say 1 deployed say-1.1.0")

	// Each of these is a reason to upgrade.
	s.kubectl("patch", "secret/values", "-p", `{"stringData":{"values.yaml":"{d: other}"}}`)
	target.helmShows("say", "values", "content values map other config set,1 7")
	s.kubectl("patch", "helmchartconfig/say", "--type=merge", "-p", `{"spec":{"valuesContent":"e: other"}}`)
	target.helmShows("say", "values", "content values map other other set,1 7")
	s.kubectl("delete", "helmchartconfig/say")
	target.helmShows("say", "values", "content values map other map set,1 7")
	s.kubectl("patch", "helmchart/say", "--type=merge", "-p", `{"spec":{"version":"2.0.0"}}`)
	s.helmState("say", "Deployed", "say-2.0.0 is revision 5")
	s.helmEvent("say", "Upgraded")
	s.check("history", s.field("helmchart/say", ".status.history[*].status"), "deployed superseded superseded superseded superseded")

	// To uninstall takes nothing from the repository.
	stop()
	s.kubectl("delete", "helmchart/say", "--timeout=60s")
	left, err := target.try("get", "configmaps,secrets", "-o", "name")
	if err != nil || strings.Contains(left, "say") || strings.Contains(left, "helm") {
		s.t.Errorf("what is left of the release: %s (%v)", left, err)
	}
}

// testHelmOCI takes charts from a registry with TLS and login.
func testHelmOCI(s *sandbox, _ string) {
	certificate, authority := newAuthority(s.t, s.beside)
	archive := helmChart(s.t, "say", "1.0.0", map[string]string{"templates/say.yaml": say})
	address, _ := publish(s.t, s.beside, 8002, chartRegistry(s.t, archive, "ann", "secret word"), certificate)
	docker, err := json.Marshal(map[string]any{"auths": map[string]any{address: map[string]string{"auth": encoded([]byte("ann:secret word"))}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.kubectl("create", "secret", "generic", "login", "--type=kubernetes.io/basic-auth", "--from-literal=username=ann", "--from-literal=password=secret word")
	s.kubectl("create", "secret", "generic", "docker", "--type=kubernetes.io/dockerconfigjson", "--from-literal=.dockerconfigjson="+string(docker))
	s.kubectl("create", "configmap", "authority", "--from-literal=ca.crt="+string(authority))
	chart := func(name, fields string) string {
		return `
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: ` + name + `}
spec: {chart: "oci://` + address + `/charts/say", version: 1.0.0, ` + fields + `}
---`
	}
	s.apply(chart("basic", "repoCAConfigMap: {name: authority}, authSecret: {name: login}") +
		chart("docker", "insecureSkipTLSVerify: true, dockerRegistrySecret: {name: docker}") +
		chart("nobody", "repoCAConfigMap: {name: authority}") +
		chart("distrust", "authSecret: {name: login}"))
	s.helmState("basic", "Deployed", "say-1.0.0")
	s.helmState("docker", "Deployed", "say-1.0.0")
	s.helmState("nobody", "Failed", "spec.authSecret")
	s.helmState("distrust", "Failed", "spec.repoCA")
	s.helmEvent("distrust", "ChartUnavailable")
}

// testHelmContent installs a chart in the object itself, with all that charts may
// have.
func testHelmContent(s *sandbox, _ string) {
	hook := func(event string) string {
		return `
apiVersion: batch/v1
kind: Job
metadata:
	name: ` + event + `
	annotations: {helm.sh/hook: ` + event + `}
spec:
	backoffLimit: 0
	template:
		spec:
			restartPolicy: Never
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: "{{ .Values.image }}", command: ["true"]}]
`
	}
	library := helmChart(s.t, "part", "0.1.0", map[string]string{
		"values.yaml":         "text: default\n",
		"templates/part.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: part}\ndata: {text: \"{{ .Values.text }}\"}\n",
	})
	unwanted := helmChart(s.t, "unwanted", "0.1.0", map[string]string{
		"templates/part.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unwanted}\n",
	})
	archive := helmChart(s.t, "full", "3.0.0", map[string]string{
		"Chart.yaml": `
apiVersion: v2
name: full
version: 3.0.0
appVersion: "9"
dependencies:
- {name: part, version: 0.1.0}
- {name: unwanted, version: 0.1.0, condition: unwanted.enabled}
`,
		"values.yaml":         "unwanted: {enabled: false}\npart: {text: parent}\n",
		"charts/part.tgz":     string(library),
		"charts/unwanted.tgz": string(unwanted),
		"crds/thing.yaml": `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
	group: example.com
	scope: Namespaced
	names: {kind: Thing, plural: things}
	versions:
	- name: v1
		served: true
		storage: true
		schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`,
		"templates/thing.yaml":   "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: thing}\nsize: 3\n",
		"templates/install.yaml": hook("post-install"),
		"templates/delete.yaml":  hook("pre-delete"),
	})
	s.apply(`
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: full}
spec:
	chartContent: ` + encoded(archive) + `
	valuesContent: "image: BUSYBOX"
`)
	s.helmState("full", "Deployed", "full-3.0.0")
	s.wait("condition=Complete", "job/post-install")
	s.check("the dependency's value", s.field("configmap/part", ".data.text"), "parent")
	s.check("the object of the chart's kind", s.field("thing/thing", ".size"), "3")
	s.check("app version", s.field("helmchart/full", ".status.release.appVersion"), "9")
	if out, err := s.try("get", "configmap/unwanted"); err == nil {
		s.t.Errorf("a dependency that is switched off is there: %s", out)
	}
	s.kubectl("delete", "helmchart/full", "--timeout=120s")
	s.wait("condition=Complete", "job/pre-delete") // hooks are not part of a release
	if out, err := s.try("get", "thing/thing"); err == nil {
		s.t.Errorf("the thing is still there: %s", out)
	}
}

// testHelmLocal installs charts that lie on the server.
func testHelmLocal(s *sandbox, _ string) {
	archive := string(helmChart(s.t, "say", "1.0.0", map[string]string{"templates/say.yaml": say}))
	put(s.t, s.node, "/var/lib/charts/say.tgz", archive, 0o644)
	put(s.t, s.node, "/var/lib/kedge/server/static/charts/say.tgz", archive, 0o644)
	for name, chart := range map[string]string{
		"path":   "/var/lib/charts/say.tgz",
		"static": "https://%{KUBERNETES_API}%/static/charts/say.tgz",
		"none":   "/var/lib/charts/other.tgz",
		"out":    "https://%{KUBERNETES_API}%/static/../tls/server-ca.key",
	} {
		s.apply("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: " + name + "}\nspec: {chart: \"" + chart + "\"}\n")
	}
	s.helmState("path", "Deployed", "say-1.0.0")
	s.helmState("static", "Deployed", "say-1.0.0")
	s.helmState("none", "Failed", "/var/lib/charts/other.tgz is not on this server")
	s.helmState("out", "Failed", "leads out of")
}

// testHelmUnavailable asks for charts that are not to be had.
func testHelmUnavailable(s *sandbox, _ string) {
	archive := helmChart(s.t, "say", "1.0.0", map[string]string{"templates/say.yaml": say})
	repo := &chartRepository{user: "ann", password: "secret", archives: map[string][]byte{"say-1.0.0.tgz": archive}}
	asks, _ := publish(s.t, s.beside, 8003, repo)
	garbage, _ := publish(s.t, s.beside, 8004, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>: nothing here"))
	}))
	release := make(chan struct{})
	s.t.Cleanup(func() { close(release) })
	silent, _ := publish(s.t, s.beside, 8005, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	host := s.beside.Address.String()
	for name, spec := range map[string]string{
		"refused": "{chart: say, repo: 'http://" + host + ":8009'}",
		"login":   "{chart: say, repo: 'http://" + asks + "'}",
		"garbage": "{chart: say, repo: 'http://" + garbage + "'}",
		"archive": "{chart: 'http://" + garbage + "/say.tgz'}",
		"silent":  "{chart: say, repo: 'http://" + silent + "'}",
		"where":   "{chart: say}",
		"empty":   "{version: 1.0.0}",
		"content": "{chartContent: '%%%'}",
		"secret":  "{chart: say, valuesSecrets: [{name: missing, keys: [a]}]}",
		"good":    "{chartContent: " + encoded(archive) + "}",
	} {
		s.apply("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: " + name + "}\nspec: " + spec + "\n")
	}
	s.helmState("good", "Deployed", "say-1.0.0")
	s.helmState("refused", "Failed", "connection refused")
	s.helmState("login", "Failed", "401 Unauthorized; user and password are taken from spec.authSecret")
	s.helmState("garbage", "Failed", "is no index of a chart repository")
	s.helmState("archive", "Failed", "chart http://"+garbage+"/say.tgz")
	s.helmState("where", "Failed", "spec.repo")
	s.helmState("empty", "Failed", "nothing to install")
	s.helmState("content", "Failed", "spec.chartContent")
	s.helmState("secret", "Failed", `"missing" not found`)
	s.helmState("silent", "Failed", "timeout")
	s.helmEvent("refused", "ChartUnavailable")
	// What was missing comes.
	s.kubectl("create", "secret", "generic", "login", "--type=kubernetes.io/basic-auth", "--from-literal=username=ann", "--from-literal=password=secret")
	s.kubectl("patch", "helmchart/login", "--type=merge", "-p", `{"spec":{"authSecret":{"name":"login"}}}`)
	s.helmState("login", "Deployed", "say-1.0.0")
	s.kubectl("create", "secret", "generic", "missing", "--from-literal=a=b: 1")
	s.helmState("secret", "Failed", "spec.repo") // one step further
	s.kubectl("delete", "helmcharts", "--all", "--timeout=60s")
}

// testHelmFailing installs charts that do not work.
func testHelmFailing(s *sandbox, _ string) {
	archive := encoded(helmChart(s.t, "say", "1.0.0", map[string]string{
		"templates/say.yaml": say,
		"templates/fail.yaml": `
{{ if .Values.render }}{{ fail (printf "no %s today" .Values.render) }}{{ end }}
{{ if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata:
	name: hook
	annotations: {helm.sh/hook: "pre-install,pre-upgrade"}
spec:
	backoffLimit: 0
	template:
		spec:
			restartPolicy: Never
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: "{{ .Values.hook }}", command: ["false"]}]
{{ end }}
`,
	}))
	chart := func(name, fields string) {
		s.apply("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: " + name + "}\nspec: {chartContent: " + archive + ", " + fields + "}\n")
	}
	chart("render", "values: {render: bread}")
	chart("abort", "failurePolicy: abort, values: {hook: BUSYBOX}")
	chart("reinstall", "values: {a: 1}")
	chart("taken", "values: {a: 1}, targetNamespace: "+s.namespace)
	s.kubectl("create", "secret", "generic", "values", "--from-literal=values.yaml=render: hunter2")
	chart("quiet", "valuesSecrets: [{name: values, keys: [values.yaml]}]")

	s.helmState("render", "Failed", "no bread today")
	s.helmState("quiet", "Failed", "no *** today")
	s.helmState("abort", "Failed", "failurePolicy is abort")
	s.helmEvent("abort", "InstallFailed")
	s.helmEvent("abort", "Aborted")
	s.check("the failed release", s.field("helmchart/abort", ".status.release.status"), "failed")
	s.kubectl("patch", "helmchart/abort", "--type=merge", "-p", `{"spec":{"values":{"hook":null}}}`)
	s.helmState("abort", "Deployed", "say-1.0.0")

	// An upgrade that fails is followed by what was wanted in the meantime.
	s.helmState("reinstall", "Deployed", "revision 1")
	uid := s.field("configmap/reinstall", ".metadata.uid")
	s.kubectl("patch", "helmchart/reinstall", "--type=merge", "-p", `{"spec":{"values":{"a":2,"hook":"`+s.images.Busybox.Name+`"}}}`)
	s.helmEvent("reinstall", "UpgradeFailed")
	s.helmEvent("reinstall", "Recovering") // uninstalls
	s.kubectl("patch", "helmchart/reinstall", "--type=merge", "-p", `{"spec":{"values":{"a":3,"hook":null}}}`)
	s.helmState("reinstall", "Deployed", "say-1.0.0")
	if now := s.field("configmap/reinstall", ".metadata.uid"); now == uid {
		s.t.Error("the release was not reinstalled")
	}
	s.kubectl("delete", "helmcharts", "--all", "--timeout=60s")
}

// testHelmNamespaces has several namespaces ask for one release, and deletes a
// namespace with a HelmChart in it.
func testHelmNamespaces(s *sandbox, _ string) {
	archive := encoded(helmChart(s.t, "say", "1.0.0", map[string]string{
		"templates/say.yaml": say,
		"templates/delete.yaml": `
apiVersion: v1
kind: ConfigMap
metadata: {name: hook, annotations: {helm.sh/hook: pre-delete}}
`,
	}))
	other := *s
	other.namespace += "-other"
	s.kubectl("create", "namespace", other.namespace)
	chart := "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: shared}\nspec: {chartContent: " + archive + ", targetNamespace: " + s.namespace + "}\n"
	s.apply(chart)
	s.helmState("shared", "Deployed", "say-1.0.0")
	time.Sleep(1100 * time.Millisecond) // creation times are in seconds
	other.apply(chart)
	other.helmState("shared", "Failed", "belongs to HelmChart "+s.namespace+"/shared")
	other.kubectl("delete", "helmchart/shared", "--timeout=60s")
	s.helmShows("shared", "version", "1.0.0")

	// The release moves with its namespace.
	s.kubectl("patch", "helmchart/shared", "--type=merge", "-p", `{"spec":{"targetNamespace":"`+other.namespace+`"}}`)
	other.helmShows("shared", "version", "1.0.0")
	if out, err := s.try("get", "configmap/shared"); err == nil {
		s.t.Errorf("the release is still in the former namespace: %s", out)
	}

	other.apply("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: own}\nspec: {chartContent: " + archive + "}\n")
	other.helmState("own", "Deployed", "say-1.0.0")
	s.kubectl("delete", "namespace", other.namespace, "--timeout=120s")
	s.kubectl("delete", "helmchart/shared", "--timeout=60s")
}

// testHelmRestart kills the server while it installs, and stops it while it
// upgrades.
func testHelmRestart(s *sandbox, helm string) {
	archive := encoded(helmChart(s.t, "say", "1.0.0", map[string]string{
		"templates/say.yaml": say,
		"templates/hook.yaml": `
{{ if .Values.seconds }}
apiVersion: batch/v1
kind: Job
metadata:
	name: "{{ .Release.Name }}"
	annotations: {helm.sh/hook: "pre-install,pre-upgrade"}
spec:
	template:
		spec:
			restartPolicy: Never
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: "{{ .Values.image }}", command: [sleep, "{{ .Values.seconds }}"]}]
{{ end }}
`,
	}))
	chart := func(name, fields string) {
		s.apply("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: " + name + "}\nspec: {chartContent: " + archive + ", values: {image: BUSYBOX, " + fields + "}}\n")
	}
	status := func(name, want string) {
		s.t.Helper()
		eventually(s.t, "release "+name+" to be "+want, func() (bool, string) {
			out, err := s.try("get", "secrets", "-l", "owner=helm,name="+name, "-o", `jsonpath={.items[-1:].metadata.labels.status}`)
			return err == nil && out == want, fmt.Sprint(out, err)
		})
	}
	again := func() {
		s.t.Helper()
		server, err := s.node.Start("server")
		if err != nil {
			s.t.Fatal(err)
		}
		s.server = server
		if err := server.WaitReady(s.t.Context(), limit); err != nil {
			s.t.Fatal(err)
		}
	}
	chart("steady", "a: 1")
	chart("upgraded", "a: 1")
	s.helmState("steady", "Deployed", "revision 1")
	s.helmState("upgraded", "Deployed", "revision 1")

	chart("killed", "seconds: 20")
	status("killed", "pending-install")
	if err := s.server.Kill(); err != nil {
		s.t.Fatal(err)
	}
	again()
	s.helmEvent("killed", "Recovering")
	s.helmState("killed", "Deployed", "revision 1")

	chart("upgraded", "a: 2, seconds: 20")
	status("upgraded", "pending-upgrade")
	took, code, err := s.server.Stop(time.Minute)
	if err != nil || code != 0 || took > 15*time.Second {
		s.t.Fatalf("the server ended with code %d after %s, error %v", code, took, err)
	}
	again()
	s.helmState("upgraded", "Deployed", "revision 3")
	s.helmShows("upgraded", "values", "2")

	out, err := s.node.Exec(s.t.Context(), helm, "--kubeconfig", "/etc/kedge/kedge.yaml", "history", "upgraded", "--namespace", s.namespace)
	if err != nil || !strings.Contains(out, "Interrupted") {
		s.t.Errorf("helm history: %v: %s", err, out)
	}
	s.check("revisions of a release that did not change", s.field("helmchart/steady", ".status.release.revision"), "1")
	if log := s.server.Log(); strings.Contains(log, archive[:100]) {
		s.t.Error("the server's log holds a chart")
	}
}

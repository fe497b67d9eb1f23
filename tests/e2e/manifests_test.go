//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const manifestsDir = "/var/lib/kedge/server/manifests"

// manifestFile is where the test finds a manifest of the server's.
func (c *cluster) manifestFile(name string) string { return c.node.Path(path.Join(manifestsDir, name)) }

// put writes a manifest as editors do: to another file, then renamed. People
// indent with tabs in Go; YAML knows spaces only.
func (c *cluster) put(t *testing.T, name, text string) {
	t.Helper()
	file := c.manifestFile(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(strings.ReplaceAll(text, "\t", "  ")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) unlink(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(c.manifestFile(name)); err != nil {
		t.Fatal(err)
	}
}

// settings is a manifest with a ConfigMap for each name.
func settings(value string, names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {value: %q}\n", name, value)
	}
	return text.String()
}

// ready waits until an Addon's reason for being Ready, or not, is the one given.
func (s *sandbox) ready(addon, reason string) {
	s.t.Helper()
	eventually(s.t, "the Addon "+addon+" to be "+reason, func() (bool, string) {
		out, err := s.node.Kubectl(s.t.Context(), "-n", "kube-system", "get", "addon", addon, "-o",
			`jsonpath={.status.conditions[?(@.type=="Ready")].reason} {.status.conditions[?(@.type=="Ready")].message}`)
		return err == nil && strings.HasPrefix(out, reason+" "), fmt.Sprint(out, err)
	})
}

// values waits until the ConfigMaps of the default namespace with a name like
// that, as NAME=VALUE, are those wanted.
func (s *sandbox) values(prefix, want string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("ConfigMaps %s… to be %q", prefix, want), func() (bool, string) {
		out, err := s.node.Kubectl(s.t.Context(), "get", "configmaps", "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.data.value} {end}`)
		fields := slices.DeleteFunc(strings.Fields(out), func(f string) bool { return !strings.HasPrefix(f, prefix) })
		got := strings.Join(fields, " ")
		return err == nil && got == want, fmt.Sprint(got, err)
	})
}

// allApplied waits until no Addon but those named is other than applied.
func (s *sandbox) allApplied(count int, but ...string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d Addons, all applied but %q", count, but), func() (bool, string) {
		out, err := s.node.Kubectl(s.t.Context(), "-n", "kube-system", "get", "addons", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].reason}{"\n"}{end}`)
		if err != nil {
			return false, err.Error()
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		var other []string
		for _, line := range lines {
			name, reason, _ := strings.Cut(line, " ")
			if (reason != "Applied") != slices.Contains(but, name) {
				other = append(other, line)
			}
		}
		return len(lines) >= count && len(other) == 0, fmt.Sprintf("%d Addons; not as they should: %q", len(lines), other[:min(5, len(other))])
	})
}

// sources are the files of the Addons.
func (s *sandbox) sources() (packaged, own []string) {
	s.t.Helper()
	out := s.kubectl("-n", "kube-system", "get", "addons", "-o", `jsonpath={range .items[*]}{.spec.source} {.spec.packaged}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		source, isPackaged, _ := strings.Cut(strings.TrimSpace(line), " ")
		if isPackaged == "true" {
			packaged = append(packaged, source)
		} else {
			own = append(own, source)
		}
	}
	return packaged, own
}

// TestManifests puts files into the directory of manifests, takes them away, and
// stops the server in between.
func TestManifests(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := c.sandbox(t)
	run := func(name string, test func(t *testing.T, s *sandbox)) {
		t.Run(name, func(t *testing.T) { test(t, &sandbox{cluster: c, t: t, namespace: s.namespace}) })
	}
	restart := func(t *testing.T, args ...string) {
		t.Helper()
		if c.server.Running() {
			if _, code, err := c.server.Stop(time.Minute); err != nil || code != 0 {
				t.Fatalf("the server ended with code %d, error %v", code, err)
			}
		}
		c.start(t, args...)
	}

	run("Changes", func(t *testing.T, s *sandbox) {
		c.put(t, "a.yaml", settings("1", "a1", "a2"))
		s.values("a", "a1=1 a2=1")
		begin := time.Now()
		c.put(t, "a.yaml", settings("2", "a1"))
		s.values("a", "a1=2")
		t.Logf("a change was applied and seen after %s", time.Since(begin).Round(time.Millisecond))
		c.put(t, "sub/folder/a.json", `{"apiVersion":"v1","kind":"List","items":[
			{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a3"},"data":{"value":"1"}}]}`)
		s.values("a", "a1=2 a3=1")
		c.put(t, "sub/folder/a.json", `{"apiVersion":"v1","kind":"List","items":[]}`)
		s.values("a", "a1=2")
		c.unlink(t, "sub")

		// Written in two parts, in place: what is in the second must not be missed.
		file, err := os.OpenFile(c.manifestFile("a.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		uid := s.kubectl("-n", "default", "get", "configmap/a1", "-o", "jsonpath={.metadata.uid}")
		if _, err := file.WriteString(settings("3", "a0")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := file.WriteString(settings("3", "a1")); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		s.values("a", "a0=3 a1=3")
		s.check("the ConfigMap's identity", s.kubectl("-n", "default", "get", "configmap/a1", "-o", "jsonpath={.metadata.uid}"), uid)

		// Another file has it from now on.
		c.put(t, "b.yaml", settings("4", "a1"))
		s.ready("b", "InOtherFile")
		c.put(t, "a.yaml", settings("3", "a0"))
		s.values("a", "a0=3 a1=4")
		s.check("the moved ConfigMap's identity", s.kubectl("-n", "default", "get", "configmap/a1", "-o", "jsonpath={.metadata.uid}"), uid)
		c.unlink(t, "a.yaml")
		s.values("a", "a1=4")

		c.put(t, "b.yaml.skip", "")
		s.ready("b", "Skipped")
		c.unlink(t, "b.yaml")
		c.put(t, "z.yaml", settings("1", "a9"))
		s.values("a", "a1=4 a9=1")
		c.unlink(t, "b.yaml.skip")
		c.unlink(t, "z.yaml")
		s.values("a", "")
	})

	run("Keep", func(t *testing.T, s *sandbox) {
		c.put(t, "k.yaml", `
apiVersion: v1
kind: ConfigMap
metadata: {name: k1, annotations: {kedge.io/prune: "false"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: k2, finalizers: [example.com/never]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: k3}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-public}
`)
		s.values("k", "k1= k2= k3= kube-root-ca.crt=")
		s.kubectl("-n", "default", "delete", "configmap/k3")
		s.kubectl("-n", "default", "create", "configmap", "k3") // it is the user's now
		c.unlink(t, "k.yaml")
		eventually(t, "the Addon to go", func() (bool, string) {
			out, err := s.try("-n", "kube-system", "get", "addon", "k")
			return err != nil && strings.Contains(err.Error(), "NotFound"), fmt.Sprint(out, err)
		})
		s.values("k", "k1= k2= k3= kube-root-ca.crt=")
		if s.kubectl("-n", "default", "get", "configmap/k2", "-o", "jsonpath={.metadata.deletionTimestamp}") == "" {
			t.Error("an object with a finalizer is not deleted")
		}
		s.kubectl("-n", "default", "patch", "configmap/k2", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		s.kubectl("-n", "default", "delete", "configmap/k1", "configmap/k3")
	})

	run("Errors", func(t *testing.T, s *sandbox) {
		c.put(t, "bad.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: [\n")
		c.put(t, "refused.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: refused}\nspec: {ports: [{port: 70000}]}\n")
		c.put(t, "early.yaml", "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: early}\n")
		c.put(t, "lost.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lost, namespace: later}\n")
		c.put(t, "e.yaml", settings("1", "e1"))
		s.values("e", "e1=1")
		for addon, reason := range map[string]string{
			"bad": "InvalidManifest", "refused": "ApplyFailed", "early": "UnknownKind", "lost": "NamespaceNotFound",
		} {
			s.ready(addon, reason)
			eventually(t, "an event about "+addon, func() (bool, string) {
				out := s.kubectl("-n", "kube-system", "get", "events", "--field-selector", "involvedObject.kind=Addon,involvedObject.name="+addon,
					"-o", `jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}`)
				return strings.HasPrefix(out, "Warning "+reason+" "+addon+".yaml: ") && !strings.Contains(out, "\n"), out
			})
		}
		out := s.kubectl("-n", "kube-system", "get", "addons", "-o", "wide")
		t.Log(out)
		for _, want := range []string{`NAME\s+SOURCE\s+OBJECTS\s+READY\s+REASON\s+AGE\s+MESSAGE`,
			`coredns\s+coredns.yaml\s+6\s+True\s+Applied`, `bad\s+bad.yaml\s+0\s+False\s+InvalidManifest\s+\S+\s+.*line \d`} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("the Addons are printed without %q", want)
			}
		}
		c.put(t, "later.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
		s.ready("lost", "Applied")
		c.put(t, "gadgets.yaml", definition("Gadget")+"---\napiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: together}\n")
		s.ready("gadgets", "Applied")
		s.ready("early", "Applied")
		for _, name := range []string{"bad", "refused", "early", "lost", "later", "gadgets", "e"} {
			c.unlink(t, name+".yaml")
		}
		eventually(t, "the Addons to go", func() (bool, string) {
			packaged, own := s.sources()
			return len(packaged) > 0 && len(own) == 0, fmt.Sprint(own)
		})
	})

	run("Restart", func(t *testing.T, s *sandbox) {
		c.put(t, "r.yaml", settings("1", "r1", "r2"))
		c.put(t, "gone.yaml", settings("1", "r3"))
		s.values("r", "r1=1 r2=1 r3=1")
		s.allApplied(2)
		versions := func() string {
			const columns = `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`
			return s.kubectl("-n", "kube-system", "get", "addons", "-o", columns) + "\n" +
				s.kubectl("-n", "kube-system", "get", "configmap/coredns", "clusterrole/system:coredns", "service/kube-dns", "-o", columns)
		}
		before := versions()
		s.kubectl("-n", "default", "patch", "configmap/r1", "-p", `{"data":{"value":"by hand"}}`)
		restart(t)
		s.allApplied(2)
		time.Sleep(3 * time.Second) // for what should not be written
		if after := versions(); after != before {
			t.Errorf("a restart changes\n%s\nto\n%s", before, after)
		}
		s.values("r", "r1=by r2=1 r3=1") // … hand

		if _, code, err := c.server.Stop(time.Minute); err != nil || code != 0 {
			t.Fatalf("the server ended with code %d, error %v", code, err)
		}
		c.unlink(t, "gone.yaml")
		c.put(t, "r.yaml", settings("2", "r1"))
		packaged, err := os.ReadFile(c.manifestFile("coredns.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(packaged), "\n")
		if !strings.Contains(first, "overwritten") {
			t.Errorf("a packaged manifest begins with %q", first)
		}
		c.put(t, "coredns.yaml", string(packaged)+"\n# edited\n")
		restart(t)
		s.values("r", "r1=2")
		if now, err := os.ReadFile(c.manifestFile("coredns.yaml")); err != nil || string(now) != string(packaged) {
			t.Errorf("an edit of a packaged manifest survives a restart; error %v", err)
		}

		s.kubectl("-n", "kube-system", "delete", "service/kube-dns")
		restart(t)
		eventually(t, "the deleted Service to come back", func() (bool, string) {
			out, err := s.try("-n", "kube-system", "get", "service/kube-dns", "-o", "jsonpath={.spec.clusterIP}")
			return out == "10.43.0.10", fmt.Sprint(out, err)
		})
		c.unlink(t, "r.yaml")
		s.values("r", "")
	})

	run("Disable", func(t *testing.T, s *sandbox) {
		sources, _ := s.sources()
		var names []string
		for _, source := range sources {
			first, _, _ := strings.Cut(source, "/")
			names = append(names, strings.TrimSuffix(first, path.Ext(first)))
		}
		names = slices.Compact(names)
		if !slices.Contains(names, "coredns") {
			t.Fatalf("the packaged add-ons are %q", names)
		}
		held := s.kubectl("-n", "kube-system", "get", "addons", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.objects}{"\n"}{end}`)
		restart(t, "--disable="+strings.Join(names, ","))
		eventually(t, "all packaged add-ons to go", func() (bool, string) {
			out := s.kubectl("-n", "kube-system", "get", "addons,deployments,services", "-o", "name")
			return out == "", out
		})
		for _, source := range sources {
			if _, err := os.Stat(c.manifestFile(source)); err == nil {
				t.Errorf("the file %s stays", source)
			}
		}
		restart(t, "--disable="+names[0])
		s.allApplied(len(sources) - 1)
		restart(t)
		s.allApplied(len(sources))
		if now := s.kubectl("-n", "kube-system", "get", "addons", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.objects}{"\n"}{end}`); now != held {
			t.Errorf("before the add-ons held\n%s\nand again\n%s", held, now)
		}
		s.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	})

	run("Many", func(t *testing.T, s *sandbox) {
		const count = 300
		for i := range count {
			name := fmt.Sprintf("many/m%03d", i)
			switch i {
			case 100:
				c.put(t, name+".yaml", "kind: [")
			case 200:
				c.put(t, name+".yaml", definition("Widget")+"---\napiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n")
			default:
				c.put(t, name+".yaml", settings("1", fmt.Sprintf("m%03d", i)))
			}
			if i == 150 { // the power goes in the middle of it
				if err := c.server.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		begin := time.Now()
		restart(t)
		s.allApplied(count, "many.m100")
		t.Logf("%d files were applied %s after a start", count, time.Since(begin).Round(time.Millisecond))
		if err := c.server.Kill(); err != nil {
			t.Fatal(err)
		}
		c.unlink(t, "many")
		restart(t)
		begin = time.Now()
		s.values("m", "")
		t.Logf("they were removed in %s", time.Since(begin).Round(time.Millisecond))
	})
}

// definition is the manifest of a kind.
func definition(kind string) string {
	plural := strings.ToLower(kind) + "s"
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ` + plural + `.example.com}
spec:
	group: example.com
	scope: Namespaced
	names: {kind: ` + kind + `, plural: ` + plural + `}
	versions:
	- name: v1
		served: true
		storage: true
		schema: {openAPIV3Schema: {type: object}}
`
}

package addon

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kedge-k8s/kedge/manifests"
)

var quiet = slog.New(slog.DiscardHandler)

func TestExpand(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"DNS": "10.43.0.10", "EMPTY": ""}
	for _, test := range []struct{ text, want, err string }{
		{"a: ${DNS}", "a: 10.43.0.10", ""},
		{"a: '${EMPTY}'", "a: ''", ""},
		{"$DNS $(POD) $1 ${lower} $$", "$DNS $(POD) $1 ${lower} $$", ""},
		{"${DSN} ${DNS}", "", "unknown variable ${DSN}"},
	} {
		got, err := expand([]byte(test.text), variables)
		switch {
		case test.err != "" && (err == nil || err.Error() != test.err):
			t.Errorf("%s: the error is %v, want %s", test.text, err, test.err)
		case test.err == "" && (err != nil || string(got) != test.want):
			t.Errorf("%s: got %s, error %v, want %s", test.text, got, err, test.want)
		}
	}
}

// TestPackagedManifests looks at the manifests that come with Kedge.
func TestPackagedManifests(t *testing.T) {
	t.Parallel()
	variables := map[string]string{}
	err := fs.WalkDir(manifests.FS, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := manifests.FS.ReadFile(name)
		for _, match := range variable.FindAllSubmatch(raw, -1) {
			variables[string(match[1])] = "x"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := render(manifests.FS, nil, variables)
	if err != nil {
		t.Fatal(err)
	}
	if p.files["coredns.yaml"] == nil || p.files["manifests.go"] != nil {
		t.Errorf("the files are %q", slices.Sorted(maps.Keys(p.files)))
	}
	holder := map[key]string{}
	for name, text := range p.files {
		if !strings.HasPrefix(string(text), firstLine) {
			t.Errorf("%s does not begin with the line %q", name, firstLine)
		}
		objects, err := parse(text)
		if err != nil || len(objects) == 0 {
			t.Errorf("%s: %d objects, error %v", name, len(objects), err)
		}
		for _, object := range objects {
			ref := refOf(object)
			if other, ok := holder[ref.key()]; ok {
				t.Errorf("%s is in %s and in %s", ref, name, other)
			}
			holder[ref.key()] = name
		}
	}
}

func TestWritePackaged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "manifests")
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("edited.yaml", firstLine+"a: edited\n")
	put("foreign.yaml", "a: mine\n")
	put("kept.yaml.skip", "")
	put("off.yaml", firstLine+"a: 1\n")
	source := fstest.MapFS{}
	for _, name := range []string{"edited.yaml", "foreign.yaml", "kept.yaml", "off.yaml", "folder/in.yaml", "group/one.yaml", "group/two.yaml", "notes.txt"} {
		source[name] = &fstest.MapFile{Data: []byte("a: ${A}\n")}
	}
	p, err := render(source, []string{"off", "group"}, map[string]string{"A": "1"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start changes nothing
		if err := p.write(dir, quiet); err != nil {
			t.Fatal(err)
		}
		packaged := firstLine + "a: 1\n"
		for name, want := range map[string]string{
			"edited.yaml":      packaged,
			"foreign.yaml":     packaged,
			"foreign.yaml.bak": "a: mine\n",
			"kept.yaml":        "",
			"off.yaml":         packaged, // until its objects are gone
			"folder/in.yaml":   packaged,
			"group/one.yaml":   "",
			"group/two.yaml":   "",
			"notes.txt":        "",
		} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if want == "" && !os.IsNotExist(err) || string(got) != want {
				t.Errorf("%s holds %q, error %v, want %q", name, got, err, want)
			}
		}
	}
	if got, want := p.enabled(dir), []string{"edited.yaml", "folder/in.yaml", "foreign.yaml"}; !slices.Equal(got, want) {
		t.Errorf("enabled are %q, want %q", got, want)
	}
}

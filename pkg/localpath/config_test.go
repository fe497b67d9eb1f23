package localpath

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	for _, test := range []struct {
		name, text string
		roots      map[string][]string // by node
		mode       fs.FileMode
		err        string
	}{
		{
			name: "as local-path-provisioner has it",
			text: `{"nodePathMap":[
				{"node":"DEFAULT_PATH_FOR_NON_LISTED_NODES","paths":["/opt/volumes"]},
				{"node":"n1","paths":["/opt/volumes","/data1/"]},
				{"node":"n3","paths":[]}
			]}`,
			roots: map[string][]string{"n1": {"/opt/volumes", "/data1"}, "n2": {"/opt/volumes"}, "n3": {}},
			mode:  0o777,
		},
		{
			name:  "permissions",
			text:  `{"nodePathMap":[{"node":"n1","paths":["/v"]}],"permissions":"0750"}`,
			roots: map[string][]string{"n1": {"/v"}, "n2": nil},
			mode:  0o750,
		},
		{name: "nothing", text: "", err: "EOF"},
		{name: "no JSON", text: "#", err: "invalid character"},
		{name: "unknown key", text: `{"nodePathMaps":[]}`, err: `unknown field "nodePathMaps"`},
		{name: "relative path", text: `{"nodePathMap":[{"node":"n1","paths":["opt"]}]}`, err: `path "opt" of node n1: it is not absolute`},
		{name: "root", text: `{"nodePathMap":[{"node":"n1","paths":["/x/.."]}]}`, err: "the root directory is not for volumes"},
		{name: "path twice", text: `{"nodePathMap":[{"node":"n1","paths":["/v","/v/"]}]}`, err: `path "/v/" of node n1 is listed twice`},
		{name: "node twice", text: `{"nodePathMap":[{"node":"n1","paths":[]},{"node":"n1","paths":["/v"]}]}`, err: "node n1 is listed twice"},
		{name: "permissions in decimal", text: `{"permissions":"0798"}`, err: `permissions "0798"`},
		{name: "set-user-ID", text: `{"permissions":"4777"}`, err: `permissions "4777"`},
		{name: "shared", text: `{"nodePathMap":[],"sharedFileSystemPath":"/nfs"}`, err: "sharedFileSystemPath is not supported"},
		{name: "classes", text: `{"storageClassConfigs":{"a":{}}}`, err: "storageClassConfigs is not supported"},
		{name: "set-up", text: `{"setupCommand":"/x"}`, err: "setupCommand is not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseConfig(map[string]string{configKey: test.text})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "kube-system/"+ConfigMapName) {
					t.Fatalf("error %v, want %q in it and the ConfigMap's name", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for node, want := range test.roots {
				if got := c.Roots(node); !slices.Equal(got, want) {
					t.Errorf("the roots of %s are %q, want %q", node, got, want)
				}
			}
			if c.mode != test.mode {
				t.Errorf("mode %v, want %v", c.mode, test.mode)
			}
		})
	}
}

func TestDefaultConfig(t *testing.T) {
	text, err := defaultConfig(`/a "b"`)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(map[string]string{configKey: text})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Roots("any"); !slices.Equal(got, []string{`/a "b"`}) || c.mode != defaultMode {
		t.Errorf("roots %q, mode %v", got, c.mode)
	}
}

func TestDir(t *testing.T) {
	short := Volume{Name: "pvc-1", Namespace: "default", Claim: "data-web-0"}
	if got, want := short.Dir(), "pvc-1_default_data-web-0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := Volume{Name: "pvc-" + strings.Repeat("1", 36), Namespace: strings.Repeat("n", 63), Claim: strings.Repeat("c", 112) + "-" + strings.Repeat("c", 140)}
	dir := long.Dir()
	if err := checkDir(dir); err != nil {
		t.Errorf("a long name is cut to one that is refused: %v", err)
	}
	if len(atticName(dir)) > 255 {
		t.Errorf("a long name's ending makes %d bytes, more than a file's name may have", len(atticName(dir)))
	}
}

func TestCheckDir(t *testing.T) {
	for _, name := range []string{
		"", ".", "..", "a", "a_b", "a_b_c/..", "../a_b_c", "/a_b_c", ".a_b_c", "a_b_.c", "a_b_", "a_b_c_d", "A_b_c", "a_b_c\x00",
		"a_b_c\n", attic, strings.Repeat("a", maxName) + "_b_c",
	} {
		if checkDir(name) == nil {
			t.Errorf("%q is taken for the directory of a volume", name)
		}
	}
	if err := checkDir("pvc-0_1ns_1.claim-2"); err != nil {
		t.Error(err)
	}
}

package redact

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	secret = "0123456789abcdefSECRET"
	jwt    = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0abc.SIGNATURESECRET"
)

func newRedactor(t *testing.T) *Redactor {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	token := "K10" + strings.Repeat("ab", 32) + "::server:" + secret + "\n"
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := New(file, filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantClean wants a text without secrets that still says what it says otherwise.
func wantClean(t *testing.T, name, text string, want ...string) {
	t.Helper()
	if strings.Contains(text, "SECRET") || !strings.Contains(text, Removed) {
		t.Errorf("%s: %s", name, text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q is missing in %s", name, w, text)
		}
	}
}

func TestText(t *testing.T) {
	r := newRedactor(t)
	for text, keep := range map[string]string{
		"joining with " + secret + " now":                                                    "joining with ",
		"token K10" + strings.Repeat("cd", 32) + "::node:othSECRET fails":                    " fails",
		"-----BEGIN EC PRIVATE KEY-----\nSECRET\n-----END EC PRIVATE KEY-----\nafter":        "after",
		"Authorization: Bearer " + jwt:                                                       "Authorization",
		"cookie=" + jwt:                                                                      "cookie=",
		"postgres://kedge:theSECRET@db:5432/kedge":                                           "@db:5432/kedge",
		"mysql --password=theSECRET --host=db":                                               "--host=db",
		`{"password": "the SECRET one", "user": "me"}`:                                       `"user": "me"`,
		"KEDGE_TOKEN=theSECRET KEDGE_URL=https://x":                                          "KEDGE_URL=https://x",
		"access_key_id: theSECRET\nregion: eu":                                               "region: eu",
		"KEDGE_DATASTORE_ENDPOINT=mysql-user-SECRET@tcp(db)\nrest":                           "rest",
		`Authorization: Basic dXNlcjpTRUNSRVRTRUNSRVQSECRET=`:                                "Authorization",
		"client-key-data: LS0tLS1TRUNSRVQSECRET":                                             "client-key-data",
		"a bootstrap token abcdef.0123456789abcdef is one, SECRET-less" + "\ntoken=mySECRET": "SECRET-less",
	} {
		got := string(r.Text([]byte(text)))
		got = strings.ReplaceAll(got, "SECRET-less", "less")
		wantClean(t, text, got, strings.ReplaceAll(keep, "SECRET-less", "less"))
	}
	if got := string(r.Text([]byte("nothing of note: 42"))); got != "nothing of note: 42" {
		t.Errorf("changed to %s", got)
	}
}

func TestYAML(t *testing.T) {
	r := newRedactor(t)
	for content, keep := range map[string]string{
		"mirrors:\n  docker.io: {endpoint: [https://m]}\nconfigs:\n  m:\n    auth: {username: me, password: theSECRET}\n": "username: me",
		"configs:\n  m:\n    auth:\n      username: me\n      password: |\n        the\n        SECRET\n":                 "username: me",
		"configs: {m: {auth: {auth: dGhlSECRET}}}\nmirrors: {}\n":                                                         "mirrors",
		"configs: {m: {auth: {identity_token: dGhlSECRET}, tls: {ca_file: /etc/ca}}}\n":                                   "ca_file: /etc/ca",
		"token: theSECRET\ntoken-file: /etc/kedge/token\n":                                                                "token-file: /etc/kedge/token",
		"# password: SECRET\ntls-san: [a] # SECRET\ntoken: x\n":                                                           "tls-san",
		"datastore-endpoint: mysql://u:SECRET@tcp(db)/k\nnode-name: n\n":                                                  "node-name: n",
		"kube-apiserver-arg: [\"service-account-password=SECRET\", v=4]\n":                                                "v=4",
		"etcd-s3-secret-key: SECRET\netcd-s3-access-key: SECRET\netcd-s3-bucket: b\n":                                     "etcd-s3-bucket: b",
	} {
		got, err := r.YAML([]byte(content))
		if err != nil {
			t.Errorf("%s: %v", content, err)
		}
		wantClean(t, content, string(got), keep)
	}
	if _, err := r.YAML([]byte("a: [SECRET")); err == nil {
		t.Error("a malformed file is taken")
	}
}

func TestObject(t *testing.T) {
	r := newRedactor(t)
	for content, keep := range map[string]string{
		`{"kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "U0VDUkVUSECRET"}, "type": "Opaque"}`: "Opaque",
		`{"kind": "Pod", "metadata": {"name": "p", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "SECRET"}, "managedFields": ["SECRET"]},
		  "spec": {"containers": [{"env": [{"name": "DB", "value": "SECRET"}, {"name": "R", "valueFrom": {"secretKeyRef": {"name": "kept", "key": "k"}}}]}]}}`: `"name":"kept"`,
		`{"kind": "Pod", "spec": {"containers": [{"args": ["--password", "SECRET", "--token=SECRET", "--v=4"], "command": ["sh"]}]}}`: "--v=4",
		`{"kind": "HelmChart", "spec": {"chart": "c", "valuesContent": "a: SECRET", "set": {"x": "SECRET"}}}`:                         `"chart":"c"`,
		`{"kind": "HelmChartConfig", "spec": {"values": {"db": {"password": "SECRET"}}, "failurePolicy": "abort"}}`:                   `"abort"`,
		`{"kind": "HelmChart", "spec": {"chartContent": "U0VDUkVUSECRET", "targetNamespace": "n"}}`:                                   `"targetNamespace":"n"`,
		`{"kind": "Event", "message": "` + secret + ` was refused", "reason": "r"}`:                                                   "was refused",
	} {
		var object map[string]any
		if err := json.Unmarshal([]byte(content), &object); err != nil {
			t.Fatal(err)
		}
		r.Object(object)
		out, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(out))
		wantClean(t, content, got, keep)
	}
}

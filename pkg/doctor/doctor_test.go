package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/status"
)

// wantFinding wants one of that level whose text holds the words.
func wantFinding(t *testing.T, found []hostcheck.Finding, level hostcheck.Level, words string) {
	t.Helper()
	for _, f := range found {
		if f.Level == level && strings.Contains(f.Name+": "+f.Detail+" "+f.Fix, words) {
			return
		}
	}
	t.Errorf("no finding of level %s says %q: %+v", level, words, found)
}

func TestChains(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	make := func(dir, name string) *pki.CA {
		ca, err := pki.EnsureCA(pki.KeyPair{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}, name)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	leaf := func(ca *pki.CA, name string) pki.KeyPair {
		files := pki.KeyPair{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
		if err := ca.EnsureCertificate(files, pki.Request{CommonName: name}); err != nil {
			t.Fatal(err)
		}
		return files
	}
	own := make(dir, "own-ca")
	leaf(own, "good")
	wantFinding(t, chainFindings([]string{dir, filepath.Join(dir, "none")}), hostcheck.OK, "1 certificates are signed")

	leaf(make(other, "other-ca"), "foreign")
	swapped := leaf(own, "swapped")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(swapped.Key); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteKey(swapped.Key, key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found := chainFindings([]string{dir})
	wantFinding(t, found, hostcheck.Warning, "foreign.crt: x509")
	wantFinding(t, found, hostcheck.Warning, "swapped.crt does not fit its key")
	wantFinding(t, found, hostcheck.Warning, "empty.crt holds no PEM certificate")
	if len(found) != 3 {
		t.Errorf("%+v", found)
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	times, err := measureSync(t.Context(), dir)
	if err != nil || len(times) == 0 {
		t.Errorf("%d writes, error %v", len(times), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
	if _, err := measureSync(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there is measured")
	}
}

func TestClock(t *testing.T) {
	for ahead, want := range map[time.Duration]string{time.Second: "as", time.Hour: "1h0m0s ahead of", -time.Minute: "1m0s behind"} {
		f := clockFinding("clock", "the server's", ahead, clockTolerance)
		if !strings.Contains(f.Detail, want+" the server's") || (f.Level == hostcheck.OK) != (ahead == time.Second) {
			t.Errorf("%s ahead: %+v", ahead, f)
		}
	}
}

func TestJudgeAnswers(t *testing.T) {
	var answers probed
	about := map[string]question{}
	add := func(target, detail, err string, may bool) {
		answers.Answers = append(answers.Answers, struct {
			Target string  `json:"target"`
			Detail string  `json:"detail"`
			Error  string  `json:"error"`
			Millis float64 `json:"millis"`
		}{target, detail, err, 1.5})
		about[target] = question{about: "about " + target, wrong: "it fails", fix: "mend it", may: may}
	}
	add("a", "10.43.0.1", "", false)
	add("b", "", "", false)
	add("c", "", "i/o\ntimeout", false)
	add("d", "", "servfail", true)
	found := judgeAnswers("n1", answers, about)
	wantFinding(t, found, hostcheck.OK, "n1: about a: 10.43.0.1, in 1.5 ms")
	wantFinding(t, found, hostcheck.OK, "n1: about b: answer in 1.5 ms")
	wantFinding(t, found, hostcheck.Warning, "n1: about c: from pods of node n1, it fails: i/o timeout mend it")
	wantFinding(t, found, hostcheck.Unknown, "about d")
}

func TestNotRunning(t *testing.T) {
	d := &Doctor{Source: status.Source{Socket: filepath.Join(t.TempDir(), "s"), Paths: config.Paths{DataDir: t.TempDir()}}}
	d.report = d.Source.Collect(t.Context())
	wantFinding(t, d.checkKedge(t.Context()), hostcheck.Failure, "does not run")
	for _, check := range []func(context.Context) []hostcheck.Finding{d.checkNodes, d.checkPodNetwork, d.checkClock, d.checkCertificates} {
		if found := check(t.Context()); len(found) != 0 {
			t.Errorf("%+v", found)
		}
	}
	d.running, d.self = true, control.Description{Role: "agent", Servers: []control.ServerState{{Address: "127.0.0.1:1"}}}
	wantFinding(t, d.checkNodes(t.Context()), hostcheck.Warning, "server 127.0.0.1:1: it can't be reached")
}

func TestSummary(t *testing.T) {
	well, odd, bad := hostcheck.Finding{}, hostcheck.Finding{Level: hostcheck.Unknown}, hostcheck.Finding{Level: hostcheck.Warning}
	for want, found := range map[string][]hostcheck.Finding{
		"All 2 checks are well.": {well, well},
		"Nothing wrong was found, but 1 of 2 checks could not be made.":  {well, odd},
		"1 of 3 checks found something wrong; each says how to mend it.": {well, odd, bad},
	} {
		if got := Summary(found); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

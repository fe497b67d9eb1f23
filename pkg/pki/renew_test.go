package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNearEnd(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		left time.Duration
		want bool
	}{
		"new":                {certLifetime, false},
		"a second too early": {renewBefore + time.Second, false},
		"just then":          {renewBefore, false},
		"a second later":     {renewBefore - time.Second, true},
		"ended":              {-time.Second, true},
	} {
		cert := &x509.Certificate{NotAfter: now.Add(tc.left)}
		if got := nearEnd(cert, now); got != tc.want {
			t.Errorf("%s: near its end is %v, want %v", name, got, tc.want)
		}
	}
}

func TestDue(t *testing.T) {
	now := time.Now()
	ends := func(in time.Duration) *x509.Certificate { return &x509.Certificate{NotAfter: now.Add(in)} }
	for name, tc := range map[string]struct {
		cert, ca time.Duration
		want     bool
	}{
		"far from its end":    {renewBefore + time.Hour, caLifetime, false},
		"near its end":        {renewBefore - time.Hour, caLifetime, true},
		"ended":               {-time.Hour, caLifetime, true},
		"ends with its CA":    {renewBefore - time.Hour, renewBefore - time.Hour, false},
		"the CA has a week":   {24 * time.Hour, 7 * 24 * time.Hour, true},
		"the CA ends as well": {24 * time.Hour, 24 * time.Hour, false},
	} {
		if got := Due(ends(tc.cert), ends(tc.ca)); got != tc.want {
			t.Errorf("%s: due is %v, want %v", name, got, tc.want)
		}
	}
}

func TestLapsed(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLifetime)}
	for name, tc := range map[string]struct {
		clock time.Duration // by how much it is set forward
		want  bool
	}{
		"not at all":        {0, false},
		"near its end":      {certLifetime - time.Second, false},
		"its last moment":   {certLifetime, false},
		"past its end":      {certLifetime + time.Second, true},
		"its first moment":  {-time.Hour, false},
		"before it has any": {-time.Hour - time.Second, true},
	} {
		if got := Lapsed(cert, now.Add(tc.clock)); got != tc.want {
			t.Errorf("the clock set %s: lapsed is %v, want %v", name, got, tc.want)
		}
	}
}

// pairFiles names a pair that does not exist yet.
func pairFiles(dir, name string) KeyPair {
	return KeyPair{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReissue(t *testing.T) {
	ca, dir := newCA(t)
	files := pairFiles(dir, "a")
	req := Request{CommonName: "kubelet", Organization: []string{"nodes"}, DNSNames: []string{"a"}, IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}
	if issued, err := ca.Update(files, req); err != nil || !issued {
		t.Fatalf("issued is %v, error %v", issued, err)
	}
	if issued, err := ca.Update(files, req); err != nil || issued {
		t.Errorf("a good certificate was issued again (%v), error %v", issued, err)
	}
	cert, key := read(t, files.Cert), read(t, files.Key)
	if err := ca.Reissue(files, req); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(cert, read(t, files.Cert)) || bytes.Equal(key, read(t, files.Key)) {
		t.Error("certificate or key are the same as before")
	}
	if !files.matches() {
		t.Error("the new key is not the new certificate's")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if issued, err := ca.Update(files, req); err != nil || issued {
		t.Errorf("the new certificate does not say the same: issued again is %v, error %v", issued, err)
	}
}

func TestReissueAll(t *testing.T) {
	server, dir := newCA(t)
	client, err := EnsureCA(pairFiles(dir, "client-ca"), "client-ca")
	if err != nil {
		t.Fatal(err)
	}
	serving := Request{CommonName: "apiserver", DNSNames: []string{"localhost"}}
	admin := Request{CommonName: "admin", Organization: []string{"admins"}}
	pairs := []KeyPair{pairFiles(dir, "serving"), pairFiles(dir, "admin")}
	var before [][]byte
	for i, ca := range []*CA{server, client} {
		if err := ca.EnsureCertificate(pairs[i], []Request{serving, admin}[i]); err != nil {
			t.Fatal(err)
		}
		before = append(before, read(t, pairs[i].Cert), read(t, pairs[i].Key))
	}
	authorities := [][]byte{read(t, server.Files.Cert), read(t, client.Files.Cert)}
	if count, err := ReissueAll(dir); err != nil || count != 2 {
		t.Fatalf("%d reissued, error %v; want 2", count, err)
	}
	for i, path := range []string{pairs[0].Cert, pairs[0].Key, pairs[1].Cert, pairs[1].Key} {
		if bytes.Equal(before[i], read(t, path)) {
			t.Errorf("%s is as before", path)
		}
	}
	if !bytes.Equal(authorities[0], read(t, server.Files.Cert)) || !bytes.Equal(authorities[1], read(t, client.Files.Cert)) {
		t.Error("an authority has changed")
	}
	for i, ca := range []*CA{server, client} {
		if !ca.stillGood(pairs[i], []Request{serving, admin}[i]) {
			t.Errorf("%s does not say what it said", pairs[i].Cert)
		}
	}
	stranger, _ := newCA(t)
	if err := stranger.EnsureCertificate(pairFiles(dir, "foreign"), admin); err != nil {
		t.Fatal(err)
	}
	if _, err := ReissueAll(dir); err == nil || !strings.Contains(err.Error(), "foreign.crt is signed by no CA") {
		t.Errorf("a foreign certificate gives %v", err)
	}
}

// TestSettle cuts the power at each step of WritePair.
func TestSettle(t *testing.T) {
	for name, tc := range map[string]struct {
		steps   func(files, staged KeyPair) [][2]string // renames that happened
		wantNew bool
	}{
		"before the renames":       {func(KeyPair, KeyPair) [][2]string { return nil }, false},
		"certificate renamed":      {func(f, s KeyPair) [][2]string { return [][2]string{{s.Cert, f.Cert}} }, true},
		"key renamed, out of turn": {func(f, s KeyPair) [][2]string { return [][2]string{{s.Key, f.Key}} }, true},
		"both renamed":             {func(f, s KeyPair) [][2]string { return [][2]string{{s.Cert, f.Cert}, {s.Key, f.Key}} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			ca, dir := newCA(t)
			files := pairFiles(dir, "a")
			req := Request{CommonName: "a"}
			if err := ca.EnsureCertificate(files, req); err != nil {
				t.Fatal(err)
			}
			staged := files.staged()
			if err := ca.EnsureCertificate(staged, req); err != nil {
				t.Fatal(err)
			}
			old, fresh := read(t, files.Cert), read(t, staged.Cert)
			for _, step := range tc.steps(files, staged) {
				if err := os.Rename(step[0], step[1]); err != nil {
					t.Fatal(err)
				}
			}
			if err := Settle(files); err != nil {
				t.Fatal(err)
			}
			want := old
			if tc.wantNew {
				want = fresh
			}
			if !bytes.Equal(read(t, files.Cert), want) {
				t.Error("the wrong certificate is in place")
			}
			if _, err := tls.LoadX509KeyPair(files.Cert, files.Key); err != nil {
				t.Error(err)
			}
			for _, path := range []string{staged.Cert, staged.Key} {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s is left over", path)
				}
			}
		})
	}
	if err := Settle(pairFiles(t.TempDir(), "none")); err != nil {
		t.Errorf("settling nothing: %v", err)
	}
}

func TestInspect(t *testing.T) {
	ca, dir := newCA(t)
	files := pairFiles(dir, "serving")
	if err := ca.EnsureCertificate(files, Request{CommonName: "kubelet", Organization: []string{"nodes"}, DNSNames: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	cert, err := LoadCertificate(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	leaf, bundle := read(t, files.Cert), append(bytes.Clone(ca.Bundle), ca.Bundle...)
	day := 24 * time.Hour
	for name, tc := range map[string]struct {
		data  []byte
		now   time.Time
		count int
		want  Entry
	}{
		"new":         {leaf, cert.NotAfter.Add(-certLifetime), 1, Entry{Usage: "serving", Subject: "CN=kubelet,O=nodes", DaysLeft: 365, Status: OK}},
		"renewable":   {leaf, cert.NotAfter.Add(-100 * day), 1, Entry{Usage: "serving", Subject: "CN=kubelet,O=nodes", DaysLeft: 100, Status: OK}},
		"overdue":     {leaf, cert.NotAfter.Add(-80 * day), 1, Entry{Usage: "serving", Subject: "CN=kubelet,O=nodes", DaysLeft: 80, Status: Warning}},
		"ended":       {leaf, cert.NotAfter.Add(36 * time.Hour), 1, Entry{Usage: "serving", Subject: "CN=kubelet,O=nodes", DaysLeft: -1, Status: Expired}},
		"not yet":     {leaf, cert.NotBefore.Add(-time.Minute), 1, Entry{Usage: "serving", Subject: "CN=kubelet,O=nodes", DaysLeft: 365, Status: Warning}},
		"CA":          {bundle, ca.Certificate.NotBefore.Add(backdate), 2, Entry{Usage: "CA", Subject: ca.Certificate.Subject.String(), DaysLeft: 3650, Status: OK}},
		"CA, old one": {bundle, ca.Certificate.NotAfter.Add(-300 * day), 2, Entry{Usage: "CA", Subject: ca.Certificate.Subject.String(), DaysLeft: 300, Status: Warning}},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := inspect("file", tc.data, tc.now)
			if err != nil || len(entries) != tc.count {
				t.Fatalf("%d entries, error %v; want %d", len(entries), err, tc.count)
			}
			got := entries[0]
			if got.File != "file" || got.Subject != tc.want.Subject || got.Usage != tc.want.Usage || got.DaysLeft != tc.want.DaysLeft || got.Status != tc.want.Status {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	if _, err := Inspect("key", read(t, files.Key)); err == nil || !strings.Contains(err.Error(), "key holds no PEM certificate") {
		t.Errorf("a key gives %v", err)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// foundCertificate is what kedge certificate check says of a certificate.
type foundCertificate struct {
	File, Subject, Usage, Serial, Status string
	DaysLeft                             int
}

// checkCertificates returns what kedge certificate check finds on a host, by file.
func checkCertificates(t *testing.T, host *testbed.Host) map[string]foundCertificate {
	t.Helper()
	out, err := host.Kedge(t.Context(), "certificate", "check", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list []foundCertificate
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := map[string]foundCertificate{}
	for _, c := range list {
		if c.Status != "OK" {
			t.Errorf("on %s: %+v", host.Name, c)
		}
		found[c.File] = c
	}
	return found
}

// servedSerial is the serial number of the certificate that is served at an
// address, as the host sees it.
func servedSerial(ctx context.Context, host *testbed.Host, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := host.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := secure.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", secure.ConnectionState().PeerCertificates[0].SerialNumber), nil
}

// isNewCertificate wants an entry of after to be of the same name and otherwise new.
func isNewCertificate(t *testing.T, before, after foundCertificate) {
	t.Helper()
	if after.Serial == before.Serial || after.Subject != before.Subject || after.Usage != before.Usage {
		t.Errorf("%s was %+v and is %+v", before.File, before, after)
	}
}

// TestCertificate replaces all keys and certificates of a server and an agent
// under way. No process restarts, and everything goes on, also when each
// connection must be opened anew.
func TestCertificate(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	a := f.agents[0]
	s := f.sandbox(t)
	s.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: talker}
spec:
	selector: {matchLabels: {app: talker}}
	template:
		metadata: {labels: {app: talker}}
		spec:
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: BUSYBOX, command: [sh, -c, echo started; exec sleep 36000]}]
`)
	s.rollout("daemonset/talker")
	const tlsDir, agentDir = "/var/lib/kedge/server/tls/", "/var/lib/kedge/agent/pki/"
	served := []struct {
		from          *testbed.Host
		address, file string
	}{
		{f.node, f.node.Address.String() + ":6443", tlsDir + "serving-kube-apiserver.crt"},
		{f.node, f.node.Address.String() + ":10250", tlsDir + "serving-kubelet.crt"},
		{f.node, "127.0.0.1:10257", tlsDir + "serving-kube-controller-manager.crt"},
		{f.node, "127.0.0.1:10259", tlsDir + "serving-kube-scheduler.crt"},
		{f.node, a.host.Address.String() + ":10250", agentDir + "kubelet-serving.crt"},
	}
	key := func(host *testbed.Host, file string) string {
		content, err := os.ReadFile(host.Path(strings.TrimSuffix(file, "crt") + "key"))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}

	for round := range 3 {
		begin := time.Now()
		for _, host := range []*testbed.Host{f.node, a.host} {
			before := checkCertificates(t, host)
			keys := map[string]string{}
			for file := range before {
				if filepath.Ext(file) == ".crt" && before[file].Usage != "CA" {
					keys[file] = key(host, file)
				}
			}
			if _, err := host.Kedge(t.Context(), "certificate", "rotate"); err != nil {
				t.Fatal(err)
			}
			after := checkCertificates(t, host)
			leaves := 0
			for file, old := range before {
				if old.Usage == "CA" {
					s.check("CA "+file, after[file].Serial, old.Serial)
					continue
				}
				leaves++
				isNewCertificate(t, old, after[file])
				if keys[file] != "" && keys[file] == key(host, file) {
					t.Errorf("the key of %s is as before", file)
				}
			}
			if leaves < 4 {
				t.Errorf("only %d certificates on %s: %v", leaves, host.Name, before)
			}
			for _, at := range served {
				if new, ok := after[at.file]; ok {
					eventually(t, at.address+" to serve the new certificate", func() (bool, string) {
						serial, err := servedSerial(t.Context(), at.from, at.address)
						return err == nil && serial == new.Serial, fmt.Sprint(serial, err)
					})
				}
			}
		}
		// Whoever has a connection goes on with it for minutes. So all are cut.
		for _, host := range []*testbed.Host{f.node, a.host} {
			if _, err := host.Exec(t.Context(), "ss", "-tnK", "( sport = 6443 or dport = 6443 or sport = 6444 or dport = 6444 or sport = 10250 or dport = 10250 )"); err != nil {
				t.Fatal(err)
			}
		}

		t.Run(fmt.Sprintf("afterwards %d", round+1), func(t *testing.T) {
			s := *s
			s.t = t
			for _, name := range []string{"node", a.name} {
				// The kubelet renews its lease every ten seconds.
				eventually(t, "the lease of "+name, func() (bool, string) {
					out, err := s.node.Kubectl(t.Context(), "--namespace", "kube-node-lease", "get", "lease", name, "-o", "jsonpath={.spec.renewTime}")
					renewed, _ := time.Parse(time.RFC3339, out)
					return err == nil && renewed.After(begin.Add(15*time.Second)), fmt.Sprint(out, err)
				})
				f.waitNode(t, name)
				eventually(t, "the kubelet's statistics of "+name, func() (bool, string) {
					out, err := s.try("get", "--raw", "/api/v1/nodes/"+name+"/proxy/stats/summary")
					return err == nil && strings.Contains(out, `"nodeName"`), fmt.Sprint(err)
				})
			}
			// Controllers make the pods, the scheduler places them, kubelets start
			// them, on both nodes.
			s.kubectl("rollout", "restart", "daemonset/talker")
			s.rollout("daemonset/talker")
			s.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: new-%d}
spec:
	replicas: 2
	selector: {matchLabels: {app: new-%[1]d}}
	template:
		metadata: {labels: {app: new-%[1]d}}
		spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: AGNHOST, args: [pause]}]}
`, round))
			s.rollout(fmt.Sprintf("deployment/new-%d", round))
			pods := strings.Fields(s.kubectl("get", "pods", "-l", "app=talker", "-o", "jsonpath={.items[*].metadata.name}"))
			if len(pods) != 2 {
				t.Errorf("pods are %v, want one on each node", pods)
			}
			for _, pod := range pods {
				s.check("the host name of "+pod, s.kubectl("exec", pod, "--", "hostname"), pod)
				s.check("the log of "+pod, s.kubectl("logs", pod), "started")
			}
		})
	}
	for name, process := range map[string]*testbed.Process{"server": f.server, "agent": a.process} {
		if !process.Running() {
			t.Errorf("the %s has ended", name)
		}
		for line := range strings.Lines(process.Log()) {
			if strings.Contains(line, " ERROR ") {
				t.Logf("the %s logs: %s", name, line)
			}
		}
	}

	t.Run("for root alone", func(t *testing.T) {
		info, err := os.Stat(f.node.Path("/run/kedge/kedge.sock"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket's mode is %v, %v; want 0600", info.Mode(), err)
		}
	})

	t.Run("stopped agent", func(t *testing.T) {
		stop(t, a.process)
		before := checkCertificates(t, a.host)
		wantFailure(t, a.host, []string{"certificate", "rotate"}, "no Kedge is running here", "at each start")
		f.join(t, a)
		eventually(t, "new certificates", func() (bool, string) {
			after := checkCertificates(t, a.host)[agentDir+"kubelet.crt"]
			return after.Serial != before[agentDir+"kubelet.crt"].Serial, fmt.Sprint(after)
		})
		f.waitNode(t, a.name)
	})

	t.Run("stopped server", func(t *testing.T) {
		stop(t, f.server)
		before := checkCertificates(t, f.node)
		if _, err := f.node.Kedge(t.Context(), "certificate", "rotate"); err != nil {
			t.Fatal(err)
		}
		rotated := checkCertificates(t, f.node)
		isNewCertificate(t, before[tlsDir+"client-admin.crt"], rotated[tlsDir+"client-admin.crt"])
		f.start(t)
		after := checkCertificates(t, f.node)
		for file, c := range rotated {
			if filepath.Ext(file) == ".crt" {
				s.check(file+" after the start", after[file].Serial, c.Serial)
			}
		}
		s.check("the administrator's kubeconfig", after["/etc/kedge/kedge.yaml"].Serial, after[tlsDir+"client-admin.crt"].Serial)
		f.waitNode(t, a.name)
	})

	t.Run("expired", func(t *testing.T) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, NotAfter: time.Now().Add(-time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			t.Fatal(err)
		}
		old := f.node.Path(tlsDir + "old.crt")
		if err := os.WriteFile(old, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(old) }()
		result, err := f.node.Run(t.Context(), nil, f.node.Binary, "certificate", "check")
		if err != nil || result.Code != 1 || !strings.Contains(result.Stdout, "EXPIRED") || !strings.Contains(result.Stdout, "CN=old") {
			t.Errorf("error %v, code %d, output:\n%s%s", err, result.Code, result.Stdout, result.Stderr)
		}
	})

	t.Run("nothing there", func(t *testing.T) {
		other := newHost(t, f.bed, "other")
		if _, err := other.Kedge(t.Context(), "version"); err != nil { // unpacks
			t.Fatal(err)
		}
		for _, command := range []string{"check", "rotate"} {
			wantFailure(t, other, []string{"certificate", command}, "/var/lib/kedge", "--data-dir")
		}
		wantFailure(t, other, []string{"certificate", "chek"}, `did you mean "check"?`)
	})
}

// stop ends a process in order.
func stop(t *testing.T, process *testbed.Process) {
	t.Helper()
	if _, code, err := process.Stop(30 * time.Second); err != nil || code != 0 {
		t.Fatalf("stopping ended with code %d, error %v", code, err)
	}
}

// wantFailure runs a command that fails with one line that says certain things.
func wantFailure(t *testing.T, host *testbed.Host, args []string, texts ...string) {
	t.Helper()
	result, err := host.Run(t.Context(), nil, host.Binary, args...)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.TrimSpace(result.Stderr)
	if result.Code != 1 || result.Stdout != "" || !strings.HasPrefix(said, "kedge: ") || strings.Contains(said, "\n") {
		t.Errorf("kedge %s ends with code %d, output %q, and says %q", strings.Join(args, " "), result.Code, result.Stdout, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("kedge %s doesn't say %q, but: %s", strings.Join(args, " "), text, said)
		}
	}
}

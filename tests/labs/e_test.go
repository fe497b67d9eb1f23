//go:build labs

package labs

import (
	"os"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// firewall is what an administrator's nftables.conf says before Kedge comes:
// nothing comes in but ssh.
const firewall = `
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state established,related accept
		icmp type echo-request accept
		tcp dport 22 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
	}
}
`

// TestLabE is the joys of Kubernetes: a master and two minions, all with their
// firewall on.
func TestLabE(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	master := l.host(t, "master")
	minions := []*testbed.Host{l.host(t, "minion1"), l.host(t, "minion2")}
	for _, host := range append(minions, master) {
		put(t, host, "/etc/nftables.conf", firewall)
		newShell(t, host).run("nft -f /etc/nftables.conf")
	}
	open := func(s shell) {
		s.t.Helper()
		// check-config ends with an error where something is missing.
		out, _ := s.try("kedge check-config")
		_, fix, found := strings.Cut(out, "fix: nft")
		if !found {
			s.t.Fatalf("check-config on %s names no command that opens the firewall:\n%s", s.host.Name, out)
		}
		fix, _, _ = strings.Cut("nft"+fix, "\n")
		s.t.Logf("%s: %s", s.host.Name, fix)
		s.run(fix)
	}
	open(newShell(t, master))
	s := l.serverOn(t, master)
	token, err := os.ReadFile(master.Path("/var/lib/kedge/server/node-token"))
	if err != nil {
		t.Fatal(err)
	}
	for _, minion := range minions {
		// The documented ports of a node.
		newShell(t, minion).run("nft insert rule inet filter input udp dport 8472 accept; nft insert rule inet filter input ip saddr 10.42.0.0/16 accept; " +
			"nft insert rule inet filter forward ip saddr 10.42.0.0/16 accept; nft insert rule inet filter forward ip daddr 10.42.0.0/16 accept")
		if _, err := minion.Start("agent", "--server", "https://"+master.Address.String()+":6443", "--token", strings.TrimSpace(string(token))); err != nil {
			t.Fatal(err)
		}
	}
	s.steps(t,
		step{"nodes", func(s shell) {
			s.see("kubectl get nodes -o wide", "master ", "minion1 ", "minion2 ")
			s.run("kubectl wait --for=condition=Ready node --all --timeout=2m", "node/minion2 condition met")
		}},
		step{"names of pods", labENames},
		step{"private registry", labERegistry},
		step{"the firewall is still on", func(s shell) {
			for _, host := range append(minions, master) {
				newShell(s.t, host).run("nft list chain inet filter input", "policy drop", "tcp dport 22 accept")
				newShell(s.t, host).run("nft list chain inet filter forward", "policy drop")
			}
		}},
	)
}

func labENames(s shell) {
	s.file("busybox.yaml", `
apiVersion: v1
kind: Service
metadata:
	name: default-subdomain
spec:
	selector:
		name: busybox
	clusterIP: None
	ports:
	- name: foo
		port: 1234
		targetPort: 1234
---
apiVersion: v1
kind: Pod
metadata:
	name: busybox1
	labels:
		name: busybox
spec:
	hostname: busybox-1
	subdomain: default-subdomain
	nodeSelector: {kubernetes.io/hostname: minion1}
	containers:
	- image: busybox
		command: [sleep, "3600"]
		name: busybox
---
apiVersion: v1
kind: Pod
metadata:
	name: busybox2
	labels:
		name: busybox
spec:
	hostname: busybox-2
	subdomain: default-subdomain
	nodeSelector: {kubernetes.io/hostname: minion2}
	containers:
	- image: busybox
		command: [sleep, "3600"]
		name: busybox
`)
	s.run("kubectl create -f busybox.yaml", "service/default-subdomain created", "pod/busybox1 created")
	s.run("kubectl wait --for=condition=Ready pod --all --timeout=3m")
	s.run("kubectl get pods -o wide", "minion1", "minion2")
	s.see("kubectl get endpoints default-subdomain", "10.42.", ":1234,")
	for from, to := range map[string]string{"busybox1": "busybox-2", "busybox2": "busybox-1"} {
		s.see("kubectl exec -ti "+from+" -- ping -c 1 -W 2 "+to+".default-subdomain.default.svc.cluster.local", "1 packets received")
		s.see("kubectl exec "+from+" -- nslookup "+to+".default-subdomain.default.svc.cluster.local", "Address: 10.42.")
		// In the same subdomain the short name will do.
		s.see("kubectl exec "+from+" -- ping -c 1 -W 2 "+to+".default-subdomain", "1 packets received")
	}
	s.run("kubectl exec busybox1 -- hostname -f", "busybox-1.default-subdomain.default.svc.cluster.local")
	s.run("kubectl delete -f busybox.yaml --now", `pod "busybox2" deleted`)
}

func labERegistry(s shell) {
	image := registryName + ":" + privatePort + "/lab/django"
	s.file("private.yaml", `
apiVersion: v1
kind: Pod
metadata:
	name: private-reg
spec:
	containers:
	- name: private-reg-container
		image: `+image+`
	imagePullSecrets:
	- name: regcred
`)
	s.run("kubectl create secret docker-registry regcred --docker-server="+registryName+":"+privatePort+" --docker-username="+user+" --docker-password='"+password+"' --docker-email=student@lab.example",
		"secret/regcred created")
	s.run("kubectl get secret regcred --output=yaml", ".dockerconfigjson", "kubernetes.io/dockerconfigjson")
	s.run("kubectl apply -f private.yaml")
	s.run("kubectl wait --for=condition=Ready pod/private-reg --timeout=3m")
	s.see("kubectl logs private-reg", "listening on port 8000")
	s.see("kubectl describe pod private-reg", "Successfully pulled image")
	s.run("kubectl delete pod private-reg --now")
}

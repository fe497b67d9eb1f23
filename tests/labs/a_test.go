//go:build labs

package labs

import (
	"strings"
	"testing"
	"time"
)

// TestLabA is a course: containers, and what orchestrates them.
func TestLabA(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.server(t, "node")
	agent := l.host(t, "agent")
	s.steps(t,
		step{"1 join a node", func(s shell) {
			// As printed, but root needs no sudo, and the test keeps what it starts.
			printed := strings.ReplaceAll(s.run("kedge token create --print-join-command"), "sudo ", "")
			write, join, both := strings.Cut(strings.TrimSpace(printed), " && kedge ")
			if lacks := missing(join, []string{"agent --server https://" + s.host.Address.String() + ":6443", "--token-file /etc/kedge/token"}); !both || lacks != "" {
				s.t.Fatalf("the command to join with is %q, lacks %s", printed, lacks)
			}
			if _, err := agent.Exec(s.t.Context(), "sh", "-c", write); err != nil {
				s.t.Fatal(err)
			}
			if _, err := agent.Start(strings.Fields(join)...); err != nil {
				s.t.Fatal(err)
			}
			s.see("kubectl get nodes", "agent", "node")
			s.run("kubectl wait --for=condition=Ready node --all --timeout=2m", "node/agent condition met", "node/node condition met")
		}},
		step{"2 namespaces", labANamespaces},
		step{"3 top", func(s shell) {
			s.see("kubectl top pods --all-namespaces", "NAMESPACE", "coredns")
			s.see("kubectl top nodes", "CPU(cores)", "node ", "agent ")
		}},
		step{"4 a shell in a pod", labAShell},
		step{"5 MariaDB", labAMariaDB},
		step{"6 port-forward and Service", labAService},
		step{"7 private registry, application, nginx", labAApplication},
		step{"8a limits", labALimits},
		step{"8b NetworkPolicy", labANetworkPolicy},
		step{"8c PersistentVolumeClaim", labAClaim},
	)
}

func labANamespaces(s shell) {
	s.run("kubectl version", "Client Version: v1.", "Server Version: v1.", "+kedge")
	s.run("kubectl get namespaces", "default ", "kube-system ", "kube-public ", "kube-node-lease ")
	s.run("kubectl create namespace lab", "namespace/lab created")
	s.run("kubectl config set-context --current --namespace=lab", "modified.")
	s.run("kubectl get pods", "No resources found in lab namespace.")
}

func labAShell(s shell) {
	test := s.open("kubectl run --rm --restart=Never -i -t --image debian test /bin/bash")
	test.expect(`root@test:/# `)
	// Parted, so that the echo of what was typed isn't taken for the answer.
	test.send("cat /etc/debian_ver''sion; tty")
	test.expect(`12\.\d+`)
	test.expect(`/dev/pts/0`)
	s.run("kubectl get pods -o wide", "test ", "1/1", "Running", "10.42.")
	s.run("kubectl get pods -o yaml", "kind: List", "image: debian", "tty: true")
	test.send("exit")
	test.expect(`pod "test" deleted`)
	if err := test.end(); err != nil {
		s.t.Errorf("kubectl run ended with %v", err)
	}
	s.unseen("kubectl get pods", "test")
}

func labAMariaDB(s shell) {
	s.run("kubectl create deployment mariadb --image mariadb --dry-run=client -o yaml > mariadb.yaml")
	watch := s.open("kubectl get pods -w")
	s.run("kubectl apply -f mariadb.yaml", "deployment.apps/mariadb created")
	watch.expect(`mariadb-\S+ +0/1 +ContainerCreating`)
	watch.expect(`mariadb-\S+ +0/1 +(Error|CrashLoopBackOff)`)
	s.see("kubectl describe pods -l app=mariadb", "Back-off restarting failed container", "Exit Code:", "CrashLoopBackOff")
	s.run("kubectl logs deployment/mariadb", "Database is uninitialized and password option is not specified", "MARIADB_ROOT_PASSWORD")
	watch.interrupt()

	// The student adds env to the file.
	s.run(`sed -i 's/^\( *\)- image: mariadb$/&\n\1  env:\n\1  - {name: MARIADB_ROOT_PASSWORD, value: secret}\n\1  - {name: MARIADB_DATABASE, value: django}/' mariadb.yaml && cat mariadb.yaml`,
		"MARIADB_ROOT_PASSWORD")
	s.run("kubectl diff -f mariadb.yaml || true", "MARIADB_ROOT_PASSWORD")
	s.run("kubectl apply -f mariadb.yaml", "deployment.apps/mariadb configured")
	s.run("kubectl rollout status deployment/mariadb --timeout=3m", "successfully rolled out")
	s.see("kubectl logs deployment/mariadb", "ready for connections")
	s.see("kubectl get pods", "1/1", "Running")
}

func labAService(s shell) {
	forward := s.open("kubectl port-forward deployment/mariadb 3306:3306")
	forward.expect(`Forwarding from 127.0.0.1:3306 -> 3306`)
	// The server speaks first, and says what it is.
	s.see("timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3306; head -c 60 <&3' | tr -d '\\0'", "MariaDB")
	forward.expect(`Handling connection for 3306`)
	forward.interrupt()

	s.run("kubectl expose deployment mariadb --port 3306 --dry-run=client -o yaml | tee service.yaml", "kind: Service", "port: 3306", "app: mariadb")
	s.run("kubectl apply -f service.yaml", "service/mariadb created")
	box := s.open("kubectl run --rm --restart=Never -i -t --image busybox box -- sh")
	box.expect(`/ # `)
	box.send("nslookup mariadb.lab.svc.cluster.local")
	box.expect(`Address: 10\.43\.\d+\.\d+`)
	box.send("ping -c 1 -w 1 mari''adb")
	box.expect(`PING mariadb \(10\.43\.\d+\.\d+\)`)
	box.expect(`/ # `)
	box.send("nc -w 3 mariadb 3306 < /dev/null | tr -d '\\0' | head -c 60; echo")
	box.expect(`MariaDB`)
	box.send("exit")
	box.expect(`pod "box" deleted`)
	_ = box.end()
}

func labAApplication(s shell) {
	s.file("app.yaml", `
apiVersion: v1
kind: Secret
metadata:
	name: database
stringData:
	DB_NAME: django
	DB_USER: root
	DB_PASSWORD: secret
---
apiVersion: apps/v1
kind: Deployment
metadata:
	name: django
spec:
	replicas: 2
	selector:
		matchLabels: {app: django}
	template:
		metadata:
			labels: {app: django}
		spec:
			containers:
			- name: django
				image: `+registryName+":"+privatePort+`/lab/django:1.0
				envFrom:
				- secretRef: {name: database}
				ports:
				- containerPort: 8000
				readinessProbe:
					httpGet: {path: /healthz, port: 8000}
					periodSeconds: 2
---
apiVersion: v1
kind: Service
metadata:
	name: django
spec:
	selector: {app: django}
	ports:
	- port: 8000
`)
	s.run("kubectl apply -f app.yaml", "secret/database created", "deployment.apps/django created", "service/django created")
	s.see("kubectl get pods -l app=django", "ErrImagePull")
	s.see("kubectl describe $(kubectl get pods -l app=django -o name | head -1)", "Failed to pull image", "may require authorization")

	s.run("kubectl create secret docker-registry registry --docker-server="+registryName+":"+privatePort+" --docker-username="+user+" --docker-password='"+password+"'",
		"secret/registry created")
	s.run(`sed -i 's/^\( *\)containers:/\1imagePullSecrets:\n\1- name: registry\n&/' app.yaml && kubectl apply -f app.yaml`, "deployment.apps/django configured")
	s.run("kubectl rollout status deployment/django --timeout=3m", "successfully rolled out")

	s.file("nginx.yaml", `
apiVersion: v1
kind: ConfigMap
metadata:
	name: nginx
data:
	default.conf: |
		server {
			listen 80;
			location / {
				proxy_pass http://django:8000;
			}
		}
---
apiVersion: apps/v1
kind: Deployment
metadata:
	name: nginx
spec:
	selector:
		matchLabels: {app: nginx}
	template:
		metadata:
			labels: {app: nginx}
		spec:
			containers:
			- name: nginx
				image: nginx
				volumeMounts:
				- {name: conf, mountPath: /etc/nginx/conf.d}
				readinessProbe:
					tcpSocket: {port: 80}
					periodSeconds: 2
			volumes:
			- name: conf
				configMap: {name: nginx}
---
apiVersion: v1
kind: Service
metadata:
	name: nginx
spec:
	type: NodePort
	selector: {app: nginx}
	ports:
	- {port: 80, nodePort: 30080}
`)
	s.run("kubectl apply -f nginx.yaml", "configmap/nginx created", "deployment.apps/nginx created", "service/nginx created")
	s.run("kubectl rollout status deployment/nginx --timeout=3m", "successfully rolled out")
	s.see("curl -s --max-time 10 http://"+s.host.Address.String()+":30080/", "Hello from Django, visit")
	s.run("kubectl get all", "pod/nginx-", "service/django", "deployment.apps/mariadb", "replicaset.apps/")
}

func labALimits(s shell) {
	s.run("kubectl set resources deployment/django --requests=cpu=50m,memory=64Mi --limits=cpu=1,memory=256Mi", "resource requirements updated")
	s.run("kubectl rollout status deployment/django --timeout=3m", "successfully rolled out")
	s.run("kubectl describe pods -l app=django", "Limits:", "memory:  256Mi", "Requests:", "cpu:      50m")
	s.run("kubectl describe nodes", "Allocated resources:")

	// What takes more memory than it may have is killed, and the reason is shown.
	s.file("greedy.yaml", `
apiVersion: v1
kind: Pod
metadata:
	name: greedy
spec:
	restartPolicy: Never
	containers:
	- name: greedy
		image: debian
		command: [bash, -c, 'x=; while true; do x="$x$(head -c 4000000 /dev/zero | tr "\\0" x)"; done']
		resources:
			limits: {memory: 32Mi}
`)
	s.run("kubectl apply -f greedy.yaml", "pod/greedy created")
	s.see("kubectl get pod greedy", "OOMKilled")
	s.run("kubectl delete pod greedy --now")

	// The Secret's values are the application's environment.
	s.run("kubectl exec deployment/django -- env", "DB_USER=root", "DB_PASSWORD=secret")
}

// labANetworkPolicy lets only the application reach the database.
func labANetworkPolicy(s shell) {
	const (
		reach = `timeout 5 bash -c 'exec 3<>/dev/tcp/mariadb.lab/3306 && head -c 60 <&3' | tr -d '\0'`
		stray = `kubectl run --rm --restart=Never -i --image debian --quiet `
	)
	s.run(stray+"before -- bash -c \""+reach+"\"", "MariaDB")
	s.run("kubectl create namespace web", "namespace/web created")
	s.file("policy.yaml", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
	name: database
spec:
	podSelector:
		matchLabels: {app: mariadb}
	ingress:
	- from:
		- namespaceSelector:
				matchLabels: {kubernetes.io/metadata.name: lab}
			podSelector:
				matchLabels: {app: django}
		ports:
		- port: 3306
`)
	s.run("kubectl apply -f policy.yaml", "networkpolicy.networking.k8s.io/database created")
	s.run("kubectl describe networkpolicy database", "NamespaceSelector: kubernetes.io/metadata.name=lab", "PodSelector: app=django")
	blocked := func(command string) {
		s.t.Helper()
		if out, _ := s.try(command); strings.Contains(out, "MariaDB") {
			s.t.Errorf("$ %s\n%s\n(reaches the database)", command, out)
		}
	}
	// Rules are written a moment after the policy.
	time.Sleep(time.Second)
	blocked(stray + "stray -- bash -c \"" + reach + "\"")
	// Neither does the application's label help in another namespace.
	blocked(stray + "stray --namespace web --labels app=django -- bash -c \"" + reach + "\"")
	s.run(stray+"friend --labels app=django -- bash -c \""+reach+"\"", "MariaDB")
	s.see("curl -s --max-time 10 http://"+s.host.Address.String()+":30080/", "Hello from Django, visit")
}

// labAClaim gives the database a volume that survives the pod.
func labAClaim(s shell) {
	s.file("claim.yaml", `
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
	name: mariadb
spec:
	accessModes: [ReadWriteOnce]
	resources:
		requests: {storage: 1Gi}
`)
	s.run("kubectl get storageclass", "(default)")
	s.run("kubectl apply -f claim.yaml", "persistentvolumeclaim/mariadb created")
	s.run(`kubectl patch deployment mariadb -p '{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}, "template": {"spec": {
		"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "mariadb"}}],
		"containers": [{"name": "mariadb", "volumeMounts": [{"name": "data", "mountPath": "/var/lib/mysql"}]}]}}}}'`, "patched")
	s.run("kubectl rollout status deployment/mariadb --timeout=3m", "successfully rolled out")
	s.run("kubectl get pvc,pv", "Bound", "lab/mariadb")
	visits := func() string {
		return s.see("curl -s --max-time 10 http://"+s.host.Address.String()+":30080/", "visit")
	}
	visits() // the first one
	s.run("kubectl delete pod -l app=mariadb", "deleted")
	s.run("kubectl rollout status deployment/mariadb --timeout=3m", "successfully rolled out")
	if got := visits(); strings.HasSuffix(got, "visit 1") {
		s.t.Errorf("after the pod was deleted the application says %q: the data is gone", got)
	}
}

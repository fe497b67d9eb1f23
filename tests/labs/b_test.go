//go:build labs

package labs

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestLabB is a research lab's production cluster.
func TestLabB(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// Prometheus is to reach every component.
	everywhere := []string{"--kube-proxy-arg=metrics-bind-address=0.0.0.0"}
	s := l.server(t, "node", append(everywhere, "--kube-scheduler-arg=bind-address=0.0.0.0", "--kube-controller-manager-arg=bind-address=0.0.0.0")...)
	agent := l.host(t, "agent")
	token, err := os.ReadFile(s.host.Path("/var/lib/kedge/server/node-token"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Start(append([]string{"agent", "--server", "https://" + s.host.Address.String() + ":6443", "--token", strings.TrimSpace(string(token))}, everywhere...)...); err != nil {
		t.Fatal(err)
	}
	outside := newShell(t, l.host(t, "outside"))
	s.steps(t,
		step{"nodes and pod network", func(s shell) {
			s.see("kubectl get nodes", "node ", "agent ")
			s.run("kubectl wait --for=condition=Ready node --all --timeout=2m")
			s.run("ip -d link show type vxlan", "vxlan id 1")
		}},
		step{"Deployment, scaling, rolling update, rollback", labBDeployment},
		step{"self-healing", labBSelfHealing},
		step{"DaemonSet", labBDaemonSet},
		step{"Job and CronJob", labBJobs},
		step{"NFS", labBNFS},
		step{"Prometheus and alerts", labBPrometheus},
		step{"StatefulSet", labBStatefulSet},
		step{"backup and restore", labBBackup},
		step{"LoadBalancer", func(s shell) { labBLoadBalancer(s, outside.with(s.t)) }},
		step{"Ingress", func(s shell) { labBIngress(s, outside.with(s.t)) }},
	)
}

// with is the same shell in a part of the test.
func (s shell) with(t *testing.T) shell {
	s.t = t
	return s
}

const labBWeb = `
apiVersion: v1
kind: ConfigMap
metadata:
	name: page
data:
	index.html: |
		revision one
---
apiVersion: apps/v1
kind: Deployment
metadata:
	name: web
spec:
	replicas: 2
	selector:
		matchLabels: {app: web}
	template:
		metadata:
			labels: {app: web}
		spec:
			containers:
			- name: nginx
				image: nginx:1.22
				readinessProbe:
					httpGet: {path: /, port: 80}
					periodSeconds: 2
				volumeMounts:
				- {name: page, mountPath: /usr/share/nginx/html}
			volumes:
			- name: page
				configMap: {name: page}
---
apiVersion: v1
kind: Service
metadata:
	name: web
spec:
	selector: {app: web}
	ports:
	- port: 80
`

func labBDeployment(s shell) {
	s.file("web.yaml", labBWeb)
	s.run("kubectl apply -f web.yaml", "deployment.apps/web created", "service/web created")
	s.run("kubectl rollout status deployment/web --timeout=3m", "successfully rolled out")
	s.run("kubectl scale deployment/web --replicas=4", "scaled")
	s.run("kubectl rollout status deployment/web --timeout=3m", "successfully rolled out")
	s.run("kubectl get pods -l app=web -o wide", "node ", "agent ")
	s.run("kubectl scale deployment/web --replicas=2")

	s.run("kubectl set env deployment/web REVISION=two && kubectl annotate deployment/web kubernetes.io/change-cause='second revision'")
	s.run("kubectl rollout status deployment/web --timeout=3m", "successfully rolled out")
	s.run("kubectl rollout history deployment/web", "REVISION", "second revision")
	s.run("kubectl set image deployment/web nginx=nginx:missing")
	s.see("kubectl get pods -l app=web", "ErrImagePull")
	s.see("kubectl get deployment web", "2/2") // the old pods serve
	s.run("kubectl rollout undo deployment/web", "rolled back")
	s.run("kubectl rollout status deployment/web --timeout=3m", "successfully rolled out")
	s.run("kubectl get deployment web -o wide", "nginx:1.22")
	s.run("kubectl exec deployment/web -- env", "REVISION=two")
}

func labBSelfHealing(s shell) {
	s.run("kubectl exec deployment/web -- sh -c 'kill -QUIT 1'")
	s.see("kubectl get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'", "1")
	s.see("kubectl get deployment web", "2/2")
	s.run("kubectl delete pod -l app=web --wait=false", "deleted")
	s.see("kubectl get events", "SuccessfulCreate")
	s.run("kubectl rollout status deployment/web --timeout=3m", "successfully rolled out")
}

func labBDaemonSet(s shell) {
	s.file("daemonset.yaml", `
apiVersion: apps/v1
kind: DaemonSet
metadata:
	name: collector
spec:
	selector:
		matchLabels: {app: collector}
	template:
		metadata:
			labels: {app: collector}
		spec:
			terminationGracePeriodSeconds: 0
			containers:
			- name: collector
				image: busybox
				command: [sh, -c, 'echo logs of this node: $(ls /logs | wc -l); sleep 36000']
				volumeMounts:
				- {name: logs, mountPath: /logs, readOnly: true}
			volumes:
			- name: logs
				hostPath: {path: /var/log/pods}
`)
	s.run("kubectl apply -f daemonset.yaml")
	s.run("kubectl rollout status daemonset/collector --timeout=3m", "successfully rolled out")
	s.run("kubectl get daemonset collector", "2         2         2")
	s.run("kubectl logs -l app=collector --prefix", "logs of this node")
}

func labBJobs(s shell) {
	s.run("kubectl create job pi --image=debian -- bash -c 'echo $((355 * 1000 / 113))'")
	s.run("kubectl wait --for=condition=Complete job/pi --timeout=3m")
	s.run("kubectl logs job/pi", "3141")
	s.run("kubectl create cronjob tick --image=busybox --schedule='* * * * *' -- date", "cronjob.batch/tick created")
	s.see("kubectl get jobs", "tick-", "Complete")
	s.run("kubectl delete cronjob tick")
}

// labBNFS has a file server in user space, and a volume of it. A kernel without
// NFS can't mount the volume; then files go there and back by a client in user
// space, and the pod's events have to say what is wrong.
func labBNFS(s shell) {
	s.file("nfs.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata:
	name: nfs
spec:
	strategy: {type: Recreate}
	selector:
		matchLabels: {app: nfs}
	template:
		metadata:
			labels: {app: nfs}
		spec:
			nodeSelector: {kubernetes.io/hostname: node}
			terminationGracePeriodSeconds: 2
			containers:
			- name: nfs
				image: nfs-server
				securityContext:
					capabilities: {add: [DAC_READ_SEARCH]}
				ports:
				- containerPort: 2049
				readinessProbe:
					tcpSocket: {port: 2049}
					periodSeconds: 2
				volumeMounts:
				- {name: exports, mountPath: /exports}
			volumes:
			- name: exports
				emptyDir: {} # a claim, where the data matters
---
apiVersion: v1
kind: Service
metadata:
	name: nfs
spec:
	clusterIP: 10.43.0.99
	selector: {app: nfs}
	ports:
	- port: 2049
---
apiVersion: v1
kind: PersistentVolume
metadata:
	name: shared
spec:
	capacity: {storage: 1Gi}
	accessModes: [ReadWriteMany]
	storageClassName: nfs
	nfs: {server: 10.43.0.99, path: /exports}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
	name: shared
spec:
	accessModes: [ReadWriteMany]
	storageClassName: nfs
	resources:
		requests: {storage: 1Gi}
---
apiVersion: v1
kind: Pod
metadata:
	name: reader
spec:
	terminationGracePeriodSeconds: 0
	nodeSelector: {kubernetes.io/hostname: agent}
	containers:
	- name: reader
		image: busybox
		command: [sleep, "36000"]
		volumeMounts:
		- {name: shared, mountPath: /shared}
	volumes:
	- name: shared
		persistentVolumeClaim: {claimName: shared}
`)
	s.run("kubectl apply -f nfs.yaml", "deployment.apps/nfs created", "persistentvolume/shared created")
	s.run("kubectl rollout status deployment/nfs --timeout=3m", "successfully rolled out")
	s.see("kubectl get pvc,pv", "Bound", "default/shared")
	s.run("kubectl exec deployment/nfs -- sh -c 'echo experiment 42 > /exports/data'")
	// A client in user space, on the other node.
	s.file("client.yaml", `
apiVersion: v1
kind: Pod
metadata:
	name: client
spec:
	terminationGracePeriodSeconds: 0
	nodeSelector: {kubernetes.io/hostname: agent}
	containers:
	- {name: client, image: nfs-server, command: [sleep, "36000"]}
`)
	s.run("kubectl apply -f client.yaml && kubectl wait --for=condition=Ready pod/client --timeout=3m")
	s.see("kubectl exec client -- nfs-cat 'nfs://10.43.0.99/exports/data?version=4'", "experiment 42")

	kernel, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains(string(kernel), "nfs4") {
		s.see("kubectl describe pod reader", "MountVolume.SetUp failed for volume \"shared\"", "10.43.0.99:/exports")
		s.t.Log("this machine's kernel has no NFS: the volume can't be mounted, only the server and a client in user space were tried")
		s.run("kubectl delete pod reader client --now")
		return
	}
	s.run("kubectl wait --for=condition=Ready pod/reader --timeout=3m")
	s.run("kubectl exec reader -- cat /shared/data", "experiment 42")
	s.run("kubectl exec reader -- sh -c 'echo back > /shared/answer'")
	s.run("kubectl exec deployment/nfs -- cat /exports/answer", "back")
	s.run("kubectl delete pod reader client --now")
}

// labBPrometheus has every component scraped, and an alert fire. Debian's
// Prometheus is built without the discovery of Kubernetes, so the targets are in
// its configuration.
func labBPrometheus(s shell) {
	s.file("prometheus.yaml", `
apiVersion: v1
kind: Namespace
metadata:
	name: monitoring
---
apiVersion: v1
kind: ServiceAccount
metadata:
	name: prometheus
	namespace: monitoring
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
	name: prometheus
rules:
- apiGroups: [""]
	resources: [nodes, nodes/metrics, services, endpoints, pods]
	verbs: [get, list, watch]
- nonResourceURLs: [/metrics, /metrics/cadvisor]
	verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
	name: prometheus
roleRef:
	apiGroup: rbac.authorization.k8s.io
	kind: ClusterRole
	name: prometheus
subjects:
- kind: ServiceAccount
	name: prometheus
	namespace: monitoring
---
apiVersion: v1
kind: ConfigMap
metadata:
	name: prometheus
	namespace: monitoring
data:
	rules.yml: |
		groups:
		- name: lab
			rules:
			- alert: TargetDown
				expr: up == 0
				for: 5s
			- alert: DeploymentGone
				expr: absent(container_memory_working_set_bytes{pod=~"canary-.*"})
				for: 1s
	prometheus.yml: |
		global: {scrape_interval: 5s, evaluation_interval: 5s}
		rule_files: [/etc/prometheus/rules.yml]
		scrape_configs:
		- job_name: apiserver
			scheme: https
			authorization: &token {credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token}
			tls_config: {ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}
			static_configs: [{targets: ['kubernetes.default:443']}]
		- job_name: kubelet
			scheme: https
			authorization: *token
			tls_config: {insecure_skip_verify: true}
			static_configs: [{targets: ['SERVER:10250', 'AGENT:10250']}]
		- job_name: cadvisor
			scheme: https
			metrics_path: /metrics/cadvisor
			authorization: *token
			tls_config: {insecure_skip_verify: true}
			static_configs: [{targets: ['SERVER:10250', 'AGENT:10250']}]
		- job_name: kube-proxy
			static_configs: [{targets: ['SERVER:10249', 'AGENT:10249']}]
		- job_name: controller-manager
			scheme: https
			authorization: *token
			tls_config: {insecure_skip_verify: true}
			static_configs: [{targets: ['SERVER:10257']}]
		- job_name: scheduler
			scheme: https
			authorization: *token
			tls_config: {insecure_skip_verify: true}
			static_configs: [{targets: ['SERVER:10259']}]
		- job_name: coredns
			static_configs: [{targets: ['kube-dns.kube-system:9153']}]
---
apiVersion: apps/v1
kind: Deployment
metadata:
	name: prometheus
	namespace: monitoring
spec:
	selector:
		matchLabels: {app: prometheus}
	template:
		metadata:
			labels: {app: prometheus}
		spec:
			serviceAccountName: prometheus
			containers:
			- name: prometheus
				image: prom/prometheus
				ports:
				- containerPort: 9090
				readinessProbe:
					httpGet: {path: /-/ready, port: 9090}
					periodSeconds: 2
				volumeMounts:
				- {name: config, mountPath: /etc/prometheus}
			volumes:
			- name: config
				configMap: {name: prometheus}
---
apiVersion: v1
kind: Service
metadata:
	name: prometheus
	namespace: monitoring
spec:
	type: NodePort
	selector: {app: prometheus}
	ports:
	- {port: 9090, nodePort: 30090}
`)
	agent := s.run(`kubectl get node agent -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`)
	s.run("sed -i 's/SERVER/" + s.host.Address.String() + "/; s/AGENT/" + agent + "/' prometheus.yaml")
	s.run("kubectl create deployment canary --image=nginx")
	s.run("kubectl apply -f prometheus.yaml", "deployment.apps/prometheus created")
	s.run("kubectl -n monitoring rollout status deployment/prometheus --timeout=3m", "successfully rolled out")
	s.run("kubectl rollout status deployment/canary --timeout=3m")
	// kube-proxy's nftables mode has no node ports on 127.0.0.1.
	at := "http://" + s.host.Address.String() + ":30090/api/v1"
	query := "curl -sG --max-time 10 " + at + "/query --data-urlencode "
	for job, targets := range map[string]string{
		"apiserver": "1", "kubelet": "2", "cadvisor": "2", "kube-proxy": "2", "controller-manager": "1", "scheduler": "1", "coredns": "1",
	} {
		s.see(query+`'query=sum(up{job="`+job+`"})'`, `"`+targets+`"]`)
	}
	for _, metric := range []string{
		`apiserver_request_total{job="apiserver"}`,
		`kubelet_running_pods{job="kubelet"}`,
		`container_memory_working_set_bytes{namespace="kube-system",pod=~"coredns-.*"}`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{job="kube-proxy"}`,
		`workqueue_adds_total{job="controller-manager",name="deployment"}`,
		`scheduler_schedule_attempts_total{job="scheduler"}`,
		`coredns_dns_requests_total{job="coredns"}`,
	} {
		s.see(query+"'query=count("+metric+") > 0'", `"value"`)
	}
	alerts := "curl -s --max-time 10 " + at + "/alerts"
	s.unseen(alerts, "firing")
	s.run("kubectl delete deployment canary")
	s.see(alerts, "DeploymentGone", "firing")
	s.run("kubectl create deployment canary --image=nginx")
	s.unseen(alerts, "DeploymentGone")
	s.run("kubectl delete namespace monitoring --wait=false; kubectl delete deployment canary")
}

// labBStatefulSet has stable names and storage.
func labBStatefulSet(s shell) {
	s.file("redis.yaml", `
apiVersion: v1
kind: Service
metadata:
	name: redis
spec:
	clusterIP: None
	selector: {app: redis}
	ports:
	- port: 6379
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
	name: redis
spec:
	serviceName: redis
	replicas: 2
	selector:
		matchLabels: {app: redis}
	template:
		metadata:
			labels: {app: redis}
		spec:
			terminationGracePeriodSeconds: 5
			securityContext: {fsGroup: 101}
			containers:
			- name: redis
				image: redis
				args: [redis-server, --protected-mode, "no", --bind, 0.0.0.0, --dir, /data, --appendonly, "yes"]
				readinessProbe:
					exec: {command: [redis-cli, ping]}
					periodSeconds: 2
				volumeMounts:
				- {name: data, mountPath: /data}
	volumeClaimTemplates:
	- metadata:
			name: data
		spec:
			accessModes: [ReadWriteOnce]
			resources:
				requests: {storage: 100Mi}
`)
	s.run("kubectl apply -f redis.yaml", "statefulset.apps/redis created")
	s.run("kubectl rollout status statefulset/redis --timeout=3m", "complete")
	s.run("kubectl get pods -l app=redis", "redis-0", "redis-1")
	s.run("kubectl get pvc", "data-redis-0", "data-redis-1", "Bound")
	s.see("kubectl exec redis-0 -- timeout 5 redis-cli -h redis-1.redis set colour green", "OK")
	s.run("kubectl delete pod redis-1")
	s.run("kubectl rollout status statefulset/redis --timeout=3m", "complete")
	s.see("kubectl exec redis-0 -- timeout 5 redis-cli -h redis-1.redis get colour", "green")
	s.run("kubectl scale statefulset redis --replicas=1")
	s.unseen("kubectl get pods -l app=redis", "redis-1")
	s.run("kubectl get pvc", "data-redis-1") // the data stays
	s.run("kubectl scale statefulset redis --replicas=2")
	s.run("kubectl rollout status statefulset/redis --timeout=3m")
	s.see("kubectl exec redis-0 -- timeout 5 redis-cli -h redis-1.redis get colour", "green")
}

// labBBackup dumps a database on a schedule, and restores it into an empty one.
func labBBackup(s shell) {
	s.file("backup.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata:
	name: mariadb
spec:
	selector:
		matchLabels: {app: mariadb}
	template:
		metadata:
			labels: {app: mariadb}
		spec:
			terminationGracePeriodSeconds: 5
			containers:
			- name: mariadb
				image: mariadb
				env:
				- {name: MARIADB_ROOT_PASSWORD, value: secret}
				- {name: MARIADB_DATABASE, value: science}
				readinessProbe:
					exec: {command: [mariadb-admin, -h127.0.0.1, -psecret, ping]}
					periodSeconds: 2
---
apiVersion: v1
kind: Service
metadata:
	name: mariadb
spec:
	selector: {app: mariadb}
	ports:
	- port: 3306
---
apiVersion: batch/v1
kind: CronJob
metadata:
	name: backup
spec:
	schedule: "* * * * *"
	jobTemplate:
		spec:
			template:
				spec:
					restartPolicy: OnFailure
					nodeSelector: {kubernetes.io/hostname: node}
					containers:
					- name: dump
						image: mariadb
						command: [bash, -c, 'mariadb-dump -hmariadb -psecret science > /backup/science.new && mv /backup/science.new /backup/science.sql']
						volumeMounts:
						- {name: backup, mountPath: /backup}
					volumes:
					- name: backup
						hostPath: {path: /var/lib/backup, type: DirectoryOrCreate}
`)
	s.run("kubectl apply -f backup.yaml", "cronjob.batch/backup created")
	s.run("kubectl rollout status deployment/mariadb --timeout=3m", "successfully rolled out")
	s.see("kubectl exec deployment/mariadb -- mariadb -psecret science -e 'CREATE OR REPLACE TABLE stars (name TEXT); INSERT INTO stars VALUES (\"Vega\"); SELECT * FROM stars'", "Vega")
	s.see("cat /var/lib/backup/science.sql", "Vega")
	s.run("kubectl delete cronjob backup")

	// Without a volume a new pod begins with an empty database.
	s.run("kubectl delete pod -l app=mariadb")
	s.run("kubectl rollout status deployment/mariadb --timeout=3m", "successfully rolled out")
	s.refused("kubectl exec deployment/mariadb -- mariadb -psecret science -e 'SELECT * FROM stars'", "doesn't exist")
	s.run("kubectl exec -i deployment/mariadb -- mariadb -psecret science < /var/lib/backup/science.sql")
	s.run("kubectl exec deployment/mariadb -- mariadb -psecret science -e 'SELECT * FROM stars'", "Vega")
}

// labBLoadBalancer gives a Service an address of the nodes' own network.
func labBLoadBalancer(s, outside shell) {
	s.run(`kubectl patch service web -p '{"spec": {"type": "LoadBalancer", "ports": [{"port": 8080, "targetPort": 80}, {"port": 80, "$patch": "delete"}]}}'`, "patched")
	s.see("kubectl get service web", "LoadBalancer", s.host.Address.String(), "8080:")
	s.see("kubectl get service web -o jsonpath='{.status.loadBalancer.ingress[0].ip}'", "198.18.0.")
	outside.see("curl -s --max-time 5 http://"+s.host.Address.String()+":8080/", "revision one")
	s.run("kubectl delete service web && kubectl apply -f web.yaml")
	time.Sleep(2 * time.Second)
	outside.refused("curl -s --max-time 5 http://" + s.host.Address.String() + ":8080/")
}

// labBIngress publishes an application by its name, with TLS.
func labBIngress(s, outside shell) {
	const name = "web.lab.example"
	s.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 1 -subj /CN=" + name + " -addext subjectAltName=DNS:" + name)
	s.run("kubectl create secret tls web --cert=tls.crt --key=tls.key", "secret/web created")
	s.run("kubectl create ingress web --rule='"+name+"/*=web:80,tls=web'", "ingress.networking.k8s.io/web created")
	s.see("kubectl get ingress web", name, s.host.Address.String())
	outside.file("tls.crt", s.run("cat tls.crt")+"\n")
	at := s.host.Address.String()
	outside.see("curl -s --max-time 5 --cacert tls.crt --resolve "+name+":443:"+at+" https://"+name+"/", "revision one")
	s.run("kubectl describe ingress web", "web terminates "+name)
	s.run("kubectl delete ingress web")
	outside.unseen("curl -s --max-time 5 -k --resolve "+name+":443:"+at+" https://"+name+"/ || true", "revision one")
}

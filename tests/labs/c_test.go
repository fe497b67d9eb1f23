//go:build labs

package labs

import (
	"strings"
	"testing"
)

// TestLabC is a two-day course on one machine.
func TestLabC(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.server(t, "node")
	other := l.server(t, "other")
	s.steps(t,
		step{"version and kubeconfig", func(s shell) {
			s.run("kubectl version", "Server Version: v1.")
			s.run("kubectl config view", "current-context:", "server: https://127.0.0.1:6443", "DATA+OMITTED")
			s.run("kubectl cluster-info", "Kubernetes control plane")
		}},
		step{"two clusters, two users", func(s shell) { labCTwoClusters(s, other) }},
		step{"run and explain", func(s shell) {
			s.run("kubectl run web --image=nginx --port=80", "pod/web created")
			s.run("kubectl wait --for=condition=Ready pod/web --timeout=3m")
			s.run("kubectl explain pod.spec.containers --recursive", "KIND:       Pod", "livenessProbe", "volumeMounts")
			s.run("kubectl api-resources", "deployments", "horizontalpodautoscalers", "networkpolicies")
			s.run("kubectl logs web", "start worker process")
			s.run("kubectl exec web -- nginx -v", "nginx version: nginx/1.22")
			s.run("kubectl label pod web tier=front && kubectl get pods -l tier=front --show-labels", "web ", "tier=front")
		}},
		step{"limits and quotas", labCQuota},
		step{"RBAC with a client certificate", labCRBAC},
		step{"volumes", labCVolumes},
		step{"get and describe every kind", labCEveryKind},
		step{"HPA", labCAutoscaler},
		step{"ingress", labCIngress},
		step{"get all", func(s shell) {
			s.run("kubectl get all -A", "kube-system", "pod/coredns-", "service/kubernetes", "pod/web")
		}},
	)
}

// labCTwoClusters makes one file that holds two clusters and two users.
func labCTwoClusters(s, other shell) {
	address := other.host.Address.String()
	config := other.run("kubectl config view --raw --flatten")
	s.file("other.yaml", strings.ReplaceAll(config, "127.0.0.1", address))
	s.run("kubectl --kubeconfig other.yaml get nodes", "other ")
	for _, line := range []string{
		"cp /etc/kedge/kedge.yaml both.yaml && export KUBECONFIG=both.yaml",
		"kubectl config view --raw --kubeconfig other.yaml -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d > ca.crt",
		"kubectl config view --raw --kubeconfig other.yaml -o jsonpath='{.users[0].user.client-certificate-data}' | base64 -d > user.crt",
		"kubectl config view --raw --kubeconfig other.yaml -o jsonpath='{.users[0].user.client-key-data}' | base64 -d > user.key",
		"kubectl --kubeconfig both.yaml config set-cluster other --server=https://" + address + ":6443 --certificate-authority=ca.crt --embed-certs",
		"kubectl --kubeconfig both.yaml config set-credentials other-admin --client-certificate=user.crt --client-key=user.key --embed-certs",
		"kubectl --kubeconfig both.yaml config set-context other --cluster=other --user=other-admin",
	} {
		s.run(line)
	}
	s.run("kubectl --kubeconfig both.yaml config get-contexts", "other-admin", "default")
	s.run("kubectl --kubeconfig both.yaml get nodes", "node ")
	s.run("kubectl --kubeconfig both.yaml config use-context other", `Switched to context "other".`)
	s.run("kubectl --kubeconfig both.yaml get nodes", "other ")
	s.run("kubectl --kubeconfig both.yaml --context default get nodes", "node ")
}

func labCQuota(s shell) {
	s.run("kubectl create namespace small")
	s.file("quota.yaml", `
apiVersion: v1
kind: LimitRange
metadata:
	name: limits
spec:
	limits:
	- type: Container
		default: {cpu: 200m, memory: 128Mi}
		defaultRequest: {cpu: 50m, memory: 32Mi}
		max: {memory: 256Mi}
---
apiVersion: v1
kind: ResourceQuota
metadata:
	name: quota
spec:
	hard: {pods: "2", requests.memory: 128Mi}
`)
	s.run("kubectl -n small apply -f quota.yaml", "limitrange/limits created", "resourcequota/quota created")
	s.see("kubectl -n small describe quota", "pods", "0     2")
	s.run("kubectl -n small run one --image=nginx")
	s.run("kubectl -n small get pod one -o yaml", "memory: 128Mi", "cpu: 50m")
	s.refused(`kubectl -n small run big --image=nginx --overrides='{"spec": {"containers": [{"name": "big", "image": "nginx", "resources": {"limits": {"memory": "1Gi"}}}]}}'`,
		"maximum memory usage per Container is 256Mi, but limit is 1Gi")
	s.run("kubectl -n small run two --image=nginx")
	s.refused("kubectl -n small run three --image=nginx", "exceeded quota: quota", "limited: pods=2")
	s.run("kubectl -n small create deployment many --image=nginx --replicas=2")
	s.see("kubectl -n small describe rs", "exceeded quota")
	s.run("kubectl -n small describe limits", "Container", "memory", "256Mi")
	s.run("kubectl delete namespace small --wait=false")
}

// labCRBAC gives rights to a user made with a certificate of her own.
func labCRBAC(s shell) {
	s.run("openssl genrsa -out alice.key 2048 && openssl req -new -key alice.key -out alice.csr -subj /CN=alice/O=students")
	s.run(`cat <<END | kubectl apply -f -
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata:
  name: alice
spec:
  request: $(base64 -w0 < alice.csr)
  signerName: kubernetes.io/kube-apiserver-client
  expirationSeconds: 86400
  usages: [client auth]
END`, "certificatesigningrequest.certificates.k8s.io/alice created")
	s.run("kubectl get csr", "alice", "Pending")
	s.run("kubectl certificate approve alice", "approved")
	s.see("kubectl get csr alice", "Approved,Issued")
	s.run("kubectl get csr alice -o jsonpath='{.status.certificate}' | base64 -d > alice.crt")
	s.run("kubectl config set-credentials alice --client-key=alice.key --client-certificate=alice.crt --embed-certs", `User "alice" set.`)
	s.run("kubectl config set-context alice --cluster=$(kubectl config view -o jsonpath='{.clusters[0].name}') --user=alice", `Context "alice" created.`)
	s.refused("kubectl --context alice get pods", `User "alice" cannot list resource "pods"`)
	s.run("kubectl create role pod-reader --verb=get,list,watch --resource=pods")
	s.run("kubectl create rolebinding alice --role=pod-reader --user=alice")
	s.see("kubectl --context alice get pods", "web")
	s.refused("kubectl --context alice delete pod web", "Forbidden")
	s.refused("kubectl --context alice -n kube-system get pods", "Forbidden")
	s.run("kubectl auth can-i list pods --as alice", "yes")
	s.refused("kubectl auth can-i delete pods --as alice", "no")
	s.run("kubectl --context alice auth whoami", "alice", "students")
	s.run("kubectl create clusterrole node-reader --verb=get,list --resource=nodes")
	s.run("kubectl create clusterrolebinding students --clusterrole=node-reader --group=students")
	s.see("kubectl --context alice get nodes", "node ")
}

func labCVolumes(s shell) {
	s.run("echo '<h1>from a ConfigMap</h1>' > index.html && kubectl create configmap page --from-file=index.html", "configmap/page created")
	s.file("volumes.yaml", `
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
	name: data
spec:
	accessModes: [ReadWriteOnce]
	resources:
		requests: {storage: 100Mi}
---
apiVersion: v1
kind: Pod
metadata:
	name: volumes
spec:
	terminationGracePeriodSeconds: 1
	containers:
	- name: main
		image: nginx
		volumeMounts:
		- {name: page, mountPath: /usr/share/nginx/html}
		- {name: scratch, mountPath: /scratch}
		- {name: host, mountPath: /host}
		- {name: data, mountPath: /data}
	- name: reader
		image: busybox
		command: [sleep, "3600"]
		volumeMounts:
		- {name: scratch, mountPath: /scratch}
	volumes:
	- name: page
		configMap: {name: page}
	- name: scratch
		emptyDir: {}
	- name: host
		hostPath: {path: /var/lib/lab, type: DirectoryOrCreate}
	- name: data
		persistentVolumeClaim: {claimName: data}
`)
	s.run("kubectl apply -f volumes.yaml", "pod/volumes created", "persistentvolumeclaim/data created")
	s.run("kubectl wait --for=condition=Ready pod/volumes --timeout=3m")
	s.run("kubectl exec volumes -c main -- cat /usr/share/nginx/html/index.html", "from a ConfigMap")
	s.run("kubectl exec volumes -c main -- sh -c 'echo shared > /scratch/file'")
	s.run("kubectl exec volumes -c reader -- cat /scratch/file", "shared")
	s.run("kubectl exec volumes -c main -- sh -c 'echo kept > /host/file; echo kept > /data/file'")
	s.run("cat /var/lib/lab/file", "kept")
	s.run("kubectl get pvc,pv", "Bound", "default/data")
	// A ConfigMap that changes reaches the pod.
	s.run("echo '<h1>changed</h1>' > index.html && kubectl create configmap page --from-file=index.html --dry-run=client -o yaml | kubectl apply -f -")
	s.see("kubectl exec volumes -c main -- cat /usr/share/nginx/html/index.html", "changed")
	s.run("kubectl delete pod volumes --now && kubectl apply -f volumes.yaml")
	s.run("kubectl wait --for=condition=Ready pod/volumes --timeout=3m")
	s.run("kubectl exec volumes -c main -- cat /host/file", "kept")
	s.refused("kubectl exec volumes -c main -- cat /scratch/file", "No such file")
}

// labCEveryKind looks at every kind that the course lists.
func labCEveryKind(s shell) {
	s.file("kinds.yaml", `
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
	schedule: "*/5 * * * *"
	jobTemplate:
		spec:
			template:
				spec:
					restartPolicy: Never
					containers: [{name: tick, image: busybox, command: [date]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
	serviceName: db
	selector: {matchLabels: {app: db}}
	template:
		metadata: {labels: {app: db}}
		spec:
			containers: [{name: redis, image: redis}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
	selector: {matchLabels: {app: agent}}
	template:
		metadata: {labels: {app: agent}}
		spec:
			terminationGracePeriodSeconds: 0
			containers: [{name: agent, image: busybox, command: [sleep, "3600"]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
	podSelector: {matchLabels: {app: db}}
	ingress: [{from: [{podSelector: {}}]}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
	group: stable.example.com
	scope: Namespaced
	names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
	versions:
	- name: v1
		served: true
		storage: true
		schema:
			openAPIV3Schema:
				type: object
				properties:
					spec:
						type: object
						required: [image]
						properties: {image: {type: string}, replicas: {type: integer, minimum: 1}}
`)
	s.run("kubectl apply -f kinds.yaml", "cronjob.batch/tick created", "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created")
	s.run("kubectl create job now --from=cronjob/tick", "job.batch/now created")
	s.run("kubectl create quota two --hard=configmaps=100")
	s.run("kubectl create serviceaccount robot && kubectl create secret generic login --from-literal=user=me && kubectl create ingress web --rule=web.lab.example/=web:80")
	s.run("kubectl expose pod web --port=80 --name=web")
	s.run("kubectl create deployment front --image=nginx && kubectl autoscale deployment front --min=1 --max=2 --cpu=80%")
	s.run("kubectl wait --for=condition=Established crd/crontabs.stable.example.com --timeout=1m")
	s.see("kubectl get ct 2>&1", "No resources found")
	const crontab = "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: mine}\nspec: {image: busybox, replicas: COUNT}\n"
	s.file("crontab.yaml", strings.ReplaceAll(crontab, "COUNT", "0"))
	s.refused("kubectl apply -f crontab.yaml", "should be greater than or equal to 1")
	s.file("crontab.yaml", strings.ReplaceAll(crontab, "COUNT", "2"))
	s.run("kubectl apply -f crontab.yaml && kubectl get ct mine -o yaml", "crontab.stable.example.com/mine created", "replicas: 2")

	s.run("kubectl wait --for=condition=Complete job/now --timeout=3m")
	s.run("kubectl rollout status statefulset/db --timeout=3m")
	s.run("kubectl rollout status daemonset/agent --timeout=3m")
	for kind, words := range map[string][2]string{
		"cm":                 {"kube-root-ca.crt", "ca.crt"},
		"cronjob":            {"*/5 * * * *", "Schedule:"},
		"deploy":             {"front", "RollingUpdateStrategy:"},
		"ing":                {"web.lab.example", "Rules:"},
		"job":                {"now", "Completions:"},
		"netpol":             {"db", "PodSelector:"},
		"ns":                 {"kube-system", "Active"},
		"pod":                {"web", "Containers:"},
		"pvc":                {"data", "StorageClass:"},
		"pv":                 {"Bound", "Reclaim Policy:"},
		"rs":                 {"front-", "Controlled By:"},
		"sa":                 {"robot", "Name:"},
		"sc":                 {"default", "Provisioner:"},
		"secret":             {"login", "Opaque"},
		"sts":                {"db", "Update Strategy:"},
		"svc":                {"kubernetes", "ClusterIP"},
		"clusterrolebinding": {"students", "node-reader"},
		"crd":                {"crontabs.stable.example.com", "API Version:"},
		"ds":                 {"agent", "Node-Selector:"},
		"ep":                 {"kubernetes", "Subsets:"},
		"hpa":                {"front", "Min replicas:"},
		"quota":              {"two", "configmaps"},
		"rolebinding":        {"alice", "pod-reader"},
		"role":               {"pod-reader", "[get list watch]"},
		"clusterrole":        {"cluster-admin", "PolicyRule:"},
		"nodes":              {"node", "Allocatable:"},
	} {
		s.run("kubectl get "+kind, words[0])
		s.run("kubectl describe "+kind, words[1])
	}
	s.run("kubectl get limits", "No resources found")
	s.run("kubectl delete quota two")
}

// labCAutoscaler loads a server until there are more of it.
func labCAutoscaler(s shell) {
	s.file("load.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
	selector: {matchLabels: {app: busy}}
	template:
		metadata: {labels: {app: busy}}
		spec:
			terminationGracePeriodSeconds: 0
			containers:
			- name: busy
				image: busybox
				command: [sh, -c, 'while true; do [ -e /tmp/idle ] && sleep 1; done']
				resources:
					requests: {cpu: 20m}
					limits: {cpu: 60m}
`)
	s.run("kubectl apply -f load.yaml", "deployment.apps/busy created")
	s.run("kubectl autoscale deployment busy --cpu=50% --min=1 --max=3", "horizontalpodautoscaler.autoscaling/busy autoscaled")
	s.see("kubectl top pods -l app=busy", "CPU(cores)", "busy-")
	s.see("kubectl get deployment busy", "3/3")
	s.run("kubectl describe hpa busy", "SuccessfulRescale", "New size: 3")
	s.run("kubectl delete hpa/busy deployment/busy")
}

func labCIngress(s shell) {
	s.see("kubectl get ing web", "web.lab.example", s.host.Address.String())
	s.see("curl -s --max-time 10 -H 'Host: web.lab.example' http://"+s.host.Address.String()+"/", "nginx")
	s.see("curl -s --max-time 10 -o /dev/null -w '%{http_code}' -H 'Host: unknown.lab.example' http://"+s.host.Address.String()+"/", "404")
}

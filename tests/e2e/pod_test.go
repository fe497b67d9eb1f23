//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
)

func testConfigMap(s *sandbox) {
	s.kubectl("create", "configmap", "settings", "--from-literal=colour=green", "--from-literal=app.conf=line 1\nline 2")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, 'echo "$COLOUR $colour"; cat /etc/app/app.conf; echo; echo one is $(cat /etc/one); echo x > /etc/app/x']
		env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
		envFrom: [{configMapRef: {name: settings}}]
		volumeMounts:
		- {name: settings, mountPath: /etc/app}
		- {name: settings, mountPath: /etc/one, subPath: colour}
	volumes: [{name: settings, configMap: {name: settings}}]
`)
	s.wait("jsonpath={.status.phase}=Failed", "pod/reader") // the volume can't be written to
	out := s.kubectl("logs", "reader")
	for _, want := range []string{"green green\n", "line 1\n", "line 2\n", "one is green", "Read-only file system"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("the pod wrote %q, want %q in it", out, want)
		}
	}
}

func testSecret(s *sandbox) {
	s.kubectl("create", "secret", "generic", "login", "--from-literal=password=s3cret")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
	restartPolicy: Never
	securityContext: {runAsUser: 1000, fsGroup: 2000}
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, 'echo "$PASSWORD"; cat /login/password; echo; stat -Lc "%a %g" /login/password; df -T /login | tail -1 | cut -d" " -f1']
		env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]
		volumeMounts: [{name: login, mountPath: /login}]
	volumes: [{name: login, secret: {secretName: login, defaultMode: 0400}}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/reader")
	// A secret is in memory only, and the pod's group may read it.
	s.check("what the pod wrote", s.kubectl("logs", "reader"), "s3cret\ns3cret\n440 2000\ntmpfs")
}

func testEmptyDir(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: writer
		image: BUSYBOX
		command: [sh, -c, 'echo hello > /out/disk/file; echo hello > /out/memory/file; sleep 36000']
		volumeMounts: [{name: disk, mountPath: /out/disk}, {name: memory, mountPath: /out/memory}]
	- name: reader
		image: BUSYBOX
		command: [sleep, "36000"]
		volumeMounts: [{name: disk, mountPath: /in/disk}, {name: memory, mountPath: /in/memory}]
	volumes:
	- {name: disk, emptyDir: {}}
	- {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
`)
	s.wait("condition=Ready", "pod/pair")
	for _, volume := range []string{"disk", "memory"} {
		eventually(s.t, "the other container's file on "+volume, func() (bool, string) {
			out, err := s.try("exec", "pair", "-c", "reader", "--", "cat", "/in/"+volume+"/file")
			return out == "hello", fmt.Sprint(out, err)
		})
	}
	out := s.kubectl("exec", "pair", "-c", "reader", "--", "sh", "-c", "df -T /in/memory | tail -1")
	if !strings.HasPrefix(out, "tmpfs") {
		s.t.Errorf("the volume in memory is %q", out)
	}
	uid := s.field("pod/pair", ".metadata.uid")
	dir := s.node.Path("/var/lib/kubelet/pods/" + uid)
	if _, err := os.Stat(dir); err != nil {
		s.t.Errorf("the pod's directory isn't where the test looks: %v", err)
	}
	s.kubectl("delete", "pod/pair")
	eventually(s.t, "the deleted pod's directory to go", func() (bool, string) {
		_, err := os.Stat(dir)
		return os.IsNotExist(err), fmt.Sprint(err)
	})
}

func testHostPath(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, 'cat /host/in && echo out > /host/out']
		volumeMounts: [{name: host, mountPath: /host}]
	volumes: [{name: host, hostPath: {path: /srv/hostpath, type: Directory}}]
`)
	// The pod waits for its directory.
	eventually(s.t, "the missing directory to be reported", func() (bool, string) {
		events := s.kubectl("get", "events", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(events, "/srv/hostpath is not a directory"), events
	})
	if _, err := s.node.Exec(s.t.Context(), "sh", "-c", "mkdir /srv/hostpath && echo in > /srv/hostpath/in"); err != nil {
		s.t.Fatal(err)
	}
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/writer")
	s.check("what the pod read", s.kubectl("logs", "writer"), "in")
	content, err := os.ReadFile(s.node.Path("/srv/hostpath/out"))
	if err != nil || string(content) != "out\n" {
		s.t.Errorf("the pod's file on the host holds %q, error %v", content, err)
	}
}

func testInitContainers(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: good}
spec:
	restartPolicy: Never
	initContainers:
	- {name: one, image: BUSYBOX, command: [sh, -c, 'echo one >> /data/log'], volumeMounts: [{name: data, mountPath: /data}]}
	- name: sidecar
		image: BUSYBOX
		restartPolicy: Always
		command: [sh, -c, 'echo sidecar >> /data/log; touch /data/ready; sleep 36000']
		startupProbe: {exec: {command: [test, -e, /data/ready]}, periodSeconds: 1}
		volumeMounts: [{name: data, mountPath: /data}]
	- {name: two, image: BUSYBOX, command: [sh, -c, 'echo two >> /data/log'], volumeMounts: [{name: data, mountPath: /data}]}
	containers:
	- {name: main, image: BUSYBOX, command: [cat, /data/log], volumeMounts: [{name: data, mountPath: /data}]}
	volumes: [{name: data, emptyDir: {}}]
	terminationGracePeriodSeconds: 1
---
apiVersion: v1
kind: Pod
metadata: {name: bad}
spec:
	restartPolicy: Never
	initContainers: [{name: one, image: BUSYBOX, command: ["false"]}]
	containers: [{name: main, image: BUSYBOX, command: ["true"]}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/good")
	s.check("the order of the containers", s.kubectl("logs", "good", "-c", "main"), "one\nsidecar\ntwo")
	s.wait("jsonpath={.status.phase}=Failed", "pod/bad")
	if out := s.kubectl("get", "pod/bad"); !strings.Contains(out, "Init:Error") {
		s.t.Errorf("a pod whose init container failed is shown as %s", out)
	}
	s.check("the main container's state", s.field("pod/bad", ".status.containerStatuses[0].state.waiting.reason"), "PodInitializing")
}

func testReadinessProbe(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: slow, labels: {app: slow}}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
		image: BUSYBOX
		command: [sleep, "36000"]
		readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: slow}
spec: {selector: {app: slow}, ports: [{port: 80}]}
`)
	ready := func(want string) {
		s.t.Helper()
		eventually(s.t, "the pod's endpoint to be ready: "+want, func() (bool, string) {
			out := s.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=slow",
				"-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
			return out == want, out
		})
	}
	s.wait("jsonpath={.status.phase}=Running", "pod/slow")
	ready("false")
	s.kubectl("exec", "slow", "--", "touch", "/tmp/ready")
	ready("true")
	s.kubectl("exec", "slow", "--", "rm", "/tmp/ready")
	ready("false")
	s.check("restarts", s.field("pod/slow", ".status.containerStatuses[0].restartCount"), "0")
}

func testLivenessProbe(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
	terminationGracePeriodSeconds: 1
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, 'echo started; sleep 36000']
		livenessProbe: {exec: {command: [test, '!', -e, /tmp/sick]}, periodSeconds: 1, failureThreshold: 2}
`)
	s.wait("condition=Ready", "pod/sick")
	s.kubectl("exec", "sick", "--", "touch", "/tmp/sick")
	eventually(s.t, "the container to be restarted", func() (bool, string) {
		restarts := s.field("pod/sick", ".status.containerStatuses[0].restartCount")
		return restarts == "1", restarts
	})
	s.wait("condition=Ready", "pod/sick")
	s.check("the log of the container before", s.kubectl("logs", "sick", "--previous"), "started")
	if events := s.kubectl("get", "events", "-o", "jsonpath={.items[*].message}"); !strings.Contains(events, "failed liveness probe") {
		s.t.Errorf("no event tells of the liveness probe: %s", events)
	}
}

func testStartupProbe(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
		image: BUSYBOX
		command: [sleep, "36000"]
		startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 1000}
		livenessProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 1}
`)
	s.wait("jsonpath={.status.phase}=Running", "pod/late")
	eventually(s.t, "the startup probe to fail", func() (bool, string) {
		events := s.kubectl("get", "events", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(events, "Startup probe failed"), events
	})
	s.check("started before", s.field("pod/late", ".status.containerStatuses[0].started"), "false")
	s.kubectl("exec", "late", "--", "touch", "/tmp/started")
	s.wait("condition=Ready", "pod/late")
	s.check("started after", s.field("pod/late", ".status.containerStatuses[0].started"), "true")
	s.check("restarts", s.field("pod/late", ".status.containerStatuses[0].restartCount"), "0")
}

func testLimits(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [tail, /dev/zero]
		resources: {limits: {memory: 24Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, 'cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us']
		resources: {limits: {cpu: 200m, memory: 24Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec:
	containers: [{name: main, image: BUSYBOX, resources: {requests: {memory: 100Ti}}}]
`)
	s.wait("jsonpath={.status.phase}=Failed", "pod/greedy")
	s.check("why the greedy container ended", s.field("pod/greedy", ".status.containerStatuses[0].state.terminated.reason"), "OOMKilled")
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/modest")
	s.check("the share of a processor", strings.Join(strings.Fields(s.kubectl("logs", "modest")), " "), "20000 100000")
	s.wait("condition=PodScheduled=false", "pod/huge")
	if message := s.field("pod/huge", ".status.conditions[0].message"); !strings.Contains(message, "Insufficient memory") {
		s.t.Errorf("a pod too large is not scheduled because of %q", message)
	}
}

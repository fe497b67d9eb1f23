//go:build e2e

package e2e

import "testing"

// TestCluster runs the tests that share one cluster, each in its own namespace.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, test := range []struct {
		name string
		run  func(*sandbox)
	}{
		// what takes longest begins first
		{"Autoscaling", testAutoscaling},
		{"CronJob", testCronJob},
		{"LivenessProbe", testLivenessProbe},
		{"NamespaceDeletion", testNamespaceDeletion},
		{"RollingUpdate", testRollingUpdate},
		{"StatefulSet", testStatefulSet},

		{"AddOns", testAddOns},
		{"Attach", testAttach},
		{"ConfigMap", testConfigMap},
		{"Copy", testCopy},
		{"Crictl", testCrictl},
		{"DaemonSet", testDaemonSet},
		{"Dashboard", testDashboard},
		{"DNS", testDNS},
		{"EmptyDir", testEmptyDir},
		{"Exec", testExec},
		{"ExternalName", testExternalName},
		{"HostPath", testHostPath},
		{"HostPort", testHostPort},
		{"InitContainers", testInitContainers},
		{"Interactive", testInteractive},
		{"Job", testJob},
		{"Limits", testLimits},
		{"Logs", testLogs},
		{"Metrics", testMetrics},
		{"NodePort", testNodePort},
		{"OutOfCluster", testOutOfCluster},
		{"PodAccessToAPI", testPodAccessToAPI},
		{"PortForward", testPortForward},
		{"RBAC", testRBAC},
		{"ReadinessProbe", testReadinessProbe},
		{"SecondServer", testSecondServer},
		{"Secret", testSecret},
		{"Service", testService},
		{"StartupProbe", testStartupProbe},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(c.sandbox(t))
		})
	}
}

//go:build e2e

package e2e

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/pki"
)

// deniesByWebhook has a pod refuse all ConfigMaps of the sandbox that are
// labelled deny=me, as an admission webhook behind a Service.
func (s *sandbox) deniesByWebhook() {
	s.t.Helper()
	dir := s.t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ca, err := pki.EnsureCA(pki.KeyPair{Cert: file("ca.crt"), Key: file("ca.key")}, "webhooks")
	if err != nil {
		s.t.Fatal(err)
	}
	serving := pki.KeyPair{Cert: file("tls.crt"), Key: file("tls.key")}
	if err := ca.EnsureCertificate(serving, pki.Request{CommonName: "webhook", DNSNames: []string{"webhook." + s.namespace + ".svc"}}); err != nil {
		s.t.Fatal(err)
	}
	encoded := func(name string) string {
		s.t.Helper()
		text, err := os.ReadFile(file(name))
		if err != nil {
			s.t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(text)
	}
	s.apply(strings.NewReplacer("CERT", encoded("tls.crt"), "KEY", encoded("tls.key")).Replace(`
apiVersion: v1
kind: Secret
metadata: {name: webhook}
type: kubernetes.io/tls
data: {tls.crt: CERT, tls.key: KEY}
---
apiVersion: v1
kind: Pod
metadata: {name: webhook, labels: {app: webhook}}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
	  image: AGNHOST
	  args: [webhook, --port=8443, --tls-cert-file=/tls/tls.crt, --tls-private-key-file=/tls/tls.key]
	  volumeMounts: [{name: tls, mountPath: /tls}]
	  readinessProbe: {httpGet: {path: /readyz, port: 8443, scheme: HTTPS}, periodSeconds: 1}
	volumes: [{name: tls, secret: {secretName: webhook}}]
---
apiVersion: v1
kind: Service
metadata: {name: webhook}
spec: {selector: {app: webhook}, ports: [{port: 443, targetPort: 8443}]}
`))
	s.wait("condition=Ready", "pod/webhook")
	s.apply(strings.NewReplacer("NAMESPACE", s.namespace, "CA", encoded("ca.crt")).Replace(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAMESPACE}
webhooks:
- name: deny.example.com
  clientConfig: {caBundle: CA, service: {name: webhook, namespace: NAMESPACE, path: /always-deny}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  objectSelector: {matchLabels: {deny: me}}
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 5
`))
}

// checkWebhook expects the API server to ask a pod.
func checkWebhook(t *testing.T, s *sandbox) {
	t.Helper()
	s.deniesByWebhook()
	eventually(t, "the webhook to refuse a ConfigMap", func() (bool, string) {
		const object = `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "refused-", "labels": {"deny": "me"}}}`
		out, err := s.node.KubectlIn(t.Context(), object, "--namespace", s.namespace, "create", "-f", "-")
		return err != nil && strings.Contains(err.Error(), "this webhook denies all requests"), out
	})
	s.kubectl("delete", "validatingwebhookconfiguration", s.namespace)
}

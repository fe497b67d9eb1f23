package controlplane

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	apiserverv1alpha1 "k8s.io/apiserver/pkg/apis/apiserver/v1alpha1"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/pod-security-admission/admission/api/load"
	"k8s.io/pod-security-admission/admission/api/validation"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/node"
)

// Hardening is how the apiserver is hardened.
type Hardening struct {
	AuditPolicy string // file; empty: no audit log, unless CIS asks for one
	AuditLog    string // file
	PodSecurity string // AdmissionConfiguration file; empty: upstream's, unless CIS asks for another
	// CIS asks for what the CIS Kubernetes Benchmark does.
	CIS bool
}

// auditPolicy records who did what and when, but for what is said all the time and
// changes nothing. No request's body is recorded, so that no Secret is.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]
- level: None
  userGroups: [system:nodes]
  verbs: [get, list, watch, update, patch]
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
`

// podSecurity wants pods to be restricted outside the namespace of Kedge's own
// add-ons. A namespace's labels say otherwise where it must be.
const podSecurity = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults:
      enforce: restricted
      enforce-version: latest
      audit: restricted
      audit-version: latest
      warn: restricted
      warn-version: latest
    exemptions:
      namespaces: [kube-system]
`

func (c APIServerConfig) ownAuditPolicy() string {
	return filepath.Join(c.ConfigDir, "audit-policy.yaml")
}
func (c APIServerConfig) ownPodSecurity() string {
	return filepath.Join(c.ConfigDir, "pod-security.yaml")
}

// hardeningFlags are the flags for all of that.
func (c APIServerConfig) hardeningFlags() map[string]string {
	flags := map[string]string{}
	h := c.Hardening
	if h.CIS {
		flags["audit-policy-file"] = c.ownAuditPolicy()
		flags["admission-control-config-file"] = c.ownPodSecurity()
		flags["enable-admission-plugins"] = "NodeRestriction,DenyServiceExternalIPs"
		flags["service-account-extend-token-expiration"] = "false"
		flags["request-timeout"] = "300s"
		flags["tls-cipher-suites"] = node.StrongCiphers
	}
	if h.AuditPolicy != "" {
		flags["audit-policy-file"] = h.AuditPolicy
	}
	if h.PodSecurity != "" {
		flags["admission-control-config-file"] = h.PodSecurity
	}
	if flags["audit-policy-file"] != "" {
		flags["audit-log-path"] = h.AuditLog
		flags["audit-log-maxage"] = "30"
		flags["audit-log-maxbackup"] = "10"
		flags["audit-log-maxsize"] = "100"
	}
	return flags
}

// checkFiles refuses what the user has written in a form that the apiserver does
// not take.
func (c APIServerConfig) checkFiles() error {
	files := map[string]func(string) error{"audit-policy-file": checkAuditPolicy, "admission-control-config-file": checkAdmission}
	check := func(option, path string, check func(string) error) error {
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a directory: name a file in it", path)
		}
		if err == nil {
			err = check(path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
		return nil
	}
	for _, arg := range c.ExtraArgs {
		if files[arg.Name] != nil && arg.Value != "" {
			if err := check("--kube-apiserver-arg "+arg.Name, arg.Value, files[arg.Name]); err != nil {
				return err
			}
		}
	}
	if path := c.Hardening.AuditPolicy; path != "" {
		if err := check("--audit-policy-file", path, checkAuditPolicy); err != nil {
			return err
		}
	}
	if path := c.Hardening.PodSecurity; path != "" {
		return check("--pod-security-admission-config-file", path, checkAdmission)
	}
	return nil
}

func checkAuditPolicy(path string) error {
	_, err := policy.LoadPolicyFromFile(path)
	return err
}

// checkAdmission reads the configuration as the apiserver does, and that of Pod
// Security in it.
func checkAdmission(path string) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apiserverapi.AddToScheme, apiserverv1alpha1.AddToScheme, apiserverv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	provider, err := admission.ReadAdmissionConfiguration([]string{podsecurity.PluginName}, path, scheme)
	if err != nil {
		return err
	}
	config, err := provider.ConfigFor(podsecurity.PluginName)
	if err != nil {
		return err
	}
	pods, err := load.LoadFromReader(config)
	if err == nil {
		err = validation.ValidatePodSecurityConfiguration(pods).ToAggregate()
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", path, podsecurity.PluginName, err)
	}
	return nil
}

// writeHardening writes the files that the flags name and are not the user's.
func (c APIServerConfig) writeHardening() error {
	if c.Hardening.CIS {
		for path, text := range map[string]string{c.ownAuditPolicy(): auditPolicy, c.ownPodSecurity(): podSecurity} {
			if _, err := atomicfile.Update(path, []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	if c.Hardening.AuditLog == "" {
		return nil
	}
	return os.MkdirAll(filepath.Dir(c.Hardening.AuditLog), 0o700)
}

package helm

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Group, version and resources are those of k3s, so that manifests carry over.
var (
	groupVersion    = schema.GroupVersion{Group: "helm.cattle.io", Version: "v1"}
	chartsResource  = groupVersion.WithResource("helmcharts")
	configsResource = groupVersion.WithResource("helmchartconfigs")
)

// Annotations of k3s.
const (
	unmanagedAnnotation = "helmcharts.helm.cattle.io/unmanaged"
	managedByAnnotation = "helmcharts.cattle.io/managed-by"
)

// manager is the value of managedByAnnotation on what this controller manages.
const manager = "kedge"

// finalizer keeps a HelmChart until its release is uninstalled.
const finalizer = "kedge.io/helm-uninstall"

// foreignFinalizer is that of k3s's controller. Objects that were copied from
// there carry it, and nobody else here removes it.
const foreignFinalizer = "wrangler.cattle.io/on-helm-chart-remove"

// Chart is a HelmChart: it asks for a release of a chart.
type Chart struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ChartSpec   `json:"spec"`
	Status ChartStatus `json:"status"`
}

// ChartSpec holds the fields that have an effect. The schema has more, for k3s's
// job pods.
type ChartSpec struct {
	Chart        string `json:"chart,omitempty"`
	ChartContent string `json:"chartContent,omitempty"`
	Version      string `json:"version,omitempty"`
	Repo         string `json:"repo,omitempty"`

	RepoCA                string                       `json:"repoCA,omitempty"`
	RepoCAConfigMap       *corev1.LocalObjectReference `json:"repoCAConfigMap,omitempty"`
	AuthSecret            *corev1.LocalObjectReference `json:"authSecret,omitempty"`
	AuthPassCredentials   bool                         `json:"authPassCredentials,omitempty"`
	DockerRegistrySecret  *corev1.LocalObjectReference `json:"dockerRegistrySecret,omitempty"`
	InsecureSkipTLSVerify bool                         `json:"insecureSkipTLSVerify,omitempty"`
	PlainHTTP             bool                         `json:"plainHTTP,omitempty"`

	TargetNamespace string           `json:"targetNamespace,omitempty"`
	CreateNamespace bool             `json:"createNamespace,omitempty"`
	TakeOwnership   bool             `json:"takeOwnership,omitempty"`
	Timeout         *metav1.Duration `json:"timeout,omitempty"`
	Driver          string           `json:"driver,omitempty"`
	HelmVersion     string           `json:"helmVersion,omitempty"`

	Set map[string]intstr.IntOrString `json:"set,omitempty"`

	Overrides `json:",inline"`
}

// Overrides are the fields that a HelmChartConfig has too.
type Overrides struct {
	Values           map[string]any `json:"values,omitempty"`
	ValuesContent    string         `json:"valuesContent,omitempty"`
	ValuesSecrets    []ValuesFrom   `json:"valuesSecrets,omitempty"`
	ValuesConfigMaps []ValuesFrom   `json:"valuesConfigMaps,omitempty"`
	FailurePolicy    Policy         `json:"failurePolicy,omitempty"`
	ServerSide       string         `json:"serverSide,omitempty"`
	ForceConflicts   *bool          `json:"forceConflicts,omitempty"`
}

// ValuesFrom names keys of a Secret or ConfigMap that hold values as YAML.
type ValuesFrom struct {
	Name          string   `json:"name"`
	Keys          []string `json:"keys,omitempty"`
	IgnoreUpdates bool     `json:"ignoreUpdates,omitempty"`
}

// Policy says what follows a release that failed.
type Policy string

// The policies. Reinstall is the default, as in k3s.
const (
	Reinstall Policy = "reinstall" // uninstall, then install
	Abort     Policy = "abort"     // leave it to the administrator
	Retry     Policy = "retry"     // upgrade again
)

// ChartConfig is a HelmChartConfig: it adds to the HelmChart of its name and namespace.
type ChartConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec Overrides `json:"spec"`
}

// State is what a HelmChart's release is like, in one word.
type State string

// The states.
const (
	Waiting      State = "Waiting" // for what the message says
	Installing   State = "Installing"
	Upgrading    State = "Upgrading"
	Deployed     State = "Deployed"
	Failed       State = "Failed"
	Uninstalling State = "Uninstalling"
)

// ChartStatus is what became of a HelmChart.
type ChartStatus struct {
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
	State              State  `json:"state,omitempty"`
	Message            string `json:"message,omitempty"`

	// Release is the last revision; nil before the first.
	Release *Revision `json:"release,omitempty"`
	// ReleaseNamespace is where the release is.
	ReleaseNamespace string `json:"releaseNamespace,omitempty"`
	// History holds the last revisions, the newest first.
	History []Revision `json:"history,omitempty"`

	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Revision is one revision of a release.
type Revision struct {
	Revision    int         `json:"revision"`
	Status      string      `json:"status"`
	Chart       string      `json:"chart,omitempty"` // name and version
	AppVersion  string      `json:"appVersion,omitempty"`
	Updated     metav1.Time `json:"updated,omitempty"`
	Description string      `json:"description,omitempty"`
}

// Conditions of a HelmChart. Failed is k3s's.
const (
	conditionReady  = "Ready"
	conditionFailed = "Failed"
)

// defaultTimeout is Helm's.
const defaultTimeout = 5 * time.Minute

func (h *Chart) timeout() time.Duration {
	if t := h.Spec.Timeout; t != nil && t.Duration > 0 {
		return t.Duration
	}
	return defaultTimeout
}

func (h *Chart) releaseNamespace() string {
	if h.Spec.TargetNamespace != "" {
		return h.Spec.TargetNamespace
	}
	return h.Namespace
}

// managed says whether this controller is to look after the object.
func managed(annotations map[string]string) bool {
	if _, ok := annotations[unmanagedAnnotation]; ok {
		return false
	}
	by, ok := annotations[managedByAnnotation]
	return !ok || by == manager
}

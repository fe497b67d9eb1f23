package addon

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"path"
	"regexp"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	addonKind     = schema.GroupVersionKind{Group: "kedge.io", Version: "v1", Kind: "Addon"}
	addonResource = addonKind.GroupVersion().WithResource("addons")
)

// crd defines the kind Addon.
//
//go:embed crd.yaml
var crd []byte

// Addon is a manifest file as the cluster knows it.
type Addon struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status"`
}

// Spec says which file it is.
type Spec struct {
	Source   string `json:"source"`             // below the directory of manifests
	Packaged bool   `json:"packaged,omitempty"` // it comes with Kedge
	Server   string `json:"server,omitempty"`   // whose directory it is in, of several servers
}

// Status says what has become of the file.
type Status struct {
	// Checksum is of the content that was applied, all of it.
	Checksum string `json:"checksum,omitempty"`
	// Objects are what the file has in the cluster, or may have when applying
	// it was cut short.
	Objects     []Ref              `json:"objects,omitempty"`
	ObjectCount int64              `json:"objectCount"`
	Conditions  []metav1.Condition `json:"conditions,omitempty"`
}

// Reasons of the condition Ready.
const (
	reasonApplied     = "Applied"
	reasonApplying    = "Applying"
	reasonSkipped     = "Skipped"
	reasonInvalid     = "InvalidManifest"
	reasonUnknownKind = "UnknownKind"
	reasonNamespace   = "NamespaceNotFound"
	reasonConflict    = "InOtherFile"
	reasonFailed      = "ApplyFailed"
	reasonPruneFailed = "PruneFailed"
)

const conditionReady = "Ready"

func newAddon(name, source string) *Addon {
	return &Addon{
		TypeMeta:   metav1.TypeMeta{APIVersion: addonKind.GroupVersion().String(), Kind: addonKind.Kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem},
		Spec:       Spec{Source: source},
	}
}

func (a *Addon) ready() metav1.Condition {
	if condition := meta.FindStatusCondition(a.Status.Conditions, conditionReady); condition != nil {
		return *condition
	}
	return metav1.Condition{}
}

// setReady sets the condition Ready as the reason has it.
func (a *Addon) setReady(reason, message string) {
	status := metav1.ConditionFalse
	switch reason {
	case reasonApplied:
		status = metav1.ConditionTrue
	case reasonSkipped:
		status = metav1.ConditionUnknown
	}
	meta.SetStatusCondition(&a.Status.Conditions, metav1.Condition{
		Type: conditionReady, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.Time{Time: time.Now().Truncate(time.Second)},
	})
}

// hold takes down what the Addon may have in the cluster, and how many of its
// file's objects are applied.
func (a *Addon) hold(refs []Ref, applied int) {
	a.Status.Objects = refs
	a.Status.ObjectCount = int64(applied)
}

// clone is a copy to change.
func (a *Addon) clone() *Addon {
	c := *a
	c.Status.Conditions = append([]metav1.Condition(nil), a.Status.Conditions...)
	return &c
}

// says reports whether both say the same of the file.
func (a *Addon) says(b *Addon) bool {
	return a.Spec == b.Spec && apiequality.Semantic.DeepEqual(a.Status, b.Status)
}

// plain is a path that makes the name of its Addon as it is.
var plain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?(/[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?){0,2}\.yaml$`)

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// addonName is the name of the Addon for a file: "a" for a.yaml, "b.a" for
// b/a.yaml. Others get a hash, so that no two files have the same.
func addonName(file string) string {
	base := strings.TrimSuffix(file, path.Ext(file))
	if plain.MatchString(file) {
		return strings.ReplaceAll(base, "/", ".")
	}
	sum := sha256.Sum256([]byte(file))
	name := strings.Trim(unfit.ReplaceAllString(strings.ToLower(base), "-"), "-")
	if len(name) > 100 {
		name = strings.Trim(name[:100], "-")
	}
	return strings.TrimPrefix(name+"-"+hex.EncodeToString(sum[:4]), "-")
}

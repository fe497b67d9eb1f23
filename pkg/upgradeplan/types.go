package upgradeplan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kedge-k8s/kedge/pkg/drain"
	"github.com/kedge-k8s/kedge/pkg/version"
)

var plansResource = schema.GroupVersionResource{Group: "upgrade.cattle.io", Version: "v1", Resource: "plans"}

// labelPrefix and the name of a Plan are the label of a node that has it; its value
// is the Plan's hash.
const labelPrefix = "plan.upgrade.cattle.io/"

// Plan says which version nodes are to have.
type Plan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status"`
}

// Spec holds the fields that have an effect here. Others are about the pods that
// system-upgrade-controller runs.
type Spec struct {
	Concurrency           int64                 `json:"concurrency,omitempty"`
	JobActiveDeadlineSecs *int64                `json:"jobActiveDeadlineSecs,omitempty"`
	NodeSelector          *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	Channel               string                `json:"channel,omitempty"`
	Version               string                `json:"version,omitempty"`
	Exclusive             bool                  `json:"exclusive,omitempty"`
	Window                *Window               `json:"window,omitempty"`
	Prepare               *Container            `json:"prepare,omitempty"`
	Upgrade               *Container            `json:"upgrade,omitempty"`
	Cordon                bool                  `json:"cordon,omitempty"`
	Drain                 *Drain                `json:"drain,omitempty"`
	PostCompleteDelay     *metav1.Duration      `json:"postCompleteDelay,omitempty"`
}

// Container is what a pod of system-upgrade-controller would run.
type Container struct {
	Image   string   `json:"image"`
	Command []string `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
}

// Drain are options of kubectl drain, with the defaults of system-upgrade-controller.
type Drain struct {
	Timeout                  *intstr.IntOrString   `json:"timeout,omitempty"` // an int: nanoseconds
	GracePeriod              *int                  `json:"gracePeriod,omitempty"`
	DeleteLocalData          *bool                 `json:"deleteLocalData,omitempty"`
	DeleteEmptydirData       *bool                 `json:"deleteEmptydirData,omitempty"`
	IgnoreDaemonSets         *bool                 `json:"ignoreDaemonSets,omitempty"`
	Force                    bool                  `json:"force,omitempty"`
	DisableEviction          bool                  `json:"disableEviction,omitempty"`
	SkipWaitForDeleteTimeout int                   `json:"skipWaitForDeleteTimeout,omitempty"`
	PodSelector              *metav1.LabelSelector `json:"podSelector,omitempty"`
}

// Status is how far a Plan has come.
type Status struct {
	Conditions    []Condition `json:"conditions,omitempty"`
	LatestVersion string      `json:"latestVersion,omitempty"`
	LatestHash    string      `json:"latestHash,omitempty"`
	Applying      []string    `json:"applying,omitempty"`
}

// Condition is one of a Plan's, in the form of system-upgrade-controller.
type Condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason,omitempty"`
	Message            string `json:"message,omitempty"`
	LastUpdateTime     string `json:"lastUpdateTime,omitempty"`
	LastTransitionTime string `json:"lastTransitionTime,omitempty"`
}

// The conditions of a Plan.
const (
	validated = "Validated"
	resolved  = "LatestResolved"
	complete  = "Complete"
)

// The images that stand for an upgrade of this program. Neither is run.
var images = []string{"kedge-upgrade", "k3s-upgrade"}

// ours says whether a container's image stands for what Kedge does itself.
func (c *Container) ours() bool {
	name, _, _ := strings.Cut(path.Base(c.Image), "@")
	name, _, _ = strings.Cut(name, ":")
	return slices.Contains(images, name)
}

// errImage refuses what would take a pod.
func errImage(image string) error {
	return fmt.Errorf("kedge upgrades itself and runs no image: name one of %s, or install system-upgrade-controller for %s", strings.Join(images, ", "), image)
}

// foreign says whether the Plan is about something else than Kedge.
func (s *Spec) foreign() bool { return s.Upgrade != nil && !s.Upgrade.ours() }

// validate refuses what can't be carried out.
func (s *Spec) validate() error {
	if s.Upgrade == nil {
		return errors.New("spec.upgrade is missing")
	}
	if len(s.Upgrade.Command) > 0 {
		return errors.New("spec.upgrade.command: kedge upgrades itself and runs no command")
	}
	if s.Version == "" && s.Channel == "" {
		return errors.New("spec.version or spec.channel is missing")
	}
	if p := s.Prepare; p != nil {
		if !p.ours() {
			return fmt.Errorf("spec.prepare: %w", errImage(p.Image))
		}
		if len(p.Args) != 2 || p.Args[0] != "prepare" || len(p.Command) > 0 {
			return errors.New("spec.prepare: its args can be prepare and the name of the Plan to wait for, nothing else")
		}
	}
	if s.NodeSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(s.NodeSelector); err != nil {
			return fmt.Errorf("spec.nodeSelector: %w", err)
		}
	}
	if s.Window != nil {
		if _, err := s.Window.contains(time.Time{}); err != nil {
			return fmt.Errorf("spec.window: %w", err)
		}
	}
	if _, err := s.Drain.options(); err != nil {
		return fmt.Errorf("spec.drain: %w", err)
	}
	return nil
}

// selects says whether the Plan is about a node with these labels.
func (s *Spec) selects(of map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s.NodeSelector) // of nil: nothing
	return err == nil && selector.Matches(labels.Set(of))
}

// options are those for the node; nil: it is not drained.
func (d *Drain) options() (*drain.Options, error) {
	if d == nil {
		return nil, nil
	}
	o := drain.Default()
	o.Force, o.DisableEviction, o.SkipWaitForDeleteTimeoutSeconds = d.Force, d.DisableEviction, d.SkipWaitForDeleteTimeout
	if d.GracePeriod != nil {
		o.GracePeriodSeconds = *d.GracePeriod
	}
	if d.IgnoreDaemonSets != nil {
		o.IgnoreDaemonSets = *d.IgnoreDaemonSets
	}
	for _, set := range []*bool{d.DeleteLocalData, d.DeleteEmptydirData} {
		if set != nil {
			o.DeleteEmptyDirData = *set
		}
	}
	if t := d.Timeout; t != nil && t.Type == intstr.Int {
		o.Timeout = time.Duration(t.IntVal)
	} else if t != nil {
		var err error
		if o.Timeout, err = time.ParseDuration(t.StrVal); err != nil {
			return nil, fmt.Errorf("timeout: %w", err)
		}
	}
	if d.PodSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(d.PodSelector)
		if err != nil {
			return nil, fmt.Errorf("podSelector: %w", err)
		}
		o.PodSelector = selector.String()
	}
	return &o, nil
}

// canonical is a version in Kedge's own form: of the tag of an image as well.
func canonical(v string) (string, error) {
	v = strings.Replace(strings.TrimSpace(v), "-kedge", "+kedge", 1)
	if !strings.HasPrefix(v, "v") {
		v = "v" + v
	}
	if !version.Valid(v) {
		return "", fmt.Errorf("%s is no version of Kedge, such as v1.36.4+kedge1", v)
	}
	return v, nil
}

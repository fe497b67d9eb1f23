package helm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// maxHistory is Helm's default, and how much of the history the status shows.
const maxHistory = 10

// operations is how many hooks and waits in a row an operation may have, each of
// which may take its timeout.
const operations = 10

// fieldManager owns what the charts set, as it does when the helm command
// installs them, so that the command can go on with a release.
const fieldManager = "helm"

// setFieldManager sets it for the whole process: Helm has it in a package
// variable.
var setFieldManager = sync.OnceFunc(func() { kube.ManagedFieldsManager = fieldManager })

// helm does operations on one release.
type helm struct {
	ctx     context.Context // of the operation
	config  *action.Configuration
	request *request
	log     *lastError
}

// newHelm makes Helm's clients. They work until done is called or ctx ends.
func newHelm(ctx context.Context, config *rest.Config, r *request) (h *helm, done func(), err error) {
	setFieldManager()
	ctx, done = context.WithTimeout(ctx, operations*r.timeout)
	log := &lastError{}
	c := action.NewConfiguration(action.ConfigurationSetLogger(log))
	if err := c.Init(newGetter(ctx, config, r.release.Namespace), r.release.Namespace, r.driver); err != nil {
		done()
		return nil, nil, err
	}
	if client, ok := c.KubeClient.(*kube.Client); ok {
		client.Namespace = r.release.Namespace
	}
	return &helm{ctx: ctx, config: c, request: r, log: log}, done, nil
}

func (h *helm) waits() []kube.WaitOption { return []kube.WaitOption{kube.WithWaitContext(h.ctx)} }

// labels mark a revision that is made now.
func (h *helm) labels(revision int) map[string]string {
	return map[string]string{hashLabel: h.request.hash, revisionLabel: strconv.Itoa(revision)}
}

func (h *helm) install(c *chart.Chart, revision int) error {
	r := h.request
	a := action.NewInstall(h.config)
	a.ReleaseName, a.Namespace = r.release.Name, r.release.Namespace
	a.CreateNamespace = r.createNamespace
	a.TakeOwnership = r.takeOwnership
	a.Timeout, a.WaitStrategy, a.WaitOptions = r.timeout, kube.HookOnlyStrategy, h.waits()
	a.ServerSideApply = r.serverSide != "false"
	a.ForceConflicts = a.ServerSideApply && r.forceConflicts
	a.Replace = true // the history of a release that is uninstalled may be there
	a.Labels = h.labels(revision)
	// The API server validates what is applied.
	a.DisableOpenAPIValidation = true
	_, err := a.RunWithContext(context.WithoutCancel(h.ctx), c, r.values)
	return h.explain(err)
}

func (h *helm) upgrade(c *chart.Chart, revision int) error {
	r := h.request
	a := action.NewUpgrade(h.config)
	a.Namespace = r.release.Namespace
	a.TakeOwnership = r.takeOwnership
	a.Timeout, a.WaitStrategy, a.WaitOptions = r.timeout, kube.HookOnlyStrategy, h.waits()
	a.ServerSideApply = r.serverSide
	if a.ServerSideApply == "" {
		a.ServerSideApply = "auto"
	}
	a.ForceConflicts = r.forceConflicts && h.appliesOnServer(a.ServerSideApply)
	a.MaxHistory = maxHistory
	a.ResetValues = true // those of the request are all
	a.Labels = h.labels(revision)
	a.DisableOpenAPIValidation = true
	_, err := a.RunWithContext(context.WithoutCancel(h.ctx), r.release.Name, c, r.values)
	return h.explain(err)
}

// appliesOnServer says what Helm will make of "auto": forcing conflicts is an
// error with the other way.
func (h *helm) appliesOnServer(mode string) bool {
	if mode != "auto" {
		return mode == "true"
	}
	last, err := h.last()
	return err == nil && last.ApplyMethod == string(releasev1.ApplyMethodServerSideApply)
}

// uninstall removes the release and waits until its objects are gone.
func (h *helm) uninstall(hooks bool) error {
	a := action.NewUninstall(h.config)
	a.IgnoreNotFound = true
	a.DisableHooks = !hooks
	a.Timeout, a.WaitStrategy, a.WaitOptions = h.request.timeout, kube.StatusWatcherStrategy, h.waits()
	_, err := a.Run(h.request.release.Name)
	return h.explain(err)
}

// fail marks the last revision, on which work was interrupted, as failed.
func (h *helm) fail() error {
	last, err := h.last()
	if err != nil {
		return err
	}
	last.SetStatus(common.StatusFailed, "Interrupted")
	return h.config.Releases.Update(last)
}

func (h *helm) last() (*releasev1.Release, error) {
	last, err := h.config.Releases.Last(h.request.release.Name)
	if err != nil {
		return nil, err
	}
	return asV1(last)
}

func asV1(r release.Releaser) (*releasev1.Release, error) {
	if r, ok := r.(*releasev1.Release); ok {
		return r, nil
	}
	return nil, fmt.Errorf("release of an unknown type %T", r)
}

// history returns the last revisions, the newest first.
func (h *helm) history() ([]Revision, error) {
	all, err := h.config.Releases.History(h.request.release.Name)
	if err != nil {
		return nil, err
	}
	revisions := make([]Revision, 0, len(all))
	for _, r := range all {
		v1, err := asV1(r)
		if err != nil {
			return nil, err
		}
		revisions = append(revisions, h.request.revision(v1))
	}
	return newestFirst(revisions), nil
}

func (r *request) revision(v1 *releasev1.Release) Revision {
	revision := Revision{Revision: v1.Version}
	if info := v1.Info; info != nil {
		revision.Status = info.Status.String()
		revision.Updated = metav1.NewTime(info.LastDeployed)
		revision.Description = r.redact.clean(info.Description)
	}
	if c := v1.Chart; c != nil && c.Metadata != nil {
		revision.Chart = c.Metadata.Name + "-" + c.Metadata.Version
		revision.AppVersion = c.Metadata.AppVersion
	}
	return revision
}

// explain says more than Helm does of an error.
func (h *helm) explain(err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(h.ctx); cause != nil {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	// Helm tells why an object can't be deleted in its log only.
	if hidden := h.log.take(); hidden != nil && !errors.Is(err, hidden) && err.Error() == "failed to delete release: "+h.request.release.Name {
		return fmt.Errorf("%w: %w", err, hidden)
	}
	return err
}

// lastError is a log that keeps the last error that it is told.
type lastError struct {
	mu  sync.Mutex
	err error
}

func (*lastError) Enabled(context.Context, slog.Level) bool { return true }
func (l *lastError) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *lastError) WithGroup(string) slog.Handler          { return l }

func (l *lastError) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		var err error
		switch value := a.Value.Any().(type) {
		case error:
			err = value
		case []error:
			err = errors.Join(value...)
		}
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
		}
		return true
	})
	return nil
}

func (l *lastError) take() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	l.err = nil
	return err
}

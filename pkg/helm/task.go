package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	charts "helm.sh/helm/v4/pkg/chart"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// task is one look at one HelmChart.
type task struct {
	*Controller
	key   types.NamespacedName
	chart *Chart

	written string // the status in the cluster
}

// Reasons of events and conditions.
const (
	reasonInvalid   = "InvalidSpec"
	reasonConflict  = "ReleaseTaken"
	reasonWaiting   = "OtherOperation"
	reasonFetch     = "ChartUnavailable"
	reasonInstall   = "InstallFailed"
	reasonUpgrade   = "UpgradeFailed"
	reasonUninstall = "UninstallFailed"
	reasonInternal  = "ReleaseUnknown"
	reasonAborted   = "Aborted"
	reasonRecover   = "Recovering"
	reasonInstalled = "Installed"
	reasonUpgraded  = "Upgraded"
	reasonGone      = "Uninstalled"
)

// run brings the release where the HelmChart wants it.
func (t *task) run(ctx context.Context) error {
	h := t.chart
	if !h.DeletionTimestamp.IsZero() {
		t.watches.set(t.key, nil)
		return t.remove(ctx)
	}
	if err := t.claim(ctx); err != nil {
		return err
	}
	var config *ChartConfig
	found := &ChartConfig{}
	err := t.get(ctx, configsResource, t.key, found)
	switch {
	case err == nil:
		config = found
	case !apierrors.IsNotFound(err):
		return err
	}
	t.watches.set(t.key, referencesOf(h, config))
	r, err := t.resolver.resolve(ctx, h, config)
	if err != nil {
		return fail(reasonInvalid, err)
	}
	if owner := t.owner(r.release); owner != t.key && owner.Name != "" {
		return fail(reasonConflict, fmt.Errorf("release %s in namespace %s belongs to HelmChart %s: give one of them another name or targetNamespace", r.release.Name, r.release.Namespace, owner))
	}
	if err := t.leaveFormerNamespace(ctx, r); err != nil {
		return err
	}
	revisions, err := t.inspect(ctx, r)
	if err != nil {
		return fail(reasonInternal, err)
	}
	return t.take(ctx, r, revisions)
}

// claim marks the HelmChart as managed, to be uninstalled before it goes.
func (t *task) claim(ctx context.Context) error {
	h := t.chart
	if slices.Contains(h.Finalizers, finalizer) && h.Annotations[managedByAnnotation] == manager {
		return nil
	}
	finalizers := h.Finalizers
	if !slices.Contains(finalizers, finalizer) {
		finalizers = append(finalizers, finalizer)
	}
	return t.patchMeta(ctx, finalizers, map[string]string{managedByAnnotation: manager})
}

// release lets the HelmChart go.
func (t *task) release(ctx context.Context) error {
	deleting := !t.chart.DeletionTimestamp.IsZero()
	rest := slices.DeleteFunc(slices.Clone(t.chart.Finalizers), func(f string) bool {
		return f == finalizer || deleting && f == foreignFinalizer && managed(t.chart.Annotations)
	})
	if len(rest) == len(t.chart.Finalizers) {
		return nil
	}
	err := t.patchMeta(ctx, rest, nil)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (t *task) patchMeta(ctx context.Context, finalizers []string, annotations map[string]string) error {
	meta := map[string]any{"finalizers": finalizers, "resourceVersion": t.chart.ResourceVersion}
	if annotations != nil {
		meta["annotations"] = annotations
	}
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	_, err = t.dynamic.Resource(chartsResource).Namespace(t.key.Namespace).Patch(ctx, t.key.Name, types.MergePatchType, data, metav1.PatchOptions{})
	return err
}

// inspect lists the revisions of a release, the last one last. It reads labels
// only: of what Helm keeps, a revision may be a megabyte.
func (t *task) inspect(ctx context.Context, r *request) ([]entry, error) {
	resource := "secrets"
	if strings.HasPrefix(r.driver, "configmap") {
		resource = "configmaps"
	}
	list, err := t.metadata.Resource(corev1.SchemeGroupVersion.WithResource(resource)).Namespace(r.release.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{"owner": "helm", "name": r.release.Name}.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("look for release %s: %w", r.release.Name, err)
	}
	entries := make([]entry, 0, len(list.Items))
	for _, item := range list.Items {
		entries = append(entries, entryOf(item.Labels, item.CreationTimestamp.Time))
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.revision - b.revision })
	return entries, nil
}

// take takes the step that the release needs.
func (t *task) take(ctx context.Context, r *request, revisions []entry) error {
	last := entry{}
	if len(revisions) > 0 {
		last = revisions[len(revisions)-1]
	}
	next := decide(revisions, r.hash, r.policy, r.timeout, time.Now())
	switch next {
	case nothing:
		return t.settle(ctx, r, last)
	case giveUp:
		return t.abort(ctx)
	case wait:
		left := max(time.Until(last.changed.Add(r.timeout)), firstRetry)
		t.report(ctx, Waiting, reasonWaiting, fmt.Sprintf("revision %d of the release is %s: somebody else's operation is waited for", last.revision, last.status), nil)
		return &laterError{left}
	}
	c, err := r.source.load(ctx)
	if err == nil {
		err = installable(c)
	}
	if err != nil {
		return fail(reasonFetch, r.clean(err))
	}
	h, done, err := newHelm(ctx, t.rest, r)
	if err != nil {
		return fail(reasonInternal, err)
	}
	defer done()

	state, doing, failed, did := Upgrading, "upgrading to ", reasonUpgrade, reasonUpgraded
	if next == install || next == reinstall {
		state, doing, failed, did = Installing, "installing ", reasonInstall, reasonInstalled
	}
	name := c.Metadata.Name + "-" + c.Metadata.Version
	if next == resume || next == reinstall {
		t.recorder.Eventf(t.reference(), corev1.EventTypeNormal, reasonRecover, "Revision %d of the release is %s: %s", last.revision, last.status, map[step]string{
			resume:    "the upgrade is made again",
			reinstall: "it is uninstalled and installed again",
		}[next])
	}
	t.chart.Status.ReleaseNamespace = r.release.Namespace
	t.report(ctx, state, "Progressing", doing+name, nil)
	switch next {
	case install:
		err = h.install(c, last.revision+1)
	case upgrade:
		err = h.upgrade(c, last.revision+1)
	case resume:
		if err = h.fail(); err == nil {
			err = h.upgrade(c, last.revision+1)
		}
	case reinstall:
		// Hooks of a release that is broken may be too.
		if err = h.uninstall(true); err != nil {
			err = h.uninstall(false)
		}
		if err == nil {
			err = h.install(c, 1)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // the next start finds it interrupted
	}
	history, historyErr := h.history()
	if err != nil {
		t.chart.Status.setHistory(history)
		return fail(failed, r.clean(err))
	}
	if historyErr != nil {
		return fail(reasonInternal, historyErr)
	}
	message := fmt.Sprintf("%s is revision %d of release %s in namespace %s", name, history[0].Revision, r.release.Name, r.release.Namespace)
	t.recorder.Event(t.reference(), corev1.EventTypeNormal, did, message)
	t.config.Log.Info(strings.ToLower(did), "component", t.Name(), "helmchart", t.key.String(), "chart", name, "revision", history[0].Revision)
	t.report(ctx, Deployed, did, message, history)
	return nil
}

// settle reports a release that is as it should be.
func (t *task) settle(ctx context.Context, r *request, last entry) error {
	s := t.chart.Status
	if s.State == Deployed && s.Release != nil && s.Release.Revision == last.revision && s.ObservedGeneration == t.chart.Generation {
		return nil
	}
	h, done, err := newHelm(ctx, t.rest, r)
	if err != nil {
		return fail(reasonInternal, err)
	}
	defer done()
	history, err := h.history()
	if err != nil {
		return fail(reasonInternal, err)
	}
	t.chart.Status.ReleaseNamespace = r.release.Namespace
	message := fmt.Sprintf("%s is revision %d of release %s in namespace %s", history[0].Chart, history[0].Revision, r.release.Name, r.release.Namespace)
	t.report(ctx, Deployed, reasonInstalled, message, history)
	return nil
}

// abort leaves a failed release as it is.
func (t *task) abort(ctx context.Context) error {
	const advice = "failurePolicy is abort: nothing is done until the HelmChart or its values change"
	message := t.chart.Status.Message
	if !strings.HasSuffix(message, advice) {
		if message != "" {
			message += "; "
		}
		message += advice
		t.recorder.Event(t.reference(), corev1.EventTypeWarning, reasonAborted, message)
	}
	t.report(ctx, Failed, reasonAborted, message, nil)
	return nil
}

// installable refuses what Helm's own command refuses.
func installable(c *chart.Chart) error {
	if kind := c.Metadata.Type; kind != "" && kind != "application" {
		return fmt.Errorf("chart %s is of type %s and can't be installed", c.Name(), kind)
	}
	wanted := make([]charts.Dependency, len(c.Metadata.Dependencies))
	for i, d := range c.Metadata.Dependencies {
		wanted[i] = d
	}
	if err := action.CheckDependencies(c, wanted); err != nil {
		return fmt.Errorf("chart %s is not complete: %w", c.Name(), err)
	}
	return nil
}

// leaveFormerNamespace uninstalls a release that is to be in another namespace
// now.
func (t *task) leaveFormerNamespace(ctx context.Context, r *request) error {
	former := t.chart.Status.ReleaseNamespace
	if former == "" || former == r.release.Namespace {
		return nil
	}
	old := *r
	old.release.Namespace = former
	if err := t.uninstall(ctx, &old); err != nil {
		return err
	}
	t.chart.Status.ReleaseNamespace = ""
	return nil
}

// remove uninstalls the release of a HelmChart that is being deleted.
func (t *task) remove(ctx context.Context) error {
	if !slices.Contains(t.chart.Finalizers, finalizer) {
		return t.release(ctx)
	}
	if t.chart.Status.State != Uninstalling {
		t.queue.Forget(t.key) // failures until now were about something else
	}
	r := newRequest(t.chart)
	if former := t.chart.Status.ReleaseNamespace; former != "" {
		r.release.Namespace = former
	}
	if owner := t.owner(r.release); owner == t.key || owner.Name == "" {
		if err := t.uninstall(ctx, r); err != nil {
			return err
		}
	}
	return t.release(ctx)
}

// uninstall removes a release, if there is one.
func (t *task) uninstall(ctx context.Context, r *request) error {
	revisions, err := t.inspect(ctx, r)
	if err != nil {
		return fail(reasonInternal, err)
	}
	if len(revisions) == 0 {
		return nil
	}
	t.report(ctx, Uninstalling, "Progressing", "uninstalling the release", nil)
	h, done, err := newHelm(ctx, t.rest, r)
	if err != nil {
		return fail(reasonInternal, err)
	}
	defer done()
	// Hooks that always fail must not keep the HelmChart for ever.
	hooks := t.queue.NumRequeues(t.key) < hookAttempts
	if hooks {
		namespace, err := t.client.CoreV1().Namespaces().Get(ctx, r.release.Namespace, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		// No hook can be created in a namespace that goes.
		hooks = err == nil && namespace.DeletionTimestamp.IsZero()
	}
	if err := h.uninstall(hooks); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fail(reasonUninstall, r.clean(fmt.Errorf("release %s in namespace %s: %w", r.release.Name, r.release.Namespace, err)))
	}
	t.recorder.Eventf(t.reference(), corev1.EventTypeNormal, reasonGone, "Release %s in namespace %s is uninstalled", r.release.Name, r.release.Namespace)
	t.config.Log.Info("uninstalled", "component", t.Name(), "helmchart", t.key.String())
	return nil
}

// clean takes secrets out of an error for people to read.
func (r *request) clean(err error) error {
	text := r.redact.clean(err.Error())
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

package upgradeplan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	// pause between two looks, so that many changes at once are few of them.
	pause = time.Second
	// later is when to look again where time alone may change something.
	later = 10 * time.Second
	// requestLimit is how long one look may take.
	requestLimit = 2 * time.Minute
)

// controlPlaneLabel is that of servers' nodes.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// Config says what a Controller works with.
type Config struct {
	Kubeconfig string
	Log        *slog.Logger
}

// Controller assigns upgrades to nodes, as a component.
type Controller struct {
	config Config
	run    component.Runner

	client   kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	channels map[string]answer
}

// New makes the component.
func New(c Config) *Controller { return &Controller{config: c, channels: map[string]answer{}} }

func (*Controller) Name() string                     { return "upgrade-plans" }
func (*Controller) Needs() []string                  { return []string{"apiserver"} }
func (c *Controller) Stop(ctx context.Context) error { return c.run.Stop(ctx) }
func (c *Controller) Failed() <-chan error           { return c.run.Failed() }

// Start begins to watch in the background.
func (c *Controller) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.config.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	if c.metadata, err = metadata.NewForConfig(config); err != nil {
		return err
	}
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	if c.client, err = kubernetes.NewForConfig(protobuf); err != nil {
		return err
	}
	c.run.Run(func(ctx context.Context) error {
		c.work(ctx)
		return nil
	})
	return nil
}

// work looks after Plans until ctx ends.
func (c *Controller) work(ctx context.Context) {
	if !c.define(ctx) {
		return
	}
	changes := make(chan struct{}, 1)
	changed := func(any) {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	factory := metadatainformer.NewSharedInformerFactory(c.metadata, 0)
	defer factory.Shutdown()
	plans := factory.ForResource(plansResource).Informer()
	// What a change is about is read when it is decided on.
	_ = plans.SetTransform(bare) // before it runs
	if _, err := plans.AddEventHandler(handler(changed)); err != nil {
		return
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), plans.HasSynced) {
		return
	}
	changed(nil) // for what a Plan that is gone may have left
	watchesNodes, settled := false, false
	var wait time.Duration // 0: until something changes
	for {
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-changes:
		case <-timer:
		case <-ctx.Done():
			return
		}
		none := len(plans.GetStore().ListKeys()) == 0
		if none && settled {
			continue // a cluster without a Plan costs nothing
		}
		if !none && !watchesNodes {
			watchesNodes = true
			nodes := factory.ForResource(corev1.SchemeGroupVersion.WithResource("nodes")).Informer()
			_ = nodes.SetTransform(bare)
			_, _ = nodes.AddEventHandler(handler(changed))
			factory.Start(ctx.Done())
		}
		var err error
		if wait, err = c.look(ctx); err != nil && ctx.Err() == nil {
			wait = later
			c.config.Log.Warn("looking after Plans fails and is tried again", "component", c.Name(), "in", later, "err", err)
		}
		settled = none && wait == 0
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func handler(changed func(any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed}
}

// bare keeps of an object that it is there.
func bare(o any) (any, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	return &metav1.PartialObjectMetadata{
		TypeMeta:   m.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion},
	}, nil
}

// look decides on all Plans, and does it. It returns when to look again; 0: when
// something changes.
func (c *Controller) look(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	plans, err := c.plans(ctx)
	if err != nil {
		return 0, err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	soon := func(in time.Duration) {
		if wait == 0 || in < wait {
			wait = in
		}
	}
	// Before any is decided on: each may wait for another.
	var targets []target
	ids, names := map[string]bool{}, map[string]*Plan{}
	for _, p := range plans {
		before := p.Status.copy()
		namesake := names[p.Name]
		if namesake == nil {
			names[p.Name] = p
		}
		t, ok := c.target(ctx, p, namesake, now)
		if known, found := c.channels[p.Spec.Channel]; found && p.Spec.Version == "" {
			soon(max(known.next.Sub(now), pause))
		}
		if ok {
			ids[t.id] = true
			targets = append(targets, t)
		}
		err = errors.Join(err, c.writeStatus(ctx, p, before))
	}
	for _, t := range targets {
		before := t.Status.copy()
		d := decide(t, plans, nodes, version.Version, now)
		if d.again {
			soon(later)
		}
		if carried := c.carry(ctx, t, d, now); carried != nil {
			err = errors.Join(err, carried)
			continue // the next look sees what was done
		}
		t.Status.Applying = d.applying
		t.Status.set(d.status, now)
		err = errors.Join(err, c.writeStatus(ctx, t.Plan, before))
	}
	left, forgetErr := c.forget(ctx, nodes, ids, now)
	if left {
		soon(later)
	}
	return wait, errors.Join(err, forgetErr)
}

// target says in the Plan's status what becomes of its version; false: it has none.
// The namesake, if there is one, has the label of that name.
func (c *Controller) target(ctx context.Context, p, namesake *Plan, now time.Time) (target, bool) {
	refuse := func(kind, reason string, err error) (target, bool) {
		p.Status.set(Condition{Type: kind, Status: "False", Reason: reason, Message: err.Error()}, now)
		if p.Status.condition(complete) != nil {
			p.Status.set(Condition{Type: complete, Status: "False", Reason: reason}, now)
		}
		return target{}, false
	}
	if p.Spec.foreign() {
		// Of another controller's, if there is one: it says so itself.
		if last := p.Status.condition(validated); len(p.Status.Conditions) == 0 || last != nil && last.Reason == reasonImage {
			return refuse(validated, reasonImage, errImage(p.Spec.Upgrade.Image))
		}
		return target{}, false
	}
	err := p.Spec.validate()
	switch {
	case err != nil:
	case namesake != nil:
		err = fmt.Errorf("there is a Plan of this name in the namespace %s, and nodes have one label for both: call this one otherwise", namesake.Namespace)
	case len(p.Name) > validation.LabelValueMaxLength:
		err = fmt.Errorf("its name is longer than %d characters, which is what fits into a label of nodes", validation.LabelValueMaxLength)
	}
	if err != nil {
		return refuse(validated, "PlanNotValid", err)
	}
	p.Status.set(Condition{Type: validated, Status: "True", Reason: "PlanIsValid"}, now)
	v, err := c.resolve(ctx, p, now)
	if v == "" {
		return refuse(resolved, "Error", err)
	}
	how := Condition{Type: resolved, Status: "True", Reason: "Version"}
	if p.Spec.Version == "" {
		how.Reason = "Channel"
	}
	if err != nil {
		how.Message = fmt.Sprintf("the channel said %s before: %v", v, err)
	}
	p.Status.set(how, now)
	hash, err := p.hash(v)
	if err != nil {
		return refuse(resolved, "Error", err)
	}
	if p.Status.LatestHash != hash {
		p.Status.set(Condition{Type: complete, Status: "False", Reason: reasonWaiting}, now)
	}
	p.Status.LatestVersion, p.Status.LatestHash = v, hash
	return target{Plan: p, version: v, hash: hash, id: p.id(hash)}, true
}

// reasonImage is why a Plan of another image is not valid.
const reasonImage = "ImageNotRun"

// carry does what was decided.
func (c *Controller) carry(ctx context.Context, t target, d decision, now time.Time) error {
	options, err := t.Spec.Drain.options()
	if err != nil {
		return err
	}
	for _, m := range d.finish {
		c.config.Log.Info("a node has the version of a Plan", "component", c.Name(), "plan", t.key(), "node", m.name, "version", t.version)
		err = errors.Join(err, c.patchNode(ctx, m.name, map[string]any{labelPrefix + t.Name: t.hash}, map[string]any{assignmentAnnotation: nil}))
	}
	for _, m := range d.assign {
		a := Assignment{ID: t.id, Plan: t.key(), Version: t.version, Cordon: t.Spec.Cordon, Drain: options, Since: now.UTC().Truncate(time.Second)}
		text, encodeErr := json.Marshal(a)
		if encodeErr != nil {
			return encodeErr
		}
		*m.assignment = a
		c.config.Log.Info("a node is to be upgraded by a Plan", "component", c.Name(), "plan", t.key(), "node", m.name, "from", m.version, "to", t.version)
		err = errors.Join(err, c.patchNode(ctx, m.name, nil, map[string]any{assignmentAnnotation: string(text)}))
	}
	return err
}

func (p *Plan) key() string { return p.Namespace + "/" + p.Name }

// forget takes assignments from nodes whose Plan is another now, or none, unless
// they are being carried out. It says whether some are.
func (c *Controller) forget(ctx context.Context, nodes []*member, ids map[string]bool, now time.Time) (left bool, err error) {
	for _, m := range nodes {
		if m.assignment == nil || ids[m.assignment.ID] {
			continue
		}
		if m.begun() && m.busy() && now.Sub(m.assignment.Since) < deadline {
			left = true
			continue
		}
		err = errors.Join(err, c.patchNode(ctx, m.name, nil, map[string]any{assignmentAnnotation: nil}))
	}
	return left, err
}

// patchNode sets labels and annotations of a node, and removes those that are nil.
func (c *Controller) patchNode(ctx context.Context, name string, labels, annotations map[string]any) error {
	metadata := map[string]any{"annotations": annotations}
	if labels != nil { // a patch with null would remove all of them
		metadata["labels"] = labels
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// plans reads all of them, by namespace and name.
func (c *Controller) plans(ctx context.Context) ([]*Plan, error) {
	list, err := c.dynamic.Resource(plansResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Plans: %w", err)
	}
	var plans []*Plan
	for i := range list.Items {
		p := &Plan{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, p); err != nil {
			c.config.Log.Warn("a Plan can't be read", "component", c.Name(), "plan", list.Items[i].GetName(), "err", err)
			continue
		}
		if p.DeletionTimestamp == nil {
			plans = append(plans, p)
		}
	}
	slices.SortFunc(plans, func(a, b *Plan) int { return strings.Compare(a.key(), b.key()) })
	return plans, nil
}

func (c *Controller) nodes(ctx context.Context) ([]*member, error) {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []*member
	for i := range list.Items {
		n := &list.Items[i]
		_, server := n.Labels[controlPlaneLabel]
		nodes = append(nodes, &member{
			name: n.Name, labels: n.Labels, version: n.Status.NodeInfo.KubeletVersion, server: server,
			ready: slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}),
			assignment: parse[Assignment](n.Annotations, assignmentAnnotation),
			report:     parse[Report](n.Annotations, reportAnnotation),
		})
	}
	return nodes, nil
}

func (s *Status) copy() Status {
	c := *s
	c.Conditions = slices.Clone(s.Conditions)
	return c
}

// set changes a condition, with the time if it changes.
func (s *Status) set(c Condition, now time.Time) {
	at := now.UTC().Format(time.RFC3339)
	c.LastUpdateTime, c.LastTransitionTime = at, at
	old := s.condition(c.Type)
	if old == nil {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	*old = c
}

// writeStatus writes it where it has changed.
func (c *Controller) writeStatus(ctx context.Context, p *Plan, before Status) error {
	if reflect.DeepEqual(before, p.Status) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"conditions":    p.Status.Conditions,
		"latestVersion": p.Status.LatestVersion,
		"latestHash":    p.Status.LatestHash,
		"applying":      p.Status.Applying,
	}})
	if err != nil {
		return err
	}
	_, err = c.dynamic.Resource(plansResource).Namespace(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the status of the Plan %s: %w", p.key(), err)
	}
	return nil
}

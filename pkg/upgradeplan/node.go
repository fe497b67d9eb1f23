package upgradeplan

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/drain"
	"github.com/kedge-k8s/kedge/pkg/install"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	// nodeInterval is how often a node looks at an upgrade that is under way.
	nodeInterval = 2 * time.Second
	// longestMessage is that of a report.
	longestMessage = 1000

	assignmentName = "upgrade.json"
	logName        = "upgrade.log"
	// logHint is where a person finds more.
	logHint = "<data-dir>/agent/" + logName
)

// NodeConfig says which node it is.
type NodeConfig struct {
	Name string
	// Kubeconfigs of Kedge's parts on the node, and of its kubelet; see drain.Connect.
	Reads, Writes string
	Dir           string // for the assignment and the log of its upgrade
	Log           *slog.Logger
}

// Node carries out the assignments of this machine's node, as a component.
type Node struct {
	config NodeConfig
	run    component.Runner

	client kubernetes.Interface
	child  chan struct{} // closed when the upgrade that this process has started ends; nil: none
}

// NewNode makes the component.
func NewNode(c NodeConfig) *Node { return &Node{config: c} }

func (*Node) Name() string                     { return "upgrades" }
func (*Node) Needs() []string                  { return []string{"apiserver", "kubelet"} }
func (n *Node) Stop(ctx context.Context) error { return n.run.Stop(ctx) }
func (n *Node) Failed() <-chan error           { return n.run.Failed() }

// Start begins to watch the node in the background.
func (n *Node) Start(context.Context) (err error) {
	if n.client, err = drain.Connect(n.config.Reads, n.config.Writes); err != nil {
		return err
	}
	n.run.Run(func(ctx context.Context) error {
		n.work(ctx)
		return nil
	})
	return nil
}

func (n *Node) work(ctx context.Context) {
	nodes := make(chan *corev1.Node, 1)
	latest := func(o any) {
		node, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		select {
		case <-nodes: // an older one
		default:
		}
		nodes <- node
	}
	factory := informers.NewSharedInformerFactoryWithOptions(n.client, 0, informers.WithTransform(orders),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.config.Name).String()
		}))
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: latest, UpdateFunc: func(_, o any) { latest(o) },
	})
	if err != nil {
		return // it has not been started: that can't be
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	var node *corev1.Node
	for {
		var timer <-chan time.Time
		if a := order(node); a != nil {
			report, err := n.step(*a, parse[Report](node.Annotations, reportAnnotation))
			if err == nil && report != nil {
				err = n.report(ctx, *report)
			}
			if err != nil && ctx.Err() == nil {
				n.config.Log.Warn("an upgrade by a Plan can't go on; it is tried again", "component", n.Name(), "plan", a.Plan, "err", err)
			}
			if err != nil || report != nil && report.State == running || report == nil && !parse[Report](node.Annotations, reportAnnotation).final(a) {
				timer = time.After(nodeInterval)
			}
		}
		select {
		case node = <-nodes:
		case <-timer:
		case <-ctx.Done():
			return
		}
	}
}

// order is what the node is to do; nil: nothing.
func order(node *corev1.Node) *Assignment {
	if node == nil {
		return nil
	}
	return parse[Assignment](node.Annotations, assignmentAnnotation)
}

// orders keeps of a node what it is to do.
func orders(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	kept := map[string]string{}
	for _, key := range []string{assignmentAnnotation, reportAnnotation} {
		if value, found := node.Annotations[key]; found {
			kept[key] = value
		}
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Annotations: kept}}, nil
}

// step does what comes next for an assignment, and returns what is to be reported;
// nil: nothing new.
func (n *Node) step(a Assignment, last *Report) (*Report, error) {
	if last.final(&a) {
		return nil, nil
	}
	say := func(state, message string) (*Report, error) {
		message = strings.ToValidUTF8(message[:min(len(message), longestMessage)], "")
		if last != nil && last.ID == a.ID && last.State == state && last.Message == message {
			return nil, nil
		}
		return &Report{ID: a.ID, State: state, Message: message, Since: time.Now().UTC().Truncate(time.Second)}, nil
	}
	file := filepath.Join(n.config.Dir, assignmentName)
	// First, as an upgrade leaves its result before it ends.
	underWay := n.underWay()
	begun, err := readJSON[Assignment](file)
	if err != nil {
		return nil, err
	}
	r, err := readJSON[result](resultFile(file))
	if err != nil {
		return nil, err
	}
	switch {
	case begun.ID == a.ID && r.ID == a.ID && r.Error != "":
		return say(failed, r.Error)
	case underWay:
		return say(running, "to "+a.Version)
	case version.Version == a.Version:
		return say(done, "")
	case begun.ID == a.ID && r.ID == a.ID:
		return say(failed, fmt.Sprintf("the release of %s holds %s", a.Version, version.Version))
	case begun.ID == a.ID:
		return say(failed, "the upgrade was interrupted; "+version.Version+" runs")
	}
	record, found, err := install.ReadRecord()
	if err != nil {
		return say(failed, err.Error())
	}
	if !found {
		return say(failed, "Kedge is no service of this machine: kedge install makes it one")
	}
	if err := n.begin(record.ProgramFile(), file, a); err != nil {
		return say(failed, "begin the upgrade: "+err.Error())
	}
	n.config.Log.Info("this node is upgraded by a Plan", "component", n.Name(), "plan", a.Plan, "from", version.Version, "to", a.Version, "log", filepath.Join(n.config.Dir, logName))
	return say(running, "to "+a.Version)
}

// underWay says whether an upgrade is, of this process's or another.
func (n *Node) underWay() bool {
	if n.child != nil {
		select {
		case <-n.child:
			n.child = nil
		default:
			return true
		}
	}
	return install.UnderWay()
}

// begin starts the upgrade as a process that outlives this one, which it restarts.
func (n *Node) begin(program, file string, a Assignment) error {
	if err := os.MkdirAll(n.config.Dir, 0o700); err != nil {
		return err
	}
	if err := writeJSON(file, a); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(n.config.Dir, logName), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, "upgrade", "--assignment", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, kv := range os.Environ() {
		// The service manager's words to this process, and the service's own options.
		if !strings.HasPrefix(kv, "NOTIFY_SOCKET=") && !strings.HasPrefix(kv, "KEDGE_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	child := make(chan struct{})
	n.child = child
	go func() {
		defer close(child)
		_ = cmd.Wait() // it leaves its result
	}()
	return nil
}

func (n *Node) report(ctx context.Context, r Report) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{reportAnnotation: string(text)}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	_, err = n.client.CoreV1().Nodes().Patch(ctx, n.config.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/redact"
	"github.com/kedge-k8s/kedge/pkg/status"
)

const (
	commandLimit = 10 * time.Second
	maxOutput    = 4 << 20 // of one file, the end of which is kept
	logLines     = 500
	journalLines = "3000"
)

// Files are the configuration files of the machine that go into a bundle.
type Files struct {
	Config     string // and FILE.d/*.yaml
	Registries string
	Log        string   // that Kedge logs to; empty: the journal
	Secrets    []string // that must appear nowhere, beside those that Kedge keeps in files
}

// bundle is a support bundle that is being written.
type bundle struct {
	tar    *tar.Writer
	redact *redact.Redactor
	root   string // directory that all files are in
	now    time.Time
	failed []string // what could not be collected, and why
}

// WriteBundle packs the findings and what else helps others to find the cause into
// a new file, mode 0600: a tar.gz without secrets. A file of that name is replaced.
func (d *Doctor) WriteBundle(ctx context.Context, file string, files Files, findings []hostcheck.Finding) error {
	paths := d.paths()
	redactor, err := redact.New(paths.Token(), paths.AgentToken(), paths.NodeToken(), config.NodePasswordFile)
	if err != nil {
		return err
	}
	for _, secret := range files.Secrets {
		redactor.Know(secret)
	}
	d.say("collecting for the support bundle")
	out, err := os.CreateTemp(filepath.Dir(file), ".kedge-support-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the support bundle: %w", err)
	}
	defer func() { _ = os.Remove(out.Name()) }()
	compressed := gzip.NewWriter(out)
	b := &bundle{tar: tar.NewWriter(compressed), redact: redactor, root: "kedge-support", now: time.Now()}
	err = b.fill(ctx, d, files, findings)
	for _, closer := range []io.Closer{b.tar, compressed, out} {
		err = errors.Join(err, closer.Close())
	}
	if err == nil {
		err = os.Rename(out.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write the support bundle: %w", err)
	}
	return nil
}

func (b *bundle) fill(ctx context.Context, d *Doctor, files Files, findings []hostcheck.Finding) error {
	var text bytes.Buffer
	if err := hostcheck.PrintTable(&text, findings, false); err != nil {
		return err
	}
	if err := b.text("doctor.txt", text.Bytes()); err != nil {
		return err
	}
	text.Reset()
	if err := d.report.Print(&text, status.Form{}); err != nil {
		return err
	}
	report, err := json.MarshalIndent(d.report, "", "  ")
	if err != nil {
		return err
	}
	for _, add := range []func() error{
		func() error { return b.text("status.txt", text.Bytes()) },
		func() error { return b.text("status.json", report) },
		func() error { return b.configuration(files) },
		func() error { return b.machine(ctx) },
		func() error { return b.logs(ctx, files.Log) },
		func() error { return b.cluster(ctx, d) },
		func() error { return b.text("missing.txt", []byte(strings.Join(b.failed, "\n")+"\n")) },
	} {
		if err := add(); err != nil {
			return err
		}
	}
	return nil
}

// add writes a file whose secrets are removed already.
func (b *bundle) add(name string, content []byte) error {
	header := &tar.Header{Name: path.Join(b.root, name), Mode: 0o600, Size: int64(len(content)), ModTime: b.now}
	if err := b.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := b.tar.Write(content)
	return err
}

// text writes a text without its secrets, if it is long the end of it.
func (b *bundle) text(name string, content []byte) error {
	content = b.redact.Text(content)
	if len(content) > maxOutput {
		content = append([]byte("… (the beginning is left out)\n"), content[len(content)-maxOutput:]...)
	}
	return b.add(name, content)
}

func (b *bundle) missing(what string, err error) {
	b.failed = append(b.failed, what+": "+string(b.redact.Text([]byte(err.Error()))))
}

func (b *bundle) configuration(files Files) error {
	list := []string{files.Config, files.Registries}
	if drop, err := filepath.Glob(files.Config + ".d/*.yaml"); err == nil {
		list = append(list, drop...)
	}
	for _, file := range list {
		content, err := b.redact.File(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			b.missing(file, err)
			continue
		}
		if err := b.add(path.Join("config", strings.TrimPrefix(file, "/")), content); err != nil {
			return err
		}
	}
	return nil
}

// machine collects what the machine is.
func (b *bundle) machine(ctx context.Context) error {
	for _, file := range []string{
		"/etc/os-release", "/etc/resolv.conf", "/proc/version", "/proc/cmdline", "/proc/meminfo", "/proc/loadavg", "/proc/self/mountinfo",
		"/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory", "/proc/cgroups", "/proc/net/dev", "/proc/net/snmp", "/proc/swaps",
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			b.missing(file, err)
			continue
		}
		if err := b.text(path.Join("machine", strings.ReplaceAll(strings.TrimPrefix(file, "/"), "/", "-")), content); err != nil {
			return err
		}
	}
	// Names of processes without their arguments, which may hold secrets.
	for name, command := range map[string][]string{
		"addresses":  {"ip", "addr"},
		"routes":     {"ip", "route", "show", "table", "all"},
		"links":      {"ip", "-d", "link"},
		"listeners":  {"ss", "-ltnup"},
		"disks":      {"df", "-h"},
		"processes":  {"ps", "-eo", "pid,ppid,stat,rss,etime,comm"},
		"packets":    {"nft", "list", "ruleset"},
		"kernel-log": {"dmesg", "--ctime"},
	} {
		if err := b.command(ctx, path.Join("machine", name+".txt"), command...); err != nil {
			return err
		}
	}
	return nil
}

// command writes what a command prints, if the machine has it.
func (b *bundle) command(ctx context.Context, name string, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		b.missing(strings.Join(command, " "), err)
		if len(out) == 0 {
			return nil
		}
	}
	return b.text(name, out)
}

// logs takes Kedge's own log.
func (b *bundle) logs(ctx context.Context, file string) error {
	if file == "" {
		return b.command(ctx, "logs/kedge.txt", "journalctl", "--no-pager", "-n", journalLines, "-u", "kedge*")
	}
	content, err := tailOf(file)
	if err != nil {
		b.missing(file, err)
		return nil
	}
	return b.text("logs/kedge.txt", content)
}

// tailOf reads the end of a file.
func tailOf(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > maxOutput {
		if _, err := f.Seek(-maxOutput, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxOutput))
}

// resources are the kinds that are collected. Secrets are not, and of ConfigMaps
// only CoreDNS's: applications keep all sorts of things there.
var resources = []string{
	"/api/v1/nodes", "/api/v1/pods", "/api/v1/services", "/api/v1/events", "/api/v1/namespaces", "/api/v1/persistentvolumes", "/api/v1/persistentvolumeclaims",
	"/api/v1/namespaces/kube-system/configmaps/coredns",
	"/apis/apps/v1/deployments", "/apis/apps/v1/daemonsets", "/apis/apps/v1/statefulsets", "/apis/apps/v1/replicasets", "/apis/batch/v1/jobs",
	"/apis/discovery.k8s.io/v1/endpointslices", "/apis/networking.k8s.io/v1/ingresses", "/apis/networking.k8s.io/v1/networkpolicies",
	"/apis/storage.k8s.io/v1/storageclasses", "/apis/apiregistration.k8s.io/v1/apiservices", "/apis/coordination.k8s.io/v1/leases",
	"/apis/kedge.io/v1/addons", "/apis/kedge.io/v1/snapshots", "/apis/helm.cattle.io/v1/helmcharts",
	"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
}

func (b *bundle) cluster(ctx context.Context, d *Doctor) error {
	if d.client == nil || d.self.Role != "server" {
		return nil
	}
	for _, resource := range resources {
		body, err := d.client.Discovery().RESTClient().Get().AbsPath(resource).SetHeader("Accept", "application/json").Do(ctx).Raw()
		if err != nil {
			b.missing(resource, err)
			continue
		}
		content, err := b.objects(body)
		if err != nil {
			b.missing(resource, err)
			continue
		}
		if err := b.add(path.Join("cluster", path.Base(resource)+".yaml"), content); err != nil {
			return err
		}
	}
	for _, question := range []string{"/readyz?verbose", "/version"} {
		body, err := d.client.Discovery().RESTClient().Get().RequestURI(question).Do(ctx).Raw()
		if err != nil {
			b.missing(question, err)
		}
		if err := b.text(path.Join("cluster", strings.Trim(strings.SplitN(question, "?", 2)[0], "/")+".txt"), body); err != nil {
			return err
		}
	}
	return b.podLogs(ctx, d)
}

// objects removes the secrets of a list of objects, or of one.
func (b *bundle) objects(body []byte) ([]byte, error) {
	var list map[string]any
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	kind, _ := list["kind"].(string)
	items, isList := list["items"].([]any)
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			if _, has := object["kind"]; !has {
				object["kind"] = strings.TrimSuffix(kind, "List")
			}
			b.redact.Object(object)
		}
	}
	if !isList {
		b.redact.Object(list)
	}
	return yaml.Marshal(list)
}

// podLogs takes the logs of kube-system, and of pods that are in trouble.
func (b *bundle) podLogs(ctx context.Context, d *Doctor) error {
	pods, err := d.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		b.missing("pods", err)
		return nil
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		state, _, _ := status.ExplainPod(pod, b.now)
		if pod.Namespace != metav1.NamespaceSystem && state != status.PodWrong {
			continue
		}
		for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
			for _, previous := range []bool{false, true} {
				if previous && s.RestartCount == 0 {
					continue
				}
				if err := b.podLog(ctx, d, pod, s.Name, previous); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bundle) podLog(ctx context.Context, d *Doctor, pod *corev1.Pod, container string, previous bool) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	name := path.Join("logs", pod.Namespace, pod.Name+"-"+container)
	if previous {
		name += "-previous"
	}
	lines := int64(logLines)
	content, err := d.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines,
	}).Do(ctx).Raw()
	if err != nil {
		b.missing(name, err)
		return nil
	}
	return b.text(name+".txt", content)
}

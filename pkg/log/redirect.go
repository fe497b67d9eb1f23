package log

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	golog "log"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// Options say how much the libraries in the process may say.
type Options struct {
	Debug     bool
	Verbosity int    // klog's -v; above 0, Kubernetes' messages are shown without Debug too
	VModule   string // klog's -vmodule; Kubernetes' messages are then shown too
}

// Redirect sends what Kubernetes (klog), containerd and kine (logrus), gRPC
// and the standard library log through the handler. At their default,
// Kubernetes' informational messages are debug messages of Kedge's.
//
// The gate it returns holds the libraries' warnings and errors back until it
// is opened: while parts wait for each other, most are about that.
func Redirect(out slog.Handler, o Options) (*Gate, error) {
	asked := o.Verbosity > 0 || o.VModule != ""
	gate := newGate(out, o.Debug || asked)
	h := gate.handler()
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", strconv.Itoa(o.Verbosity)); err != nil {
		return nil, err
	}
	if err := flags.Set("vmodule", o.VModule); err != nil {
		return nil, fmt.Errorf("vmodule: %w", err)
	}
	kube := &kubeHandler{next: h, verbosity: o.Verbosity, modules: o.VModule != "", asked: asked, shown: o.Debug || asked}
	klog.SetLoggerWithOptions(logr.FromSlogHandler(kube), klog.ContextualLogger(true), klog.WriteKlogBuffer(kube.writeKlog))

	klog.OsExit = gate.exit

	logrus.SetOutput(io.Discard)
	logrus.SetReportCaller(true)
	logrus.SetLevel(logrus.WarnLevel)
	if o.Debug {
		logrus.SetLevel(logrus.InfoLevel)
	}
	logrus.AddHook(logrusHook{h})
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	golog.SetFlags(0)
	golog.SetOutput(lineWriter{h})
	return gate, nil
}

// kubeHandler takes klog's structured messages.
type kubeHandler struct {
	next      slog.Handler
	verbosity int
	modules   bool // single source files may have another verbosity
	asked     bool // the user wants to see Kubernetes' messages
	shown     bool // messages that are no errors
}

func (k *kubeHandler) Enabled(_ context.Context, level slog.Level) bool {
	if level >= slog.LevelWarn || !k.shown {
		return level >= slog.LevelWarn
	}
	// logr turns V(n) into slog's level -n.
	return int(-level) <= k.verbosity || k.modules && enabledForFile(klog.Level(-level))
}

// enabledForFile says whether the source file that logs may do so at a level. klog
// has asked itself for what it passes on.
func enabledForFile(level klog.Level) bool {
	const depth = 4 // of that file above Enabled, logr's sink and logr's logger
	_, file, _, _ := runtime.Caller(depth)
	return strings.Contains(file, "k8s.io/klog/") || klog.VDepth(depth, level).Enabled()
}

func (k *kubeHandler) Handle(ctx context.Context, r slog.Record) error {
	component := componentOf(fileOf(r.PC))
	if r.Level >= slog.LevelWarn && harmlessRecord(r) {
		if !k.shown {
			return nil
		}
		r.Level = slog.LevelInfo
	}
	if r.Level < slog.LevelWarn {
		r.Level = slog.LevelDebug
		if k.asked {
			r.Level = slog.LevelInfo
		}
	}
	r.AddAttrs(slog.String(componentKey, component))
	return k.next.Handle(ctx, r)
}

func (k *kubeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *k
	c.next = k.next.WithAttrs(attrs)
	return &c
}

func (k *kubeHandler) WithGroup(name string) slog.Handler {
	c := *k
	c.next = k.next.WithGroup(name)
	return &c
}

// writeKlog takes klog's formatted messages: "W1120 10:35:52.123456  4711
// reflector.go:561] text". The severity is the first letter.
func (k *kubeHandler) writeKlog(data []byte) {
	level := slog.LevelInfo
	switch {
	case len(data) == 0:
		return
	case data[0] == 'W':
		level = slog.LevelWarn
	case data[0] == 'E' || data[0] == 'F':
		level = slog.LevelError
	}
	if level == slog.LevelInfo || harmless(data) {
		if !k.shown {
			return
		}
		level = slog.LevelDebug
		if k.asked {
			level = slog.LevelInfo
		}
	}
	if !k.next.Enabled(context.Background(), level) {
		return
	}
	if _, text, found := bytes.Cut(data, []byte("] ")); found {
		data = text
	}
	r := slog.NewRecord(time.Now(), level, string(data), 0)
	r.AddAttrs(slog.String(componentKey, componentOf(klogCaller())))
	_ = k.next.Handle(context.Background(), r)
}

// harmlessParts are of messages that Kubernetes logs as errors although all is
// well: the end of each exec, the last look at a deleted pod's volumes,
// kube-proxy's first look for what an earlier run may have left, the second
// pod range for a new node that its controller tries when its cache lags, and
// what keeps a volume from being made or removed, which its event says too.
var harmlessParts = [][]byte{
	[]byte("list table ip kube-proxy"),
	[]byte("list table ip6 kube-proxy"),
	[]byte("may specify no more than one CIDR for each IP family"),
	[]byte("use of closed network connection"),
	[]byte("no relationship found between node"),
	[]byte("error syncing claim \""),
	[]byte("error syncing volume \""),
}

func harmless(message []byte) bool {
	return slices.ContainsFunc(harmlessParts, func(part []byte) bool { return bytes.Contains(message, part) })
}

// harmlessRecord looks at a message's error.
func harmlessRecord(r slog.Record) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		found = ok && harmless([]byte(err.Error()))
		return !found
	})
	return found
}

// klogCaller is the source file that called klog.
func klogCaller() string {
	var pcs [16]uintptr
	n := runtime.Callers(3, pcs[:])
	frames := runtime.CallersFrames(pcs[:n])
	for {
		frame, more := frames.Next()
		if !strings.Contains(frame.File, "/klog/") && !strings.Contains(frame.File, "pkg/log/") {
			return frame.File
		}
		if !more {
			return ""
		}
	}
}

func fileOf(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return frame.File
}

// sources name the component that a source file belongs to, by a part of its
// path; the first match counts.
var sources = []struct{ part, component string }{
	{"pkg/kubelet/", "kubelet"}, {"cmd/kubelet/", "kubelet"}, {"google/cadvisor", "kubelet"}, {"pkg/volume/", "kubelet"},
	{"pkg/scheduler/", "scheduler"}, {"cmd/kube-scheduler/", "scheduler"},
	{"pkg/proxy/", "kube-proxy"}, {"cmd/kube-proxy/", "kube-proxy"},
	{"pkg/controller/", "controller-manager"}, {"cmd/kube-controller-manager/", "controller-manager"}, {"controller-manager", "controller-manager"},
	{"cloud-provider", "cloud-controller"},
	{"apiserver", "apiserver"}, {"kube-aggregator", "apiserver"}, {"pkg/controlplane/", "apiserver"}, {"pkg/registry/", "apiserver"}, {"etcd/client", "apiserver"},
	{"containerd", "containerd"}, {"kine", "datastore"},
	{"client-go", "client"},
}

func componentOf(file string) string {
	for _, s := range sources {
		if strings.Contains(file, s.part) {
			return s.component
		}
	}
	return "kubernetes"
}

// withoutRequest leaves out what kine says of a write that failed: all of it, the
// content of Secrets too. The error itself is the answer, which others log.
func withoutRequest(message string) string {
	if strings.HasPrefix(message, "error in txn ") || strings.HasPrefix(message, "error in put ") {
		return "a write to the datastore failed"
	}
	return message
}

type logrusHook struct{ next slog.Handler }

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (l logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug // informational chatter of libraries
	switch e.Level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	}
	if !l.next.Enabled(context.Background(), level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, withoutRequest(e.Message), 0)
	file := ""
	if e.Caller != nil {
		file = e.Caller.File
	}
	r.AddAttrs(slog.String(componentKey, componentOf(file)))
	for key, value := range e.Data {
		r.AddAttrs(slog.Any(key, value))
	}
	return l.next.Handle(context.Background(), r)
}

// lineWriter takes the standard logger's lines: net/http's complaints about
// clients, mostly.
type lineWriter struct{ next slog.Handler }

func (l lineWriter) Write(line []byte) (int, error) {
	if !l.next.Enabled(context.Background(), slog.LevelDebug) {
		return len(line), nil
	}
	r := slog.NewRecord(time.Now(), slog.LevelDebug, string(line), 0)
	return len(line), l.next.Handle(context.Background(), r)
}

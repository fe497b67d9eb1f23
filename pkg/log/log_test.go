package log

import (
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

func TestLineFormat(t *testing.T) {
	for name, tc := range map[string]struct {
		log  func(*slog.Logger)
		want string // after the time
	}{
		"plain":     {func(l *slog.Logger) { l.Info("ready") }, `INFO  +ready`},
		"component": {func(l *slog.Logger) { l.Warn("slow", "component", "kubelet", "took", 3) }, `WARN  kubelet +slow took=3`},
		"quoted":    {func(l *slog.Logger) { l.Error("bad", "err", errors.New(`no "x"`)) }, `ERROR +bad err="no \\"x\\""`},
		"one line":  {func(l *slog.Logger) { l.Info("a\nb", "c", "d\r\ne") }, `INFO  +a \| b c="d \| e"`},
		"group":     {func(l *slog.Logger) { l.WithGroup("g").With("a", 1).Info("m", "b", 2) }, `INFO  +m g.a=1 g.b=2`},
		"level":     {func(l *slog.Logger) { l.Debug("hidden") }, ``},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			tc.log(slog.New(NewHandler(&out, slog.LevelInfo)))
			if tc.want == "" {
				if out.Len() > 0 {
					t.Fatalf("logged %q", out.String())
				}
				return
			}
			want := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ` + tc.want + "\n$")
			if !want.MatchString(out.String()) {
				t.Fatalf("logged %q, want %s", out.String(), want)
			}
		})
	}
}

// TestRedirect goes through the libraries' global loggers, so it is one test.
func TestRedirect(t *testing.T) {
	var out strings.Builder
	gate, err := Redirect(NewHandler(&out, slog.LevelInfo), Options{})
	if err != nil {
		t.Fatal(err)
	}
	logged := func(want ...string) {
		t.Helper()
		got := out.String()
		out.Reset()
		if strings.Count(got, "\n") != len(want) {
			t.Fatalf("logged %q, want %d lines", got, len(want))
		}
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Fatalf("logged %q, want %q", got, part)
			}
		}
	}

	klog.ErrorS(errors.New("boom"), "held back")
	klog.Info("Kubernetes' own noise")
	logged()
	gate.Release()
	logged("held back err=boom")

	klog.Warning("plain warning")
	klog.ErrorS(nil, "structured error", "pod", "x")
	logrus.Error("from a container library")
	logged("WARN", "structured error pod=x", "from a container library")
	logrus.Error(`error in txn success:<request_put:<key:"/registry/secrets/x" value:"s3cret" > > : connection refused`)
	logged("a write to the datastore failed")

	klog.ErrorS(errors.New("read: use of closed network connection"), "Error on socket receive")
	klog.Errorf("Error on socket receive: %v", "use of closed network connection")
	klog.InfoS("Kubernetes' own noise")
	logged()

	gate.Close()
	klog.Error("while stopping")
	logged()
	ended := make(chan bool, 1)
	go func() {
		defer func() { ended <- true }()
		klog.Fatal("a hook found others gone")
		ended <- false
	}()
	if !<-ended {
		t.Fatal("Fatal went on")
	}

	for _, c := range []struct {
		options Options
		want    []string
	}{
		{Options{Verbosity: 4}, []string{"structured four", "formatted four", "contextual four"}},
		{Options{Verbosity: 3}, nil},
		{Options{VModule: "log_test=4"}, []string{"structured four", "formatted four", "contextual four"}},
		{Options{VModule: "other=4"}, nil},
	} {
		if _, err := Redirect(NewHandler(&out, slog.LevelInfo), c.options); err != nil {
			t.Fatal(err)
		}
		for level, word := range map[klog.Level]string{4: "four", 5: "five"} {
			klog.V(level).InfoS("structured " + word)
			klog.V(level).Infof("formatted %s", word)
			klog.Background().WithName("x").V(int(level)).Info("contextual " + word)
		}
		logged(c.want...)
	}
}

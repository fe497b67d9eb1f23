package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/log"
	"github.com/kedge-k8s/kedge/pkg/notify"
	"github.com/kedge-k8s/kedge/pkg/payload"
)

// How much the heap may grow before garbage is collected, in percent of what
// lives: a little processor time is traded for memory, as the live heap is large
// and changes little. Until the node is Ready it is the other way round, where
// there is memory. More than this would leave what stays scattered over so many
// pages that the heap remains large.
const (
	gcPercent        = 50
	startupGCPercent = 150
	startupMemory    = 2 << 30 // bytes that the machine has at least
	startupTime      = 30 * time.Second
)

// process is what a role runs with.
type process struct {
	payload string // directory of the unpacked programs and images
	log     *slog.Logger
	gate    *log.Gate
	ready   func() // to be called once, when the node is Ready
}

// noArguments refuses what is no option.
func noArguments(c *cli.Context) error {
	if extra := c.Args().First(); extra != "" {
		return fmt.Errorf("unexpected argument %q: options begin with --, and %s --help lists them", extra, c.Command.HelpName)
	}
	return nil
}

// runRole prepares this process to be a server or an agent, and runs it until
// it is told to stop.
func runRole(c *cli.Context, logging config.Logging, warnings []string, run func(context.Context, process) error) error {
	root, err := payloadRoot()
	if err != nil {
		return err
	}
	environ := os.Environ()
	manager := notify.Socket(os.Getenv("NOTIFY_SOCKET"))
	// kube-proxy, the kubelet and the CNI plugins find nft, runc and each
	// other here, before anything the machine may have of the same name.
	if err := os.Setenv("PATH", root+"/bin:"+os.Getenv("PATH")); err != nil {
		return err
	}
	// The kubelet would tell a service manager that it is ready, too early; and
	// tokens are not for the programs that are started from here.
	for _, name := range []string{"NOTIFY_SOCKET", "KEDGE_TOKEN", "KEDGE_AGENT_TOKEN", "KEDGE_DATASTORE_ENDPOINT", "KEDGE_ETCD_S3_SECRET_KEY", "KEDGE_ETCD_S3_SESSION_TOKEN"} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	started := func() {}
	if os.Getenv("GOGC") == "" {
		started = saveMemory()
	}
	own, libraries, err := log.TakeStderr()
	if err != nil {
		return err
	}
	c.App.ErrWriter = own
	logger, gate, closeLog, err := openLog(logging, own)
	if err != nil {
		return err
	}
	libraries(logger.Handler())
	defer closeLog()
	for _, warning := range warnings {
		logger.Warn(warning)
	}

	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() {
		stop() // the second signal ends the process at once
		if err := manager.Stopping(); err != nil {
			logger.Warn("the service manager does not learn that Kedge stops", "err", err)
		}
	})
	ready := func() {
		started()
		if err := manager.Ready(); err != nil {
			logger.Warn("the service manager does not learn that the node is Ready", "err", err)
		}
		if _, err := atomicfile.Update(config.ReadyFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			logger.Warn("it can't be seen that the node is Ready", "err", err)
		}
	}
	_ = os.Remove(config.ReadyFile) // of an earlier run
	err = run(ctx, process{root, logger, gate, ready})
	if errors.Is(err, component.ErrRestart) {
		return restart(environ)
	}
	return err
}

// saveMemory has garbage be collected early, from the moment that the function
// it returns is called or the time of a start-up is over.
func saveMemory() (started func()) {
	var info unix.Sysinfo_t
	err := unix.Sysinfo(&info)
	total := uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // 32 bits wide on arm
	if err != nil || total < startupMemory {
		debug.SetGCPercent(gcPercent)
		return func() {}
	}
	debug.SetGCPercent(startupGCPercent)
	early := time.AfterFunc(startupTime, func() { debug.SetGCPercent(gcPercent) })
	return func() { early.Reset(0) }
}

// restart replaces this process by a new one of the same program and arguments:
// much of Kubernetes can be started only once in a process. It returns only if
// it fails.
func restart(environ []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start again: %w", syscall.Exec(exe, os.Args, environ)) //nolint:gosec // that is its job
}

// payloadRoot is where this program's companions are.
func payloadRoot() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	root, _, err := payload.Current(exe)
	if err != nil {
		return "", fmt.Errorf("this is the bare program without its payload: run the kedge file: %w", err)
	}
	return root, nil
}

// openLog makes the process's logger, and sends the libraries' messages
// through it too.
func openLog(o config.Logging, fallback io.Writer) (logger *slog.Logger, gate *log.Gate, closeLog func(), err error) {
	out, closeLog := fallback, func() {}
	if o.File != "" {
		file, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--log: %w", err)
		}
		out, closeLog = file, func() { _ = file.Close() }
	}
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
	}
	handler := log.NewHandler(out, level)
	gate, err = log.Redirect(handler, log.Options{Debug: o.Debug, Verbosity: o.Verbosity, VModule: o.VModule})
	if err != nil {
		closeLog()
		return nil, nil, nil, err
	}
	return slog.New(handler), gate, closeLog, nil
}

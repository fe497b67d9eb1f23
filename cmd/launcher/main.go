// Command launcher is the front of the file that users download. The first
// time it unpacks the payload behind it; every time it execs the program in
// there, with the same arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/payload"
)

// launcherEnv tells the program the absolute path of the kedge file, which it
// can't see from its own path.
const launcherEnv = "KEDGE_LAUNCHER"

// self is the file this process runs from, even if it was renamed meanwhile.
const self = "/proc/self/exe"

func main() {
	fmt.Fprintln(os.Stderr, "kedge:", advise(run()))
	os.Exit(1)
}

// run becomes the program, so that it returns only if it fails.
func run() error {
	name, err := os.Readlink(self)
	if err != nil {
		return fmt.Errorf("find the kedge file (is /proc mounted?): %w", err)
	}
	name = strings.TrimSuffix(name, " (deleted)") // it is being replaced
	file, err := payload.Open(self, name)
	if err != nil {
		return err
	}
	env := append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, launcherEnv+"=")
	}), launcherEnv+"="+name)
	argv, env := hideSecrets(os.Args, env)
	if len(argv) < len(os.Args) {
		// This process shows none either while it unpacks, which takes seconds, and as
		// the first of a container. Where that fails the program hides them later.
		_ = syscall.Exec(name, argv, env) //nolint:gosec // as everything was given to it
	}

	dirs, err := dataDirs(config.DataDir(arguments(os.Args), os.Environ()))
	if err != nil {
		return err
	}
	for i, dir := range dirs {
		err := start(payload.Dir(dir, file.ID()), argv, env)
		if last := i == len(dirs)-1; last && !unpackable(err) {
			return err
		}
	}
	root, err := unpack(file, dirs[len(dirs)-1])
	if err != nil {
		return err
	}
	return execute(root, argv, env)
}

// arguments are those in which Kedge's own options may stand. A command line
// that begins with the name of a tool has the tool's options.
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	switch tool := filepath.Base(argv[0]); tool {
	case "kubectl", "ctr", "crictl":
		return append([]string{tool}, argv[1:]...)
	}
	return argv[1:]
}

// dataDirs are the directories that the payload may lie in, the last being
// where to unpack it. A user without root's rights runs what root has unpacked
// or else has a copy in a cache.
func dataDirs(dataDir string) ([]string, error) {
	if os.Geteuid() == 0 {
		return []string{dataDir}, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find a directory to unpack into: %w; run kedge as root or set XDG_CACHE_HOME", err)
	}
	return []string{dataDir, filepath.Join(cache, "kedge")}, nil
}

// start runs the program of the payload at root, unless that isn't there or is
// being removed. It returns only if it fails.
func start(root string, argv, env []string) error {
	if err := payload.Hold(root); err != nil {
		return err
	}
	return execute(root, argv, env)
}

// execute replaces this process by the program of the payload at root, which is
// held, or runs it as a child of the container's first process. It returns only if
// that fails.
func execute(root string, argv, env []string) error {
	program := filepath.Join(root, payload.Program)
	become := syscall.Exec
	if firstOfContainer(os.Getpid(), argv) {
		become = supervise
	}
	err := become(program, argv, env)
	switch {
	case errors.Is(err, fs.ErrPermission):
		if noexec := payload.CheckExec(root); noexec != nil {
			err = noexec
		}
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := os.Stat(program); statErr == nil {
			err = errors.New("this system lacks the loader it was linked for")
		}
	}
	return fmt.Errorf("run %s: %w", program, err)
}

// unpackable tells whether a start failed for a reason that unpacking mends.
func unpackable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EWOULDBLOCK)
}

func unpack(file *payload.File, dir string) (string, error) {
	ctx, stop := interruptible()
	defer stop()
	report := newReporter(os.Stderr)
	root, err := file.Unpack(ctx, dir, report)
	report.end(err)
	if ctx.Err() != nil {
		return "", errors.New("unpack Kedge: interrupted")
	}
	return root, err
}

// interruptible gives a context that ends with the signals that end this
// process, so that it can clean up. What nohup or a shell has made it ignore
// stays ignored.
func interruptible() (context.Context, context.CancelFunc) {
	signals := slices.DeleteFunc([]os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}, signal.Ignored)
	if len(signals) == 0 { // which NotifyContext takes for all
		return context.WithCancel(context.Background())
	}
	return signal.NotifyContext(context.Background(), signals...)
}

// advise adds what to do to errors that come from the place to unpack into.
func advise(err error) error {
	noSpace, noExec := (*payload.NoSpaceError)(nil), (*payload.NoExecError)(nil)
	another := "--data-dir"
	if os.Geteuid() != 0 {
		another = "XDG_CACHE_HOME"
	}
	switch {
	case errors.As(err, &noSpace):
		return fmt.Errorf("%w; free some space or choose another directory with %s", err, another)
	case errors.As(err, &noExec),
		errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w; choose another directory with %s", err, another)
	}
	return err
}

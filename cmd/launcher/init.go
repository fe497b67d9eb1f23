package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// firstOfContainer tells whether a process is the first one of a container and
// its program runs on: it then has to do what an init does.
func firstOfContainer(pid int, argv []string) bool {
	return pid == 1 && len(argv) > 1 && slices.Contains([]string{"server", "agent"}, argv[1])
}

// forwarded are the signals by which a container is told something.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2}

// supervise runs the program as a child of this process, which passes signals on
// to it and takes the exit codes of orphans: containers' shims have no other
// parent. With the program's end it ends this process, and thereby the container.
// It returns only if the program can't be started.
func supervise(program string, argv, env []string) error {
	if err := prepareContainer(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	child, err := os.StartProcess(program, argv, &os.ProcAttr{ //nolint:gosec // that is its job
		Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		signal.Stop(signals)
		return err
	}
	go func() {
		for s := range signals {
			_ = child.Signal(s) // it may have ended
		}
	}()
	os.Exit(reap(child.Pid))
	return nil
}

// reap takes the exit codes of all children until that of one, and returns it as
// a shell would.
func reap(child int) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1 // it has no children, which can't be
		case pid == child && status.Signaled():
			return 128 + int(status.Signal())
		case pid == child:
			return status.ExitStatus()
		}
	}
}

// prepareContainer gives the container what a machine has from its own init: /run
// without what a former run left there, and mounts that volumes can be handed on
// through.
func prepareContainer() error {
	var run, parent unix.Stat_t
	for name, stat := range map[string]*unix.Stat_t{"/run": &run, "/": &parent} {
		if err := unix.Stat(name, stat); err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
	}
	if run.Dev == parent.Dev {
		const flags = unix.MS_NOSUID | unix.MS_NODEV
		if err := unix.Mount("tmpfs", "/run", "tmpfs", flags, "mode=755"); err != nil {
			return unprivileged("mount a tmpfs on /run", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return unprivileged("share the mounts below /", err)
	}
	return nil
}

func unprivileged(what string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w; run the container privileged", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

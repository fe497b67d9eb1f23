// Package cleanup stops what Kedge has started on a machine, and removes what it
// has left there.
//
// Each kind of thing (processes, mounts, network interfaces …) is a [trace]
// with one way to find it and one to remove it. What is found is removed, in the
// order of the kinds, until nothing is found any more: that nothing is left is
// seen, not believed.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/config"
)

const (
	// kindLimit is how long things of one kind are removed, as some go only when
	// others are gone.
	kindLimit = 20 * time.Second
	kindPause = 200 * time.Millisecond
	// DefaultGrace is how long containers get to end by themselves.
	DefaultGrace = 5 * time.Second
)

// Machine is what is to be cleaned.
type Machine struct {
	DataDir string // absolute
	// Files that an installation has made outside of Kedge's own directories,
	// and a configuration's kubeconfig.
	Files []string
	// Grace is how long containers get to end by themselves.
	Grace time.Duration
	// StopService stops Kedge's services; nil: there are none.
	StopService func(context.Context) error
	// Out is told what is done.
	Out io.Writer
}

// trace is one kind of thing that Kedge leaves on a machine.
type trace struct {
	kind string // in words, plural
	// find returns the names of what there is.
	find func(context.Context) ([]string, error)
	// remove removes what find has found.
	remove func(context.Context, []string) error
}

// Killall stops Kedge and all pods, and removes what a reboot would: processes,
// mounts, network interfaces, firewall tables, cgroups. It
// returns an error that names what is left.
func (m *Machine) Killall(ctx context.Context) error {
	if err := m.resolve(); err != nil {
		return err
	}
	return m.removeAll(ctx, m.running())
}

// Uninstall is Killall, and removes Kedge's files and puts the kernel's settings
// back as well. All data of the cluster on this machine is lost.
func (m *Machine) Uninstall(ctx context.Context) error {
	if err := m.resolve(); err != nil {
		return err
	}
	running := m.running()
	if err := m.removeAll(ctx, running); err != nil {
		return err
	}
	// What is left of a running Kedge is looked for once more before the
	// programs to look with are removed.
	err := m.removeAll(ctx, []trace{m.settings(), m.files()})
	return errors.Join(err, left(ctx, append(without(running, "firewall tables"), m.settings(), m.files())))
}

// resolve finds the data directory behind a link.
func (m *Machine) resolve() error {
	if target, err := filepath.EvalSymlinks(m.DataDir); err == nil {
		if info, err := os.Lstat(m.DataDir); err == nil && info.Mode()&os.ModeSymlink != 0 {
			m.Files = append(m.Files, filepath.Clean(m.DataDir))
		}
		m.DataDir = target
	}
	if m.DataDir == "/" || !filepath.IsAbs(m.DataDir) {
		return fmt.Errorf("%q can't be a data directory", m.DataDir)
	}
	return nil
}

func (m *Machine) running() []trace {
	return []trace{
		m.roles(),
		m.containers(),
		m.mounts(),
		m.routes(),
		m.interfaces(),
		m.tables(),
		m.cgroups(),
	}
}

func without(traces []trace, kind string) (rest []trace) {
	for _, t := range traces {
		if t.kind != kind {
			rest = append(rest, t)
		}
	}
	return rest
}

// removeAll removes traces kind by kind, and returns an error that names what is
// left of any.
func (m *Machine) removeAll(ctx context.Context, traces []trace) error {
	var errs []error
	for _, t := range traces {
		errs = append(errs, m.removeKind(ctx, t))
	}
	return errors.Join(errs...)
}

func (m *Machine) removeKind(ctx context.Context, t trace) error {
	ctx, cancel := context.WithTimeout(ctx, kindLimit+m.Grace)
	defer cancel()
	told := false
	var removeErr error
	for {
		found, err := t.find(ctx)
		if err != nil {
			return fmt.Errorf("find %s: %w", t.kind, err)
		}
		if len(found) == 0 {
			return nil
		}
		if !told {
			fmt.Fprintf(m.Out, "removing %s\n", summary(t.kind, found))
			told = true
		}
		if ctx.Err() != nil {
			return remains(t.kind, found, removeErr)
		}
		removeErr = t.remove(ctx, found)
		if errors.Is(removeErr, errForGood) {
			return remains(t.kind, found, removeErr)
		}
		select {
		case <-time.After(kindPause):
		case <-ctx.Done():
		}
	}
}

// errForGood says that trying again makes no sense.
var errForGood = errors.New("it stays")

func remains(kind string, found []string, why error) error {
	err := fmt.Errorf("%s are left: %s", kind, strings.Join(found, ", "))
	if why != nil {
		err = fmt.Errorf("%w (%w)", err, why)
	}
	return err
}

// left is an error that names all that is found.
func left(ctx context.Context, traces []trace) error {
	var errs []error
	for _, t := range traces {
		found, err := t.find(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("find %s: %w", t.kind, err))
		} else if len(found) > 0 {
			errs = append(errs, remains(t.kind, found, nil))
		}
	}
	return errors.Join(errs...)
}

// summary says what is removed, by name where that fits in a line.
func summary(kind string, names []string) string {
	const most = 4
	if len(names) > most {
		return fmt.Sprintf("%d %s", len(names), kind)
	}
	return kind + ": " + strings.Join(names, ", ")
}

func (m *Machine) paths() config.Paths { return config.Paths{DataDir: m.DataDir} }

// below says whether a path is in a directory, at any depth.
func below(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }

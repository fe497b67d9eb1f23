package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Upgrade replaces the program of an installed service.
type Upgrade struct {
	Record  Record
	File    string // the new program
	Timeout time.Duration
	Out     io.Writer
	// Prepare is done before the restart, and what it returns after, also when the
	// previous program runs again; nil: nothing.
	Prepare func(context.Context) (undo func(context.Context), err error)
}

// Say tells how it goes.
func (u *Upgrade) Say(what, text string) { fmt.Fprintf(u.Out, "  %-10s %s\n", what, text) }

// Run checks the new program, prepares the node, puts the program in place, restarts the service and waits
// until the node is Ready. If it doesn't get Ready the previous program is put
// back.
func (u *Upgrade) Run(ctx context.Context) error {
	s, err := findService(u.Record.Name, u.Record.SystemdDir)
	if err != nil {
		return err
	}
	program := u.Record.ProgramFile()
	before, err := sum(program)
	if err != nil {
		return err
	}
	after, err := sum(u.File)
	if err != nil {
		return err
	}
	if before == after {
		u.Say("upgrade", "not needed: "+program+" is this very program")
		return nil
	}
	if err := u.checkVersion(ctx); err != nil {
		return err
	}
	// The new program may be the previous one, which is about to be another.
	next := filepath.Join(u.Record.BinDir, ".kedge.next")
	defer func() { _ = os.Remove(next) }() // which is gone when all went well
	if err := replace(u.File, next); err != nil {
		return err
	}
	if u.Prepare != nil {
		undo, err := u.Prepare(ctx)
		if err != nil {
			return fmt.Errorf("the program was not changed: %w", err)
		}
		defer undo(context.WithoutCancel(ctx))
	}
	previous := filepath.Join(u.Record.BinDir, ".kedge.previous")
	if err := keep(program, previous); err != nil {
		return err
	}
	u.Record.add(previous)
	if err := u.Record.write(); err != nil {
		return err
	}
	if err := u.change(ctx, s, next, previous); err != nil {
		return err
	}
	u.Record.Program = after
	return u.Record.write()
}

// change puts the next program in place and starts it, and the previous one again
// when that fails or is interrupted.
func (u *Upgrade) change(ctx context.Context, s service, next, previous string) error {
	stamps := versionStamps(u.Record.DataDir)
	if err := os.Rename(next, u.Record.ProgramFile()); err != nil {
		return err
	}
	u.Say("program", u.Record.ProgramFile())
	u.Say("restart", "pods keep running")
	err := s.start(ctx)
	if err == nil {
		err = waitReady(ctx, s, u.Timeout, u.Out)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the upgrade was interrupted; %w", u.goBack(ctx, s, previous, stamps))
	default:
		return fmt.Errorf("the new version does not work here: %w; %w", err, u.goBack(ctx, s, previous, stamps))
	}
}

// keep gives a file another name as well.
func keep(path, as string) error {
	if err := os.Remove(as); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, as); err == nil {
		return nil
	}
	return replace(path, as)
}

// versionStamps are the files that say which version has used the data, with what is in
// them.
func versionStamps(dataDir string) map[string][]byte {
	stamps := map[string][]byte{}
	for _, role := range []string{"server", "agent"} {
		path := filepath.Join(dataDir, role, "version")
		if content, err := os.ReadFile(path); err == nil {
			stamps[path] = content
		}
	}
	return stamps
}

// goBack starts the previous program again. Its error says how that went.
func (u *Upgrade) goBack(ctx context.Context, s service, previous string, stamps map[string][]byte) error {
	// Also when a person has had enough of waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.Timeout+stopLimit)
	defer cancel()
	u.Say("back", "to the previous program")
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("going back failed: %w", err)
	}
	if err := os.Rename(previous, u.Record.ProgramFile()); err != nil {
		return fmt.Errorf("going back failed: %w", err)
	}
	// What a version writes the one before it can read; they say so themselves.
	for path, content := range stamps {
		if _, err := atomicfile.Update(path, content, 0o644); err != nil {
			return fmt.Errorf("going back failed: %w", err)
		}
	}
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("going back failed: %w", err)
	}
	if err := waitReady(ctx, s, u.Timeout, u.Out); err != nil {
		return fmt.Errorf("the previous version runs again, but: %w", err)
	}
	return errors.New("the previous version runs again, and the node is Ready")
}

// checkVersion refuses a program that does not run here, or whose version can't
// follow the present one.
func (u *Upgrade) checkVersion(ctx context.Context) error {
	now, err := u.versionOf(ctx, u.Record.ProgramFile())
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	// It is unpacked now, which the restart need not do then.
	next, err := u.versionOf(ctx, u.File)
	if err != nil {
		return fmt.Errorf("the new program does not run here: %w", err)
	}
	u.Say("upgrade", "from "+now+" to "+next)
	if err := Follows(now, next); err != nil {
		return err
	}
	if _, err := os.Stat(u.agentKubeconfig()); u.Record.Role != Agent || errors.Is(err, fs.ErrNotExist) {
		return nil // it is a server, or has not joined yet
	}
	server, err := u.serverVersion(ctx)
	if err != nil {
		return fmt.Errorf("ask the servers for their version: %w", err)
	}
	if version.Newer(next, server) {
		return fmt.Errorf("the servers run %s, and an agent must not be newer: upgrade them first", server)
	}
	return nil
}

// Follows refuses versions that Kubernetes does not let follow each other, see
// https://kubernetes.io/releases/version-skew-policy/.
func Follows(now, next string) error {
	if version.Newer(now, next) {
		return fmt.Errorf("%s is older than %s: the data can't go back; restore a backup with that version instead", next, now)
	}
	if version.Skips(now, next) {
		return fmt.Errorf("%s skips a minor version after %s: upgrade by one at a time", next, now)
	}
	return nil
}

func (u *Upgrade) versionOf(ctx context.Context, program string) (string, error) {
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = append(os.Environ(), "KEDGE_DATA_DIR="+u.Record.DataDir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	// kedge version v1.36.3+kedge1 (1a2b3c4d)
	if f := strings.Fields(string(out)); len(f) >= 3 && f[0] == "kedge" {
		return f[2], nil
	}
	return "", fmt.Errorf("%s --version says %q: is it Kedge?", program, strings.TrimSpace(string(out)))
}

func (u *Upgrade) kubectl(ctx context.Context, args ...string) (string, error) {
	return run(ctx, u.Record.ProgramFile(), append([]string{"kubectl"}, args...)...)
}

func (u *Upgrade) agentKubeconfig() string {
	return filepath.Join(u.Record.DataDir, "agent", "etc", "agent.kubeconfig")
}

func (u *Upgrade) serverVersion(ctx context.Context) (string, error) {
	out, err := u.kubectl(ctx, "--kubeconfig", u.agentKubeconfig(), "--request-timeout=20s", "get", "--raw", "/version")
	if err != nil {
		return "", err
	}
	var info struct{ GitVersion string }
	return info.GitVersion, errors.Join(json.Unmarshal([]byte(out), &info), err)
}

package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	pollInterval  = 300 * time.Millisecond
	notice        = 10 * time.Second
	logLines      = 20
	stopLimit     = time.Minute
	commandsLimit = 30 * time.Second
)

// Installer installs one request.
type Installer struct {
	Request
	Program string // the kedge file that is running
	// What the configuration says.
	DataDir    string
	Kubeconfig string   // of the administrator; "" for an agent
	Configs    []string // the configuration's files
	// Completions are the scripts of shells, by their names.
	Completions map[string]string
	Out         io.Writer
}

// Run installs, starts the service and waits until the node is Ready.
func (i *Installer) Run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("an installation needs root: run it with sudo")
	}
	record, found, err := ReadRecord()
	if err != nil {
		return err
	}
	if found && (record.Name != i.Name || record.Role != i.Role) {
		return fmt.Errorf("this machine already runs a Kedge %s as the service %s: remove that first with kedge uninstall, or install with the same role and name", record.Role, record.Name)
	}
	if err := i.checkVersion(); err != nil {
		return err
	}
	s, err := findService(i.Name, i.SystemdDir)
	if err != nil {
		return err
	}
	record.Name, record.Role, record.SystemdDir, record.DataDir = i.Name, i.Role, i.SystemdDir, i.DataDir
	record.Mirror, record.Channel = i.Mirror, i.Channel
	if err := i.programs(&record); err != nil {
		return err
	}
	for _, f := range s.files(i.Request) {
		if err := i.write(&record, f); err != nil {
			return err
		}
	}
	if o, ok := s.(openrc); ok {
		record.add(o.logFile())
	}
	if i.Kubeconfig != "" {
		record.add(i.Kubeconfig)
	}
	if err := record.write(); err != nil {
		return err
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	if i.SkipEnable {
		i.say("service", s.String()+", not enabled")
		return nil
	}
	if err := s.enable(ctx); err != nil {
		return err
	}
	i.say("service", s.String()+", starts at boot")
	if i.SkipStart {
		i.say("start", "skipped")
		return nil
	}
	return i.start(ctx, s, &record)
}

// checkVersion refuses this program where a version has used the data that it
// can't follow.
func (i *Installer) checkVersion() error {
	for _, last := range versionStamps(i.DataDir) {
		if err := Follows(strings.TrimSpace(string(last)), version.Version); err != nil {
			return err
		}
	}
	return nil
}

func (i *Installer) say(what, text string) { fmt.Fprintf(i.Out, "  %-10s %s\n", what, text) }

// add notes a file that is the installation's.
func (r *Record) add(path string) {
	if !slices.Contains(r.Files, path) {
		r.Files = append(r.Files, path)
	}
}

// write writes one file that goes with the installation.
func (i *Installer) write(record *Record, f file) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	record.add(f.path)
	_, err := atomicfile.Update(f.path, []byte(f.content), f.mode)
	return err
}

// programs puts the program in its place, and links and scripts beside it.
func (i *Installer) programs(record *Record) error {
	if i.BinDir == "" {
		i.BinDir = "/usr/local/bin"
		if !i.BinDirReadOnly && !canWrite(i.BinDir) {
			i.BinDir = "/opt/bin"
		}
	}
	record.BinDir = i.BinDir
	target := filepath.Join(i.BinDir, "kedge")
	if i.BinDirReadOnly {
		if _, err := os.Stat(target); err != nil {
			return fmt.Errorf("--bin-dir-read-only: %w", err)
		}
		i.say("program", target+", as it is")
		return nil
	}
	if err := os.MkdirAll(i.BinDir, 0o755); err != nil {
		return err
	}
	if err := replace(i.Program, target); err != nil {
		return err
	}
	record.add(target)
	i.say("program", target)

	var links []string
	for _, name := range linked {
		made, err := i.link(filepath.Join(i.BinDir, name))
		if err != nil {
			return err
		}
		if made {
			record.add(filepath.Join(i.BinDir, name))
			links = append(links, name)
		}
	}
	if len(links) > 0 {
		i.say("links", strings.Join(links, ", "))
	}
	uninstall := i.Name + "-uninstall.sh"
	for name, command := range map[string]string{"kedge-killall.sh": "killall", uninstall: "uninstall"} {
		if err := i.write(record, file{filepath.Join(i.BinDir, name), script(i.BinDir, command), 0o755}); err != nil {
			return err
		}
	}
	i.say("scripts", "kedge-killall.sh, "+uninstall)
	i.complete(record)
	return nil
}

// completions are where shells look for the scripts of packages: beside what is there
// of the shell, the first that is.
var completions = []struct{ shell, there, file string }{
	{"bash", "/usr/share/bash-completion", "completions/kedge"},
	{"zsh", "/usr/share/zsh/vendor-completions", "_kedge"}, // Debian
	{"zsh", "/usr/share/zsh/site-functions", "_kedge"},
	{"fish", "/usr/share/fish", "vendor_completions.d/kedge.fish"},
}

// complete has the shells of this machine complete command lines. Nothing depends on
// it.
func (i *Installer) complete(record *Record) {
	var done []string
	for _, c := range completions {
		if info, err := os.Stat(c.there); err != nil || !info.IsDir() || slices.Contains(done, c.shell) {
			continue
		}
		if err := i.write(record, file{filepath.Join(c.there, c.file), i.Completions[c.shell], 0o644}); err == nil {
			done = append(done, c.shell)
		}
	}
	if len(done) > 0 {
		i.say("completion", strings.Join(done, ", "))
	}
}

func canWrite(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		err := unix.Access(dir, unix.W_OK)
		if !errors.Is(err, unix.ENOENT) {
			return err == nil
		}
	}
}

// linked are the commands that the program is by a link as well.
var linked = []string{"kubectl", "crictl", "ctr"}

func isLink(path string) bool {
	to, err := os.Readlink(path)
	return err == nil && to == "kedge"
}

// link makes a link to the program, unless the name means another program.
func (i *Installer) link(path string) (made bool, err error) {
	if isLink(path) {
		return true, nil
	}
	switch i.Symlink {
	case "skip":
		return false, nil
	case "force":
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	default:
		if other, err := exec.LookPath(filepath.Base(path)); err == nil {
			i.say("no link", filepath.Base(path)+": there is "+other)
			return false, nil
		}
		if _, err := os.Lstat(path); err == nil {
			return false, nil
		}
	}
	return true, os.Symlink("kedge", path)
}

// replace copies a program over another, at once: who starts it gets the one or
// the other, and whoever runs it goes on.
func replace(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	if a, err := source.Stat(); err == nil {
		if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	target, err := os.CreateTemp(filepath.Dir(to), ".kedge.*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(target.Name()) }() // which is gone when all went well
	_, err = io.Copy(target, source)
	err = errors.Join(err, target.Chmod(0o755), target.Sync(), target.Close())
	if err == nil {
		err = os.Rename(target.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("put the program at %s: %w", to, err)
	}
	return nil
}

// start starts the service when it does not run, or runs with something that has
// changed, and waits until the node is Ready.
func (i *Installer) start(ctx context.Context, s service, record *Record) error {
	applied, err := i.state(s)
	if err != nil {
		return err
	}
	program, err := sum(record.ProgramFile())
	if err != nil {
		return err
	}
	same := applied == record.Applied && program == record.Program && !i.ForceRestart
	now, err := s.status(ctx)
	if err != nil {
		return err
	}
	switch {
	case now == ready && same:
		i.say("start", "not needed: nothing has changed, and the node is Ready")
		return nil
	case now == starting && same:
		i.say("start", "under way")
	default:
		switch {
		case now == stopped:
			i.say("start", "now")
		case i.ForceRestart:
			i.say("restart", "as you wish; pods keep running")
		default:
			i.say("restart", "as something has changed; pods keep running")
		}
		if err := s.start(ctx); err != nil {
			return err
		}
		record.Applied, record.Program = applied, program
		if err := record.write(); err != nil {
			return err
		}
	}
	return waitReady(ctx, s, i.Timeout, i.Out)
}

// state is a hash of what a running service depends on beside the program.
func (i *Installer) state(s service) (string, error) {
	hash := sha256.New()
	for _, f := range s.files(i.Request) {
		fmt.Fprintf(hash, "%s\n%d\n%s", f.path, len(f.content), f.content)
	}
	for _, path := range i.Configs {
		content, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "\n%s\n", path)
		_, err = io.Copy(hash, content)
		_ = content.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// waitReady waits for the node, and tells what the service says meanwhile. When it
// does not get Ready the error ends with the log's last lines.
func waitReady(ctx context.Context, s service, limit time.Duration, out io.Writer) error {
	began := time.Now()
	last := began
	for {
		now, err := s.status(ctx)
		if err != nil {
			return err
		}
		why := ""
		switch now {
		case ready:
			fmt.Fprintf(out, "  %-10s after %.1f s\n", "node Ready", time.Since(began).Seconds())
			return nil
		case failing, stopped:
			// A moment ago it was told to start.
			if time.Since(began) > time.Second {
				why = "it ended"
			}
		}
		if time.Since(began) > limit {
			why = "the node is not Ready after " + limit.String()
		}
		if why != "" {
			fmt.Fprintf(out, "\nThe last lines of the service's log:\n\n%s\n", s.log(ctx, logLines))
			return fmt.Errorf("the service %s is not well: %s; it is tried again all the time; look with: %s", s, why, s.hint())
		}
		if time.Since(last) > notice {
			last = time.Now()
			fmt.Fprintf(out, "  %-10s %s\n", "waiting", message(s.log(ctx, 1)))
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("wait for the node to be Ready: %w", ctx.Err())
		}
	}
}

// message is a line of Kedge's log without what a person does not look for: the
// time and the level.
func message(line string) string {
	line = strings.TrimSpace(line)
	if f := strings.SplitN(line, " ", 2); len(f) == 2 && strings.HasSuffix(f[0], "Z") && strings.Contains(f[0], "T") {
		line = strings.TrimSpace(f[1])
		for _, level := range []string{"DEBUG", "INFO", "WARN", "ERROR"} {
			line = strings.TrimSpace(strings.TrimPrefix(line, level))
		}
	}
	const most = 100
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return line
}

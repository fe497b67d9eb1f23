//go:build labs

package labs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// shell is where a student types commands.
type shell struct {
	t    *testing.T
	host *testbed.Host
}

// home is the directory of the student's files.
const home = "/var/lib/home"

func newShell(t *testing.T, host *testbed.Host) shell {
	t.Helper()
	if err := os.MkdirAll(host.Path(home), 0o755); err != nil {
		t.Fatal(err)
	}
	return shell{t: t, host: host}
}

func (s shell) command(ctx context.Context, line string) *exec.Cmd {
	cmd := s.host.Command(ctx, "bash", "-c", line)
	cmd.Dir = home
	cmd.Env = append(cmd.Env, "TERM=dumb")
	return cmd
}

// try runs a command line and returns what the student sees.
func (s shell) try(line string) (string, error) {
	// Longer than kubectl is told to wait: it says more about why.
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*limit)
	defer cancel()
	cmd := s.command(ctx, line)
	var screen bytes.Buffer
	cmd.Stdout, cmd.Stderr = &screen, &screen
	if err := s.host.StartCommand(cmd); err != nil {
		s.t.Fatal(err)
	}
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", err, ctx.Err())
	}
	return strings.TrimRight(screen.String(), "\n"), err
}

// run runs a command line that has to succeed, and to show the words.
func (s shell) run(line string, words ...string) string {
	s.t.Helper()
	out, err := s.try(line)
	if err != nil {
		s.t.Fatalf("$ %s\n%s\n(%v)", line, out, err)
	}
	if lacks := missing(out, words); lacks != "" {
		s.t.Errorf("$ %s\n%s\n(lacks %s)", line, out, lacks)
	}
	return out
}

// refused runs a command line that has to fail, and to show the words.
func (s shell) refused(line string, words ...string) string {
	s.t.Helper()
	out, err := s.try(line)
	if err == nil {
		s.t.Errorf("$ %s\n%s\n(succeeded)", line, out)
	}
	if lacks := missing(out, words); lacks != "" {
		s.t.Errorf("$ %s\n%s\n(lacks %s)", line, out, lacks)
	}
	return out
}

// see repeats a command line until it succeeds and shows the words.
func (s shell) see(line string, words ...string) string {
	s.t.Helper()
	var seen string
	err := testbed.Wait(s.t.Context(), fmt.Sprintf("%q", words), limit, func(context.Context) (bool, string) {
		out, err := s.try(line)
		seen = out
		return err == nil && missing(out, words) == "", fmt.Sprintf("%s (%v)", out, err)
	})
	if err != nil {
		s.t.Fatalf("$ %s\n%v", line, err)
	}
	return seen
}

// unseen repeats a command line until it doesn't show the words.
func (s shell) unseen(line string, word string) {
	s.t.Helper()
	err := testbed.Wait(s.t.Context(), fmt.Sprintf("no %q", word), limit, func(context.Context) (bool, string) {
		out, err := s.try(line)
		return err == nil && !strings.Contains(out, word), fmt.Sprintf("%s (%v)", out, err)
	})
	if err != nil {
		s.t.Fatalf("$ %s\n%v", line, err)
	}
}

// file has an editor write a file in the student's directory. Tabs stand for the
// two spaces of YAML.
func (s shell) file(name, content string) {
	s.t.Helper()
	put(s.t, s.host, filepath.Join(home, name), strings.ReplaceAll(content, "\t", "  "))
}

// session is a command that runs on a terminal of its own, until it ends or the
// test does.
type session struct {
	s        shell
	line     string
	terminal *os.File
	screen   chan string
	seen     string
	ended    chan error
}

// open starts a command line on a terminal.
func (s shell) open(line string) *session {
	s.t.Helper()
	person, program, err := openTerminal()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.command(ctx, "exec "+line)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	err = s.host.StartCommand(cmd)
	_ = program.Close()
	if err != nil {
		cancel()
		_ = person.Close()
		s.t.Fatal(err)
	}
	o := &session{s: s, line: line, terminal: person, screen: make(chan string), ended: make(chan error, 1)}
	go func() {
		o.ended <- cmd.Wait()
	}()
	go func() {
		defer close(o.screen)
		buffer := make([]byte, 4096)
		for {
			n, err := person.Read(buffer)
			select {
			case o.screen <- string(buffer[:n]):
			case <-ctx.Done():
			}
			if err != nil {
				return // the other end is closed
			}
		}
	}()
	s.t.Cleanup(func() {
		cancel()
		_ = person.Close()
	})
	return o
}

// expect waits until the terminal shows what matches a pattern, after what was
// expected before.
func (o *session) expect(pattern string) {
	o.s.t.Helper()
	wanted, timeout := regexp.MustCompile(pattern), time.After(limit)
	for !wanted.MatchString(o.seen) {
		select {
		case more, ok := <-o.screen:
			if !ok {
				o.s.t.Fatalf("$ %s\nended before it showed %q; seen: %q", o.line, pattern, o.seen)
			}
			o.seen += more
		case <-timeout:
			o.s.t.Fatalf("$ %s\nwaited %s for %q; seen: %q", o.line, limit, pattern, o.seen)
		}
	}
	o.seen = o.seen[wanted.FindStringIndex(o.seen)[1]:]
}

// send types a line.
func (o *session) send(line string) {
	o.s.t.Helper()
	if _, err := o.terminal.WriteString(line + "\r"); err != nil {
		o.s.t.Fatal(err)
	}
}

// interrupt presses Ctrl-C and waits for the end.
func (o *session) interrupt() {
	o.s.t.Helper()
	if _, err := o.terminal.WriteString("\x03"); err != nil {
		o.s.t.Fatal(err)
	}
	_ = o.end()
}

// end waits until the command ends.
func (o *session) end() error {
	o.s.t.Helper()
	screen, timeout := o.screen, time.After(limit)
	for {
		select {
		case _, ok := <-screen: // nobody looks any more
			if !ok {
				screen = nil
			}
		case err := <-o.ended:
			return err
		case <-timeout:
			o.s.t.Fatalf("$ %s\ndoesn't end", o.line)
		}
	}
}

// openTerminal returns the two ends of a new terminal.
func openTerminal() (person, program *os.File, err error) {
	person, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = person.Close()
		}
	}()
	fd := int(person.Fd())
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200}); err != nil {
		return nil, nil, err
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return person, program, err
}

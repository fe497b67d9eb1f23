package crictl

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExec(t *testing.T) {
	_, socket := startFake(t)
	for _, test := range []struct {
		args, input string
		want        result
	}{
		{"exec 1111 ls -l", "", result{"1111aaaaaaaaa: ls -l\n", "", 0}},
		{"exec 1111 -- ls -l", "", result{"1111aaaaaaaaa: ls -l\n", "", 0}},
		{"exec -i 1122 cat", "from here", result{"from here", "", 0}},
		{"exec 1111 fail", "", result{"", "it fails\ncrictl: command terminated with exit code 7\n", 7}},
		{"exec -s --timeout 9 1111 make", "", result{"make 9\n", "warning\ncrictl: command terminated with exit code 4\n", 4}},
		{"exec --timeout 1 1111 sleep", "", result{"", "crictl: the command has not ended in 1s\n", 1}},
		{"attach 1122", "", result{"attached to 1122bbbbbbbbb\n", "", 0}},
		{"attach -i 1122", "words", result{"attached to 1122bbbbbbbbb\nwords", "", 0}},
	} {
		if got := crictlIn(t, socket, test.input, strings.Fields(test.args)...); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.args, got, test.want)
		}
	}
}

func TestPortForward(t *testing.T) {
	_, socket := startFake(t)
	isolate(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reader, writer := io.Pipe()
	var errOut bytes.Buffer
	done := make(chan int)
	go func() {
		code := Run(ctx, []string{"-c", os.DevNull, "-r", socket, "port-forward", "aaaa", "0:8080"}, nil, writer, &errOut)
		_ = writer.Close()
		done <- code
	}()
	lines := bufio.NewReader(reader)
	line, err := lines.ReadString('\n')
	local := regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> 8080\n$`).FindStringSubmatch(line)
	if local == nil {
		t.Fatalf("it says %q, %v; %s", line, err, errOut.String())
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	connection, err := net.Dial("tcp", "127.0.0.1:"+local[1])
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(connection)
	if want := "port 8080 of aaaa111111111"; err != nil || string(answer) != want {
		t.Errorf("the port answers %q, %v, want %q", answer, err, want)
	}
	_ = connection.Close()
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

const logText = `2026-01-02T10:00:00.000000001Z stdout F one
2026-01-02T10:00:01.000000001Z stderr F two
2026-01-02T10:00:02.000000001Z stdout P thr
2026-01-02T10:00:02.000000002Z stdout F ee
2026-01-02T10:00:03.000000001Z stdout F four
`

func TestLogs(t *testing.T) {
	f, socket := startFake(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.log"), logText)
	write(t, filepath.Join(dir, "0.log"), "2026-01-02T09:00:00Z stdout F before\n")
	f.logs[ticker] = filepath.Join(dir, "1.log")
	f.logs[ended] = filepath.Join(dir, "gone", "2.log")
	f.logs[httpd] = filepath.Join(dir, "0.log")
	for _, test := range []struct {
		args string
		want result
	}{
		{"logs 1122", result{"one\nthree\nfour\n", "two\n", 0}},
		{"logs --tail 1 1122", result{"four\n", "", 0}},
		{"logs --tail 0 1122", result{"", "", 0}},
		{"logs --since 2026-01-02T10:00:02Z 1122", result{"three\nfour\n", "", 0}},
		{"logs --limit-bytes 6 1122", result{"one\n", "tw", 0}},
		{"logs -t --tail 1 1122", result{"2026-01-02T10:00:03.000000001Z four\n", "", 0}},
		{"logs -p 1122", result{"before\n", "", 0}},
		{"logs -p 1111", result{"", "crictl: container 1111aaaaaaaaa is the first httpd of its pod\n", 1}},
		{"logs 3333", result{"", "crictl: the log " + filepath.Join(dir, "gone", "2.log") + " is gone\n", 1}},
		{"logs -f 3333", result{"", "crictl: the log " + filepath.Join(dir, "gone", "2.log") + " is gone\n", 1}},
	} {
		if got := crictl(t, socket, strings.Fields(test.args)...); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.args, got, test.want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A log is followed into the file that takes its place when it is rotated, and
// until the container ends.
func TestFollowLog(t *testing.T) {
	f, socket := startFake(t)
	isolate(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	write(t, path, "2026-01-02T10:00:00Z stdout F one\n")
	f.logs[httpd] = path
	f.asked = make(chan struct{}, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reader, writer := io.Pipe()
	var errOut bytes.Buffer
	done := make(chan int)
	go func() {
		code := Run(ctx, []string{"-c", os.DevNull, "-r", socket, "logs", "-f", "1111"}, nil, writer, &errOut)
		_ = writer.Close()
		done <- code
	}()
	lines := bufio.NewReader(reader)
	expect := func(want string) {
		t.Helper()
		if line, err := lines.ReadString('\n'); err != nil || line != want+"\n" {
			t.Fatalf("the log goes on with %q, %v, want %q; %s", line, err, want, errOut.String())
		}
	}
	expect("one")
	log, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(log, "2026-01-02T10:00:01Z stdout F two\n")
	_ = log.Close()
	expect("two")
	// A file that comes before the directory is watched is not seen. Whether the
	// container runs is asked first for the path, and then once it is watched.
	for range 2 {
		select {
		case <-f.asked:
		case <-ctx.Done():
			t.Fatal("the runtime is not asked whether the container runs")
		}
	}
	write(t, path+".new", "2026-01-02T10:00:02Z stdout F three\n")
	if err := os.Rename(path, path+".20260102-100002"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	expect("three")
	f.mu.Lock()
	for _, c := range f.containers {
		c.State = runtime.ContainerState_CONTAINER_EXITED
	}
	f.mu.Unlock()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("the log ends with %q, %v", rest, err)
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

func TestFollowUntilCancelled(t *testing.T) {
	f, socket := startFake(t)
	isolate(t)
	f.logs[httpd] = filepath.Join(t.TempDir(), "0.log")
	write(t, f.logs[httpd], "2026-01-02T10:00:00Z stdout F one\n")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var errOut bytes.Buffer
	out := writerFunc(func(text []byte) { cancel() })
	if code := Run(ctx, []string{"-c", os.DevNull, "-r", socket, "logs", "-f", "1111"}, nil, out, &errOut); code != 0 || errOut.Len() > 0 {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(text []byte) (int, error) {
	f(text)
	return len(text), nil
}

func TestParseSince(t *testing.T) {
	zone := time.FixedZone("here", 3600)
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"":                     {},
		"42m":                  now.Add(-42 * time.Minute),
		"2026-01-02T10:30:00Z": time.Date(2026, 1, 2, 10, 30, 0, 0, time.UTC),
		"2026-01-02T10:30:05":  time.Date(2026, 1, 2, 10, 30, 5, 0, zone),
		"2026-01-02T10:30":     time.Date(2026, 1, 2, 10, 30, 0, 0, zone),
		"2026-01-02":           time.Date(2026, 1, 2, 0, 0, 0, 0, zone),
		"1767348000.5":         time.Unix(1767348000, 5e8),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}

// Watching measures between the tables, until it is ended.
func TestWatchStats(t *testing.T) {
	_, socket := startFake(t)
	isolate(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var text, errOut bytes.Buffer
	out := writerFunc(func(part []byte) {
		text.Write(part)
		if bytes.Count(text.Bytes(), []byte("\033[2J")) == 2 && bytes.HasSuffix(part, []byte("\n")) {
			cancel()
		}
	})
	if code := Run(ctx, []string{"-c", os.DevNull, "-r", socket, "stats", "-w", "1111"}, nil, out, &errOut); code != 0 {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
	if n := strings.Count(text.String(), "httpd               50.00 "); n != 2 {
		t.Errorf("%d tables of two:\n%s", n, text.String())
	}
}

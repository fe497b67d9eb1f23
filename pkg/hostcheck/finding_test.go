package hostcheck

import (
	"errors"
	"strings"
	"testing"
)

func TestPrint(t *testing.T) {
	findings := []Finding{
		{Group: "Kernel", Name: "version", Level: OK, Detail: "6.1.0"},
		{Group: "Kernel", Name: "vxlan", Level: Failure, Detail: "the kernel has no vxlan", Fix: "modprobe vxlan\nreboot"},
		{Group: "Ports", Name: "6443 API server", Level: Warning, Detail: "hm", Fix: "kill 1"},
		{Group: "Ports", Name: "10250 kubelet", Level: Unknown, Detail: "who knows"},
	}
	const want = `Kernel
  ok       version          6.1.0
  FAILURE  vxlan            the kernel has no vxlan
           fix: modprobe vxlan
                reboot

Ports
  warning  6443 API server  hm
           fix: kill 1
  unknown  10250 kubelet    who knows

1 ok, 1 unknown, 1 warning, 1 failure. Kedge can't run here until what failed is fixed.
`
	var b strings.Builder
	if err := Print(&b, findings, false); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}

	var coloured strings.Builder
	if err := Print(&coloured, findings, true); err != nil {
		t.Fatal(err)
	}
	plain := coloured.String()
	for _, c := range colours {
		plain = strings.ReplaceAll(plain, c, "")
	}
	plain = strings.ReplaceAll(plain, "\x1b[0m", "")
	if plain == coloured.String() || plain != want {
		t.Errorf("in colour, without the colour:\n%s\nwant:\n%s", plain, want)
	}
}

func TestPrintSummary(t *testing.T) {
	for level, want := range map[Level]string{
		OK:      "1 ok, 0 unknown, 0 warnings, 0 failures. Kedge can run here.",
		Unknown: "0 ok, 1 unknown, 0 warnings, 0 failures. Nothing found that stops Kedge, but not all could be found out.",
		Warning: "0 ok, 0 unknown, 1 warning, 0 failures. Kedge can run here.",
		Failure: "0 ok, 0 unknown, 0 warnings, 1 failure. Kedge can't run here until what failed is fixed.",
	} {
		if got := summary([]Finding{{Level: level}}); got != want {
			t.Errorf("%v: got %q, want %q", level, got, want)
		}
	}
	if got := summary(nil); got != "Nothing was checked." {
		t.Errorf("nothing: got %q", got)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestPrintWriteError(t *testing.T) {
	if err := Print(brokenWriter{}, nil, false); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestFindingErr(t *testing.T) {
	if err := (Finding{Level: Warning, Detail: "a", Fix: "b"}).Err(); err != nil {
		t.Errorf("a warning is the error %v", err)
	}
	if err := (Finding{Level: Failure, Detail: "it is off", Fix: "switch it on"}).Err(); err == nil || err.Error() != "it is off: switch it on" {
		t.Errorf("a failure is the error %v", err)
	}
}

func TestWorst(t *testing.T) {
	if got := Worst(nil); got != OK {
		t.Errorf("of nothing: %v", got)
	}
	if got := Worst([]Finding{{Level: Unknown}, {Level: Failure}, {Level: Warning}}); got != Failure {
		t.Errorf("got %v", got)
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[uint64]string{
		512 << 10: "512 KiB", 300 << 20: "300 MiB", 2 << 30: "2.0 GiB", 1<<30 + 1<<29: "1.5 GiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d: got %q, want %q", bytes, got, want)
		}
	}
}

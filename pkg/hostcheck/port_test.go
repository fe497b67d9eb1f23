package hostcheck

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

const tcpHeading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// busyMachine has nginx on 0.0.0.0:6443, a hidden process on 127.0.0.1:10250, java
// on [::1]:9443, and a connection (not a listener) on port 10256.
func busyMachine(t *testing.T) Host {
	return machine(t, map[string]string{
		"/proc/net/tcp": tcpHeading +
			"   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n" +
			"   1: 0100007F:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0\n" +
			"   2: 0100007F:2810 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0\n",
		"/proc/net/tcp6": tcpHeading +
			"   0: 00000000000000000000000001000000:24E3 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0\n",
		"/proc/1/comm":    "systemd\n",
		"/proc/1/fd/0":    "-> /dev/null",
		"/proc/123/comm":  "nginx\n",
		"/proc/123/fd/0":  "-> /dev/null",
		"/proc/123/fd/6":  "-> socket:[4711]",
		"/proc/99/comm":   "java\n",
		"/proc/99/fd/3":   "-> socket:[4714]",
		"/proc/sys/x":     "",
		"/proc/124/stray": "",
	})
}

func TestPortHolder(t *testing.T) {
	h := busyMachine(t)
	for _, c := range []struct {
		port    int
		pid     int
		process string
		ok      bool
	}{
		{6443, 123, "nginx", true},
		{10250, 0, "", true},
		{9443, 99, "java", true},
		{10256, 0, "", false},
		{80, 0, "", false},
	} {
		pid, process, ok := h.PortHolder(c.port)
		if pid != c.pid || process != c.process || ok != c.ok {
			t.Errorf("port %d: got %d %q %v, want %d %q %v", c.port, pid, process, ok, c.pid, c.process, c.ok)
		}
	}
}

func TestCheckPortMadeUp(t *testing.T) {
	h := busyMachine(t)
	for _, c := range []struct {
		host   string
		port   int
		option string
		want   string
	}{
		{"0.0.0.0", 6443, "--https-listen-port", `port 6443 on 0.0.0.0 is in use by process "nginx" (pid 123); stop it or choose another with --https-listen-port`},
		{"192.0.2.1", 6443, "", `port 6443 on 192.0.2.1 is in use by process "nginx" (pid 123); stop it`},
		{"", 10250, "", `port 10250 on any address is in use by a process that can't be seen from here; stop it`},
		{"127.0.0.1", 10250, "--x", `port 10250 on 127.0.0.1 is in use by a process that can't be seen from here; stop it or choose another with --x`},
		{"192.0.2.1", 10250, "", ""},
		{"::1", 9443, "", `port 9443 on ::1 is in use by process "java" (pid 99); stop it`},
		{"127.0.0.1", 9443, "", ""},
		{"0.0.0.0", 10256, "", ""},
	} {
		err := h.CheckPort(t.Context(), c.host, c.port, c.option)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s:%d: got %q, want %q", c.host, c.port, got, c.want)
		}
	}
}

func TestCheckPort(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ listen, check string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"127.0.0.1:0", "0.0.0.0"},
		{"0.0.0.0:0", "127.0.0.1"},
		{"[::]:0", "0.0.0.0"},
		{"[::1]:0", ""},
	} {
		t.Run(c.listen+" "+c.check, func(t *testing.T) {
			l, err := net.Listen("tcp", c.listen)
			if err != nil {
				t.Skip(err)
			}
			port := l.Addr().(*net.TCPAddr).Port
			err = Host{}.CheckPort(t.Context(), c.check, port, "--option")
			var inUse *PortInUseError
			if !errors.As(err, &inUse) {
				t.Fatalf("got error %v", err)
			}
			if inUse.PID != os.Getpid() || inUse.Process != strings.TrimSpace(string(comm)) {
				t.Errorf("held by %q, pid %d; it is %q, pid %d", inUse.Process, inUse.PID, comm, os.Getpid())
			}
			if pid, _, ok := (Host{}).PortHolder(port); !ok || pid != os.Getpid() {
				t.Errorf("PortHolder: pid %d, %v", pid, ok)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := (Host{}).CheckPort(t.Context(), c.check, port, "--option"); err != nil {
				t.Errorf("after it was closed: %v", err)
			}
			if _, _, ok := (Host{}).PortHolder(port); ok {
				t.Error("after it was closed, PortHolder still finds one")
			}
		})
	}
}

func TestCheckPortOtherAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	port := l.Addr().(*net.TCPAddr).Port
	if err := (Host{}).CheckPort(t.Context(), "127.0.0.2", port, ""); err != nil {
		t.Errorf("port %d is free on 127.0.0.2, but: %v", port, err)
	}
}

func TestCheckPortFails(t *testing.T) {
	err := Host{}.CheckPort(t.Context(), "192.0.2.1", 6443, "")
	if err == nil || err.Error() != "listen on 192.0.2.1: this machine has no such address" {
		t.Errorf("an address of another machine: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Host{}).CheckPort(ctx, "localhost", 0, ""); err == nil {
		t.Error("no error although the context is over")
	}
}

func TestParseSocketAddr(t *testing.T) {
	for s, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0016":                         "0.0.0.0:22",
		"B80D01200000000067452301EFCDAB89:01BB": "[2001:db8::123:4567:89ab:cdef]:443",
		"0000000000000000FFFF00000100007F:0050": "[::ffff:127.0.0.1]:80",
	} {
		got, err := parseSocketAddr(s)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0100007F", "0100:50", "zz00007F:0050", "0100007F:zz", "0100007F:12345"} {
		if got, err := parseSocketAddr(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"0.0.0.0", "10.0.0.1", true},
		{"10.0.0.1", "::", true},
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"fe80::1%eth0", "fe80::1", true},
		{"::1", "127.0.0.1", false},
	} {
		if got := overlap(netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)); got != c.want {
			t.Errorf("%s and %s: got %v", c.a, c.b, got)
		}
	}
}

func TestPortInUseErrorQuotesNames(t *testing.T) {
	err := &PortInUseError{Host: "::", Port: 1, PID: 2, Process: "\x1b[31mevil"}
	if strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), strconv.Quote(err.Process)) {
		t.Errorf("got %q", err.Error())
	}
}

package notify

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSocket(t *testing.T) {
	for name, address := range map[string]string{
		"a path":           filepath.Join(t.TempDir(), "notify"),
		"an abstract name": "@kedge-notify-test",
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			for want, tell := range map[string]func() error{"READY=1\n": Socket(address).Ready, "STOPPING=1\n": Socket(address).Stopping} {
				if err := tell(); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 1000)
				_ = listener.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, err := listener.Read(buf)
				if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
					t.Errorf("got %q, error %v, want %q", buf[:n], err, want)
				}
			}
		})
	}
}

func TestNobody(t *testing.T) {
	if err := Socket("").Ready(); err != nil {
		t.Error(err)
	}
	if err := Socket(filepath.Join(t.TempDir(), "none")).Ready(); err == nil {
		t.Error("a socket that isn't there took a message")
	}
}

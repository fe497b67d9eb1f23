package loadbalancer

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A peer that is cut off is noticed on an idle connection after 5+2+2 s, and
// with data under way after 8 s. It takes packets of the kernel alone. The
// health checks see the same, but for the server as a whole: what lies between
// may have forgotten a single connection.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 2}

const userTimeout = 8 * time.Second

// tune sets the options of a connection to a server.
func tune(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := tcp.SetKeepAliveConfig(keepAlive); err != nil {
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); err != nil {
		return err
	}
	return failed
}

// pass moves bytes both ways until both sides are done, one fails or ctx ends,
// and closes both.
func pass(ctx context.Context, a, b net.Conn) {
	closeBoth := func() {
		_ = a.Close()
		_ = b.Close()
	}
	defer closeBoth()
	defer context.AfterFunc(ctx, closeBoth)()
	var wg sync.WaitGroup
	wg.Go(func() { send(b, a, closeBoth) })
	send(a, b, closeBoth)
	wg.Wait()
}

// send moves bytes one way, and passes on the end: a client that has sent all
// may still be waiting for its answer.
func send(to, from net.Conn, fail func()) {
	// Between two TCP connections io.Copy splices.
	if _, err := io.Copy(to, from); err != nil {
		fail()
		return
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		fail()
	}
}

package tunnel

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// A log arrives line by line, each as soon as it is written.
func TestLog(t *testing.T) {
	r := newRig(t, nil)
	r.agent(nil)
	next := make(chan int)
	conn := r.tunneled(target(t, func(c *net.TCPConn) {
		for i := range next {
			fmt.Fprintf(c, "line %d\n", i)
		}
	}))
	log := bufio.NewScanner(conn)
	for i := range 200 {
		next <- i
		if !within(t, "a line", log.Scan) || log.Text() != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q, %v", i, log.Text(), log.Err())
		}
	}
	close(next)
	if within(t, "the log's end", log.Scan) || log.Err() != nil {
		t.Fatalf("after the last line: %q, %v", log.Text(), log.Err())
	}
}

// An exec goes both ways, and what is written right before the end arrives.
func TestExec(t *testing.T) {
	r := newRig(t, func(t *timing) { t.linger = time.Minute })
	r.agent(nil)
	rest, failed, closed := make(chan int64, 1), make(chan error, 1), make(chan struct{})
	conn := r.tunneled(target(t, func(c *net.TCPConn) {
		in := bufio.NewReader(c)
		for {
			line, err := in.ReadString('\n')
			if line == "exit\n" {
				go func() { _, _ = io.Copy(c, zeros{}) }() // it has something to say, too
				<-closed
				n, err := io.Copy(io.Discard, in)
				rest <- n
				failed <- err
				return
			}
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, strings.ToUpper(line))
		}
	}))
	out := bufio.NewReader(conn)
	for i := range 100 {
		fmt.Fprintf(conn, "echo %d\n", i)
		line := within(t, "output", func() string { s, _ := out.ReadString('\n'); return s })
		if want := fmt.Sprintf("ECHO %d\n", i); line != want {
			t.Fatalf("got %q, want %q", line, want)
		}
	}
	fmt.Fprint(conn, "exit\n")
	var sent int64
	for err := error(nil); err == nil; { // until all on the way is full
		var n int
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err = conn.Write(make([]byte, 64<<10))
		sent += int64(n)
	}
	_, _ = io.CopyN(io.Discard, conn, 4<<20)
	_ = conn.Close()
	close(closed)
	if got := within(t, "the end", func() int64 { return <-rest }); got != sent {
		t.Errorf("of the last %d bytes, %d arrive", sent, got)
	}
	if err := <-failed; err != nil {
		t.Errorf("and then %v", err)
	}
}

// Many streams of 10 MB in both directions at a time stay intact.
func TestParallelStreams(t *testing.T) {
	const streams, size = 16, 10 << 20
	r := newRig(t, nil)
	r.agent(nil)
	address := target(t, echo)
	var all sync.WaitGroup
	for i := range streams {
		conn := r.tunneled(address)
		all.Go(func() {
			var seed [32]byte
			seed[0] = byte(i)
			var there sync.WaitGroup
			sent := sha256.New()
			there.Go(func() {
				if _, err := io.Copy(conn, io.TeeReader(io.LimitReader(mathrand.NewChaCha8(seed), size), sent)); err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
			})
			back := sha256.New()
			_, err := io.CopyN(back, conn, size)
			there.Wait()
			if err != nil || !bytes.Equal(sent.Sum(nil), back.Sum(nil)) {
				t.Errorf("stream %d does not come back as sent: %v", i, err)
			}
		})
	}
	all.Wait()
}

// Streams that nobody reads, at either side, fill their windows and hold up no
// other. Their windows together are more than the largest that net/http
// promises to a connection, 4 MiB.
func TestSlowReaders(t *testing.T) {
	const streams = 40
	r := newRig(t, nil)
	r.agent(nil)
	floods, deaf := target(t, flood), silent(t)
	var filling sync.WaitGroup
	for range streams {
		r.tunneled(floods)
		upload := r.tunneled(deaf)
		filling.Go(func() {
			// Until nothing has moved for a while.
			for err := error(nil); err == nil; {
				_ = upload.SetWriteDeadline(time.Now().Add(time.Second))
				_, err = upload.Write(make([]byte, 64<<10))
			}
		})
	}
	filling.Wait()
	conn := r.tunneled(target(t, echo))
	message := bytes.Repeat([]byte("ok"), 1<<20)
	go func() { _, _ = conn.Write(message) }()
	got := make([]byte, len(message))
	_, err := within2(t, "a stream beside slow ones", func() (int, error) { return io.ReadFull(conn, got) })
	if err != nil || !bytes.Equal(got, message) {
		t.Errorf("a stream beside slow ones: %v", err)
	}
}

// The target's end of a stream ends it, with what it wrote before.
func TestTargetEnds(t *testing.T) {
	r := newRig(t, nil)
	r.agent(nil)
	t.Run("in order", func(t *testing.T) {
		conn := r.tunneled(target(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("all")) }))
		text, err := io.ReadAll(conn)
		if string(text) != "all" || err != nil {
			t.Errorf("read %q, %v", text, err)
		}
		within(t, "writing to it", func() any { _, _ = io.CopyN(conn, zeros{}, 1<<20); return nil })
	})
	t.Run("by a reset", func(t *testing.T) {
		conn := r.tunneled(target(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("part"))
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		}))
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a reset is read as %v", err)
		}
	})
	t.Run("while the caller still writes", func(t *testing.T) {
		conn := r.tunneled(target(t, func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.CopyN(c, zeros{}, 256<<10) // which a window holds
		}))
		within(t, "writing without reading", func() any { _, _ = io.CopyN(conn, zeros{}, 16<<20); return nil })
	})
}

// A target that does not end when its stream is closed is cut off after a while.
func TestTargetStays(t *testing.T) {
	r := newRig(t, func(t *timing) { t.linger = 10 * time.Millisecond })
	a := r.agent(nil)
	left := make(chan struct{})
	conn := r.tunneled(target(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1)) // the end
		for err := error(nil); err == nil; {
			_, err = c.Read(make([]byte, 1))
			if errors.Is(err, io.EOF) {
				// The end is all that a half-closed connection says; a write tells.
				time.Sleep(time.Millisecond)
				_, err = c.Write([]byte("x"))
			}
		}
		close(left)
	}))
	quiet := r.tunneled(silent(t))
	_ = conn.Close()
	_ = quiet.Close()
	within(t, "the target", func() any { <-left; return nil })
	eventually(t, "no streams", func() bool { return r.session("n1").conn.InFlight() == 0 })
	a.stop() // ends although the quiet target is still there
}

// A stream behaves as a network connection: deadlines, closing, concurrent use.
func TestConn(t *testing.T) {
	r := newRig(t, nil)
	r.agent(nil)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		accepted := make(chan net.Conn, 1)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		go func() { c, _ := l.Accept(); accepted <- c }()
		if c1, err = r.dial(l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		c2 = <-accepted
		return c1, c2, func() { _ = c1.Close(); _ = c2.Close(); _ = l.Close() }, nil
	})
}

func TestClosedStream(t *testing.T) {
	r := newRig(t, nil)
	r.agent(nil)
	address := target(t, sink)
	conn := r.tunneled(address)
	if got := conn.RemoteAddr().String(); got != address {
		t.Errorf("the remote address is %s, not %s", got, address)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	_ = conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed stream: %v", err)
	}
	if _, err := conn.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a closed stream: %v", err)
	}
}

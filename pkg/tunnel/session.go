package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// maxAnswer is how much of an agent's explanation is read.
const maxAnswer = 1 << 10

// answerError is an agent's refusal or failure to connect: the tunnel itself works.
type answerError string

func (e answerError) Error() string { return string(e) }

// session is the server's end of a tunnel.
type session struct {
	node   string
	socket *socket
	conn   *http.ClientConn
	timing timing
}

func newSession(ctx context.Context, node string, s *socket, t timing) (*session, error) {
	transport := &http.Transport{
		Protocols:          http2Only(),
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return s, nil },
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: downloadWindow,
			SendPingTimeout:           t.serverIdle,
			PingTimeout:               t.pingTimeout,
			WriteByteTimeout:          t.serverIdle + t.pingTimeout,
		},
	}
	conn, err := transport.NewClientConn(ctx, "http", net.JoinHostPort(node, "80"))
	if err != nil {
		return nil, fmt.Errorf("open tunnel of node %s: %w", node, err)
	}
	return &session{node: node, socket: s, conn: conn, timing: t}, nil
}

// close ends the tunnel and all its streams.
func (s *session) close() { _ = s.socket.Close() }

// dial asks the agent to connect to target. An answerError is the agent's word;
// any other error is the tunnel's.
func (s *session) dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	ctx, cancelDial := context.WithTimeout(ctx, s.timing.tunnelDial)
	defer cancelDial()
	// The request lasts as long as the stream, beyond the dial.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)

	local, remote := net.Pipe()
	abandon := func() {
		cancel()
		_ = local.Close()
		_ = remote.Close()
	}
	request := &http.Request{
		Method:        http.MethodConnect,
		URL:           &url.URL{Scheme: "http", Host: target.String()},
		Header:        http.Header{},
		Body:          &upload{pipe: remote},
		ContentLength: -1,
	}
	response, err := s.conn.RoundTrip(request.WithContext(streamCtx))
	if err == nil && response.StatusCode != http.StatusOK {
		err = answer(response)
	}
	if !stop() || err != nil {
		abandon()
		if response != nil {
			_ = response.Body.Close()
		}
		if cause := ctx.Err(); cause != nil {
			err = fmt.Errorf("no answer: %w", cause)
		}
		return nil, fmt.Errorf("connect to %s through the tunnel of node %s: %w", target, s.node, err)
	}
	opened := &stream{Conn: local, node: s.node, target: target, linger: s.timing.linger, cancel: cancel}
	go opened.download(response.Body, remote)
	return opened, nil
}

// answer is what an agent says that does not connect.
func answer(r *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return err
	}
	return answerError(strings.TrimSpace(string(text)))
}

package crictl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kedge-k8s/kedge/pkg/log"
)

// maxMessage is the longest answer, as for the kubelet: lists of a node with
// many containers are longer than gRPC's default allows.
const maxMessage = 16 << 20

// cri is the container runtime interface.
type cri struct {
	runtime.RuntimeServiceClient
	runtime.ImageServiceClient
}

func (t *tool) connect(ctx context.Context) error {
	s, err := t.options.settings()
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if s.debug {
		level = slog.LevelDebug
	}
	caller := caller{timeout: s.timeout, log: slog.New(log.NewHandler(t.errOut, level))}
	runtimeConnection, err := t.dial(ctx, s.runtime, caller)
	if err != nil {
		return err
	}
	imageConnection := runtimeConnection
	if s.image != s.runtime {
		if imageConnection, err = t.dial(ctx, s.image, caller); err != nil {
			return err
		}
	}
	t.cri = cri{runtime.NewRuntimeServiceClient(runtimeConnection), runtime.NewImageServiceClient(imageConnection)}
	return nil
}

func (t *tool) disconnect() {
	for _, connection := range t.connections {
		_ = connection.Close()
	}
}

func (t *tool) dial(ctx context.Context, endpoint string, caller caller) (*grpc.ClientConn, error) {
	socket, err := socketOf(endpoint)
	if err != nil {
		return nil, err
	}
	caller.socket = socket
	// gRPC connects at the first call and wraps the reason into many words. A
	// connection made here tells why there is none.
	trial, err := (&net.Dialer{Timeout: caller.timeout}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, dialError(socket, err)
	}
	_ = trial.Close()
	connection, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(caller.call),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	t.connections = append(t.connections, connection)
	return connection, nil
}

// socketOf is the path in an endpoint: unix:///run/x.sock or /run/x.sock.
func socketOf(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the endpoint %q is not a socket such as %s", endpoint, DefaultEndpoint)
	}
	return filepath.Clean(path), nil
}

func dialError(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not use the container runtime at %s: use sudo", socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no container runtime answers at %s: is kedge running? (start it with kedge server, or name another with --runtime-endpoint)", socket)
	}
	return fmt.Errorf("no container runtime answers at %s: %w", socket, err)
}

// caller makes the calls to one socket.
type caller struct {
	socket  string
	timeout time.Duration
	log     *slog.Logger
}

// call is a gRPC interceptor: it limits the time of a call, and puts what goes
// wrong into the runtime's words alone.
func (c caller) call(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	limit := c.limit(request)
	ctx, cancel := within(ctx, limit)
	defer cancel()
	begin := time.Now()
	err := invoke(ctx, method, request, answer, connection, options...)
	// Not the request: it may hold a registry's password.
	c.log.Debug("called", "method", method, "socket", c.socket, "took", time.Since(begin), "err", err)
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	text := s.Message()
	switch {
	case errors.Is(context.Cause(ctx), errLimit):
		text = fmt.Sprintf("no answer from %s to %s in %s; --timeout allows more", c.socket, filepath.Base(method), limit)
	case s.Code() == codes.Unimplemented:
		text = fmt.Sprintf("what listens at %s doesn't offer %s of the container runtime interface v1: %s", c.socket, filepath.Base(method), text)
	case s.Code() == codes.Unavailable:
		text = fmt.Sprintf("the container runtime at %s doesn't answer: %s", c.socket, text)
	}
	return &callError{status: s, text: text}
}

// errLimit is why within has ended a context.
var errLimit = errors.New("the time is over")

// within ends a context when a time is over, unless that is zero. The context
// has no deadline, which gRPC would tell the other side: that would cancel the
// call on its own, at times before it is clear here that it took too long.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return false }
	if limit > 0 {
		stop = time.AfterFunc(limit, func() { cancel(errLimit) }).Stop
	}
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// limit is how long a call may take, or zero for as long as it needs.
func (c caller) limit(request any) time.Duration {
	switch request := request.(type) {
	case *runtime.PullImageRequest:
		return 0
	case *runtime.StopContainerRequest: // the runtime waits for the container
		return c.timeout + time.Duration(request.GetTimeout())*time.Second
	case *runtime.ExecSyncRequest: // the command has its own limit, or none
		if request.GetTimeout() == 0 {
			return 0
		}
		return c.timeout + time.Duration(request.GetTimeout())*time.Second
	}
	return c.timeout
}

// callError is an answer that is an error.
type callError struct {
	status *status.Status
	text   string
}

func (e *callError) Error() string { return e.text }

// GRPCStatus lets callers see the code.
func (e *callError) GRPCStatus() *status.Status { return e.status }

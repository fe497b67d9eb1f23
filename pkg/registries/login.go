package registries

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"sync"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming"
	"github.com/containerd/typeurl/v2"
)

// login asks for the login that a pull came with, such as that of a pod's pull
// secret. containerd tells it on a stream, the same that its clients have.
type login struct {
	ctx   context.Context
	image string

	mu                 sync.Mutex // one question at a time
	open               bool       // there is somebody to ask
	questions, answers chan typeurl.Any
	asked              bool // only the other end uses it
}

var _ streaming.StreamCreator = (*login)(nil)

func newLogin(ctx context.Context) *login {
	return &login{ctx: ctx, questions: make(chan typeurl.Any), answers: make(chan typeurl.Any)}
}

// ask returns the user and secret for a host, both empty if there are none.
func (l *login) ask(host string) (user, secret string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return "", "", nil
	}
	question, err := typeurl.MarshalAny(&transfertypes.AuthRequest{Host: host, Reference: l.image})
	if err != nil {
		return "", "", err
	}
	var answer typeurl.Any
	select {
	case l.questions <- question:
	case <-l.ctx.Done():
		return "", "", l.ctx.Err()
	}
	select {
	case answer = <-l.answers:
	case <-l.ctx.Done():
		return "", "", l.ctx.Err()
	}
	if answer == nil {
		return "", "", fmt.Errorf("the login that was given for %s is malformed", host)
	}
	var told transfertypes.AuthResponse
	if err := typeurl.UnmarshalTo(answer, &told); err != nil {
		return "", "", err
	}
	return told.Username, told.Secret, nil
}

// Create makes the stream, which is the login itself.
func (l *login) Create(context.Context, string) (streaming.Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
	return l, nil
}

// Recv is called by the one that is asked. A question that it has not answered
// before it wants the next is one that it can't answer.
func (l *login) Recv() (typeurl.Any, error) {
	if l.asked {
		if err := l.Send(nil); err != nil {
			return nil, err
		}
	}
	select {
	case question := <-l.questions:
		l.asked = true
		return question, nil
	case <-l.ctx.Done():
		return nil, io.EOF
	}
}

func (l *login) Send(answer typeurl.Any) error {
	l.asked = false
	select {
	case l.answers <- answer:
		return nil
	case <-l.ctx.Done():
		return io.EOF
	}
}

func (*login) Close() error { return nil }

// login is what a host is shown, as user and secret. A secret without a user is a
// token.
func (c Config) login(host string) (user, secret string, err error) {
	auth := c.host(host).auth
	switch {
	case auth == nil:
		return "", "", nil
	case auth.username != "":
		return auth.username, auth.password, nil
	case auth.identityToken != "":
		return "", auth.identityToken, nil
	}
	decoded, err := base64.StdEncoding.DecodeString(auth.basic)
	if err != nil {
		return "", "", err
	}
	user, secret, _ = strings.Cut(string(decoded), ":")
	return user, secret, nil
}

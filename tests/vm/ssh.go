package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// connect makes the connection that commands run through. The limit is for what
// comes after QEMU has accepted the connection, which it does at once.
func (v *VM) connect(ctx context.Context, limit time.Duration) error {
	config, err := v.sshConfig()
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", v.port)
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if err := connection.SetDeadline(time.Now().Add(limit)); err != nil {
		return errors.Join(err, connection.Close())
	}
	client, channels, requests, err := ssh.NewClientConn(connection, address, config)
	if err != nil {
		return errors.Join(err, connection.Close())
	}
	if err := connection.SetDeadline(time.Time{}); err != nil {
		return errors.Join(err, client.Close())
	}
	v.client = ssh.NewClient(client, channels, requests)
	return nil
}

func (v *VM) sshConfig() (*ssh.ClientConfig, error) {
	private, err := os.ReadFile(filepath.Join(v.image, keyFile))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("read the key for ssh: %w", err)
	}
	public, err := os.ReadFile(filepath.Join(v.image, hostKeyFile))
	if err != nil {
		return nil, err
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(public)
	if err != nil {
		return nil, fmt.Errorf("read the key of sshd: %w", err)
	}
	return &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
	}, nil
}

func (v *VM) disconnect() {
	if v.client != nil {
		_ = v.client.Close() // the machine may have closed it
		v.client = nil
	}
}

// Run runs a shell script to its end, with stdin as its input (nil: none). A code
// other than 0 is no error.
func (v *VM) Run(ctx context.Context, stdin io.Reader, script string) (testbed.Result, error) {
	if v.client == nil {
		return testbed.Result{}, fmt.Errorf("virtual machine %s is off", v.Name)
	}
	session, err := v.client.NewSession()
	if err != nil {
		return testbed.Result{}, fmt.Errorf("reach virtual machine %s: %w", v.Name, err)
	}
	defer func() { _ = session.Close() }()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	ended := make(chan error, 1)
	go func() { ended <- session.Run(script) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = session.Signal(ssh.SIGKILL) // a machine that hangs doesn't hear it
		return testbed.Result{}, ctx.Err()
	}
	result := testbed.Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		result.Code, err = exit.ExitStatus(), nil
	}
	return result, err
}

// Exec runs a shell script to its end and returns its standard output. The error
// holds the code and standard error.
func (v *VM) Exec(ctx context.Context, script string) (string, error) {
	return v.ExecIn(ctx, nil, script)
}

// ExecIn is Exec with an input.
func (v *VM) ExecIn(ctx context.Context, stdin io.Reader, script string) (string, error) {
	result, err := v.Run(ctx, stdin, script)
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("code %d", result.Code)
	}
	if err != nil {
		err = fmt.Errorf("on virtual machine %s: %s: %w: %s", v.Name, strings.TrimSpace(script), err, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, err
}

// Copy copies a file, with its mode, to the machine. The remote file is complete
// when it has its name.
func (v *VM) Copy(ctx context.Context, local, remote string) error {
	file, err := os.Open(local)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	_, err = v.ExecIn(ctx, file, fmt.Sprintf("set -e; cat >%[1]s.new; chmod %[2]o %[1]s.new; mv %[1]s.new %[1]s",
		quote(remote), info.Mode().Perm()))
	return err
}

// quote makes a shell's word out of any string.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

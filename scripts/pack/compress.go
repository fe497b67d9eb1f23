package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

// compressor makes one zstd stream. The zstd program is preferred: its best
// levels give files a tenth smaller than the library's best.
type compressor struct {
	program string   // path of zstd; the library is used if empty
	args    []string // of the program
	level   zstd.EncoderLevel
}

func newCompressor(level string) (compressor, error) {
	// The longest window that the launcher decodes finds what the programs
	// have in common, far apart as they are.
	long := fmt.Sprintf("--long=%d", payload.WindowLog)
	levels := map[string]compressor{
		"fast": {args: []string{"-9"}, level: zstd.SpeedDefault},
		"best": {args: []string{"-19", long}, level: zstd.SpeedBestCompression},
		"max":  {args: []string{"--ultra", "-22", long}, level: zstd.SpeedBestCompression},
	}
	c, ok := levels[level]
	if !ok {
		return c, fmt.Errorf("level %q: want fast, best or max", level)
	}
	if program, err := exec.LookPath("zstd"); err == nil {
		c.program = program
	}
	return c, nil
}

func (c compressor) String() string {
	if c.program == "" {
		return fmt.Sprintf("zstd library, %v", c.level)
	}
	return "zstd " + strings.Join(c.args, " ")
}

// open starts a stream to w. It is complete when the returned writer is closed
// without an error.
func (c compressor) open(ctx context.Context, w io.Writer) (io.WriteCloser, error) {
	if c.program == "" {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(c.level), zstd.WithWindowSize(1<<payload.WindowLog))
	}
	// The trailer has a checksum already. The number of threads doesn't change
	// the output, being multi-threaded at all does.
	cmd := exec.CommandContext(ctx, c.program, append(c.args, "--no-check", "-T0", "-q", "-c")...)
	p := &process{cmd: cmd}
	cmd.Stdout, cmd.Stderr = w, &p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	return p, cmd.Start()
}

// process is a filter program that is written to.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// Close ends the input and waits for the program.
func (p *process) Close() error {
	err := p.stdin.Close()
	if waitErr := p.cmd.Wait(); waitErr != nil {
		return fmt.Errorf("%s: %w: %s", p.cmd.Path, waitErr, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return err
}

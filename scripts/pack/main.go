// Command pack makes the kedge file: a launcher, a directory as one compressed
// archive, and the trailer that joins them. The same input and compressor give
// the same file, byte for byte.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(exitCode()) }

func exitCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(os.Stderr, "pack:", err)
	return 1
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("pack", flag.ContinueOnError)
	launcher := flags.String("launcher", "", "the launcher `program`")
	root := flags.String("root", "", "the `directory` to pack")
	out := flags.String("out", "", "the `file` to make")
	level := flags.String("level", "best", "compression `level`: fast (seconds), best (a minute) or max (minutes, a few percent smaller)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *launcher == "" || *root == "" || *out == "" || flags.NArg() > 0 {
		flags.Usage()
		return errors.New("-launcher, -root and -out are needed, and nothing else")
	}
	compress, err := newCompressor(*level)
	if err != nil {
		return err
	}
	t, err := pack(ctx, *launcher, *root, *out, compress)
	if err != nil {
		return fmt.Errorf("make %s: %w", *out, err)
	}
	fmt.Printf("%s: %.1f MB (launcher %.1f, payload %.1f of %.1f in %d entries, %s)\n",
		*out, mb(t.FileSize()), mb(t.Offset), mb(t.Length), mb(t.Size), t.Entries, compress)
	return nil
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

// Command sbom writes what a kedge file is made of, as a CycloneDX document: its
// programs, the Go modules that are linked into each, and the Debian packages that
// the rest comes from. Programs say themselves what they were built of, so the
// list is of what is there, not of what go.mod allows. The same file gives the
// same document, byte for byte.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	var in input
	flags.StringVar(&in.file, "file", "", "the kedge `file` that the document is about")
	flags.StringVar(&in.version, "version", "", "Kedge's `version`")
	flags.StringVar(&in.arch, "arch", "", "`architecture`, as Debian calls it")
	flags.Func("packages", "`file` with a Debian package a line: name, version, architecture; may be repeated", func(name string) error {
		in.packages = append(in.packages, name)
		return nil
	})
	out := flags.String("out", "", "the `file` to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	in.programs = flags.Args()
	if in.file == "" || in.version == "" || in.arch == "" || *out == "" || len(in.programs) == 0 {
		flags.Usage()
		return errors.New("-file, -version, -arch, -out and the programs in the file are needed")
	}
	var document strings.Builder
	if err := in.write(&document); err != nil {
		return err
	}
	return os.WriteFile(*out, []byte(document.String()), 0o644)
}

// Command cni writes the source of one program that holds several of the CNI
// plugins of github.com/containernetworking/plugins, chosen by the name it is
// called by. Upstream each plugin is a main package, which can't be imported, so
// the sources of the version in go.mod are copied from the module cache with
// another package clause and main renamed to Main.
//
// The tree belongs below the main module, whose go.mod it is built with, in a
// directory whose name begins with "_": such packages can be built by their path,
// while ./... passes them over. The program also holds the plugin of pkg/podgate.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/kedge-k8s/kedge/pkg/podgate"
)

const upstream = "github.com/containernetworking/plugins"

// plugins are directories below upstream's plugins/.
var plugins = []string{"meta/bandwidth", "main/bridge", "ipam/host-local", "main/loopback", "meta/portmap"}

func main() {
	out := flag.String("out", "build/_cni", "`directory` below the main module to write the sources to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "cni:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	main, err := goList(ctx, "{{.Path}}\n{{.Dir}}")
	if err != nil {
		return err
	}
	source, err := goList(ctx, "{{.Version}}\n{{.Dir}}", upstream)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(main[1], abs)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return fmt.Errorf("%s is not below the main module in %s", out, main[1])
	}
	return generate(filepath.Join(source[1], "plugins"), source[0], abs, main[0], filepath.ToSlash(rel))
}

// goList asks go list -m for two lines about a module, by default the main one.
func goList(ctx context.Context, format string, module ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-m", "-f", format}, module...)...)
	cmd.Stderr = os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	lines := strings.Split(strings.TrimSpace(string(answer)), "\n")
	if len(lines) != 2 {
		return nil, fmt.Errorf("%s: %q: want two lines; is the module downloaded?", cmd, answer)
	}
	return lines, nil
}

type plugin struct{ Name, Package, Import string }

// generate writes the program to the directory out, which is rel in the module,
// from the plugins below source. What was in out is replaced.
func generate(source, version, out, module, rel string) error {
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	var found []plugin
	for _, dir := range plugins {
		name := path.Base(dir)
		p := plugin{Name: name, Package: strings.ReplaceAll(name, "-", ""), Import: path.Join(module, rel, name)}
		if err := copyPlugin(filepath.Join(source, dir), filepath.Join(out, name), p.Package); err != nil {
			return fmt.Errorf("plugin %s: %w", name, err)
		}
		found = append(found, p)
	}
	found = append(found, plugin{Name: podgate.PluginType, Package: "podgate", Import: path.Join(module, "pkg/podgate")})

	var text bytes.Buffer
	err := program.Execute(&text, map[string]any{"Upstream": upstream, "Version": version, "Plugins": found})
	if err != nil {
		return err
	}
	code, err := format.Source(text.Bytes())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "main.go"), code, 0o644)
}

func copyPlugin(from, to, name string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.go"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	mains := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		code, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		code, hasMain, err := rewrite(file, code, name)
		if err != nil {
			return err
		}
		if hasMain {
			mains++
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), code, 0o644); err != nil {
			return err
		}
	}
	if mains != 1 {
		return fmt.Errorf("%s has %d functions main, want one", from, mains)
	}
	return nil
}

// rewrite turns a file of a main package into one of the package named, with main
// exported as Main, and tells whether the file has main.
func rewrite(file string, code []byte, name string) (_ []byte, hasMain bool, _ error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, code, parser.SkipObjectResolution)
	if err != nil {
		return nil, false, err
	}
	if parsed.Name.Name != "main" {
		return nil, false, fmt.Errorf("%s: package %s, want main", file, parsed.Name.Name)
	}
	// The package clause comes first in the file and is replaced last, so that
	// the offset of main still holds.
	replace := func(at *ast.Ident, by string) {
		offset := set.Position(at.Pos()).Offset
		code = bytes.Join([][]byte{code[:offset], code[offset+len(at.Name):]}, []byte(by))
	}
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "main" {
			if hasMain {
				return nil, false, errors.New(file + ": main is declared twice")
			}
			hasMain = true
			replace(f.Name, "Main")
		}
	}
	replace(parsed.Name, name)
	return code, hasMain, nil
}

var program = template.Must(template.New("main.go").Parse(`// Code generated by scripts/cni. DO NOT EDIT.

// Command cni is several CNI plugins in one program: the name it is called by
// says which it is.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"{{.Upstream}}/pkg/utils/buildversion"
{{range .Plugins}}
	{{.Package}} "{{.Import}}"{{end}}
)

func main() {
	buildversion.BuildVersion = "{{.Version}}"
	switch name := filepath.Base(os.Args[0]); name {
{{- range .Plugins}}
	case "{{.Name}}":
		{{.Package}}.Main()
{{- end}}
	case "cni":
		fmt.Println("CNI plugins {{.Version}} in one program, to be called by these names:{{range .Plugins}} {{.Name}}{{end}}")
	default:
		fmt.Fprintf(os.Stderr, "cni: no plugin is called %q\n", name)
		os.Exit(1)
	}
}
`))

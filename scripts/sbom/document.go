package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// input is what a document is made from.
type input struct {
	file, version, arch string
	programs            []string // in the file: of Go, or of C
	packages            []string // files that list Debian packages
}

// document collects components and what each is made of, by their references.
type document struct {
	components map[string]cdx.Component
	needs      map[string][]string
}

func (in input) write(w io.Writer) error {
	root, err := in.root()
	if err != nil {
		return err
	}
	d := document{components: map[string]cdx.Component{}, needs: map[string][]string{}}
	for _, name := range in.programs {
		ref, err := d.addProgram(name, in.version)
		if err != nil {
			return err
		}
		d.need(root.BOMRef, ref)
	}
	for _, name := range in.packages {
		if err := d.addPackages(name, root.BOMRef); err != nil {
			return err
		}
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &root}
	bom.Components, bom.Dependencies = d.sorted()
	encoder := cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true)
	return encoder.EncodeVersion(bom, cdx.SpecVersion1_6)
}

// root is the file itself.
func (in input) root() (cdx.Component, error) {
	c, err := application(in.file, in.version)
	c.Name, c.BOMRef = "kedge", "kedge"
	c.PackageURL = fmt.Sprintf("pkg:generic/kedge@%s?arch=%s", url.QueryEscape(in.version), in.arch)
	c.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	return c, err
}

// application describes a program by its name and content.
func application(name, version string) (cdx.Component, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return cdx.Component{}, err
	}
	sum := sha256.Sum256(content)
	return cdx.Component{
		BOMRef:  "program:" + filepath.Base(name),
		Type:    cdx.ComponentTypeApplication,
		Name:    filepath.Base(name),
		Version: version,
		Hashes:  &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}, nil
}

// addProgram adds a program, and the modules in it if it is one of Go.
func (d document) addProgram(name, version string) (string, error) {
	program, err := application(name, version)
	if err != nil {
		return "", err
	}
	defer func() { d.components[program.BOMRef] = program }()
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		if strings.Contains(err.Error(), "not a Go executable") {
			return program.BOMRef, nil
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	// Others' programs are built as they are, of a released version.
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		program.Version = info.Main.Version
		d.need(program.BOMRef, d.addModule(&info.Main))
	}
	d.need(program.BOMRef, d.addModule(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		// One that lies in a directory of Kedge's own has no version.
		if m.Version != "" {
			d.need(program.BOMRef, d.addModule(m))
		}
	}
	return program.BOMRef, nil
}

func (d document) addModule(m *debug.Module) string {
	purl := "pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version)
	d.components[purl] = cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl,
	}
	return purl
}

// addPackages adds the Debian packages that a file lists.
func (d document) addPackages(name, needs string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(content) {
		f := strings.Fields(string(line))
		if len(f) != 3 {
			return fmt.Errorf("%s: %q: want a package, its version and its architecture", name, strings.TrimSpace(string(line)))
		}
		purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", f[0], url.QueryEscape(f[1]), f[2])
		d.components[purl] = cdx.Component{
			BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: f[0], Version: f[1], PackageURL: purl,
		}
		d.need(needs, purl)
	}
	return nil
}

func (d document) need(ref, needed string) { d.needs[ref] = append(d.needs[ref], needed) }

// sorted gives the components and their dependencies the order of their references.
func (d document) sorted() (*[]cdx.Component, *[]cdx.Dependency) {
	var components []cdx.Component
	for _, c := range d.components {
		components = append(components, c)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	var dependencies []cdx.Dependency
	for ref, needed := range d.needs {
		slices.Sort(needed)
		needed = slices.Compact(needed)
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &needed})
	}
	slices.SortFunc(dependencies, func(a, b cdx.Dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	return &components, &dependencies
}

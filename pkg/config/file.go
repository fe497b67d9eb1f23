package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is one line "key: value" of a configuration file.
type entry struct {
	key, value *yaml.Node
}

// files gives the options of the configuration file and its drop-in files.
func (l *loader) files(file, namedBy string) error {
	paths, err := configFiles(file, namedBy)
	if err != nil {
		return err
	}
	for _, path := range paths {
		entries, err := readFile(path)
		if err != nil {
			return err
		}
		firstLine := map[string]int{}
		for _, e := range entries {
			if err := l.entry(path, e, firstLine); err != nil {
				return err
			}
		}
		if warning := exposed(path, entries); warning != "" {
			l.server.Warnings = append(l.server.Warnings, warning)
		}
	}
	return nil
}

// exposed says that every user of the machine can read a secret in a file, "" if
// none can. It is said of the first one.
func exposed(path string, entries []entry) string {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o006 == 0 {
		return ""
	}
	for _, e := range entries {
		if name := e.key.Value; isSecret(name, follow(e.value).Value) {
			return fmt.Sprintf("%s:%d: %s: the file is open to every user of this machine (mode %04o); run: chmod 600 %[1]s", path, e.key.Line, name, info.Mode().Perm())
		}
	}
	return ""
}

// isSecret tells whether the value of an option is nobody else's business.
func isSecret(name, value string) bool {
	switch name {
	case "token", "agent-token", "etcd-s3-secret-key", "etcd-s3-session-token":
		return value != ""
	case "datastore-endpoint":
		return strings.Contains(value, "@") // behind a user, and mostly a password
	}
	return false
}

// entry gives the option of one entry. firstLine is where in the file each
// option was given before.
func (l *loader) entry(path string, e entry, firstLine map[string]int) error {
	at := func(n *yaml.Node) string { return path + ":" + strconv.Itoa(n.Line) }
	if e.key.Kind != yaml.ScalarNode {
		return fmt.Errorf("%s: found %s where an option's name belongs", at(e.key), shape(e.key))
	}
	name, plus := strings.CutSuffix(e.key.Value, "+")
	o, ok := l.option(name)
	if !ok {
		return fmt.Errorf("%s: %w", at(e.key), l.unknown(name))
	}
	from := origin{at(e.key), at(e.key) + ": " + name}
	if first, again := firstLine[name]; again {
		return from.refuse(fmt.Errorf("is already given on line %d; give it once", first))
	}
	firstLine[name] = e.key.Line
	switch {
	case name == "config":
		return from.refuse(errors.New("cannot be given in a configuration file; use --config or KEDGE_CONFIG"))
	case plus && o.Kind != List:
		return from.refuse(fmt.Errorf("takes one value, so nothing can be appended to it; write %q without the +", name))
	}

	s := setting{origin: from}
	nodes, err := scalars(o, e.value)
	if err != nil {
		return from.refuse(err)
	}
	for _, n := range nodes {
		from := origin{at(n), at(n) + ": " + name}
		if isNull(n) {
			return from.refuse(errors.New("has no value; give one or remove the line"))
		}
		if n.Kind != yaml.ScalarNode {
			return from.refuse(fmt.Errorf("found %s; want %s", shape(n), wanted(List)))
		}
		for _, text := range o.split(n.Value) {
			s.values = append(s.values, value{text, from})
		}
	}
	return l.give(o, s, plus)
}

// scalars returns the nodes of an option's values: the node itself, or, for a
// list, those in it.
func scalars(o Option, n *yaml.Node) ([]*yaml.Node, error) {
	n = follow(n)
	switch {
	case n.Kind == yaml.ScalarNode:
		return []*yaml.Node{n}, nil
	case n.Kind == yaml.SequenceNode && o.Kind == List:
		nodes := make([]*yaml.Node, len(n.Content))
		for i, item := range n.Content {
			nodes[i] = follow(item)
		}
		return nodes, nil
	}
	return nil, fmt.Errorf("found %s; want %s", shape(n), wanted(o.Kind))
}

// follow returns the node that a YAML alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// shape names what a node is.
func shape(n *yaml.Node) string {
	switch follow(n).Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	}
	return "a single value"
}

// wanted names what an option of a kind takes.
func wanted(k Kind) string {
	switch k {
	case Bool:
		return "true or false"
	case Int:
		return "a number"
	case List:
		return "a single value or a list of them"
	default:
		return "a single value"
	}
}

// configFiles returns the files to read, in their order: the configuration
// file, which must exist if something names it, and its drop-in files.
func configFiles(file, namedBy string) ([]string, error) {
	var paths []string
	switch _, err := os.Stat(file); {
	case err == nil:
		paths = append(paths, file)
	case errors.Is(err, fs.ErrNotExist) && namedBy != "":
		return nil, fmt.Errorf("%s: the configuration file %q does not exist; create it or name another", namedBy, file)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("find the configuration file: %w", err)
	}
	dir := file + ".d"
	dropIns, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find drop-in configuration files: %w", err)
	}
	for _, d := range dropIns { // in lexical order
		ext := filepath.Ext(d.Name())
		hidden := strings.HasPrefix(d.Name(), ".")
		if !d.IsDir() && !hidden && (ext == ".yaml" || ext == ".yml") {
			paths = append(paths, filepath.Join(dir, d.Name()))
		}
	}
	return paths, nil
}

// maxFileSize is far more than a configuration needs. It keeps a wrong file
// name from filling the memory.
const maxFileSize = 1 << 20

// readFile returns the entries of a configuration file, in its order. It
// checks the file's form, not the options in it.
func readFile(path string) ([]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(content) > maxFileSize {
		return nil, fmt.Errorf("%s: is larger than %d KiB; give a configuration file in YAML", path, maxFileSize>>10)
	}

	root, line, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: malformed YAML: %w", path, line, err)
	}
	if root == nil || isNull(root) {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf(`%s:%d: found %s; write one option on each line, as "name: value"`, path, root.Line, shape(root))
	}
	var entries []entry
	for pair := range slices.Chunk(root.Content, 2) {
		entries = append(entries, entry{key: pair[0], value: pair[1]})
	}
	return entries, nil
}

// parse returns the root of the only YAML document in content, nil if it is
// empty, or what is wrong with it on which line.
func parse(content []byte) (root *yaml.Node, line int, err error) {
	d := yaml.NewDecoder(bytes.NewReader(content))
	var doc, second yaml.Node
	err = d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, 0, nil
	}
	if err == nil {
		switch err = d.Decode(&second); {
		case errors.Is(err, io.EOF):
			return doc.Content[0], 0, nil
		case err == nil:
			return nil, second.Line, errors.New("a second document begins; give all options in the first one")
		}
	}
	line, problem := problemOf(err)
	return nil, brokenLine(content, line), errors.New(problem)
}

var (
	yamlProblem   = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '.*' referenced$`)
)

// problemOf takes apart an error of the YAML library.
func problemOf(err error) (line int, problem string) {
	m := yamlProblem.FindStringSubmatch(err.Error())
	if m == nil {
		return 1, err.Error()
	}
	line, _ = strconv.Atoi(m[1]) // no line means the first
	problem = m[2]
	if unknownAnchor.MatchString(problem) { // it repeats the value, which may be a secret
		problem = "a value begins with *, which refers to an anchor that is not there; put it in quotes"
	}
	return max(line, 1), problem
}

// brokenLine returns the line from which on content is malformed. The YAML
// library tells the line on which the construct around the problem begins, if
// any, so the content is parsed again without its last lines until it is well
// formed. Very long content keeps the library's line.
func brokenLine(content []byte, line int) int {
	const most = 2000
	lines := bytes.SplitAfter(content, []byte("\n"))
	if len(lines) > most {
		return line
	}
	n := len(lines)
	for n > 1 && !wellFormed(bytes.Join(lines[:n-1], nil)) {
		n--
	}
	return n
}

func wellFormed(content []byte) bool {
	d := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		if err := d.Decode(&doc); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DataDir returns the data directory, absolute, for a program that needs it
// before the configuration is loaded. The arguments are those of the command
// line without the program's name, the environment is as os.Environ returns
// it. It reads configuration files only if neither decides, and for a command that
// makes no cluster what the installation has recorded. It never fails: where these
// cannot be read or give no usable value, it returns the default, and leaves the
// report to LoadServer and LoadAgent.
func DataDir(args, environ []string) string {
	return dataDir(args, environ, DefaultConfigFile)
}

func dataDir(args, environ []string, defaultFile string) string {
	flags, command := scan(args, slices.Concat(ServerOptions(), agentOptions()))
	env := environment(environ)
	dir := env["KEDGE_DATA_DIR"]
	if given := flags["data-dir"]; len(given) > 0 {
		dir = given[len(given)-1]
	} else if dir == "" {
		dir = dataDirOfFiles(configFile(flags, env, defaultFile))
		if dir == "" && !slices.Contains([]string{"server", "agent", "install"}, command) {
			dir, _ = lastValue(InstallFile(defaultFile), "dataDir")
		}
	}
	if dir == "" {
		return DefaultDataDir
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return DefaultDataDir
	}
	return abs
}

// dataDirOfFiles returns the data directory that the configuration files give,
// or "".
func dataDirOfFiles(file, namedBy string) string {
	paths, err := configFiles(file, namedBy)
	if err != nil {
		return ""
	}
	dir := ""
	for _, path := range paths {
		value, err := lastValue(path, "data-dir")
		if err != nil {
			return ""
		}
		dir = cmp.Or(value, dir)
	}
	return dir
}

// lastValue returns what a file of YAML or JSON last gives for a name, "" if
// nothing.
func lastValue(path, name string) (value string, err error) {
	entries, err := readFile(path)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.key.Value != name {
			continue
		}
		n := follow(e.value)
		if n.Kind != yaml.ScalarNode || isNull(n) {
			return "", fmt.Errorf("%s: %s has no value", path, name)
		}
		value = n.Value
	}
	return value, nil
}

// scan finds the given options in a command line, and its command. It stops where the arguments
// are no longer Kedge's own but those of a tool inside Kedge.
func scan(args []string, options []Option) (flags Flags, command string) {
	flags = Flags{}
	for i := 0; i < len(args) && args[i] != "--" && !isTool(command); i++ {
		arg := args[i]
		if !strings.HasPrefix(arg, "-") {
			command = cmp.Or(command, arg)
			continue
		}
		name, text, joined := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		known := slices.IndexFunc(options, func(o Option) bool {
			return o.Name == name || slices.Contains(o.Aliases, name)
		})
		if known < 0 {
			continue
		}
		o := options[known]
		if !joined && o.Kind != Bool && i+1 < len(args) {
			i++
			text = args[i]
		}
		flags[o.Name] = append(flags[o.Name], text)
	}
	return flags, command
}

// isTool tells whether a command hands all of its arguments to a tool of that
// name, whose flags mean something else.
func isTool(command string) bool {
	return slices.Contains([]string{"kubectl", "ctr", "crictl"}, command)
}

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
	dir := early("data-dir", flags, environ, defaultFile)
	if dir == "" && !slices.Contains([]string{"server", "agent", "install"}, command) {
		dir, _ = lastValue(InstallFile(defaultFile), "dataDir")
	}
	return absoluteOr(dir, DefaultDataDir)
}

// AdminKubeconfig returns where a server of this machine writes the kubeconfig for
// administrators, for commands whose user may not read all that the server reads.
// It is found, and never fails, as DataDir.
func AdminKubeconfig(args, environ []string) string {
	return adminKubeconfig(args, environ, DefaultConfigFile)
}

func adminKubeconfig(args, environ []string, defaultFile string) string {
	flags, _ := scan(args, ServerOptions())
	return absoluteOr(early("write-kubeconfig", flags, environ, defaultFile), DefaultKubeconfig)
}

func absoluteOr(path, fallback string) string {
	if path == "" {
		return fallback
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fallback
	}
	return abs
}

// early returns the value of an option before the configuration is loaded, or "".
func early(name string, flags Flags, environ []string, defaultFile string) string {
	if given := flags[name]; len(given) > 0 {
		return given[len(given)-1]
	}
	env := environment(environ)
	if value := env[Option{Name: name}.EnvVar()]; value != "" {
		return value
	}
	paths, err := configFiles(configFile(flags, env, defaultFile))
	if err != nil {
		return ""
	}
	found := ""
	for _, path := range paths {
		value, err := lastValue(path, name)
		if err != nil {
			return ""
		}
		found = cmp.Or(value, found)
	}
	return found
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

// scan finds the given options in a command line, and its command. It stops where
// the arguments are no longer Kedge's own but those of a tool inside Kedge.
func scan(args []string, options []Option) (flags Flags, command string) {
	flags = Flags{}
	// A shell that completes a command line adds this, which is no option's value.
	if last := len(args) - 1; last >= 0 && args[last] == "--generate-bash-completion" {
		args = args[:last]
	}
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

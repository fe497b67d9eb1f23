// Package install makes Kedge a service of a machine: the program in its place,
// a unit of systemd or a script of OpenRC, links, scripts, completion. It also
// replaces the program by another version, and takes back the installation.
package install

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Roles of a machine.
const (
	Server = "server"
	Agent  = "agent"
)

// Request is what to install.
type Request struct {
	Role string   // Server or Agent
	Args []string // of the role, without secrets
	Env  []string // NAME=value, for the service alone

	Name           string // of the service
	BinDir         string
	BinDirReadOnly bool // the program is there, and nothing else is written
	SystemdDir     string
	Symlink        string // "": where there is no such command; skip, force
	SkipEnable     bool   // write files only
	SkipStart      bool
	ForceRestart   bool
	Timeout        time.Duration // of the node to be Ready

	Mirror, Channel string // that install.sh was told, for upgrades
}

// Option is one of an installation's own options.
type Option struct {
	Name, Value, Help string // Value is a placeholder; empty: the option is a switch
	set               func(*Request, string) error
}

// EnvVar is the variable that means the same.
func (o Option) EnvVar() string {
	return "INSTALL_KEDGE_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
}

func boolean(field func(*Request) *bool) func(*Request, string) error {
	return func(r *Request, value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		*field(r) = on
		return nil
	}
}

func directory(field func(*Request) *string) func(*Request, string) error {
	return func(r *Request, value string) error {
		if !filepath.IsAbs(value) {
			return fmt.Errorf("%q is no absolute path", value)
		}
		*field(r) = filepath.Clean(value)
		return nil
	}
}

// Options are an installation's own options, as k3s's installer has them.
func Options() []Option {
	return []Option{
		{"type", "ROLE", "install a server or an agent, if no role is named (default: an agent if there is KEDGE_URL)", func(r *Request, v string) error {
			if v != Server && v != Agent {
				return fmt.Errorf("%q is neither server nor agent", v)
			}
			r.Role = v
			return nil
		}},
		{"name", "NAME", "call the service kedge-NAME (default: kedge for a server, kedge-agent for an agent)", func(r *Request, v string) error {
			for _, c := range v {
				if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", c) {
					return fmt.Errorf("%q: use letters, digits, - . and _", v)
				}
			}
			r.Name = "kedge-" + strings.TrimPrefix(v, "kedge-")
			return nil
		}},
		{"bin-dir", "DIRECTORY", "put the program here (default: /usr/local/bin, or /opt/bin where that can't be written)", directory(func(r *Request) *string { return &r.BinDir })},
		{"bin-dir-read-only", "", "write nothing to the directory of programs: kedge is in it", boolean(func(r *Request) *bool { return &r.BinDirReadOnly })},
		{"systemd-dir", "DIRECTORY", "put the service's unit here (default: /etc/systemd/system)", directory(func(r *Request) *string { return &r.SystemdDir })},
		{"symlink", "WHICH", "make links kubectl, crictl and ctr: skip or force them (default: where no such command is)", func(r *Request, v string) error {
			if !slices.Contains([]string{"", "skip", "force"}, v) {
				return fmt.Errorf("%q is neither skip nor force", v)
			}
			r.Symlink = v
			return nil
		}},
		{"skip-enable", "", "neither enable nor start the service", boolean(func(r *Request) *bool { return &r.SkipEnable })},
		{"skip-start", "", "enable the service for the next boot, but don't start it", boolean(func(r *Request) *bool { return &r.SkipStart })},
		{"force-restart", "", "restart the service also when nothing has changed", boolean(func(r *Request) *bool { return &r.ForceRestart })},
		{"timeout", "DURATION", "give up when the node is not Ready after this time (default: 5m)", func(r *Request, v string) error {
			limit, err := time.ParseDuration(v)
			if err != nil || limit <= 0 {
				return fmt.Errorf("%q is no duration such as 10m", v)
			}
			r.Timeout = limit
			return nil
		}},
	}
}

// renamed are variables whose names differ from those of the options.
var renamed = map[string]string{
	"KEDGE_URL":               "KEDGE_SERVER",
	"KEDGE_CONFIG_FILE":       "KEDGE_CONFIG",
	"KEDGE_KUBECONFIG_MODE":   "KEDGE_WRITE_KUBECONFIG_MODE",
	"KEDGE_KUBECONFIG_OUTPUT": "KEDGE_WRITE_KUBECONFIG",
	"KEDGE_KUBECONFIG_GROUP":  "KEDGE_WRITE_KUBECONFIG_GROUP",
}

// notKept are variables that say something of this process only.
var notKept = []string{"KEDGE_LAUNCHER"}

// secretFlags are the options whose values belong in the service's environment,
// which only root can read.
var secretFlags = map[string]string{ //nolint:gosec // names
	"--token":              "KEDGE_TOKEN",
	"-token":               "KEDGE_TOKEN",
	"-t":                   "KEDGE_TOKEN",
	"--t":                  "KEDGE_TOKEN",
	"--agent-token":        "KEDGE_AGENT_TOKEN",
	"-agent-token":         "KEDGE_AGENT_TOKEN",
	"--datastore-endpoint": "KEDGE_DATASTORE_ENDPOINT",
	"-datastore-endpoint":  "KEDGE_DATASTORE_ENDPOINT",
}

// Parse reads a command line: an installation's own options, the role, and the
// role's options; and the environment, as os.Environ returns it.
func Parse(args, environ []string) (Request, error) {
	r := Request{Timeout: 5 * time.Minute, SystemdDir: "/etc/systemd/system"}
	variables, order := map[string]string{}, []string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if _, seen := variables[name]; !seen {
			variables[name] = value
			order = append(order, name)
		}
	}
	options := Options()
	for _, o := range options {
		if value := variables[o.EnvVar()]; value != "" {
			if err := o.set(&r, value); err != nil {
				return r, fmt.Errorf("%s: %w", o.EnvVar(), err)
			}
		}
	}
	r.Mirror, r.Channel = variables["INSTALL_KEDGE_MIRROR_URL"], variables["INSTALL_KEDGE_CHANNEL"]
	rest, err := r.own(args, options)
	if err != nil {
		return r, err
	}
	named := variables["KEDGE_URL"] != "" || variables["KEDGE_SERVER"] != ""
	switch {
	case len(rest) > 0 && (rest[0] == Server || rest[0] == Agent):
		r.Role, rest = rest[0], rest[1:]
	case len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		return r, fmt.Errorf("install what? %q is neither server nor agent", rest[0])
	case r.Role == "" && named:
		r.Role = Agent
	case r.Role == "":
		r.Role = Server
	}
	if r.Name == "" {
		r.Name = map[string]string{Server: "kedge", Agent: "kedge-agent"}[r.Role]
	}
	var secrets map[string]string
	r.Args, secrets = withoutSecrets(rest)
	for _, name := range order {
		value := variables[name]
		if value == "" || !forService(name) {
			continue
		}
		if to, ok := renamed[name]; ok {
			if variables[to] != "" {
				continue
			}
			name = to
		}
		if _, given := secrets[name]; !given {
			r.Env = append(r.Env, name+"="+value)
		}
	}
	for name, value := range secrets {
		r.Env = append(r.Env, name+"="+value)
	}
	slices.Sort(r.Env)
	for _, kv := range r.Env {
		if strings.ContainsAny(kv, "\n\x00") {
			name, _, _ := strings.Cut(kv, "=")
			return r, fmt.Errorf("%s holds a line break: a service's environment can't", name)
		}
	}
	return r, nil
}

// own takes the installation's own options from the front of the arguments.
func (r *Request) own(args []string, options []Option) (rest []string, err error) {
	for len(args) > 0 {
		name, value, joined := strings.Cut(args[0], "=")
		if !strings.HasPrefix(name, "-") {
			return args, nil
		}
		name = strings.TrimLeft(name, "-")
		i := slices.IndexFunc(options, func(o Option) bool { return o.Name == name })
		if i < 0 {
			return args, nil
		}
		args = args[1:]
		switch {
		case joined:
		case options[i].Value == "":
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("--%s: a value is missing", name)
		default:
			value, args = args[0], args[1:]
		}
		if err := options[i].set(r, value); err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
	}
	return nil, nil
}

// forService says whether a variable is kept for the service.
func forService(name string) bool {
	if slices.Contains(notKept, name) {
		return false
	}
	upper := strings.ToUpper(name)
	return strings.HasPrefix(name, "KEDGE_") || strings.HasPrefix(name, "CONTAINERD_") ||
		slices.Contains([]string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}, upper)
}

// withoutSecrets takes tokens and passwords from a command line, by the names of
// the variables that mean the same.
func withoutSecrets(args []string) (rest []string, secrets map[string]string) {
	secrets = map[string]string{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		variable, secret := secretFlags[name]
		if !secret || !joined && i+1 == len(args) {
			rest = append(rest, args[i])
			continue
		}
		if !joined {
			i++
			value = args[i]
		}
		secrets[variable] = value
	}
	return rest, secrets
}

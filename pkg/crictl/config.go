package crictl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/kedge-k8s/kedge/pkg/config"
)

const (
	// DefaultEndpoint is the socket of Kedge's containerd.
	DefaultEndpoint = "unix://" + config.RuntimeDir + "/containerd/containerd.sock"

	defaultConfig  = "/etc/crictl.yaml"
	defaultTimeout = 10 * time.Second // a board with a slow card needs more than upstream's two
)

// options are the global ones, as given.
type options struct {
	config, runtime, image, timeout string
	debug                           bool
}

func (o *options) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "runtime-endpoint", Aliases: []string{"r"}, EnvVars: []string{"CONTAINER_RUNTIME_ENDPOINT"}, Destination: &o.runtime, Usage: "socket of the container runtime", DefaultText: DefaultEndpoint},
		&cli.StringFlag{Name: "image-endpoint", Aliases: []string{"i"}, EnvVars: []string{"IMAGE_SERVICE_ENDPOINT"}, Destination: &o.image, Usage: "socket of the image service", DefaultText: "that of the runtime"},
		&cli.StringFlag{Name: "timeout", Aliases: []string{"t"}, Destination: &o.timeout, Usage: "how long an answer may take, such as 10s", DefaultText: defaultTimeout.String()},
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, EnvVars: []string{"CRI_CONFIG_FILE"}, Destination: &o.config, Usage: "file with defaults for these options", DefaultText: defaultConfig},
		&cli.BoolFlag{Name: "debug", Aliases: []string{"D"}, Destination: &o.debug, Usage: "tell about each call", DisableDefaultText: true},
	}
}

// settings say which runtime crictl talks to.
type settings struct {
	runtime, image string
	timeout        time.Duration
	debug          bool
}

// file is /etc/crictl.yaml. It may have other keys: it is upstream's.
type file struct {
	RuntimeEndpoint string `yaml:"runtime-endpoint"`
	ImageEndpoint   string `yaml:"image-endpoint"`
	Timeout         string `yaml:"timeout"`
	Debug           bool   `yaml:"debug"`
}

// settings completes the options from the file and the defaults.
func (o options) settings() (settings, error) {
	f, err := o.readFile()
	if err != nil {
		return settings{}, err
	}
	s := settings{
		runtime: cmp.Or(o.runtime, f.RuntimeEndpoint, DefaultEndpoint),
		timeout: defaultTimeout,
		debug:   o.debug || f.Debug,
	}
	s.image = cmp.Or(o.image, f.ImageEndpoint, s.runtime)
	if text := cmp.Or(o.timeout, f.Timeout); text != "" {
		timeout, err := parseTimeout(text)
		if err != nil {
			return settings{}, err
		}
		if timeout > 0 { // zero asks for the default
			s.timeout = timeout
		}
	}
	return s, nil
}

func (o options) readFile() (file, error) {
	path := cmp.Or(o.config, defaultConfig)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && o.config == "" {
		return file{}, nil
	}
	if err != nil {
		return file{}, fmt.Errorf("read the configuration: %w", err)
	}
	var f file
	if err := yaml.Unmarshal(text, &f); err != nil {
		return file{}, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	return f, nil
}

// parseTimeout reads seconds, as they are in /etc/crictl.yaml, or a duration.
func parseTimeout(text string) (time.Duration, error) {
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	timeout, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("the timeout %q is neither a duration such as 10s nor a number of seconds", text)
	}
	return timeout, nil
}

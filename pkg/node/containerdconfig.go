package node

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/template"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/pelletier/go-toml/v2"

	"github.com/kedge-k8s/kedge/pkg/registries"
)

//go:embed containerd.toml.tmpl
var containerdTemplate string

// ContainerdConfig fills containerd's configuration file. The templates of users
// name its fields: docs/containerd.md lists them.
type ContainerdConfig struct {
	Root           string // persistent: images, snapshots, containers
	State          string // gone with a reboot
	Socket         string
	ConfigFile     string // where the rendered configuration goes
	Template       string // file of the user's template, whether it exists or not
	PauseImage     string
	Snapshotter    string
	Runc           string    // path of the program
	Runtimes       []Runtime // beside runc
	CNIPlugins     []string
	CNIConfig      string // directory
	RegistryConfig string // directory of hosts.toml files
	Registries     *registries.Live
	Peers          registries.Peers // nil: images come from registries only
	// Await has pulls wait for images that come from elsewhere.
	Await            func(transfer.Transferrer) transfer.Transferrer
	SystemdCgroups   bool
	RestrictOOMScore bool // this process may not lower scores
	AppArmor         bool
	SELinux          bool
}

// render fills the user's template, or else Kedge's own.
func (c ContainerdConfig) render() ([]byte, error) {
	user, err := os.ReadFile(c.Template)
	if errors.Is(err, fs.ErrNotExist) {
		user = []byte(`{{ template "base" . }}`)
	} else if err != nil {
		return nil, fmt.Errorf("template of containerd's configuration: %w", err)
	}
	base, err := template.New("base").Parse(containerdTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	t, err := base.New(c.Template).Parse(string(user))
	if err == nil {
		err = t.Execute(&out, c)
	}
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: ")) // it begins with the file and the line
	}
	if err := toml.Unmarshal(out.Bytes(), &srvconfig.Config{}); err != nil {
		return nil, fmt.Errorf("%s: %w", c.place(user, out.Bytes(), err), err)
	}
	return out.Bytes(), nil
}

// place tells where in the user's template the mistake is that was found in what
// the template gives.
func (c ContainerdConfig) place(user, rendered []byte, err error) string {
	decoding, ok := errors.AsType[*toml.DecodeError](err)
	if !ok {
		return c.Template
	}
	row, _ := decoding.Position()
	lines := bytes.Split(rendered, []byte("\n"))
	if row > len(lines) {
		return c.Template
	}
	if i := slices.IndexFunc(bytes.Split(user, []byte("\n")), func(line []byte) bool { return bytes.Equal(line, lines[row-1]) }); i >= 0 {
		return fmt.Sprintf("%s:%d", c.Template, i+1)
	}
	return fmt.Sprintf("%s: line %d of what it gives", c.Template, row)
}

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credential plugins that kubeconfigs may name
	componentcli "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// kubectl is upstream's whole kubectl, with Kedge's kubeconfig unless the user
// names another.
func kubectl(args []string) int {
	if err := chooseKubeconfig(args); err != nil {
		fmt.Fprintln(os.Stderr, "kedge: "+err.Error())
		return 1
	}
	// Plugins and completion read the command line again.
	os.Args = append([]string{"kubectl"}, args...)
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args))
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		IOStreams:     streams,
	})
	if err := componentcli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err) // exits, with upstream's words and code
	}
	return 0
}

// chooseKubeconfig points KUBECONFIG at Kedge's own file where the user has
// not chosen and may read it.
func chooseKubeconfig(args []string) error {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if arg == "--kubeconfig" || strings.HasPrefix(arg, "--kubeconfig=") {
			return nil
		}
	}
	path := adminKubeconfig()
	file, err := os.Open(path)
	if err == nil {
		_ = file.Close()
		return os.Setenv("KUBECONFIG", path)
	}
	if home, homeErr := os.UserHomeDir(); homeErr == nil {
		if _, homeErr = os.Stat(filepath.Join(home, ".kube", "config")); homeErr == nil {
			return nil
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return errUnreadable(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "kedge: there is no %s: start a cluster with sudo kedge server, or name another cluster's file with --kubeconfig\n", path)
	}
	return nil
}

// adminKubeconfig is the file that a server of this machine writes.
func adminKubeconfig() string { return config.AdminKubeconfig(nil, os.Environ()) }

func errUnreadable(path string) error {
	return fmt.Errorf("you may not read %s: use sudo, or start the server with --write-kubeconfig-group=GROUP --write-kubeconfig-mode=0640 and join that group", path)
}

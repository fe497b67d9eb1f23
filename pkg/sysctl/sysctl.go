// Package sysctl remembers the settings of the kernel that Kedge and the parts
// of Kubernetes in it change, so that an uninstallation can put them back.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// names are what is changed, and by whom.
var names = []string{
	"fs/inotify/max_user_instances", // Kedge
	"fs/inotify/max_user_watches",
	"kernel/keys/root_maxbytes", // the kubelet
	"kernel/keys/root_maxkeys",
	"kernel/panic",
	"kernel/panic_on_oops",
	"net/bridge/bridge-nf-call-ip6tables", // the pod network
	"net/bridge/bridge-nf-call-iptables",
	"net/ipv4/conf/all/forwarding",
	"net/ipv4/conf/default/forwarding",
	"net/ipv4/ip_forward",
	"net/ipv6/conf/all/forwarding",
	"net/ipv6/conf/default/forwarding",
	"net/netfilter/nf_conntrack_max", // kube-proxy
	"net/netfilter/nf_conntrack_tcp_timeout_close_wait",
	"net/netfilter/nf_conntrack_tcp_timeout_established",
	"vm/overcommit_memory", // the kubelet
	"vm/panic_on_oom",
}

// Settings are values by the names that files below /proc/sys have.
type Settings map[string]string

// Host is where the kernel's settings are.
type Host struct {
	Root string // "/proc/sys"
}

// Save writes the settings that there are to a file, unless it exists: what it
// holds was so before Kedge changed anything. It belongs in a directory that a
// reboot empties, as a reboot resets the settings too.
func (h Host) Save(file string) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	settings := Settings{}
	for _, name := range names {
		value, err := h.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without it, or its module is not loaded yet
		}
		if err != nil {
			return fmt.Errorf("remember the kernel's settings: %w", err)
		}
		settings[name] = value
	}
	content, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(content, '\n'), 0o600)
}

// Changed returns the settings that are not what the file holds, with the values
// that it holds. No file, no change.
func (h Host) Changed(file string) (Settings, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var saved Settings
	if err := json.Unmarshal(content, &saved); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	maps.DeleteFunc(saved, func(name, value string) bool {
		now, err := h.read(name)
		return !slices.Contains(names, name) || err != nil || now == value
	})
	return saved, nil
}

// Set writes one setting.
func (h Host) Set(name, value string) error {
	if err := os.WriteFile(filepath.Join(h.Root, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set it with sysctl -w %s=%s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

func (h Host) read(name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(h.Root, name))
	return strings.TrimSpace(string(content)), err
}

// Forwarding says whether a setting lets packets through the machine, as
// containers and virtual machines of others need it too.
func Forwarding(name string) bool { return strings.Contains(name, "forward") }

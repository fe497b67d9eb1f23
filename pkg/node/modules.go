package node

import (
	"context"
	"os"
	"os/exec"
	"time"
)

const moduleLimit = 5 * time.Second

// LoadModules loads the kernel modules that do not load themselves where they
// are needed. Where there are no modules they are built in, or what needs them
// says that they are missing.
func LoadModules(ctx context.Context) {
	for path, module := range map[string]string{
		"/proc/sys/net/bridge":                     "br_netfilter",
		"/proc/sys/net/netfilter/nf_conntrack_max": "nf_conntrack",
	} {
		if _, err := os.Stat(path); err == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, moduleLimit)
		_ = exec.CommandContext(ctx, "modprobe", module).Run()
		cancel()
	}
}

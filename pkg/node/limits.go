package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limits are what a machine with pods needs of the kernel, for all of root's
// processes together. Distributions leave the first at 128, of which an idle
// server takes a third.
var limits = map[string]int{
	"fs/inotify/max_user_instances": 8192,
	"fs/inotify/max_user_watches":   524288,
}

// RaiseLimits raises the machine's limits where they are lower. The error says
// what to do; where nothing more is needed Kedge runs without.
func RaiseLimits() error {
	var errs []error
	for name, wanted := range limits {
		path := filepath.Join("/proc/sys", name)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without it
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if now, err := strconv.Atoi(strings.TrimSpace(string(content))); err == nil && now >= wanted {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(wanted)), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("raise it with sysctl -w %s=%d: %w", strings.ReplaceAll(name, "/", "."), wanted, err))
		}
	}
	return errors.Join(errs...)
}

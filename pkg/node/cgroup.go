package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// evacuations bounds how often the processes of a cgroup are looked for again:
// those that are moved may fork meanwhile.
const evacuations = 10

// LeaveCgroup moves this process and all others in the cgroup at root, version
// 2, to a child of it. In a container the root that is seen is not the
// machine's own, and the kernel lets such a cgroup hand controllers on to the
// pods' only while no process is in it itself:
// https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint
func LeaveCgroup(root string) error {
	child := filepath.Join(root, "kedge")
	if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make a cgroup for Kedge: %w", err)
	}
	for range evacuations {
		content, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("find the processes of the root cgroup: %w", err)
		}
		pids := strings.Fields(string(content))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if pid == "0" {
				return errors.New("a process from outside of this container is in its root cgroup, which must be empty for pods to be limited: start the container with a cgroup namespace of its own")
			}
			err := os.WriteFile(filepath.Join(child, "cgroup.procs"), []byte(pid), 0o644) //nolint:gosec // a fixed path
			// The process may have ended.
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s out of the root cgroup, which must be empty for pods to be limited: %w", pid, err)
			}
		}
	}
	return errors.New("the root cgroup does not get empty: processes start in it all the time")
}

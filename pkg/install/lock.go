package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// lockFile is locked while an upgrade is under way.
var lockFile = filepath.Join(config.RuntimeDir, "upgrade.lock")

// errUnderWay says that one upgrade is enough.
var errUnderWay = errors.New("another upgrade is under way on this machine: wait until it has ended")

// LockUpgrades keeps others from upgrading this machine until release is called, or
// the process ends.
func LockUpgrades() (release func(), err error) { return lock(lockFile) }

func lock(path string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errUnderWay
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// UnderWay says whether this machine is being upgraded.
func UnderWay() bool {
	release, err := lock(lockFile)
	if err == nil {
		release()
	}
	return errors.Is(err, errUnderWay)
}

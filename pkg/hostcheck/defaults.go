package hostcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kernelDefaults are the settings that the kubelet makes itself unless it is told
// to protect them: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
var kernelDefaults = []struct {
	sysctl string
	want   int64
	why    string
}{
	{"vm.overcommit_memory", 1, "memory is given out as the pods' limits say"},
	{"vm.panic_on_oom", 0, "a pod without memory does not end the machine"},
	{"kernel.panic", 10, "a machine that has failed boots again"},
	{"kernel.panic_on_oops", 1, "a kernel with a fault does not go on"},
	{"kernel.keys.root_maxkeys", 1_000_000, "each container has a session keyring"},
	{"kernel.keys.root_maxbytes", 25_000_000, "each container has a session keyring"},
}

// KernelDefaults says of each setting that the kubelet asks for whether the kernel
// has it.
func (h Host) KernelDefaults() []Finding {
	var findings []Finding
	for _, d := range kernelDefaults {
		got, err := h.readInt("/proc/sys/" + strings.ReplaceAll(d.sysctl, ".", "/"))
		switch {
		case err != nil:
			findings = append(findings, Finding{
				Name: d.sysctl, Level: Failure,
				Detail: fmt.Sprintf("%s can't be read (%v)", d.sysctl, err),
				Fix:    "use a kernel that has it, or remove the option",
			})
		case got != d.want:
			findings = append(findings, Finding{
				Name: d.sysctl, Level: Failure,
				Detail: fmt.Sprintf("%s is %d, not %d, with which %s", d.sysctl, got, d.want, d.why),
				Fix:    sysctlFix(d.sysctl, d.want),
			})
		default:
			findings = append(findings, okf(d.sysctl, "%s is %d", d.sysctl, got))
		}
	}
	return findings
}

// PrivateFiles says of each file, and of each in a directory, whether its owner is
// root and no other user may read or change it. One that does not exist is fine.
func (h Host) PrivateFiles(paths ...string) []Finding {
	var findings []Finding
	for _, path := range paths {
		err := filepath.WalkDir(h.path(path), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(file, strings.TrimSuffix(h.Root, "/"))
			if mode := info.Mode().Perm(); mode&0o077 != 0 {
				findings = append(findings, Finding{
					Name: name, Level: Failure,
					Detail: fmt.Sprintf("%s has mode %#o, so that others than its owner have rights on it", name, mode),
					Fix:    "chmod 600 " + name,
				})
				return nil
			}
			findings = append(findings, okf(name, "%s is its owner's alone", name))
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			findings = append(findings, unknownf(path, "%v", err))
		}
	}
	return findings
}

// Errs returns all failures among the findings as one error; nil if there is none.
func Errs(findings []Finding) error {
	var all []error
	for _, f := range findings {
		all = append(all, f.Err())
	}
	return errors.Join(all...)
}

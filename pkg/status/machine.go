package status

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// DirSize adds up the files of a directory and of those below it.
func DirSize(dir string) uint64 {
	var sum uint64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // a file that goes away meanwhile takes no room
		}
		if info, err := entry.Info(); err == nil {
			sum += uint64(info.Size())
		}
		return nil
	})
	return sum
}

// memory reads what a process and the machine use; pid 0: no process.
func memory(pid int) (*Memory, error) {
	machine, err := kilobytes("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	m := &Memory{Total: machine["MemTotal"], Available: machine["MemAvailable"]}
	if pid > 0 {
		process, err := kilobytes(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return m, err
		}
		m.Process, m.Private = process["VmRSS"], process["RssAnon"]
	}
	return m, nil
}

// kilobytes reads the lines "Name: 123 kB" of a file, in bytes.
func kilobytes(path string) (map[string]uint64, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := map[string]uint64{}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 54); err == nil {
			values[strings.TrimSuffix(fields[0], ":")] = n << 10
		}
	}
	return values, nil
}

// certificates finds the certificate that ends first among those in directories,
// and says of those that are not well what is wrong.
func (r *Report) certificates(dirs []string, now time.Time) error {
	var all []pki.Entry
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.crt"))
		if err != nil {
			return err
		}
		for _, file := range files {
			entries, err := pki.InspectFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has just been replaced
			}
			if err != nil {
				return err
			}
			all = append(all, entries...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	next := all[0]
	for _, e := range all {
		if e.NotAfter.Before(next.NotAfter) {
			next = e
		}
	}
	r.Certificates = &Certificates{Count: len(all), Next: next}
	r.judgeCertificates(all, now)
	return nil
}

// judgeCertificates says in one problem of each kind what is wrong with certificates.
func (r *Report) judgeCertificates(all []pki.Entry, now time.Time) {
	var expired, early, late, cas []string
	for _, e := range all {
		name := filepath.Base(e.File)
		switch {
		case e.Status == pki.Expired:
			expired = append(expired, name)
		case now.Before(e.NotBefore):
			early = append(early, name)
		case e.Status == pki.Warning && e.Usage == "CA":
			cas = append(cas, name)
		case e.Status == pki.Warning:
			late = append(late, name)
		}
	}
	if len(expired) > 0 {
		r.wrong(names(expired, "certificate")+" expired", "look at this machine's clock (date); when it is right, restart Kedge here, which makes new ones")
	}
	if len(early) > 0 {
		r.wrong(names(early, "certificate")+" not valid yet: the clock of this machine is behind", "timedatectl set-ntp true (or by hand: date -s '…')")
	}
	if len(late) > 0 {
		r.wrong(names(late, "certificate")+" about to expire, and should have been renewed a month ago", "kedge certificate rotate; if that fails, it says why")
	}
	if len(cas) > 0 {
		r.wrong(names(cas, "authority (CA)")+" in the last year", "plan the replacement of the cluster's CAs; kedge certificate check lists them")
	}
}

// names says how many there are of something, and names the first.
func names(list []string, noun string) string {
	if len(list) == 1 {
		return "the " + noun + " " + list[0] + " is"
	}
	plural := noun + "s"
	if strings.Contains(noun, "(CA)") {
		plural = "authorities (CAs)"
	}
	return fmt.Sprintf("%d %s (%s, …) are", len(list), plural, list[0])
}

// space says when the data directory's file system is nearly full.
func (r *Report) space(dir string) {
	free, err := hostcheck.FreeSpace(dir)
	if err != nil || free >= hostcheck.LowFreeSpace {
		return
	}
	r.wrong(fmt.Sprintf("only %s are free on the file system of %s: soon the kubelet evicts pods and removes images", bytesText(free), dir),
		"free some space; to see what takes it: du -xh "+dir+" | sort -h | tail")
}

// bytesText returns bytes as a person reads them.
func bytesText(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

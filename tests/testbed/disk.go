package testbed

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Disk is what a host has on its disk beyond the machine's own files: what each
// path is. Files are told by their content, large ones by their time.
type Disk map[string]string

// largeFile is the size in bytes from which reading a file takes too long.
const largeFile = 1 << 20

// differences is how many of them an error lists.
const differences = 20

// Disk reads the host's disk. Nothing should be writing to it meanwhile.
func (h *Host) Disk() (Disk, error) {
	disk := Disk{}
	for _, part := range []string{"changes", "private"} {
		top := filepath.Join(h.dir, part)
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			what, err := describe(path, entry)
			disk[strings.TrimPrefix(path, top)] = what
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the disk of host %s: %w", h.Name, err)
		}
	}
	return disk, nil
}

func describe(path string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	switch {
	case info.Mode().IsRegular() && info.Size() > largeFile:
		return fmt.Sprintf("%s, %d bytes of %s", info.Mode(), info.Size(), info.ModTime().Format(time.StampNano)), nil
	case info.Mode().IsRegular():
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer func() { _ = file.Close() }()
		hash := sha256.New()
		if _, err := io.Copy(hash, file); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s, %d bytes, %x", info.Mode(), info.Size(), hash.Sum(nil)[:8]), nil
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return fmt.Sprintf("%s to %s", info.Mode(), target), err
	default:
		return info.Mode().String(), nil
	}
}

// Compare lists the differences from an earlier state, one path each, except
// below the given paths; nil when there are none.
func (d Disk) Compare(before Disk, except ...string) error {
	var all []error
	more := 0
	paths := slices.Sorted(maps.Keys(d))
	for path := range before {
		if _, ok := d[path]; !ok {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		if d[path] == before[path] || below(path, except) {
			continue
		}
		if len(all) == differences {
			more++
			continue
		}
		was, is := before[path], d[path]
		if was == "" {
			was = "nothing"
		}
		if is == "" {
			is = "nothing"
		}
		all = append(all, fmt.Errorf("%s: was %s, is %s", path, was, is))
	}
	if more > 0 {
		all = append(all, fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

func below(path string, tops []string) bool {
	return slices.ContainsFunc(tops, func(top string) bool {
		return path == top || strings.HasPrefix(path, top+"/")
	})
}

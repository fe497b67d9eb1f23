package addon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sizeLimit is far above what the API accepts of a file's objects.
	sizeLimit = 64 << 20
	// settleTime is how long a file must not have changed to be read.
	settleTime = 300 * time.Millisecond
	// writerLimit is how long a program may keep a file open that it has
	// written to, before it is read nevertheless.
	writerLimit = 10 * time.Second
)

// file is a manifest as it lies in the directory.
type file struct {
	path     string // below the directory
	packaged bool
	skipped  bool   // the user keeps it out
	pending  bool   // it is being written, and has not been read yet
	checksum string // empty: it has not been read
	refs     []Ref  // what it holds
	err      error  // why it can't be used
}

// active reports whether the file is one to apply.
func (f *file) active() bool { return f != nil && f.err == nil && !f.skipped && !f.pending }

// tree is a look at the directory of manifests.
type tree struct {
	files     map[string]*file // by the name of the Addon
	unsettled bool             // a file is being written
	partial   error            // why there may be more files
}

// scan looks at the directory. What has not changed is taken from the last look.
// It calls enter for each directory before it reads it.
func scan(dir string, packaged *packaged, last map[string]*file, enter func(dir string)) (tree, error) {
	now := tree{files: map[string]*file{}}
	err := filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && at == dir:
			return err
		case errors.Is(err, fs.ErrNotExist): // gone in this moment
			return nil
		case err != nil:
			now.partial = err
			return nil //nolint:nilerr // the others are to be found
		case at == dir && !entry.IsDir():
			return fmt.Errorf("%s is not a directory", dir)
		case at != dir && strings.HasPrefix(entry.Name(), "."):
			return skipEntry(entry)
		case entry.IsDir():
			enter(at)
			return nil
		}
		name, skip := strings.CutSuffix(at, ".skip")
		if !isManifest(name) {
			return nil
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		id := addonName(relative)
		if skip || isSkipped(at) {
			if !packaged.disabled[relative] || packaged.leavesAlone(relative, name) {
				now.files[id] = &file{path: relative, skipped: true}
			}
			return nil
		}
		f := look(at, relative, packaged, last[id])
		switch {
		case f == nil:
			return nil
		case f.pending:
			now.unsettled = true
			if last[id] != nil {
				f = last[id]
			}
		}
		now.files[id] = f
		return nil
	})
	return now, err
}

func skipEntry(entry fs.DirEntry) error {
	if entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// look reads a file. It returns nil if there is nothing to deploy.
func look(at, relative string, packaged *packaged, last *file) *file {
	content, err := read(at)
	switch {
	case errors.Is(err, errBusy):
		return &file{path: relative, pending: true}
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(at); err != nil { // gone in this moment
			return nil
		}
		return &file{path: relative, err: err} // a link to nothing
	case err != nil:
		return &file{path: relative, err: err}
	}
	owned := packaged.owns(relative, content)
	if owned && packaged.disabled[relative] {
		return nil
	}
	sum := checksum(content)
	if last != nil && last.checksum == sum {
		return last
	}
	f := &file{path: relative, checksum: sum, packaged: owned}
	objects, err := parse(content)
	f.err = err
	for _, object := range objects {
		f.refs = append(f.refs, refOf(object))
	}
	return f
}

func checksum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

var errBusy = errors.New("it is being written")

// read returns the content of a file that nobody is writing.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would take for ever
		return nil, fmt.Errorf("read %s: it is not a regular file", path)
	}
	if info.Size() > sizeLimit {
		return nil, fmt.Errorf("read %s: it is larger than %d MiB", path, sizeLimit>>20)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// A time that is to come was another clock's.
	if age := time.Since(info.ModTime()); age >= 0 {
		if age < settleTime || age < writerLimit && hasWriter(f) {
			return nil, errBusy
		}
	}
	return io.ReadAll(io.LimitReader(f, sizeLimit))
}

// hasWriter reports whether a program has the file open to write to it. Then the
// kernel refuses a read lease, which is given back at once.
func hasWriter(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

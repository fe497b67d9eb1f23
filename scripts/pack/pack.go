package main

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

// pack writes the file out, under a temporary name until it is whole.
func pack(ctx context.Context, launcher, root, out string, compress compressor) (t payload.Trailer, err error) {
	if info, err := os.Stat(filepath.Join(root, payload.Program)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return t, fmt.Errorf("%s has no program %s", root, payload.Program)
	}
	temp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return t, err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	if t, err = write(ctx, temp, launcher, root, compress); err != nil {
		return t, err
	}
	if err := temp.Chmod(0o755); err != nil { // users run it
		return t, err
	}
	if err := errors.Join(temp.Sync(), temp.Close()); err != nil {
		return t, err
	}
	if err := os.Rename(temp.Name(), out); err != nil {
		return t, err
	}
	return t, syncDir(filepath.Dir(out))
}

// write writes launcher, payload and trailer.
func write(ctx context.Context, w io.Writer, launcher, root string, compress compressor) (t payload.Trailer, err error) {
	front := newMeter(w)
	f, err := os.Open(launcher)
	if err != nil {
		return t, err
	}
	_, err = io.Copy(front, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return t, err
	}
	back := newMeter(w)
	list, err := entries(root)
	if err != nil {
		return t, err
	}
	size, err := writePayload(ctx, back, list, compress)
	if err != nil {
		return t, err
	}
	t = payload.Trailer{
		Offset: front.n, Length: back.n, Size: size, Entries: int64(len(list)),
		Sum: back.sum(), LauncherSum: front.sum(),
	}
	_, err = w.Write(t.Append(nil))
	return t, err
}

// writePayload writes the compressed archive and returns its size before
// compression.
func writePayload(ctx context.Context, w io.Writer, list []entry, compress compressor) (size int64, err error) {
	zw, err := compress.open(ctx, w)
	if err != nil {
		return 0, err
	}
	archive := newMeter(zw)
	err = writeTar(archive, list)
	// A compressor that fails is why the archive can't be written to it.
	if closeErr := zw.Close(); closeErr != nil {
		err = closeErr
	}
	return archive.n, err
}

// entry is a file, directory or link below the root.
type entry struct {
	path string
	name string // path below the root, with slashes
	mode fs.FileMode
	size int64 // of a file
}

// entries lists what is below root: directories and links in the order of
// their paths, then files from the largest to the smallest. So programs that
// have much in common stand close together, within the compressor's window.
func entries(root string) ([]entry, error) {
	var list []entry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{path: path, name: filepath.ToSlash(name), mode: info.Mode()}
		if info.Mode().IsRegular() {
			e.size = info.Size()
		}
		list = append(list, e)
		return nil
	})
	slices.SortStableFunc(list, func(a, b entry) int {
		switch {
		case a.mode.IsRegular() == b.mode.IsRegular():
			return cmp.Compare(b.size, a.size)
		case b.mode.IsRegular():
			return -1
		}
		return 1
	})
	return list, err
}

// writeTar archives the entries. Owner, time and all of the mode but the right
// to run are left out: they differ from one build to the next.
func writeTar(w io.Writer, list []entry) error {
	tw := tar.NewWriter(w)
	for _, e := range list {
		if err := writeEntry(tw, e); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, e entry) error {
	hdr := &tar.Header{Name: e.name, Mode: 0o755, ModTime: time.Unix(0, 0)}
	switch e.mode.Type() {
	case fs.ModeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, e.name+"/"
		return tw.WriteHeader(hdr)
	case fs.ModeSymlink:
		target, err := os.Readlink(e.path)
		if err != nil {
			return err
		}
		if err := payload.CheckLink(e.name, target); err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, target
		return tw.WriteHeader(hdr)
	case 0:
		hdr.Typeflag, hdr.Size, hdr.Mode = tar.TypeReg, e.size, int64(payload.Mode(e.mode))
		return writeFile(tw, e.path, hdr)
	}
	return fmt.Errorf("%s: neither a file nor a directory nor a symbolic link", e.path)
}

func writeFile(tw *tar.Writer, path string, hdr *tar.Header) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.Copy(tw, f) // fails if the file has grown, Close if it has shrunk
	return err
}

// meter counts and hashes what is written through it.
type meter struct {
	w    io.Writer
	n    int64
	hash hash.Hash
}

func newMeter(w io.Writer) *meter { return &meter{w: w, hash: sha256.New()} }

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.n += int64(n)
	m.hash.Write(p[:n])
	return n, err
}

func (m *meter) sum() [sha256.Size]byte { return [sha256.Size]byte(m.hash.Sum(nil)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

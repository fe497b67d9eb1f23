package payload

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	copyBuffer = 1 << 20
	// writeback is the number of bytes after which the kernel is asked to
	// begin writing a file to disk, so that the disk works while the rest is
	// being decompressed.
	writeback = 8 << 20
	// decodeAhead is the number of zstd blocks in the decoder at a time. More
	// than there are processors keep it busy while files are written.
	decodeAhead = 4
	// syncers is the number of files flushed at the same time. File systems
	// join flushes that wait for each other into one.
	syncers = 8
)

// extract unpacks the payload of f into the empty directory dir, checks every
// byte of it and flushes everything to disk.
func (f *File) extract(ctx context.Context, dir string, report Reporter) error {
	launcher := sha256.New()
	if _, err := io.Copy(launcher, io.NewSectionReader(f.file, 0, f.Offset)); err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	if [sha256.Size]byte(launcher.Sum(nil)) != f.LauncherSum {
		return &DamagedError{Reason: "its launcher has a wrong checksum"}
	}

	src := &source{ctx: ctx, r: io.NewSectionReader(f.file, f.Offset, f.Length), hash: sha256.New()}
	// With little memory, the decoder would spend most of its time on moving the
	// window about. The checksum over the compressed bytes makes zstd's own
	// superfluous.
	decoder, err := zstd.NewReader(bufio.NewReaderSize(src, copyBuffer),
		zstd.WithDecoderMaxWindow(1<<WindowLog), zstd.WithDecoderLowmem(false),
		zstd.WithDecoderConcurrency(decodeAhead), zstd.IgnoreChecksum(true))
	if err != nil {
		return src.explain(err)
	}
	defer decoder.Close()
	archive := &meter{r: decoder, limit: f.Size, progress: report.Progress}

	entries, err := untar(archive, dir, report)
	if err == nil {
		// What follows the archive's end mark counts for the checksum too.
		_, err = io.Copy(io.Discard, archive)
		err = wrapRead(err)
	}
	if unread := (*readError)(nil); errors.As(err, &unread) {
		return src.explain(unread.err)
	}
	if err != nil {
		return err
	}
	switch {
	case [sha256.Size]byte(src.hash.Sum(nil)) != f.Sum:
		return &DamagedError{Reason: "its payload has a wrong checksum"}
	case archive.n != f.Size, entries != f.Entries:
		return &DamagedError{Reason: fmt.Sprintf("its payload unpacks to %d bytes in %d entries instead of %d in %d", archive.n, entries, f.Size, f.Entries)}
	}
	return nil
}

// source hands the compressed bytes to the decoder and hashes them on the way,
// in whichever goroutine the decoder reads.
type source struct {
	ctx  context.Context
	r    io.Reader
	hash hash.Hash
	mu   sync.Mutex // of err
	err  error      // the first failure to read that is not io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	err := s.ctx.Err()
	var n int
	if err == nil {
		n, err = s.r.Read(p)
		s.hash.Write(p[:n])
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.err = err
		}
	}
	return n, err
}

// explain tells a payload that can't be read from one that makes no sense.
func (s *source) explain(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return fmt.Errorf("read the payload: %w", s.err)
	}
	return &DamagedError{Reason: fmt.Sprintf("its payload can't be read (%v)", err)}
}

var errTooLong = errors.New("longer than announced")

// meter counts the bytes of the archive and stops after limit.
type meter struct {
	r        io.Reader
	n, limit int64
	progress func(done int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n > m.limit {
		return 0, errTooLong
	}
	m.progress(m.n)
	return n, err
}

// readError is a failure on the side of the archive, not of the disk.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func wrapRead(err error) error {
	if err == nil {
		return nil
	}
	return &readError{err}
}

// untar writes the entries of a tar archive below dir, flushes them to disk
// and returns their number. It refuses everything but plain files and
// directories, and symbolic links to inside of dir. A *readError is a fault of
// the archive.
func untar(archive io.Reader, dir string, report Reporter) (entries int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = root.Close() }()
	flush := newFlusher()
	defer func() {
		if flushErr := flush.wait(); err == nil {
			err = flushErr
		}
	}()

	buf := make([]byte, copyBuffer)
	dirs := []string{"."}
	made := map[string]bool{".": true}
	tr := tar.NewReader(archive)
	for ; ; entries++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return entries, wrapRead(err)
		}
		name := strings.TrimSuffix(hdr.Name, "/")
		// Parents must have come as directories: so no path leads through a
		// symbolic link.
		if name == "." || !filepath.IsLocal(name) || path.Clean(name) != name || !made[path.Dir(name)] {
			return entries, wrapRead(fmt.Errorf("unsafe path %q", hdr.Name))
		}
		switch hdr.Typeflag {
		case tar.TypeDir:
			if err := root.Mkdir(name, 0o755); err != nil {
				return entries, err
			}
			if err := root.Chmod(name, 0o755); err != nil {
				return entries, err
			}
			dirs = append(dirs, name)
			made[name] = true
		case tar.TypeReg:
			f, err := create(root, name, hdr.FileInfo().Mode())
			if err != nil {
				return entries, err
			}
			err = fill(f, tr, buf)
			flush.file(f)
			if err != nil {
				return entries, err
			}
		case tar.TypeSymlink:
			if err := CheckLink(name, hdr.Linkname); err != nil {
				return entries, wrapRead(err)
			}
			if err := root.Symlink(hdr.Linkname, name); err != nil {
				return entries, err
			}
		default:
			return entries, wrapRead(fmt.Errorf("%q: entry of type %q", hdr.Name, hdr.Typeflag))
		}
	}
	report.Flushing()
	for _, name := range dirs {
		f, err := root.Open(name)
		if err != nil {
			return entries, err
		}
		flush.file(f)
	}
	return entries, nil
}

// Mode is the mode that a file of the payload gets: all may read it, and run
// it if anybody may.
func Mode(mode os.FileMode) os.FileMode {
	if mode&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// CheckLink says why the symbolic link name, a path in the payload, may not
// have that target. A target must lie in the payload and may use ".." only at
// its start, where it can't lead through another link.
func CheckLink(name, target string) error {
	if path.IsAbs(target) || path.Clean(target) != target || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return fmt.Errorf("symbolic link %q leads out of the payload or takes a detour: %q", name, target)
	}
	return nil
}

func create(root *os.Root, name string, mode os.FileMode) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, Mode(mode))
	if err != nil {
		return nil, err
	}
	// Whatever the umask is.
	if err := f.Chmod(Mode(mode)); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// fill writes all of r to f.
func fill(f *os.File, r io.Reader, buf []byte) error {
	var size, begun int64
	for {
		n, readErr := readChunk(r, buf)
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
		size += int64(n)
		if size-begun >= writeback {
			// Only a hint. That the data is on disk is fsync's promise.
			_ = unix.SyncFileRange(int(f.Fd()), begun, size-begun, unix.SYNC_FILE_RANGE_WRITE)
			begun = size
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return wrapRead(readErr)
		}
	}
}

// readChunk reads until buf is full or there is an error. Unlike io.ReadFull
// it passes io.EOF and io.ErrUnexpectedEOF on as they are.
func readChunk(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// flusher flushes files to disk and closes them, several at a time.
type flusher struct {
	files chan *os.File
	group sync.WaitGroup
	mu    sync.Mutex // of err
	err   error
}

func newFlusher() *flusher {
	fl := &flusher{files: make(chan *os.File, syncers)}
	for range syncers {
		fl.group.Go(func() {
			for f := range fl.files {
				if err := errors.Join(f.Sync(), f.Close()); err != nil {
					fl.mu.Lock()
					fl.err = errors.Join(fl.err, err)
					fl.mu.Unlock()
				}
			}
		})
	}
	return fl
}

// file takes over an open file.
func (fl *flusher) file(f *os.File) { fl.files <- f }

// wait ends the flusher when all files are on disk.
func (fl *flusher) wait() error {
	close(fl.files)
	fl.group.Wait()
	return fl.err
}

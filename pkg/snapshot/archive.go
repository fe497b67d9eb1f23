package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	infoEntry      = "snapshot.json"
	datastoreEntry = "datastore"
	secretsEntry   = "secrets.json"
	sumsEntry      = "SHA256SUMS"

	// maxSmall is the most that an entry other than the datastore may hold.
	maxSmall = 256 << 20
	// maxWindow is far above what Kedge compresses with.
	maxWindow = 64 << 20
)

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// extension is how the name of a snapshot's file ends.
func extension(compress bool) string {
	if compress {
		return ".tar.zst"
	}
	return ".tar"
}

// NameOf is the name of the snapshot in a file; empty for another file.
func NameOf(file string) string {
	base := filepath.Base(file)
	for _, ext := range []string{extension(true), extension(false)} {
		if name, ok := strings.CutSuffix(base, ext); ok && !strings.HasPrefix(base, ".") {
			return name
		}
	}
	return ""
}

// archive writes a snapshot, entry by entry.
type archive struct {
	tar  *tar.Writer
	sums bytes.Buffer
	time time.Time
}

// writeArchive writes a snapshot to w.
func writeArchive(ctx context.Context, w io.Writer, compress bool, info Info, datastore string, secrets []byte) error {
	if compress {
		encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		if err := writeTar(ctx, encoder, info, datastore, secrets); err != nil {
			_ = encoder.Close()
			return err
		}
		return encoder.Close()
	}
	return writeTar(ctx, w, info, datastore, secrets)
}

func writeTar(ctx context.Context, w io.Writer, info Info, datastore string, secrets []byte) error {
	a := &archive{tar: tar.NewWriter(w), time: info.Created}
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	if err := a.bytes(infoEntry, append(text, '\n')); err != nil {
		return err
	}
	copied, err := os.Open(datastore)
	if err != nil {
		return err
	}
	defer func() { _ = copied.Close() }()
	stat, err := copied.Stat()
	if err != nil {
		return err
	}
	if err := a.add(datastoreEntry, stat.Size(), &reader{ctx, copied}); err != nil {
		return err
	}
	if err := a.bytes(secretsEntry, secrets); err != nil {
		return err
	}
	if err := a.bytes(sumsEntry, a.sums.Bytes()); err != nil {
		return err
	}
	return a.tar.Close()
}

func (a *archive) bytes(name string, content []byte) error {
	return a.add(name, int64(len(content)), bytes.NewReader(content))
}

func (a *archive) add(name string, size int64, content io.Reader) error {
	err := a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: a.time.Truncate(time.Second), Format: tar.FormatUSTAR})
	if err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(a.tar, hash), content); err != nil {
		return err
	}
	fmt.Fprintf(&a.sums, "%x  %s\n", hash.Sum(nil), name)
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context // of one copy
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// content is what readArchive finds beside the datastore.
type content struct {
	info    Info
	sum     string // of the datastore, SHA-256 in hexadecimal digits
	secrets []byte
}

// errDamaged says that a file is no snapshot, or not all of one.
var errDamaged = errors.New("the snapshot is damaged")

// readArchive reads a snapshot, writes its datastore to w, and checks all of it.
func readArchive(ctx context.Context, path string, w io.Writer) (content, error) {
	c, err := readAll(ctx, path, w)
	if err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, errNewer) {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	return c, err
}

func readAll(ctx context.Context, path string, w io.Writer) (content, error) {
	archive, closeArchive, err := openArchive(ctx, path)
	if err != nil {
		return content{}, err
	}
	defer closeArchive()
	c, found := content{}, map[string]string{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return c, errors.New("it ends before its checksums")
		}
		if err != nil {
			return c, err
		}
		if _, again := found[header.Name]; again {
			return c, fmt.Errorf("it has %s twice", header.Name)
		}
		hash := sha256.New()
		entry := io.TeeReader(archive, hash)
		switch header.Name {
		case infoEntry:
			c.info, err = decodeInfo(entry)
		case datastoreEntry:
			_, err = io.Copy(w, entry)
		case secretsEntry:
			c.secrets, err = readSmall(entry)
		case sumsEntry:
			sums, err := readSmall(entry)
			if err != nil {
				return c, err
			}
			c.sum = found[datastoreEntry]
			return c, compareSums(string(sums), found)
		default:
			err = fmt.Errorf("it has an entry %q", header.Name)
		}
		if err != nil {
			return c, err
		}
		found[header.Name] = hex.EncodeToString(hash.Sum(nil))
	}
}

// compareSums checks what was found against the list of checksums.
func compareSums(list string, found map[string]string) error {
	listed := 0
	for line := range strings.Lines(list) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || found[name] != sum {
			return errors.New("a checksum does not fit")
		}
		listed++
	}
	if listed != len(found) || found[infoEntry] == "" || found[datastoreEntry] == "" || found[secretsEntry] == "" {
		return errors.New("a part of it is missing")
	}
	return nil
}

// readInfo reads what a snapshot is of, and no more of it.
func readInfo(ctx context.Context, path string) (Info, error) {
	archive, closeArchive, err := openArchive(ctx, path)
	if err != nil {
		return Info{}, err
	}
	defer closeArchive()
	header, err := archive.Next()
	if err != nil {
		return Info{}, err
	}
	if header.Name != infoEntry {
		return Info{}, errors.New("it is not a snapshot of Kedge")
	}
	return decodeInfo(archive)
}

// errNewer says that a snapshot is from a Kedge of the future.
var errNewer = errors.New("the snapshot was taken by a newer Kedge than this one: install that")

func decodeInfo(r io.Reader) (Info, error) {
	text, err := readSmall(r)
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(text, &info); err != nil {
		return Info{}, err
	}
	if info.Format > format {
		return info, errNewer
	}
	return info, nil
}

func readSmall(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	if err == nil && len(text) > maxSmall {
		err = errors.New("an entry is too large")
	}
	return text, err
}

// openArchive opens a snapshot, compressed or not.
func openArchive(ctx context.Context, path string) (archive *tar.Reader, closeArchive func(), err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	buffered := bufio.NewReaderSize(&reader{ctx, file}, 1<<16)
	if magic, _ := buffered.Peek(len(zstdMagic)); !bytes.Equal(magic, zstdMagic) {
		return tar.NewReader(buffered), func() { _ = file.Close() }, nil
	}
	decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return tar.NewReader(decoder), func() { decoder.Close(); _ = file.Close() }, nil
}

// Package payload reads, unpacks and clears away what the kedge file carries.
//
// The file that users download is a launcher program, one zstd-compressed tar
// archive (the payload) and a [Trailer] that says where the archive lies.
// The payload is unpacked once into <data-dir>/data/<id>, where <id> is the
// start of its SHA-256. A directory of that name is complete: it is made under
// a temporary name, flushed to disk and renamed.
package payload

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Program is the path, inside the payload, of the program that the launcher
// runs.
const Program = "bin/kedge"

// WindowLog is the binary logarithm of the largest zstd window that a payload
// may use. Decoding takes twice the window in memory, 128 MiB here; a window
// twice as long makes the file only a hundredth smaller.
const WindowLog = 26

// File is an open kedge file.
type File struct {
	Trailer
	name string
	file *os.File
}

// Open opens the kedge file at path and reads its trailer. Messages call the
// file name, which may differ from path where path is a link in /proc.
// A file that is not whole gives a *[DamagedError].
func Open(path, name string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the payload of %s: %w", name, err)
	}
	info, err := f.Stat()
	if err == nil {
		var t Trailer
		if t, err = ReadTrailer(f, info.Size()); err == nil {
			return &File{Trailer: t, name: name, file: f}, nil
		}
	}
	_ = f.Close() // opened for reading only: nothing to lose
	return nil, nameDamaged(err, name)
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Dir is the directory for the payload with the given id below dataDir.
func Dir(dataDir, id string) string {
	return filepath.Join(storeDir(dataDir), id)
}

// Current tells from the path of a running program, as in /proc/self/exe, the
// root of the payload it belongs to and the data directory which holds that.
// It fails for a program that doesn't lie in the bin directory of an unpacked
// payload, such as one started from where it was built.
func Current(exe string) (root, dataDir string, err error) {
	bin := filepath.Dir(exe)
	root = filepath.Dir(bin)
	store := filepath.Dir(root)
	dataDir = filepath.Dir(store)
	if !filepath.IsAbs(exe) || filepath.Base(bin) != "bin" || !isID(filepath.Base(root)) || store != storeDir(dataDir) {
		return "", "", fmt.Errorf("%s is not in an unpacked payload (<data-dir>/data/<id>/bin)", exe)
	}
	return root, dataDir, nil
}

// storeDir is the directory that holds the unpacked payloads.
func storeDir(dataDir string) string { return filepath.Join(dataDir, "data") }

func isID(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == idBytes && name == strings.ToLower(name)
}

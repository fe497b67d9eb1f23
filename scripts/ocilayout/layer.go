package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is an entry of a layer, owned by root.
type file struct {
	name    string // from the root, without the leading slash; a directory's ends in one
	mode    int64  // permission bits; unused for a symbolic link
	link    string // where a symbolic link points to
	content []byte
}

// pack makes a tar archive of files, in their order, with all times at the epoch.
func pack(files []file) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		header := tar.Header{
			Format:   tar.FormatUSTAR,
			Typeflag: tar.TypeReg,
			Name:     f.name,
			Mode:     f.mode,
			Size:     int64(len(f.content)),
			ModTime:  time.Unix(0, 0),
		}
		switch {
		case f.link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.link, 0o777
		case strings.HasSuffix(f.name, "/"):
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("file %s: %w", f.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("file %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// compress returns the archive as it is stored, with its media type. It takes the
// zstd program and nothing else: its best levels are a tenth smaller than those of
// the Go libraries, and digests must not depend on which of them is at hand.
func compress(ctx context.Context, archive []byte, level int) ([]byte, string, error) {
	if level == 0 {
		return archive, v1.MediaTypeImageLayer, nil
	}
	// From level 20 on, windows are larger than small machines like to decode.
	if level < 0 || level > 19 {
		return nil, "", fmt.Errorf("zstd level %d: want 0 to 19", level)
	}
	cmd := exec.CommandContext(ctx, "zstd", fmt.Sprintf("-%d", level), "-T0", "-q", "-c") //nolint:gosec // a number
	cmd.Stdin = bytes.NewReader(archive)
	var compressed, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &compressed, &said
	if err := cmd.Run(); err != nil {
		return nil, "", fmt.Errorf("%s: %w %s", cmd, err, bytes.TrimSpace(said.Bytes()))
	}
	return compressed.Bytes(), v1.MediaTypeImageLayerZstd, nil
}

package payload

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	magic         = "KEDGEPKG"
	formatVersion = 1
	// TrailerSize is the length in bytes of an encoded trailer.
	TrailerSize = 112
)

// Trailer is the end of a kedge file. Encoded, it is, in little-endian order:
//
//	magic "KEDGEPKG"                   8 bytes
//	format version                     4
//	CRC-32 of all other trailer bytes  4
//	Offset, Length, Size, Entries      8 each
//	Sum, LauncherSum                  32 each
type Trailer struct {
	Offset      int64             // where the payload begins: the length of the launcher
	Length      int64             // length of the payload as stored, in bytes
	Size        int64             // length of the tar archive it decompresses to, in bytes
	Entries     int64             // number of files, directories and links in it
	Sum         [sha256.Size]byte // of the payload as stored
	LauncherSum [sha256.Size]byte // of the launcher
}

// idBytes is how much of the checksum names a payload.
const idBytes = 8

// ID names the payload: the first 16 hexadecimal digits of its SHA-256.
func (t Trailer) ID() string { return hex.EncodeToString(t.Sum[:idBytes]) }

// FileSize is the length in bytes of the whole kedge file.
func (t Trailer) FileSize() int64 { return t.Offset + t.Length + TrailerSize }

// Append appends the encoded trailer to b.
func (t Trailer) Append(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = append(b, 0, 0, 0, 0)
	for _, v := range []int64{t.Offset, t.Length, t.Size, t.Entries} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v)) //nolint:gosec // read back the same way
	}
	b = append(b, t.Sum[:]...)
	b = append(b, t.LauncherSum[:]...)
	binary.LittleEndian.PutUint32(b[start+12:], trailerCRC(b[start:]))
	return b
}

// ReadTrailer reads the trailer of a kedge file of the given size. A trailer
// that is missing or doesn't fit the file gives a *[DamagedError].
func ReadTrailer(r io.ReaderAt, size int64) (Trailer, error) {
	if size < TrailerSize {
		return Trailer{}, &DamagedError{Reason: "it is too short"}
	}
	b := make([]byte, TrailerSize)
	if _, err := r.ReadAt(b, size-TrailerSize); err != nil {
		return Trailer{}, fmt.Errorf("read the trailer: %w", err)
	}
	if string(b[:8]) != magic {
		return Trailer{}, &DamagedError{Reason: "its end is missing"}
	}
	if trailerCRC(b) != binary.LittleEndian.Uint32(b[12:]) {
		return Trailer{}, &DamagedError{Reason: "its trailer has a wrong checksum"}
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return Trailer{}, &DamagedError{Reason: fmt.Sprintf("its format is version %d, its launcher knows version %d", v, formatVersion)}
	}
	var t Trailer
	for i, v := range []*int64{&t.Offset, &t.Length, &t.Size, &t.Entries} {
		*v = int64(binary.LittleEndian.Uint64(b[16+8*i:])) //nolint:gosec // negative values are refused below
		if *v < 0 {
			return Trailer{}, &DamagedError{Reason: "its trailer makes no sense"}
		}
	}
	copy(t.Sum[:], b[48:])
	copy(t.LauncherSum[:], b[80:])
	if body := size - TrailerSize; t.Offset > body || t.Length != body-t.Offset {
		return Trailer{}, &DamagedError{Reason: fmt.Sprintf("it is %d bytes long instead of %d", size, t.FileSize())}
	}
	return t, nil
}

func trailerCRC(b []byte) uint32 {
	crc := crc32.ChecksumIEEE(b[:12])
	return crc32.Update(crc, crc32.IEEETable, b[16:])
}

package payload

import (
	"bytes"
	"errors"
	"testing"
)

func TestTrailerRoundTrip(t *testing.T) {
	content, want := join([]byte("packed"), 1234, 5)
	if int64(len(content)) != want.FileSize() {
		t.Errorf("FileSize %d, want %d", want.FileSize(), len(content))
	}
	got, err := ReadTrailer(bytes.NewReader(content), int64(len(content)))
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if id := got.ID(); !isID(id) {
		t.Errorf("id %q is none", id)
	}
}

func TestTrailerDamaged(t *testing.T) {
	content, _ := join([]byte("packed"), 1234, 5)
	check := func(what string, at int, b []byte) {
		t.Helper()
		_, err := ReadTrailer(bytes.NewReader(b), int64(len(b)))
		if damaged := (*DamagedError)(nil); !errors.As(err, &damaged) {
			t.Errorf("%s %d: got %v", what, at, err)
		}
	}
	for at := len(content) - TrailerSize; at < len(content); at++ {
		b := bytes.Clone(content)
		b[at] ^= 0x10
		check("flipped bit in byte", at, b)
	}
	for size := range len(content) {
		check("cut to", size, content[:size])
	}
	check("missing first byte", 0, content[1:])
	check("added byte", 0, append([]byte{0}, content...))
	future := Trailer{}.Append(nil)
	future[8]++
	crc := trailerCRC(future)
	future[12], future[13], future[14], future[15] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	check("future version", 0, future)
	check("negative offset", 0, Trailer{Offset: -1, Length: 1}.Append(nil))
}

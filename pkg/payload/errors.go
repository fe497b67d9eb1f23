package payload

import (
	"errors"
	"fmt"
)

// DamagedError says that a kedge file isn't what was published.
type DamagedError struct {
	File   string
	Reason string
}

func (e *DamagedError) Error() string {
	name := e.File
	if name == "" {
		name = "with the payload"
	}
	return fmt.Sprintf("the file %s is damaged: %s; download it again", name, e.Reason)
}

// nameDamaged sets the file name in a *DamagedError and adds it to any other
// error.
func nameDamaged(err error, name string) error {
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		damaged.File = name
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// NoSpaceError says that a payload doesn't fit on a file system.
type NoSpaceError struct {
	FileSystem string // mount point, type and source
	Need, Free int64
	Inodes     bool // Need and Free count inodes, not bytes
}

func (e *NoSpaceError) Error() string {
	if e.Inodes {
		return fmt.Sprintf("not enough inodes on the file system %s: %d needed, %d available", e.FileSystem, e.Need, e.Free)
	}
	const mb = 1e6
	// Need rounds up and Free down, so that the two never look alike.
	return fmt.Sprintf("not enough space on the file system %s: %d MB needed, %d MB available", e.FileSystem, (e.Need+mb-1)/mb, e.Free/mb)
}

// NoExecError says that programs can't be run from a file system.
type NoExecError struct {
	FileSystem string // mount point, type and source
}

func (e *NoExecError) Error() string {
	return fmt.Sprintf("the file system %s is mounted noexec: no program can be run from it", e.FileSystem)
}

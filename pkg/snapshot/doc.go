// Package snapshot keeps backups of a server, each in one file: the datastore,
// and what else a bare machine needs to become that server again.
//
// A snapshot is a tar archive, perhaps compressed with zstd, of
//
//	snapshot.json   what it is of, an [Info]
//	datastore       a consistent copy of the datastore
//	secrets.json    authorities, keys, tokens and manifests, encrypted with the
//	                secret of the server's token, and bound to that datastore
//	SHA256SUMS      the checksums of all others, as sha256sum -c reads them
//
// The last entry is missing from a file that was cut short.
package snapshot

import (
	"context"
	"time"
)

// Datastore is what a snapshot is taken of and put back into.
type Datastore interface {
	// Kind tells datastores apart whose copies are of no use to each other.
	Kind() string
	// State names the content as far as it is worth a snapshot: between two
	// equal states nothing has changed but what changes all the time.
	State(ctx context.Context) (string, error)
	// Backup writes a consistent copy to a file that does not exist yet.
	Backup(ctx context.Context, file string) error
	// CheckCopy says whether a file that Backup wrote is whole.
	CheckCopy(ctx context.Context, file string) error
	// Revision is the last one of the datastore, which nobody uses, as far as it can
	// be read; 0 if there is none.
	Revision(ctx context.Context) int64
	// Prepare changes a file that Backup wrote to what a restore needs: its revisions
	// go on far behind its own, and behind the one that is past.
	Prepare(ctx context.Context, file string, past int64) error
	// SetAside moves the datastore, which nobody uses, into the directory aside.
	SetAside(ctx context.Context, aside string) error
	// Install puts a prepared file in the place of the datastore, which was set aside.
	Install(ctx context.Context, file string) error
}

// Info says what a snapshot is of.
type Info struct {
	Format    int       `json:"format"`
	Name      string    `json:"name"`
	Prefix    string    `json:"prefix"` // of the name: retention counts those of one prefix and node
	Node      string    `json:"node"`
	Created   time.Time `json:"created"`
	Version   string    `json:"version"`   // the Kedge that took it
	Datastore string    `json:"datastore"` // its kind
	State     string    `json:"state"`     // of the datastore
	CAHash    string    `json:"caHash"`    // of the cluster, as in its tokens
}

// format is the version of the archive's layout that this Kedge writes, and the
// newest that it reads.
const format = 1

// File is a snapshot where it lies.
type File struct {
	Info

	Location string `json:"location"` // file:///… or s3://…
	Size     int64  `json:"size"`     // bytes
	Damage   string `json:"damage,omitempty"`
	Copy     string `json:"copy,omitempty"`    // where it was copied to
	Pending  string `json:"pending,omitempty"` // why it is not copied yet
}

// Listing are all snapshots that could be found.
type Listing struct {
	Files   []File `json:"files"`
	Warning string `json:"warning,omitempty"` // why some may be missing
}

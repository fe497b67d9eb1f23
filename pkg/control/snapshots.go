package control

import "time"

// SnapshotLimit is how long it may take to save or delete snapshots, at command and
// by schedule: a large datastore, a slow disk, S3.
const SnapshotLimit = 30 * time.Minute

// Commands about snapshots, on servers.
const (
	// SaveSnapshot takes a snapshot; its answer is that.
	SaveSnapshot = "save-snapshot"
	// ListSnapshots answers with all snapshots.
	ListSnapshots = "list-snapshots"
	// DeleteSnapshots deletes snapshots by their names.
	DeleteSnapshots = "delete-snapshots"
	// PruneSnapshots deletes the oldest snapshots of a prefix, and answers with
	// their names.
	PruneSnapshots = "prune-snapshots"
)

// Snapshots asks for something about snapshots. What is not given is as the
// server is configured.
type Snapshots struct {
	Prefix   string   `json:"prefix,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	Compress *bool    `json:"compress,omitempty"`
	Keep     *int     `json:"keep,omitempty"`
	Names    []string `json:"names,omitempty"`
}

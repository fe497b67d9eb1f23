package s3

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/kedge-k8s/kedge/pkg/snapshot"
)

// newBucket is one of a server that this test runs.
func newBucket(t *testing.T, folder string) (*Bucket, *httptest.Server) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	bucket, err := New(Config{
		Endpoint: strings.TrimPrefix(server.URL, "http://"), Insecure: true, AccessKey: "a", SecretKey: "s3cret",
		Bucket: "backups", BucketLookup: "path", Region: "us-east-1", Folder: folder, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return bucket, server
}

func TestBucket(t *testing.T) {
	for _, folder := range []string{"", "one/two"} {
		bucket, _ := newBucket(t, folder)
		dir := t.TempDir()
		created := time.Unix(1700000000, 0).UTC()
		for i, name := range []string{"snapshot-node-1.tar", "snapshot-node-2.tar.zst", "note.txt"} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
			info := snapshot.Info{Prefix: "snapshot", Node: "node", Created: created.Add(time.Duration(i) * time.Second)}
			if err := bucket.Put(t.Context(), path, info); err != nil {
				t.Fatal(err)
			}
		}
		files, err := bucket.List(t.Context())
		if err != nil || len(files) != 2 {
			t.Fatalf("the list is %+v, %v", files, err)
		}
		newest := files[0]
		want := "s3://backups/" + strings.TrimPrefix(folder+"/snapshot-node-2.tar.zst", "/")
		if newest.Name != "snapshot-node-2" || newest.Node != "node" || newest.Prefix != "snapshot" || newest.Location != want || newest.Size != 23 || !newest.Created.Equal(created.Add(time.Second)) {
			t.Errorf("the newest is %+v", newest)
		}
		file, err := bucket.Get(t.Context(), newest, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(file); err != nil || string(content) != "snapshot-node-2.tar.zst" || filepath.Base(file) != string(content) {
			t.Errorf("%s holds %q, %v", file, content, err)
		}
		if err := bucket.Delete(t.Context(), newest); err != nil {
			t.Fatal(err)
		}
		if files, err := bucket.List(t.Context()); err != nil || len(files) != 1 {
			t.Errorf("after the deletion the list is %+v, %v", files, err)
		}
	}
}

func TestNoServer(t *testing.T) {
	bucket, server := newBucket(t, "")
	server.Close()
	_, err := bucket.List(t.Context())
	if err == nil || !strings.Contains(err.Error(), "s3://backups") || !strings.Contains(err.Error(), bucket.config.Endpoint) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error is %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []Config{
		{Endpoint: "s3.example.com"},
		{Endpoint: "s3.example.com", Bucket: "b", CA: []byte("no certificate")},
		{Endpoint: "https://s3.example.com", Bucket: "b"},
	} {
		if _, err := New(c); err == nil || !strings.HasPrefix(err.Error(), "s3: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

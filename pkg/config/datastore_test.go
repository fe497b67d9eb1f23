package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func defaultSnapshots() Snapshots {
	return Snapshots{
		Schedule: "0 */12 * * *", Retention: 5, Dir: "/var/lib/kedge/server/db/snapshots", Name: "snapshot",
		S3: S3{Endpoint: "s3.amazonaws.com", BucketLookup: "auto", Region: "us-east-1", Timeout: 5 * time.Minute, Retention: 5},
	}
}

func everyDatastoreOption() map[string][]string {
	return map[string][]string{
		"datastore-endpoint":          {"postgres://kedge:secret@db.example.com:5432/kedge"},
		"datastore-cafile":            {"/etc/db/ca.crt"},
		"datastore-certfile":          {"/etc/db/client.crt"},
		"datastore-keyfile":           {"/etc/db/client.key"},
		"etcd-disable-snapshots":      {"true"},
		"etcd-snapshot-schedule-cron": {"15 3 * * *"},
		"etcd-snapshot-retention":     {"7"},
		"etcd-snapshot-dir":           {"/backup"},
		"etcd-snapshot-name":          {"nightly"},
		"etcd-snapshot-compress":      {"true"},
		"etcd-s3":                     {"true"},
		"etcd-s3-endpoint":            {"s3.example.com:9000"},
		"etcd-s3-endpoint-ca":         {"/etc/s3/ca.crt"},
		"etcd-s3-skip-ssl-verify":     {"true"},
		"etcd-s3-access-key":          {"access"},
		"etcd-s3-secret-key":          {"secret"},
		"etcd-s3-session-token":       {"session"},
		"etcd-s3-bucket":              {"backups"},
		"etcd-s3-bucket-lookup-type":  {"path"},
		"etcd-s3-region":              {"eu-central-1"},
		"etcd-s3-folder":              {"kedge/one"},
		"etcd-s3-proxy":               {"http://proxy.example.com:3128"},
		"etcd-s3-config-secret":       {"s3"},
		"etcd-s3-insecure":            {"true"},
		"etcd-s3-timeout":             {"30s"},
		"etcd-s3-retention":           {"9"},
	}
}

func everyDatastore() Datastore {
	return Datastore{
		Endpoint: "postgres://kedge:secret@db.example.com:5432/kedge",
		CAFile:   "/etc/db/ca.crt", CertFile: "/etc/db/client.crt", KeyFile: "/etc/db/client.key",
	}
}

func everySnapshots() Snapshots {
	return Snapshots{
		Disabled: true, Schedule: "15 3 * * *", Retention: 7, Dir: "/backup", Name: "nightly", Compress: true,
		S3: S3{
			Enabled: true, Endpoint: "s3.example.com:9000", EndpointCA: "/etc/s3/ca.crt", SkipVerify: true,
			AccessKey: "access", SecretKey: "secret", SessionToken: "session", Bucket: "backups", BucketLookup: "path",
			Region: "eu-central-1", Folder: "kedge/one", Proxy: "http://proxy.example.com:3128", ConfigSecret: "s3",
			Insecure: true, Timeout: 30 * time.Second, Retention: 9,
		},
	}
}

func TestDatastoreEndpoint(t *testing.T) {
	for _, good := range []string{
		"https://a:2379,https://b:2379", "http://127.0.0.1:2379", "postgres://u:p@h/d?sslmode=disable", "postgresql://h/d",
		"mysql://u:p@tcp(h:3306)/d", "mysql://u:p@unix(/run/mysqld/mysqld.sock)/d", "nats://u:p@h:4222?bucket=x",
	} {
		s, err := load(t, nil, nil, Flags{"datastore-endpoint": {good}})
		if err != nil || s.Datastore.Endpoint.Reveal() != good {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"s3cret", "u:s3cret@h", "oracle://u:s3cret@h/d", "postgres://", "https://u:s3cret@h:2379", "https://a,ftp://s3cret", "file:/nowhere/s3cret-file",
	} {
		_, err := load(t, nil, nil, Flags{"datastore-endpoint": {bad}})
		if err == nil || !strings.HasPrefix(err.Error(), "--datastore-endpoint") {
			t.Errorf("%s: %v", bad, err)
		}
		if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), "s3cret-file", ""), "s3cret") {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}

func TestDatastoreEndpointInFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoint")
	for content, want := range map[string]string{
		"mysql://u:s3cret@tcp(h)/d\n": "mysql://u:s3cret@tcp(h)/d",
		"s3cret":                      "",
		"":                            "",
		"file:/etc/s3cret":            "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := load(t, nil, nil, Flags{"datastore-endpoint": {"file:" + file}})
		switch {
		case want != "" && (err != nil || s.Datastore.Endpoint.Reveal() != want):
			t.Errorf("%q: %v", content, err)
		case want == "" && (err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%q: error %v", content, err)
		}
	}
}

func TestDatastoreTogether(t *testing.T) {
	for _, test := range []struct {
		flags Flags
		want  string
	}{
		{Flags{"datastore-cafile": {"/ca"}}, "--datastore-cafile: has no effect without datastore-endpoint"},
		{Flags{"datastore-endpoint": {"https://a:2379"}, "datastore-keyfile": {"/k"}}, "--datastore-keyfile: has no effect without datastore-certfile"},
		{Flags{"datastore-endpoint": {"https://a:2379"}, "datastore-auto-restore": {"true"}}, "--datastore-auto-restore: has no effect with datastore-endpoint"},
		{Flags{"etcd-s3": {"true"}}, "--etcd-s3: needs a bucket"},
		{Flags{"etcd-s3-endpoint": {"https://s3.example.com"}}, "--etcd-s3-endpoint: \"https://s3.example.com\" is a URL; give s3.example.com"},
		{Flags{"etcd-snapshot-schedule-cron": {"hourly"}}, "--etcd-snapshot-schedule-cron: \"hourly\" is not a cron schedule"},
		{Flags{"etcd-snapshot-name": {"A B"}}, "--etcd-snapshot-name: \"A B\" is no name"},
		{Flags{"etcd-s3-timeout": {"5"}}, "--etcd-s3-timeout: \"5\" is no length of time"},
		{Flags{"etcd-s3-proxy": {"u:p@proxy"}}, "--etcd-s3-proxy: is not the URL of a proxy"},
	} {
		_, err := load(t, nil, nil, test.flags)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%v: error %v, want %s", test.flags, err, test.want)
		}
	}
}

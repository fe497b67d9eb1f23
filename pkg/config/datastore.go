package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Categories of the options below.
const (
	categoryDatastore = "Datastore"
	categorySnapshots = "Snapshots"
)

// Datastore says where the cluster's state is kept.
type Datastore struct {
	// Endpoint is of an external datastore, with its credentials; empty: SQLite.
	Endpoint Secret
	CAFile   string // of the authorities that vouch for the datastore; empty: the system's
	CertFile string // of the client certificate; given if and only if KeyFile is
	KeyFile  string

	AutoRestore bool // go back to the last good snapshot when SQLite's file is damaged
}

// Snapshots says when backups of the datastore are taken, and where they go.
type Snapshots struct {
	Disabled  bool
	Schedule  string // cron's five fields, in local time
	Retention int
	Dir       string
	Name      string // how their names begin
	Compress  bool
	S3        S3
}

// S3 is where snapshots are copied to.
type S3 struct {
	Enabled      bool
	Endpoint     string // HOST[:PORT]
	EndpointCA   string // file
	SkipVerify   bool
	AccessKey    string
	SecretKey    Secret
	SessionToken Secret
	Bucket       string
	BucketLookup string // auto, dns or path
	Region       string
	Folder       string
	Proxy        string
	ConfigSecret string // Secret in kube-system with all of these
	Insecure     bool   // plain HTTP
	Timeout      time.Duration
	Retention    int
}

// datastoreOptions say where the cluster's state is kept.
func datastoreOptions() []Option {
	return []Option{
		{
			Name: "datastore-endpoint", Category: categoryDatastore,
			Help: "Keep the cluster's state at this `URL` of an etcd, PostgreSQL, MySQL, MariaDB or NATS, or at the one in a file, given as file:PATH (default: SQLite in data-dir)",
			bind: one(parseDatastore, func(s *Server) *Secret { return &s.Datastore.Endpoint }),
		},
		{
			Name: "datastore-cafile", Category: categoryDatastore,
			Help: "Trust the authorities in this `FILE` to vouch for the external datastore",
			bind: one(parsePath, func(s *Server) *string { return &s.Datastore.CAFile }),
		},
		{
			Name: "datastore-certfile", Category: categoryDatastore,
			Help: "Show the client certificate in this `FILE` to the external datastore; with datastore-keyfile",
			bind: one(parsePath, func(s *Server) *string { return &s.Datastore.CertFile }),
		},
		{
			Name: "datastore-keyfile", Category: categoryDatastore,
			Help: "Use the key in this `FILE` with datastore-certfile",
			bind: one(parsePath, func(s *Server) *string { return &s.Datastore.KeyFile }),
		},
		{
			Name: "datastore-auto-restore", Kind: Bool, Category: categoryDatastore,
			Help: "Go back to the last good snapshot by itself when SQLite's file is found damaged at the start",
			bind: one(parseBool, func(s *Server) *bool { return &s.Datastore.AutoRestore }),
		},
	}
}

// SnapshotOptions say when snapshots are taken, and where they go. kedge
// snapshot has them too.
func SnapshotOptions() []Option {
	s3 := func(name string, o Option) Option {
		o.Name, o.Category = "etcd-s3"+name, categorySnapshots
		return o
	}
	return []Option{
		{
			Name: "etcd-disable-snapshots", Kind: Bool, Category: categorySnapshots,
			Help: "Take no snapshots by schedule",
			bind: one(parseBool, func(s *Server) *bool { return &s.Snapshots.Disabled }),
		},
		{
			Name: "etcd-snapshot-schedule-cron", Default: "0 */12 * * *", Category: categorySnapshots,
			Help: "Take a snapshot of the datastore by this cron `SCHEDULE`, in local time, if something has changed",
			bind: one(parseSchedule, func(s *Server) *string { return &s.Snapshots.Schedule }),
		},
		{
			Name: "etcd-snapshot-retention", Kind: Int, Default: "5", Category: categorySnapshots,
			Help: "Keep this `NUMBER` of scheduled snapshots; 0 keeps all",
			bind: one(parseRetention, func(s *Server) *int { return &s.Snapshots.Retention }),
		},
		{
			Name: "etcd-snapshot-dir", Category: categorySnapshots,
			Help: "Keep snapshots in this `DIRECTORY` (default: server/db/snapshots in data-dir)",
			bind: one(parsePath, func(s *Server) *string { return &s.Snapshots.Dir }),
		},
		{
			Name: "etcd-snapshot-name", Default: "snapshot", Category: categorySnapshots,
			Help: "Begin the names of scheduled snapshots with this `NAME`; the node's name and the time follow",
			bind: one(parseSnapshotName, func(s *Server) *string { return &s.Snapshots.Name }),
		},
		{
			Name: "etcd-snapshot-compress", Kind: Bool, Category: categorySnapshots,
			Help: "Compress snapshots",
			bind: one(parseBool, func(s *Server) *bool { return &s.Snapshots.Compress }),
		},
		s3("", Option{
			Kind: Bool,
			Help: "Copy snapshots to an S3 bucket too",
			bind: one(parseBool, func(s *Server) *bool { return &s.Snapshots.S3.Enabled }),
		}),
		s3("-endpoint", Option{
			Default: "s3.amazonaws.com",
			Help:    "Reach S3 at this `HOST`, with a port unless it is the usual one",
			bind:    one(parseS3Endpoint, func(s *Server) *string { return &s.Snapshots.S3.Endpoint }),
		}),
		s3("-endpoint-ca", Option{
			Help: "Trust the authorities in this `FILE` to vouch for the S3 server",
			bind: one(parsePath, func(s *Server) *string { return &s.Snapshots.S3.EndpointCA }),
		}),
		s3("-skip-ssl-verify", Option{
			Kind: Bool,
			Help: "Do not check the certificate of the S3 server",
			bind: one(parseBool, func(s *Server) *bool { return &s.Snapshots.S3.SkipVerify }),
		}),
		s3("-access-key", Option{
			Help: "Show this access `KEY` to S3 (default: AWS_ACCESS_KEY_ID)",
			bind: one(parseText, func(s *Server) *string { return &s.Snapshots.S3.AccessKey }),
		}),
		s3("-secret-key", Option{
			Help: "Sign requests to S3 with this secret `KEY` (default: AWS_SECRET_ACCESS_KEY)",
			bind: one(parseSecret, func(s *Server) *Secret { return &s.Snapshots.S3.SecretKey }),
		}),
		s3("-session-token", Option{
			Help: "Show this session `TOKEN` to S3 (default: AWS_SESSION_TOKEN)",
			bind: one(parseSecret, func(s *Server) *Secret { return &s.Snapshots.S3.SessionToken }),
		}),
		s3("-bucket", Option{
			Help: "Copy snapshots into this S3 `BUCKET`",
			bind: one(parseText, func(s *Server) *string { return &s.Snapshots.S3.Bucket }),
		}),
		s3("-bucket-lookup-type", Option{
			Default: "auto", Choices: bucketLookups(),
			Help: "Name the S3 bucket in this `WAY` in requests: auto, dns or path",
			bind: one(choice("way", bucketLookups()), func(s *Server) *string { return &s.Snapshots.S3.BucketLookup }),
		}),
		s3("-region", Option{
			Default: "us-east-1",
			Help:    "Look for the S3 bucket in this `REGION`",
			bind:    one(parseText, func(s *Server) *string { return &s.Snapshots.S3.Region }),
		}),
		s3("-folder", Option{
			Help: "Copy snapshots into this `FOLDER` of the S3 bucket",
			bind: one(parseText, func(s *Server) *string { return &s.Snapshots.S3.Folder }),
		}),
		s3("-proxy", Option{
			Help: "Reach S3 through the proxy at this `URL` (default: HTTPS_PROXY and NO_PROXY)",
			bind: one(parseProxy, func(s *Server) *string { return &s.Snapshots.S3.Proxy }),
		}),
		s3("-config-secret", Option{
			Help: "Take all etcd-s3 options from this `SECRET` in kube-system, where none but etcd-s3 is given",
			bind: one(parseText, func(s *Server) *string { return &s.Snapshots.S3.ConfigSecret }),
		}),
		s3("-insecure", Option{
			Kind: Bool,
			Help: "Talk to S3 without TLS",
			bind: one(parseBool, func(s *Server) *bool { return &s.Snapshots.S3.Insecure }),
		}),
		s3("-timeout", Option{
			Default: "5m",
			Help:    "Give up a request to S3 after this `TIME`",
			bind:    one(parseTimeout, func(s *Server) *time.Duration { return &s.Snapshots.S3.Timeout }),
		}),
		s3("-retention", Option{
			Kind: Int, Default: "5",
			Help: "Keep this `NUMBER` of scheduled snapshots in S3; 0 keeps all",
			bind: one(parseRetention, func(s *Server) *int { return &s.Snapshots.S3.Retention }),
		}),
	}
}

func bucketLookups() []string { return []string{"auto", "dns", "path"} }

func parseSecret(s string) (Secret, error) { return Secret(s), nil }

func parseRetention(s string) (int, error) { return parseNumber(s, 0, 10000, "number") }

func parseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no length of time; give one such as 30s or 5m", s)
	}
	return d, nil
}

func parseSchedule(s string) (string, error) {
	if _, err := cron.ParseStandard(s); err != nil {
		return "", fmt.Errorf("%q is not a cron schedule (%w); give five fields, such as \"0 */12 * * *\", or @daily", s, err)
	}
	return s, nil
}

func parseSnapshotName(s string) (string, error) {
	if len(s) > 63 || !isDNSName(s) {
		return "", fmt.Errorf("%q is no name for snapshots; give up to 63 lower-case letters, digits, - or dots, with a letter or digit at either end", s)
	}
	return s, nil
}

// parseS3Endpoint takes a host, as k3s has it, or the URL that others have.
func parseS3Endpoint(s string) (string, error) {
	for _, scheme := range []string{"https://", "http://"} {
		if host, ok := strings.CutPrefix(s, scheme); ok {
			return "", fmt.Errorf("%q is a URL; give %s, and etcd-s3-insecure for plain HTTP", s, strings.TrimSuffix(host, "/"))
		}
	}
	if s == "" || strings.ContainsAny(s, "/ \t@") {
		return "", fmt.Errorf("%q is not the host of an S3 server; give HOST or HOST:PORT", s)
	}
	return s, nil
}

// parseProxy takes the URL of a proxy, and repeats none: it may hold a password.
func parseProxy(s string) (string, error) {
	u, err := url.Parse(s)
	if s != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return "", errors.New("is not the URL of a proxy; give one such as http://proxy.example.com:3128")
	}
	return s, nil
}

const endpointFile = "file:"

// errDatastore repeats nothing of the endpoint: it holds a password.
var errDatastore = errors.New("is not the endpoint of a datastore; give https://HOST:2379 for etcd, postgres://USER:PASSWORD@HOST:5432/DATABASE, mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE or nats://USER:PASSWORD@HOST:4222, or file:PATH of a file that holds it")

func parseDatastore(s string) (Secret, error) {
	if path, ok := strings.CutPrefix(s, endpointFile); ok && path != "" {
		return Secret(s), nil // read once all is known
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if s != "" && (!ok || rest == "" || !slices.Contains([]string{"http", "https", "postgres", "postgresql", "mysql", "nats"}, scheme)) {
		return "", errDatastore
	}
	switch {
	case ok && strings.HasPrefix(scheme, "http"):
		if err := checkEtcd(s); err != nil {
			return "", err
		}
	case ok && scheme != "mysql":
		// Those who read it later put what they can't read into their errors.
		if _, err := url.Parse(s); err != nil {
			return "", errors.New("is not a URL; write special characters of the password as %40 and the like")
		}
	}
	return Secret(s), nil
}

// checkEtcd takes the URLs of etcd's members, with commas between.
func checkEtcd(s string) error {
	for member := range strings.SplitSeq(s, ",") {
		u, err := url.Parse(strings.TrimSpace(member))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("is not a list of etcd's members; give https://HOST:2379, with commas between several")
		}
		if u.User != nil {
			return errors.New("has a user name or a password, which etcd takes no other way than by certificate; give datastore-certfile and datastore-keyfile")
		}
	}
	return nil
}

// checkDatastore reads an endpoint that is in a file, and wants what belongs
// together.
func (l *loader) checkDatastore() error {
	d := &l.server.Datastore
	if path, ok := strings.CutPrefix(d.Endpoint.Reveal(), endpointFile); ok {
		from := l.settings["datastore-endpoint"].values[0]
		text, err := os.ReadFile(path)
		if err != nil {
			return from.refuse(err)
		}
		if d.Endpoint, err = parseDatastore(strings.TrimSpace(string(text))); err != nil || d.Endpoint == "" || strings.HasPrefix(d.Endpoint.Reveal(), endpointFile) {
			return from.refuse(fmt.Errorf("the content of %s %w", path, errDatastore))
		}
	}
	external := []string{"datastore-cafile", "datastore-certfile", "datastore-keyfile"}
	for _, name := range external {
		if l.isGiven(name) && d.Endpoint == "" {
			return l.settings[name].refuse(errors.New("has no effect without datastore-endpoint; give both or neither"))
		}
	}
	one, other := "datastore-certfile", "datastore-keyfile"
	if !l.isGiven(one) {
		one, other = other, one
	}
	if l.isGiven(one) && !l.isGiven(other) {
		return l.settings[one].refuse(fmt.Errorf("has no effect without %s; give both or neither", other))
	}
	if l.isGiven("datastore-auto-restore") && d.Endpoint != "" {
		return l.settings["datastore-auto-restore"].refuse(errors.New("has no effect with datastore-endpoint; remove one of them"))
	}
	return nil
}

// checkSnapshots wants a bucket for copies in S3, and all or nothing in a
// Secret.
func (l *loader) checkSnapshots() error {
	s3 := l.server.Snapshots.S3
	if !s3.Enabled {
		return nil
	}
	if s3.Bucket == "" && s3.ConfigSecret == "" {
		return l.settings["etcd-s3"].refuse(errors.New("needs a bucket; name one with etcd-s3-bucket, or a Secret with etcd-s3-config-secret"))
	}
	return nil
}

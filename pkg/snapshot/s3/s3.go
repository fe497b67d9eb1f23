// Package s3 keeps copies of snapshots in an S3 bucket.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kedge-k8s/kedge/pkg/snapshot"
)

// Config says where the bucket is, and who asks for it.
type Config struct {
	Endpoint     string        `json:"endpoint"` // HOST[:PORT]
	CA           []byte        `json:"ca"`       // PEM of authorities to trust; empty: the system's
	SkipVerify   bool          `json:"skipVerify"`
	AccessKey    string        `json:"accessKey"` // empty: the environment's
	SecretKey    string        `json:"secretKey"`
	SessionToken string        `json:"sessionToken"`
	Bucket       string        `json:"bucket"`
	BucketLookup string        `json:"bucketLookup"` // auto, dns or path
	Region       string        `json:"region"`
	Folder       string        `json:"folder"`
	Proxy        string        `json:"proxy"`
	Insecure     bool          `json:"insecure"`
	Timeout      time.Duration `json:"timeout"` // of one request
	Retention    int           `json:"retention"`
}

// Bucket keeps copies of snapshots.
type Bucket struct {
	config Config
	client *minio.Client
}

// New makes a Bucket, and asks nobody yet.
func New(c Config) (*Bucket, error) {
	if c.Bucket == "" {
		return nil, errors.New("s3: no bucket is named")
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	provider := credentials.NewEnvAWS()
	if c.AccessKey != "" {
		provider = credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	}
	client, err := minio.New(c.Endpoint, &minio.Options{
		Creds:        provider,
		Secure:       !c.Insecure,
		Transport:    transport,
		Region:       c.Region,
		BucketLookup: map[string]minio.BucketLookupType{"dns": minio.BucketLookupDNS, "path": minio.BucketLookupPath}[c.BucketLookup],
		MaxRetries:   3,
	})
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return &Bucket{config: c, client: client}, nil
}

func (c Config) transport() (*http.Transport, error) {
	transport, err := minio.DefaultTransport(!c.Insecure)
	if err != nil {
		return nil, err
	}
	if !c.Insecure {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if len(c.CA) > 0 && !roots.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("s3: the authorities to trust are not certificates in PEM form")
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: c.SkipVerify} //nolint:gosec // the user asks for it
	}
	if c.Proxy != "" {
		proxy, err := url.Parse(c.Proxy)
		if err != nil {
			return nil, errors.New("s3: the URL of the proxy can't be read")
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	return transport, nil
}

// Retention is how many scheduled snapshots of a server are kept.
func (b *Bucket) Retention() int { return b.config.Retention }

// String names the bucket.
func (b *Bucket) String() string { return "s3://" + path.Join(b.config.Bucket, b.config.Folder) }

func (b *Bucket) key(base string) string { return path.Join(b.config.Folder, base) }

func (b *Bucket) location(key string) string { return "s3://" + path.Join(b.config.Bucket, key) }

// S3 gives objects back with what they were put with: what list shows, without
// a request for each object.
const (
	tagPrefix  = "Kedge-Prefix"
	tagNode    = "Kedge-Node"
	tagCreated = "Kedge-Created"
)

// Put copies the snapshot in a file.
func (b *Bucket) Put(ctx context.Context, file string, info snapshot.Info) error {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	_, err := b.client.FPutObject(ctx, b.config.Bucket, b.key(filepath.Base(file)), file, minio.PutObjectOptions{
		ContentType: "application/x-tar",
		UserMetadata: map[string]string{
			tagPrefix:  info.Prefix,
			tagNode:    info.Node,
			tagCreated: info.Created.UTC().Format(time.RFC3339),
		},
	})
	return b.explain("copy "+filepath.Base(file)+" to", err)
}

// List returns the copies, the newest first.
func (b *Bucket) List(ctx context.Context) ([]snapshot.File, error) {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	prefix := b.config.Folder
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	var files []snapshot.File
	for object := range b.client.ListObjects(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if object.Err != nil {
			return nil, b.explain("list", object.Err)
		}
		name := snapshot.NameOf(object.Key)
		if name == "" {
			continue
		}
		stat, err := b.client.StatObject(ctx, b.config.Bucket, object.Key, minio.StatObjectOptions{})
		if err != nil {
			return nil, b.explain("look at "+name+" in", err)
		}
		file := snapshot.File{Location: b.location(object.Key), Size: object.Size}
		file.Name, file.Prefix, file.Node = name, stat.UserMetadata[tagPrefix], stat.UserMetadata[tagNode]
		if file.Created, err = time.Parse(time.RFC3339, stat.UserMetadata[tagCreated]); err != nil {
			file.Created = createdOf(name, object.LastModified)
		}
		files = append(files, file)
	}
	snapshot.Sort(files)
	return files, nil
}

// createdOf is the time in a snapshot's name, where somebody else put it there.
func createdOf(name string, modified time.Time) time.Time {
	if seconds, err := strconv.ParseInt(name[strings.LastIndexByte(name, '-')+1:], 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC()
	}
	return modified.UTC()
}

// Delete removes copies by their locations.
func (b *Bucket) Delete(ctx context.Context, files ...snapshot.File) error {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	for _, f := range files {
		key := strings.TrimPrefix(f.Location, "s3://"+b.config.Bucket+"/")
		if err := b.client.RemoveObject(ctx, b.config.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
			return b.explain("delete "+f.Name+" from", err)
		}
	}
	return nil
}

// Get fetches a copy into a directory, and returns the file.
func (b *Bucket) Get(ctx context.Context, f snapshot.File, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	key := strings.TrimPrefix(f.Location, "s3://"+b.config.Bucket+"/")
	file := filepath.Join(dir, path.Base(key))
	if err := b.client.FGetObject(ctx, b.config.Bucket, key, file, minio.GetObjectOptions{}); err != nil {
		return "", b.explain("fetch "+f.Name+" from", err)
	}
	return file, os.Chmod(file, 0o600)
}

// explain says what was tried, where.
func (b *Bucket) explain(tried string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s at %s: no answer within %s", tried, b, b.config.Endpoint, b.config.Timeout)
	}
	return fmt.Errorf("%s %s at %s: %w", tried, b, b.config.Endpoint, err)
}

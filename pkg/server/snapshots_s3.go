package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
	"github.com/kedge-k8s/kedge/pkg/snapshot/s3"
)

// OpenBucket makes the bucket of a configuration without a Secret.
func OpenBucket(c config.S3) (*s3.Bucket, error) {
	out := s3.Config{
		Endpoint: c.Endpoint, SkipVerify: c.SkipVerify, Insecure: c.Insecure, Proxy: c.Proxy,
		AccessKey: c.AccessKey, SecretKey: c.SecretKey.Reveal(), SessionToken: c.SessionToken.Reveal(),
		Bucket: c.Bucket, BucketLookup: c.BucketLookup, Region: c.Region, Folder: c.Folder,
		Timeout: c.Timeout, Retention: c.Retention,
	}
	if c.EndpointCA != "" {
		var err error
		if out.CA, err = os.ReadFile(c.EndpointCA); err != nil {
			return nil, fmt.Errorf("--etcd-s3-endpoint-ca: %w", err)
		}
	}
	return s3.New(out)
}

// bucket is where snapshots are copied to; nil: nowhere. Its Secret may change at
// any time.
func (s *snapshots) bucket(ctx context.Context) (*s3.Bucket, error) {
	c := s.config.S3
	if !c.Enabled {
		return nil, nil
	}
	if c.ConfigSecret == "" || c.Bucket != "" {
		return OpenBucket(c)
	}
	data, err := s.read(ctx, "secrets", c.ConfigSecret)
	if err != nil {
		return nil, err
	}
	out, err := secretConfig(data, c)
	if err != nil {
		return nil, fmt.Errorf("secret kube-system/%s: %w", c.ConfigSecret, err)
	}
	if name := data["etcd-s3-endpoint-ca-name"]; name != "" && len(out.CA) == 0 {
		authorities, err := s.read(ctx, "configmaps", name)
		if err != nil {
			return nil, err
		}
		for _, pem := range authorities {
			out.CA = append(append(out.CA, pem...), '\n')
		}
	}
	return s3.New(out)
}

// read returns what is in a Secret or ConfigMap in kube-system.
func (s *snapshots) read(ctx context.Context, resource, name string) (map[string]string, error) {
	object, err := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read how to reach S3: %w", err)
	}
	data, _, err := unstructured.NestedStringMap(object.Object, "data")
	if err != nil || resource != "secrets" {
		return data, err
	}
	for key, value := range data {
		text, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return nil, err
		}
		data[key] = string(text)
	}
	return data, nil
}

// secretConfig reads the keys of a Secret, which are those of k3s. What is not
// in it is as configured.
func secretConfig(data map[string]string, c config.S3) (s3.Config, error) {
	text := func(key, other string) string {
		if value, ok := data["etcd-s3-"+key]; ok {
			return value
		}
		return other
	}
	out := s3.Config{
		Endpoint:     text("endpoint", c.Endpoint),
		CA:           []byte(text("endpoint-ca", "")),
		AccessKey:    text("access-key", c.AccessKey),
		SecretKey:    text("secret-key", c.SecretKey.Reveal()),
		SessionToken: text("session-token", c.SessionToken.Reveal()),
		Bucket:       text("bucket", ""),
		BucketLookup: text("bucket-lookup-type", c.BucketLookup),
		Region:       text("region", c.Region),
		Folder:       text("folder", c.Folder),
		Proxy:        text("proxy", c.Proxy),
	}
	// base64 is how k3s's documentation has them; some write the PEM itself.
	if plain, err := base64.StdEncoding.DecodeString(string(out.CA)); err == nil {
		out.CA = plain
	}
	var err error
	if out.SkipVerify, err = strconv.ParseBool(text("skip-ssl-verify", strconv.FormatBool(c.SkipVerify))); err != nil {
		return out, fmt.Errorf("etcd-s3-skip-ssl-verify: %w", err)
	}
	if out.Insecure, err = strconv.ParseBool(text("insecure", strconv.FormatBool(c.Insecure))); err != nil {
		return out, fmt.Errorf("etcd-s3-insecure: %w", err)
	}
	if out.Timeout, err = time.ParseDuration(text("timeout", c.Timeout.String())); err != nil || out.Timeout <= 0 {
		return out, fmt.Errorf("etcd-s3-timeout: %q is no length of time", data["etcd-s3-timeout"])
	}
	if out.Retention, err = strconv.Atoi(text("retention", strconv.Itoa(c.Retention))); err != nil {
		return out, fmt.Errorf("etcd-s3-retention: %w", err)
	}
	return out, nil
}

const (
	firstCopyRetry = time.Minute
	lastCopyRetry  = time.Hour
)

// copyAll copies the snapshots of the server's own directory that are not in S3
// yet, and clears away old ones there.
func (s *snapshots) copyAll(ctx context.Context) error {
	pending, err := s.keeper.Pending(ctx)
	if err != nil || len(pending) == 0 {
		return err
	}
	bucket, err := s.bucket(ctx)
	if err != nil || bucket == nil {
		return err
	}
	slices.Reverse(pending) // the oldest first
	for _, f := range pending {
		if err := s.copy(ctx, bucket, f); err != nil {
			return err
		}
	}
	return s.pruneBucket(ctx, bucket, s.config.Name, bucket.Retention())
}

func (s *snapshots) copy(ctx context.Context, bucket *s3.Bucket, f snapshot.File) error {
	path, err := s.keeper.Path(f.Name)
	if err != nil {
		return err
	}
	if err := bucket.Put(ctx, path, f.Info); err != nil {
		return err
	}
	s.log.Info("copied a snapshot", "component", s.Name(), "name", f.Name, "to", bucket.String())
	return s.keeper.Copied(f.Name)
}

func (s *snapshots) pruneBucket(ctx context.Context, bucket *s3.Bucket, prefix string, keep int) error {
	files, err := bucket.List(ctx)
	if err != nil {
		return err
	}
	gone := snapshot.Surplus(files, prefix, s.node, keep)
	return bucket.Delete(ctx, slices.DeleteFunc(files, func(f snapshot.File) bool { return !slices.Contains(gone, f.Name) })...)
}

// inBucket lists the copies; none where nothing is copied.
func (s *snapshots) inBucket(ctx context.Context) ([]snapshot.File, *s3.Bucket, error) {
	bucket, err := s.bucket(ctx)
	if err != nil || bucket == nil {
		return nil, nil, err
	}
	files, err := bucket.List(ctx)
	return files, bucket, err
}

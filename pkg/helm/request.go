package helm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// request is what a HelmChart and its HelmChartConfig ask for together, with all
// that they refer to.
type request struct {
	release types.NamespacedName
	source  source
	values  map[string]any
	hash    string // of what is reason enough to upgrade

	policy          Policy
	timeout         time.Duration
	driver          string
	serverSide      string
	forceConflicts  bool
	createNamespace bool
	takeOwnership   bool

	redact redactor
}

// newRequest is what can be said of a HelmChart's release without a look at
// anything else.
func newRequest(h *Chart) *request {
	r := &request{
		release:         types.NamespacedName{Namespace: h.releaseNamespace(), Name: h.Name},
		timeout:         h.timeout(),
		driver:          h.Spec.Driver,
		policy:          Reinstall,
		forceConflicts:  true,
		createNamespace: h.Spec.CreateNamespace,
		takeOwnership:   h.Spec.TakeOwnership,
	}
	r.override(h.Spec.Overrides)
	return r
}

func (r *request) override(o Overrides) {
	if o.FailurePolicy != "" {
		r.policy = o.FailurePolicy
	}
	if o.ServerSide != "" {
		r.serverSide = o.ServerSide
	}
	if o.ForceConflicts != nil {
		r.forceConflicts = *o.ForceConflicts
	}
}

// resolver reads what HelmCharts refer to.
type resolver struct {
	client    kubernetes.Interface
	staticDir string
}

// resolve returns what a HelmChart and its HelmChartConfig, if there is one, ask
// for.
func (v resolver) resolve(ctx context.Context, h *Chart, config *ChartConfig) (*request, error) {
	switch h.Spec.HelmVersion {
	case "", "v3", "v4":
	default:
		return nil, fmt.Errorf("spec.helmVersion: %q is not supported; leave it out", h.Spec.HelmVersion)
	}
	if h.Spec.Chart == "" && h.Spec.ChartContent == "" {
		return nil, errors.New("spec.chart and spec.chartContent are both empty: there is nothing to install")
	}
	r := newRequest(h)
	layers, err := v.layers(ctx, h.Namespace, "HelmChart", h.Spec.Overrides)
	if err != nil {
		return nil, err
	}
	if config != nil {
		r.override(config.Spec)
		more, err := v.layers(ctx, h.Namespace, "HelmChartConfig", config.Spec)
		if err != nil {
			return nil, err
		}
		layers = append(layers, more...)
	}
	for _, l := range layers {
		if l.secret {
			if values, err := l.parse(); err == nil {
				r.redact.add(values)
			}
		}
	}
	if r.source, err = v.source(ctx, h); err != nil {
		return nil, err
	}
	r.redact.add(r.source.credentials.password)
	if r.values, err = merge(layers); err != nil {
		return nil, err
	}
	if err := apply(r.values, h.Spec.Set); err != nil {
		return nil, err
	}
	hashed, err := merge(slices.DeleteFunc(layers, func(l layer) bool { return l.unhashed }))
	if err != nil {
		return nil, err
	}
	if err := apply(hashed, h.Spec.Set); err != nil {
		return nil, err
	}
	r.hash, err = r.fingerprint(hashed)
	return r, err
}

// layers lists the values of one object, those that win last.
func (v resolver) layers(ctx context.Context, namespace, kind string, o Overrides) ([]layer, error) {
	layers := []layer{
		{from: "spec.valuesContent of the " + kind, text: o.ValuesContent},
		{from: "spec.values of the " + kind, values: o.Values},
	}
	for _, from := range o.ValuesConfigMaps {
		found, err := v.client.CoreV1().ConfigMaps(namespace).Get(ctx, from.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && from.IgnoreUpdates {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("values from ConfigMap %s/%s: %w", namespace, from.Name, err)
		}
		for _, key := range from.Keys {
			text, ok := found.Data[key]
			if !ok && !from.IgnoreUpdates {
				return nil, fmt.Errorf("values from ConfigMap %s/%s: it has no key %q", namespace, from.Name, key)
			}
			name := fmt.Sprintf("key %q of ConfigMap %s/%s", key, namespace, from.Name)
			layers = append(layers, layer{from: name, text: text, unhashed: from.IgnoreUpdates})
		}
	}
	for _, from := range o.ValuesSecrets {
		found, err := v.client.CoreV1().Secrets(namespace).Get(ctx, from.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && from.IgnoreUpdates {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("values from Secret %s/%s: %w", namespace, from.Name, err)
		}
		for _, key := range from.Keys {
			text, ok := found.Data[key]
			if !ok && !from.IgnoreUpdates {
				return nil, fmt.Errorf("values from Secret %s/%s: it has no key %q", namespace, from.Name, key)
			}
			name := fmt.Sprintf("key %q of Secret %s/%s", key, namespace, from.Name)
			layers = append(layers, layer{from: name, text: string(text), secret: true, unhashed: from.IgnoreUpdates})
		}
	}
	return layers, nil
}

func (v resolver) source(ctx context.Context, h *Chart) (source, error) {
	spec := h.Spec
	s := source{
		chart:       spec.Chart,
		content:     spec.ChartContent,
		version:     spec.Version,
		repo:        spec.Repo,
		staticDir:   v.staticDir,
		authorities: []byte(spec.RepoCA),
		everywhere:  spec.AuthPassCredentials,
		skipVerify:  spec.InsecureSkipTLSVerify,
		plainHTTP:   spec.PlainHTTP,
	}
	if ref := spec.RepoCAConfigMap; ref != nil {
		found, err := v.client.CoreV1().ConfigMaps(h.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return s, fmt.Errorf("spec.repoCAConfigMap: %w", err)
		}
		for _, key := range slices.Sorted(maps.Keys(found.Data)) {
			s.authorities = append(append(s.authorities, '\n'), found.Data[key]...)
		}
	}
	if ref := spec.AuthSecret; ref != nil {
		found, err := v.client.CoreV1().Secrets(h.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return s, fmt.Errorf("spec.authSecret: %w", err)
		}
		s.credentials = credentials{string(found.Data[corev1.BasicAuthUsernameKey]), string(found.Data[corev1.BasicAuthPasswordKey])}
	}
	if ref := spec.DockerRegistrySecret; ref != nil {
		found, err := v.client.CoreV1().Secrets(h.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return s, fmt.Errorf("spec.dockerRegistrySecret: %w", err)
		}
		if err := json.Unmarshal(found.Data[corev1.DockerConfigJsonKey], &s.docker); err != nil {
			return s, fmt.Errorf("spec.dockerRegistrySecret: key %s of Secret %s/%s is no JSON of the kind", corev1.DockerConfigJsonKey, h.Namespace, ref.Name)
		}
	}
	return s, nil
}

// hashLength is what fits a label and is long enough.
const hashLength = 40

// fingerprint is a hash of all that makes the release what it is.
func (r *request) fingerprint(values map[string]any) (string, error) {
	content := []byte(r.source.content)
	path, err := r.source.local()
	if err != nil {
		return "", err
	}
	if r.source.content == "" && path != "" {
		if content, err = digestOf(path); err != nil {
			return "", fmt.Errorf("chart %s is not on this server: %w", path, err)
		}
	}
	digest := sha256.Sum256(content)
	text, err := json.Marshal(struct {
		Chart, Version, Repo, Content string
		Release                       types.NamespacedName
		Values                        map[string]any
	}{r.source.chart, r.source.version, r.source.repo, hex.EncodeToString(digest[:]), r.release, values})
	if err != nil {
		return "", fmt.Errorf("values: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:hashLength], nil
}

// digestOf returns a digest of a file. Of a directory, changes inside go
// unnoticed.
func digestOf(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return nil, err
	}
	return digest.Sum(nil), nil
}

// references are the objects whose changes are reason to look at a HelmChart
// again.
type references map[reference]struct{}

type reference struct {
	secret bool // or else a ConfigMap
	types.NamespacedName
}

// referencesOf lists what the objects refer to.
func referencesOf(h *Chart, config *ChartConfig) references {
	found := references{}
	add := func(secret bool, name string) {
		if name != "" {
			found[reference{secret, types.NamespacedName{Namespace: h.Namespace, Name: name}}] = struct{}{}
		}
	}
	all := []Overrides{h.Spec.Overrides}
	if config != nil {
		all = append(all, config.Spec)
	}
	for _, o := range all {
		for secret, list := range map[bool][]ValuesFrom{true: o.ValuesSecrets, false: o.ValuesConfigMaps} {
			for _, from := range list {
				if !from.IgnoreUpdates {
					add(secret, from.Name)
				}
			}
		}
	}
	for secret, ref := range map[bool][]*corev1.LocalObjectReference{true: {h.Spec.AuthSecret, h.Spec.DockerRegistrySecret}, false: {h.Spec.RepoCAConfigMap}} {
		for _, ref := range ref {
			if ref != nil {
				add(secret, ref.Name)
			}
		}
	}
	return found
}

// Package addon deploys the packaged add-ons.
package addon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/manifests"
	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
)

// fieldManager owns the fields that Kedge applies (server-side apply).
const fieldManager = "kedge"

// retryInterval is the pace at which a failed add-on is applied again.
const retryInterval = 2 * time.Second

// Config says what is deployed.
type Config struct {
	Dir        string            // the manifests are written here, for people to read
	Disabled   []string          // add-ons that are not deployed
	Variables  map[string]string // values of ${NAME}
	Kubeconfig string
	Log        *slog.Logger
}

// Deployer applies the manifests as a component.
type Deployer struct {
	config Config
	run    component.Runner
}

// NewDeployer makes the component.
func NewDeployer(c Config) *Deployer { return &Deployer{config: c} }

func (*Deployer) Name() string    { return "manifests" }
func (*Deployer) Needs() []string { return []string{"apiserver"} }

// Start writes the manifests and applies them in the background, until each
// is in the cluster.
func (d *Deployer) Start(context.Context) error {
	files, err := d.render()
	if err != nil {
		return err
	}
	a, err := newApplier(d.config.Kubeconfig)
	if err != nil {
		return err
	}
	d.run.Run(func(ctx context.Context) error {
		for _, f := range files {
			if f.disabled {
				d.untilDone(ctx, f.name, "deleted", func() error { return a.delete(ctx, f.objects) })
			} else {
				d.untilDone(ctx, f.name, "applied", func() error { return a.apply(ctx, f.objects) })
			}
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (d *Deployer) Stop(ctx context.Context) error { return d.run.Stop(ctx) }

type file struct {
	name     string // of the add-on
	disabled bool
	objects  []*unstructured.Unstructured
}

// render fills the variables in, and writes each manifest as it is applied.
// A disabled add-on that was never deployed is left out.
func (d *Deployer) render() ([]file, error) {
	names, err := manifests.FS.ReadDir(".")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.config.Dir, 0o700); err != nil {
		return nil, err
	}
	var files []file
	for _, entry := range names {
		name := strings.TrimSuffix(entry.Name(), path.Ext(entry.Name()))
		written := filepath.Join(d.config.Dir, entry.Name())
		disabled := slices.Contains(d.config.Disabled, name)
		if _, err := os.Stat(written); disabled && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		raw, err := manifests.FS.ReadFile(entry.Name())
		if err != nil {
			return nil, err
		}
		text := os.Expand(string(raw), func(key string) string { return d.config.Variables[key] })
		if !disabled {
			if _, err := atomicfile.Update(written, []byte(text), 0o600); err != nil {
				return nil, err
			}
		}
		objects, err := decode([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", entry.Name(), err)
		}
		files = append(files, file{name: name, disabled: disabled, objects: objects})
	}
	return files, nil
}

func decode(data []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// untilDone tries until it succeeds or ctx ends, and complains once.
func (d *Deployer) untilDone(ctx context.Context, addon, done string, try func() error) {
	for told := false; ; {
		err := try()
		if err == nil {
			d.config.Log.Info(done, "component", d.Name(), "addon", addon)
			if done == "deleted" {
				d.forget(addon)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			d.config.Log.Warn("this fails and is tried again", "component", d.Name(), "addon", addon, "every", retryInterval, "err", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return
		}
	}
}

// forget removes the manifest of an add-on that is out of the cluster.
func (d *Deployer) forget(addon string) {
	if err := os.Remove(filepath.Join(d.config.Dir, addon+".yaml")); err != nil {
		d.config.Log.Warn("a disabled add-on's manifest stays", "component", d.Name(), "err", err)
	}
}

// applier puts objects into the cluster by server-side apply.
type applier struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func newApplier(kubeconfig string) (*applier, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the apiserver's own priority and fairness is the limit
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	discover, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &applier{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discover))}, nil
}

func (a *applier) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		resource, err := a.resource(object)
		if err == nil {
			_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// delete removes the objects, the last first, with what they own.
func (a *applier) delete(ctx context.Context, objects []*unstructured.Unstructured) error {
	background := metav1.DeletePropagationBackground
	for _, object := range slices.Backward(objects) {
		resource, err := a.resource(object)
		if err == nil {
			err = resource.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// resource is where objects of the kind are kept.
func (a *applier) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := object.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		a.mapper.Reset() // the kind may come later
		return nil, err
	}
	resource := a.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return resource.Namespace(object.GetNamespace()), nil
	}
	return resource, nil
}

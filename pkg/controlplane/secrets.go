package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// reloadHook is upstream's, which looks each minute whether the keys have changed.
// Kedge changes them itself, and wants to know when they are in use.
const reloadHook = "start-encryption-provider-config-automatic-reload"

const (
	rewritePage     = 200 // Secrets that are in memory at once
	rewriteParallel = 4
	// inFlight is longer than a write takes from its encryption to the datastore.
	inFlight = 10 * time.Second
)

// conflicts is how often a Secret is tried that others go on changing: for some
// seconds.
var conflicts = wait.Backoff{Steps: 10, Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.1}

// ErrOwnEncryption says that the user's arguments keep Kedge from the keys.
var ErrOwnEncryption = errors.New("this server takes the keys from --kube-apiserver-arg=encryption-provider-config=…: change them in that file, or remove the argument")

// secretsStore is how the apiserver keeps Secrets.
type secretsStore struct {
	file         string
	id           string // of the apiserver, in its metrics
	transformers *encryptionconfig.DynamicTransformers
	client       kubernetes.Interface
}

// takeOver makes Kedge the one that says when keys are read again. It is called
// before the server is built.
func (s *secretsStore) takeOver(generic *genericapiserver.Config) error {
	var ok bool
	if s.transformers, ok = generic.ResourceTransformers.(*encryptionconfig.DynamicTransformers); !ok {
		return fmt.Errorf("the apiserver encrypts with a %T", generic.ResourceTransformers)
	}
	s.id = generic.APIServerID
	generic.DisabledPostStartHooks.Insert(reloadHook)
	return nil
}

func (s *secretsStore) connect(loopback *rest.Config) error {
	c := rest.CopyConfig(loopback)
	c.QPS = -1 // the datastore is the limit
	var err error
	s.client, err = kubernetes.NewForConfig(c)
	return err
}

// OwnsKeys says whether the keys of Secrets are Kedge's to change.
func (a *APIServer) OwnsKeys() bool { return a.config.OwnEncryption() }

// ReloadKeys has the apiserver use the keys that are in the encryption
// configuration now. Nobody else may call it at the same time.
func (a *APIServer) ReloadKeys() error {
	s := &a.secrets
	if s.transformers == nil {
		return ErrOwnEncryption
	}
	ctx, cancel := context.WithCancel(a.run.Context())
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, s.file, true, s.id)
	if err != nil {
		cancel()
		return fmt.Errorf("load %s: %w", s.file, err)
	}
	s.transformers.Set(loaded.Transformers, cancel, loaded.HealthChecks[0], loaded.KMSCloseGracePeriod)
	return nil
}

// RewriteSecrets writes every Secret again as it is, so that it is encrypted with
// the key of now, and calls progress with how many are done and how many there
// are.
func (a *APIServer) RewriteSecrets(ctx context.Context, progress func(done, total int)) error {
	if a.secrets.client == nil {
		return ErrOwnEncryption
	}
	if err := rewriteAll(ctx, a.secrets.client, progress); err != nil {
		return err
	}
	// A write that had been encrypted when the key changed may have come to the
	// datastore behind the list. Nothing is written that is as it should be.
	select {
	case <-time.After(inFlight):
	case <-ctx.Done():
		return ctx.Err()
	}
	return rewriteAll(ctx, a.secrets.client, func(int, int) {})
}

func rewriteAll(ctx context.Context, client kubernetes.Interface, progress func(done, total int)) error {
	done, next := 0, ""
	for {
		// Paged lists are read from the datastore, not from a cache.
		page, err := client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: rewritePage, Continue: next})
		if err != nil {
			return fmt.Errorf("list the Secrets: %w", err)
		}
		total := done + len(page.Items)
		if page.RemainingItemCount != nil {
			total += int(*page.RemainingItemCount)
		}
		progress(done, total)
		group, pageCtx := errgroup.WithContext(ctx)
		group.SetLimit(rewriteParallel)
		for i := range page.Items {
			group.Go(func() error { return rewrite(pageCtx, client, &page.Items[i]) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		done += len(page.Items)
		progress(done, total)
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

// rewrite writes a Secret as it is. The apiserver writes what does not change if it
// was read with another key than the one that writes. Who has changed the Secret
// meanwhile may have done so with the old key: it is read again.
func rewrite(ctx context.Context, client kubernetes.Interface, secret *corev1.Secret) error {
	secrets, name := client.CoreV1().Secrets(secret.Namespace), secret.Name
	err := retry.RetryOnConflict(conflicts, func() error {
		_, err := secrets.Update(ctx, secret, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			return err
		}
		fresh, getErr := secrets.Get(ctx, name, metav1.GetOptions{})
		if getErr != nil {
			return getErr
		}
		secret = fresh
		return err
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write Secret %s/%s again: %w", secret.Namespace, name, err)
}

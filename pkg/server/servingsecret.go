package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// servingSecret keeps a certificate for a Service of an add-on's in the Secret
// SERVICE-tls of kube-system, as a component. It is from the cluster's own CA and is
// renewed long before its end; pods see that within two minutes.
type servingSecret struct {
	kubeconfig string
	ca         pki.KeyPair
	service    string
	log        *slog.Logger
	run        component.Runner
}

const (
	// secretManager owns the content; the Secret itself is the manifest's.
	secretManager = "kedge-serving"
	secretLimit   = 10 * time.Second // for a request
	// Right after its start the apiserver may not have read the roles yet.
	secretRetry    = 200 * time.Millisecond
	secretMaxRetry = time.Minute
)

func (s *servingSecret) Name() string                   { return s.service + "-certificate" }
func (*servingSecret) Needs() []string                  { return []string{"apiserver"} }
func (s *servingSecret) Stop(ctx context.Context) error { return s.run.Stop(ctx) }

func (s *servingSecret) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	s.run.Run(func(ctx context.Context) error {
		s.keep(ctx, client)
		return nil
	})
	return nil
}

// keep makes sure of the certificate again and again, until ctx ends.
func (s *servingSecret) keep(ctx context.Context, client kubernetes.Interface) {
	retry := secretRetry
	for {
		wait := pki.CheckInterval
		if err := s.ensure(ctx, client); err != nil {
			if retry >= secretMaxRetry && ctx.Err() == nil {
				s.log.Warn("an add-on's certificate can't be written; it is tried again", "component", s.Name(), "in", retry, "err", err)
			}
			wait, retry = retry, min(2*retry, secretMaxRetry)
		} else {
			retry = secretRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// ensure issues a certificate if the one that there is will not do.
func (s *servingSecret) ensure(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, secretLimit)
	defer cancel()
	ca, err := pki.LoadCA(s.ca)
	if err != nil {
		return err
	}
	host := s.service + "." + metav1.NamespaceSystem + ".svc"
	request := pki.Request{CommonName: s.service, DNSNames: []string{host}}
	secrets, name := client.CoreV1().Secrets(metav1.NamespaceSystem), s.service+"-tls"
	there, err := secrets.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case ca.Vouches(there.Data[corev1.TLSCertKey], there.Data[corev1.TLSPrivateKeyKey], request):
		return nil
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	chain, err := ca.Sign(request, key.Public())
	if err != nil {
		return err
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	content := applycorev1.Secret(name, metav1.NamespaceSystem).WithData(map[string][]byte{
		corev1.TLSCertKey:       chain,
		corev1.TLSPrivateKeyKey: text,
	})
	if _, err := secrets.Apply(ctx, content, metav1.ApplyOptions{FieldManager: secretManager, Force: true}); err != nil {
		return fmt.Errorf("write Secret kube-system/%s: %w", name, err)
	}
	return nil
}

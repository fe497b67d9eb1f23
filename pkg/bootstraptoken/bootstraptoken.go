// Package bootstraptoken keeps expiring tokens as Secrets of a cluster, in the
// form that kubeadm and kube-controller-manager know:
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
package bootstraptoken

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/util"

	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/token"
)

const (
	// UsageAuthentication lets a machine join with the token.
	UsageAuthentication = "authentication"
	// UsageSigning lets the token sign the cluster-info of kubeadm.
	UsageSigning = "signing"

	usagePrefix = "usage-bootstrap-"

	// DefaultGroup is what tokens of Kedge belong to. It has no rights of its own.
	DefaultGroup = "system:bootstrappers:kedge:default-node-token"
)

// Token is a token with what the cluster knows of it.
type Token struct {
	token.Token
	Expires     time.Time // zero: never
	Usages      []string
	Groups      []string // beside system:bootstrappers
	Description string
}

// Authenticates says whether machines may join with the token.
func (t Token) Authenticates() bool { return slices.Contains(t.Usages, UsageAuthentication) }

// Expired says whether the token has ended.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Validate refuses what the cluster would not take for a token.
func (t Token) Validate() error {
	if t.BootstrapID == "" {
		return errors.New("a bootstrap token has the form <id>.<secret> of 6 and 16 characters of a-z and 0-9; kedge token generate makes one")
	}
	if len(t.Usages) == 0 {
		return fmt.Errorf("a token is of no use without usages: give %s, %s or both", UsageAuthentication, UsageSigning)
	}
	for _, usage := range t.Usages {
		if usage != UsageAuthentication && usage != UsageSigning {
			return fmt.Errorf("there is no usage %q: give %s, %s or both", usage, UsageAuthentication, UsageSigning)
		}
	}
	for _, group := range t.Groups {
		if util.ValidateBootstrapGroupName(group) != nil {
			return fmt.Errorf("group %q is not one a bootstrap token can have: it begins with %s and goes on with small letters, digits, colons and dashes", group, api.BootstrapDefaultGroup+":")
		}
	}
	return nil
}

// SecretName is the name of the Secret, in the namespace kube-system, that holds
// the token with an ID.
func SecretName(id string) string { return api.BootstrapTokenSecretPrefix + id }

// secret is the token as the cluster keeps it.
func (t Token) secret() *corev1.Secret {
	data := map[string]string{
		api.BootstrapTokenIDKey:     t.BootstrapID,
		api.BootstrapTokenSecretKey: t.Secret(),
	}
	for _, usage := range t.Usages {
		data[usagePrefix+usage] = "true"
	}
	if !t.Expires.IsZero() {
		data[api.BootstrapTokenExpirationKey] = t.Expires.UTC().Format(time.RFC3339)
	}
	if len(t.Groups) > 0 {
		data[api.BootstrapTokenExtraGroupsKey] = strings.Join(t.Groups, ",")
	}
	if t.Description != "" {
		data[api.BootstrapTokenDescriptionKey] = t.Description
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName(t.BootstrapID), Namespace: metav1.NamespaceSystem},
		Type:       api.SecretTypeBootstrapToken,
		StringData: data,
	}
}

// FromSecret reads the token in a Secret. The error repeats nothing of what is
// secret.
func FromSecret(secret *corev1.Secret) (Token, error) {
	field := func(key string) string { return string(secret.Data[key]) }
	fail := func(err error) (Token, error) {
		return Token{}, fmt.Errorf("secret %s/%s is no bootstrap token: %w", secret.Namespace, secret.Name, err)
	}
	if secret.Type != api.SecretTypeBootstrapToken {
		return fail(fmt.Errorf("its type is %q, not %q", secret.Type, api.SecretTypeBootstrapToken))
	}
	credential, err := token.FromBasicAuth(field(api.BootstrapTokenIDKey), field(api.BootstrapTokenSecretKey))
	if err != nil {
		return fail(err)
	}
	if credential.BootstrapID == "" || secret.Name != SecretName(credential.BootstrapID) {
		return fail(fmt.Errorf("its name is not %s and the token's ID", api.BootstrapTokenSecretPrefix))
	}
	t := Token{Token: credential, Description: field(api.BootstrapTokenDescriptionKey)}
	if text := field(api.BootstrapTokenExpirationKey); text != "" {
		if t.Expires, err = time.Parse(time.RFC3339, text); err != nil {
			return fail(fmt.Errorf("its expiration %q is no time of RFC 3339", text))
		}
	}
	for _, usage := range []string{UsageAuthentication, UsageSigning} {
		if field(usagePrefix+usage) == "true" {
			t.Usages = append(t.Usages, usage)
		}
	}
	if groups := field(api.BootstrapTokenExtraGroupsKey); groups != "" {
		t.Groups = strings.Split(groups, ",")
	}
	return t, nil
}

// Create adds a token to the cluster.
func Create(ctx context.Context, client kubernetes.Interface, t Token) error {
	if err := t.Validate(); err != nil {
		return err
	}
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, t.secret(), metav1.CreateOptions{})
	return err
}

// Delete removes the token with an ID from the cluster.
func Delete(ctx context.Context, client kubernetes.Interface, id string) error {
	return client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, SecretName(id), metav1.DeleteOptions{})
}

// Check looks up a token that a machine wants to join with. The error wraps
// join.ErrUnknownToken if nobody may with it now.
func Check(ctx context.Context, client kubernetes.Interface, given token.Token, now time.Time) error {
	const advice = "make one with kedge token create on a server"
	secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, SecretName(given.BootstrapID), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %s", join.ErrUnknownToken, advice)
	case err != nil:
		return err
	}
	stored, err := FromSecret(secret)
	if err != nil || !stored.Equal(given) || !stored.Authenticates() {
		return join.ErrUnknownToken
	}
	if stored.Expired(now) {
		return fmt.Errorf("%w: it expired at %s; %s", join.ErrUnknownToken, stored.Expires.Format(time.RFC3339), advice)
	}
	return nil
}

// List returns the tokens of the cluster by ID. Secrets that should hold one and
// don't are in unreadable.
func List(ctx context.Context, client kubernetes.Interface) (tokens []Token, unreadable []error, err error) {
	found, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: "type=" + string(api.SecretTypeBootstrapToken),
	})
	if err != nil {
		return nil, nil, err
	}
	for i := range found.Items {
		t, err := FromSecret(&found.Items[i])
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b Token) int { return cmp.Compare(a.BootstrapID, b.BootstrapID) })
	return tokens, unreadable, nil
}

// ID returns the ID in a bootstrap token of any form, or in an ID alone.
func ID(text string) (string, error) {
	if util.IsValidBootstrapTokenID(text) {
		return text, nil
	}
	t, err := token.Parse(text)
	if err != nil || t.BootstrapID == "" {
		return "", errors.New("give the ID of a bootstrap token, 6 characters of a-z and 0-9; kedge token list shows them")
	}
	return t.BootstrapID, nil
}

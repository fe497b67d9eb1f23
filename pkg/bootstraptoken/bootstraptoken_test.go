package bootstraptoken

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clientgotesting "k8s.io/client-go/testing"

	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/token"
)

const secret = "0123456789abcdef"

func newToken(t *testing.T, id string) Token {
	t.Helper()
	credential, err := token.New(nil, id, secret)
	if err != nil {
		t.Fatal(err)
	}
	return Token{Token: credential, Usages: []string{UsageAuthentication, UsageSigning}, Groups: []string{DefaultGroup}, Description: "for the lab"}
}

// newClient is a cluster that, as a real one, turns stringData into data.
func newClient() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "secrets", func(action clientgotesting.Action) (bool, runtime.Object, error) {
		s := action.(clientgotesting.CreateAction).GetObject().(*corev1.Secret)
		s.Data = map[string][]byte{}
		for key, text := range s.StringData {
			s.Data[key] = []byte(text)
		}
		s.StringData = nil
		return false, nil, nil
	})
	return client
}

func TestCreateListDelete(t *testing.T) {
	client := newClient()
	forever, short := newToken(t, "zzzzzz"), newToken(t, "aaaaaa")
	short.Expires = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for _, want := range []Token{forever, short} {
		if err := Create(t.Context(), client, want); err != nil {
			t.Fatal(err)
		}
	}
	if err := Create(t.Context(), client, short); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the same ID again gives %v", err)
	}
	got, unreadable, err := List(t.Context(), client)
	if err != nil || len(unreadable) > 0 || len(got) != 2 {
		t.Fatalf("got %v, unreadable %v, error %v", got, unreadable, err)
	}
	for i, want := range []Token{short, forever} {
		if !got[i].Equal(want.Token) || !got[i].Expires.Equal(want.Expires) || got[i].Description != want.Description ||
			!reflect.DeepEqual(got[i].Usages, want.Usages) || !reflect.DeepEqual(got[i].Groups, want.Groups) {
			t.Errorf("got %+v, want %+v", got[i], want)
		}
	}
	if err := Delete(t.Context(), client, "aaaaaa"); err != nil {
		t.Fatal(err)
	}
	if err := Delete(t.Context(), client, "aaaaaa"); !apierrors.IsNotFound(err) {
		t.Errorf("deleting it again gives %v", err)
	}
}

// TestKubeadmForm holds what kubeadm and kube-controller-manager read.
func TestKubeadmForm(t *testing.T) {
	tok := newToken(t, "abcdef")
	tok.Expires = time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("", 3600))
	got := tok.secret()
	want := map[string]string{
		"token-id":                       "abcdef",
		"token-secret":                   secret,
		"usage-bootstrap-authentication": "true",
		"usage-bootstrap-signing":        "true",
		"expiration":                     "2026-03-01T12:00:00Z",
		"auth-extra-groups":              DefaultGroup,
		"description":                    "for the lab",
	}
	if got.Namespace != "kube-system" || got.Name != "bootstrap-token-abcdef" || got.Type != "bootstrap.kubernetes.io/token" {
		t.Errorf("the Secret is %s %s/%s", got.Type, got.Namespace, got.Name)
	}
	if !reflect.DeepEqual(got.StringData, want) {
		t.Errorf("it holds %v, want %v", got.StringData, want)
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*Token)
		want  string
	}{
		"no bootstrap token": {func(tok *Token) { tok.Token = token.Token{User: token.Server} }, "has the form <id>.<secret>"},
		"no usage":           {func(tok *Token) { tok.Usages = nil }, "without usages"},
		"unknown usage":      {func(tok *Token) { tok.Usages = []string{"join"} }, `no usage "join"`},
		"group":              {func(tok *Token) { tok.Groups = []string{"system:masters"} }, `group "system:masters"`},
	} {
		t.Run(name, func(t *testing.T) {
			tok := newToken(t, "abcdef")
			tc.spoil(&tok)
			client := newClient()
			if err := Create(t.Context(), client, tok); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if len(client.Actions()) > 0 {
				t.Error("the cluster was asked")
			}
		})
	}
}

func TestBadSecrets(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*corev1.Secret)
		want  string
	}{
		"type":       {func(s *corev1.Secret) { s.Type = "Opaque" }, `its type is "Opaque"`},
		"name":       {func(s *corev1.Secret) { s.Name = "bootstrap-token-ghijkl" }, "its name is not"},
		"user":       {func(s *corev1.Secret) { s.Data["token-id"] = []byte("node") }, "its name is not"},
		"secret":     {func(s *corev1.Secret) { s.Data["token-secret"] = []byte(secret + "x") }, "must be 16 characters"},
		"expiration": {func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }, `"tomorrow" is no time`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newToken(t, "abcdef").secret()
			s.Data = map[string][]byte{}
			for key, text := range s.StringData {
				s.Data[key] = []byte(text)
			}
			if _, err := FromSecret(s); err != nil {
				t.Fatalf("the unspoilt one gives %v", err)
			}
			tc.spoil(s)
			_, err := FromSecret(s)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestExpired(t *testing.T) {
	now := time.Now()
	for expires, want := range map[time.Time]bool{{}: false, now.Add(time.Second): false, now: true, now.Add(-time.Second): true} {
		if got := (Token{Expires: expires}).Expired(now); got != want {
			t.Errorf("a token that ends at %v has expired: %v, want %v", expires, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	client := newClient()
	ends, forever, signing := newToken(t, "aaaaaa"), newToken(t, "bbbbbb"), newToken(t, "cccccc")
	ends.Expires = now.Add(time.Hour)
	signing.Usages = []string{UsageSigning}
	for _, made := range []Token{ends, forever, signing} {
		if err := Create(t.Context(), client, made); err != nil {
			t.Fatal(err)
		}
	}
	other, err := token.New(nil, "bbbbbb", "fedcba9876543210")
	if err != nil {
		t.Fatal(err)
	}
	const advice = "make one with kedge token create on a server"
	for name, tc := range map[string]struct {
		given   token.Token
		at      time.Time
		refused bool
		want    string // in the refusal
	}{
		"good":                {ends.Token, now, false, ""},
		"a moment too late":   {ends.Token, ends.Expires, true, "it expired at 2026-03-01T13:00:00Z; " + advice},
		"long expired":        {ends.Token, now.AddDate(1, 0, 0), true, "it expired at 2026-03-01T13:00:00Z; " + advice},
		"never expires":       {forever.Token, now.AddDate(10, 0, 0), false, ""},
		"wrong secret":        {other, now, true, ""},
		"not made to join":    {signing.Token, now, true, ""},
		"there is none of it": {newToken(t, "dddddd").Token, now, true, advice},
	} {
		err := Check(t.Context(), client, tc.given, tc.at)
		if errors.Is(err, join.ErrUnknownToken) != tc.refused || (err != nil) != tc.refused {
			t.Errorf("%s: got %v, refused should be %v", name, err, tc.refused)
			continue
		}
		if err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: got %q, want %q in it", name, err, tc.want)
		}
	}
	client.PrependReactor("get", "secrets", func(clientgotesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("away")
	})
	if err := Check(t.Context(), client, forever.Token, now); err == nil || errors.Is(err, join.ErrUnknownToken) {
		t.Errorf("a datastore that is away gives %v", err)
	}
}

func TestID(t *testing.T) {
	full := fmt.Sprintf("K10%064d::abcdef.%s", 0, secret)
	for text, want := range map[string]string{
		"abcdef": "abcdef", "abcdef." + secret: "abcdef", full: "abcdef",
		"": "", "abc": "", "ABCDEF": "", "server:" + secret: "", "abcdef.short": "",
	} {
		got, err := ID(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q gives %q, error %v; want %q", text, got, err, want)
		}
	}
}

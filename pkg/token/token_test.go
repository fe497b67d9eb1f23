package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

const bundle = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

var hash = HashCA([]byte(bundle))

func TestParse(t *testing.T) {
	for _, test := range []struct {
		text         string
		want         Token
		secret       string
		user, reveal string
	}{
		{text: "K10" + hash + "::server:s3cret", want: Token{CAHash: hash, User: Server}, secret: "s3cret", user: "server"},
		{text: "K10" + hash + "::node:s.3cret", want: Token{CAHash: hash, User: Node}, secret: "s.3cret", user: "node"},
		{text: "K10" + strings.ToUpper(hash) + "::node:x", want: Token{CAHash: hash, User: Node}, secret: "x", user: "node", reveal: "K10" + hash + "::node:x"},
		{text: "K10" + hash + "::abc123.0123456789abcdef", want: Token{CAHash: hash, BootstrapID: "abc123"}, secret: "0123456789abcdef", user: "abc123"},
		{text: "abc123.0123456789abcdef", want: Token{BootstrapID: "abc123"}, secret: "0123456789abcdef", user: "abc123"},
		{text: "server:s3cret", want: Token{User: Server}, secret: "s3cret", user: "server"},
		{text: "just-a-secret", secret: "just-a-secret", user: "bare"},
		{text: "abc123.short", secret: "abc123.short", user: "bare"},
		{text: "ABC123.0123456789abcdef", secret: "ABC123.0123456789abcdef", user: "bare"},
		{text: strings.Repeat("x", maxSecret), secret: strings.Repeat("x", maxSecret), user: "bare"},
	} {
		got, err := Parse(test.text)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.text, err)
			continue
		}
		test.want.secret = &test.secret
		if !reflect.DeepEqual(got, test.want) || got.Secret() != test.secret {
			t.Errorf("Parse(%q) = %v with secret %q", test.text, got, got.Secret())
		}
		if test.reveal == "" {
			test.reveal = test.text
		}
		if got.Reveal() != test.reveal {
			t.Errorf("Parse(%q).Reveal() = %q", test.text, got.Reveal())
		}
		if user, password := got.BasicAuth("bare"); user != test.user || password != test.secret {
			t.Errorf("Parse(%q).BasicAuth() = %q, %q", test.text, user, password)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		text string
		want error
	}{
		{"", errEmpty},
		{"pass word", errCharacters},
		{"password\n", errCharacters},
		{"pässword", errCharacters},
		{"server:\xff\xfe", errCharacters},
		{"K10password", errForm},
		{"K10" + hash, errForm},
		{"K10" + hash + ":server:password", errForm},
		{"K10::server:password", errHash},
		{"K10" + hash[1:] + "::server:password", errHash},
		{"K10" + hash + "0::server:password", errHash},
		{"K10" + hash[1:] + "g::server:password", errHash},
		{"K10" + hash + "::", errCredential},
		{"K10" + hash + "::password", errCredential},
		{"K10" + hash + "::abc123.tooshort", errCredential},
		{"K10" + hash + "::admin:password", errUser},
		{"K10" + hash + "::::server:password", errUser},
		{"K10" + hash + "::server:", errSecret},
		{"K10" + hash + "::node:pass:word", errColon},
		{hash + "::server:password", errUser},
		{"pass:word", errUser},
		{"server.0123456789abcdef", errReserved},
		{strings.Repeat("x", maxSecret+1), errLong},
		{"node:" + strings.Repeat("x", maxSecret+1), errLong},
	} {
		if got, err := Parse(test.text); !errors.Is(err, test.want) || got.secret != nil {
			t.Errorf("Parse(%q) = %v, %v; want %v", test.text, got, err, test.want)
		}
	}
}

func TestNew(t *testing.T) {
	text, err := Format([]byte(bundle), Node, "s3cret")
	if want := "K10" + hash + "::node:s3cret"; err != nil || text != want {
		t.Errorf("Format = %q, %v; want %q", text, err, want)
	}
	text, err = Format([]byte(bundle), "abc123", "0123456789abcdef")
	if want := "K10" + hash + "::abc123.0123456789abcdef"; err != nil || text != want {
		t.Errorf("Format = %q, %v; want %q", text, err, want)
	}
	for _, test := range []struct {
		user, secret string
		want         error
	}{
		{"", "s3cret", errUser},
		{"admin", "s3cret", errUser},
		{"abc123", "s3cret", errBootstrap},
		{Server, "", errSecret},
		{Server, "s3\ncret", errCharacters},
		{Server, "a:b", errColon},
	} {
		if text, err := Format(nil, test.user, test.secret); !errors.Is(err, test.want) || text != "" {
			t.Errorf("Format(%q, %q) = %q, %v; want %v", test.user, test.secret, text, err, test.want)
		}
		if got, err := FromBasicAuth(test.user, test.secret); !errors.Is(err, test.want) || got.secret != nil {
			t.Errorf("FromBasicAuth(%q, %q) = %v, %v; want %v", test.user, test.secret, got, err, test.want)
		}
	}
}

func TestRequestCarriesTheCredential(t *testing.T) {
	for _, text := range []string{
		"K10" + hash + "::server:s3cret",
		"K10" + hash + "::node:s3cret",
		"K10" + hash + "::abc123.0123456789abcdef",
	} {
		sent := mustParse(t, text)
		got, err := FromBasicAuth(sent.BasicAuth(""))
		if err != nil || !got.Equal(sent) || !sent.Equal(got) {
			t.Errorf("%s arrives as %v, %v", text, got, err)
		}
	}
}

func TestEqual(t *testing.T) {
	same := []string{"server:s3cret", "K10" + hash + "::server:s3cret"}
	for _, text := range same {
		if !mustParse(t, same[0]).Equal(mustParse(t, text)) {
			t.Errorf("%s does not equal %s", same[0], text)
		}
	}
	for _, text := range []string{"server:s3cres", "server:s3cret1", "server:s3cre", "node:s3cret", "s3cret", "abc123.0123456789abcdef"} {
		if mustParse(t, same[0]).Equal(mustParse(t, text)) {
			t.Errorf("%s equals %s", same[0], text)
		}
	}
	if (Token{}).Equal(Token{}) {
		t.Error("no token equals no token")
	}
}

func TestVerifyCA(t *testing.T) {
	token := mustParse(t, "K10"+hash+"::server:s3cret")
	if err := token.VerifyCA([]byte(bundle)); err != nil {
		t.Error(err)
	}
	err := token.VerifyCA([]byte("another"))
	if err == nil || !strings.Contains(err.Error(), hash) || !strings.Contains(err.Error(), HashCA([]byte("another"))) {
		t.Errorf("a wrong CA: %v", err)
	}
	if err := mustParse(t, "s3cret").VerifyCA([]byte(bundle)); !errors.Is(err, ErrNoCAHash) {
		t.Errorf("a bare secret: %v", err)
	}
}

// A value in another struct is where redaction is easily lost.
type holder struct {
	Exported Token
	hidden   Token
	pointer  *Token
}

func TestSecretIsNotPrinted(t *testing.T) {
	const secret = "0123456789abcdef"
	for _, text := range []string{secret, "server:" + secret, "abc123." + secret, "K10" + hash + "::node:" + secret} {
		token := mustParse(t, text)
		if want := strings.Replace(text, secret, "[redacted]", 1); token.String() != want {
			t.Errorf("String() = %q, want %q", token, want)
		}
		values := []any{token, &token, holder{token, token, &token}, &holder{token, token, &token}, []Token{token}, map[string]Token{"token": token}}
		var out bytes.Buffer
		for _, value := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
				fmt.Fprintf(&out, verb+"\n", value)
			}
			slog.New(slog.NewTextHandler(&out, nil)).Info("text", "value", value)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "value", value)
			if err := json.NewEncoder(&out).Encode(value); err != nil {
				t.Fatal(err)
			}
		}
		for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret)} {
			if strings.Contains(out.String(), form) {
				t.Errorf("the secret is printed:\n%s", out.String())
			}
		}
		if !strings.Contains(out.String(), redacted) {
			t.Errorf("nothing was redacted:\n%s", out.String())
		}
	}
	if text := (Token{}).String(); text != "" {
		t.Errorf("no token prints as %q", text)
	}
}

func TestRandom(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		secret := NewSecret()
		id, bootstrap := NewBootstrap()
		if len(secret) != 32 || seen[secret] || seen[id+bootstrap] {
			t.Fatalf("secret %q, bootstrap token %s.%s", secret, id, bootstrap)
		}
		seen[secret], seen[id+bootstrap] = true, true
		if _, err := New(nil, Server, secret); err != nil {
			t.Errorf("secret %q: %v", secret, err)
		}
		if got := mustParse(t, id+"."+bootstrap); got.BootstrapID != id || got.Secret() != bootstrap {
			t.Errorf("bootstrap token %s.%s is read as %v", id, bootstrap, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "K10", "K10::", "secret", "a:b", "server:", "node:x", "abc123.0123456789abcdef", "server.0123456789abcdef",
		"K10" + hash + "::server:s3cret", "K10" + hash + "::abc123.0123456789abcdef", "K10" + hash + "::node:a:b", "K10" + hash[1:] + "::x",
	} {
		f.Add(seed)
	}
	fixed := map[error]bool{}
	for _, err := range []error{errEmpty, errLong, errCharacters, errForm, errHash, errCredential, errUser, errSecret, errColon, errReserved} {
		fixed[err] = true
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			if !fixed[err] {
				t.Fatalf("Parse(%q): %v is no fixed text", text, err)
			}
			return
		}
		again, err := Parse(token.Reveal())
		if err != nil || !reflect.DeepEqual(again, token) || !again.Equal(token) {
			t.Fatalf("Parse(%q) = %v, whose text is read as %v, %v", text, token, again, err)
		}
		// What is printed depends on nothing but the public parts.
		public, other := token.String(), "other"
		token.secret = &other
		if token.String() != public {
			t.Fatalf("Parse(%q) prints its secret: %s", text, public)
		}
	})
}

func mustParse(t *testing.T, text string) Token {
	t.Helper()
	token, err := Parse(text)
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return token
}

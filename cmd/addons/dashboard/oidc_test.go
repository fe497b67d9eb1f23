package dashboard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// identityProvider gives ID tokens for the code "code"; tests/dashboard logs in at a
// whole one.
type identityProvider struct {
	*httptest.Server
	key              *ecdsa.PrivateKey
	challenge, nonce string // of the login that has begun
	change           func(claims map[string]any)
	issued           string
}

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &identityProvider{key: key, change: func(map[string]any) {}}
	routes := http.NewServeMux()
	p.Server = httptest.NewTLSServer(routes)
	t.Cleanup(p.Close)
	routes.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	routes.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	routes.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if r.PostFormValue("code") != "code" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.challenge {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
			return
		}
		claims := map[string]any{"iss": p.URL, "aud": "kedge", "sub": "alice", "nonce": p.nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
		p.change(claims)
		p.issued = p.sign(t, claims)
		writeJSON(w, http.StatusOK, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": p.issued})
	})
	return p
}

func (p *identityProvider) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestOIDC(t *testing.T) {
	idp := newIdentityProvider(t)
	roots := x509.NewCertPool()
	roots.AddCert(idp.Certificate())
	server, _ := serve(t, with{
		provider: newProvider(idp.URL, "kedge", "", []string{"openid"}, roots),
		accepts:  func(token string) bool { return token == idp.issued && token != "" },
	})
	const asJSON = "Content-Type: application/json"
	// begin goes to the provider and returns the cookie and the state.
	begin := func(t *testing.T) (cookie, state string) {
		response, body := do(t, "POST", server.URL+"/oidc", `{"redirect":"https://dashboard.test/","secure":true}`, asJSON)
		set := response.header.Get("Set-Cookie")
		if response.code != http.StatusOK || !strings.Contains(set, "HttpOnly") || !strings.Contains(set, "Secure") || !strings.Contains(set, "SameSite=Strict") {
			t.Fatalf("the login begins with %d %s, cookie %s", response.code, body, set)
		}
		var to struct{ URL string }
		if err := json.Unmarshal([]byte(body), &to); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(to.URL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if u.Path != "/authorize" || q.Get("response_type") != "code" || q.Get("client_id") != "kedge" || q.Get("redirect_uri") != "https://dashboard.test/" || q.Get("code_challenge_method") != "S256" {
			t.Errorf("the browser is sent to %s", u)
		}
		idp.challenge, idp.nonce = q.Get("code_challenge"), q.Get("nonce")
		cookie, _, _ = strings.Cut(set, ";")
		return "Cookie: " + cookie, q.Get("state")
	}
	finish := func(t *testing.T, code, state string, header ...string) (answer, string) {
		return do(t, "POST", server.URL+"/session", `{"code":"`+code+`","state":"`+state+`"}`, append(header, asJSON)...)
	}

	cookie, state := begin(t)
	response, body := finish(t, "code", state, cookie)
	set := strings.Join(response.header.Values("Set-Cookie"), "\n")
	if response.code != http.StatusOK || !strings.Contains(body, "alice") || !strings.Contains(set, "kedge-dashboard="+idp.issued) || !strings.Contains(set, loginCookie+"=;") {
		t.Errorf("the login ends with %d %s, cookies %s", response.code, body, set)
	}
	for name, c := range map[string]struct {
		code, state string
		noCookie    bool
		change      func(map[string]any)
		want        int
	}{
		"another code":              {code: "guess", want: 401},
		"another state":             {code: "code", state: "guess", want: 403},
		"of another browser":        {code: "code", noCookie: true, want: 403},
		"for another client":        {code: "code", change: func(c map[string]any) { c["aud"] = "other" }, want: 401},
		"of another issuer":         {code: "code", change: func(c map[string]any) { c["iss"] = "https://other.test" }, want: 401},
		"of another login":          {code: "code", change: func(c map[string]any) { c["nonce"] = "other" }, want: 401},
		"expired":                   {code: "code", change: func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() }, want: 401},
		"too long for the cookie":   {code: "code", change: func(c map[string]any) { c["groups"] = strings.Repeat("x", maxToken) }, want: 400},
		"and, at last, a right one": {code: "code", want: 200},
	} {
		t.Run(name, func(t *testing.T) {
			cookie, state := begin(t)
			idp.change = func(map[string]any) {}
			if c.change != nil {
				idp.change = c.change
			}
			if c.state != "" {
				state = c.state
			}
			var header []string
			if !c.noCookie {
				header = []string{cookie}
			}
			response, body := finish(t, c.code, state, header...)
			if response.code != c.want {
				t.Errorf("got %d %s, want %d", response.code, body, c.want)
			}
			if set := strings.Join(response.header.Values("Set-Cookie"), "\n"); c.want != 200 && strings.Contains(set, cookieName+"=e") {
				t.Errorf("a session begins: %s", set)
			}
		})
	}
	for _, redirect := range []string{"", "javascript:1", "//host/", "https://user:x@host/", "https://host/?a=b", "https://host/#a"} {
		if response, _ := do(t, "POST", server.URL+"/oidc", `{"redirect":"`+redirect+`"}`, asJSON); response.code != http.StatusBadRequest {
			t.Errorf("back to %q: %d", redirect, response.code)
		}
	}
	if response, _ := do(t, "POST", server.URL+"/oidc", `{"redirect":"https://host/"}`, "Content-Type: text/plain"); response.code != http.StatusUnsupportedMediaType {
		t.Errorf("another site's page begins a login: %d", response.code)
	}
	if _, body := do(t, "GET", server.URL+"/oidc", ""); !strings.Contains(body, idp.URL) {
		t.Errorf("the provider is %s", body)
	}
	without, _ := serve(t, with{})
	if response, body := do(t, "GET", without.URL+"/oidc", ""); response.code != http.StatusOK || !strings.Contains(body, `"issuer":""`) {
		t.Errorf("without a provider: %d %s", response.code, body)
	}
	if response, _ := do(t, "POST", without.URL+"/oidc", `{"redirect":"https://host/"}`, asJSON); response.code != http.StatusNotFound {
		t.Errorf("a login without a provider: %d", response.code)
	}
}

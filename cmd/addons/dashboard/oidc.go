package dashboard

import (
	"context"
	"crypto/hmac"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// loginCookie keeps a login while the browser is at the identity provider's.
	loginCookie = "kedge-dashboard-login"
	loginTime   = 10 * time.Minute
)

// provider is an OpenID Connect provider whose ID tokens the API server accepts.
type provider struct {
	issuer, clientID, secret string
	scopes                   []string
	http                     *http.Client
}

func newProvider(issuer, clientID, secret string, scopes []string, roots *x509.CertPool) *provider {
	return &provider{issuer: issuer, clientID: clientID, secret: secret, scopes: scopes, http: &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{
			Proxy:           http.ProxyFromEnvironment,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			IdleConnTimeout: 10 * time.Second, // logins are rare
		},
	}}
}

// attempt is a login that has begun.
type attempt struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	Redirect string `json:"redirect"`
}

// discover asks the provider where to go. It is asked at each login: nothing of it can
// be out of date, and the dashboard starts without it.
func (p *provider) discover(ctx context.Context, redirect string) (*oidc.Provider, *oauth2.Config, error) {
	found, err := oidc.NewProvider(ctx, p.issuer)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the identity provider: %w", err)
	}
	return found, &oauth2.Config{ClientID: p.clientID, ClientSecret: p.secret, Endpoint: found.Endpoint(), RedirectURL: redirect, Scopes: p.scopes}, nil
}

// begin returns where the browser has to go to log in, and what is to be kept meanwhile.
func (p *provider) begin(ctx context.Context, redirect string) (string, attempt, error) {
	ctx = oidc.ClientContext(ctx, p.http)
	_, config, err := p.discover(ctx, redirect)
	if err != nil {
		return "", attempt{}, err
	}
	a := attempt{State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier(), Redirect: redirect}
	return config.AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)), a, nil
}

// finish turns the code that the browser came back with into an ID token.
func (p *provider) finish(ctx context.Context, a attempt, code string) (string, error) {
	ctx = oidc.ClientContext(ctx, p.http)
	found, config, err := p.discover(ctx, a.Redirect)
	if err != nil {
		return "", err
	}
	tokens, err := config.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return "", fmt.Errorf("the identity provider does not accept the login: %w", err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return "", errors.New("the identity provider gave no ID token")
	}
	verified, err := found.VerifierContext(ctx, &oidc.Config{ClientID: p.clientID}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("the identity provider's ID token: %w", err)
	}
	if !hmac.Equal([]byte(verified.Nonce), []byte(a.Nonce)) {
		return "", errors.New("the identity provider's ID token is of another login")
	}
	return raw, nil
}

// serveProvider says who logs people in (GET), and begins a login there (POST). The
// page knows its address, whatever proxies lie before the server.
func (h *handler) serveProvider(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.Method == http.MethodGet:
		issuer := ""
		if h.provider != nil {
			issuer = h.provider.issuer
		}
		writeJSON(w, http.StatusOK, map[string]string{"issuer": issuer})
	case r.Method != http.MethodPost:
		fail(w, http.StatusMethodNotAllowed, "an identity provider knows GET and POST")
	case h.provider == nil:
		fail(w, http.StatusNotFound, "there is no identity provider")
	default:
		var asked struct {
			Redirect string `json:"redirect"`
			Secure   bool   `json:"secure"`
		}
		if !readLogin(w, r, &asked) {
			return
		}
		back, err := url.Parse(asked.Redirect)
		if err != nil || back.Scheme != "https" && back.Scheme != "http" || back.Host == "" || back.User != nil || back.RawQuery != "" || back.Fragment != "" || len(asked.Redirect) > 1000 {
			fail(w, http.StatusBadRequest, "the page's address is not understood")
			return
		}
		to, a, err := h.provider.begin(r.Context(), asked.Redirect)
		if err != nil {
			fail(w, http.StatusBadGateway, err.Error())
			return
		}
		kept, err := json.Marshal(a)
		if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		http.SetCookie(w, &http.Cookie{ //nolint:gosec // G124: secure where it can be
			Name: loginCookie, Value: base64.RawURLEncoding.EncodeToString(kept), MaxAge: int(loginTime.Seconds()),
			HttpOnly: true, Secure: asked.Secure, SameSite: http.SameSiteStrictMode,
		})
		writeJSON(w, http.StatusOK, map[string]string{"url": to})
	}
}

// exchange finishes the login that this browser has begun, or answers why not.
func (h *handler) exchange(w http.ResponseWriter, r *http.Request, code, state string) (string, bool) {
	http.SetCookie(w, &http.Cookie{Name: loginCookie, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode}) //nolint:gosec // G124: it is empty
	var a attempt
	if cookie, err := r.Cookie(loginCookie); err == nil {
		if kept, err := base64.RawURLEncoding.DecodeString(cookie.Value); err == nil {
			_ = json.Unmarshal(kept, &a) // what is wrong has no state
		}
	}
	// Nobody can have this browser finish a login that it has not begun.
	if h.provider == nil || a.State == "" || !hmac.Equal([]byte(a.State), []byte(state)) {
		fail(w, http.StatusForbidden, "this browser has not begun this login, or too long ago: log in again")
		return "", false
	}
	token, err := h.provider.finish(r.Context(), a, code)
	if err != nil {
		fail(w, http.StatusUnauthorized, err.Error())
		return "", false
	}
	return token, true
}

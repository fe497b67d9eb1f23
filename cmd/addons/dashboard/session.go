package dashboard

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

const (
	// cookieName is of the cookie that keeps the user's token. No script reads it and
	// no other site's page can send it. Its path is that of the page, whatever proxies
	// lie before the server: a cookie without a path belongs where it was set.
	cookieName = "kedge-dashboard"
	// A browser refuses cookies of more than 4096 bytes.
	maxToken = 3800
	maxLogin = 64 << 10
)

// session is what the page is told of who is logged in.
type session struct {
	User    string     `json:"user"`
	Groups  []string   `json:"groups,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	// Certificates says when those of the API server end, as far as anybody sees them.
	Certificates *certificates `json:"certificates,omitempty"`
	// CSRF is what requests that change something, and websockets, have to show: only
	// a page of the same origin can have read it.
	CSRF string `json:"csrf"`
}

type certificates struct {
	APIServer time.Time `json:"apiServer"`
	Authority time.Time `json:"authority"`
}

// certificatesOf reads those of a connection.
func certificatesOf(connection *tls.ConnectionState) *certificates {
	if connection == nil || len(connection.VerifiedChains) == 0 {
		return nil
	}
	chain := connection.VerifiedChains[0]
	return &certificates{APIServer: chain[0].NotAfter, Authority: chain[len(chain)-1].NotAfter}
}

var errRefused = errors.New("the API server does not know this token: it is wrong or has expired")

// token returns that of the request's session, or nothing.
func token(r *http.Request) string {
	cookie, err := r.Cookie(cookieName)
	if err != nil || checkToken(cookie.Value) != nil {
		return ""
	}
	return cookie.Value
}

// checkToken says whether a token can be one, before it is put into a header.
func checkToken(token string) error {
	if token == "" {
		return errors.New("the token is empty")
	}
	if len(token) > maxToken {
		return fmt.Errorf("the token has more than %d characters", maxToken)
	}
	for _, c := range token {
		if c <= ' ' || c > '~' || strings.ContainsRune(`",;\`, c) {
			return errors.New("the token holds characters that no token has")
		}
	}
	return nil
}

// csrf derives what proves that a request comes from our own page.
func csrf(token string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("kedge-dashboard-csrf"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func sameCSRF(token, shown string) bool { return hmac.Equal([]byte(csrf(token)), []byte(shown)) }

// expiry reads when a JSON web token ends. The API server is who verifies it.
func expiry(token string) *time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 {
		return nil
	}
	t := time.Unix(int64(claims.Exp), 0).UTC()
	return &t
}

// serveSession logs in (POST), tells who is logged in (GET), logs out (DELETE).
func (h *handler) serveSession(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch r.Method {
	case http.MethodPost:
		var login struct {
			Token  string `json:"token"`
			Code   string `json:"code"` // of an identity provider, in place of a token
			State  string `json:"state"`
			Secure bool   `json:"secure"` // the browser came by HTTPS
		}
		if !readLogin(w, r, &login) {
			return
		}
		if login.Code != "" {
			var ok bool
			if login.Token, ok = h.exchange(w, r, login.Code, login.State); !ok {
				return
			}
		}
		login.Token = strings.TrimSpace(login.Token)
		if err := checkToken(login.Token); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		s, ok := h.identify(w, r, login.Token)
		if !ok {
			return
		}
		// By HTTP a browser comes only to the machine that it runs on.
		cookie := &http.Cookie{ //nolint:gosec // G124: secure where it can be
			Name: cookieName, Value: login.Token, HttpOnly: true, Secure: login.Secure, SameSite: http.SameSiteStrictMode,
		}
		if s.Expires != nil {
			cookie.MaxAge = max(1, int(time.Until(*s.Expires).Seconds()))
		}
		http.SetCookie(w, cookie)
		writeJSON(w, http.StatusOK, s)
	case http.MethodGet:
		token := token(r)
		if token == "" {
			fail(w, http.StatusUnauthorized, "nobody is logged in")
			return
		}
		if s, ok := h.identify(w, r, token); ok {
			writeJSON(w, http.StatusOK, s)
		}
	case http.MethodDelete:
		if token := token(r); token != "" && !sameCSRF(token, r.Header.Get(csrfHeader)) {
			fail(w, http.StatusForbidden, "the request does not come from the dashboard's page")
			return
		}
		forget(w)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, "a session knows POST, GET and DELETE")
	}
}

// readLogin reads what a page sends before anybody is logged in, or answers why not.
func readLogin(w http.ResponseWriter, r *http.Request, into any) bool {
	// Of other sites' pages none can send this type without being asked first.
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "log in with JSON")
		return false
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLogin)).Decode(into); err != nil {
		fail(w, http.StatusBadRequest, "the login is not understood")
		return false
	}
	return true
}

// forget has the browser drop the session.
func forget(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode}) //nolint:gosec // G124: it is empty
}

// identify asks the API server who a token belongs to, or answers why nobody.
func (h *handler) identify(w http.ResponseWriter, r *http.Request, token string) (session, bool) {
	s, err := h.upstream.whoAmI(r.Context(), token)
	switch {
	case errors.Is(err, errRefused):
		forget(w)
		fail(w, http.StatusUnauthorized, err.Error())
	case err != nil:
		fail(w, http.StatusBadGateway, "the API server can't be asked: "+err.Error())
	}
	return s, err == nil
}

// whoAmI asks who a token belongs to.
func (u *upstream) whoAmI(ctx context.Context, token string) (session, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	body := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	url := u.server.JoinPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").String()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return session{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := u.transport.RoundTrip(request)
	if err != nil {
		return session{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return session{}, err
	}
	if response.StatusCode == http.StatusUnauthorized {
		return session{}, errRefused
	}
	if response.StatusCode/100 != 2 {
		return session{}, fmt.Errorf("who the token belongs to: %s", response.Status)
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string   `json:"username"`
				Groups   []string `json:"groups"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	if err := json.Unmarshal(content, &review); err != nil {
		return session{}, fmt.Errorf("who the token belongs to: %w", err)
	}
	user := review.Status.UserInfo
	return session{User: user.Username, Groups: user.Groups, Expires: expiry(token), Certificates: certificatesOf(response.TLS), CSRF: csrf(token)}, nil
}

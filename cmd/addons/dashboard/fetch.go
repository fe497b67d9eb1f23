package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	maxFetched   = 1 << 20
	fetchTime    = 20 * time.Second
	maxFetches   = 4 // at a time
	maxRedirects = 5
)

// notPublic are networks among those for single hosts that are not of the internet, or
// lead elsewhere: RFC 6890 and what came after it.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // behind a provider's NAT
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001::/23"), // Teredo and others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4: holds an IPv4 address
	netip.MustParsePrefix("3fff::/20"),
}

// globalIPv6 is all of IPv6 that is given to the internet: NAT64's prefixes, which hold
// IPv4 addresses, lie outside of it.
var globalIPv6 = netip.MustParsePrefix("2000::/3")

func public(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !globalIPv6.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

var errNotPublic = errors.New("its address is not one of the public internet at port 80 or 443, from which alone the dashboard fetches: download the file and open it, or have the administrator allow the network")

// fetcher gets files for users from elsewhere. It stands inside the cluster, so it goes
// where anybody on the internet can go, and nowhere else.
type fetcher struct {
	allowed []netip.Prefix // besides the internet
	client  *http.Client
	slots   chan struct{}
}

func newFetcher(allowed []netip.Prefix) *fetcher {
	f := &fetcher{allowed: allowed, slots: make(chan struct{}, maxFetches)}
	// Each connection's own address is checked: what a name resolves to may change, and
	// a redirect may lead anywhere. No proxy comes between.
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error { return f.permit(address) }}
	f.client = &http.Client{
		Timeout: fetchTime,
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
				return errors.New("it leads from https to http")
			}
			return checkFetch(r.URL)
		},
	}
	return f
}

// permit checks the address that is about to be connected to.
func (f *fetcher) permit(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	a := to.Addr().Unmap().WithZone("")
	if slices.ContainsFunc(f.allowed, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	if !public(a) || to.Port() != 80 && to.Port() != 443 {
		return errNotPublic
	}
	return nil
}

func checkFetch(u *url.URL) error {
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return errors.New("give an address that begins with https://")
	}
	if u.User != nil {
		return errors.New("an address with a password is not fetched")
	}
	return nil
}

// get fetches a text.
func (f *fetcher) get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%q is no address", address)
	}
	if err := checkFetch(u); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", userAgent)
	response, err := f.client.Do(request)
	if errors.Is(err, errNotPublic) {
		return nil, errNotPublic // and not what the name resolves to
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers: %s", response.Status)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxFetched+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxFetched:
		return nil, errors.New("the file is larger than 1 MiB")
	case !utf8.Valid(content):
		return nil, errors.New("the file is no text")
	}
	return content, nil
}

// serveFetch fetches a file for a user whom the API server knows.
func (h *handler) serveFetch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	token := token(r)
	switch {
	case r.Method != http.MethodPost:
		fail(w, http.StatusMethodNotAllowed, "fetching is a POST")
		return
	case token == "":
		fail(w, http.StatusUnauthorized, "nobody is logged in")
		return
	case !fromPage(r, token, false):
		fail(w, http.StatusForbidden, "the request does not come from the dashboard's page")
		return
	}
	var asked struct {
		URL string `json:"url"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLogin)).Decode(&asked); err != nil {
		fail(w, http.StatusBadRequest, "the request is not understood")
		return
	}
	if _, ok := h.identify(w, r, token); !ok {
		return
	}
	select {
	case h.fetcher.slots <- struct{}{}:
		defer func() { <-h.fetcher.slots }()
	default:
		fail(w, http.StatusTooManyRequests, "others fetch files as well: try again in a moment")
		return
	}
	content, err := h.fetcher.get(r.Context(), asked.URL)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, "the file can't be fetched: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(content)
}

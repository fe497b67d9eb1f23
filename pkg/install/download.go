package install

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

const (
	project       = "https://github.com/kedge-k8s/kedge"
	attempts      = 3
	dialLimit     = 20 * time.Second
	downloadLimit = 30 * time.Minute
)

// Source is where a program is downloaded from, as install.sh has it. Of the
// first three at most one is given.
type Source struct {
	URL     string // of a directory with the files of a release
	Version string
	Channel string
	Mirror  string // of the project's page; "": the project's
}

// architecture is this machine's, as the files of a release name it.
func architecture() string {
	if runtime.GOARCH == "arm" {
		return "armhf"
	}
	return runtime.GOARCH
}

// Download gets a program and checks it against the release's checksum. The
// caller removes the file.
func (s Source) Download(ctx context.Context, dir string, out io.Writer) (file string, err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadLimit)
	defer cancel()
	base, err := s.base(ctx)
	if err != nil {
		return "", err
	}
	name, sumsName := "kedge-"+architecture(), "sha256sum-"+architecture()+".txt"
	sums, err := fetchText(ctx, base+"/"+sumsName)
	if err != nil {
		return "", err
	}
	want := findSum(sums, name)
	if want == "" {
		return "", fmt.Errorf("%s/%s names no %s", base, sumsName, name)
	}
	target, err := os.CreateTemp(dir, ".kedge.*")
	if err != nil {
		return "", err
	}
	defer func() {
		_ = target.Close()
		if err != nil {
			_ = os.Remove(target.Name())
		}
	}()
	fmt.Fprintf(out, "  %-10s %s/%s\n", "download", base, name)
	for attempt := 1; ; attempt++ {
		got, err := fetchFile(ctx, base+"/"+name, target)
		if err == nil && got != want {
			err = fmt.Errorf("%s/%s is damaged: its SHA-256 is %s, and should be %s", base, name, got, want)
		}
		if err == nil {
			return target.Name(), errors.Join(target.Chmod(0o755), target.Sync())
		}
		if attempt == attempts || ctx.Err() != nil {
			return "", err
		}
	}
}

// base is the address of the directory of the release.
func (s Source) base(ctx context.Context) (string, error) {
	page := s.page()
	switch {
	case s.URL != "":
		return strings.TrimSuffix(s.URL, "/"), nil
	case s.Version != "":
		return page + "/releases/download/" + url.QueryEscape(s.Version), nil
	case s.Channel == "" || s.Channel == "stable":
		return page + "/releases/latest/download", nil
	}
	version, err := s.channelVersion(ctx, page)
	if err != nil {
		return "", err
	}
	return page + "/releases/download/" + url.QueryEscape(version), nil
}

// channelVersion is the version of a channel that has a name.
func (s Source) channelVersion(ctx context.Context, page string) (string, error) {
	version, err := fetchText(ctx, page+"/releases/download/channels/"+url.PathEscape(s.Channel))
	if err != nil {
		return "", fmt.Errorf("the channel %s: %w", s.Channel, err)
	}
	return strings.TrimSpace(version), nil
}

// ChannelURL is what redirects to the version of the channel stable.
func (s Source) ChannelURL() string { return s.page() + "/releases/latest" }

// ChannelVersion is the version of a channel other than stable.
func (s Source) ChannelVersion(ctx context.Context) (string, error) {
	return s.channelVersion(ctx, s.page())
}

// page is the address of the project's page.
func (s Source) page() string {
	if s.Mirror == "" {
		return project
	}
	return strings.TrimSuffix(s.Mirror, "/")
}

// findSum returns the checksum of a file from what sha256sum has written.
func findSum(sums, name string) string {
	lines := bufio.NewScanner(strings.NewReader(sums))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 2 && len(f[0]) == hex.EncodedLen(sha256.Size) && path.Base(strings.TrimPrefix(f[1], "*")) == name {
			return f[0]
		}
	}
	return ""
}

// stallLimit is how long nothing may come of a download.
var stallLimit = time.Minute

// moving is a connection whose reads end when nothing comes.
type moving struct{ net.Conn }

func (c moving) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return moving{conn}, nil
}

func get(ctx context.Context, address string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial,
		ResponseHeaderTimeout: dialLimit,
		DisableKeepAlives:     true,
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("get %s: %s", address, response.Status)
	}
	return response.Body, nil
}

func fetchText(ctx context.Context, address string) (string, error) {
	body, err := get(ctx, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	const most = 1 << 20
	content, err := io.ReadAll(io.LimitReader(body, most))
	return string(content), err
}

// fetchFile writes what is at an address to a file, in place of what is in it,
// and returns its SHA-256.
func fetchFile(ctx context.Context, address string, to *os.File) (string, error) {
	body, err := get(ctx, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := to.Truncate(0); err != nil {
		return "", err
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, hash), body); err != nil {
		return "", fmt.Errorf("get %s: %w", address, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// sum is the SHA-256 of a file.
func sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

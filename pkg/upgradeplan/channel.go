package upgradeplan

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/install"
)

const (
	// channelInterval is how often a channel is asked, as system-upgrade-controller
	// does.
	channelInterval = 15 * time.Minute
	channelRetry    = time.Minute
	channelLimit    = 20 * time.Second
)

// answer is what a channel has said.
type answer struct {
	version string    // the last; empty: none
	err     error     // of the last time it was asked
	next    time.Time // when to ask again
}

// resolve returns the version of a Plan. A channel that can't be asked says what it
// has said before; the error tells of that.
func (c *Controller) resolve(ctx context.Context, p *Plan, now time.Time) (string, error) {
	if p.Spec.Version != "" {
		return canonical(p.Spec.Version)
	}
	known, found := c.channels[p.Spec.Channel]
	if !found || !now.Before(known.next) {
		v, err := ask(ctx, p.Spec.Channel)
		known.err, known.next = err, now.Add(channelInterval)
		if err == nil {
			known.version = v
		} else {
			known.next = now.Add(channelRetry)
		}
		c.channels[p.Spec.Channel] = known
	}
	if known.version == "" && known.err != nil {
		// Of another server that led.
		before := p.Status.LatestVersion
		if hash, err := p.hash(before); err == nil && hash == p.Status.LatestHash {
			return before, known.err
		}
	}
	return known.version, known.err
}

// ask asks a channel: by its URL, or its name on the page that this server was
// installed from.
func ask(ctx context.Context, channel string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, channelLimit)
	defer cancel()
	if !strings.Contains(channel, "://") {
		record, _, err := install.ReadRecord()
		if err != nil {
			return "", err
		}
		source := install.Source{Channel: channel, Mirror: record.Mirror}
		if channel != "stable" {
			v, err := source.ChannelVersion(ctx)
			if err != nil {
				return "", err
			}
			return canonical(v)
		}
		channel = source.ChannelURL()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, channel, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	_ = response.Body.Close()
	to, err := response.Location()
	if err != nil {
		return "", fmt.Errorf("the channel %s does not redirect to a version: %s", channel, response.Status)
	}
	last, err := url.PathUnescape(path.Base(to.EscapedPath()))
	if err != nil {
		return "", err
	}
	return canonical(last)
}

package upgradeplan

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestChannel(t *testing.T) {
	asked, gone := 0, false
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if gone || r.URL.Path != "/latest" {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, "/tag/v1.36.4%2Bkedge1", http.StatusFound)
	}))
	defer page.Close()
	c := New(Config{})
	p := planOf(func(p *Plan) { p.Spec.Version, p.Spec.Channel = "", page.URL+"/latest" }).Plan
	for _, step := range []struct {
		after    time.Duration
		gone     bool
		asked    int
		mentions string
	}{
		{0, false, 1, ""},
		{time.Minute, false, 1, ""},                           // it is known
		{channelInterval, true, 2, "404"},                     // what it said before counts
		{channelInterval + channelRetry - 1, false, 2, "404"}, // not yet
		{channelInterval + channelRetry, false, 3, ""},
	} {
		gone = step.gone
		v, err := c.resolve(t.Context(), p, at.Add(step.after))
		if v != next36 || asked != step.asked || (err == nil) != (step.mentions == "") || err != nil && !strings.Contains(err.Error(), step.mentions) {
			t.Errorf("after %s: %s, error %v, asked %d times", step.after, v, err, asked)
		}
	}

	// A server that leads anew and can't ask goes on with what the other knew.
	gone = true
	hash, err := p.hash(next36)
	if err != nil {
		t.Fatal(err)
	}
	for latest, want := range map[string]string{next36: next36, "": ""} {
		p.Status.LatestVersion, p.Status.LatestHash = latest, hash
		if v, err := New(Config{}).resolve(t.Context(), p, at); v != want || err == nil {
			t.Errorf("with %q in the status: %q, error %v", latest, v, err)
		}
	}
}

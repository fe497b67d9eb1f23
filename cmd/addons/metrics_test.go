package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestThroughServers(t *testing.T) {
	server, err := url.Parse("https://10.43.0.1:443/")
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		"https://node-1:10250/metrics/resource":         "https://10.43.0.1:443/kedge/nodes/node-1/metrics/resource",
		"https://node.example.com:10250/other?resource": "https://10.43.0.1:443/kedge/nodes/node.example.com/other",
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, asked, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer token")
		client := http.Client{Transport: throughServers{server, roundTrip(func(r *http.Request) (*http.Response, error) {
			if got := r.URL.String(); got != want {
				t.Errorf("%s goes to %s, want %s", asked, got, want)
			}
			if !strings.HasPrefix(r.URL.Path, "/") {
				t.Errorf("%s has the path %s", asked, r.URL.Path)
			}
			if r.Host != "" && r.Host != server.Host {
				t.Errorf("%s is sent for the host %s", asked, r.Host)
			}
			if r.Header.Get("Authorization") == "" {
				t.Error("the token is lost")
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})}}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
}

func TestMetricsServerFlags(t *testing.T) {
	out, err := program(t, "/metrics-server", "--metric-resolution=1s").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "metric-resolution") {
		t.Errorf("a resolution of 1 s: %v, said %q", err, out)
	}
	out, err = program(t, "/metrics-server", "--kubelet-insecurely").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "unknown flag: --kubelet-insecurely") {
		t.Errorf("an unknown flag: %v, said %q", err, out)
	}
}

package probe

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestWaitUntilHealthy(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Wait(t.Context(), server.URL, ca); err != nil || calls.Load() != 3 {
		t.Fatalf("got %v after %d calls", err, calls.Load())
	}
}

func TestWaitReportsTheLastAnswer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprint(w, "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\n")
		cancel()
	}))
	defer server.Close()
	err := Wait(ctx, server.URL, "")
	if err == nil || (!strings.HasSuffix(err.Error(), "answers 500: etcd failed: reason withheld") && !strings.Contains(err.Error(), "context canceled")) {
		t.Fatalf("got %v", err)
	}
}

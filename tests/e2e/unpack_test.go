//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestUnpack starts the bare file for the first time, in good ways and bad.
func TestUnpack(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)

	t.Run("several at once", func(t *testing.T) {
		host := newHost(t, bed, "several")
		const starts = 4
		results := make(chan testbed.Result, starts)
		for range starts {
			go func() {
				result, err := host.Run(t.Context(), nil, host.Binary, "version")
				if err != nil {
					t.Error(err)
				}
				results <- result
			}()
		}
		for range starts {
			if result := <-results; result.Code != 0 || !strings.HasPrefix(result.Stdout, "kedge version") {
				t.Errorf("one of several first starts gave %+v", result)
			}
		}
		unpacked(t, host)
	})

	host := newHost(t, bed, "damaged")
	content, err := os.ReadFile(host.Binary)
	if err != nil {
		t.Fatal(err)
	}
	file, err := payload.Open(host.Binary, host.Binary)
	if err != nil {
		t.Fatal(err)
	}
	middle := file.Offset + file.Length/2
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"changed byte": append(append(append([]byte{}, content[:middle]...), ^content[middle]), content[middle+1:]...),
		"cut off":      content[:middle],
		"lengthened":   append(append([]byte{}, content...), "more"...),
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/kedge"
			if err := os.WriteFile(path, damaged, 0o755); err != nil {
				t.Fatal(err)
			}
			result, err := host.Run(t.Context(), nil, path, "version")
			if err != nil {
				t.Fatal(err)
			}
			// Unpacking may have been announced before.
			lines := strings.SplitAfter(strings.TrimRight(result.Stderr, "\n"), "\n")
			result.Stderr = lines[len(lines)-1]
			refused(t, result, path, "damaged", "download")
			left, err := host.Exec(t.Context(), "find", "/var/lib/kedge", "-mindepth", "1", "-type", "f", "-size", "+0")
			if err != nil || left != "" {
				t.Errorf("a damaged file leaves behind %q, error %v", left, err)
			}
		})
	}
}

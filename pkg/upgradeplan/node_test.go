package upgradeplan

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/version"
)

// TestStep goes through what a node finds when it looks at its assignment.
func TestStep(t *testing.T) {
	a := Assignment{ID: "id", Plan: "a/b", Version: next36}
	for _, test := range []struct {
		name           string
		runs           string       // the version
		begun          bool         // the assignment is in its file
		ended          func() error // the upgrade has; nil: it has not
		last           *Report
		state, message string
	}{
		{name: "nothing is installed", runs: now36, state: failed, message: "no service of this machine"},
		{name: "it has the version", runs: next36, state: done},
		{name: "the upgrade went well", runs: next36, begun: true, ended: func() error { return nil }, state: done},
		{name: "it failed", runs: now36, begun: true, ended: func() error { return errors.New("not Ready") }, state: failed, message: "not Ready"},
		{name: "it was interrupted", runs: now36, begun: true, state: failed, message: "interrupted"},
		{name: "the release is another", runs: now36, begun: true, ended: func() error { return nil }, state: failed, message: "holds " + now36},
		{name: "it was reported", runs: next36, last: &Report{ID: "id", State: done}},
		{name: "another's report", runs: next36, last: &Report{ID: "before", State: done}, state: done},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := version.Version
			version.Version = test.runs
			defer func() { version.Version = old }()
			n := NewNode(NodeConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
			file := filepath.Join(n.config.Dir, assignmentName)
			if test.begun {
				if err := writeJSON(file, a); err != nil {
					t.Fatal(err)
				}
			}
			if test.ended != nil {
				want := test.ended()
				if err := CarryOut(file, func(got Assignment) error {
					if got.ID != a.ID {
						t.Errorf("carries out %+v", got)
					}
					return want
				}); !errors.Is(err, want) {
					t.Errorf("CarryOut returns %v", err)
				}
			}
			report, err := n.step(a, test.last)
			switch {
			case err != nil:
				t.Error(err)
			case report == nil && test.state != "":
				t.Errorf("reports nothing, want %s", test.state)
			case report != nil && (report.ID != "id" || report.State != test.state || !strings.Contains(report.Message, test.message)):
				t.Errorf("reports %+v, want %s: %s", report, test.state, test.message)
			}
		})
	}
}

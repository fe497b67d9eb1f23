package helm

import (
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
)

func TestDecide(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	old := now.Add(-time.Hour)
	const hash = "wanted"
	at := func(status common.Status, hash string, own bool, changed time.Time) entry {
		return entry{status: status, hash: hash, own: own, changed: changed}
	}
	is := func(status common.Status, hash string) entry { return at(status, hash, true, old) }
	before := is(common.StatusDeployed, "before")

	for _, test := range []struct {
		name      string
		revisions []entry
		want      map[Policy]step
	}{
		{"no release", nil, all(install)},
		{"as wanted", []entry{is(common.StatusDeployed, hash)}, all(nothing)},
		{"other values", []entry{before}, all(upgrade)},
		{"somebody else's", []entry{at(common.StatusDeployed, "", false, old)}, all(upgrade)},
		{"uninstalled, history kept", []entry{is(common.StatusUninstalled, hash)}, all(install)},
		{"uninstall interrupted", []entry{is(common.StatusUninstalling, hash)}, all(reinstall)},

		{"install failed", []entry{is(common.StatusFailed, hash)},
			map[Policy]step{Reinstall: reinstall, Abort: giveUp, Retry: upgrade}},
		{"install failed, and other values since", []entry{is(common.StatusFailed, "before")},
			map[Policy]step{Reinstall: reinstall, Abort: upgrade, Retry: upgrade}},
		{"upgrade failed", []entry{before, is(common.StatusFailed, hash)},
			map[Policy]step{Reinstall: reinstall, Abort: giveUp, Retry: upgrade}},
		{"upgrade failed, and other values since", []entry{before, is(common.StatusFailed, "between")}, all(upgrade)},

		{"install interrupted", []entry{is(common.StatusPendingInstall, hash)},
			map[Policy]step{Reinstall: reinstall, Abort: resume, Retry: resume}},
		{"upgrade interrupted", []entry{before, at(common.StatusPendingUpgrade, hash, true, now)}, all(resume)},
		{"rollback interrupted", []entry{before, is(common.StatusPendingRollback, hash)}, all(resume)},
		{"somebody upgrades", []entry{before, at(common.StatusPendingUpgrade, hash, false, now)}, all(wait)},
		{"somebody installs", []entry{at(common.StatusPendingInstall, "", false, now)}, all(wait)},
		{"somebody was interrupted", []entry{before, at(common.StatusPendingUpgrade, hash, false, old)}, all(resume)},
	} {
		for policy, want := range test.want {
			if got := decide(test.revisions, hash, policy, time.Minute, now); got != want {
				t.Errorf("%s, policy %s: step %d, want %d", test.name, policy, got, want)
			}
		}
	}
}

func all(s step) map[Policy]step { return map[Policy]step{Reinstall: s, Abort: s, Retry: s} }

func TestEntryOf(t *testing.T) {
	created := time.Unix(100, 0)
	labels := map[string]string{"version": "3", "status": "deployed", "createdAt": "200", hashLabel: "h", revisionLabel: "3"}
	if got, want := entryOf(labels, created), (entry{3, common.StatusDeployed, "h", true, time.Unix(200, 0)}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	labels["version"], labels["modifiedAt"] = "4", "300" // the helm command has upgraded: it keeps labels
	if got, want := entryOf(labels, created), (entry{4, common.StatusDeployed, "h", false, time.Unix(300, 0)}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

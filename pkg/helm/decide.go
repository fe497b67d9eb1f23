package helm

import (
	"strconv"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
)

// Labels of a release that Kedge made, beside Helm's own.
const (
	hashLabel = "kedge.io/helm-hash"
	// revisionLabel holds the revision that Kedge gave the label to. One that
	// somebody else makes inherits the label, and has another number.
	revisionLabel = "kedge.io/helm-revision"
)

// entry is what the labels tell of a revision of a release.
type entry struct {
	revision int
	status   common.Status
	hash     string
	own      bool // Kedge made it
	changed  time.Time
}

func entryOf(labels map[string]string, created time.Time) entry {
	revision, _ := strconv.Atoi(labels["version"])
	r := entry{
		revision: revision,
		status:   common.Status(labels["status"]),
		hash:     labels[hashLabel],
		own:      labels[revisionLabel] == labels["version"],
		changed:  created,
	}
	for _, key := range []string{"createdAt", "modifiedAt"} {
		if seconds, err := strconv.ParseInt(labels[key], 10, 64); err == nil {
			r.changed = time.Unix(seconds, 0)
		}
	}
	return r
}

// step is what has to be done to a release.
type step int

const (
	nothing   step = iota
	giveUp         // the policy leaves a failed release to the administrator
	wait           // somebody else's operation is under way
	install        // there is no release
	upgrade        // the release is there
	resume         // an upgrade was interrupted: it counts as failed, and is made again
	reinstall      // uninstall what there is, then install
)

// decide says what has to be done to a release with these revisions, the last
// one last, so that it is what the hash stands for.
func decide(revisions []entry, hash string, policy Policy, timeout time.Duration, now time.Time) step {
	if len(revisions) == 0 {
		return install
	}
	last := revisions[len(revisions)-1]
	deployed := false
	for _, r := range revisions {
		deployed = deployed || r.status == common.StatusDeployed
	}
	interrupted := last.own || now.Sub(last.changed) >= timeout
	switch last.status {
	case common.StatusDeployed:
		if last.hash == hash {
			return nothing
		}
		return upgrade
	case common.StatusUninstalled:
		return install // over the history that was kept
	case common.StatusPendingInstall:
		switch {
		case !interrupted:
			return wait
		case policy == Reinstall:
			return reinstall
		default:
			return resume
		}
	case common.StatusPendingUpgrade, common.StatusPendingRollback:
		if !interrupted {
			return wait
		}
		return resume
	case common.StatusUninstalling:
		return reinstall
	case common.StatusFailed:
		switch {
		case last.hash != hash && (deployed || policy != Reinstall):
			return upgrade // to what has not failed yet
		case policy == Abort:
			return giveUp
		case policy == Retry:
			return upgrade
		default:
			return reinstall
		}
	default:
		return upgrade
	}
}

package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datadir"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// describeLimit is how long the running process may take to say what it is.
const describeLimit = 3 * time.Second

// Source is where a Report comes from.
type Source struct {
	Socket string       // of the running Kedge
	Paths  config.Paths // if none answers there
}

// Ask asks the running Kedge what it is. The error wraps control.ErrNotRunning if
// nobody answers.
func (s Source) Ask(ctx context.Context) (control.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, describeLimit)
	defer cancel()
	return control.Call[control.None, control.Description](ctx, s.Socket, control.Describe, control.None{})
}

// Collect finds out how Kedge is. It never fails: what could not be found out is a
// problem of the report.
func (s Source) Collect(ctx context.Context) *Report {
	now := time.Now()
	r := &Report{Version: version.Version, Taken: now.Truncate(time.Second), Problems: []Problem{}}
	d, err := s.Ask(ctx)
	switch {
	case err == nil:
		r.running(ctx, d, now)
	case errors.Is(err, control.ErrNotRunning):
		r.notRunning(s.Paths, now)
	default:
		r.State = Starting
		r.wrong("the Kedge that runs here does not say how it is: "+err.Error(), "look at its log, and restart it if it stays so")
	}
	return r
}

func (r *Report) running(ctx context.Context, d control.Description, now time.Time) {
	r.State, r.Role, r.Version, r.Node, r.PID, r.Servers = Running, d.Role, d.Version, d.Node, d.PID, d.Servers
	if !d.Started.IsZero() {
		started := d.Started.Truncate(time.Second)
		r.Started = &started
	}
	if d.Version != version.Version {
		r.wrong(fmt.Sprintf("Kedge %s runs, and this program is %s", d.Version, version.Version), "restart Kedge to take the new version into use")
	}
	type read struct {
		cluster *cluster
		err     error
	}
	answer := make(chan read, 1)
	go func() {
		c, err := readCluster(ctx, d.Kubeconfig, d.Node, d.Role == "server")
		answer <- read{c, err}
	}()
	if d.Datastore.Kind != "" {
		r.Datastore = &Datastore{Kind: d.Datastore.Kind, Dir: d.Datastore.Dir}
		if d.Datastore.Dir != "" {
			r.Datastore.Bytes = DirSize(d.Datastore.Dir)
		}
	}
	r.machine(d.PID, d.Certificates, d.DataDir, now)
	r.judgeServers()
	got := <-answer
	if got.err != nil {
		r.explainCluster(got.err)
		return
	}
	r.judge(got.cluster, now)
}

// machine adds what this machine's files tell.
func (r *Report) machine(pid int, certificates []string, dataDir string, now time.Time) {
	m, err := memory(pid)
	if m != nil {
		r.Memory = m
	}
	if err != nil && m == nil {
		r.wrong("the machine's memory can't be read: "+err.Error(), "is /proc mounted?")
	}
	if err := r.certificates(certificates, now); err != nil {
		r.wrong("a certificate of this machine can't be read: "+err.Error(), "kedge certificate rotate makes new ones")
	}
	r.space(dataDir)
}

// judgeServers says which servers an agent does not reach.
func (r *Report) judgeServers() {
	for _, s := range r.Servers {
		if s.State != "failed" {
			continue
		}
		what := "server " + s.Address + " does not answer"
		if s.Error != "" {
			what += ": " + short(s.Error)
		}
		do := "look whether it runs, and whether a firewall lets this machine reach it"
		if len(r.Servers) > 1 {
			do += "; this node works with the other servers meanwhile"
		}
		r.wrong(what, do)
	}
}

// notRunning tells what the files of an earlier run do.
func (r *Report) notRunning(paths config.Paths, now time.Time) {
	r.State = Stopped
	var certificates []string
	for _, role := range []struct{ name, dir, certificates string }{
		{"server", paths.Server(), paths.TLS()},
		{"agent", paths.Agent(), paths.AgentPKI()},
	} {
		dir := datadir.Dir{Root: paths.DataDir, Role: role.dir}
		if pid := dir.Holder(); pid > 0 {
			r.State, r.Role, r.PID = Starting, role.name, pid
		}
		content, err := os.ReadFile(filepath.Join(role.dir, "version"))
		if err != nil {
			continue
		}
		// A server keeps an agent's directory too, without a version in it.
		if r.Role == "" || r.Role == role.name {
			r.Role, r.Version = role.name, strings.TrimSpace(string(content))
		}
		certificates = append(certificates, role.certificates)
	}
	r.machine(0, certificates, paths.DataDir, now)
	if r.Role == "server" {
		if size := DirSize(paths.DB()); size > 0 {
			r.Datastore = &Datastore{Kind: "SQLite", Dir: paths.DB(), Bytes: size}
			if _, err := os.Stat(filepath.Join(paths.DB(), "etcd")); err == nil {
				r.Datastore.Kind = "etcd"
			}
		}
	}
	var p Problem
	switch {
	case r.State == Starting:
		p = Problem{What: fmt.Sprintf("the %s (process %d) does not answer yet: it is starting, or stopping", r.Role, r.PID), Do: "wait a moment; if it stays so, look at its log"}
	case r.Role == "":
		p = Problem{What: "Kedge does not run, and has never run with " + paths.DataDir, Do: "start a server with sudo kedge server, or name another data directory with --data-dir"}
	default:
		p = Problem{What: "Kedge does not run; pods go on without it, as far as they can", Do: "start it: systemctl start kedge, or sudo kedge " + r.Role}
	}
	r.Problems = append([]Problem{p}, r.Problems...)
}

func age(d time.Duration) string { return duration.HumanDuration(d) }

// parseQuantity reads bytes as Kubernetes writes them, such as 12Mi.
func parseQuantity(text string) int64 {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0
	}
	return q.Value()
}

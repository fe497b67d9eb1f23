// Package doctor looks for what is wrong with Kedge on a machine and in its cluster,
// tries what can be tried, says what to do, and packs what it has collected, without
// secrets, for others to look at.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/status"
)

const (
	// requestLimit is how long the apiserver may take to answer one request.
	requestLimit = 10 * time.Second
	// checkLimit is how long one check may take.
	checkLimit = time.Minute
)

// Doctor looks at one machine.
type Doctor struct {
	Source status.Source
	// Host is what the machine is checked for beside what a running Kedge says.
	Host hostcheck.Request
	// Progress says what is being done; nil: nobody wants to know.
	Progress func(what string)

	running bool
	self    control.Description
	report  *status.Report
	rest    *rest.Config // nil: the cluster can't be asked
	client  kubernetes.Interface
}

// Examine looks for what is wrong. It never fails: what could not be found out is
// a finding too.
func (d *Doctor) Examine(ctx context.Context) []hostcheck.Finding {
	d.say("asking Kedge and the cluster")
	d.report = d.Source.Collect(ctx)
	if self, err := d.Source.Ask(ctx); err == nil {
		d.running, d.self = true, self
		d.Host.Ports = nil // which it has taken itself
		d.Host.DataDir = self.DataDir
		d.Host.PodCIDRs, d.Host.ServiceCIDRs = self.Network.PodCIDRs, self.Network.ServiceCIDRs
		d.Host.Backend = self.Network.Backend
		if rest, client, err := status.Connect(self.Kubeconfig, requestLimit); err == nil {
			d.rest, d.client = rest, client
		}
	}
	d.say("checking the machine, the nodes, and the network from pods of its own")
	checks := []struct {
		group string
		run   func(context.Context) []hostcheck.Finding
	}{
		{"Kedge", d.checkKedge},
		{"Certificates", d.checkCertificates},
		{"Disk", d.checkDisk},
		{"Clock", d.checkClock},
		{"Nodes", d.checkNodes},
		{"Network from pods", d.checkPodNetwork},
	}
	found := make([][]hostcheck.Finding, len(checks)+1)
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkLimit)
			defer cancel()
			found[i] = check.run(ctx)
			for j := range found[i] {
				found[i][j].Group = check.group
			}
		})
	}
	wg.Wait()
	// After the disk's speed was measured: it writes, too.
	found[len(checks)] = hostcheck.Host{}.Check(ctx, d.Host)
	var all []hostcheck.Finding
	for _, list := range found {
		all = append(all, list...)
	}
	return all
}

func (d *Doctor) say(what string) {
	if d.Progress != nil {
		d.Progress(what)
	}
}

// checkKedge says what kedge status finds wrong, of pods with what their last
// event says.
func (d *Doctor) checkKedge(ctx context.Context) []hostcheck.Finding {
	name := "status"
	if d.report.Role != "" {
		name = d.report.Role
	}
	var found []hostcheck.Finding
	if d.running {
		found = append(found, okf(name, "%s, up %s", d.report.Version, d.report.Taken.Sub(d.self.Started).Round(time.Second)))
	}
	var events map[string]string
	if d.client != nil && d.self.Role == "server" {
		events = lastWarnings(ctx, d.client)
	}
	for _, p := range d.report.Problems {
		f := hostcheck.Finding{Name: name, Level: hostcheck.Warning, Detail: p.What, Fix: p.Do}
		if p.Pod != "" {
			f.Name = "pod"
			if event := events[p.Pod]; event != "" && !strings.Contains(p.What, event) {
				f.Detail += "; its last event: " + event
			}
		}
		if !d.running {
			f.Level = hostcheck.Failure
		}
		found = append(found, f)
	}
	return found
}

// Summary says in one line what the findings come to.
func Summary(findings []hostcheck.Finding) string {
	var failures, warnings, unknown int
	for _, f := range findings {
		switch f.Level {
		case hostcheck.Failure:
			failures++
		case hostcheck.Warning:
			warnings++
		case hostcheck.Unknown:
			unknown++
		}
	}
	switch {
	case failures+warnings > 0:
		return fmt.Sprintf("%d of %d checks found something wrong; each says how to mend it.", failures+warnings, len(findings))
	case unknown > 0:
		return fmt.Sprintf("Nothing wrong was found, but %d of %d checks could not be made.", unknown, len(findings))
	}
	return fmt.Sprintf("All %d checks are well.", len(findings))
}

func okf(name, format string, args ...any) hostcheck.Finding {
	return hostcheck.Finding{Name: name, Level: hostcheck.OK, Detail: fmt.Sprintf(format, args...)}
}

func unknownf(name, format string, args ...any) hostcheck.Finding {
	return hostcheck.Finding{Name: name, Level: hostcheck.Unknown, Detail: fmt.Sprintf(format, args...)}
}

func warning(name, detail, fix string) hostcheck.Finding {
	return hostcheck.Finding{Name: name, Level: hostcheck.Warning, Detail: detail, Fix: fix}
}

// Paths is where the machine keeps its state.
func (d *Doctor) paths() config.Paths {
	if d.running {
		return config.Paths{DataDir: d.self.DataDir}
	}
	return d.Source.Paths
}

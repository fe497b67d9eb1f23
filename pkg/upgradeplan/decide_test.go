package upgradeplan

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	now36  = "v1.36.3+kedge1"
	next36 = "v1.36.4+kedge1"
)

var at = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) // a Saturday

func everywhere() *metav1.LabelSelector { return &metav1.LabelSelector{} }

func planOf(change func(*Plan)) target {
	p := &Plan{ObjectMeta: metav1.ObjectMeta{Namespace: "system-upgrade", Name: "plan", UID: "uid"}}
	p.Spec = Spec{NodeSelector: everywhere(), Version: next36, Upgrade: &Container{Image: "rancher/k3s-upgrade"}}
	if change != nil {
		change(p)
	}
	return target{Plan: p, version: next36, hash: "hash", id: "uid.hash"}
}

func nodes(change func(map[string]*member)) []*member {
	all := map[string]*member{}
	for _, name := range []string{"agent-1", "agent-2", "server-1", "server-2"} {
		all[name] = &member{name: name, labels: map[string]string{}, version: now36, ready: true, server: strings.HasPrefix(name, "server")}
	}
	if change != nil {
		change(all)
	}
	var list []*member
	for _, name := range []string{"agent-1", "agent-2", "server-1", "server-2"} {
		list = append(list, all[name])
	}
	return list
}

func upgraded(m *member) { m.version, m.labels[labelPrefix+"plan"] = next36, "hash" }

func assigned(id string, since time.Duration) *Assignment {
	return &Assignment{ID: id, Plan: "a/b", Since: at.Add(-since)}
}

func TestDecide(t *testing.T) {
	for _, test := range []struct {
		name           string
		plan           func(*Plan)
		nodes          func(map[string]*member)
		assign, finish []string
		reason         string
		message        string
	}{
		{name: "a server comes first", assign: []string{"server-1"}, reason: reasonApplying},
		{
			name: "one server after the other, whatever the concurrency", plan: func(p *Plan) { p.Spec.Concurrency = 4 },
			assign: []string{"server-1"}, reason: reasonApplying,
		},
		{
			name: "a server that is upgrading keeps the other", nodes: func(m map[string]*member) { m["server-1"].assignment = assigned("other", 0) },
			reason: reasonWaiting, message: "waiting for node server-1, which carries out the Plan a/b",
		},
		{
			name: "a server that is away keeps the other", nodes: func(m map[string]*member) { upgraded(m["server-1"]); m["server-1"].ready = false },
			reason: reasonWaiting, message: "waiting for server server-1 to be Ready",
		},
		{
			name: "agents wait for all servers", plan: func(p *Plan) {
				p.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"agent": ""}}
			},
			nodes:  func(m map[string]*member) { upgraded(m["server-1"]); m["agent-1"].labels["agent"] = "" },
			reason: reasonWaiting, message: "server-2, which runs " + now36,
		},
		{
			name: "agents side by side", plan: func(p *Plan) { p.Spec.Concurrency = 2 },
			nodes:  func(m map[string]*member) { upgraded(m["server-1"]); upgraded(m["server-2"]) },
			assign: []string{"agent-1", "agent-2"}, reason: reasonApplying,
		},
		{
			name: "an agent that is away keeps no other",
			nodes: func(m map[string]*member) {
				upgraded(m["server-1"])
				upgraded(m["server-2"])
				m["agent-1"].ready = false
			},
			assign: []string{"agent-2"}, reason: reasonApplying,
		},
		{
			name: "all have it",
			nodes: func(m map[string]*member) {
				upgraded(m["server-1"])
				upgraded(m["server-2"])
				upgraded(m["agent-1"])
				upgraded(m["agent-2"])
			},
			reason: reasonComplete,
		},
		{name: "no node is selected", plan: func(p *Plan) { p.Spec.NodeSelector = nil }, reason: reasonComplete},
		{
			name: "what has the version by other means gets the label", nodes: func(m map[string]*member) { m["server-1"].version = next36 },
			assign: []string{"server-2"}, finish: []string{"server-1"}, reason: reasonApplying,
		},
		{
			name: "done", nodes: func(m map[string]*member) {
				m["server-1"].assignment, m["server-1"].report = assigned("uid.hash", time.Minute), &Report{ID: "uid.hash", State: done}
			},
			assign: []string{"server-2"}, finish: []string{"server-1"}, reason: reasonApplying,
		},
		{
			name: "a failure stops the Plan", plan: func(p *Plan) { p.Spec.Concurrency = 2 },
			nodes: func(m map[string]*member) {
				m["server-1"].assignment, m["server-1"].report = assigned("uid.hash", time.Minute), &Report{ID: "uid.hash", State: failed, Message: "no"}
			},
			reason: reasonFailed, message: "node server-1: no",
		},
		{
			name: "a failure of an earlier form of the Plan is past",
			nodes: func(m map[string]*member) {
				m["server-1"].assignment, m["server-1"].report = assigned("uid.before", time.Minute), &Report{ID: "uid.before", State: failed}
			},
			assign: []string{"server-1"}, reason: reasonApplying,
		},
		{
			name: "a node that does not end", nodes: func(m map[string]*member) { m["server-1"].assignment = assigned("uid.hash", time.Hour) },
			reason: reasonDeadline, message: "server-1 has not ended within 15m0s",
		},
		{
			name: "a node that may take for ever", plan: func(p *Plan) { p.Spec.JobActiveDeadlineSecs = new(int64) },
			nodes:  func(m map[string]*member) { m["server-1"].assignment = assigned("uid.hash", time.Hour) },
			reason: reasonApplying, message: "server-1",
		},
		{
			name: "there is no way back", nodes: func(m map[string]*member) { m["agent-2"].version = "v1.36.5+kedge1" },
			reason: reasonSkew, message: "node agent-2: " + next36 + " is older than v1.36.5+kedge1",
		},
		{
			name: "an agent that servers leave behind", plan: func(p *Plan) {
				p.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"server": ""}}
			},
			nodes: func(m map[string]*member) {
				m["server-1"].labels["server"] = ""
				m["agent-1"].version = "v1.32.0+kedge1"
			},
			reason: reasonSkew, message: "node agent-1 runs v1.32.0+kedge1, which is too old",
		},
		{
			name: "no minor version is skipped", nodes: func(m map[string]*member) { m["server-2"].version = "v1.34.1+kedge1" },
			reason: reasonSkew, message: "skips a minor version",
		},
		{
			name: "another Plan comes first", plan: func(p *Plan) { p.Spec.Prepare = &Container{Args: []string{"prepare", "first"}} },
			reason: reasonWaiting, message: "waiting for the Plan first",
		},
		{
			name: "outside of the window", plan: func(p *Plan) { p.Spec.Window = &Window{Days: []string{"sun"}} },
			reason: reasonWaiting, message: "waiting for the time window",
		},
		{
			name: "a pause after a node", plan: func(p *Plan) { p.Spec.PostCompleteDelay = &metav1.Duration{Duration: time.Minute} },
			nodes: func(m map[string]*member) {
				upgraded(m["server-1"])
				m["server-1"].report = &Report{ID: "uid.hash", State: done, Since: at.Add(-time.Second)}
			},
			reason: reasonWaiting, message: "waiting for 1m0s after node server-1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := planOf(test.plan)
			d := decide(p, []*Plan{p.Plan}, nodes(test.nodes), next36, at)
			if got := names(d.assign); !slices.Equal(got, test.assign) {
				t.Errorf("assigns %v, want %v", got, test.assign)
			}
			if got := names(d.finish); !slices.Equal(got, test.finish) {
				t.Errorf("finishes %v, want %v", got, test.finish)
			}
			if d.status.Reason != test.reason || !strings.Contains(d.status.Message, test.message) {
				t.Errorf("says %s: %s, want %s: %s", d.status.Reason, d.status.Message, test.reason, test.message)
			}
			if (d.status.Status == "True") != (test.reason == reasonComplete) {
				t.Errorf("Complete is %s", d.status.Status)
			}
		})
	}
}

func names(list []*member) (names []string) {
	for _, m := range list {
		names = append(names, m.name)
	}
	return names
}

// TestOlderServer has an agent wait for a server that is no node.
func TestOlderServer(t *testing.T) {
	m := &member{name: "agent", version: now36, ready: true}
	if why := m.waits(next36, []*member{m}, now36); !strings.Contains(why, "waiting for the servers") {
		t.Errorf("waits: %q", why)
	}
	if why := m.waits(next36, []*member{m}, next36); why != "" {
		t.Errorf("waits: %q", why)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Spec){
		"":                    func(*Spec) {},
		"spec.upgrade is":     func(s *Spec) { s.Upgrade = nil },
		"runs no command":     func(s *Spec) { s.Upgrade.Command = []string{"sh"} },
		"spec.version or":     func(s *Spec) { s.Version = "" },
		"spec.prepare: kedge": func(s *Spec) { s.Prepare = &Container{Image: "alpine", Args: []string{"prepare", "x"}} },
		"its args can be":     func(s *Spec) { s.Prepare = &Container{Image: "x/k3s-upgrade:v1"} },
		"spec.window: days":   func(s *Spec) { s.Window = &Window{Days: []string{"someday"}} },
		"spec.drain: timeout": func(s *Spec) { s.Drain = &Drain{Timeout: &intstr.IntOrString{Type: intstr.String, StrVal: "soon"}} },
		"spec.nodeSelector: \"": func(s *Spec) {
			s.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Perhaps"}}}
		},
	} {
		s := planOf(nil).Spec
		s.Upgrade = &Container{Image: "registry.example.com:5000/rancher/k3s-upgrade:v1.2.3@sha256:0"}
		change(&s)
		if err := s.validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for image, ours := range map[string]bool{"rancher/k3s-upgrade": true, "kedge-upgrade:v1": true, "alpine": false, "x/k3s-upgrade/alpine:k3s-upgrade": false} {
		if c := (&Container{Image: image}); c.ours() != ours {
			t.Errorf("%s: ours is %v", image, c.ours())
		}
	}
}

func TestDrainOptions(t *testing.T) {
	no, grace := false, 5
	o, err := (&Drain{
		Timeout: &intstr.IntOrString{Type: intstr.String, StrVal: "90s"}, GracePeriod: &grace, DeleteLocalData: &no,
		PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
	}).options()
	if err != nil || o.Timeout != 90*time.Second || o.GracePeriodSeconds != 5 || o.DeleteEmptyDirData || !o.IgnoreDaemonSets || o.Force || o.PodSelector != "a=b" {
		t.Errorf("got %+v, error %v", o, err)
	}
	if o, err := (*Drain)(nil).options(); o != nil || err != nil {
		t.Errorf("of none: got %+v, error %v", o, err)
	}
}

func TestCanonical(t *testing.T) {
	for v, want := range map[string]string{
		"v1.36.4+kedge1": next36, "v1.36.4-kedge1": next36, "1.36.4+kedge1": next36,
		"v1.36.4+k3s1": "", "latest": "", "v1.36+kedge1": "",
	} {
		if got, err := canonical(v); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %s, error %v", v, got, err)
		}
	}
}

func TestWindow(t *testing.T) {
	for _, test := range []struct {
		window Window
		want   bool
	}{
		{Window{}, true},
		{Window{Days: []string{"Saturday"}}, true},
		{Window{Days: []string{"mo", "5"}}, false},
		{Window{StartTime: "11:30", EndTime: "12:30"}, true},
		{Window{StartTime: "12:01"}, false},
		{Window{EndTime: "12:00"}, false},
		{Window{Days: []string{"fri"}, StartTime: "22:00", EndTime: "13:00"}, true},
		{Window{Days: []string{"sat"}, StartTime: "10pm", EndTime: "1pm"}, false},
	} {
		if got, err := test.window.contains(at); got != test.want || err != nil {
			t.Errorf("%+v: got %v, error %v", test.window, got, err)
		}
	}
	for _, wrong := range []Window{{StartTime: "noon"}, {EndTime: "25:00"}, {TimeZone: "Nowhere/City"}} {
		if _, err := wrong.contains(at); err == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
}

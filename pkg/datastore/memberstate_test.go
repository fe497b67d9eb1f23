package datastore

import (
	"strings"
	"testing"
)

func TestRemovable(t *testing.T) {
	member := func(name string, answers bool) MemberState {
		return MemberState{Name: name, ID: "id-of-" + name, Address: "192.0.2.9:2380", Answers: answers}
	}
	self := member("one-00000001", true)
	self.Self = true
	two, three := member("two-00000002", true), member("three-00000003", true)
	dead, alsoDead := member("dead-00000004", false), member("also-00000005", false)
	learner := member("", false)
	learner.ID, learner.Learner = "id-of-learner", true
	former := member("dead-00000006", false)

	for name, test := range map[string]struct {
		members []MemberState
		remove  string
		want    []string // in the error; nil: it can be removed
	}{
		"by name":                {[]MemberState{self, two, dead}, dead.Name, nil},
		"by ID":                  {[]MemberState{self, two, dead}, dead.ID, nil},
		"by its node":            {[]MemberState{self, two, dead}, "dead", nil},
		"one that never started": {[]MemberState{self, learner}, learner.ID, nil},
		"unknown":                {[]MemberState{self, two, dead}, "four", []string{`no member "four"`, self.Name + ", " + two.Name + ", " + dead.Name}},
		"part of a name":         {[]MemberState{self, two, dead}, "dea", []string{`no member "dea"`}},
		"no name":                {[]MemberState{self, learner}, "", []string{`no member ""`, learner.ID}},
		"of several":             {[]MemberState{self, two, dead, former}, "dead", []string{"several", dead.Name + ", " + former.Name}},
		"one of several":         {[]MemberState{self, two, three, dead, former}, former.Name, nil},
		"itself":                 {[]MemberState{self, two, dead}, self.Name, []string{"this very server"}},
		"the only one":           {[]MemberState{self}, self.Name, []string{"this very server"}},
		"one that runs":          {[]MemberState{self, two, dead}, "two", []string{two.Name, "still runs at 192.0.2.9:2380", "stop"}},
		"one of two":             {[]MemberState{self, dead}, "dead", []string{"no quorum", "--cluster-reset"}},
		"the others lack":        {[]MemberState{self, dead, alsoDead}, "dead", []string{"of the 2 others 2 must answer", alsoDead.Name, "--cluster-reset"}},
		"two of five":            {[]MemberState{self, two, three, dead, alsoDead}, "dead", nil},
		"a learner counts not":   {[]MemberState{self, two, dead, learner}, learner.ID, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := removable(test.members, test.remove)
			if (err == nil) != (test.want == nil) {
				t.Fatalf("%+v is to be removed, error %v", m, err)
			}
			if err == nil && (m.Answers || m.Self) {
				t.Errorf("%+v is to be removed", m)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error doesn't say %q, but: %v", want, err)
				}
			}
		})
	}
}

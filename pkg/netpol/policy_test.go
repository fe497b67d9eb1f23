package netpol

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestPoliciesThatCannotBeApplied(t *testing.T) {
	tests := []struct {
		name, spec string
		err        string
		applies    bool // in part
	}{
		{"selector of the policy", "{podSelector: {matchExpressions: [{key: a, operator: Like}]}}", `podSelector: "Like" is not a valid label selector operator`, false},
		{"pod selector", "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Like}]}}]}]}", `ingress[0]: podSelector: "Like"`, true},
		{"namespace selector", "{podSelector: {}, egress: [{}, {to: [{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}]}]}", "egress[1]: namespaceSelector: values", true},
		{"empty peer", "{podSelector: {}, ingress: [{from: [{}]}]}", "ingress[0]: a peer that selects nothing", true},
		{"CIDR", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}", "ingress[0]: CIDR: invalid CIDR address: 10.0.0.0", true},
		{"except", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}", "except: CIDR: invalid CIDR address: x", true},
		{"except of the other family", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/8']}}]}]}", "except: fd00::/8 is not in 10.0.0.0/8", true},
		{"protocol", "{podSelector: {}, ingress: [{ports: [{protocol: ICMP, port: 1}]}]}", `ingress[0]: protocol "ICMP"`, true},
		{"port", "{podSelector: {}, ingress: [{ports: [{port: 70000}]}]}", "ports 70000 to 70000", true},
		{"endPort before port", "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}", "ports 80 to 79", true},
		{"endPort with a name", "{podSelector: {}, ingress: [{ports: [{port: http, endPort: 79}]}]}", "endPort 79 without a number as port", true},
		{"endPort alone", "{podSelector: {}, ingress: [{ports: [{endPort: 79}]}]}", "endPort 79 without a number as port", true},
	}
	for _, test := range tests {
		p, err := newPolicy(parsePolicies(t, "u/p: "+test.spec)[0])
		if err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want %s", test.name, err, test.err)
		}
		if applies := p != nil; applies != test.applies {
			t.Errorf("%s: applies in part is %v, want %v", test.name, applies, test.applies)
		}
	}
}

// What is wrong in a policy allows nothing, and what is right still does.
func TestPolicyAppliedInPart(t *testing.T) {
	w := testCluster(t)
	p, err := newPolicy(parsePolicies(t, "u/p: {podSelector: {}, ingress: [{from: [{}]}, {ports: [{port: 0}]}, {from: [{podSelector: {}}, {ipBlock: {cidr: x}}]}]}")[0])
	if err == nil {
		t.Fatal("no error")
	}
	w.cluster.setPolicy(p)
	w.write()
	a, b, other := endpointOf(testPods["u/a"]), endpointOf(testPods["u/b"]), endpointOf(testPods["v/a"])
	if !w.connects(b, a, "tcp", 80) || w.connects(other, a, "tcp", 80) {
		t.Errorf("a pod of the namespace passes is %v, another is %v", w.connects(b, a, "tcp", 80), w.connects(other, a, "tcp", 80))
	}
}

func TestRanges(t *testing.T) {
	tests := []struct {
		cidr    string
		excepts []string
		want    []string
	}{
		{"10.0.0.0/24", nil, []string{"10.0.0.0-10.0.0.255"}},
		{"10.0.0.77/24", nil, []string{"10.0.0.0-10.0.0.255"}},
		{"10.0.0.7/32", nil, []string{"10.0.0.7"}},
		{"0.0.0.0/0", nil, []string{"0.0.0.0-255.255.255.255"}},
		{"0.0.0.0/0", []string{"0.0.0.0/8", "255.0.0.0/8"}, []string{"1.0.0.0-254.255.255.255"}},
		{"10.0.0.0/24", []string{"10.0.0.128/25", "10.0.0.0/31", "10.0.0.192/26"}, []string{"10.0.0.2-10.0.0.127"}},
		{"10.0.0.0/24", []string{"10.0.0.2/31", "10.0.0.4/30"}, []string{"10.0.0.0-10.0.0.1", "10.0.0.8-10.0.0.255"}},
		{"10.0.0.0/24", []string{"10.0.0.0/24"}, nil},
		{"10.0.0.0/24", []string{"10.0.0.0/8"}, nil},
		{"10.0.0.0/24", []string{"11.0.0.0/8"}, []string{"10.0.0.0-10.0.0.255"}},
		{"fd00::/64", []string{"fd00::/65"}, []string{"fd00::8000:0:0:0-fd00::ffff:ffff:ffff:ffff"}},
		{"::/0", []string{"::/1"}, []string{"8000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
	}
	for _, test := range tests {
		var excepts []addrRange
		for _, except := range test.excepts {
			excepts = append(excepts, rangeOf(netip.MustParsePrefix(except)))
		}
		var got []string
		for _, r := range rangeOf(netip.MustParsePrefix(test.cidr)).without(excepts) {
			got = append(got, r.String())
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s without %v: %v, want %v", test.cidr, test.excepts, got, test.want)
		}
	}
}

func TestUnion(t *testing.T) {
	var ranges []addrRange
	for _, cidr := range []string{"10.0.2.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.1.0/24", "10.0.4.0/24", "10.0.4.0/32"} {
		ranges = append(ranges, rangeOf(netip.MustParsePrefix(cidr)))
	}
	if got, want := anyOf(union(ranges)), "{ 10.0.0.0-10.0.2.255, 10.0.4.0-10.0.4.255 }"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ports := []portRange{{90, 99}, {80, 80}, {81, 85}, {83, 84}, {65535, 65535}, {100, 65534}}
	if got, want := anyOf(unionPorts(ports)), "{ 80-85, 90-65535 }"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Names are as long as the API server lets them be.
func TestLongNames(t *testing.T) {
	one, other := strings.Repeat("n", 252)+"1", strings.Repeat("n", 252)+"2"
	ns := strings.Repeat("s", 63)
	names := map[string]bool{}
	for _, name := range []string{one, other} {
		p, err := newPolicy(parsePolicies(t, "'"+ns+"/"+name+"': {podSelector: {}, ingress: [{}]}")[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lanes {
			chain := p.chain(l).name
			if len(chain) > 255 || names[chain] {
				t.Errorf("chain %s is %d long, or another's as well", chain, len(chain))
			}
			names[chain] = true
		}
	}
}

package netpol

import (
	"fmt"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// The large cluster: 10,000 pods and 1,000 policies in 100 namespaces.
const (
	largeNamespaces = 100
	largePods       = 100 // in each namespace
	largePolicies   = 10
	largeApps       = 10
)

type largeCluster struct {
	pods     []podInfo
	policies []*networkingv1.NetworkPolicy
}

// newLargeCluster makes a cluster of which this node has some pods.
func newLargeCluster(b *testing.B, local int) largeCluster {
	b.Helper()
	var large largeCluster
	for n := range largeNamespaces {
		ns := fmt.Sprintf("ns-%d", n)
		for i := range largePods {
			number := len(large.pods)
			large.pods = append(large.pods, podInfo{
				key:    key{ns, fmt.Sprintf("pod-%d", i)},
				uid:    types.UID(fmt.Sprintf("%s/%d", ns, i)),
				labels: labels.Set{"app": fmt.Sprintf("app-%d", i%largeApps), "tier": fmt.Sprint(i % 3), "pod-template-hash": "6d4cf56db6"},
				addrs: []netip.Addr{
					netip.AddrFrom4([4]byte{10, 42, byte(number >> 8), byte(number)}),
					netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(number >> 8), 15: byte(number)}),
				},
				ports: []containerPort{{namedPort{"tcp", "http"}, 8080}},
				local: number%(largeNamespaces*largePods/local) == 0,
			})
		}
	}
	for n := range largeNamespaces {
		for i := range largePolicies {
			large.policies = append(large.policies, parsePolicies(b, fmt.Sprintf(`
ns-%d/policy-%d:
  podSelector: {matchLabels: {app: app-%[2]d}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: app-%[3]d}}
    - namespaceSelector: {matchLabels: {team: team-%[2]d}}
      podSelector: {matchLabels: {tier: "0"}}
    ports: [{port: http}, {port: 9090}, {protocol: UDP, port: 53}]
  - from: [{ipBlock: {cidr: 192.168.0.0/16, except: [192.168.%[1]d.0/24]}}]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {team: team-%[4]d}}
  - to: [{namespaceSelector: {}}]
    ports: [{protocol: UDP, port: 53}, {port: 53}]
`, n, i, (i+1)%largeApps, n%10))...)
		}
	}
	return large
}

func (large largeCluster) load(b *testing.B) *cluster {
	b.Helper()
	c := newCluster("cni0")
	for n := range largeNamespaces {
		c.setNamespace(fmt.Sprintf("ns-%d", n), labels.Set{"team": fmt.Sprintf("team-%d", n%10)})
	}
	for _, p := range large.pods {
		c.setPod(p)
	}
	for _, np := range large.policies {
		p, err := newPolicy(np)
		if err != nil {
			b.Fatal(err)
		}
		c.setPolicy(p)
	}
	return c
}

// changed is a pod that comes and goes.
func changed(local bool, i int) podInfo {
	p := podInfo{
		key:    key{"ns-7", "new"},
		uid:    types.UID(fmt.Sprint(i)),
		labels: labels.Set{"app": "app-3", "tier": "0", "pod-template-hash": "6d4cf56db6"},
		addrs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)})},
		ports:  []containerPort{{namedPort{"tcp", "http"}, 8080}},
		local:  local,
	}
	return p
}

var localPods = []int{100, 1000}

func BenchmarkCompute(b *testing.B) {
	for _, local := range localPods {
		b.Run(fmt.Sprint(local, " pods here"), func(b *testing.B) {
			large := newLargeCluster(b, local)
			b.ReportAllocs()
			for b.Loop() {
				rules, _ := large.load(b).next()
				elements := 0
				for _, s := range rules.sets {
					if s.members != nil {
						for range s.members {
							elements++
						}
					}
				}
				b.ReportMetric(float64(len(rules.chains)), "chains")
				b.ReportMetric(float64(elements), "elements")
			}
		})
	}
}

func BenchmarkPodChange(b *testing.B) {
	for _, local := range localPods {
		for _, here := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d pods here, local %v", local, here), func(b *testing.B) {
				c := newLargeCluster(b, local).load(b)
				from, _ := c.next()
				nft := knftables.NewFake(knftables.InetFamily, TableName)
				for i := 0; b.Loop(); i++ {
					c.setPod(changed(here, i))
					to, changes := c.next()
					update(nft.NewTransaction(), from, to, changes)
					from = to
				}
			})
		}
	}
}

// BenchmarkTable writes to a real table.
func BenchmarkTable(b *testing.B) {
	needRoot(b)
	for _, local := range localPods {
		large := newLargeCluster(b, local)
		b.Run(fmt.Sprint("rebuild, ", local, " pods here"), func(b *testing.B) {
			c := large.load(b)
			inNewNetns(b, func(nft knftables.Interface) {
				for b.Loop() {
					existing, err := nft.ListAll(b.Context())
					if err != nil && !knftables.IsNotFound(err) {
						b.Error(err)
					}
					rules, _ := c.next()
					tx := nft.NewTransaction()
					rebuild(tx, rules, existing)
					run(b, nft, tx)
				}
			})
		})
		for _, here := range []bool{false, true} {
			b.Run(fmt.Sprintf("pod change, %d pods here, local %v", local, here), func(b *testing.B) {
				c := large.load(b)
				inNewNetns(b, func(nft knftables.Interface) {
					from, _ := c.next()
					tx := nft.NewTransaction()
					recreate(tx, from)
					run(b, nft, tx)
					for i := 0; b.Loop(); i++ {
						c.setPod(changed(here, i))
						to, changes := c.next()
						tx := nft.NewTransaction()
						update(tx, from, to, changes)
						run(b, nft, tx)
						from = to
					}
				})
			})
		}
	}
}

func inNewNetns(b *testing.B, f func(knftables.Interface)) {
	b.Helper()
	newNetns(b).do(b, func() error {
		nft, err := knftables.New(knftables.InetFamily, TableName)
		if err == nil {
			f(nft)
		}
		return err
	})
}

func run(b *testing.B, nft knftables.Interface, tx *knftables.Transaction) {
	b.Helper()
	if err := nft.Run(b.Context(), tx); err != nil {
		b.Error(err)
	}
}

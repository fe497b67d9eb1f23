package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

var (
	dnsLoad        = cluster.DNSLoad{Rate: 2000, For: 20 * time.Second, Sockets: 20, WarmUp: 2 * time.Second}
	dnsPercentiles = [...]int{50, 99}
)

func dnsKey(percentile int) string { return fmt.Sprintf("dns-p%d", percentile) }

// measureDNS asks the cluster's DNS server through its Service, as a busy cluster
// does.
func (r *run) measureDNS(ctx context.Context) error {
	took, err := dnsLoad.Run(ctx, r.host.Dial)
	if err != nil {
		return err
	}
	slices.Sort(took)
	for _, p := range dnsPercentiles {
		r.record(dnsKey(p), percentile(took, p).Seconds()*1e3)
	}
	return nil
}

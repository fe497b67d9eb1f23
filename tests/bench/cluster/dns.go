package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// What both sides are told, or have as defaults.
const (
	PodRange           = "10.42.0.0/16"
	NodePodRange       = "10.42.0.0/24" // of the first node
	SecondNodePodRange = "10.42.1.0/24"
	ServiceRange       = "10.43.0.0/16"
	APIAddress         = "10.43.0.1"
	DNSAddress         = "10.43.0.10"
	Domain             = "cluster.local"
)

const (
	queryInterval = 20 * time.Millisecond
	queryLimit    = time.Second
)

// WaitDNS asks the cluster's DNS server for the API's Service until the answer is
// right. A query that nobody hears must not hold up the next one, so that each
// is sent in its own time.
func WaitDNS(ctx context.Context, dial Dial) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, int(queryLimit/queryInterval)+1)
	tick := time.NewTicker(queryInterval)
	defer tick.Stop()
	last := errors.New("no query was answered")
	for {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, queryLimit)
			defer cancel()
			answers <- query(ctx, dial)
		}()
	waiting:
		for {
			select {
			case err := <-answers:
				if err == nil {
					return nil
				}
				last = err
			case <-tick.C:
				break waiting
			case <-ctx.Done():
				return fmt.Errorf("wait for DNS: %w; last: %w", context.Cause(ctx), last)
			}
		}
	}
}

func query(ctx context.Context, dial Dial) error {
	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, "udp", net.JoinHostPort(DNSAddress, "53"))
		},
	}
	const name = "kubernetes.default.svc." + Domain + "."
	addresses, err := resolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	if len(addresses) != 1 || addresses[0] != APIAddress {
		return fmt.Errorf("%s is %v, want %s", name, addresses, APIAddress)
	}
	return nil
}

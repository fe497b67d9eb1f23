package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// avoidFor is how long an endpoint that could not be reached is asked last.
const avoidFor = 5 * time.Second

// pool is the endpoints of a port of a Service. Routes hold on to it, so that a
// change of the endpoints changes nothing else.
type pool struct {
	addresses atomic.Pointer[[]string] // host:port, sorted
	turn      atomic.Uint32

	mu     sync.Mutex
	failed map[string]time.Time
}

func newPool(addresses ...string) *pool {
	p := &pool{}
	p.set(addresses)
	return p
}

func (p *pool) set(addresses []string) { p.addresses.Store(&addresses) }

func (p *pool) empty() bool { return len(*p.addresses.Load()) == 0 }

// pick takes the next endpoint in turn, if need be one of those that were tried or
// could not be reached a moment ago. It is empty if there is none.
func (p *pool) pick(tried []string) string {
	addresses := *p.addresses.Load()
	if len(addresses) == 0 {
		return ""
	}
	start := int(p.turn.Add(1) % uint32(len(addresses)))
	fallback := ""
	for i := range addresses {
		address := addresses[(start+i)%len(addresses)]
		if !slices.Contains(tried, address) && !p.avoided(address) {
			return address
		}
		if fallback == "" || (slices.Contains(tried, fallback) && !slices.Contains(tried, address)) {
			fallback = address
		}
	}
	return fallback
}

// find gives the endpoint that a cookie stands for; empty if it is gone or was
// not reached a moment ago.
func (p *pool) find(cookie string) string {
	for _, address := range *p.addresses.Load() {
		if endpointCookie(address) == cookie && !p.avoided(address) {
			return address
		}
	}
	return ""
}

// avoid remembers that an endpoint could not be reached.
func (p *pool) avoid(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = make(map[string]time.Time)
	}
	p.failed[address] = time.Now()
}

func (p *pool) avoided(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.failed[address]
	if ok && time.Since(at) > avoidFor {
		delete(p.failed, address)
		ok = false
	}
	return ok
}

// endpointCookie stands for an endpoint without telling its address.
func endpointCookie(address string) string {
	sum := sha256.Sum256([]byte(address))
	return hex.EncodeToString(sum[:8])
}

// poolKey names a port of a Service.
type poolKey struct{ namespace, service, port string }

// pools are those that routes use.
type pools struct {
	slices func(namespace, service string) []*discoveryv1.EndpointSlice

	mu    sync.Mutex
	byKey map[poolKey]*pool
	used  map[poolKey]bool // since begin
}

// begin starts a new account of which pools are used.
func (p *pools) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = make(map[poolKey]bool)
}

// get gives the pool of a key, and fills it if it is new.
func (p *pools) get(key poolKey) *pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[key] = true
	if found := p.byKey[key]; found != nil {
		return found
	}
	if p.byKey == nil {
		p.byKey = make(map[poolKey]*pool)
	}
	made := newPool(addresses(p.slices(key.namespace, key.service), key.port)...)
	p.byKey[key] = made
	return made
}

// end forgets the pools that were not used since begin.
func (p *pools) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.byKey {
		if !p.used[key] {
			delete(p.byKey, key)
		}
	}
}

// refresh takes the endpoints of a Service over.
func (p *pools) refresh(namespace, service string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*discoveryv1.EndpointSlice
	for key, each := range p.byKey {
		if key.namespace != namespace || key.service != service {
			continue
		}
		if found == nil {
			found = p.slices(namespace, service)
		}
		each.set(addresses(found, key.port))
	}
}

// addresses gives the endpoints that take requests for a port; if none is ready,
// those that end and still answer, as kube-proxy does.
func addresses(slicesOf []*discoveryv1.EndpointSlice, port string) []string {
	// Pods with addresses of both families are there once.
	family := discoveryv1.AddressTypeIPv6
	if slices.ContainsFunc(slicesOf, func(s *discoveryv1.EndpointSlice) bool {
		return s.AddressType == discoveryv1.AddressTypeIPv4 && len(s.Endpoints) > 0
	}) {
		family = discoveryv1.AddressTypeIPv4
	}
	var ready, ending []string
	for _, slice := range slicesOf {
		if slice.AddressType != family {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name == nil && port != "") || (p.Name != nil && *p.Name != port) {
				continue
			}
			number := strconv.Itoa(int(*p.Port))
			for _, endpoint := range slice.Endpoints {
				if len(endpoint.Addresses) == 0 {
					continue
				}
				address := net.JoinHostPort(endpoint.Addresses[0], number)
				switch c := endpoint.Conditions; {
				case c.Ready == nil || *c.Ready:
					ready = append(ready, address)
				case c.Serving != nil && *c.Serving:
					ending = append(ending, address)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// State is what is known of a server.
//
//	       used         dial fails
//	Idle ───────▶ Healthy ──────▶ Suspect
//	  ▲  no connection │  ▲  check │   │ check
//	  └────────────────┘  └────────┘   ▼ fails
//	                      ▲  check   Failed
//	                      └────────────┘
type State string

const (
	// Idle is a server without connections. It is presumed well and left alone.
	Idle State = "idle"
	// Healthy is a server that answers.
	Healthy State = "healthy"
	// Suspect is a server that did not take a connection; a check is due.
	Suspect State = "suspect"
	// Failed is a server that does not answer.
	Failed State = "failed"
)

// Server is the status of a server.
type Server struct {
	Address     string `json:"address"`
	State       State  `json:"state"`
	Default     bool   `json:"default,omitempty"`
	Connections int    `json:"connections"`
	Error       string `json:"error,omitempty"`
}

// server is one server; but for its address b.mu guards it.
type server struct {
	address     string
	state       State
	err         error // of the last dial or check
	connections int

	// up ends when the connections have to: when the server leaves for good, or
	// when it failed, and is then replaced.
	up  context.Context
	cut context.CancelFunc
	// listed ends when the server leaves the list.
	listed context.Context
	remove context.CancelFunc

	watched bool      // watch runs
	checked time.Time // the last check, or the dial that made one unnecessary
	misses  int       // failed checks in a row
	hits    int       // good checks in a row
	wake    chan struct{}
}

func (b *Balancer) newServer(address string) *server {
	s := &server{address: address, state: Idle, wake: make(chan struct{}, 1)}
	s.listed, s.remove = context.WithCancel(b.ctx)
	s.up, s.cut = context.WithCancel(s.listed)
	return s
}

func (s *server) well() bool { return s.state == Idle || s.state == Healthy }

func (s *server) closeConnections() {
	s.cut()
	s.up, s.cut = context.WithCancel(s.listed)
}

// hurry makes watch look again at when the next check is due.
func (s *server) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// SetServers replaces the list of servers with what the cluster now has and
// keeps it in the state file. An empty list is refused: a node without servers
// could never learn of others. The list is in force even if the file can't be
// written, which is an error.
func (b *Balancer) SetServers(list []string) error {
	list, err := addresses(list)
	if err == nil && len(list) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return fmt.Errorf("load balancer: the old list of servers stays, the new one can't be: %w", err)
	}
	b.setting.Lock()
	defer b.setting.Unlock()
	b.mu.Lock()
	b.setLearned(list)
	b.settle()
	b.wakeClients()
	b.mu.Unlock()
	if err := b.state.save(list); err != nil {
		return fmt.Errorf("load balancer: keep the list of servers: %w", err)
	}
	return nil
}

// setLearned keeps what it has of list, removes the rest, and gives the new
// ones random places: all orders are equally likely. The default stays the last
// resort when it is removed.
func (b *Balancer) setLearned(list []string) {
	b.learned = slices.DeleteFunc(b.learned, func(s *server) bool {
		switch {
		case slices.Contains(list, s.address):
			return false
		case s == b.fallback:
			s.closeConnections()
		default:
			s.remove()
		}
		return true
	})
	for _, address := range list {
		if slices.ContainsFunc(b.learned, func(s *server) bool { return s.address == address }) {
			continue
		}
		s := b.fallback
		if s == nil || s.address != address {
			s = b.newServer(address)
		}
		place := rand.IntN(len(b.learned) + 1) //nolint:gosec // it spreads load, it is no secret
		b.learned = slices.Insert(b.learned, place, s)
	}
}

// servers are all of them: the learned ones, then the default unless it is one
// of them.
func (b *Balancer) servers() []*server {
	list := slices.Clone(b.learned)
	if b.fallback != nil && !slices.Contains(list, b.fallback) {
		list = append(list, b.fallback)
	}
	return list
}

// choice reports whether a server is well.
func (b *Balancer) choice() bool {
	return slices.ContainsFunc(b.servers(), (*server).well)
}

// Servers is the status of all servers, in the order in which they are tried.
func (b *Balancer) Servers() []Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Server
	for _, s := range b.servers() {
		status := Server{Address: s.address, State: s.state, Default: s == b.fallback, Connections: s.connections}
		if s.err != nil {
			status.Error = s.err.Error()
		}
		list = append(list, status)
	}
	return list
}

// pick is the best server that has not been tried: one that is well before one
// that is not. That one is tried nevertheless: the check may be wrong.
func (b *Balancer) pick(tried map[*server]bool) (*server, context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.DeleteFunc(b.servers(), func(s *server) bool { return tried[s] })
	if len(list) == 0 {
		return nil, nil
	}
	s := list[max(0, slices.IndexFunc(list, (*server).well))]
	return s, s.up
}

// hope is closed when there is a reason to try again.
func (b *Balancer) hope() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.better
}

func (b *Balancer) wakeClients() {
	close(b.better)
	b.better = make(chan struct{})
}

// use counts a new connection to s.
func (b *Balancer) use(s *server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.connections++
	if s.state == Idle {
		b.turn(s, Healthy, nil)
	}
	if !s.watched {
		s.checked = time.Now()
	}
	b.startWatch(s)
}

// release takes back use.
func (b *Balancer) release(s *server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.connections--
}

// suspect notes that s did not take a connection.
func (b *Balancer) suspect(s *server, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.well() {
		return
	}
	b.turn(s, Suspect, err)
	b.startWatch(s)
	s.hurry()
}

func (b *Balancer) startWatch(s *server) {
	if s.watched || s.listed.Err() != nil {
		return
	}
	s.watched = true
	b.wg.Go(func() { b.watch(s) })
}

// watch checks s as long as there is a reason to: connections, or a failure. A
// server that nobody uses costs nothing.
func (b *Balancer) watch(s *server) {
	for {
		wait, ok := b.untilCheck(s)
		if !ok {
			return
		}
		select {
		case <-time.After(wait):
		case <-s.wake:
			continue
		case <-s.listed.Done():
			return
		}
		ctx, cancel := context.WithTimeout(s.listed, b.timing.dial)
		started := time.Now()
		err := b.healthy(ctx, s.address)
		cancel()
		b.judge(s, started, err)
	}
}

// untilCheck is how long the next check is away, false if none is needed.
func (b *Balancer) untilCheck(s *server) (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.state == Healthy && s.misses == 0 && s.connections == 0 {
		s.watched = false
		b.turn(s, Idle, nil)
		return 0, false
	}
	interval := b.timing.alarm
	// Nobody waits for a server that is well, nor, having a choice, for one
	// that has failed.
	if s.state == Healthy && s.misses == 0 || s.state == Failed && b.choice() {
		interval = b.timing.calm
	}
	return time.Until(s.checked.Add(interval)), true
}

// judge draws the conclusion from a check of s.
func (b *Balancer) judge(s *server, started time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.listed.Err() != nil {
		return
	}
	s.checked = started
	if err == nil {
		s.misses = 0
		s.hits++
		// Waiting for proof is for those who have a choice.
		if s.state != Failed || s.hits >= b.timing.proof || !b.choice() {
			b.turn(s, Healthy, nil)
		}
		return
	}
	s.hits = 0
	s.misses++
	// That nobody listens is certain, all else may be a moment's trouble.
	if s.misses >= 2 || errors.Is(err, syscall.ECONNREFUSED) {
		b.turn(s, Failed, err)
	}
}

// turn puts s into a state, does what follows, and logs it: once for a change,
// never for a connection.
func (b *Balancer) turn(s *server, to State, err error) {
	from := s.state
	s.state, s.err = to, err
	if from == to {
		return
	}
	b.settle()
	switch {
	case to == Failed && !b.lost:
		b.log.Info("A server of the cluster does not answer, the others are used", "server", s.address, "err", err)
	case to == Healthy && b.lost:
		b.lost = false
		b.log.Info("A server of the cluster answers again", "server", s.address)
	case to == Healthy && from == Failed:
		b.log.Info("A server of the cluster is back", "server", s.address)
	}
	if to == Healthy {
		b.wakeClients()
	}
}

// settle closes the connections of failed servers if there is a better one, and
// notes that there is none left.
func (b *Balancer) settle() {
	servers := b.servers()
	var failed []*server
	for _, s := range servers {
		if s.state == Failed {
			failed = append(failed, s)
		}
	}
	switch {
	case b.choice():
		for _, s := range failed {
			s.closeConnections()
		}
	case !b.lost && len(failed) == len(servers):
		b.lost = true
		last := slices.MaxFunc(failed, func(a, b *server) int { return a.checked.Compare(b.checked) })
		b.log.Warn("No server of the cluster answers any more; this node goes on trying", "last", last.address, "err", last.err)
		for _, s := range failed {
			s.hurry()
		}
	}
}

// addresses returns the list sorted, without duplicates, or what is wrong in it.
func addresses(list []string) ([]string, error) {
	for _, address := range list {
		if err := checkAddress(address); err != nil {
			return nil, err
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(list))), nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("server address %q: %w", address, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("server address %q: must be <host>:<port>", address)
	}
	return nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DNSLoad is a stream of queries to the cluster's DNS server, of programs in pods
// that look up Services: each name is first tried in the namespaces of the search
// list, where it doesn't exist, for addresses of both families.
type DNSLoad struct {
	Rate    int // queries a second
	For     time.Duration
	Sockets int
	WarmUp  time.Duration // queries before, which are not counted
}

// loadNames are asked for in turn, the first and the last of them exist.
var loadNames = []string{
	"kubernetes.default.svc." + Domain + ".",
	"kubernetes.default.default.svc." + Domain + ".",
	"kubernetes.default.svc." + Domain + ".svc." + Domain + ".",
	"kubernetes.default." + Domain + ".",
	"kube-dns.kube-system.svc." + Domain + ".",
}

const (
	loadLimit   = 2 * time.Second // for an answer; what has none took that long
	maxLost     = 10              // percent without an answer, for what is measured to mean something
	maxInFlight = 1 << 16         // numbers of queries of a socket
)

// Run sends the queries at their times, whether or not the ones before were
// answered, and returns how long after its time each was answered. On a busy
// machine a packet may be lost; for its sender that is a wait.
func (l DNSLoad) Run(ctx context.Context, dial Dial) ([]time.Duration, error) {
	total := int((l.WarmUp + l.For).Seconds() * float64(l.Rate))
	if total/l.Sockets > maxInFlight {
		return nil, fmt.Errorf("%d queries on %d sockets: more than %d each", total, l.Sockets, maxInFlight)
	}
	var queries [][]byte
	for _, name := range loadNames {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			query, err := packQuery(name, kind)
			if err != nil {
				return nil, err
			}
			queries = append(queries, query)
		}
	}
	sockets := make([]*loadSocket, l.Sockets)
	for i := range sockets {
		conn, err := dial(ctx, "udp", net.JoinHostPort(DNSAddress, "53"))
		if err != nil {
			return nil, err
		}
		defer func() { _ = conn.Close() }()
		sockets[i] = &loadSocket{conn: conn}
	}

	began := time.Now().Add(10 * time.Millisecond)
	interval := time.Second / time.Duration(l.Rate)
	var all sync.WaitGroup
	for i, s := range sockets {
		for n := i; n < total; n += l.Sockets {
			s.due = append(s.due, began.Add(time.Duration(n)*interval))
		}
		s.answered = make([]time.Duration, len(s.due))
		s.queries = queries
		all.Go(s.send)
		all.Go(s.receive)
	}
	all.Wait()
	counted := began.Add(l.WarmUp)
	var took []time.Duration
	var errs []error
	lost := 0
	for _, s := range sockets {
		errs = append(errs, s.err)
		for i, due := range s.due {
			if due.Before(counted) {
				continue
			}
			if s.answered[i] == 0 {
				s.answered[i] = loadLimit
				lost++
			}
			took = append(took, s.answered[i])
		}
	}
	if lost*100 > maxLost*len(took) {
		errs = append(errs, fmt.Errorf("%d of %d queries were not answered within %s", lost, len(took), loadLimit))
	}
	return took, errors.Join(errs...)
}

func packQuery(name string, kind dnsmessage.Type) ([]byte, error) {
	parsed, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", name, err)
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: parsed, Type: kind, Class: dnsmessage.ClassINET}},
	}
	return message.Pack()
}

// loadSocket sends a share of the queries, numbered from 0.
type loadSocket struct {
	conn     net.Conn
	queries  [][]byte
	due      []time.Time
	answered []time.Duration // after it was due; 0: not
	err      error           // of receive
}

func (s *loadSocket) send() {
	var buffer []byte
	for i, due := range s.due {
		time.Sleep(time.Until(due))
		buffer = append(buffer[:0], s.queries[i%len(s.queries)]...)
		buffer[0], buffer[1] = byte(i>>8), byte(i)
		_, _ = s.conn.Write(buffer) // what is lost isn't answered
	}
}

func (s *loadSocket) receive() {
	_ = s.conn.SetReadDeadline(s.due[len(s.due)-1].Add(loadLimit))
	buffer := make([]byte, 1500)
	for range s.due {
		n, err := s.conn.Read(buffer)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // nobody listened to a query before
		}
		if err != nil {
			return // the deadline: what isn't answered shows
		}
		var parser dnsmessage.Parser
		header, err := parser.Start(buffer[:n])
		if err != nil || int(header.ID) >= len(s.due) {
			s.err = fmt.Errorf("an answer that is none: %w", err)
			return
		}
		if header.RCode != dnsmessage.RCodeSuccess && header.RCode != dnsmessage.RCodeNameError {
			s.err = fmt.Errorf("a query is answered with %s", header.RCode)
			return
		}
		s.answered[header.ID] = max(time.Since(s.due[header.ID]), 1)
	}
}

package datastore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/features"
	"google.golang.org/grpc"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// Ports of the embedded etcd. Other servers need to reach that of peers alone.
const (
	EtcdClientPort  = 2379 // on the loopback interface
	EtcdPeerPort    = 2380
	EtcdMetricsPort = 2381 // on the loopback interface, unless exposed
)

const (
	// A follower that hears nothing of the leader for one to two election timeouts
	// stands for election: writes pause for two to four seconds when the leader's
	// machine dies. etcd's own second is too short for an SD card that is busy.
	heartbeat       = 200 * time.Millisecond
	electionTimeout = 2 * time.Second
	// progressNotify keeps the apiservers' watch caches near the present.
	progressNotify = 5 * time.Second
	// startLimit is how long the other members are waited for: after a power cut
	// they come back one after the other.
	startLimit = 5 * time.Minute
	// askLimit is how long servers are asked whether this one is still a member.
	askLimit = 5 * time.Second
	// learners may catch up at the same time.
	learners = 4
)

// Peers are the servers that a further server joins.
type Peers interface {
	AddMember(ctx context.Context, name, peer string) ([]join.Member, error)
	Promote(ctx context.Context, id uint64) error
	Members(ctx context.Context) (join.Members, error)
}

// EtcdConfig is what the member is made from.
type EtcdConfig struct {
	Dir     string     // of its data
	Cluster string     // file that names the cluster it is a member of, and outlives its data
	SQLite  string     // directory of the SQLite database to take over, if there is one
	Node    string     // with which the member's name begins
	Address netip.Addr // of this machine, on which it listens for the other members
	// Advertised is the address at which the others reach it.
	Advertised netip.Addr
	PKI        pki.Layout
	Peers      Peers // nil: it begins a cluster of its own
	// After names components in this process that must be ready before etcd starts.
	After         []string
	ExposeMetrics bool
	Args          []config.Arg
	Log           *slog.Logger
}

// Etcd is this server's member of the cluster's embedded etcd, as a component.
type Etcd struct {
	config EtcdConfig
	log    *slog.Logger
	logged *etcdLog
	etcd   *embed.Etcd
	// current is etcd while it runs, for those who don't know when.
	current atomic.Pointer[embed.Etcd]
	run     component.Runner
}

// NewEtcd checks the user's arguments, and that data which was there still is.
func NewEtcd(c EtcdConfig) (*Etcd, error) {
	e := &Etcd{config: c, log: c.Log.With("component", "datastore")}
	e.logged = newEtcdLog(e.log)
	if _, err := e.embedConfig("check", c.Dir); err != nil {
		return nil, err
	}
	return e, e.checkLoss()
}

// MemberOf says whether a member's name is one of a node's.
func MemberOf(member, node string) bool {
	suffix, ok := strings.CutPrefix(member, node+"-")
	return ok && len(suffix) == 2*nameBytes && strings.Trim(suffix, "0123456789abcdef") == ""
}

// nameBytes of randomness tell the members that a node has had apart.
const nameBytes = 4

func newName(node string) string {
	var b [nameBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return node + "-" + hex.EncodeToString(b[:])
}

// Endpoint is the etcd endpoint that the apiserver is given.
func (*Etcd) Endpoint() string { return fmt.Sprintf("https://127.0.0.1:%d", EtcdClientPort) }

// TLS is what the apiserver connects with.
func (e *Etcd) TLS() TLS {
	return TLS{CA: e.config.PKI.EtcdServerCA().Cert, Client: e.config.PKI.EtcdClient()}
}

func (*Etcd) Name() string                        { return "datastore" }
func (e *Etcd) Needs() []string                   { return append([]string{"certificates"}, e.config.After...) }
func (*Etcd) Limits() (start, stop time.Duration) { return startLimit, 0 }
func (e *Etcd) Stop(ctx context.Context) error    { return e.run.Stop(ctx) }
func (e *Etcd) Failed() <-chan error              { return e.run.Failed() }

// peer is the URL at which the other members reach this one.
func (e *Etcd) peer() string { return peerURL(e.config.Advertised) }

func peerURL(address netip.Addr) string {
	return "https://" + netip.AddrPortFrom(address, EtcdPeerPort).String()
}

func (e *Etcd) nameFile() string { return filepath.Join(e.config.Dir, "name") }

// Start goes on with the member's data, or takes that of SQLite over, or joins
// the other servers, or begins a cluster.
func (e *Etcd) Start(ctx context.Context) error {
	c := e.config
	if err := os.MkdirAll(filepath.Dir(c.Dir), 0o700); err != nil {
		return fmt.Errorf("datastore directory: %w", err)
	}
	if HasEtcd(c.Dir) {
		if err := e.finishMigration(); err != nil {
			return err
		}
		if err := e.leaveIfRemoved(ctx); err != nil {
			return err
		}
	} else if c.Peers == nil {
		if err := e.migrate(ctx); err != nil {
			return fmt.Errorf("take the state of SQLite over into etcd: %w", err)
		}
	}
	name, settings, err := e.prepare(ctx)
	if err != nil {
		return err
	}
	if e.etcd, err = e.startMember(ctx, settings); err != nil {
		return err
	}
	e.current.Store(e.etcd)
	e.log.Debug("etcd runs", "member", name, "id", e.etcd.Server.MemberID())
	e.run.Run(e.watch)
	return nil
}

// prepare finds the member's name, makes it a place among the others if it is
// new, and says how etcd is to run.
func (e *Etcd) prepare(ctx context.Context) (name string, settings *embed.Config, err error) {
	c := e.config
	known, err := os.ReadFile(e.nameFile())
	name = strings.TrimSpace(string(known))
	switch {
	case HasEtcd(c.Dir) && (err != nil || name == ""):
		return "", nil, fmt.Errorf("%s does not hold the name of this server's member of etcd: put it back from a backup, or move %s away to join again: %w", e.nameFile(), c.Dir, err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", nil, err
	case HasEtcd(c.Dir):
		settings, err = e.embedConfig(name, c.Dir)
		return name, settings, err
	}
	if err := e.makeRoom(); err != nil {
		return "", nil, err
	}
	name = newName(c.Node)
	if settings, err = e.embedConfig(name, c.Dir); err != nil {
		return "", nil, err
	}
	if c.Peers != nil {
		members, err := c.Peers.AddMember(ctx, name, e.peer())
		if err != nil {
			return "", nil, fmt.Errorf("join the members of etcd: %w", err)
		}
		if settings.InitialCluster, err = initialCluster(members, name, e.peer()); err != nil {
			return "", nil, err
		}
		settings.ClusterState = embed.ClusterStateFlagExisting
	}
	return name, settings, atomicfile.Write(e.nameFile(), []byte(name+"\n"), 0o600)
}

// initialCluster lists the members as etcd wants to know them, this one among
// them.
func initialCluster(members []join.Member, name, peer string) (string, error) {
	var list []string
	found := false
	for _, m := range members {
		if slices.Contains(m.Peers, peer) {
			m.Name, found = name, true
		}
		if m.Name == "" { // it joins too; etcd compares addresses only
			m.Name = fmt.Sprintf("member-%x", m.ID)
		}
		for _, url := range m.Peers {
			list = append(list, m.Name+"="+url)
		}
	}
	if !found {
		return "", fmt.Errorf("the servers' answer lacks this one: %v", members)
	}
	return strings.Join(list, ","), nil
}

// ownArgs are etcd's arguments that Kedge itself decides on.
var ownArgs = []string{
	"data-dir", "wal-dir", "name", "initial-cluster", "initial-cluster-state", "initial-cluster-token",
	"initial-advertise-peer-urls", "advertise-client-urls", "listen-peer-urls", "listen-client-urls",
	"listen-client-http-urls", "listen-metrics-urls", "cert-file", "key-file", "client-cert-file", "client-key-file",
	"client-cert-auth", "trusted-ca-file", "auto-tls", "peer-cert-file", "peer-key-file", "peer-client-cert-file",
	"peer-client-key-file", "peer-client-cert-auth", "peer-trusted-ca-file", "peer-auto-tls", "force-new-cluster",
	"logger", "log-outputs", "log-level", "log-format", "enable-log-rotation", "log-rotation-config-json",
	"discovery", "discovery-srv", "unsafe-no-fsync",
}

// embedConfig is how etcd runs as a first member.
func (e *Etcd) embedConfig(name, dir string) (*embed.Config, error) {
	c, p := e.config, e.config.PKI
	settings := embed.NewConfig()
	settings.Name, settings.Dir = name, dir
	settings.ZapLoggerBuilder = embed.NewZapLoggerBuilder(e.logged.zap())
	if gate, ok := settings.ServerFeatureGate.(featuregate.MutableFeatureGate); ok {
		if err := gate.Set(string(features.InitialCorruptCheck) + "=true"); err != nil {
			return nil, err
		}
	}
	flags := flag.NewFlagSet("etcd-arg", flag.ContinueOnError)
	settings.AddFlags(flags) // which also sets what they stand for
	settings.TickMs = uint(heartbeat.Milliseconds())
	settings.ElectionMs = uint(electionTimeout.Milliseconds())
	settings.WatchProgressNotifyInterval = progressNotify
	settings.MaxLearners = learners
	settings.EnableGRPCGateway = false
	settings.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(e.endLostWrites)}
	for _, arg := range c.Args {
		if slices.Contains(ownArgs, arg.Name) {
			return nil, fmt.Errorf("--etcd-arg: %s is decided by Kedge: remove it", arg.Name)
		}
		if flags.Lookup(arg.Name) == nil {
			return nil, fmt.Errorf("--etcd-arg: etcd has no argument %q: see https://etcd.io/docs/v3.6/op-guide/configuration/", arg.Name)
		}
		if err := flags.Set(arg.Name, arg.Value); err != nil {
			return nil, fmt.Errorf("--etcd-arg: %s: %w", arg.Name, err)
		}
	}
	serving, peer := p.EtcdServing(), p.EtcdPeer()
	settings.ClientTLSInfo = transport.TLSInfo{
		CertFile: serving.Cert, KeyFile: serving.Key, TrustedCAFile: p.EtcdServerCA().Cert, ClientCertAuth: true,
	}
	settings.PeerTLSInfo = transport.TLSInfo{
		CertFile: peer.Cert, KeyFile: peer.Key, TrustedCAFile: p.EtcdPeerCA().Cert, ClientCertAuth: true,
		// The authority signs peers and nobody else, and their addresses may change.
		SkipClientSANVerify: true,
	}
	client := url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", EtcdClientPort)}
	settings.ListenClientUrls, settings.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	settings.ListenPeerUrls = []url.URL{{Scheme: "https", Host: netip.AddrPortFrom(c.Address, EtcdPeerPort).String()}}
	settings.AdvertisePeerUrls = []url.URL{{Scheme: "https", Host: netip.AddrPortFrom(c.Advertised, EtcdPeerPort).String()}}
	settings.ListenMetricsUrls = []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", EtcdMetricsPort)}}
	if c.ExposeMetrics {
		settings.ListenMetricsUrls = append(settings.ListenMetricsUrls,
			url.URL{Scheme: "http", Host: netip.AddrPortFrom(c.Address, EtcdMetricsPort).String()})
	}
	settings.InitialCluster = settings.InitialClusterFromName(name)
	// No two clusters have the same ID, even if one begins where the other did.
	settings.InitialClusterToken = rand.Text()
	return settings, nil
}

// startMember starts this server's member. Servers that join at the same time
// change the list of members that a new one starts with.
func (e *Etcd) startMember(ctx context.Context, settings *embed.Config) (*embed.Etcd, error) {
	for {
		etcd, err := e.startEtcd(ctx, settings)
		if err == nil || e.config.Peers == nil || HasEtcd(e.config.Dir) {
			return etcd, err
		}
		now, askErr := e.config.Peers.Members(ctx)
		if askErr != nil {
			return nil, err
		}
		list, listErr := initialCluster(now.List, settings.Name, e.peer())
		if listErr != nil || list == settings.InitialCluster {
			return nil, err
		}
		settings.InitialCluster = list
		if err := os.RemoveAll(filepath.Join(settings.Dir, "member")); err != nil {
			return nil, err
		}
	}
}

// startEtcd starts etcd. Where etcd would end the process, its reason is returned.
func (e *Etcd) startEtcd(ctx context.Context, settings *embed.Config) (*embed.Etcd, error) {
	type outcome struct {
		etcd *embed.Etcd
		err  error
	}
	if err := checkBackend(filepath.Join(settings.Dir, "member", "snap", "db")); err != nil {
		return nil, unusable(settings.Dir, err)
	}
	started := make(chan outcome, 1)
	go func() {
		etcd, err := embed.StartEtcd(settings)
		started <- outcome{etcd, err}
	}()
	select {
	case o := <-started:
		if o.err != nil {
			return nil, fmt.Errorf("start etcd with the data in %s: %w", settings.Dir, o.err)
		}
		return o.etcd, nil
	case err := <-e.logged.fatal:
		return nil, unusable(settings.Dir, err)
	case <-ctx.Done():
		return nil, fmt.Errorf("start etcd: %w", ctx.Err())
	}
}

func unusable(dir string, err error) error {
	return fmt.Errorf("etcd can't use the data in %s: %w; it was left as it is: with other servers, stop this one, delete its node on another, move the directory away and join again; without, go back to a snapshot (kedge snapshot list, kedge snapshot restore NAME)", dir, err)
}

// Ready waits until the member takes part with a vote.
func (e *Etcd) Ready(ctx context.Context) error {
	select {
	case <-e.etcd.Server.ReadyNotify():
	case <-e.etcd.Server.StopNotify():
		return errRemoved
	case <-ctx.Done():
		return fmt.Errorf("the other members of etcd (%s): %w", strings.Join(e.silent(ctx), ", "), ctx.Err())
	}
	if e.etcd.Server.IsLearner() {
		if err := e.becomeFull(ctx); err != nil {
			return err
		}
	}
	e.tellAddress(ctx)
	return e.keepCluster()
}

// becomeFull has this server promoted, which is a learner.
func (e *Etcd) becomeFull(ctx context.Context) error {
	if e.config.Peers == nil {
		return errors.New("this server has not become a full member of etcd yet: name another server with --server, by which it asks to be one")
	}
	began := time.Now()
	if err := e.config.Peers.Promote(ctx, uint64(e.etcd.Server.MemberID())); err != nil {
		return fmt.Errorf("become a full member of etcd: %w", err)
	}
	for e.etcd.Server.IsLearner() { // until it hears of it itself
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.log.Info("this server is a full member of etcd", "took", time.Since(began).Round(time.Millisecond))
	return nil
}

var errRemoved = errors.New("this server was removed from the members of etcd: to join again, start it with --server https://HOST:6443 of another server")

// quorumPatience is how long an election may take before it is called a loss.
const quorumPatience = 2*electionTimeout + time.Second

// watch tells of the loss of the quorum, until ctx ends or etcd does.
func (e *Etcd) watch(ctx context.Context) error {
	server := e.etcd.Server
	// etcd tells nobody that a leader is lost; a look at a number costs nothing.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	lastLeader, lost := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			e.current.Store(nil)
			e.close()
			return nil
		case err := <-e.logged.fatal:
			return fmt.Errorf("etcd: %w", err)
		case err := <-e.etcd.Err():
			select {
			case <-server.StoppingNotify(): // its listeners only say that
				err = errRemoved
			default:
			}
			return err
		case <-server.StopNotify():
			return errRemoved
		case <-tick.C:
		}
		switch leads := server.Leader() != types.ID(0); {
		case leads && lost:
			e.log.Info("etcd has a quorum again: writes go on", "without", time.Since(lastLeader).Round(time.Second))
			lost, lastLeader = false, time.Now()
		case leads:
			lastLeader = time.Now()
		case !lost && time.Since(lastLeader) > quorumPatience:
			lost = true
			e.log.Error("etcd has lost its quorum: most servers must run and reach each other on port 2380; until then nothing can be changed, and what runs goes on",
				"members", len(server.Cluster().Members()), "silent", strings.Join(e.silent(ctx), ", "))
		}
	}
}

// silent names the other members that do not accept connections.
func (e *Etcd) silent(ctx context.Context) []string {
	ctx = context.WithoutCancel(ctx)
	var silent []string
	for _, m := range e.etcd.Server.Cluster().Members() {
		if m.ID == e.etcd.Server.MemberID() {
			continue
		}
		for _, peer := range m.PeerURLs {
			if !answers(ctx, peer) {
				silent = append(silent, fmt.Sprintf("%s (%s)", m.Name, hostOf(peer)))
			}
		}
	}
	return silent
}

// answerLimit is how long a member may take to accept a connection.
const answerLimit = time.Second

// answers says whether somebody accepts connections at the URL of a member.
func answers(ctx context.Context, peer string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostOf(peer))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func hostOf(peer string) string { return strings.TrimPrefix(peer, "https://") }

// closeLimit is how long etcd's listeners may take to close.
const closeLimit = time.Second

// close hands the leadership over and closes the data. The listeners would wait
// for clients to leave by themselves.
func (e *Etcd) close() {
	e.etcd.Server.Stop()
	closed := make(chan struct{})
	go func() { defer close(closed); e.etcd.Close() }()
	select {
	case <-closed:
	case <-time.After(closeLimit):
	}
}

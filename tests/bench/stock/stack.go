// Package stock is the stack that Kedge is measured beside: etcd, Kubernetes'
// own programs and containerd as processes of their own, from the same modules,
// on hosts of a testbed.
package stock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/manifests"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// Stack is the stock stack on one host: all of it, or a node of the cluster that
// another host runs.
type Stack struct {
	host     *testbed.Host
	cluster  *Stack // whose control plane it has: its own, unless it is a node
	programs Programs
	units    []*unit

	deployed chan struct{} // closed when images and add-ons are there, or can't be
	failure  error         // to be read after deployed
	cancel   context.CancelFunc
}

// New makes a stack that isn't there yet.
func New(host *testbed.Host, programs Programs) *Stack {
	s := &Stack{host: host, programs: programs, cancel: func() {}}
	s.cluster = s
	return s
}

// Node makes a node of the cluster on another host, with programs of its own: those
// of two machines share no memory. It isn't there yet.
func (s *Stack) Node(host *testbed.Host) *Stack {
	node := New(host, s.programs)
	node.cluster = s
	return node
}

// programDir is where the host finds the stack's own programs.
func (s *Stack) programDir() string {
	if s.cluster == s {
		return s.programs.Dir
	}
	return nodeProgramDir
}

// copyPrograms gives a node its programs.
func (s *Stack) copyPrograms() error {
	if s.cluster == s {
		return nil
	}
	dir := s.host.Path(nodeProgramDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range append([]string{"ctr"}, nodePrograms...) {
		if err := copyFile(filepath.Join(s.programs.Dir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// Prepare makes all that is there before a first start: certificates,
// configuration, the kernel's settings, and a node's programs.
func (s *Stack) Prepare(ctx context.Context) error {
	for _, dir := range []string{dataDir, logDir, pkiDir + "/manifests"} {
		if err := os.MkdirAll(s.host.Path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := s.copyPrograms(); err != nil {
		return err
	}
	if err := s.makeCertificates(); err != nil {
		return err
	}
	if err := s.writeConfigs(); err != nil {
		return err
	}
	_, err := s.host.Exec(ctx, "sh", "-c",
		"echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil {
		return err
	}
	for _, command := range s.commands() {
		name := command[0]
		log, err := os.OpenFile(s.host.Path(filepath.Join(logDir, name+".log")), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		s.units = append(s.units, &unit{
			host:    s.host,
			program: filepath.Join(s.programDir(), name),
			args:    command[1:],
			path:    s.programs.Runtime + ":/usr/sbin:/usr/bin:/sbin:/bin",
			log:     log,
		})
	}
	return nil
}

// Start starts all programs at once, but for the kubelet, which ends when there
// is no containerd: it begins when containerd serves. The first time, images are
// imported and the add-ons deployed in the background, as in Kedge.
func (s *Stack) Start() error {
	for _, u := range s.units {
		if u.name() == "kubelet" {
			if err := s.waitContainerd(); err != nil {
				return err
			}
		}
		if err := u.start(); err != nil {
			return err
		}
	}
	if s.deployed == nil {
		var ctx context.Context
		ctx, s.cancel = context.WithCancel(context.Background())
		s.deployed = make(chan struct{})
		go func() {
			defer close(s.deployed)
			s.failure = s.deploy(ctx)
		}()
	}
	return nil
}

func (s *Stack) waitContainerd() error {
	for began := time.Now(); ; {
		conn, err := net.Dial("unix", s.host.Path(socket))
		if err == nil {
			return conn.Close()
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("containerd doesn't serve: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// deploy imports the images and applies the add-ons, both at once.
func (s *Stack) deploy(ctx context.Context) error {
	if s.cluster != s {
		return s.importImages(ctx)
	}
	imported := make(chan error, 1)
	go func() { imported <- s.importImages(ctx) }()
	return errors.Join(s.applyAddOns(ctx), <-imported)
}

func (s *Stack) importImages(ctx context.Context) error {
	_, err := s.host.Exec(ctx, filepath.Join(s.programDir(), "ctr"),
		"--address", socket, "--namespace", "k8s.io", "images", "import", "--label", "io.cri-containerd.pinned=pinned", s.programs.Images)
	return err
}

func (s *Stack) applyAddOns(ctx context.Context) error {
	text, err := manifests.FS.ReadFile("coredns.yaml")
	if err != nil {
		return err
	}
	objects, err := cluster.Parse([]byte(os.Expand(string(text), func(key string) string {
		return map[string]string{
			"ADDONS_IMAGE":     s.programs.AddOns,
			"CLUSTER_DNS":      cluster.DNSAddress,
			"CLUSTER_DNS_LIST": strconv.Quote(cluster.DNSAddress),
			"CLUSTER_DOMAIN":   cluster.Domain,
		}[key]
	})))
	if err != nil {
		return err
	}
	client, err := cluster.Connect(s.host.Path(s.Kubeconfig()), s.host.Dial)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.WaitReady(ctx); err != nil {
		return err
	}
	for _, object := range objects {
		if err := client.Apply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops the programs: etcd last, for the API server writes to its end.
func (s *Stack) Stop(limit time.Duration) (took time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var etcd, others []*unit
	for _, u := range s.units {
		if u.name() == "etcd" {
			etcd = append(etcd, u)
		} else {
			others = append(others, u)
		}
	}
	var all []error
	for _, group := range [][]*unit{others, etcd} {
		for _, u := range group {
			u.signal(unix.SIGTERM)
		}
		for _, u := range group {
			all = append(all, u.wait(ctx))
		}
	}
	return time.Since(began), errors.Join(all...)
}

// Close ends the programs at once, and frees what the stack holds here.
func (s *Stack) Close() {
	s.cancel()
	for _, u := range s.units {
		if u.stop != nil {
			u.signal(unix.SIGKILL)
			<-u.done
		}
		_ = u.log.Close()
	}
	if s.deployed != nil {
		<-s.deployed
	}
}

// PIDs are the programs' processes as the machine numbers them.
func (s *Stack) PIDs() []int {
	var pids []int
	for _, u := range s.units {
		u.mu.Lock()
		pids = append(pids, u.pid)
		u.mu.Unlock()
	}
	return pids
}

// Kubeconfig is the administrator's, on the host.
func (s *Stack) Kubeconfig() string { return pki.NewLayout(pkiDir).Kubeconfig("admin") }

// State says in one line what isn't as it should be: programs that ended and
// were started again, add-ons that can't be deployed.
func (s *Stack) State() string {
	var notes []string
	for _, u := range s.units {
		u.mu.Lock()
		if u.restarts > 0 {
			notes = append(notes, fmt.Sprintf("%s was started again %d times", u.name(), u.restarts))
		}
		u.mu.Unlock()
	}
	select {
	case <-s.deployed:
		if s.failure != nil {
			notes = append(notes, s.failure.Error())
		}
	default:
	}
	return strings.Join(notes, ", ")
}

// CopyLogs copies the programs' logs to a directory of the machine.
func (s *Stack) CopyLogs(dir string) error {
	return os.CopyFS(dir, os.DirFS(s.host.Path(logDir)))
}

package hostcheck

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTrialsTellAbsent asks the kernel for things that no kernel has, beside
// things this one has.
func TestTrialsTellAbsent(t *testing.T) {
	needRoot(t)
	var links, nft map[string]error
	err := onNewNetwork(func() error {
		links = tryLinks("bridge", "kedge-nosuch")
		nft = tryNFTables(map[string]string{"real": "ct", "made up": "kedgenosuch"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(links["kedge-nosuch"], errAbsent) {
		t.Errorf("a kind of link that doesn't exist: %v", links["kedge-nosuch"])
	}
	if errors.Is(nft["nf_tables"], errAbsent) {
		t.Skip("this kernel has no nf_tables")
	}
	if nft["nf_tables"] != nil || nft["nf_nat"] != nil {
		t.Errorf("table: %v, nat chain: %v", nft["nf_tables"], nft["nf_nat"])
	}
	if !errors.Is(nft["made up"], errAbsent) {
		t.Errorf("an expression that doesn't exist: %v", nft["made up"])
	}
	if nft["real"] != nil {
		t.Errorf("an expression that exists: %v", nft["real"])
	}
}

// TestTrialsAgreeWithConfig compares what was tried with the kernel's own list.
func TestTrialsAgreeWithConfig(t *testing.T) {
	needRoot(t)
	k, err := Host{}.kernel()
	if err != nil {
		t.Fatal(err)
	}
	if k.config == nil {
		t.Skip("this kernel's build options are not to be had")
	}
	tried := tryFeatures()
	for _, f := range features {
		result, ok := tried[f.module]
		if k.config[f.config] == "y" && ok && result != nil {
			t.Errorf("%s is built in, but: %v", f.module, result)
		}
		if k.config[f.config] == "" && ok && !errors.Is(result, errAbsent) {
			t.Errorf("%s is not in this kernel, but: %v", f.module, result)
		}
	}
}

// TestTriedFeaturesAreKnown keeps the names in trials and features alike.
func TestTriedFeaturesAreKnown(t *testing.T) {
	needRoot(t)
	for module := range tryFeatures() {
		if !slices.ContainsFunc(features, func(f feature) bool { return f.module == module }) {
			t.Errorf("%q is tried, but is no feature", module)
		}
	}
	for module := range maps.Keys(nftExpressions) {
		if !slices.ContainsFunc(features, func(f feature) bool { return f.module == module }) {
			t.Errorf("%q is no feature", module)
		}
	}
}

// TestTrialsLeaveNothing tries often enough for the goroutine to come upon the main
// thread, and looks for namespaces, links, tables and threads left over.
func TestTrialsLeaveNothing(t *testing.T) {
	needRoot(t)
	network := func() string {
		ns, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		links, err := os.ReadFile("/proc/self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		names := []string{ns}
		for line := range strings.Lines(string(links)) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			names = append(names, name)
		}
		return strings.Join(names, " ")
	}
	threads := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(tasks)
	}
	before, threadsBefore := network(), threads()
	for range 50 {
		tryFeatures()
	}
	if after := network(); after != before {
		t.Errorf("the network was %q, is %q", before, after)
	}
	if after := threads(); after > threadsBefore+10 {
		t.Errorf("there were %d threads, there are %d", threadsBefore, after)
	}
}

func TestOnNewNetworkReturnsError(t *testing.T) {
	needRoot(t)
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("no")
	got := onNewNetwork(func() error {
		other, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil || other == own {
			t.Errorf("in namespace %s, %v; outside it is %s", other, err, own)
		}
		return want
	})
	if !errors.Is(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestNetlinkRefusals(t *testing.T) {
	needRoot(t)
	err := onNewNetwork(func() error {
		conn, err := dialNetlink(unix.NETLINK_ROUTE, trialTimeout)
		if err != nil {
			return err
		}
		defer conn.close()
		// A link of its own name, then the same again.
		link := message{
			kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
			body: join(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, text("twice")),
				attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attribute(unix.IFLA_INFO_KIND, text("bridge")))),
		}
		answers, err := conn.exchange(link, link)
		if err != nil {
			return err
		}
		if answers[0] != nil || !errors.Is(answers[1], unix.EEXIST) {
			t.Errorf("the answers are %v", answers)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNetlinkTimeout(t *testing.T) {
	conn, err := dialNetlink(unix.NETLINK_ROUTE, 1e6)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	// Nothing is asked, so nothing is answered.
	if _, err := conn.roundTrip(appendMessage(nil, message{kind: unix.NLMSG_NOOP}, 0, 0), 1); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %v", err)
	}
}

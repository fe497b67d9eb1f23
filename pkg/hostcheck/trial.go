package hostcheck

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// errAbsent says that the kernel was asked for a feature and has none such.
var errAbsent = errors.New("the kernel doesn't have it")

// ErrUntried says that something could not be tried, so that nothing is known of it.
var ErrUntried = errors.New("not tried")

// tryFeatures uses features of the running kernel and returns what came of it by
// module: nil if it worked, errAbsent if the kernel doesn't have it, another error
// if it couldn't be tried. What it doesn't know to try is left out.
func tryFeatures() map[string]error {
	result := map[string]error{"overlay": tryOverlay()}
	var links, nft map[string]error
	err := onNewNetwork(func() error {
		links, nft = tryLinks("bridge", "veth", "vxlan"), tryNFTables(nftExpressions)
		return nil
	})
	if err != nil {
		for _, f := range features {
			if _, known := result[f.module]; !known {
				result[f.module] = err
			}
		}
	}
	maps.Copy(result, links)
	maps.Copy(result, nft)
	return result
}

// tryOverlay opens overlayfs without mounting it.
func tryOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENODEV):
		return errAbsent
	}
	return fmt.Errorf("open overlayfs: %w", err)
}

// onNewNetwork runs f on a thread in a network namespace of its own. The thread
// ends with f, and with it the namespace and all that f made in it.
func onNewNetwork(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread stands for the process in /proc and can't end: keep
			// it as it is, and occupied, while another does the work.
			defer runtime.UnlockOSThread()
			result <- onNewNetwork(f)
			return
		}
		// Never unlocked: the runtime ends the thread with this goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// trialTimeout is how long the kernel may take to answer; it may have a module to
// load first.
const trialTimeout = 10 * time.Second

// tryLinks makes a network link of each kind in the present network namespace.
func tryLinks(kinds ...string) map[string]error {
	result := map[string]error{}
	for i, kind := range kinds {
		result[kind] = tryLink(fmt.Sprintf("kedge%d", i), kind)
	}
	return result
}

func tryLink(name, kind string) error {
	conn, err := dialNetlink(unix.NETLINK_ROUTE, trialTimeout)
	if err != nil {
		return err
	}
	defer conn.close()

	info := attribute(unix.IFLA_INFO_KIND, text(kind))
	if kind == "vxlan" {
		info = append(info, attribute(unix.IFLA_INFO_DATA|unix.NLA_F_NESTED,
			attribute(unix.IFLA_VXLAN_ID, native32(1)),
			attribute(unix.IFLA_VXLAN_PORT, big16(8472)))...)
	}
	body := join(
		make([]byte, unix.SizeofIfInfomsg),
		attribute(unix.IFLA_IFNAME, text(name)),
		attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info),
	)
	answers, err := conn.exchange(message{
		kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: body,
	})
	if err != nil {
		return err
	}
	if errors.Is(answers[0], unix.EOPNOTSUPP) {
		return errAbsent
	}
	return answers[0]
}

// nftExpressions are the parts of rules that Kedge's rules are made of, by the
// module that has them.
var nftExpressions = map[string]string{
	"nft_masq":        "masq",
	"nft_nat":         "nat",
	"nft_ct":          "ct",
	"nft_fib_ipv4":    "fib",
	"nft_numgen":      "numgen",
	"nft_reject_ipv4": "reject",
}

// tryNFTables asks nf_tables for a table, a chain of the nat type, a plain chain,
// and in it rules each with one kind of expression. The expressions lack their
// settings, so that the kernel refuses the lot, but what it doesn't know it refuses
// with ENOENT.
func tryNFTables(expressions map[string]string) map[string]error {
	modules := slices.Sorted(maps.Keys(expressions))
	batch := []message{nftTable(), nftNATChain(), nftPlainChain()}
	for _, module := range modules {
		batch = append(batch, nftRule(expressions[module]))
	}
	answers, err := exchangeNFTables(batch)
	if err == nil {
		err = answers[0]
	}
	if err != nil {
		result := map[string]error{"nf_tables": err, "nf_nat": err, "nf_conntrack": err}
		for _, module := range modules {
			result[module] = err
		}
		return result
	}

	result := map[string]error{"nf_tables": nil, "nf_nat": answers[1]}
	if errors.Is(answers[1], unix.ENOENT) {
		result["nf_nat"] = errAbsent
	}
	for i, module := range modules {
		switch refusal := answers[3+i]; {
		case answers[2] != nil: // without the chain there is no telling of its rules
			result[module] = fmt.Errorf("make a chain: %w", answers[2])
		case errors.Is(refusal, unix.ENOENT):
			result[module] = errAbsent
		default:
			result[module] = nil
		}
	}
	// It has no message of its own; nft_ct is built on it.
	if err, ok := result["nft_ct"]; ok {
		result["nf_conntrack"] = err
	}
	return result
}

func exchangeNFTables(batch []message) ([]error, error) {
	conn, err := dialNetlink(unix.NETLINK_NETFILTER, trialTimeout)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, errAbsent
	}
	if err != nil {
		return nil, err
	}
	defer conn.close()
	answers, err := conn.exchangeBatch(unix.NFNL_SUBSYS_NFTABLES, batch)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errAbsent
	}
	return answers, err
}

const trialName = "kedge-check"

func nftMessage(kind uint16, flags uint16, attributes ...[]byte) message {
	header := []byte{unix.AF_INET, 0, 0, 0} // family, version, resource
	return message{
		kind:  unix.NFNL_SUBSYS_NFTABLES<<8 | kind,
		flags: unix.NLM_F_CREATE | flags,
		body:  join(append([][]byte{header}, attributes...)...),
	}
}

func nftTable() message {
	return nftMessage(unix.NFT_MSG_NEWTABLE, 0, attribute(unix.NFTA_TABLE_NAME, text(trialName)))
}

func nftNATChain() message {
	const postrouting, sourceNAT = 4, 100 // the hook, the usual priority on it
	return nftMessage(unix.NFT_MSG_NEWCHAIN, 0,
		attribute(unix.NFTA_CHAIN_TABLE, text(trialName)),
		attribute(unix.NFTA_CHAIN_NAME, text("nat")),
		attribute(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED,
			attribute(unix.NFTA_HOOK_HOOKNUM, big32(postrouting)),
			attribute(unix.NFTA_HOOK_PRIORITY, big32(sourceNAT))),
		attribute(unix.NFTA_CHAIN_TYPE, text("nat")),
	)
}

func nftPlainChain() message {
	return nftMessage(unix.NFT_MSG_NEWCHAIN, 0,
		attribute(unix.NFTA_CHAIN_TABLE, text(trialName)),
		attribute(unix.NFTA_CHAIN_NAME, text("plain")),
	)
}

func nftRule(expression string) message {
	return nftMessage(unix.NFT_MSG_NEWRULE, unix.NLM_F_APPEND,
		attribute(unix.NFTA_RULE_TABLE, text(trialName)),
		attribute(unix.NFTA_RULE_CHAIN, text("plain")),
		attribute(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED,
			attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED,
				attribute(unix.NFTA_EXPR_NAME, text(expression)),
				attribute(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED))),
	)
}

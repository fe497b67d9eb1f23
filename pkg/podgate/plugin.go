package podgate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Config is the plugin's part of a CNI configuration.
type Config struct {
	types.NetConf
	Socket string `json:"socket"`
}

// podArgs are what a container runtime says of the pod.
type podArgs struct {
	types.CommonArgs
	K8S_POD_UID types.UnmarshallableString //nolint:revive,staticcheck // the runtime's spelling
}

// Main is the plugin's main function, see
// https://www.cni.dev/docs/spec/#section-2-execution-protocol
func Main() {
	nothing := func(*skel.CmdArgs) error { return nil }
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: nothing, Check: nothing, GC: nothing, Status: nothing},
		version.All, "Kedge's gate: a pod's containers start when the node is ready for its addresses")
}

func add(args *skel.CmdArgs) error {
	config, result, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	var pod podArgs
	if err := types.LoadArgs("IgnoreUnknown=true;"+args.Args, &pod); err != nil {
		return fmt.Errorf("read the arguments of the pod: %w", err)
	}
	if pod.K8S_POD_UID != "" {
		if err := ask(config.Socket, Pod{UID: string(pod.K8S_POD_UID), Addresses: addresses(result)}); err != nil {
			return err
		}
	}
	return types.PrintResult(result, config.CNIVersion)
}

func parse(stdin []byte) (*Config, *current.Result, error) {
	config := &Config{}
	if err := json.Unmarshal(stdin, config); err != nil {
		return nil, nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	if config.Socket == "" {
		return nil, nil, errors.New("the CNI configuration names no socket")
	}
	if err := version.ParsePrevResult(&config.NetConf); err != nil {
		return nil, nil, fmt.Errorf("read the result of the plugins before: %w", err)
	}
	if config.PrevResult == nil {
		return nil, nil, fmt.Errorf("%s has to stand behind another plugin", PluginType)
	}
	result, err := current.NewResultFromResult(config.PrevResult)
	return config, result, err
}

// addresses are those of the pod's own interfaces.
func addresses(result *current.Result) []netip.Addr {
	var found []netip.Addr
	for _, ip := range result.IPs {
		if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			found = append(found, address.Unmap())
		}
	}
	return found
}

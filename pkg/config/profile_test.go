package config

import (
	"strings"
	"testing"
)

func TestProfile(t *testing.T) {
	s, err := load(t, nil, nil, Flags{"profile": {"cis"}})
	if err != nil || !s.Node.ProtectKernelDefaults {
		t.Errorf("--profile=cis gives %+v, %v", s, err)
	}
	for flag, value := range map[string]string{
		"secrets-encryption": "false", "enable-pprof": "true", "disable-network-policy": "true", "write-kubeconfig-mode": "0640",
	} {
		_, err := load(t, nil, nil, Flags{"profile": {"cis"}, flag: {value}})
		if err == nil || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), "profile cis") {
			t.Errorf("--%s=%s: %v", flag, value, err)
		}
	}
	if _, err := load(t, nil, nil, Flags{"profile": {"cis"}, "disable-agent": {"true"}}); err != nil {
		t.Errorf("a control plane alone: %v", err)
	}
	if _, err := load(t, nil, nil, Flags{"profile": {"cia"}}); err == nil || !strings.Contains(err.Error(), "cis") {
		t.Errorf("another profile: %v", err)
	}
}

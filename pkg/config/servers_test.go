package config

import (
	"maps"
	"strings"
	"testing"
)

func TestClusterReset(t *testing.T) {
	s, err := loadServer(Flags{"cluster-reset": {"true"}, "cluster-reset-restore-path": {"/backup/one.tar"}, "server": {"https://other:6443"}}, nil, "none", hostname)
	if err != nil || !s.Etcd.Reset || s.Etcd.ResetRestorePath != "/backup/one.tar" {
		t.Errorf("%+v, error %v", s, err)
	}
	for _, test := range []struct {
		flags Flags
		want  string
	}{
		{Flags{"cluster-reset-restore-path": {"one"}}, "--cluster-reset-restore-path: has no effect without cluster-reset"},
		{Flags{"cluster-reset": {"true"}, "datastore-endpoint": {"https://a:2379"}}, "--cluster-reset: is for the embedded etcd"},
	} {
		if _, err := loadServer(test.flags, nil, "none", hostname); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%v: error is %v, want %q", test.flags, err, test.want)
		}
	}
}

// TestAgreed wants values that mean the same to be the same text.
func TestAgreed(t *testing.T) {
	load := func(flags Flags) map[string]string {
		s, err := loadServer(flags, nil, "none", hostname)
		if err != nil {
			t.Fatal(err)
		}
		return s.Agreed()
	}
	plain := load(nil)
	if same := load(Flags{"cluster-dns": {"10.43.0.10"}, "flannel-backend": {"vxlan"}, "node-name": {"other"}, "tls-san": {"x"}}); !maps.Equal(plain, same) {
		t.Errorf("servers that are the same disagree:\n%v\n%v", plain, same)
	}
	if a, b := load(Flags{"disable": {"ingress", "coredns"}}), load(Flags{"disable": {"coredns,ingress,coredns"}}); !maps.Equal(a, b) {
		t.Errorf("the order counts:\n%v\n%v", a, b)
	}
	for option, value := range map[string]string{
		"cluster-cidr": "10.52.0.0/16", "service-cidr": "10.53.0.0/16", "cluster-domain": "other.local", "flannel-backend": "none",
		"disable": "coredns", "disable-network-policy": "true", "egress-selector-mode": "pod", "embedded-registry": "true",
	} {
		if got := load(Flags{option: {value}})[option]; got == plain[option] {
			t.Errorf("%s of %s is %q, as without", option, value, got)
		}
	}
}

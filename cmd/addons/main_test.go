package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test program be the add-ons' program as well.
func TestMain(m *testing.M) {
	if os.Getenv("ADDONS_TEST_AS_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	tests := []struct {
		args string
		name string
		rest string
	}{
		{"/coredns -conf x", "coredns", "/coredns -conf x"},
		{"coredns", "coredns", "coredns"},
		{"/addons coredns -conf x", "coredns", "coredns -conf x"},
		{"addons /coredns", "coredns", "/coredns"},
		{"coredns coredns", "coredns", "coredns coredns"},
	}
	for _, test := range tests {
		name, rest, err := choose(strings.Fields(test.args))
		if err != nil || name != test.name || !slices.Equal(rest, strings.Fields(test.rest)) {
			t.Errorf("%q: got %q, %q, %v; want %q, %q", test.args, name, rest, err, test.name, test.rest)
		}
	}
}

func TestChooseRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"":                     "which add-on? there are: coredns, dashboard, ingress, metrics-server, probe",
		"/addons":              "which add-on? there are: coredns, dashboard, ingress, metrics-server, probe",
		"/addons bind":         `no add-on is called "bind"; there are: coredns, dashboard, ingress, metrics-server, probe`,
		"/addons bind coredns": `no add-on is called "bind"; there are: coredns, dashboard, ingress, metrics-server, probe`,
	} {
		if _, _, err := choose(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", args, err, want)
		}
	}
}

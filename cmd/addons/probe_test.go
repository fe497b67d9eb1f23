package main

import (
	"net"
	"testing"
)

func TestProbe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := listener.Addr().String()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	defer func() { _ = listener.Close() }()
	targets := []string{"dial:" + open, "dial:" + closed.Addr().String(), "name:localhost", "odd:x"}
	found := ask(t.Context(), targets)
	for i, well := range []bool{true, false, true, false} {
		a := found.Answers[i]
		if a.Target != targets[i] || (a.Error == "") != well {
			t.Errorf("%+v, want well: %t", a, well)
		}
	}
	if found.Time.IsZero() || found.Answers[2].Detail == "" {
		t.Errorf("%+v", found)
	}
	if err := runProbe([]string{"dig"}); err == nil {
		t.Error("an unknown command is taken")
	}
}

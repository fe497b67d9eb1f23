// Command etcd is upstream's etcd server, run from a configuration file as etcd
// --config-file runs it. Upstream's own program also holds proxies, whose modules
// nothing else here needs.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument: the configuration file")
	}
	config, err := embed.ConfigFromFile(args[0])
	if err != nil {
		return fmt.Errorf("configuration %s: %w", args[0], err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-stop:
		return nil
	case err := <-server.Err():
		return err
	}
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

// serversGroup is how long a client's writes pause while servers come and go.
const serversGroup = "servers"

const (
	serverCount = 3
	// serverTokenFile is where a server keeps the token for servers.
	serverTokenFile = "/var/lib/kedge/server/token"
	etcdMetrics     = "http://127.0.0.1:2381/metrics"
	// writeMargin is how long is written before and after, so that a pause has an end.
	writeMargin = 3 * time.Second
	// killTime is longer than what the client waits for is given up by any server.
	killTime = 12 * time.Second
	// patience is how long the client waits for an answer. kubectl waits for ever.
	patience = 30 * time.Second
	// writePause is between two writes: the processors are for the servers.
	writePause = 10 * time.Millisecond
)

func serversMetrics() []metric {
	return []metric{
		{"restart-gap", serversGroup, "three servers: writes pause while each is restarted", "s", 2, goal{limit: 3}},
		{"upgrade-gap", serversGroup, "three servers: writes pause while each is upgraded", "s", 2, goal{limit: 3}},
		{"kill-gap", serversGroup, "three servers: writes pause when etcd's leader is killed", "s", 2, goal{limit: 6}},
	}
}

// servers measures three servers, of which two join at the same time.
func (r *run) servers(ctx context.Context) error {
	all := make([]*kedge, serverCount)
	for i := range all {
		host := r.host
		if i > 0 {
			var err error
			if host, err = r.newHost(fmt.Sprintf("%s-%d", r.name, i+1)); err != nil {
				return err
			}
		}
		all[i] = &kedge{host: host, args: []string{"--cluster-init"}}
		if i > 0 {
			all[i].args = []string{"--server", serverURL(all[0].host), "--token-file", joinTokenFile}
			r.nodes = append(r.nodes, all[i])
		}
	}
	r.side = all[0]
	if err := r.step(ctx, "start three servers", func(ctx context.Context) error { return r.startServers(ctx, all) }); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	another := filepath.Join(dir, "kedge")
	if err := anotherFile(r.bench.binary, another); err != nil {
		return fmt.Errorf("make another file of Kedge: %w", err)
	}
	for _, change := range []struct {
		key    string
		change func(context.Context, *kedge) error
	}{
		{"restart-gap", r.restartServer},
		{"upgrade-gap", func(ctx context.Context, k *kedge) error {
			k.host.Binary = another
			return r.restartServer(ctx, k)
		}},
	} {
		err := r.step(ctx, change.key, func(ctx context.Context) error {
			return r.writing(ctx, change.key, all, func(ctx context.Context) error {
				for _, k := range all {
					if err := change.change(ctx, k); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return r.step(ctx, "kill-gap", func(ctx context.Context) error {
		leader, err := etcdLeader(all)
		if err != nil {
			return err
		}
		return r.writing(ctx, "kill-gap", all, func(ctx context.Context) error {
			if err := leader.process.Kill(); err != nil {
				return err
			}
			if err := sleep(ctx, killTime); err != nil {
				return err
			}
			return leader.Start()
		})
	})
}

func (r *run) startServers(ctx context.Context, all []*kedge) error {
	for _, k := range all {
		if err := k.Prepare(ctx); err != nil {
			return err
		}
	}
	r.calm()
	for i, k := range all {
		if i > 0 {
			if err := copyBetween(all[0].host, serverTokenFile, k.host, joinTokenFile); err != nil {
				return err
			}
		}
		if err := k.Start(); err != nil {
			return err
		}
		if i == 0 {
			if err := r.waitServer(ctx, k); err != nil {
				return err
			}
		}
	}
	for _, k := range all[1:] {
		if err := r.waitServer(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// waitServer waits until a server's API is ready and its node is Ready.
func (r *run) waitServer(ctx context.Context, k *kedge) error {
	client, err := connect(ctx, k.host, k)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.WaitReady(ctx); err != nil {
		return err
	}
	return client.WaitObject(ctx, "/api/v1/nodes", k.host.Name, hasCondition("Ready"))
}

// restartServer stops a server and starts it as the service manager does, and
// waits for it, as an administrator does before the next one.
func (r *run) restartServer(ctx context.Context, k *kedge) error {
	took, err := k.Stop(stopLimit)
	if err != nil {
		return err
	}
	stopped := time.Now()
	if err := k.Start(); err != nil {
		return err
	}
	// The node is still taken for Ready.
	if err := r.waitServer(ctx, k); err != nil {
		return err
	}
	r.bench.say("%s: %s stopped in %.2f s, and was ready %.2f s later", r.title, k.host.Name, took.Seconds(), time.Since(stopped).Seconds())
	return nil
}

// etcdLeader is the server whose member of etcd leads.
func etcdLeader(all []*kedge) (*kedge, error) {
	for _, k := range all {
		client := k.host.HTTP()
		client.Timeout = time.Second
		response, err := client.Get(etcdMetrics)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(text), "\netcd_server_is_leader 1\n") {
			return k, nil
		}
	}
	return nil, errors.New("no member of etcd leads")
}

// writing calls do while a client writes, and records the longest pause between
// two acknowledged writes.
func (r *run) writing(ctx context.Context, key string, all []*kedge, do func(context.Context) error) error {
	w := &writer{}
	for _, k := range all {
		client, err := connect(ctx, k.host, k)
		if err != nil {
			return err
		}
		defer client.Close()
		w.servers = append(w.servers, writeTo(client, key))
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); w.write(writing) }()
	err := sleep(ctx, writeMargin)
	if err == nil {
		err = do(ctx)
	}
	if err == nil {
		err = sleep(ctx, writeMargin)
	}
	stop()
	<-ended
	if err != nil {
		return err
	}
	if w.acknowledged == 0 {
		return fmt.Errorf("nothing was written; the last error: %w", w.last)
	}
	r.bench.say("%s: %s, %s; the longest pause began at %s, the last failure in it: %v",
		r.title, plural(w.acknowledged, "write"), plural(w.failed, "failure"), w.longestFrom.Format("15:04:05.000"), w.longestAfter)
	r.record(key, w.longest.Seconds())
	return nil
}

// writer writes to one of several servers all the time, one write after the other,
// and to the next server when one fails: a client with a list of servers.
type writer struct {
	servers []func(ctx context.Context, n int) error // write something with a number

	acknowledged, failed int
	longest              time.Duration // between two acknowledged writes
	longestFrom          time.Time     // when it began
	longestAfter         error         // the last failure in it, if there was one
	last                 error         // failure
}

// write writes until ctx ends. The longest pause may have no end by then.
func (w *writer) write(ctx context.Context) {
	acknowledged := time.Now()
	var failure error
	for i, n := 0, 0; ctx.Err() == nil; n++ {
		patient, cancel := context.WithTimeout(ctx, patience)
		err := w.servers[i%len(w.servers)](patient, n)
		cancel()
		if pause := time.Since(acknowledged); pause > w.longest {
			w.longest, w.longestFrom, w.longestAfter = pause, acknowledged, failure
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			acknowledged, failure = time.Now(), nil
			w.acknowledged++
		} else {
			failure, w.last = err, err
			w.failed++
			i++
		}
		_ = sleep(ctx, writePause)
	}
}

// writeTo makes a server of a writer's: it applies an object with a number.
func writeTo(client *cluster.Client, name string) func(context.Context, int) error {
	return func(ctx context.Context, n int) error {
		return client.Apply(ctx, cluster.Object{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": cluster.Object{"name": name, "namespace": "default"}, "data": cluster.Object{"n": strconv.Itoa(n)},
		})
	}
}

// anotherFile writes a file of Kedge that is another one than the given, with the
// same programs: it unpacks them anew, as an upgrade does.
func anotherFile(from, to string) error {
	file, err := payload.Open(from, from)
	if err != nil {
		return err
	}
	trailer := file.Trailer
	if err := file.Close(); err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	content = content[:trailer.Offset+trailer.Length]
	// A frame that zstd's decoders skip: its number, its length, what it holds.
	content = binary.LittleEndian.AppendUint32(content, 0x184D2A50)
	content = binary.LittleEndian.AppendUint32(content, 7)
	content = append(content, "another"...)
	stored := content[trailer.Offset:]
	trailer.Length, trailer.Sum = int64(len(stored)), sha256.Sum256(stored)
	return os.WriteFile(to, trailer.Append(content), 0o755)
}

package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcdLog takes what etcd logs: what an administrator has to know becomes one
// line of Kedge's, the rest is for debugging. Where etcd would end the process or
// panic, it ends its goroutine and passes the reason on.
type etcdLog struct {
	log   *slog.Logger
	fatal chan error

	mu   sync.Mutex
	told map[string]bool // what is said once
}

func newEtcdLog(log *slog.Logger) *etcdLog {
	return &etcdLog{log: log, fatal: make(chan error, 1), told: map[string]bool{}}
}

func (l *etcdLog) zap() *zap.Logger {
	return zap.New(etcdCore{l, nil}, zap.WithFatalHook(l), zap.WithPanicHook(l))
}

// OnWrite implements zapcore.CheckWriteHook, after a fatal message or a panic.
func (l *etcdLog) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(entry.Message)
	if why := encode(fields)["error"]; why != nil {
		err = fmt.Errorf("%s: %v", entry.Message, why)
	}
	select {
	case l.fatal <- err:
	default: // the first reason counts
	}
	runtime.Goexit()
}

// once says whether something is said for the first time.
func (l *etcdLog) once(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.told[what]
	l.told[what] = true
	return first
}

// again lets something be said again.
func (l *etcdLog) again(what string) (was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = l.told[what]
	delete(l.told, what)
	return was
}

// etcdCore is zap's way to an etcdLog.
type etcdCore struct {
	*etcdLog
	fields []zapcore.Field
}

func (etcdCore) Enabled(level zapcore.Level) bool { return level >= zapcore.InfoLevel }
func (etcdCore) Sync() error                      { return nil }

func (c etcdCore) With(fields []zapcore.Field) zapcore.Core {
	return etcdCore{c.etcdLog, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c etcdCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return checked.AddCore(entry, c)
}

func (c etcdCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := encode(append(c.fields[:len(c.fields):len(c.fields)], fields...))
	switch entry.Message {
	case "slow fdatasync":
		if c.once(entry.Message) {
			c.log.Warn("the disk of the datastore is slow: writes wait for it, and leaders may be lost; a faster disk, or fewer writers on it, helps. This is said once",
				"flush took", values["took"], "expected", values["expected-duration"])
		}
	case "prober found high clock drift":
		if c.once(entry.Message + fmt.Sprint(values["remote-peer-id"])) {
			c.log.Warn("the clocks of this server and another one differ: certificates and leases may end too early; set them, best by NTP. This is said once",
				"member", values["remote-peer-id"], "difference", values["clock-drift"])
		}
	case "peer became inactive (message send to peer failed)":
		// A connection that is made anew, or a member that does not know this one yet,
		// is nothing to worry about.
		why := fmt.Sprint(values["error"])
		if strings.Contains(why, "context canceled") || strings.Contains(why, "failed to find local node") {
			break
		}
		if c.once(inactive + fmt.Sprint(values["peer-id"])) {
			c.log.Warn("a member of etcd does not answer", "id", values["peer-id"], "err", why)
		}
	case "peer became active":
		if c.again(inactive + fmt.Sprint(values["peer-id"])) {
			c.log.Info("a member of etcd answers again", "id", values["peer-id"])
		}
	default:
		level := slog.LevelDebug
		if entry.Level >= zapcore.DPanicLevel {
			level = slog.LevelError
		}
		args := make([]any, 0, 2*len(values))
		for name, value := range values {
			args = append(args, name, value)
		}
		c.log.Log(context.Background(), level, "etcd: "+entry.Message, args...)
	}
	return nil
}

const inactive = "inactive:"

// encode is the fields' values by name.
func encode(fields []zapcore.Field) map[string]any {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	for name, value := range encoder.Fields {
		if d, ok := value.(time.Duration); ok {
			encoder.Fields[name] = d.Round(time.Millisecond)
		}
	}
	return encoder.Fields
}

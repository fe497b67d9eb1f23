package registries

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// settle is how long a file is left alone after a change: editors write more than
// once.
const settle = 500 * time.Millisecond

// Live is what the file says now, as a component: it reads the file when that
// changes. What can't be used is logged and changes nothing.
type Live struct {
	path string
	dir  string // of hosts.toml files
	log  *slog.Logger
	now  atomic.Pointer[Config]
	run  component.Runner
	// MirrorsOnly has a registry that the file names in mirrors never asked itself,
	// unless it is an endpoint. It is set before Start.
	MirrorsOnly bool
}

// NewLive begins with what the file at path said, and keeps the directory as
// Config.Write does.
func NewLive(c Config, path, dir string, log *slog.Logger) *Live {
	l := &Live{path: path, dir: dir, log: log.With("component", "registries")}
	l.now.Store(&c)
	return l
}

func (*Live) Name() string                     { return "registries" }
func (*Live) Needs() []string                  { return []string{"containerd"} }
func (l *Live) Stop(ctx context.Context) error { return l.run.Stop(ctx) }
func (l *Live) Failed() <-chan error           { return l.run.Failed() }

// Config is what the file says.
func (l *Live) Config() Config { return *l.now.Load() }

// Shares says that the file names a registry in mirrors, so that nodes give each
// other its images.
func (l *Live) Shares(registry string) bool { return l.Config().shares(registry) }

// Check refuses what Write would; see Config.Check.
func (l *Live) Check() error { return l.Config().Check(l.dir) }

// Write writes the directory.
func (l *Live) Write() error { return l.Config().Write(l.dir) }

// Start watches the file. Without, its changes count from the next start on.
func (l *Live) Start(context.Context) error {
	watcher, err := watchDir(filepath.Dir(l.path))
	if err != nil {
		l.log.Warn("changes of the registries need a restart: their file can't be watched", "path", l.path, "err", err)
	}
	l.run.Run(func(ctx context.Context) error {
		if watcher != nil {
			defer func() { _ = watcher.Close() }()
			l.watch(ctx, watcher)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

// watchDir watches a directory: a file that is replaced would be lost. The
// directory is made, because the file may come later.
func watchDir(path string) (*fsnotify.Watcher, error) {
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // as /etc
		return nil, err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := watcher.Add(path); err != nil {
		return nil, errors.Join(err, watcher.Close())
	}
	return watcher, nil
}

func (l *Live) watch(ctx context.Context, watcher *fsnotify.Watcher) {
	changed := time.NewTimer(0) // it may have changed since it was read
	defer changed.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-watcher.Events:
			if !ok {
				return
			}
			if filepath.Base(event.Name) == filepath.Base(l.path) {
				changed.Reset(settle)
			}
		case err := <-watcher.Errors: // events may be missing
			l.log.Debug("watching the file of registries", "err", err)
			changed.Reset(settle)
		case <-changed.C:
			l.reload()
		}
	}
}

func (l *Live) reload() {
	c, err := Load(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = Config{}, nil
	}
	if err == nil && bytes.Equal(c.content, l.Config().content) {
		return
	}
	if err == nil {
		err = c.Write(l.dir)
	}
	if err != nil {
		l.log.Warn("the changed file of registries can't be used; they stay as they were", "err", err)
		return
	}
	l.now.Store(&c)
	l.log.Info("the changed file of registries is in use", "path", l.path)
}

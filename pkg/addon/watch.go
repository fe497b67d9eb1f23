package addon

import (
	"log/slog"

	"github.com/fsnotify/fsnotify"
)

// watcher tells of changes in a tree of directories.
type watcher struct {
	notify  *fsnotify.Watcher // nil: the kernel gives no more
	changed chan struct{}
	blind   error // why changes may go unnoticed
	log     *slog.Logger
}

func newWatcher(log *slog.Logger) *watcher {
	w := &watcher{changed: make(chan struct{}, 1), log: log}
	if w.notify, w.blind = fsnotify.NewWatcher(); w.blind != nil {
		w.complain()
	}
	return w
}

// add watches a directory, once.
func (w *watcher) add(dir string) {
	if w.notify == nil {
		return
	}
	if err := w.notify.Add(dir); err != nil && w.blind == nil {
		w.blind = err
		w.complain()
	}
}

func (w *watcher) complain() {
	w.log.Warn("the directory of manifests can't be watched and is looked at from time to time; raise fs.inotify.max_user_watches and max_user_instances",
		"every", blindInterval, "err", w.blind)
}

// run passes on that something has changed, until close.
func (w *watcher) run() {
	if w.notify == nil {
		return
	}
	for {
		select {
		case event, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if event.Op == fsnotify.Chmod {
				continue
			}
		case _, ok := <-w.notify.Errors: // some events are lost
			if !ok {
				return
			}
		}
		select {
		case w.changed <- struct{}{}:
		default: // it is known already
		}
	}
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

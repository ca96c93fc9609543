package main

import (
	"cmp"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"sluice/configs"
)

// When a changed configuration is looked at. An editor or a ConfigMap makes several
// events of one change: settleQuiet after the last of them, but at most settleMax
// after the first. Events do not come from every file system, and a watch ends with
// its folder, so the files are looked at every lookAgain, too.
const (
	settleQuiet = 250 * time.Millisecond
	settleMax   = 2 * time.Second
	lookAgain   = 30 * time.Second
)

// keepConfig reads the configuration again whenever it may have changed, until ctx
// is done: after SIGHUP, events in the folders of its files, and from time to time.
func (a *agent) keepConfig(ctx context.Context, hangup <-chan os.Signal) {
	w := newFolderWatch(a)
	defer w.close()
	poll := time.NewTicker(lookAgain)
	defer poll.Stop()
	var first time.Time // event of a change that is not settled yet
	settled := time.NewTimer(lookAgain)
	settled.Stop()
	for {
		w.follow()
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			a.supervisor.reloading()
			a.reload(true)
			a.supervisor.ready()
			first = time.Time{}
		case <-poll.C:
			if first.IsZero() {
				a.reload(false)
			}
		case <-settled.C:
			a.reload(false)
			first = time.Time{}
		case e := <-w.events():
			if !w.concerns(e.Name) {
				continue
			}
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			settled.Reset(min(settleQuiet, first.Add(settleMax).Sub(now)))
		case err := <-w.errors():
			a.log.Debug("watching for changes of the configuration", "error", err)
		}
	}
}

// catchHangup keeps a SIGHUP from ending the daemon, until stop is called.
func catchHangup() (hangup chan os.Signal, stop func()) {
	hangup = make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return hangup, func() { signal.Stop(hangup) }
}

// needRestart are keys that a running agent cannot change: windows would have to
// be carried from one spool to the other, and loggers are handed on everywhere.
var needRestart = []string{"spool.dir", "log.format"}

// reload reads the configuration and puts it into effect if it is another one than
// the one that was read last. One that is at fault is refused as a whole.
func (a *agent) reload(asked bool) {
	running := a.now()
	// A file that was there once does not give way to the defaults: it may be in
	// the middle of being replaced.
	cfg, err := loadConfig(cmp.Or(a.file, running.config.File))
	if err != nil {
		a.refuse(err, asked)
		return
	}
	changes := configs.Diff(running.read, cfg)
	if len(changes) == 0 && running.missing == nil {
		a.accept(asked)
		return
	}
	read := cfg
	cfg.Spool.Dir, cfg.Log.Format = running.config.Spool.Dir, running.config.Log.Format
	c, err := a.prepare(cfg)
	if err != nil {
		a.refuse(err, asked)
		return
	}
	c.read = read
	a.commit(c)
	restart := slices.DeleteFunc(configs.Diff(cfg, read), func(key string) bool { return !slices.Contains(needRestart, key) })
	a.mu.Lock()
	a.refused, a.restart, a.reloads = "", restart, a.reloads+1
	missing := a.missing
	a.mu.Unlock()
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	if len(changes) > 0 {
		a.log.Info("the configuration has changed and is in effect", "changed", strings.Join(changes, " "))
	}
	if len(restart) > 0 {
		a.log.Warn("restart the agent to apply what cannot change while it runs", "keys", strings.Join(restart, " "))
	}
	if missing != nil {
		a.log.Error("a socket could not be opened; it is tried again", "error", missing)
	}
}

// refuse tells, once, why the configuration is not put into effect.
func (a *agent) refuse(err error, asked bool) {
	a.mu.Lock()
	again := a.refused == err.Error()
	a.refused = err.Error()
	if !again || asked {
		a.refusals++
	}
	a.mu.Unlock()
	if again && !asked {
		return
	}
	faults := strings.Split(err.Error(), "\n")
	a.log.Error("the configuration is refused; the one before stays in effect", "faults", len(faults))
	for _, text := range faults {
		a.log.Error("fault in the configuration", "fault", text)
	}
}

// accept notes that the file says what is in effect.
func (a *agent) accept(asked bool) {
	a.mu.Lock()
	was := a.refused
	a.refused = ""
	a.mu.Unlock()
	if asked || was != "" {
		a.log.Info("the configuration is as it was")
	}
}

// A folderWatch tells of events in the folders of the configuration, and of the
// key files it names. Not of the files: an editor and a ConfigMap replace them,
// and a watch would follow the old one.
type folderWatch struct {
	agent   *agent
	watcher *fsnotify.Watcher // nil if the system has none to give
	names   []string          // of files that events may be about
	failed  map[string]bool   // folders that cannot be watched, told already
}

func newFolderWatch(a *agent) *folderWatch {
	w := &folderWatch{agent: a, failed: map[string]bool{}}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		a.log.Warn("changes of the configuration are not watched for, only looked for from time to time", "every", lookAgain, "error", err)
	}
	return w
}

func (w *folderWatch) close() {
	if w.watcher != nil {
		w.watcher.Close()
	}
}

func (w *folderWatch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *folderWatch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// follow watches the folders of the files that are in effect now, and of those
// that links lead to. A folder that was removed and made again is found again.
func (w *folderWatch) follow() {
	var folders []string
	w.names = w.names[:0]
	for _, file := range w.agent.files() {
		file, err := filepath.Abs(file)
		if err != nil {
			continue
		}
		paths := []string{file}
		if real, err := filepath.EvalSymlinks(file); err == nil && real != file {
			paths = append(paths, real)
		}
		for _, p := range paths {
			folders, w.names = append(folders, filepath.Dir(p)), append(w.names, filepath.Base(p))
		}
	}
	if w.watcher == nil {
		return
	}
	watched := w.watcher.WatchList()
	for _, dir := range watched {
		if !slices.Contains(folders, dir) {
			w.watcher.Remove(dir)
		}
	}
	for _, dir := range folders {
		if slices.Contains(watched, dir) {
			continue
		}
		err := w.watcher.Add(dir)
		if err != nil && !w.failed[dir] {
			w.agent.log.Warn("a folder is not watched for changes, only looked at from time to time", "folder", dir, "every", lookAgain, "error", err)
		}
		w.failed[dir] = err != nil
	}
}

// concerns tells whether an event may be about one of the files. A ConfigMap is
// swapped by renaming ..data, the files' own names never appear.
func (w *folderWatch) concerns(name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, "..") || slices.Contains(w.names, base)
}

// files are those that the configuration is made of: its own, and those it names
// for keys. Where none was named and none is there, the default's folder counts.
func (a *agent) files() []string {
	cfg := a.now().read
	files := []string{cmp.Or(a.file, cfg.File, configs.DefaultPath)}
	if cfg.Listen.HTTPTokenFile != "" {
		files = append(files, cfg.Listen.HTTPTokenFile)
	}
	for _, u := range cfg.Upstreams {
		if u.APIKeyFile != "" {
			files = append(files, u.APIKeyFile)
		}
	}
	return slices.DeleteFunc(files, func(f string) bool {
		_, err := os.Stat(filepath.Dir(f))
		return err != nil && f == configs.DefaultPath
	})
}

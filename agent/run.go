package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
	"sluice/listeners/origin"
	"sluice/spool"
)

func newRun() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "run [--config FILE]",
		Short: "Run the daemon (the default)",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			forbidCore()
			a, err := newAgent(file, cfg, c.ErrOrStderr())
			if err != nil {
				return err
			}
			return a.run(c.Context())
		},
	}
	configFlag(c, &file)
	return c
}

// An agent is the daemon: sockets that feed the aggregator, whose windows go to
// the spool, from which deliveries take them.
type agent struct {
	file    string // of the configuration, as it was named; "" is the default
	log     *slog.Logger
	level   *slog.LevelVar
	started time.Time
	first   *change // made by newAgent, put into effect by run

	inherited  []inherited // sockets that systemd has opened
	supervisor supervisor

	rules      listeners.Rules
	origins    *origin.Table // where samples come from
	aggregator *aggregator.Aggregator
	spool      *spool.Spool
	tails      tails                        // who watches samples arrive
	api        *listeners.API               // takes what comes over HTTP
	conns      *listeners.ConnLimit         // of all its listeners
	passing    *http.Transport              // of calls that are passed on to upstreams
	routes     http.Handler                 // of the local API
	guarded    atomic.Pointer[http.Handler] // the same behind the guard of now

	fatal      chan error      // a part that ended by itself
	abort      context.Context // done when deliveries are to end at once
	giveUp     context.CancelFunc
	delivering sync.WaitGroup

	stopping atomic.Bool
	windows  atomic.Uint64               // closed since the start
	parts    atomic.Uint64               // of windows, encoded since the start
	sizes    atomic.Pointer[[]metricDoc] // of the metrics in the last live window
	exposed  exposed                     // what Prometheus is shown of what programs sent
	asking   chan struct{}               // holds one while the tags of a metric are counted
	reads    diskReads                   // by whoever asks over HTTP

	garbage int        // what the collector was told last; owned by closeWindows
	own     ownMetrics // owned by keepOwn, but for its counts

	early     atomic.Uint64 // windows closed before their time
	toldEarly time.Time     // when that was logged last; owned by rotate

	folded map[string]bool // metrics that were told of; owned by closeWindows

	unanswered chan struct{} // closed when the disk, which was not waited for, has answered; nil if it has; owned by closeWindows, in the end by run

	mu sync.Mutex // guards the fields below
	view
	loaded   time.Time  // when the configuration was put into effect
	tried    []endpoint // that were opened, or are not there and need not be
	leaving  []*delivery
	refused  string   // why the file as it is now is not in effect
	restart  []string // keys that only a restart can change
	reloads  uint64
	refusals uint64
}

// A view is what is in effect at one moment.
type view struct {
	config     configs.Config
	read       configs.Config // the same, as the file has it
	sockets    []*socket
	deliveries []*delivery
	missing    error // sockets that should be open and are not
}

// now tells what is in effect now. The slices are not changed afterwards.
func (a *agent) now() view {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.view
}

// newAgent opens the sockets. It starts nothing. The error is one line for
// whoever started the daemon.
func newAgent(file string, cfg configs.Config, logTo io.Writer) (*agent, error) {
	a := &agent{file: file, level: new(slog.LevelVar), started: time.Now(), fatal: make(chan error, 1),
		asking: make(chan struct{}, 1), reads: make(diskReads, maxReads), own: ownMetrics{wake: make(chan struct{}, 1)}}
	a.level.UnmarshalText([]byte(cfg.Log.Level))
	a.log = newLogger(logTo, cfg.Log.Format, a.level)
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	a.origins = origin.New(a.log)
	a.abort, a.giveUp = context.WithCancel(context.Background())
	a.aggregator = aggregator.New(aggregatorOptions(cfg.Aggregate), a.started)
	a.conns = listeners.NewConnLimit(listeners.MaxConns, listeners.MaxConnsOfPeer)
	a.passing = newPassing()
	a.api = listeners.NewAPI(listeners.APIOptions{Name: "http", Rules: &a.rules, Version: version,
		Provision: http.HandlerFunc(a.provision), Pulse: http.HandlerFunc(a.passPulse), DataCat: a.dataCat, Log: a.log})
	a.tails.stopped = make(chan struct{})
	a.routes = a.newRoutes()
	a.spool = spool.New(spool.Options{
		Dir:       cfg.Spool.Dir,
		MaxBytes:  int64(cfg.Spool.MaxBytes),
		Retention: max(cfg.Spool.Retention, 1), // 0 would be its default
		Machine:   machineID(),
		Coarsen: func(windows [][][]byte) (parts [][]byte, samples, series [spool.Kinds]uint64, err error) {
			return aggregator.Coarsen(a.now().config.Aggregate.MaxSetMembers, windows)
		},
		Log: a.log,
	})
	var err error
	if a.inherited, err = inheritSockets(); err != nil {
		return nil, err
	}
	a.first, err = a.prepare(cfg)
	return a, err
}

// run works until ctx is done and then stops in the direction of the data:
// sockets are closed to new data, readers empty what the kernel has accepted,
// the last window is closed and stored, deliveries send what they can within
// shutdown_timeout, the spool is closed. Everything that was not delivered is
// on disk by then. Sockets that systemd keeps open go on filling up, and the next
// agent reads what is in them: so they are read while deliveries end, and between
// the last read and the end of the process there is no more than one window to
// store. A disk that does not answer holds all this up for diskGrace only. Starting is putting a first configuration into effect;
// keepConfig does the same again with each that follows.
func (a *agent) run(ctx context.Context) error {
	hangup, ignore := catchHangup()
	defer ignore()
	defer a.giveUp()
	a.commit(a.first)

	keepers, stopKeepers := context.WithCancel(context.Background())
	defer stopKeepers()
	var keeping, watching, rotating sync.WaitGroup
	keeping.Go(func() { a.keepSpool(keepers) })
	rotator, stopRotator := context.WithCancel(context.Background())
	defer stopRotator()
	rotating.Go(func() { a.rotate(rotator) })
	rotating.Go(func() { a.keepOwn(rotator) })
	a.sayHello()
	watching.Go(func() { a.keepConfig(ctx, hangup) })
	keeping.Go(func() { a.keepSupervisor(keepers) })
	keeping.Go(func() { a.origins.Run(keepers) })

	var failed error
	select {
	case <-ctx.Done():
		a.log.Info("stopping")
	case failed = <-a.fatal:
		a.log.Error("stopping, for a part has ended", "error", failed)
	}
	a.stopping.Store(true)
	a.tails.stop()
	a.supervisor.stopping()
	timeout := a.now().config.ShutdownTimeout
	deadline := time.AfterFunc(timeout, a.giveUp)
	defer deadline.Stop()

	ended := make(chan error, 1)
	go func() {
		watching.Wait()
		last := a.now()
		packets := ofKind(last.sockets, true)
		end(thoseInherited(packets, false))
		if inherited := thoseInherited(packets, true); len(inherited) > 0 {
			a.finish(last.deliveries)
			end(inherited)
		}
		a.api.Stop()
		stopRotator()
		rotating.Wait()
		a.closeWindows(time.Now())
		stopKeepers()
		keeping.Wait()
		a.storeLast()
		a.finish(last.deliveries)
		end(ofKind(last.sockets, false))
		a.passing.CloseIdleConnections()
		waiting := a.waiting()
		err := a.spool.Close()
		a.sayGoodbye(waiting)
		ended <- err
	}()
	return errors.Join(failed, a.await(ended, timeout))
}

// finish lets deliveries send what they have in hand, and waits for that.
func (a *agent) finish(deliveries []*delivery) {
	for _, d := range deliveries {
		d.stop()
	}
	a.delivering.Wait()
}

// rotate closes windows at their ends until ctx is done. The wall clock says
// when; should it be set back, a window still lasts no longer than it should.
func (a *agent) rotate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(time.Until(a.aggregator.Ends()), a.aggregator.Interval())):
			if left := time.Until(a.aggregator.Ends()); left > 0 && left < slowed {
				continue
			}
			a.closeWindows(time.Now())
		case <-a.aggregator.Crowded(): // half a million series can come between two windows
			a.tuneCollector()
		case <-a.aggregator.Pressed():
			a.tellPressed(time.Now())
			a.closeWindows(time.Now())
		}
	}
}

// slowed is how far the wall clock may be behind the time that has passed without having
// been set back: adjtimex(2) slows it by at most a tenth, of a window of a few seconds.
const slowed = time.Second

// tellPressed logs, at most once a minute, that a window is closed before its
// time. It costs a record and nothing else.
func (a *agent) tellPressed(now time.Time) {
	if a.early.Add(1); now.Sub(a.toldEarly) < time.Minute {
		return
	}
	a.toldEarly = now
	s := a.aggregator.Stats()
	a.log.Warn("values take much memory: windows are closed before their time (see aggregate.max_series)",
		"bytes", s.Memory, "limit", s.MemoryLimit, "series", s.Series)
}

// closeWindows takes what the aggregator has collected and stores it.
func (a *agent) closeWindows(now time.Time) {
	windows := a.aggregator.Rotate(now)
	a.tuneCollector()
	if len(windows) == 0 {
		return
	}
	stats := a.aggregator.Stats()
	var waiting []*aggregator.Window
	bytes := 0
	for _, w := range windows {
		m := spool.Meta{ID: w.ID, Start: w.Start, Width: w.Width, Absent: w.Absent,
			Flags: w.Flags(), Samples: w.Samples, Series: w.Series, Accepted: stats.Accepted}
		a.noteSizes(w)
		a.exposed.add(w, now)
		if !slight(w) {
			a.store(now, m, w)
			continue
		}
		n, err := a.remember(now, m, w)
		if err != nil {
			a.tellStored(w, 0, err)
			w.Release()
			continue
		}
		waiting = append(waiting, w)
		if bytes += n; bytes >= waitingBytes {
			a.flush(now, waiting)
			waiting, bytes = nil, 0
		}
	}
	if len(waiting) > 0 {
		a.flush(now, waiting)
	}
	a.tellFolded(stats.Folded)
	a.wakeDeliveries()
}

// tellStored is about a window that is in the spool, or not.
func (a *agent) tellStored(w *aggregator.Window, seq uint64, err error) {
	if err != nil {
		a.log.Error("a window could not be stored", "start", w.Start, "error", err)
	}
	a.tellWindow(w, seq)
}

// tellWindow logs the first window, which tells whoever tries sluice that it
// works, and leaves the others to the level debug.
func (a *agent) tellWindow(w *aggregator.Window, seq uint64) {
	level, text := slog.LevelDebug, "window closed"
	if a.windows.Add(1) == 1 {
		level, text = slog.LevelInfo, "first window closed"
	}
	if !a.log.Enabled(context.Background(), level) {
		return
	}
	args := []any{"start", w.Start.Format(time.RFC3339Nano), "sequence", seq, "series", w.Len(), "metrics", strings.Join(w.Examples(3), " ")}
	for kind, n := range w.Samples {
		if n > 0 {
			args = append(args, aggregator.Kind(kind).String(), n)
		}
	}
	a.log.Log(context.Background(), level, text, args...)
}

// tellFolded logs each metric once, when its new series begin to be folded.
func (a *agent) tellFolded(folded []aggregator.Folded) {
	now := make(map[string]bool, len(folded))
	for _, f := range folded {
		key := f.Kind.String() + " " + f.Metric
		if now[key] = true; !a.folded[key] {
			if f.Metric == aggregator.FoldedValue {
				a.log.Warn("too many metrics: new ones, or their tags, are folded into "+aggregator.FoldedValue+" (see aggregate.max_series)",
					"kind", f.Kind.String(), "examples", strings.Join(f.Examples, " "), "sender", f.Sender)
				continue
			}
			a.log.Warn("too many series: new ones of a metric are folded into "+aggregator.FoldedValue+" (see aggregate.max_series)",
				"metric", f.Metric, "kind", f.Kind.String(), "tag", f.Tag, "examples", strings.Join(f.Examples, " "), "sender", f.Sender)
		}
	}
	a.folded = now
}

func (a *agent) wakeDeliveries() {
	for _, d := range a.now().deliveries {
		d.wake()
	}
}

// sayHello tells, once, where the agent listens and what it does with what it
// gets.
func (a *agent) sayHello() {
	now := a.now()
	var at []string
	for _, s := range now.sockets {
		at = append(at, s.name)
	}
	a.log.Info("sluice "+version+" is ready", "listen", strings.Join(at, " "), "interval", now.config.Aggregate.Interval,
		"spool", now.config.Spool.Dir, "config", now.config.File)
	for _, u := range now.config.Upstreams {
		a.log.Info("delivering", "upstream", u.Name, "url", u.URL, "budget", fmt.Sprintf("%d requests a minute of %d items", u.RequestsPerMinute, u.ItemsPerRequest))
	}
	packets := ofKind(now.sockets, true)
	if len(now.config.Upstreams) > 0 || len(packets) == 0 {
		return
	}
	host, port, err := net.SplitHostPort(packets[0].packet.Addr())
	if _, bad := strconv.Atoi(port); err != nil || bad != nil {
		a.log.Info("no upstream is configured, so metrics stay on this host; set FLUX_API_KEY to deliver them to Flux")
		return
	}
	a.log.Info(fmt.Sprintf("no upstream is configured, so metrics stay on this host; try: printf 'api.requests:1|c' | nc -u -w1 %s %s - and set FLUX_API_KEY to deliver to Flux", host, port))
}

// waiting counts the samples on disk that some upstream is owed, for each
// upstream.
func (a *agent) waiting() (samples uint64) {
	for _, d := range a.now().deliveries {
		l := d.box.Ledger()
		for k := range l.Pending {
			samples += l.Pending[k].Samples + l.Queued[k].Samples + l.Sending[k].Samples + l.InDoubt[k].Samples
		}
	}
	return samples
}

// sayGoodbye tells what became of everything that was accepted.
func (a *agent) sayGoodbye(waiting uint64) {
	var accepted uint64
	for _, n := range a.aggregator.Stats().Accepted {
		accepted += n
	}
	a.log.Info("stopped", "uptime", time.Since(a.started).Round(time.Second),
		"accepted", accepted, "windows", a.windows.Load(), "waiting_on_disk", waiting)
}

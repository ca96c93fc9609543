package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/forwarder"
	"sluice/listeners"
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
			a, err := newAgent(cfg, newLogger(c.ErrOrStderr(), cfg.Log))
			if err != nil {
				return err
			}
			return a.run(c.Context())
		},
	}
	configFlag(c, &file)
	return c
}

// An agent is the daemon: listeners that feed the aggregator, whose windows go
// to the spool, from which forwarders deliver.
type agent struct {
	config  configs.Config
	log     *slog.Logger
	started time.Time

	packets    []*listeners.Packet
	http       []net.Listener
	aggregator *aggregator.Aggregator
	spool      *spool.Spool
	forwarders []*forwarder.Forwarder

	stopping atomic.Bool
	windows  atomic.Uint64 // closed since the start

	folded map[string]bool // metrics that were told of; owned by closeWindows
}

// newAgent opens the sockets. It starts nothing. The error is one line for
// whoever started the daemon.
func newAgent(cfg configs.Config, log *slog.Logger) (_ *agent, err error) {
	a := &agent{config: cfg, log: log, started: time.Now()}
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	defer func() {
		if err != nil {
			a.closeSockets()
		}
	}()
	if err := a.listen(); err != nil {
		return nil, err
	}
	a.aggregator = aggregator.New(aggregator.Options{
		Interval:           cfg.Aggregate.Interval,
		MaxLateness:        cfg.Aggregate.MaxLateness,
		MaxSeries:          cfg.Aggregate.MaxSeries,
		MaxSeriesPerMetric: cfg.Aggregate.MaxSeriesPerMetric,
		MaxSetMembers:      cfg.Aggregate.MaxSetMembers,
		NegativeDelta:      cfg.Aggregate.NegativeGauges == "delta",
	}, a.started)
	a.spool = spool.New(spool.Options{
		Dir:       cfg.Spool.Dir,
		MaxBytes:  int64(cfg.Spool.MaxBytes),
		Retention: max(cfg.Spool.Retention, 1), // 0 would be its default
		Log:       log,
	})
	for _, u := range cfg.Upstreams {
		a.forwarders = append(a.forwarders, forwarder.New(forwarderOptions(u, cfg, log), a.spool))
	}
	return a, nil
}

func (a *agent) closeSockets() {
	for _, p := range a.packets {
		p.Close()
	}
	for _, l := range a.http {
		l.Close()
	}
}

// listen opens every socket of the configuration. Clients resolve localhost to
// 127.0.0.1 or ::1, so an address on the former is opened on the latter, too,
// where the host has it.
func (a *agent) listen() error {
	l := a.config.Listen
	naming, err := naming(a.config.Aggregate)
	if err != nil {
		return err
	}
	o := listeners.PacketOptions{ReceiveBuffer: int(l.ReceiveBuffer), Readers: l.Readers, Naming: naming, Log: a.log}
	for _, addr := range l.UDP {
		p, err := listeners.ListenUDP(addr, o)
		if err != nil {
			return err
		}
		a.packets = append(a.packets, p)
		if v6, ok := onIPv6(addr); ok {
			if p, err := listeners.ListenUDP(v6, o); err != nil {
				a.log.Warn("not on IPv6", "error", err)
			} else {
				a.packets = append(a.packets, p)
			}
		}
	}
	for _, s := range l.Unixgram {
		p, err := listeners.ListenUnixgram(s.Path, s.Mode, s.Group, o)
		if err != nil {
			return err
		}
		a.packets = append(a.packets, p)
	}
	if l.HTTP == "" {
		return nil
	}
	h, err := net.Listen("tcp", l.HTTP)
	if err != nil {
		return fmt.Errorf("listen http %s: %w (set listen.http, or \"\" to turn it off)", l.HTTP, cause(err))
	}
	a.http = append(a.http, newLimitListener(h, maxConnections))
	if v6, ok := onIPv6(l.HTTP); ok {
		if h, err := net.Listen("tcp", v6); err != nil {
			a.log.Warn("not on IPv6", "error", fmt.Errorf("listen http %s: %w", v6, cause(err)))
		} else {
			a.http = append(a.http, newLimitListener(h, maxConnections))
		}
	}
	return nil
}

// onIPv6 returns the IPv6 side of an address on 127.0.0.1 with a fixed port.
func onIPv6(addr string) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	return net.JoinHostPort("::1", port), err == nil && (host == "127.0.0.1" || host == "localhost") && port != "0"
}

// cause is the error without what, where and the name of the system call.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

func naming(c configs.Aggregate) (listeners.Naming, error) {
	n := listeners.Naming{TagsInNames: true}
	for k, v := range c.Tags {
		n.Tags = append(n.Tags, aggregator.Tag{Key: k, Value: v})
	}
	host := c.Hostname
	if host == configs.HostnameAuto {
		var err error
		if host, err = os.Hostname(); err != nil {
			return n, fmt.Errorf("aggregate.hostname: auto: %w (write the name instead)", err)
		}
	}
	if host != "" {
		n.Tags = append(n.Tags, aggregator.Tag{Key: "host", Value: host})
	}
	return n, nil
}

func forwarderOptions(u configs.Upstream, cfg configs.Config, log *slog.Logger) forwarder.Options {
	dialect := u.Dialect
	if dialect == "auto" {
		dialect = ""
	}
	return forwarder.Options{
		Name: u.Name, Type: u.Type, URL: u.URL, Key: u.Key.Reveal(), Version: version,
		RequestsPerMinute: u.RequestsPerMinute, ItemsPerRequest: u.ItemsPerRequest, Timeout: u.Timeout,
		Dialect: dialect, Verify: u.Verify == "auto", Resend: u.Unverified == "resend", Settle: u.Settle,
		Points: u.Points, Scalars: u.Scalars, Only: u.Only, Except: u.Except,
		MaxSetMembers: cfg.Aggregate.MaxSetMembers, Interval: cfg.Aggregate.Interval, CatchUp: u.CatchUp, Log: log,
	}
}

// run works until ctx is done and then stops in the direction of the data:
// sockets are closed to new data, readers empty what the kernel has accepted,
// the last window is closed and stored, forwarders deliver what they can within
// shutdown_timeout, the spool is closed. Everything that was not delivered is
// on disk by then.
func (a *agent) run(ctx context.Context) error {
	defer ignoreHangup(a.log)()
	fatal := make(chan error, len(a.packets)+len(a.http)) // a part that ended by itself

	readers, stopReaders := context.WithCancel(context.Background())
	defer stopReaders()
	var reading sync.WaitGroup
	for _, p := range a.packets {
		reading.Go(func() {
			open := func(s aggregator.Spelling) listeners.Sink { return a.aggregator.Intake(s) }
			if err := p.Serve(readers, open); err != nil {
				fatal <- err
			}
		})
	}
	server := a.server()
	var serving sync.WaitGroup
	for _, l := range a.http {
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				fatal <- fmt.Errorf("serve http %s: %w", l.Addr(), err)
			}
		})
	}
	keeper, stopKeeper := context.WithCancel(context.Background())
	defer stopKeeper()
	var keeping sync.WaitGroup
	keeping.Go(func() { a.keepSpool(keeper) })
	rotator, stopRotator := context.WithCancel(context.Background())
	defer stopRotator()
	var rotating sync.WaitGroup
	rotating.Go(func() { a.rotate(rotator) })
	forwarders, stopForwarders := context.WithCancel(context.Background())
	defer stopForwarders()
	abort, abortForwarders := context.WithCancel(context.Background())
	defer abortForwarders()
	var forwarding sync.WaitGroup
	for _, f := range a.forwarders {
		forwarding.Go(func() { f.Run(forwarders, abort) })
	}
	a.sayHello()

	var failed error
	select {
	case <-ctx.Done():
		a.log.Info("stopping")
	case failed = <-fatal:
		a.log.Error("stopping, for a part has ended", "error", failed)
	}
	a.stopping.Store(true)
	deadline := time.AfterFunc(a.config.ShutdownTimeout, abortForwarders)
	defer deadline.Stop()

	stopReaders()
	reading.Wait()
	stopRotator()
	rotating.Wait()
	a.closeWindows(time.Now())
	stopKeeper()
	keeping.Wait()
	a.storeLast()
	stopForwarders()
	forwarding.Wait()
	server.Close()
	serving.Wait()
	waiting := a.waiting()
	err := a.spool.Close()
	a.sayGoodbye(waiting)
	return errors.Join(failed, err)
}

// ignoreHangup keeps a SIGHUP from ending the daemon until stop is called.
func ignoreHangup(log *slog.Logger) (stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	var telling sync.WaitGroup
	telling.Go(func() {
		for range hangup {
			log.Warn("SIGHUP: the configuration is read at start only; restart the agent to apply a change")
		}
	})
	return func() {
		signal.Stop(hangup) // after which nothing is sent any more
		close(hangup)
		telling.Wait()
	}
}

// rotate closes windows at their ends until ctx is done. The wall clock says
// when; should it be set back, a window still lasts no longer than it should.
func (a *agent) rotate(ctx context.Context) {
	for {
		wait := min(time.Until(a.aggregator.Ends()), a.config.Aggregate.Interval)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			a.closeWindows(time.Now())
		}
	}
}

// closeWindows takes what the aggregator has collected and stores it.
func (a *agent) closeWindows(now time.Time) {
	windows := a.aggregator.Rotate(now)
	if len(windows) == 0 {
		return
	}
	stats := a.aggregator.Stats()
	for _, w := range windows {
		m := spool.Meta{ID: w.ID, Start: w.Start, Width: w.Width, Absent: w.Absent,
			Flags: w.Flags(), Samples: w.Samples, Series: w.Series, Accepted: stats.Accepted}
		seq, err := a.spool.Append(now, m, w.Parts())
		if err != nil {
			a.log.Error("a window could not be stored", "start", w.Start, "error", err)
		}
		a.tellWindow(w, seq)
		w.Release()
	}
	a.tellFolded(stats.Folded)
	for _, f := range a.forwarders {
		f.Wake()
	}
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
			a.log.Warn("too many series: new ones of a metric are folded into "+aggregator.FoldedValue+" (see aggregate.max_series)",
				"metric", f.Metric, "kind", f.Kind.String(), "examples", strings.Join(f.Examples, " "))
		}
	}
	a.folded = now
}

// spoolRetry is how often an unusable spool is tried again, and a usable one
// tidied up.
const spoolRetry = 5 * time.Second

// keepSpool opens the spool, as soon as it can be opened, and keeps it in
// order until ctx is done. Until then windows wait in memory.
func (a *agent) keepSpool(ctx context.Context) {
	last := ""
	for {
		var err error
		if a.spool.Attached() {
			err = a.spool.Maintain(time.Now())
		} else if err = a.spool.Attach(ctx, time.Now()); err == nil {
			a.wakeForwarders()
		}
		last = a.tellSpool(err, last)
		select {
		case <-ctx.Done():
			return
		case <-time.After(spoolRetry):
		}
	}
}

// tellSpool logs a change of the spool's health and returns the new one.
func (a *agent) tellSpool(err error, last string) string {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == last:
	case text == "":
		a.log.Info("the spool is in order again", "dir", a.config.Spool.Dir)
	default:
		a.log.Error("windows are kept in memory until the spool can be written (see spool.dir)", "dir", a.config.Spool.Dir, "error", text)
	}
	return text
}

func (a *agent) wakeForwarders() {
	for _, f := range a.forwarders {
		f.Wake()
	}
}

// storeLast makes one more attempt to get windows out of memory onto disk.
// What cannot be written is in the error of the spool's Close.
func (a *agent) storeLast() {
	if a.spool.Attached() {
		a.spool.Maintain(time.Now())
	} else {
		a.spool.Attach(context.Background(), time.Now())
	}
}

// sayHello tells, once, where the agent listens and what it does with what it
// gets.
func (a *agent) sayHello() {
	var at []string
	for _, p := range a.packets {
		at = append(at, p.Name())
	}
	for _, l := range a.http {
		at = append(at, "http:"+l.Addr().String())
	}
	a.log.Info("sluice "+version+" is ready", "listen", strings.Join(at, " "), "interval", a.config.Aggregate.Interval,
		"spool", a.config.Spool.Dir, "config", a.config.File)
	for _, u := range a.config.Upstreams {
		a.log.Info("delivering", "upstream", u.Name, "url", u.URL, "budget", fmt.Sprintf("%d requests a minute of %d items", u.RequestsPerMinute, u.ItemsPerRequest))
	}
	if len(a.config.Upstreams) > 0 || len(a.packets) == 0 {
		return
	}
	host, port, err := net.SplitHostPort(a.packets[0].Addr())
	if _, bad := strconv.Atoi(port); err != nil || bad != nil {
		a.log.Info("no upstream is configured, so metrics stay on this host; set FLUX_API_KEY to deliver them to Flux")
		return
	}
	a.log.Info(fmt.Sprintf("no upstream is configured, so metrics stay on this host; try: printf 'api.requests:1|c' | nc -u -w0 %s %s - and set FLUX_API_KEY to deliver to Flux", host, port))
}

// waiting counts the samples on disk that some upstream is owed, for each
// upstream.
func (a *agent) waiting() (samples uint64) {
	for _, f := range a.forwarders {
		l := a.spool.Outbox(f.Name()).Ledger()
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

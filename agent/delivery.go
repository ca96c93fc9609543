package main

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"sluice/configs"
	"sluice/forwarder"
	"sluice/spool"
)

// A delivery keeps one forwarder running for an upstream. When the upstream's
// options change, the one that runs finishes what it has in hand and another
// takes over where it ended: what is queued, and the requests of the last
// minute, are on disk, so neither is lost or spent twice.
type delivery struct {
	name  string
	spool *spool.Spool
	box   *spool.Outbox // to look at: to ask the spool for it would make the upstream a configured one again
	after <-chan struct{}
	done  chan struct{} // closed when no forwarder runs any more

	mu      sync.Mutex // guards the fields below
	options forwarder.Options
	current *forwarder.Forwarder
	finish  context.CancelFunc // tells current to finish; nil while it does not run
	ending  bool               // nobody takes over
	before  forwarder.Stats    // counters of the forwarders before current
}

// newDelivery makes a delivery that begins when after is closed, which is when
// an earlier one of the same upstream has ended; nil is at once.
func newDelivery(o forwarder.Options, s *spool.Spool, after <-chan struct{}) *delivery {
	return &delivery{name: o.Name, spool: s, box: s.Outbox(o.Name), after: after, done: make(chan struct{}), options: o, current: forwarder.New(o, s)}
}

// run delivers until stop is called, or abort is done, which also ends a
// request under way.
func (d *delivery) run(abort context.Context) {
	defer close(d.done)
	if d.after != nil {
		select {
		case <-d.after:
		case <-abort.Done():
			return
		}
	}
	for again := true; again && abort.Err() == nil; again = d.takeOver() {
		d.mu.Lock()
		f := d.current
		ctx, finish := context.WithCancel(abort)
		if d.finish = finish; d.ending {
			finish()
		}
		d.mu.Unlock()
		f.Run(ctx, abort)
		finish()
	}
}

// takeOver puts a forwarder with the options of now in the place of one that
// has finished, unless that was meant to be the last.
func (d *delivery) takeOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending {
		return false
	}
	d.before = d.addBeforeLocked(d.current.Stats(time.Now()))
	d.current, d.finish = forwarder.New(d.options, d.spool), nil
	return true
}

// addBeforeLocked adds what earlier forwarders have counted.
func (d *delivery) addBeforeLocked(s forwarder.Stats) forwarder.Stats {
	s.Requests += d.before.Requests
	s.Items += d.before.Items
	s.Retries += d.before.Retries
	s.Singles += d.before.Singles
	s.Verified += d.before.Verified
	if s.LastDelivery.IsZero() {
		s.LastDelivery = d.before.LastDelivery
	}
	return s
}

// change lets a forwarder with other options take over; with the same ones it
// does nothing.
func (d *delivery) change(o forwarder.Options) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case reflect.DeepEqual(d.options, o):
		return
	case d.finish == nil: // it has not begun
		d.current = forwarder.New(o, d.spool)
	default:
		d.finish()
	}
	d.options = o
}

// stop lets run return once what is in hand is finished.
func (d *delivery) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ending = true
	if d.finish != nil {
		d.finish()
	}
}

// wake tells that a window was appended.
func (d *delivery) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current.Wake()
}

// stats tells how the upstream is doing, over all forwarders since the start.
func (d *delivery) stats(now time.Time) forwarder.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.addBeforeLocked(d.current.Stats(now))
	if text := outboxHangs(d.spool, now); text != "" { // so the forwarder cannot say it
		s.State, s.LastError = "retrying", text
	}
	return s
}

// outboxHangs says since when outbox.db has not been written; "" while it is.
func outboxHangs(s *spool.Spool, now time.Time) string {
	since := s.Writing()
	if since.IsZero() || now.Sub(since) < answerWithin {
		return ""
	}
	return "outbox.db has not answered since " + since.UTC().Format(time.TimeOnly+"Z")
}

func forwarderOptions(u configs.Upstream, cfg configs.Config, log *slog.Logger) forwarder.Options {
	dialect := u.Dialect
	if dialect == "auto" {
		dialect = ""
	}
	host, _ := os.Hostname() // it is only shown
	return forwarder.Options{
		Host: host, Name: u.Name, Type: u.Type, URL: u.URL, Key: u.Key.Reveal(), Version: version,
		RequestsPerMinute: u.RequestsPerMinute, SinglesPerMinute: u.SingleRequestsPerMinute, ItemsPerRequest: u.ItemsPerRequest, Timeout: u.Timeout,
		Dialect: dialect, Verify: u.Verify == "auto", Resend: u.Unverified == "resend", Settle: u.Settle,
		Points: u.Points, Scalars: u.Scalars, Only: u.Only, Except: u.Except,
		MaxSetMembers: cfg.Aggregate.MaxSetMembers, Interval: cfg.Aggregate.Interval, CatchUp: u.CatchUp, Spread: min(cfg.Aggregate.Interval/2, 5*time.Second), Log: log,
	}
}

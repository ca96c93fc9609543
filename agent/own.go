package main

import (
	"bytes"
	"context"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
)

// The agent's own figures can travel the road of all metrics: once a minute each of
// them is a sample named sluice.*, which programs may not send. So they are stored,
// merged, sent and counted like any other, and cost each upstream an item a minute.
const (
	ownEvery = time.Minute // by the wall clock
	// Of the items that the smallest upstream takes in a minute the figures may be
	// one in ownShare, or ownLeast where that is more.
	ownShare = 50
	ownLeast = 20
)

// ownMetrics is what is kept of them.
type ownMetrics struct {
	intake *aggregator.Intake // nil before the first
	told   time.Time          // minute of the last ones; zero: none since the start, or since they were turned on
	before map[string]uint64  // counters as they were told last, by spelling; nil: turned off

	sent, left atomic.Int64 // figures of the last minute, and those that it had no room for
}

// An ownFigure is one of them: a counter's running total, or a gauge.
type ownFigure struct {
	name    string
	counter bool
	stored  bool // a counter that is kept through restarts
	value   float64
	total   uint64
	tags    []string // keys and values in turn
}

// keepOwn tells the figures once a minute, while that is configured, until ctx is
// done; so it has ended before the last window is closed.
func (a *agent) keepOwn(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	a.own.before = make(map[string]uint64) // all at 0
	for {
		a.tellOwn(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellOwn does so if a minute has begun since. The agent's identity is in the spool:
// before that was opened once, there is nothing to tell agents behind one key apart by.
func (a *agent) tellOwn(now time.Time) {
	o, cfg, id := &a.own, a.now().config, a.spool.Identity()
	if !cfg.Aggregate.OwnMetrics {
		o.before, o.told = nil, time.Time{}
		o.sent.Store(0)
		o.left.Store(0)
		return
	}
	if id == "" || now.Truncate(ownEvery).Equal(o.told) {
		return
	}
	if o.intake == nil {
		o.intake = a.aggregator.Intake(ownSpelling{&a.rules})
		o.intake.From("sluice itself")
	}
	// What was counted before the first time, while it was off or before the start, is
	// not of this minute.
	late := o.before == nil
	if late {
		o.before = make(map[string]uint64)
	}
	first := o.told.IsZero()
	o.told = now.Truncate(ownEvery)
	sent, left, room := 0, 0, ownRoom(cfg.Upstreams)
	for _, f := range a.ownFigures(now) {
		s := aggregator.Sample{Kind: aggregator.Gauge, Head: []byte(f.name), Value: f.value}
		for _, t := range append(f.tags, "agent", id) {
			s.Tags = append(append(s.Tags, t...), 0)
		}
		spelling := f.name + "\x00" + string(s.Tags)
		if f.counter {
			grown := f.total - o.before[spelling]
			if f.total < o.before[spelling] { // of another socket of that name
				grown = f.total
			}
			if first && (late || f.stored) || grown == 0 {
				o.before[spelling] = f.total
				continue
			}
			s.Kind, s.Flags, s.Whole = aggregator.Counter, aggregator.Whole, int64(min(grown, math.MaxInt64))
		}
		batch := []aggregator.Sample{s}
		if sent < room {
			o.intake.Add(now.UnixNano(), batch)
		}
		if sent == room || batch[0].Refused != aggregator.Taken {
			left++
			continue
		}
		sent++
		if f.counter {
			o.before[spelling] = f.total
		}
	}
	o.sent.Store(int64(sent))
	o.left.Store(int64(left))
}

// ownRoom is how many figures fit into their share of the smallest upstream.
func ownRoom(upstreams []configs.Upstream) int {
	room := math.MaxInt
	for _, u := range upstreams {
		room = min(room, u.RequestsPerMinute*u.ItemsPerRequest/ownShare)
	}
	return max(room, ownLeast)
}

// ownSpelling reads what tellOwn wrote. The configuration's tags are added; its
// rules are about the programs' metrics.
type ownSpelling struct{ rules *listeners.Rules }

func (o ownSpelling) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	parts := bytes.Split(s.Tags, []byte{0}) // one more than there are, which is empty
	for i := 0; i+1 < len(parts); i += 2 {
		dst.Tag(parts[i], parts[i+1])
	}
	o.rules.Tag(dst)
	return aggregator.Taken
}

// ownFigures are all of them, those first that are missed most: there may not be
// room for all.
func (a *agent) ownFigures(now time.Time) (list []ownFigure) {
	gauge := func(name string, value float64, tags ...string) {
		list = append(list, ownFigure{name: name, value: value, tags: tags})
	}
	counter := func(name string, total uint64, tags ...string) {
		list = append(list, ownFigure{name: name, counter: true, total: total, tags: tags})
	}
	stats, spooled := a.aggregator.Stats(), a.spool.Stats()
	wrong, _ := a.intakeLedger(stats)["conservation_error"].(int64)
	gauge("sluice.uptime_seconds", now.Sub(a.started).Seconds(), "version", version)
	gauge("sluice.healthy", truth(a.ready().Detail == ""))
	gauge("sluice.conservation_error", float64(wrong))
	gauge("sluice.spool.memory_windows", float64(spooled.MemoryRecords))
	gauge("sluice.spool.bytes", float64(spooled.Bytes))
	gauge("sluice.series", float64(stats.Series))
	gauge("sluice.folded_metrics", float64(len(stats.Folded)))
	for _, d := range a.now().deliveries {
		list = a.ownOfUpstream(list, d, now)
	}
	lost := uint64(0)
	for _, n := range spooled.MemoryDropped {
		lost += n
	}
	counter("sluice.dropped", lost, "reason", "memory_full")
	rejected := make(map[string]uint64)
	for _, s := range a.listenerStats() {
		counter("sluice.kernel_dropped", s.KernelDropped, "listener", s.Name)
		counter("sluice.samples", s.Samples, "listener", s.Name)
		for reason, n := range s.Rejected() {
			rejected[reason] += n
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(rejected)) {
		counter("sluice.rejected", rejected[reason], "reason", reason)
	}
	return list
}

func (a *agent) ownOfUpstream(list []ownFigure, d *delivery, now time.Time) []ownFigure {
	u, sent, books := a.upstreamStatus(d, now), d.stats(now), a.spool.Outbox(d.name).Ledger()
	gauge := func(name string, value float64) {
		list = append(list, ownFigure{name: "sluice.upstream." + name, value: value, tags: []string{"upstream", u.Name}})
	}
	counter := func(name string, total uint64, stored bool, tags ...string) {
		list = append(list, ownFigure{name: "sluice.upstream." + name, counter: true, stored: stored, total: total, tags: append(tags, "upstream", u.Name)})
	}
	oldest := 0.0
	if u.Pending.Oldest != nil {
		oldest = now.Sub(*u.Pending.Oldest).Seconds()
	}
	gauge("ok", truth(u.State == "ok"))
	gauge("oldest_pending_seconds", oldest)
	gauge("width_seconds", u.Width)
	gauge("items_used", float64(u.Budget.ItemsUsed))
	gauge("dead_letters", float64(u.DeadLetters))
	gauge("conservation_error", float64(books.ConservationError))
	for _, reason := range slices.Sorted(maps.Keys(books.Dropped)) {
		total := uint64(0)
		for _, n := range books.Dropped[reason] {
			total += n.Samples
		}
		counter("dropped", total, true, "reason", reason)
	}
	counter("requests", sent.Requests, false)
	counter("retries", sent.Retries, false)
	return list
}

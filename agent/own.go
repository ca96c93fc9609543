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
	before map[ownKey]uint64  // counts as they were told last; nil: turned off
	known  map[any]bool       // those who had counts at the last look

	wake chan struct{} // holds one: the identity, or another configuration, has come

	sent, left atomic.Int64 // figures of the last minute, and those that it had no room for
}

// An ownFigure is one of them: a counter, which grows by what its counts do, or a
// gauge, which has none.
type ownFigure struct {
	name   string
	reason string // a tag, if there is one
	stored bool   // counts are kept through restarts
	value  float64
	counts []ownCount
	tags   []string // other keys and values in turn
}

// An ownCount is the running total of one that counts: a socket, the API of all HTTP
// sockets, a delivery, the spool. Another socket of the same name counts anew.
type ownCount struct {
	of    any
	total uint64
}

// An ownKey says of which figure a count is, and whose.
type ownKey struct {
	name, reason string
	of           any
}

func (f *ownFigure) key(c ownCount) ownKey { return ownKey{f.name, f.reason, c.of} }

// growth is what was counted since it was told last. What is stored, of an upstream
// that was not there at the last look, may be of any time: it is not told.
func (o *ownMetrics) growth(f *ownFigure, late bool) (n uint64) {
	for _, c := range f.counts {
		before := o.before[f.key(c)]
		if late || c.total < before || f.stored && !o.known[c.of] {
			o.before[f.key(c)] = c.total
			continue
		}
		n += c.total - before
	}
	return n
}

// tell notes that a figure is told.
func (o *ownMetrics) tell(f *ownFigure) {
	for _, c := range f.counts {
		o.before[f.key(c)] = c.total
	}
}

// look notes who has counts, and forgets those who are gone.
func (o *ownMetrics) look(all []ownFigure) {
	o.known = make(map[any]bool)
	for _, f := range all {
		for _, c := range f.counts {
			o.known[c.of] = true
		}
	}
	maps.DeleteFunc(o.before, func(k ownKey, _ uint64) bool { return !o.known[k.of] })
}

// keepOwn tells the figures once a minute, while that is configured, until ctx is
// done; so it has ended before the last window is closed.
func (a *agent) keepOwn(ctx context.Context) {
	a.own.before = make(map[ownKey]uint64) // all at 0
	for {
		now := time.Now()
		a.tellOwn(now)
		select {
		case <-ctx.Done():
			return
		case <-a.own.wake:
		case <-time.After(now.Truncate(ownEvery).Add(ownEvery).Sub(now)):
		}
	}
}

// wakeUp has keepOwn look now.
func (o *ownMetrics) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// tellOwn does so if a minute has begun since. The agent's identity is in the spool:
// before that was opened once, there is nothing to tell agents behind one key apart by.
func (a *agent) tellOwn(now time.Time) {
	o, cfg, id := &a.own, a.now().config, a.spool.Identity()
	if !cfg.Aggregate.OwnMetrics {
		o.before, o.known, o.told = nil, nil, time.Time{}
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
		o.before = make(map[ownKey]uint64)
	}
	o.told = now.Truncate(ownEvery)
	sent, left, room := 0, 0, ownRoom(cfg.Upstreams)
	all := a.ownFigures(now)
	for _, f := range all {
		s := aggregator.Sample{Kind: aggregator.Gauge, Head: []byte(f.name), Value: f.value}
		if f.reason != "" {
			f.tags = append(f.tags, "reason", f.reason)
		}
		for _, t := range append(f.tags, "agent", id) {
			s.Tags = append(append(s.Tags, t...), 0)
		}
		if f.counts != nil {
			grown := o.growth(&f, late)
			if grown == 0 {
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
		o.tell(&f)
	}
	o.look(all)
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
	counter := func(name, reason string, total uint64) {
		list = append(list, ownFigure{name: name, reason: reason, counts: []ownCount{{a.spool, total}}})
	}
	counter("sluice.dropped", "memory_full", lost)
	return append(list, a.ownOfListeners()...)
}

func (a *agent) ownOfListeners() (list []ownFigure) {
	counter := func(name, reason string, counts []ownCount, tags ...string) {
		list = append(list, ownFigure{name: name, reason: reason, counts: counts, tags: tags})
	}
	rejected := make(map[string][]ownCount)
	add := func(of any, s listeners.Stats) {
		counter("sluice.kernel_dropped", "", []ownCount{{of, s.KernelDropped}}, "listener", s.Name)
		counter("sluice.samples", "", []ownCount{{of, s.Samples}}, "listener", s.Name)
		for reason, n := range s.Rejected() {
			rejected[reason] = append(rejected[reason], ownCount{of, n})
		}
	}
	now := a.now()
	for _, s := range ofKind(now.sockets, true) {
		add(s, s.packet.Stats())
	}
	web, ok := a.apiStats(now)
	if !ok { // it goes on where it was when there is a socket again
		web = a.api.Stats()
	}
	add(a.api, web)
	for _, reason := range slices.Sorted(maps.Keys(rejected)) {
		counter("sluice.rejected", reason, rejected[reason])
	}
	return list
}

func (a *agent) ownOfUpstream(list []ownFigure, d *delivery, now time.Time) []ownFigure {
	u, sent, books := a.upstreamStatus(d, now), d.stats(now), d.box.Ledger()
	gauge := func(name string, value float64) {
		list = append(list, ownFigure{name: "sluice.upstream." + name, value: value, tags: []string{"upstream", u.Name}})
	}
	counter := func(name, reason string, total uint64, stored bool) {
		list = append(list, ownFigure{name: "sluice.upstream." + name, reason: reason, stored: stored, counts: []ownCount{{d, total}}, tags: []string{"upstream", u.Name}})
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
		counter("dropped", reason, total, true)
	}
	counter("requests", "", sent.Requests, false)
	counter("retries", "", sent.Retries, false)
	return list
}

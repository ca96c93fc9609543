package aggregator

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// bytesPerSeries bounds the keys of all series together: a key is at most 27 KiB,
// commonly 100 bytes, and max_series must bound memory, too.
const bytesPerSeries = 512

// Series that no sample touches leave the registry after these many windows.
// Gauges stay longer, for changes (+1, -1) need their running value; nothing
// stays long while the registry is nearly full.
const (
	idleWindows      = 60   // ten minutes of 10 s windows
	idleGaugeWindows = 8640 // a day of them
	idlePressed      = 2
)

// sweepEvery is how many windows pass between two searches for idle series.
const sweepEvery = 16

// An entry is a series that is open. There is one per series, shared by all
// intakes. Links to one that has left the registry are not followed any more.
type entry struct {
	series  Series
	link    link          // of the spelling it was made for, in the intake that made it
	window  atomic.Uint32 // number of the last live window that has it
	used    atomic.Uint32 // number of the window that was open when a sample came last, or gone
	running *running      // gauges only
	place   int32         // in the members of its metric, or alone
	extra   bool          // beside the limits, see guard.go
}

// alone is the place of an entry that is in no metric.
const alone = -1

// gone is the value of used in an entry that has left the registry.
const gone = math.MaxUint32

// use notes that a sample has come, or answers false: too late, the entry has
// left the registry.
func (e *entry) use(window uint32) bool {
	for {
		last := e.used.Load()
		if last == gone {
			return false
		}
		if last >= window || e.used.CompareAndSwap(last, window) {
			return true
		}
	}
}

// The registry knows the open series and keeps them within limits. It is
// locked on a miss only.
type registry struct {
	mu               sync.Mutex // guards the fields below
	limit, perMetric int
	many             int           // see Options.ManySeries
	crowded          chan struct{} // holds one
	series           *index
	singles          *index             // those that are alone in their metric
	metrics          map[string]*metric // the others, by kind and name
	peak             int                // of the metrics since the map was made
	extra            int                // series beside the limits
	bytes            int                // of all keys
	guarded          []*metric          // that are told of
	names            [Kinds]*Folded     // the same of metrics that are too many
	buf              []byte             // key that was looked up last
	hash, nameHash   uint64             // of it and, after metric, of its name and kind
}

// A metric is the series of one name and kind. Of a series that is the first of its
// metric there is none: where each series is a metric of its own it would take more
// memory than the series.
type metric struct {
	members []*entry
	guard   *guard // once it has reached a limit
}

func newRegistry(o Options) *registry {
	return &registry{limit: o.MaxSeries, perMetric: o.MaxSeriesPerMetric, many: o.ManySeries, crowded: make(chan struct{}, 1),
		series: newIndex(false), singles: newIndex(true), metrics: make(map[string]*metric)}
}

func (r *registry) configure(o Options) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit, r.perMetric, r.many = o.MaxSeries, o.MaxSeriesPerMetric, o.ManySeries
}

// Crowded returns a channel that has something when Options.ManySeries have come to
// be open.
func (a *Aggregator) Crowded() <-chan struct{} { return a.registry.crowded }

// resolve returns the entry of the series in k, or the one it is folded into
// because a limit is reached; own tells which. The entry counts as used in
// window, the number of the caller's. sender is told of if a metric explodes with it. l is
// a link to the entry for the caller alone, if that has just been made.
func (r *registry) resolve(k *Key, window uint32, sender string) (e *entry, own bool, l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, own = r.find(k, sender)
	e.use(window) // it is in the registry, and sweep locked out
	if e.link.entry == nil {
		l = &e.link
		l.entry = e
	}
	return e, own, l
}

func (r *registry) find(k *Key, sender string) (e *entry, own bool) {
	if e := r.lookup(k); e != nil {
		return e, true
	}
	m, first := r.metric(k)
	members := 0
	if m != nil {
		members = len(m.members)
	} else if first != nil {
		members = 1
	}
	switch {
	case r.perMetric > 0 && members >= r.perMetric:
		return r.fold(k, sender), false
	case r.series.len-r.extra < r.limit && r.bytes+len(r.buf) <= r.limit*bytesPerSeries:
		return r.add(k, m, first), true
	case members < r.limit/smallMetric && r.extra < r.maxExtra()/2 && len(r.buf) <= bytesPerSeries:
		return r.addExtra(k), true
	}
	return r.fold(k, sender), false
}

// lookup returns the entry of the series in k; r.buf is its key afterwards.
func (r *registry) lookup(k *Key) *entry {
	r.buf = k.append(r.buf[:0])
	r.hash = r.series.hash(r.buf)
	return r.series.find(r.hash, r.buf)
}

// metric returns the metric of the series in k, whose key is in r.buf, or the one
// series that is alone in it, or neither.
func (r *registry) metric(k *Key) (m *metric, first *entry) {
	name := r.buf[:2+len(k.name)]
	if m = r.metrics[string(name)]; m == nil {
		r.nameHash = r.singles.hash(name)
		first = r.singles.find(r.nameHash, name)
	}
	return m, first
}

// join makes a metric for a series that is alone no longer.
func (r *registry) join(first *entry) *metric {
	r.singles.remove(first)
	m := &metric{members: []*entry{first}}
	first.place = 0
	r.metrics[first.series.metric()] = m
	r.peak = max(r.peak, len(r.metrics))
	return m
}

// add makes an entry for the key in r.buf, of what metric has just answered.
func (r *registry) add(k *Key, m *metric, first *entry) *entry {
	e := &entry{series: Series{string(r.buf)}}
	if k.Kind == Gauge {
		e.running = new(running)
	}
	if r.series.put(r.hash, e); r.series.len == r.many {
		select {
		case r.crowded <- struct{}{}:
		default:
		}
	}
	r.bytes += len(e.series.key)
	switch {
	case m == nil && first == nil:
		e.place = alone
		r.singles.put(r.nameHash, e)
		return e
	case m == nil:
		m = r.join(first)
	}
	e.place = int32(len(m.members))
	m.members = append(m.members, e)
	return e
}

// sweep lets series go that have been idle, as of the window that opens now.
// It looks at a small part of them in one go: readers that meet a new series
// wait for no longer.
func (r *registry) sweep(window uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	idle, idleGauge := uint32(idleWindows), uint32(idleGaugeWindows)
	if r.series.len > r.limit/4*3 {
		idle, idleGauge = idlePressed, idleWindows
	}
	for i := range r.series.shards {
		r.series.drop(&r.series.shards[i], func(e *entry) bool {
			limit := idle
			if e.running != nil {
				limit = idleGauge
			}
			last := e.used.Load()
			if last+limit >= window || !e.used.CompareAndSwap(last, gone) {
				return false
			}
			r.leave(e)
			return true
		})
		r.mu.Unlock()
		r.mu.Lock()
	}
	if r.series.len-r.extra <= r.limit/2 && r.bytes <= r.limit*bytesPerSeries/2 {
		r.names = [Kinds]*Folded{}
	}
	if r.peak > 4*len(r.metrics)+1024 { // a large map stays large for ever
		kept := make(map[string]*metric, len(r.metrics))
		maps.Copy(kept, r.metrics)
		r.metrics, r.peak = kept, len(kept)
	}
}

// leave takes a series out of the books.
func (r *registry) leave(e *entry) {
	r.bytes -= len(e.series.key)
	if e.place == alone {
		r.singles.remove(e)
		if e.extra {
			r.extra--
		}
		return
	}
	name := e.series.metric()
	m := r.metrics[name]
	last := m.members[len(m.members)-1]
	m.members[e.place], last.place = last, e.place
	m.members[len(m.members)-1] = nil
	m.members = m.members[:len(m.members)-1]
	if len(m.members) < cap(m.members)/4 {
		m.members = slices.Clone(m.members)
	}
	if e.extra {
		r.extra--
		if m.guard != nil {
			m.guard.extra--
		}
	}
	if r.relax(m); len(m.members) == 0 {
		delete(r.metrics, name)
	}
}

func (r *registry) stats() (open int, folded []Folded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	add := func(f Folded) {
		f.Examples = slices.Clone(f.Examples)
		folded = append(folded, f)
	}
	for _, f := range r.names {
		if f != nil {
			add(*f)
		}
	}
	for _, m := range r.guarded[:min(len(r.guarded), maxFolded-len(folded))] {
		add(m.guard.folded)
	}
	return r.series.len, folded
}

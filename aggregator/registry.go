package aggregator

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// FoldedValue stands in for what does not fit into max_series any more: as the
// value of every tag of a new series, and as the name of metrics for which
// even that is too much.
const FoldedValue = "__other__"

// bytesPerSeries bounds the keys of all series together: a key is at most 27 KiB,
// commonly 100 bytes, and max_series must bound memory, too.
const bytesPerSeries = 512

// maxFolds bounds the series made by folding, beside max_series: a flood of
// names or of tag keys must not defeat the limit.
const maxFolds = 1000

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
	window  atomic.Uint64 // number of the last live window that has it
	used    atomic.Uint64 // number of the window that was open when a sample came last, or gone
	running *running      // gauges only
	folded  bool          // stands in for others
}

// gone is the value of used in an entry that has left the registry.
const gone = math.MaxUint64

// use notes that a sample has come, or answers false: too late, the entry has
// left the registry.
func (e *entry) use(window uint64) bool {
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
	series           map[string]*entry
	metrics          map[string]*metric // by kind and name
	folds            int                // series made by folding
	bytes            int                // of all keys
	folded           []Folded
	buf              []byte // key being looked up
}

// metric counts the series of one name and kind.
type metric struct {
	series int
	folded bool
}

// Folded tells of a metric whose new series are folded.
type Folded struct {
	Metric   string
	Kind     Kind
	Examples []string // of series that were folded first
}

// maxExamples and maxFolded bound what is told.
const (
	maxExamples = 3
	maxFolded   = 100
)

func newRegistry(o Options) *registry {
	return &registry{limit: o.MaxSeries, perMetric: o.MaxSeriesPerMetric,
		series: make(map[string]*entry), metrics: make(map[string]*metric)}
}

func (r *registry) configure(o Options) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit, r.perMetric = o.MaxSeries, o.MaxSeriesPerMetric
}

// resolve returns the entry of the series in k, or the one it is folded into
// because a limit is reached; own tells which. The entry counts as used in
// window, the number of the caller's.
func (r *registry) resolve(k *Key, window uint64) (e *entry, own bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, own = r.find(k)
	e.use(window) // it is in the registry, and sweep locked out
	return e, own
}

func (r *registry) find(k *Key) (e *entry, own bool) {
	if e := r.lookup(k); e != nil {
		return e, true
	}
	m := r.metric(k)
	full := len(r.series)-r.folds >= r.limit || r.bytes+len(r.buf) > r.limit*bytesPerSeries ||
		r.perMetric > 0 && m != nil && m.series >= r.perMetric
	if full {
		return r.fold(k), false
	}
	return r.add(k), true
}

// lookup returns the entry of the series in k; r.buf is its key afterwards.
func (r *registry) lookup(k *Key) *entry {
	r.buf = k.append(r.buf[:0])
	return r.series[string(r.buf)]
}

func (r *registry) metric(k *Key) *metric { return r.metrics[string(r.metricKey(k))] }

// metricKey is the part of r.buf that tells name and kind.
func (r *registry) metricKey(k *Key) []byte { return r.buf[:2+len(k.name)] }

// add makes an entry for the key in r.buf.
func (r *registry) add(k *Key) *entry {
	e := &entry{series: Series{string(r.buf)}}
	if k.Kind == Gauge {
		e.running = new(running)
	}
	r.series[e.series.key] = e
	r.bytes += len(e.series.key)
	m := r.metric(k)
	if m == nil {
		m = new(metric)
		r.metrics[e.series.key[:len(r.metricKey(k))]] = m
	}
	m.series++
	return e
}

// fold finds the series that stands in for the one in k: the same name and tag
// keys with every value FoldedValue, or, beyond maxFolds, the kind's one series
// called FoldedValue. Totals stay whole either way.
func (r *registry) fold(k *Key) *entry {
	r.tell(k)
	for i, t := range k.tags {
		mid := len(k.text) + t.mid - t.key
		k.text = append(append(k.text, k.text[t.key:t.mid]...), FoldedValue...)
		k.tags[i] = span{key: mid - (t.mid - t.key), mid: mid, end: len(k.text)}
	}
	if e := r.lookup(k); e != nil {
		return e
	}
	if r.folds >= maxFolds || len(r.buf) > bytesPerSeries {
		k.SetName([]byte(FoldedValue))
		k.tags = k.tags[:0]
		if e := r.lookup(k); e != nil {
			return e
		}
	}
	e := r.add(k)
	e.folded = true
	r.folds++ // at most maxFolds and one per kind
	return e
}

// tell notes that k is folded. A metric without a series of its own is not
// remembered: names may be the flood.
func (r *registry) tell(k *Key) {
	example := Series{string(r.buf)}
	m := r.metric(k)
	if m != nil && !m.folded && len(r.folded) < maxFolded {
		m.folded = true
		r.folded = append(r.folded, Folded{Metric: example.Name(), Kind: k.Kind})
	}
	if m == nil || !m.folded {
		return
	}
	i := slices.IndexFunc(r.folded, func(f Folded) bool { return f.Metric == example.Name() && f.Kind == k.Kind })
	if f := &r.folded[i]; len(f.Examples) < maxExamples && !slices.Contains(f.Examples, example.String()) {
		f.Examples = append(f.Examples, example.String())
	}
}

// sweep lets series go that have been idle, as of the window that opens now.
func (r *registry) sweep(window uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	idle, idleGauge := uint64(idleWindows), uint64(idleGaugeWindows)
	if len(r.series) > r.limit/4*3 {
		idle, idleGauge = idlePressed, idleWindows
	}
	for key, e := range r.series {
		limit := idle
		if e.running != nil {
			limit = idleGauge
		}
		if last := e.used.Load(); last+limit >= window || !e.used.CompareAndSwap(last, gone) {
			continue
		}
		delete(r.series, key)
		r.bytes -= len(key)
		name := key[:2+int(key[0])]
		if e.folded {
			r.folds--
		}
		m := r.metrics[name]
		if m.series--; m.series == 0 {
			delete(r.metrics, name)
			r.folded = slices.DeleteFunc(r.folded, func(f Folded) bool {
				return f.Metric == e.series.Name() && f.Kind == e.series.Kind()
			})
		}
	}
}

func (r *registry) stats() (open int, folded []Folded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	folded = slices.Clone(r.folded)
	for i := range folded {
		folded[i].Examples = slices.Clone(folded[i].Examples)
	}
	return len(r.series), folded
}

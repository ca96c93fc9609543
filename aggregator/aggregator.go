package aggregator

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options says how samples become windows.
type Options struct {
	// Interval is the width of windows; it must divide a minute.
	Interval time.Duration
	// MaxLateness is how far back the time of a sample may lie.
	MaxLateness time.Duration
	// MaxSeries and MaxSeriesPerMetric (one name and kind; 0 is no limit) bound the
	// series that are open. What comes beyond is folded, see FoldedValue.
	MaxSeries, MaxSeriesPerMetric int
	// MaxSetMembers is how many members a set knows exactly.
	MaxSetMembers int
	// ManySeries: when so many have come to be open, Crowded says so; 0: never.
	ManySeries int
	// NegativeDelta: a gauge written -5 is a change, as in classic statsd.
	NegativeDelta bool
}

// maxAhead is how far in the future the time of a sample may lie: as far as
// clocks on a network are commonly wrong.
const maxAhead = 10 * time.Minute

// An Aggregator turns samples into windows. It starts no goroutine and reads
// no clock.
type Aggregator struct {
	registry *registry
	keys     hashKeys     // of spellings
	links    atomic.Int64 // of all intakes
	memory   memory

	rotating sync.Mutex    // held by Rotate and Stats as a whole; guards the fields below
	options  *Options      // replaced, never changed
	interval time.Duration // of the open window; options.Interval may wait for its turn
	number   uint32        // of the open window; counted from 2, so that entries with 0 are in no window before
	start    int64         // of the open window, nanoseconds since 1970
	closed   int64         // greatest start of a live window that was closed
	windowed [Kinds]uint64
	retired  [Kinds]uint64 // accepted by intakes that are gone
	folded   [Kinds]uint64 // folded by intakes that are gone

	mu      sync.Mutex // guards the fields below
	intakes []*Intake
	free    []*table

	late   lateWindows
	events openEvents
}

// New makes an aggregator whose first window is the one that now is in.
func New(o Options, now time.Time) *Aggregator {
	a := &Aggregator{options: &o, interval: o.Interval, registry: newRegistry(o), number: 2, closed: -1, keys: newHashKeys()}
	a.start = align(now.UnixNano(), o.Interval)
	a.memory.pressed = make(chan struct{}, 1)
	a.memory.configure(&o)
	a.late.interval, a.late.memory = o.Interval, &a.memory
	a.late.windows = make(map[int64]map[*entry]aggregate)
	return a
}

func align(t int64, interval time.Duration) int64 { return t - t%int64(interval) }

// Configure changes the options of a running aggregator; nothing that is open
// is touched. Another interval begins when a window ends where one of the new
// ones begins too, so that windows go on nesting into minutes: within a minute.
func (a *Aggregator) Configure(o Options) {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	a.options = &o
	a.registry.configure(o)
	a.memory.configure(&o)
	for _, in := range a.all() {
		in.mu.Lock()
		in.options = &o
		in.mu.Unlock()
	}
}

// Forget makes every spelling be asked for anew, because what a Spelling
// answers has changed. Series and values stay.
func (a *Aggregator) Forget() {
	for _, in := range a.all() {
		in.mu.Lock()
		in.forget()
		in.mu.Unlock()
	}
}

// Intake opens a way in for one reader, whose samples are spelled the way
// spelling knows.
func (a *Aggregator) Intake(spelling Spelling) *Intake {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	in := &Intake{home: a, spelling: spelling, options: a.options}
	in.forget()
	in.open(a.number, a.start, a.start+int64(a.interval), new(table))
	a.intakes = append(a.intakes, in)
	return in
}

// Ends returns when the open window ends, which is when to call Rotate.
func (a *Aggregator) Ends() time.Time {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	return time.Unix(0, a.start+int64(a.interval))
}

// Interval returns how long the open window lasts.
func (a *Aggregator) Interval() time.Duration {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	return a.interval
}

// Rotate closes the open window and all that hold values of other times, and
// opens the one that now is in. Samples that are added meanwhile are in
// either; no reader waits for longer than it takes to swap a table. The live
// window comes first, then the late ones, oldest first; empty ones are left
// out. Each is the caller's until Release.
func (a *Aggregator) Rotate(now time.Time) []*Window {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	a.number++
	live := a.window(a.start, a.interval, a.start <= a.closed)
	a.closed = max(a.closed, a.start)
	if next := a.options.Interval; align(now.UnixNano(), next) == align(now.UnixNano(), a.interval) {
		a.interval = next
	}
	a.start = align(now.UnixNano(), a.interval)

	for _, in := range a.all() {
		t, absent := in.rotate(a.number, a.start, a.start+int64(a.interval), a.table())
		live.tables = append(live.tables, t)
		a.memory.lend(t.bytes)
		live.Absent += absent
	}
	live.collect()
	select {
	case <-a.memory.pressed: // it was about what has been closed now
	default:
	}
	live.events = a.events.rotate()
	windows := append([]*Window{live}, a.late.rotate(a)...)
	windows = slices.DeleteFunc(windows, func(w *Window) bool {
		if len(w.values) == 0 && w.events.len == 0 {
			w.Release()
			return true
		}
		w.close(a.options.MaxSetMembers)
		for kind, n := range w.Samples {
			a.windowed[kind] += n
		}
		return false
	})
	a.retire()
	if a.number%sweepEvery == 0 {
		a.registry.sweep(a.number)
	}
	return windows
}

func (a *Aggregator) window(start int64, width time.Duration, late bool) *Window {
	return &Window{ID: rand.Uint64(), Start: time.Unix(0, start).UTC(), Width: width, Late: late, home: a}
}

// retire lets go of intakes that were closed and whose last samples are in a
// window by now.
func (a *Aggregator) retire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.intakes = slices.DeleteFunc(a.intakes, func(in *Intake) bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		if !in.closed || in.live != [Kinds]uint64{} {
			return false
		}
		for k, n := range in.accepted {
			a.retired[k] += n
			a.folded[k] += in.folded[k]
		}
		return true
	})
}

func (a *Aggregator) all() []*Intake {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.intakes)
}

// table returns an empty table.
func (a *Aggregator) table() *table {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.free); n > 0 {
		t := a.free[n-1]
		a.free = a.free[:n-1]
		return t
	}
	return new(table)
}

// release takes tables back, at most one for each intake, and small ones: what
// a burst took is given back.
func (a *Aggregator) release(tables []*table) {
	for _, t := range tables {
		a.memory.lent.Add(-int64(t.bytes))
		if t.bytes > keptBytes {
			*t = table{}
		}
		t.reset()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, tables...)
	if extra := len(a.free) - len(a.intakes); extra > 0 {
		a.free = slices.Delete(a.free, 0, extra)
	}
}

// Stats tells what has become of all samples since New.
type Stats struct {
	// Accepted = Windowed + Open, per kind, always: Accepted is counted when a
	// sample is taken, Windowed over the windows that Rotate returned.
	Accepted, Windowed, Open [Kinds]uint64

	Series      int   // open now
	Limit       int   // Options.MaxSeries
	Memory      int64 // bytes of values, in open windows and in closed ones that were not released yet
	MemoryLimit int64
	Folded      []Folded
	Intakes     int // open, or closed in the open window
	Pending     int // windows of other times that are open

	// FoldedSamples counts those taken into a series that stands in for theirs.
	FoldedSamples [Kinds]uint64
}

// Stats returns the counts as of one moment.
func (a *Aggregator) Stats() Stats {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	s := Stats{Accepted: a.retired, Windowed: a.windowed, Limit: a.options.MaxSeries, FoldedSamples: a.folded}
	s.Series, s.Folded = a.registry.stats()
	s.Memory, s.MemoryLimit = a.memory.open.Load()+a.memory.lent.Load(), a.memory.limit.Load()
	for _, in := range a.all() {
		s.Intakes++
		in.mu.Lock()
		for k := range Kinds {
			s.Accepted[k] += in.accepted[k] + in.live[k]
			s.Open[k] += in.live[k]
			s.FoldedSamples[k] += in.folded[k]
		}
		in.mu.Unlock()
	}
	a.events.mu.Lock()
	s.Accepted[Events], s.Open[Events] = a.events.accepted, a.events.list.len
	a.events.mu.Unlock()
	a.late.mu.Lock()
	defer a.late.mu.Unlock()
	s.Pending = len(a.late.windows)
	for k := range Kinds {
		s.Accepted[k] += a.late.accepted[k]
		s.Open[k] += a.late.open[k]
	}
	return s
}

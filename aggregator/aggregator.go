package aggregator

import (
	"math/rand/v2"
	"slices"
	"sync"
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
	// NegativeDelta: a gauge written -5 is a change, as in classic statsd.
	NegativeDelta bool
}

// maxAhead is how far in the future the time of a sample may lie: as far as
// clocks on a network are commonly wrong.
const maxAhead = 10 * time.Minute

// An Aggregator turns samples into windows. It starts no goroutine and reads
// no clock.
type Aggregator struct {
	options  Options
	registry *registry

	rotating sync.Mutex // held by Rotate and Stats as a whole; guards the fields below
	number   uint64     // of the open window; counted from 2, so that entries with 0 are in no window before
	start    int64      // of the open window, nanoseconds since 1970
	closed   int64      // greatest start of a live window that was closed
	windowed [Kinds]uint64

	mu      sync.Mutex // guards the fields below
	intakes []*Intake
	free    []*table

	late lateWindows
}

// New makes an aggregator whose first window is the one that now is in.
func New(o Options, now time.Time) *Aggregator {
	a := &Aggregator{options: o, registry: newRegistry(o), number: 2, closed: -1}
	a.start = a.align(now.UnixNano())
	a.late.windows = make(map[int64]map[*entry]aggregate)
	return a
}

func (a *Aggregator) align(t int64) int64 { return t - t%int64(a.options.Interval) }

// Intake opens a way in for one reader, whose samples are spelled the way
// spelling knows.
func (a *Aggregator) Intake(spelling Spelling) *Intake {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	in := &Intake{home: a, spelling: spelling, hot: make(map[string]*link), fresh: make(map[target]*link)}
	in.open(a.number, a.start, a.start+int64(a.options.Interval), new(table))
	a.intakes = append(a.intakes, in)
	return in
}

// Ends returns when the open window ends, which is when to call Rotate.
func (a *Aggregator) Ends() time.Time {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	return time.Unix(0, a.start+int64(a.options.Interval))
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
	live := a.window(a.start, a.start <= a.closed)
	a.closed = max(a.closed, a.start)
	a.start = a.align(now.UnixNano())

	for _, in := range a.all() {
		t, absent := in.rotate(a.number, a.start, a.start+int64(a.options.Interval), a.table())
		live.tables = append(live.tables, t)
		live.Absent += absent
		live.values = t.collect(live.values)
	}
	windows := append([]*Window{live}, a.late.rotate(a)...)
	windows = slices.DeleteFunc(windows, func(w *Window) bool {
		if len(w.values) == 0 {
			w.Release()
			return true
		}
		w.close(a.options.MaxSetMembers)
		for kind, n := range w.Samples {
			a.windowed[kind] += n
		}
		return false
	})
	if a.number%sweepEvery == 0 {
		a.registry.sweep(a.number)
	}
	return windows
}

func (a *Aggregator) window(start int64, late bool) *Window {
	return &Window{ID: rand.Uint64(), Start: time.Unix(0, start).UTC(), Width: a.options.Interval, Late: late, home: a}
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

// release takes tables back, at most one for each intake.
func (a *Aggregator) release(tables []*table) {
	for _, t := range tables {
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

	Series  int // open now
	Limit   int // Options.MaxSeries
	Folded  []Folded
	Pending int // windows of other times that are open
}

// Stats returns the counts as of one moment.
func (a *Aggregator) Stats() Stats {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	s := Stats{Windowed: a.windowed, Limit: a.options.MaxSeries}
	s.Series, s.Folded = a.registry.stats()
	for _, in := range a.all() {
		in.mu.Lock()
		for k := range Kinds {
			s.Accepted[k] += in.accepted[k]
			s.Open[k] += in.live[k]
		}
		in.mu.Unlock()
	}
	a.late.mu.Lock()
	defer a.late.mu.Unlock()
	s.Pending = len(a.late.windows)
	for k := range Kinds {
		s.Accepted[k] += a.late.accepted[k]
		s.Open[k] += a.late.open[k]
	}
	return s
}

package aggregator

import (
	"slices"
	"sync"
	"time"
)

// lateWindows are those that hold values of other times than the open
// window's. There are few such values, so one lock and one map serve.
type lateWindows struct {
	mu             sync.Mutex    // guards the fields below
	interval       time.Duration // of the windows
	windows        map[int64]map[*entry]aggregate
	series         int // in all windows
	accepted, open [Kinds]uint64
	bytes          int // of the values
	memory         *memory
}

// take puts a sample of another time into the window of that time, or refuses
// it: too old, too far ahead, or one series more than max_series allows.
func (l *lateWindows) take(o *Options, now int64, e *entry, s *Sample) Reason {
	switch {
	case s.Time < now-int64(o.MaxLateness):
		return Late
	case s.Time > now+int64(maxAhead):
		return Future
	}
	if s.Kind >= Distribution && l.memory.full() {
		return TooMuchMemory
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	start := align(s.Time, l.interval)
	w := l.windows[start]
	value, ok := w[e]
	grown := 0
	if !ok {
		if l.series >= o.MaxSeries {
			return TooManyLate
		}
		if w == nil {
			w = make(map[*entry]aggregate)
			l.windows[start] = w
		}
		value = newAggregate(s.Kind)
		w[e] = value
		l.series++
		grown = lateBytes
	}
	switch v := value.(type) {
	case *counter:
		v.take(s)
	case *gauge:
		v.take(e.running.take(s, now, o.NegativeDelta))
	case *distribution:
		grown += v.take(s)
	case *set:
		grown += v.take(s.Member, o.MaxSetMembers)
	}
	l.bytes += grown
	l.memory.add(grown)
	l.accepted[s.Kind]++
	l.open[s.Kind]++
	return Taken
}

// lateBytes is what a value takes beside what it grows by, with its place in the map.
const lateBytes = 256

func newAggregate(k Kind) aggregate {
	switch k {
	case Counter:
		return new(counter)
	case Gauge:
		return new(gauge)
	case Distribution:
		return new(distribution)
	}
	return new(set)
}

// rotate closes all windows, oldest first.
func (l *lateWindows) rotate(a *Aggregator) []*Window {
	l.mu.Lock()
	closed, width, bytes := l.windows, l.interval, l.bytes
	l.interval, l.bytes = a.interval, 0
	l.memory.lend(bytes)
	l.windows, l.series, l.open = make(map[int64]map[*entry]aggregate), 0, [Kinds]uint64{}
	l.mu.Unlock()
	windows := make([]*Window, 0, len(closed))
	for start, values := range closed {
		w := a.window(start, width, true)
		for e, v := range values {
			w.add(e.series, e.series.Kind(), v)
		}
		w.Absent = uint32(len(w.values))
		windows = append(windows, w)
	}
	if len(windows) > 0 {
		windows[0].bytes = bytes // released with one of them: they are all appended in one go
	}
	slices.SortFunc(windows, func(a, b *Window) int { return time.Time.Compare(a.Start, b.Start) })
	return windows
}

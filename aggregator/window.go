package aggregator

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// A Window is what one interval amounted to, for all series. It never changes
// once Rotate has returned it. It is lent: Release gives its memory back to
// the aggregator, after which it must not be used.
type Window struct {
	ID    uint64    // random, so that a window is known again wherever it is met
	Start time.Time // aligned to Width
	Width time.Duration

	// Late windows hold values with a time outside the interval that was open
	// when they arrived, or repeat a start that has been closed before.
	Late bool

	// Samples and Series count what is in the window, per kind.
	Samples, Series [Kinds]uint64
	// Absent is an upper bound of how many of the series were not in the live
	// window before (of a late window: all). So live windows in a row have together
	// at most the series of the first and the Absent of the others, and each late
	// window adds at most its own.
	Absent uint32

	values []seriesValue
	events eventList
	tables []*table // to give back
	bytes  int      // of values that are in no table
	home   *Aggregator
}

// FlagLate marks a late window in the flags that are stored beside it.
const FlagLate uint16 = 1

// Flags returns what is to be stored beside the window.
func (w *Window) Flags() uint16 {
	if w.Late {
		return FlagLate
	}
	return 0
}

type seriesValue struct {
	series Series
	value  aggregate
}

// aggregate is a pointer to a counter, gauge, distribution or set.
type aggregate interface {
	appender
	taken() uint64 // samples
}

func (c *counter) taken() uint64      { return c.samples }
func (g *gauge) taken() uint64        { return g.samples }
func (d *distribution) taken() uint64 { return d.samples }
func (s *set) taken() uint64          { return s.samples }

// Examples returns the names of up to n different metrics in the window.
func (w *Window) Examples(n int) []string {
	var names []string
	for _, v := range w.values {
		if name := v.series.Name(); len(names) == 0 || names[len(names)-1] != name {
			if names = append(names, name); len(names) == n {
				break
			}
		}
	}
	return names
}

// Len returns the number of series.
func (w *Window) Len() int { return len(w.values) }

// Values yields the series in the order of their keys, each with its value, which is
// valid until the next is asked for.
func (w *Window) Values() iter.Seq2[Series, *Value] {
	return func(yield func(Series, *Value) bool) {
		var value Value
		for _, v := range w.values {
			value = Value{kind: v.series.Kind()}
			switch of := v.value.(type) {
			case *counter:
				value.counter = *of
			case *gauge:
				value.gauge = *of
			case *distribution:
				of.finish()
				value.dist = *of
			case *set:
				value.set = *of
			}
			if !yield(v.series, &value) {
				return
			}
		}
	}
}

// Parts yields the window in its binary form, each part at most 4 MiB and
// valid until the next is asked for.
func (w *Window) Parts() iter.Seq[[]byte] {
	return encode(func(yield func(Series, appender) bool) {
		for _, v := range w.values {
			if !yield(v.series, v.value) {
				return
			}
		}
	}, w.events.all())
}

// collect takes the values out of the tables. Of a million, each time that the
// list grew would cost as much again as it takes in the end.
func (w *Window) collect() {
	n := 0
	for _, t := range w.tables {
		n += t.cells()
	}
	w.values = make([]seriesValue, 0, n)
	for _, t := range w.tables {
		t.collect(w)
	}
}

// add notes the value of a series, of which there may be another.
func (w *Window) add(s Series, kind Kind, v aggregate) {
	w.values = append(w.values, seriesValue{s, v})
	w.Series[kind]++
	w.Samples[kind] += v.taken()
}

// close sorts the values that were collected and puts together those of the
// same series, which came through different intakes or spellings.
func (w *Window) close(maxSetMembers int) {
	slices.SortFunc(w.values, func(a, b seriesValue) int { return cmp.Compare(a.series.key, b.series.key) })
	kept := w.values[:0]
	for _, v := range w.values {
		if n := len(kept); n > 0 && kept[n-1].series == v.series {
			mergeAggregates(kept[n-1].value, v.value, maxSetMembers)
			w.Series[v.series.Kind()]--
			continue
		}
		kept = append(kept, v)
	}
	clear(w.values[len(kept):])
	w.values = kept
	w.Samples[Events] = w.events.len
}

func mergeAggregates(into, from aggregate, maxSetMembers int) {
	switch into := into.(type) {
	case *counter:
		into.merge(from.(*counter))
	case *gauge:
		into.merge(from.(*gauge))
	case *distribution:
		into.merge(from.(*distribution))
	case *set:
		into.merge(from.(*set), maxSetMembers)
	}
}

// Release gives the window's memory back. It may be called once.
func (w *Window) Release() {
	w.home.memory.lent.Add(-int64(w.bytes))
	w.home.release(w.tables)
	w.values, w.tables, w.events = nil, nil, eventList{}
}

package aggregator

import (
	"bytes"
	"fmt"
)

// Coarsen puts several windows, each given by its parts, together into one, as
// Merge does, and encodes that: what a spool replaces windows by that are kept
// for long. samples and series count what is in it, per kind. Sets become
// estimates beyond maxSetMembers. What it is given it keeps nothing of; of each
// window one block is decoded at a time. A damaged window is an error.
func Coarsen(maxSetMembers int, windows [][][]byte) (parts [][]byte, samples, series [Kinds]uint64, err error) {
	readers := make([]*Reader, len(windows))
	for i, w := range windows {
		if readers[i], err = OpenReader(w...); err != nil {
			return nil, samples, series, fmt.Errorf("window %d of %d: %w", i+1, len(windows), err)
		}
	}
	m := Merge(maxSetMembers, nil, readers...)
	values := func(yield func(Series, appender) bool) {
		for s, v := range m.All() {
			samples[s.Kind()] += v.Samples()
			series[s.Kind()]++
			if !yield(s, v.aggregate()) {
				return
			}
		}
	}
	events := func(yield func(*Event) bool) {
		if m.Err() != nil {
			return
		}
		for e := range m.Events() {
			samples[Events]++
			if !yield(e) {
				return
			}
		}
	}
	for part := range encode(values, events) {
		parts = append(parts, bytes.Clone(part))
	}
	return parts, samples, series, m.Err()
}

// aggregate is the value's own, of its kind.
func (v *Value) aggregate() aggregate {
	switch v.kind {
	case Counter:
		return &v.counter
	case Gauge:
		return &v.gauge
	case Distribution:
		return &v.dist
	}
	return &v.set
}

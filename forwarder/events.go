package forwarder

import (
	"encoding/binary"
	"math"
	"time"

	"sluice/aggregator"
)

// Events travel beside the series of their windows, and cannot be made coarser.
// So that a program that sends too many does not cost metrics their width, half
// of the budget is theirs over time: every window adds half of what can be sent
// within its width to an allowance, which holds CatchUp's worth at most. A burst,
// or what an outage has left, goes out whole; of a flood the rest is dropped as
// overBudget.
const overBudget = "over_budget"

// eventsPerMinute is how many events may go out over time; 0 if the upstream
// takes none.
func (f *Forwarder) eventsPerMinute() int {
	if f.upstream.Form().Events == "" {
		return 0
	}
	return f.options.RequestsPerMinute * f.room() / 2
}

// within is how many events an allowance of perMinute a minute grows by in d.
func within(d time.Duration, perMinute int) float64 {
	return float64(perMinute) * d.Minutes()
}

// allow adds to the allowance what the windows of a bucket bring.
func (r *round) allow(b *Bucket) {
	f := r.forwarder
	for _, e := range b.entries {
		r.allowed += within(e.Width, f.eventsPerMinute())
	}
	r.allowed = min(r.allowed, within(max(f.options.CatchUp, minute), f.eventsPerMinute()))
}

// eventKey is the key of the place behind the first n events of a bucket. It
// sorts before those of series, none of which begins with 0: events come first.
func eventKey(n uint64) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)))
}

// eventsDone returns how many events of a bucket come before the place of a key.
func eventsDone(after []byte) uint64 {
	switch {
	case len(after) == 0:
		return 0
	case after[0] == 0 && len(after) == 5:
		return uint64(binary.BigEndian.Uint32(after[1:]))
	}
	return math.MaxUint64
}

// renderEvents renders the events of a bucket behind after. done is false when
// the sheet is full.
func (r *round) renderEvents(b *Bucket, after []byte, all *aggregator.Merger) (done bool) {
	f := r.forwarder
	skip := eventsDone(after)
	if skip == math.MaxUint64 {
		return true
	}
	if skip == 0 {
		r.allow(b)
	}
	n := uint64(0)
	for e := range all.Events() {
		if n++; n <= skip {
			continue
		}
		fits := r.place(b, eventKey(n), aggregator.Events, 1, func() *counts {
			switch {
			case f.eventsPerMinute() == 0 || !f.matches(string(e.Name)):
				return &r.filtered
			case r.allowed < 1:
				return &r.overBudget
			}
			f.upstream.RenderEvent(r.sheet, e)
			return &r.filtered
		})
		if !fits {
			return false
		}
	}
	if all.Err() != nil {
		f.log.Error("events cannot be read and are lost", "start", b.At, "error", all.Err())
	}
	return true
}

// noteEvents keeps what is left of the allowance, and tells when it begins to be
// too small.
func (f *Forwarder) noteEvents(r *round) {
	over := r.overBudget[aggregator.Events]
	if over > 0 && !f.flooded {
		f.log.Warn("events come faster than half of the budget allows; those beyond are dropped (over_budget)", "dropped", over)
	}
	f.allowed, f.flooded = r.allowed, over > 0
}

package aggregator

import (
	"encoding/binary"
	"sync"
)

// A gauge is what one window saw of a gauge's values. Of two last values the
// one with the greater time stays, and at equal times the one that arrived
// later: only so does merging not depend on the order of the windows.
type gauge struct {
	samples  uint64
	last     float64
	time     int64  // of last, nanoseconds since 1970
	seq      uint64 // arrival number of last within its series
	min, max float64
	sum      number
}

func (g *gauge) take(v float64, time int64, seq uint64) {
	if g.samples == 0 {
		g.min, g.max = v, v
	} else {
		g.min, g.max = min(g.min, v), max(g.max, v)
	}
	if g.samples == 0 || g.older(time, seq) {
		g.last, g.time, g.seq = v, time, seq
	}
	g.samples++
	g.sum.add(v)
}

func (g *gauge) older(time int64, seq uint64) bool {
	return g.time < time || g.time == time && g.seq <= seq
}

func (g *gauge) merge(o *gauge) {
	if o.samples == 0 {
		return
	}
	if g.samples == 0 {
		*g = *o
		return
	}
	g.min, g.max = min(g.min, o.min), max(g.max, o.max)
	if g.older(o.time, o.seq) {
		g.last, g.time, g.seq = o.last, o.time, o.seq
	}
	g.samples += o.samples
	g.sum.merge(&o.sum)
}

func (g *gauge) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, g.samples)
	dst = appendFloat64(dst, g.last)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(g.time))
	dst = binary.AppendUvarint(dst, g.seq)
	dst = appendFloat64(dst, g.min)
	dst = appendFloat64(dst, g.max)
	return g.sum.append(dst)
}

func (g *gauge) decode(d *decoder) {
	g.samples = d.uvarint()
	g.last = d.finite()
	g.time = int64(d.uint64())
	g.seq = d.uvarint()
	g.min, g.max = d.finite(), d.finite()
	g.sum = d.number()
	if g.samples == 0 || g.min > g.last || g.max < g.last {
		d.fail()
	}
}

// running is the value that changes (+1, -1) are applied to. It is the same
// for all intakes and outlives windows, but not the process.
type running struct {
	mu     sync.Mutex // guards the fields below
	value  float64
	signed bool   // has met a leading plus: from then on a minus is a change, too
	seq    uint64 // arrivals so far
	time   int64  // of the last one
}

// take applies a sample and answers the gauge's value after it, with its time
// and arrival number. Readers that took their time before they got here must
// not make an earlier arrival look later, so time never goes back.
func (r *running) take(s *Sample, now int64, negativeIsDelta bool) (v float64, time int64, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	if s.Time != 0 {
		return s.Value, s.Time, r.seq // a sign is only a sign, and the running value is another matter
	}
	r.time = max(r.time, now)
	switch {
	case s.Flags&Plus != 0:
		r.signed = true
		r.value = clampFloat(r.value + s.Value)
	case s.Flags&Minus != 0 && (negativeIsDelta || r.signed):
		r.value = clampFloat(r.value + s.Value)
	default:
		r.value = s.Value
	}
	return r.value, r.time, r.seq
}

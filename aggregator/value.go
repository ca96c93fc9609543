package aggregator

import (
	"iter"
	"maps"
	"slices"
)

// A Value is what one or several windows know of one series. It is read-only
// and owned by whoever yields it: valid until the next one is asked for.
// Methods that name a kind may be called for that kind only.
type Value struct {
	kind    Kind
	counter counter
	gauge   gauge
	dist    distribution
	set     set
}

// Kind returns the kind, which is that of the series.
func (v *Value) Kind() Kind { return v.kind }

// Samples returns how many samples the value was made from, at least 1.
func (v *Value) Samples() uint64 {
	switch v.kind {
	case Counter:
		return v.counter.samples
	case Gauge:
		return v.gauge.samples
	case Distribution:
		return v.dist.samples
	}
	return v.set.samples
}

// AppendTotal writes a counter's sum as a JSON number, exact if it is whole.
func (v *Value) AppendTotal(dst []byte) []byte { return v.counter.total.appendJSON(dst) }

// Total returns a counter's sum, rounded once.
func (v *Value) Total() float64 { return v.counter.total.float() }

// LastTime returns when a gauge's last value was measured, in nanoseconds since 1970.
func (v *Value) LastTime() int64 { return v.gauge.time }

// Last, GaugeMin, GaugeMax and GaugeMean return what a gauge was.
func (v *Value) Last() float64     { return v.gauge.last }
func (v *Value) GaugeMin() float64 { return v.gauge.min }
func (v *Value) GaugeMax() float64 { return v.gauge.max }
func (v *Value) GaugeMean() float64 {
	return v.gauge.sum.float() / float64(v.gauge.samples)
}

// AppendCount and AppendSum write a distribution's count (the sum of its
// weights) and sum as JSON numbers, exact if whole.
func (v *Value) AppendCount(dst []byte) []byte { return v.dist.count.appendJSON(dst) }
func (v *Value) AppendSum(dst []byte) []byte   { return v.dist.sum.appendJSON(dst) }

// Count, Sum, Min and Max return a distribution's exact summary.
func (v *Value) Count() float64 { return v.dist.count.float() }
func (v *Value) Sum() float64   { return v.dist.sum.float() }
func (v *Value) Min() float64   { return v.dist.min }
func (v *Value) Max() float64   { return v.dist.max }

// Quantile returns a distribution's value at q, 0 to 1: exact while Raw is,
// within 1 % beyond.
func (v *Value) Quantile(q float64) float64 { return v.dist.quantile(q) }

// Raw returns a distribution's values as they came, ascending, while there
// are at most MaxRaw of them; else nil.
func (v *Value) Raw() []Weighted { return v.dist.raw }

// Bins returns a distribution's values in ascending order with their weights:
// Raw, or one value per bin of the sketch.
func (v *Value) Bins() []Weighted { return v.dist.bins() }

// Members yields a set's members, sorted, while the set is exact.
func (v *Value) Members() iter.Seq[string] {
	return slices.Values(slices.Sorted(maps.Keys(v.set.members)))
}

// Unique returns how many members a set has, and whether that is exact.
func (v *Value) Unique() (n uint64, exact bool) {
	if v.set.sketch != nil {
		return v.set.sketch.Estimate(), false
	}
	return uint64(len(v.set.members)), true
}

// decode replaces v by the value of a series of that kind.
func (v *Value) decode(kind Kind, d *decoder) {
	*v = Value{kind: kind}
	switch kind {
	case Counter:
		v.counter.decode(d)
	case Gauge:
		v.gauge.decode(d)
	case Distribution:
		v.dist.decode(d)
	case Set:
		v.set.decode(d)
	}
	if d.err == nil && (len(d.b) != 0 || v.Samples() == 0) {
		d.fail()
	}
}

// merge adds what o knows, of the same series.
func (v *Value) merge(o *Value, maxSetMembers int) {
	switch v.kind {
	case Counter:
		v.counter.merge(&o.counter)
	case Gauge:
		v.gauge.merge(&o.gauge)
	case Distribution:
		v.dist.merge(&o.dist)
	case Set:
		v.set.merge(&o.set, maxSetMembers)
	}
}

// settle brings a merged value into its final form.
func (v *Value) settle(maxSetMembers int) {
	switch v.kind {
	case Distribution:
		v.dist.finish()
	case Set:
		v.set.settle(maxSetMembers)
	}
}

package aggregator

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// MaxRaw is how many values a distribution keeps as they came. It is the
// default of the upstream's `points`, so that a sparse series goes out exact,
// and below it raw values are smaller than a sketch.
const MaxRaw = 100

// relativeAccuracy is fixed: sketches of different accuracy do not merge, and
// windows on disk must merge with those of any later version.
const relativeAccuracy = 0.01

// maxBins bounds the bins of either sign. 2,048 bins of 1 % span 17 orders of
// magnitude; values of a wider spread lose accuracy at the small end.
const maxBins = 2048

// checkFirst is how many values may be in a sketch before its bins are counted,
// checkEvery how many may be added before that happens again, at first twice
// as many every time: it bounds what a hostile sender can make of one sketch.
const (
	checkFirst = 128
	checkEvery = 1024
)

// What a value takes; and of a store of the library itself and its buffer,
// each page of 32 bins, and each page that could be between two that are there.
const (
	weightedBytes = 16
	storeBytes    = 640
	pageBins      = 32
	pageBytes     = 8 * pageBins
	placeBytes    = 24
)

var logMapping = func() mapping.IndexMapping {
	m, err := mapping.NewLogarithmicMapping(relativeAccuracy)
	if err != nil {
		panic("aggregator: " + err.Error()) // the constant is in range
	}
	return m
}()

// A Weighted is one value of a distribution and how many measurements it
// stands for.
type Weighted struct{ Value, Weight float64 }

// A distribution knows its count, sum, minimum and maximum exactly, and its
// values: up to MaxRaw as they came, beyond as a DDSketch of 1 % relative
// accuracy. Which of the two depends on the number of values alone, not on how
// they were grouped, and so do the sketch's bins.
type distribution struct {
	samples  uint64
	count    number // sum of the weights
	sum      number // of value times weight
	min, max float64

	raw    []Weighted // nil once there is a sketch
	sketch *ddsketch.DDSketch
	wide   [2]bool // the positive, negative store has been collapsed
	added  uint16  // to the sketch, since its bins were counted
	check  uint16  // how many may be until then
	bytes  int32   // that raw and sketch take
}

// take adds a value. It answers by how many bytes that made d grow.
func (d *distribution) take(s *Sample) (grown int) {
	before := d.bytes
	weight := s.Weight
	if weight == 0 {
		weight = 1
	}
	d.extend(s.Value, s.Value)
	d.samples++
	d.count.add(weight)
	d.sum.add(s.Value * weight)
	d.insert(s.Value, weight)
	return int(d.bytes - before)
}

func (d *distribution) extend(low, high float64) {
	if d.samples == 0 {
		d.min, d.max = low, high
	} else {
		d.min, d.max = min(d.min, low), max(d.max, high)
	}
}

func (d *distribution) insert(v, weight float64) {
	if d.sketch == nil {
		if len(d.raw) < MaxRaw {
			d.raw = append(d.raw, Weighted{v, weight})
			d.bytes = int32(cap(d.raw)) * weightedBytes
			return
		}
		d.toSketch()
	}
	d.addToSketch(v, weight)
	if d.added++; d.added >= d.check {
		d.settle()
	}
}

func (d *distribution) toSketch() {
	d.sketch = newSketch(store.NewBufferedPaginatedStore(), store.NewBufferedPaginatedStore())
	for _, r := range d.raw {
		d.addToSketch(r.Value, r.Weight)
	}
	d.raw = nil
	d.added, d.check, d.bytes = MaxRaw, checkFirst, 2*storeBytes
}

func newSketch(positive, negative store.Store) *ddsketch.DDSketch {
	return ddsketch.NewDDSketch(logMapping, positive, negative)
}

// addToSketch puts values that the mapping cannot index, beyond 1.25e308, into
// the outermost bin; minimum, maximum and sum have them as they are.
func (d *distribution) addToSketch(v, weight float64) {
	top := logMapping.MaxIndexableValue()
	if err := d.sketch.AddWithCount(max(-top, min(v, top)), weight); err != nil {
		panic("aggregator: add to sketch: " + err.Error()) // v is finite and indexable, weight positive
	}
}

// settle brings the sketch within its bound of bins, always to the same
// result: the lowest bins of a store that has more than maxBins are folded
// into the one maxBins-1 below its highest, and so is what comes later.
func (d *distribution) settle() {
	if d.sketch == nil {
		return
	}
	d.added, d.check = 0, min(2*max(d.check, checkFirst), checkEvery)
	pos, neg := d.sketch.GetPositiveValueStore(), d.sketch.GetNegativeValueStore()
	newPos, bytesPos := collapse(pos, &d.wide[0])
	newNeg, bytesNeg := collapse(neg, &d.wide[1])
	d.bytes = int32(bytesPos + bytesNeg)
	if newPos == pos && newNeg == neg {
		return
	}
	zero := d.sketch.GetZeroCount()
	d.sketch = newSketch(newPos, newNeg)
	if zero > 0 {
		d.sketch.AddWithCount(0, zero) // cannot fail: zero is indexable and the count positive
	}
}

// collapse returns s, or what is to stand for it, and how many bytes that takes.
func collapse(s store.Store, wide *bool) (store.Store, int) {
	bins, bytes := measure(s)
	if bins > maxBins {
		*wide = true
	}
	if !*wide {
		return s, bytes
	}
	top, err := s.MaxIndex()
	if err != nil {
		return s, bytes // empty
	}
	if bottom, _ := s.MinIndex(); bottom > top-maxBins {
		return s, bytes
	}
	c := store.NewBufferedPaginatedStore()
	s.ForEach(func(i int, count float64) bool {
		c.AddWithCount(max(i, top-maxBins+1), count)
		return false
	})
	_, bytes = measure(c)
	return c, bytes
}

// measure counts the bins of s and estimates its bytes.
func measure(s store.Store) (bins, bytes int) {
	pages, first, last := 0, 0, 0
	s.ForEach(func(i int, _ float64) bool {
		page := i >> 5 // of pageBins
		if pages == 0 || page != last {
			pages++
		}
		if bins == 0 {
			first = page
		}
		last = page
		bins++
		return false
	})
	return bins, storeBytes + pages*pageBytes + (last-first)*placeBytes
}

func (d *distribution) merge(o *distribution) {
	if o.samples == 0 {
		return
	}
	d.extend(o.min, o.max)
	d.samples += o.samples
	d.count.merge(&o.count)
	d.sum.merge(&o.sum)
	if o.sketch == nil {
		for _, r := range o.raw {
			d.insert(r.Value, r.Weight)
		}
		return
	}
	if d.sketch == nil {
		d.toSketch()
	}
	if err := d.sketch.MergeWith(o.sketch); err != nil {
		panic("aggregator: merge sketches: " + err.Error()) // there is one mapping
	}
	d.wide[0], d.wide[1] = d.wide[0] || o.wide[0], d.wide[1] || o.wide[1]
	d.settle()
}

// reset empties d for its next use and keeps its memory, unless that is large.
func (d *distribution) reset() {
	raw := d.raw
	*d = distribution{raw: raw[:0]}
}

// finish puts the values into their one order, for encoding and reading.
func (d *distribution) finish() {
	d.settle()
	slices.SortFunc(d.raw, func(a, b Weighted) int {
		switch {
		case a.Value < b.Value, a.Value == b.Value && a.Weight < b.Weight:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
}

// quantile answers the value below which a share q of the weight lies: exact
// for raw values, within 1 % for a sketch, and never outside [min, max]. d must
// be finished and not empty.
func (d *distribution) quantile(q float64) float64 {
	if q = min(q, 1); !(q > 0) { // NaN, too, which the library does not refuse
		q = 0
	}
	if d.sketch != nil {
		v, err := d.sketch.GetValueAtQuantile(q)
		if err != nil {
			return d.min // empty, which a decoded sketch is not
		}
		return d.clamp(v)
	}
	rank, seen := q*(d.count.float()-1), 0.0 // the rank DDSketch uses
	for _, r := range d.raw {
		if seen += r.Weight; seen > rank {
			return r.Value
		}
	}
	return d.max
}

// clamp keeps a bin's value, which is within 1 % of those in the bin, within
// what there was.
func (d *distribution) clamp(v float64) float64 { return max(d.min, min(v, d.max)) }

// bins answers the values in ascending order, each with its weight: the raw
// ones, or one per bin of the sketch. d must be finished.
func (d *distribution) bins() []Weighted {
	if d.sketch == nil {
		return d.raw
	}
	var all []Weighted
	d.sketch.GetNegativeValueStore().ForEach(func(i int, count float64) bool {
		all = append(all, Weighted{d.clamp(-logMapping.Value(i)), count})
		return false
	})
	slices.Reverse(all)
	if zero := d.sketch.GetZeroCount(); zero > 0 {
		all = append(all, Weighted{d.clamp(0), zero})
	}
	d.sketch.GetPositiveValueStore().ForEach(func(i int, count float64) bool {
		all = append(all, Weighted{d.clamp(logMapping.Value(i)), count})
		return false
	})
	return all
}

// Form of a distribution on disk, after samples, count, sum, min and max: a
// byte of flags, then
//
//   - raw: their number and the values, ascending, 8 bytes each; if
//     distWeights, their weights likewise;
//   - distSketch: the weight at zero, then for positive and negative values
//     the number of bins, and for each bin the distance from the last index (the
//     first one zigzag) and its weight (see appendWeight).
//
// Own rather than the library's, so that a file read in ten years does not
// depend on it, damage is found, and no store is sized by what a file claims.
const (
	distSketch  = 1
	distWeights = 2
	distWidePos = 4
	distWideNeg = 8
)

func (d *distribution) append(dst []byte) []byte {
	d.finish()
	dst = binary.AppendUvarint(dst, d.samples)
	dst = d.count.append(dst)
	dst = d.sum.append(dst)
	dst = appendFloat64(dst, d.min)
	dst = appendFloat64(dst, d.max)
	if d.sketch == nil {
		return d.appendRaw(dst)
	}
	flags := byte(distSketch)
	if d.wide[0] {
		flags |= distWidePos
	}
	if d.wide[1] {
		flags |= distWideNeg
	}
	dst = appendWeight(append(dst, flags), d.sketch.GetZeroCount())
	dst = appendBins(dst, d.sketch.GetPositiveValueStore())
	return appendBins(dst, d.sketch.GetNegativeValueStore())
}

func (d *distribution) appendRaw(dst []byte) []byte {
	var flags byte
	for _, r := range d.raw {
		if r.Weight != 1 {
			flags = distWeights
		}
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(len(d.raw)))
	for _, r := range d.raw {
		dst = appendFloat64(dst, r.Value)
	}
	if flags != 0 {
		for _, r := range d.raw {
			dst = appendFloat64(dst, r.Weight)
		}
	}
	return dst
}

func appendBins(dst []byte, s store.Store) []byte {
	n := uint64(0)
	s.ForEach(func(int, float64) bool { n++; return false })
	dst = binary.AppendUvarint(dst, n)
	last, first := 0, true
	s.ForEach(func(i int, count float64) bool {
		if first {
			dst = binary.AppendVarint(dst, int64(i))
		} else {
			dst = binary.AppendUvarint(dst, uint64(i-last))
		}
		last, first = i, false
		dst = appendWeight(dst, count)
		return false
	})
	return dst
}

// appendWeight writes a whole weight as a varint of twice its value, any other
// as the varint 1 and 8 bytes.
func appendWeight(dst []byte, w float64) []byte {
	if w == math.Trunc(w) && w < 1<<53 {
		return binary.AppendUvarint(dst, uint64(w)<<1)
	}
	return appendFloat64(append(dst, 1), w)
}

func (d *decoder) weight() float64 {
	v := d.uvarint()
	if v&1 == 0 {
		return float64(v >> 1)
	}
	w := d.finite()
	if v != 1 || w <= 0 {
		d.fail()
	}
	return w
}

func (d *distribution) decode(b *decoder) {
	d.samples = b.uvarint()
	d.count, d.sum = b.number(), b.number()
	d.min, d.max = b.finite(), b.finite()
	flags := b.byte()
	if d.samples == 0 || d.min > d.max || d.count.float() <= 0 {
		b.fail()
	}
	var weight float64
	switch {
	case b.err != nil:
		return
	case flags&distSketch == 0:
		weight = d.decodeRaw(b, flags)
	case flags&^(distSketch|distWidePos|distWideNeg) != 0:
		b.fail()
	default:
		d.wide = [2]bool{flags&distWidePos != 0, flags&distWideNeg != 0}
		weight = d.decodeSketch(b)
	}
	// The bins are a second account of the count, and a rougher one: a bin is a
	// plain float64 that loses up to 1e-16 of itself with every fractional weight,
	// hence room for 1e10 of them.
	if count := d.count.float(); math.Abs(weight-count) > 1e-6*count {
		b.fail()
	}
}

func (d *distribution) decodeRaw(b *decoder, flags byte) (weight float64) {
	n := b.uvarint()
	if n != d.samples || n > MaxRaw || flags&^distWeights != 0 {
		b.fail()
		return 0
	}
	d.raw = make([]Weighted, n)
	for i := range d.raw {
		d.raw[i] = Weighted{b.finite(), 1}
	}
	for i := range d.raw {
		if flags&distWeights != 0 {
			d.raw[i].Weight = b.finite()
		}
		if v := d.raw[i]; v.Weight <= 0 || v.Value < d.min || v.Value > d.max || i > 0 && v.Value < d.raw[i-1].Value {
			b.fail()
			return 0
		}
		weight += d.raw[i].Weight
	}
	return weight
}

func (d *distribution) decodeSketch(b *decoder) (weight float64) {
	zero := b.weight()
	pos, weightPos := b.bins()
	neg, weightNeg := b.bins()
	if b.err != nil {
		return 0
	}
	d.sketch = newSketch(pos, neg)
	if zero > 0 {
		d.sketch.AddWithCount(0, zero) // cannot fail: zero is indexable and the weight positive
	}
	return zero + weightPos + weightNeg
}

func (d *decoder) bins() (store.Store, float64) {
	n := d.uvarint()
	if n > maxBins {
		d.fail()
		return nil, 0
	}
	s, weight := store.NewBufferedPaginatedStore(), 0.0
	lowest, highest := int64(logMapping.Index(logMapping.MinIndexableValue())), int64(logMapping.Index(logMapping.MaxIndexableValue()))
	index := int64(0)
	for i := range n {
		if i == 0 {
			index = d.varint()
		} else {
			step := d.uvarint()
			if step == 0 || step > uint64(highest-lowest) {
				d.fail()
			}
			index += int64(step)
		}
		w := d.weight()
		if d.err != nil || w == 0 || index < lowest || index > highest {
			d.fail()
			return nil, 0
		}
		s.AddWithCount(int(index), w)
		weight += w
	}
	return s, weight
}

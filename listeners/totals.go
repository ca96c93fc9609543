package listeners

import (
	"bytes"
	"math"
	"slices"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// maxBuckets is the most buckets that a histogram of DataCat may have.
const maxBuckets = 1000

// An optional is a number that may be missing.
type optional struct {
	number
	given bool
}

// A dataCatItem is one metric as DataCat's clients send it.
type dataCatItem struct {
	name, tags   []byte
	kind         aggregator.Kind
	value, delta optional
	time         int64 // 0 is now

	// A histogram whose buckets have counts is a running total.
	running bool
	bounds  []float64 // ascending as sent; the last may be +Inf
	counts  []float64 // of each bucket alone, not of those below it, too
	sum     optional
}

// readDataCat reads the body. ok is false when it is not of the form that the
// server's own decoder takes.
func (x *exchange) readDataCat() (m *dataCatItem, code Code, ok bool) {
	var name, typ, tags, metadata, at []byte
	m = new(dataCatItem)
	good := true
	number := func(d *jx.Decoder, to *optional) error {
		raw, err := d.Raw()
		*to = optional{given: !absent(raw)}
		good = good && (!to.given || isNumber(raw) && to.parse(raw) == aggregator.Taken)
		return err
	}
	var count optional
	var unit []byte
	ok = x.object(func(d *jx.Decoder, key []byte) (err error) {
		switch string(key) {
		case "name":
			name, err = d.Raw()
		case "type":
			typ, err = d.Raw()
		case "value":
			err = number(d, &m.value)
		case "delta":
			err = number(d, &m.delta)
		case "count":
			err = number(d, &count)
		case "unit":
			unit, err = d.Raw()
		case "tags":
			tags, err = d.Raw()
		case "metadata":
			metadata, err = d.Raw()
		case "timestamp":
			at, err = d.Raw()
		default:
			err = d.Skip()
		}
		return err
	})
	texts := true
	for _, raw := range [][]byte{name, typ, unit, at} {
		texts = texts && (absent(raw) || isText(raw))
	}
	if !ok || !good || !texts || !absent(tags) && tags[0] != '[' || !absent(metadata) && metadata[0] != '{' {
		return nil, Accepted, false
	}
	if m.tags, code = x.tags(tags); code != Accepted {
		return nil, Accepted, false
	}
	if m.kind = aggregator.Gauge; isText(typ) {
		switch string(x.text(typ)) {
		case "counter":
			m.kind = aggregator.Counter
		case "histogram", "timer":
			m.kind = aggregator.Distribution
		}
	}
	if !absent(at) {
		text := x.text(at)
		if m.time, ok = parseTimestamp(text); !ok || text[10] == ' ' {
			return nil, Accepted, false
		}
		if m.time == 0 { // 1970, not now
			m.time = 1
		}
	}
	if m.kind == aggregator.Distribution && !absent(metadata) && !x.readBuckets(m, metadata) {
		return nil, Accepted, false
	}
	m.name, code = x.name(name)
	return m, code, true
}

// readBuckets reads what a histogram's metadata says. Buckets that are numbers
// are bounds for somebody else to count by.
func (x *exchange) readBuckets(m *dataCatItem, metadata []byte) bool {
	good := true
	x.inner.ResetBytes(metadata)
	err := x.inner.ObjBytes(func(d *jx.Decoder, key []byte) error {
		switch {
		case string(key) == "sum" && d.Next() == jx.Number:
			raw, err := d.Raw()
			m.sum.given = m.sum.parse(raw) == aggregator.Taken
			return err
		case string(key) == "buckets" && d.Next() == jx.Array:
			m.running, m.bounds, m.counts = false, nil, nil
			return d.Arr(func(d *jx.Decoder) error {
				if d.Next() != jx.Object {
					return d.Skip()
				}
				m.running = true
				bound, count := math.NaN(), math.NaN()
				err := d.ObjBytes(func(d *jx.Decoder, key []byte) error {
					switch string(key) {
					case "le":
						return readBound(d, &bound)
					case "count":
						return readBound(d, &count)
					}
					return d.Skip()
				})
				good = good && bound > math.Inf(-1) && count >= 0 && count <= 1<<53 && count == math.Trunc(count) && len(m.bounds) < maxBuckets &&
					(len(m.bounds) == 0 || bound > m.bounds[len(m.bounds)-1])
				m.bounds, m.counts = append(m.bounds, bound), append(m.counts, count)
				return err
			})
		}
		return d.Skip()
	})
	return err == nil && good
}

// readBound reads a number, or one of the words for infinity.
func readBound(d *jx.Decoder, to *float64) error {
	if d.Next() == jx.String {
		text, err := d.Str()
		switch text {
		case quotedInfinity, "+Inf", "Inf", "inf", "Infinity":
			*to = math.Inf(1)
		}
		return err
	}
	raw, err := d.Raw()
	var n number
	if err == nil && isNumber(raw) && n.parse(raw) == aggregator.Taken {
		*to = n.value
	}
	return err
}

// A total is what a running total was when it came last.
type total struct {
	number
	bounds, counts []float64
	sum            optional
}

// grow puts what a running total has grown by since it came last into x.batch, and
// notes it; undo takes the note back. A smaller value is a restart of the program:
// then all of it is new. s.mu is held.
func (a *API) grow(x *exchange, s *session, sample *aggregator.Sample, m *dataCatItem) (undo func(), v ending) {
	key := aggregator.Key{Kind: sample.Kind}
	if reason := a.naming.Name(&key, sample); reason != aggregator.Taken {
		return nil, refusal(codeOf(reason))
	}
	series := key.Series().Key()
	last, known := s.totals[series]
	now := &total{number: m.value.number, bounds: m.bounds, counts: m.counts, sum: m.sum}
	const overhead = 200 // of the map and the structure, in bytes
	size := 16 * len(m.bounds)
	if known {
		size -= 16 * len(last.bounds)
	} else {
		size += len(series) + overhead
		last = &total{number: number{exact: true}} // 0, to the last digit
	}
	if size > 0 && !a.sessions.totals.take(size) {
		return nil, tooManyHere
	} else if size < 0 {
		a.sessions.totals.left.Add(int64(-size))
	}
	s.bytes += size
	if s.totals == nil {
		s.totals = make(map[string]*total)
	}
	s.totals[series] = now
	if m.running {
		x.batch = appendHistogram(x.batch, sample, now, last)
	} else if growth := now.since(&last.number); growth.value != 0 || growth.whole != 0 { // one of 2^53 and more may be 0 as a float
		set(sample, &growth, 1)
		x.batch = append(x.batch, *sample)
	}
	return func() {
		if s.totals[series] = last; !known {
			delete(s.totals, series)
		}
		a.sessions.totals.left.Add(int64(size))
		s.bytes -= size
	}, done
}

// since is how much n is more than last, or n when it is less.
func (n *number) since(last *number) number {
	if n.value < last.value {
		return *n
	}
	d := number{value: n.value - last.value}
	if n.exact && last.exact && n.whole-last.whole >= 0 {
		d.whole, d.exact = n.whole-last.whole, true
	}
	d.value = max(min(d.value, math.MaxFloat64), -math.MaxFloat64)
	return d
}

// appendHistogram appends the values that a histogram has met since last, a weighted
// one for each bucket. All lie at the same place between the bounds of their
// buckets, namely where their sum is what the histogram says it is, as far as
// that can be; what is over belongs to the highest bucket, which has what is beyond
// its bound, too.
func appendHistogram(batch []aggregator.Sample, s *aggregator.Sample, now, last *total) []aggregator.Sample {
	counts, sum := now.counts, now.sum.value
	if slices.Equal(now.bounds, last.bounds) && !shrunk(now.counts, last.counts) {
		counts = make([]float64, len(now.counts))
		for i := range counts {
			counts[i] = now.counts[i] - last.counts[i]
		}
		sum -= last.sum.value
	}
	var base, span float64
	lows := make([]float64, len(counts))
	highest := -1
	for i, n := range counts {
		low, high := lower(now.bounds, i), now.bounds[i]
		if math.IsInf(high, 1) {
			high = low
		}
		lows[i] = low
		base += n * low
		span += n * (high - low)
		if n > 0 {
			highest = i
		}
	}
	place := 0.5
	if now.sum.given && span > 0 {
		place = max(0, min((sum-base)/span, 1))
	}
	over := 0.0
	if now.sum.given && highest >= 0 {
		over = max(0, sum-base-place*span) / counts[highest]
	}
	for i, n := range counts {
		if n == 0 {
			continue
		}
		high := now.bounds[i]
		if math.IsInf(high, 1) {
			high = lows[i]
		}
		s.Value, s.Weight = lows[i]+place*(high-lows[i]), n
		if i == highest {
			s.Value += over
		}
		s.Value = max(min(s.Value, math.MaxFloat64), -math.MaxFloat64)
		batch = append(batch, *s)
		s.Flags |= aggregator.Same
	}
	return batch
}

// lower is the bound below a bucket: of the first one 0, if that is less than its own.
func lower(bounds []float64, i int) float64 {
	switch {
	case i > 0:
		return bounds[i-1]
	case math.IsInf(bounds[0], 1):
		return 0
	}
	return min(bounds[0], 0)
}

func shrunk(now, last []float64) bool {
	for i := range now {
		if now[i] < last[i] {
			return true
		}
	}
	return false
}

// quotedInfinity stands for a bare Infinity, with its quotes as long as that.
const quotedInfinity = "infini"

// quoteNonFinite makes JSON of what Python's json module writes for numbers that
// are not finite, a bare NaN, Infinity or -Infinity, where DataCat's clients do:
// inside the metadata of a metric. They become strings of the same length, in
// place; elsewhere they stay what they are, no JSON.
func quoteNonFinite(b []byte) {
	if !bytes.Contains(b, []byte("NaN")) && !bytes.Contains(b, []byte("Infinity")) {
		return
	}
	depth, inside := 0, false
	var key []byte // of the outermost object, seen last
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			end := stringEnd(b, i)
			if depth == 1 && !inside {
				key = b[i:end]
			}
			i = end - 1
		case ':':
			if depth == 1 {
				inside = string(key) == `"metadata"`
			}
		case ',':
			if depth == 1 {
				inside, key = false, nil
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case 'N', 'I', '-':
			if !inside || depth < 2 {
				continue
			}
			for _, word := range [...][2]string{{"NaN", `"N"`}, {"Infinity", `"` + quotedInfinity + `"`}, {"-Infinity", `"-` + quotedInfinity + `"`}} {
				if bytes.HasPrefix(b[i:], []byte(word[0])) {
					copy(b[i:], word[1])
					i += len(word[0]) - 1
					break
				}
			}
		}
	}
}

// stringEnd returns where the JSON string that begins at start ends, behind its
// quote.
func stringEnd(b []byte, start int) int {
	for i := start + 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

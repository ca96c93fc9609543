package aggregator

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// These tests prove what everything after the aggregator relies on: it does not
// matter where windows were cut, in which order they are merged and in which
// groups. Samples come in bursts, so that every limit at which a value changes
// its form is crossed: MaxRaw, maxBins, max_set_members, 64 bits.

// A burst is n samples of one series, made from seed.
type burst struct {
	kind   Kind
	series int
	style  int
	n      int
	seed   uint64
}

var burstGen = rapid.Custom(func(t *rapid.T) burst {
	b := burst{
		kind:   Kind(rapid.IntRange(int(Counter), int(Set)).Draw(t, "kind")),
		series: rapid.IntRange(0, 2).Draw(t, "series"),
		style:  rapid.IntRange(0, 4).Draw(t, "style"),
		n:      rapid.SampledFrom([]int{1, 2, 30, 99, 100, 101, 500}).Draw(t, "n"),
		seed:   rapid.Uint64().Draw(t, "seed"),
	}
	if b.kind == Distribution && b.style == 3 && rapid.Bool().Draw(t, "flood") {
		b.n = 4000 // of so wide a range: more than maxBins of either sign
	}
	return b
})

// samples makes them, and adds up the magnitudes of what is summed.
func (b burst) samples(now time.Time, magnitude map[string]float64) []Sample {
	r := rand.New(rand.NewPCG(b.seed, 1))
	all := make([]Sample, b.n)
	for i := range all {
		s := sample(b.kind, fmt.Sprintf("m%d,k:v", b.series), 0)
		switch b.style {
		case 0:
			s.Value = float64(r.IntN(2000) - 1000)
		case 1:
			s.Value = r.NormFloat64()
		case 2:
			s.Value = math.Ldexp(1, 50+r.IntN(20)) * float64(r.IntN(3)-1)
		case 3:
			s.Value = math.Exp(r.Float64()*1200-600) * float64(1-2*r.IntN(2))
		case 4:
			s.Value = float64(r.IntN(5)) / 4
		}
		switch b.kind {
		case Counter:
			if b.style == 2 {
				s.Flags, s.Whole = Whole, 1<<62+r.Int64N(1<<61)
				s.Value = 0
			}
		case Gauge:
			s.Flags = []uint8{0, Plus, Minus}[r.IntN(3)]
			if s.Value = math.Abs(s.Value); s.Flags == Minus {
				s.Value = -s.Value
			}
			if r.IntN(4) == 0 {
				s.Time = now.Add(time.Duration(r.IntN(120)-60) * time.Second).Truncate(time.Second).UnixNano()
			}
		case Distribution:
			s.Weight = []float64{0, 1, 2, 10, 2.5, 1 / 0.3}[r.IntN(1+b.style)]
		case Set:
			s.Member = fmt.Appendf(nil, "member-%d", r.IntN(60*(b.style+1)))
		}
		magnitude[s.Kind.String()+string(s.Head)] += math.Abs(s.Value) * max(1, s.Weight) * 1e3 // a gauge's running value is greater than its changes
		all[i] = s
	}
	return all
}

func TestMergeEqualsOneWindow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		options := defaults()
		options.NegativeDelta = rapid.Bool().Draw(rt, "negative delta")
		bursts := rapid.SliceOfN(burstGen, 1, 12).Draw(rt, "bursts")
		one, cut := New(options, t0), New(options, t0)
		oneIntake := one.Intake(plain{})
		intakes := []*Intake{cut.Intake(plain{}), cut.Intake(plain{}), cut.Intake(plain{})}

		magnitude := make(map[string]float64)
		var windows []*Window
		now := t0
		for _, b := range bursts {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(rt, "pause")) * time.Millisecond)
			samples := b.samples(now, magnitude)
			put(t, oneIntake, now, samples...)
			// In pieces, through several intakes, with windows cut in between.
			for len(samples) > 0 {
				n := rapid.IntRange(1, len(samples)).Draw(rt, "piece")
				put(t, rapid.SampledFrom(intakes).Draw(rt, "intake"), now, samples[:n]...)
				samples = samples[n:]
				if rapid.IntRange(0, 3).Draw(rt, "cut") == 0 {
					windows = append(windows, cut.Rotate(now)...)
				}
			}
		}
		windows = append(windows, cut.Rotate(now)...)

		whole := one.Rotate(now)
		var wholeReaders []*Reader
		for _, w := range whole {
			wholeReaders = append(wholeReaders, readWindow(t, w))
		}
		want := mergeAll(t, options.MaxSetMembers, nil, wholeReaders...)

		// Merge any of them at a time until one is left.
		var pool [][][]byte
		for _, w := range windows {
			pool = append(pool, clone(w.Parts()))
			w.Release()
		}
		for len(pool) > 1 {
			pool = rapid.Permutation(pool).Draw(rt, "order")
			n := rapid.IntRange(2, len(pool)).Draw(rt, "group")
			var in []*Reader
			for _, parts := range pool[:n] {
				in = append(in, reader(t, parts...))
			}
			pool = append(pool[n:], encodeAll(mergeAll(t, options.MaxSetMembers, nil, in...)))
		}
		got := mergeAll(t, options.MaxSetMembers, nil, reader(t, pool[0]...))
		compare(rt, got, want, magnitude)
	})
}

func compare(t *rapid.T, got, want []fixed, magnitude map[string]float64) {
	if len(got) != len(want) {
		t.Fatalf("%d series, want %d", len(got), len(want))
	}
	for i := range got {
		s, g, w := got[i].series, got[i].value, want[i].value
		if s != want[i].series {
			t.Fatalf("series %d is %s, want %s", i, s, want[i].series)
		}
		slack := 4 * 0x1p-53 * magnitude[s.Kind().String()+s.Name()]
		alike := func(what string, g, w *number) {
			if math.Abs(g.float()-w.float()) > slack {
				t.Errorf("%s: %s = %v, want %v within %g", s, what, g.float(), w.float(), slack)
			}
			// The whole part is exact; what remains is compared above.
			g.sum, g.lost, w.sum, w.lost = 0, 0, 0, 0
		}
		alike("total", &g.counter.total, &w.counter.total)
		alike("gauge sum", &g.gauge.sum, &w.gauge.sum)
		alike("count", &g.dist.count, &w.dist.count)
		alike("sum", &g.dist.sum, &w.dist.sum)
		if s.Kind() == Distribution {
			gb, wb := g.Bins(), w.Bins()
			close := func(a, b Weighted) bool {
				return a.Value == b.Value && math.Abs(a.Weight-b.Weight) <= 1e-12*b.Weight
			}
			if !slices.EqualFunc(gb, wb, close) {
				t.Errorf("%s: bins %v, want %v", s, gb, wb)
			}
			if (g.Raw() == nil) != (g.Samples() > MaxRaw) {
				t.Errorf("%s: %d samples, raw %v", s, g.Samples(), g.Raw() != nil)
			}
			if len(gb) > 2*maxBins+1 {
				t.Errorf("%s: %d bins", s, len(gb))
			}
			if !slices.Equal(gb, wb) {
				continue // weights that are not sums of powers of two: the bytes differ, too
			}
		}
		if gb, wb := g.append(nil), w.append(nil); !bytes.Equal(gb, wb) {
			t.Errorf("%s: encoded\n%x\nwant\n%x\n(%+v, want %+v)", s, gb, wb, g, w)
		}
	}
}

// A merge may be left at any series and taken up behind it by other readers.
func TestMergeAfterResumes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		windows := rapid.SliceOfN(rapid.SliceOfNDistinct(rapid.IntRange(0, 60), 0, 40, rapid.ID[int]), 1, 4).Draw(rt, "windows")
		perBlock := rapid.IntRange(1, 7).Draw(rt, "series per block")
		perPart := rapid.IntRange(1, 4).Draw(rt, "blocks per part")
		open := func() (in []*Reader) {
			for _, w := range windows {
				in = append(in, reader(t, smallParts(countersOf(w), perBlock, perPart)...))
			}
			return in
		}
		all := mergeAll(t, 100, nil, open()...)
		present := make(map[int]int64)
		for _, w := range windows {
			for _, i := range w {
				present[i] += int64(i) + 1
			}
		}
		if len(all) != len(present) {
			rt.Fatalf("merge has %d series, want %d", len(all), len(present))
		}
		for i := range 61 { // also behind a series that is in no window
			after := []byte(counterSeries(i).Key())
			want := slices.IndexFunc(all, func(f fixed) bool { return f.series.Key() > string(after) })
			if want < 0 {
				want = len(all)
			}
			got := mergeAll(t, 100, after, open()...)
			if !slices.EqualFunc(got, all[want:], sameCounter) {
				rt.Fatalf("merge after %d: %d series, want %d", i, len(got), len(all)-want)
			}
		}
		// And the same Merger once more, after it was left in the middle.
		m := Merge(100, nil, open()...)
		for range m.All() {
			break
		}
		var again []fixed
		for s, v := range m.All() {
			again = append(again, fixed{s, *v})
		}
		if m.Err() != nil || !slices.EqualFunc(again, all, sameCounter) {
			rt.Fatalf("All() again: %d series, %v, want %d", len(again), m.Err(), len(all))
		}
	})
}

func TestFind(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := rapid.SliceOfNDistinct(rapid.IntRange(0, 200), 0, 120, rapid.ID[int]).Draw(rt, "series")
		r := reader(t, smallParts(countersOf(in), rapid.IntRange(1, 9).Draw(rt, "series per block"), 3)...)
		for i := range 201 {
			var v Value
			found, err := r.Find(counterSeries(i), &v)
			if err != nil || found != slices.Contains(in, i) {
				rt.Fatalf("Find(%s) = %v, %v in %v", counterSeries(i), found, err, in)
			}
			if found && total(v) != fmt.Sprint(i+1) {
				rt.Fatalf("Find(%s) has %s, want %d", counterSeries(i), total(v), i+1)
			}
		}
	})
}

func sameCounter(a, b fixed) bool { return a.series == b.series && total(a.value) == total(b.value) }

func counterSeries(i int) Series {
	return NewSeries(Counter, "requests", Tag{"code", fmt.Sprint(i)}, Tag{"method", "get"})
}

// countersOf makes counters numbered as in, with the total i+1.
func countersOf(in []int) (all []fixed) {
	for _, i := range in {
		f := fixed{series: counterSeries(i), value: Value{kind: Counter}}
		f.value.counter.take(&Sample{Flags: Whole, Whole: int64(i) + 1})
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b fixed) int { return bytes.Compare([]byte(a.series.key), []byte(b.series.key)) })
	return all
}

// smallParts encodes values in far smaller blocks and parts than encode does.
func smallParts(values []fixed, perBlock, perPart int) (parts [][]byte) {
	return eventParts(values, nil, perBlock, perPart, 1)
}

// eventParts is smallParts with events behind the series, perEvents in a block.
func eventParts(values []fixed, events []*Event, perBlock, perPart, perEvents int) (parts [][]byte) {
	var p partWriter
	cut := func() {
		if p.blocks == perPart {
			parts = append(parts, bytes.Clone(p.closePart()))
		}
	}
	for i := range values {
		if p.add(values[i].series, &values[i].value); len(p.offsets) == perBlock {
			p.closeBlock()
			cut()
		}
	}
	p.closeBlock()
	cut()
	for _, e := range events {
		if p.addEvent(e); p.events == perEvents {
			p.closeEvents()
			cut()
		}
	}
	if p.closeEvents(); p.blocks > 0 {
		parts = append(parts, bytes.Clone(p.closePart()))
	}
	return parts
}

// A merge that limits tags gives what a window would have whose samples had come
// without the others, wherever it is begun anew.
func TestMergeLimitTags(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(rt, "tags")
		now := time.Unix(1000, 0)
		full, cut := New(defaults(), now), New(defaults(), now)
		in, cutIn := full.Intake(plain{}), cut.Intake(plain{})
		for i := range rapid.IntRange(1, 60).Draw(rt, "samples") {
			kind := Kind(rapid.IntRange(int(Counter), int(Set)).Draw(rt, "kind"))
			tags := ""
			for j := range 5 {
				if v := rapid.IntRange(-1, 1).Draw(rt, "value"); v >= 0 {
					tags += fmt.Sprintf(",k%d:%d", j, v)
				}
			}
			s := sample(kind, "m"+tags, float64(rapid.IntRange(0, 9).Draw(rt, "x")))
			if kind == Set {
				s.Member = fmt.Appendf(nil, "u%d", i%7)
			}
			at := now.Add(time.Duration(i) * time.Millisecond)
			put(t, in, at, s)
			if parts := strings.Split(tags, ","); len(parts) > n+1 {
				s.Tags = []byte(strings.Join(parts[1:n+1], ","))
			}
			put(t, cutIn, at, s)
		}
		known := func(v *Value) string { // of a gauge without how often it was set
			if v.Kind() == Gauge {
				return fmt.Sprint(v.Samples(), v.Last(), v.GaugeMin(), v.GaugeMax(), v.GaugeMean())
			}
			return string(v.append(nil))
		}
		windows, want := full.Rotate(now.Add(10*time.Second)), cut.Rotate(now.Add(10*time.Second))
		expect := mergeAll(t, 100, nil, readWindow(t, want[0]))
		var after []byte
		for i := 0; ; i++ { // begun anew behind each
			m := Merge(100, after, readWindow(t, windows[0]))
			m.LimitTags(n)
			more := false
			for s, v := range m.All() {
				if i >= len(expect) || s != expect[i].series || known(v) != known(&expect[i].value) {
					rt.Fatalf("with %d tags, series %d is %v, want one of %v", n, i, s, expect)
				}
				after, more = []byte(m.Last()), true
				break
			}
			if m.Err() != nil {
				rt.Fatal(m.Err())
			}
			if !more {
				if i != len(expect) {
					rt.Fatalf("%d series, want %d", i, len(expect))
				}
				return
			}
		}
	})
}

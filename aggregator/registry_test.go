package aggregator

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// limited is an aggregator of few series.
func limited(maxSeries, perMetric int) (*Aggregator, *Intake) {
	o := defaults()
	o.MaxSeries, o.MaxSeriesPerMetric = maxSeries, perMetric
	a := New(o, t0)
	return a, a.Intake(plain{})
}

// Past the limit new series are folded, by merging, so that totals stay exact,
// for every kind; series that are known stay what they are.
func TestFoldingKeepsTotals(t *testing.T) {
	for _, tt := range []struct{ maxSeries, perMetric int }{{40, 0}, {1000, 10}} {
		a, in := limited(tt.maxSeries, tt.perMetric)
		const series = 500
		for i := range series {
			tags := fmt.Sprintf(",id:%d,zone:b", i)
			put(t, in, t0, sample(Counter, "c"+tags, float64(i)), sample(Gauge, "g"+tags, float64(i)),
				sample(Distribution, "d"+tags, float64(i)), member("s"+tags, fmt.Sprint(i)))
		}
		put(t, in, t0, sample(Counter, "c,id:0,zone:b", 1000)) // known before the limit
		w := a.Rotate(t0)[0]
		values := mergeAll(t, 10_000, nil, readWindow(t, w))
		var sum, count, distSum, members uint64
		for _, f := range values {
			v := f.value
			switch f.series.Kind() {
			case Counter:
				sum += uint64(v.Total())
			case Distribution:
				count += uint64(v.Count())
				distSum += uint64(v.Sum())
			case Set:
				n, exact := v.Unique()
				if members += n; !exact && n < 400 {
					t.Errorf("%s: %d members", f.series, n)
				}
			}
		}
		const all = series * (series - 1) / 2
		if sum != all+1000 || count != series || distSum != all {
			t.Errorf("%+v: counters %d, distributions %d of %d, want %d, %d of %d", tt, sum, distSum, count, all+1000, all, series)
		}
		if members < series*97/100 || members > series*103/100 {
			t.Errorf("%+v: %d members, want about %d", tt, members, series)
		}
		want := [Kinds]uint64{Counter: series + 1, Gauge: series, Distribution: series, Set: series}
		if w.Samples != want {
			t.Errorf("%+v: samples %v, want %v", tt, w.Samples, want)
		}
		for _, kind := range []Kind{Counter, Gauge, Distribution, Set} {
			other := NewSeries(kind, kind.String()[:1], Tag{"id", FoldedValue}, Tag{"zone", "b"})
			if found, err := readWindow(t, w).Find(other, new(Value)); !found || err != nil {
				t.Errorf("%+v: Find(%s) = %v, %v", tt, other, found, err)
			}
		}
		if v := only(t, NewSeries(Counter, "c", Tag{"id", "0"}, Tag{"zone", "b"}), w); total(v) != "1000" {
			t.Errorf("%+v: a series from before the limit has %s, want 1000", tt, total(v))
		}
		s := a.Stats()
		if len(s.Folded) != 4 || s.Folded[0].Metric != "c" || s.Folded[0].Kind != Counter || s.Folded[0].Tag != "id" || len(s.Folded[0].Examples) != maxExamples {
			t.Errorf("%+v: Folded = %+v", tt, s.Folded)
		}
		if s.Series > tt.maxSeries+4 || tt.perMetric > 0 && s.Series != 4*(tt.perMetric+1) {
			t.Errorf("%+v: %d series", tt, s.Series)
		}
	}
}

// Floods of names, of tag keys and of huge keys end in a bounded number of
// series, links and cells, and lose no sample.
func TestFloods(t *testing.T) {
	floods := map[string]func(i int) string{
		"names":     func(i int) string { return fmt.Sprintf("name%d", i) },
		"tag keys":  func(i int) string { return fmt.Sprintf("c,key%d:v", i) },
		"values":    func(i int) string { return fmt.Sprintf("c,key:%d", i) },
		"huge keys": func(i int) string { return fmt.Sprintf("c,id:%d", i) + hugeTags },
		// Not new series at all: only other ways to write one.
		"spellings": func(i int) string { return fmt.Sprintf("c,a:%d,b:1,a:2", i) },
	}
	for name, spelled := range floods {
		t.Run(name, func(t *testing.T) {
			const limit, n = 50, 20_000
			a, in := limited(limit, 0)
			for i := range n {
				put(t, in, t0, sample(Counter, spelled(i), 1))
				if n := in.hot.len + in.cold.len; n > max(2*minLinks, linksPerSeries*limit) || n != int(a.links.Load()) {
					t.Fatalf("%d links, counted as %d", n, a.links.Load())
				}
			}
			if got, most := in.table.cells(), limit+minExtra+2; got > most {
				t.Errorf("%d cells for %d samples, want at most %d", got, n, most)
			}
			if got, most := len(in.fresh), limit+minExtra+2; got > most {
				t.Errorf("%d fresh links, want at most %d", got, most)
			}
			s := a.Stats()
			if most := limit + minExtra + 1; s.Series > most || s.Limit != limit {
				t.Errorf("%d series of %d, want at most %d", s.Series, s.Limit, most)
			}
			if most := limit*bytesPerSeries + minExtra*bytesPerSeries + 1000; a.registry.bytes > most {
				t.Errorf("%d bytes of keys, want at most %d", a.registry.bytes, most)
			}
			var sum uint64
			for _, f := range mergeAll(t, 10, nil, readWindow(t, a.Rotate(t0)[0])) {
				sum += uint64(f.value.Total())
			}
			if sum != n {
				t.Errorf("total %d, want %d", sum, n)
			}
		})
	}
}

var hugeTags = func() string {
	var b strings.Builder
	for i := range 99 {
		fmt.Fprintf(&b, ",%s%d:%s", strings.Repeat("k", 60), i, strings.Repeat("v", 200))
	}
	return b.String()
}()

// Spellings of folded series are not remembered, so they push nobody out.
func TestFloodLeavesLinksAlone(t *testing.T) {
	o := defaults()
	o.MaxSeries = 10
	a := New(o, t0)
	calls := 0
	in := a.Intake(counting{calls: &calls})
	put(t, in, t0, sample(Counter, "busy", 1))
	for i := range 1000 {
		put(t, in, t0, sample(Counter, fmt.Sprintf("c,id:%d", i), 1))
	}
	calls = 0
	put(t, in, t0, sample(Counter, "busy", 1))
	if calls != 0 {
		t.Error("the flood has pushed out the link of another series")
	}
}

// Series that nobody uses leave, and make room for others; the account of keys
// comes out even.
func TestIdleSeriesLeave(t *testing.T) {
	a, in := limited(100, 0)
	now := t0
	windows := func(n int, every ...Sample) {
		for range n {
			if len(every) > 0 {
				put(t, in, now, every...)
			}
			now = now.Add(10 * time.Second)
			for _, w := range a.Rotate(now) {
				w.Release()
			}
		}
	}
	busy := sample(Counter, "busy", 1)
	timed := sample(Counter, "timed", 1)
	for i := range 30 {
		put(t, in, now, sample(Counter, fmt.Sprint("idle", i), 1), sample(Gauge, fmt.Sprint("gauge", i), 1))
	}
	windows(idleWindows-sweepEvery, busy)
	if got := a.Stats().Series; got != 61 {
		t.Errorf("%d series after less than idleWindows, want 61", got)
	}
	for range 2 * sweepEvery { // a series of nothing but late values is in use, too
		timed.Time = now.Add(-time.Minute).UnixNano()
		windows(1, busy, timed)
	}
	if got := a.Stats().Series; got != 32 {
		t.Errorf("%d series after idleWindows, want busy, timed and 30 gauges", got)
	}
	// Nearly full, idle gauges leave soon, and others nearly at once.
	for i := range 60 {
		put(t, in, now, sample(Counter, fmt.Sprint("new", i), 1))
	}
	windows(2*sweepEvery, busy)
	if got := a.Stats().Series; got > 75 {
		t.Errorf("%d series under pressure, want at most three quarters of 100", got)
	}
	for i := range 60 {
		put(t, in, now, sample(Counter, fmt.Sprint("newer", i), 1))
	}
	windows(sweepEvery+idlePressed, busy)
	if got := a.Stats().Series; got > 75 {
		t.Errorf("%d series under more pressure, want at most three quarters of 100", got)
	}
	windows(idleGaugeWindows+2*sweepEvery, busy)
	if got, bytes := a.Stats().Series, a.registry.bytes; got != 1 || bytes != len(NewSeries(Counter, "busy").Key()) {
		t.Errorf("%d series of %d bytes are left, want 1", got, bytes)
	}
	if n := len(a.registry.metrics) + a.registry.singles.len; n != 1 {
		t.Errorf("%d metrics are left, want 1", n)
	}
}

// A series that has left is counted again when its old spelling comes back:
// links do not lead past the limit.
func TestLinksDoNotOutliveSeries(t *testing.T) {
	a, in := limited(20, 0)
	now := t0
	for wave := range 3 {
		for i := range 20 {
			put(t, in, now, sample(Counter, fmt.Sprintf("w%d,i:%d", wave, i), 1))
		}
		for range sweepEvery + 2 {
			now = now.Add(10 * time.Second)
			a.Rotate(now)
		}
	}
	for wave := range 3 {
		for i := range 20 {
			put(t, in, now, sample(Counter, fmt.Sprintf("w%d,i:%d", wave, i), 1))
		}
	}
	w := a.Rotate(now)[0]
	if got, open := w.Len(), a.Stats().Series; got > 20+3 || got > open {
		t.Errorf("window of %d series, %d are open, limit 20", got, open)
	}
}

// What is folded is told, and no longer when the metric has gone.
func TestFoldedIsForgotten(t *testing.T) {
	a, in := limited(1000, 2)
	for m := range 2 * maxFolded {
		for i := range 4 {
			put(t, in, t0, sample(Counter, fmt.Sprintf("m%d,i:%d", m, i), 1))
		}
	}
	if got := len(a.Stats().Folded); got != maxFolded {
		t.Errorf("%d metrics told, want %d", got, maxFolded)
	}
	for range idleWindows + sweepEvery {
		a.Rotate(t0)
	}
	if s := a.Stats(); len(s.Folded) != 0 || s.Series != 0 || a.registry.extra != 0 {
		t.Errorf("%d folded, %d series, %d folds are left", len(s.Folded), s.Series, a.registry.extra)
	}
}

// Whoever wants to know of many series is told when there are so many, each time.
func TestCrowded(t *testing.T) {
	o := defaults()
	o.MaxSeries, o.ManySeries = 100, 10
	a := New(o, t0)
	in := a.Intake(plain{})
	told := func() bool {
		select {
		case <-a.Crowded():
			return true
		default:
			return false
		}
	}
	for wave := range 2 {
		for i := range 30 {
			put(t, in, t0, sample(Counter, fmt.Sprint("c", wave, "_", i), 1))
			if got, want := told(), i == 9; got != want {
				t.Errorf("with %d series told %v, want %v", i+1, got, want)
			}
		}
		for range idleWindows + 2*sweepEvery {
			a.Rotate(t0)
		}
		if n := a.Stats().Series; n != 0 {
			t.Fatalf("%d series are left", n)
		}
	}
}

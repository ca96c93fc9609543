package aggregator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindowsAreAligned(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 10 * time.Second, 30 * time.Second, time.Minute} {
		o := defaults()
		o.Interval = interval
		now := t0.Add(interval/2 + 123*time.Millisecond)
		a := New(o, now)
		in := a.Intake(plain{})
		for range 5 {
			put(t, in, now, sample(Counter, "c", 1))
			if got, want := a.Ends(), now.Truncate(interval).Add(interval); !got.Equal(want) {
				t.Errorf("Ends() at %s = %s, want %s", now, got, want)
			}
			start := now.Truncate(interval)
			now = now.Add(interval)
			w := a.Rotate(now)
			if len(w) != 1 || !w[0].Start.Equal(start) || w[0].Width != interval || w[0].Late {
				t.Fatalf("Rotate(%s) = %+v, want one window of %s", now, w, start)
			}
		}
	}
}

// What a clock does: it stands still, jumps ahead and goes back. A window
// whose start has been closed before is a late one.
func TestClockSteps(t *testing.T) {
	steps := []struct {
		to    time.Duration // where the clock is when the window opens
		start time.Duration // of the window
		late  bool
	}{
		{0, 0, false},
		{4 * time.Second, 0, true}, // rotated early, as at the end of a process
		{11 * time.Second, 10 * time.Second, false},
		{time.Hour, time.Hour, false},
		{20 * time.Second, 20 * time.Second, true}, // set back
		{time.Hour + 9*time.Second, time.Hour, true},
		{time.Hour + 10*time.Second, time.Hour + 10*time.Second, false},
	}
	a := New(defaults(), t0.Add(steps[0].to))
	in := a.Intake(plain{})
	seen := make(map[uint64]bool)
	for i, step := range steps {
		now := t0.Add(step.to)
		put(t, in, now, sample(Counter, "c", 1))
		next := t0.Add(24 * time.Hour)
		if i+1 < len(steps) {
			next = t0.Add(steps[i+1].to)
		}
		w := a.Rotate(next)
		if len(w) != 1 || !w[0].Start.Equal(t0.Add(step.start)) || w[0].Late != step.late {
			t.Fatalf("step %d: %+v, want a window of %s, late %v", i, w, step.start, step.late)
		}
		if seen[w[0].ID] {
			t.Errorf("step %d: ID %d again", i, w[0].ID)
		}
		seen[w[0].ID] = true
	}
}

func TestTimes(t *testing.T) {
	tests := []struct {
		ago    time.Duration
		reason Reason
		start  time.Duration // of the window that has it, from t0
	}{
		{0, Taken, 0},
		{5 * time.Second, Taken, 0},
		{5*time.Second + 1, Taken, -10 * time.Second},
		{-4*time.Second - 999*time.Millisecond, Taken, 0},
		{-5 * time.Second, Taken, 10 * time.Second},
		{time.Hour, Taken, 0*time.Second - time.Hour},
		{time.Hour + 1, Late, 0},
		{-10 * time.Minute, Taken, 10 * time.Minute},
		{-10*time.Minute - 1, Future, 0},
	}
	now := t0.Add(5 * time.Second)
	for _, tt := range tests {
		a := New(defaults(), now)
		in := a.Intake(plain{})
		s := sample(Counter, "c", 3)
		s.Time = now.Add(-tt.ago).UnixNano()
		batch := []Sample{s}
		marked := in.Add(now.UnixNano(), batch)
		if batch[0].Refused != tt.reason || (marked == 1) != (tt.reason != Taken) {
			t.Errorf("%s ago: Refused = %s, marked %d, want %s", tt.ago, batch[0].Refused, marked, tt.reason)
		}
		windows := a.Rotate(now)
		if tt.reason != Taken {
			if len(windows) != 0 || a.Stats().Accepted != [Kinds]uint64{} {
				t.Errorf("%s ago: %d windows, accepted %v", tt.ago, len(windows), a.Stats().Accepted)
			}
			continue
		}
		if want := t0.Add(tt.start); len(windows) != 1 || !windows[0].Start.Equal(want) || windows[0].Late != !want.Equal(t0) {
			t.Errorf("%s ago: %+v, want a window of %s", tt.ago, windows, want)
		}
	}
}

// Late values are bounded in series over all windows together.
func TestTooManyLate(t *testing.T) {
	o := defaults()
	o.MaxSeries = 5
	a := New(o, t0)
	in := a.Intake(plain{})
	late := func(name string, ago int) Reason {
		s := sample(Counter, name, 1)
		s.Time = t0.Add(-time.Duration(ago) * time.Minute).UnixNano()
		batch := []Sample{s}
		in.Add(t0.UnixNano(), batch)
		return batch[0].Refused
	}
	for i := range 5 {
		if got := late("c", i+1); got != Taken {
			t.Fatalf("window %d: %s", i, got)
		}
	}
	if got := late("c", 20); got != TooManyLate {
		t.Errorf("one window more: %s, want %s", got, TooManyLate)
	}
	if got := late("c", 3); got != Taken {
		t.Errorf("one value more: %s, want it taken", got)
	}
	if got := a.Stats().Pending; got != 5 {
		t.Errorf("Pending = %d, want 5", got)
	}
	if got := samplesOf(a.Rotate(t0)); got[Counter] != 6 {
		t.Errorf("windows have %d samples, want 6", got[Counter])
	}
	if got := late("c", 20); got != Taken {
		t.Errorf("after Rotate: %s, want it taken", got)
	}
}

// At any moment every sample that was accepted is in a window that was
// returned, or in an open one; and what windows hold adds up.
func TestAccounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := defaults()
		o.MaxSeries = rapid.SampledFrom([]int{3, 10, 1000}).Draw(rt, "max_series")
		o.MaxSeriesPerMetric = rapid.SampledFrom([]int{0, 4}).Draw(rt, "per metric")
		o.MaxSetMembers = 5
		now := t0
		a := New(o, now)
		intakes := []*Intake{a.Intake(plain{}), a.Intake(plain{})}
		var added, windowed [Kinds]uint64
		var total, whole int64 // counters: what went in, what came out
		check := func() {
			s := a.Stats()
			for k := range Kinds {
				if s.Accepted[k] != s.Windowed[k]+s.Open[k] || s.Accepted[k] != added[k] || s.Windowed[k] != windowed[k] {
					rt.Fatalf("%s: accepted %d = windowed %d + open %d? Added %d, windows have %d",
						Kind(k), s.Accepted[k], s.Windowed[k], s.Open[k], added[k], windowed[k])
				}
			}
		}
		rotate := func() {
			windows := a.Rotate(now)
			for _, w := range windows {
				if w.Len() == 0 {
					rt.Fatalf("window %s is empty", w.Start)
				}
				for k, n := range w.Samples {
					windowed[k] += n
				}
				for _, f := range mergeAll(t, 5, nil, readWindow(t, w)) {
					if f.series.Kind() == Counter {
						n, ok := f.value.counter.total.whole()
						if !ok {
							rt.Fatalf("%s = %s", f.series, f.value.AppendTotal(nil))
						}
						whole += n
					}
				}
				if rapid.Bool().Draw(rt, "release") {
					w.Release()
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"add": func(rt *rapid.T) {
				batch := make([]Sample, rapid.IntRange(1, 20).Draw(rt, "samples"))
				for i := range batch {
					name := rapid.SampledFrom([]string{"a", "b", "!refused", "c", ""}).Draw(rt, "name")
					s := sample(Kind(rapid.IntRange(1, 4).Draw(rt, "kind")), fmt.Sprintf("%s,t:%d", name, rapid.IntRange(0, 8).Draw(rt, "tag")), 0)
					s.Value = float64(rapid.IntRange(-9, 9).Draw(rt, "value"))
					s.Member = fmt.Append(nil, s.Value)
					if rapid.IntRange(0, 3).Draw(rt, "timed") == 0 {
						s.Time = now.Add(time.Duration(rapid.IntRange(-3700, 700).Draw(rt, "offset")) * time.Second).UnixNano()
					}
					batch[i] = s
				}
				marked := rapid.SampledFrom(intakes).Draw(rt, "intake").Add(now.UnixNano(), batch)
				for _, s := range batch {
					if s.Refused == Taken {
						added[s.Kind]++
						if s.Kind == Counter {
							total += int64(s.Value)
						}
					} else {
						marked--
					}
				}
				if marked != 0 {
					rt.Fatalf("marked differs from what is refused by %d", marked)
				}
			},
			"rotate": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(-20, 100).Draw(rt, "seconds")) * time.Second)
				rotate()
			},
		})
		rotate()
		check()
		if whole != total || a.Stats().Open != [Kinds]uint64{} {
			rt.Fatalf("counters out %d, in %d, open %v", whole, total, a.Stats().Open)
		}
	})
}

// Absent bounds the union of live windows from above.
func TestAbsentIsUpperBound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := New(defaults(), t0)
		intakes := []*Intake{a.Intake(plain{}), a.Intake(plain{})}
		now := t0
		var sets []map[Series]bool
		var absent []int
		for range rapid.IntRange(2, 6).Draw(rt, "windows") {
			for range rapid.IntRange(1, 20).Draw(rt, "samples") {
				s := sample(Counter, fmt.Sprintf("m%d", rapid.IntRange(0, 9).Draw(rt, "series")), 1)
				if rapid.IntRange(0, 3).Draw(rt, "late") == 0 {
					s.Time = now.Add(-time.Minute).UnixNano()
				}
				put(t, rapid.SampledFrom(intakes).Draw(rt, "intake"), now, s)
			}
			now = now.Add(10 * time.Second)
			set := make(map[Series]bool)
			n := 0
			for _, w := range a.Rotate(now) {
				if w.Late {
					if int(w.Absent) != w.Len() {
						rt.Fatalf("late window of %d has Absent %d", w.Len(), w.Absent)
					}
					continue
				}
				n = int(w.Absent)
				for _, v := range w.values {
					set[v.series] = true
				}
			}
			sets, absent = append(sets, set), append(absent, n)
		}
		for from := range sets {
			union, bound := make(map[Series]bool), 0
			for i, set := range sets[from:] {
				for s := range set {
					union[s] = true
				}
				if bound += absent[from+i]; i == 0 {
					bound = len(set)
				}
				if len(union) > bound {
					rt.Fatalf("windows %d to %d have %d series, bound %d", from, from+i, len(union), bound)
				}
			}
		}
		if want := len(sets[0]); absent[0] != want {
			rt.Fatalf("first window: Absent %d, want %d", absent[0], want)
		}
	})
}

// A reader that is still in the window before must not hide a series.
func TestAbsentWhileReadersDiffer(t *testing.T) {
	a := New(defaults(), t0)
	early, slow := a.Intake(plain{}), a.Intake(plain{})
	early.open(early.window+1, early.start, early.end, new(table)) // as in the middle of Rotate
	put(t, early, t0, sample(Counter, "c", 1))
	put(t, slow, t0, sample(Counter, "c", 1))
	if early.absent != 1 || slow.absent != 1 {
		t.Errorf("absent %d in the new window, %d in the old one, want 1, 1", early.absent, slow.absent)
	}
}

func TestReleaseReusesMemory(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	used := make(map[*table]bool)
	for range 10 {
		put(t, in, t0, sample(Counter, "c", 1), sample(Distribution, "d", 1), sample(Gauge, "g", 1), member("s", "x"))
		used[in.table] = true
		for _, w := range a.Rotate(t0) {
			w.Release()
		}
	}
	if len(used) > 2 {
		t.Errorf("%d tables for one intake, want 2", len(used))
	}
	// Lent windows stay as they are, whatever comes after them.
	put(t, in, t0, sample(Counter, "c", 5), sample(Distribution, "d", 5), member("s", "five"))
	lent := a.Rotate(t0)[0]
	before := slices.Concat(clone(lent.Parts())...)
	for i := range 10 {
		put(t, in, t0, sample(Counter, "c", 7), sample(Distribution, "d", float64(i)), member("s", "seven"))
		for _, w := range a.Rotate(t0) {
			w.Release()
		}
	}
	if after := slices.Concat(clone(lent.Parts())...); !slices.Equal(before, after) {
		t.Error("a window that is lent has changed")
	}
	// A burst's memory is given back a window later, and at most a table per intake is kept.
	lent.Release()
	for i := range 2000 {
		put(t, in, t0, sample(Counter, fmt.Sprint("burst", i%900), 1), sample(Distribution, fmt.Sprint("burst", i%50), 1))
	}
	for range 4 {
		put(t, in, t0, sample(Counter, "c", 1))
		for _, w := range a.Rotate(t0) {
			w.Release()
		}
	}
	chunks := len(in.table.counters.chunks) + len(in.table.distributions.chunks)
	for _, t := range a.free {
		chunks += len(t.counters.chunks) + len(t.distributions.chunks)
	}
	if chunks > 4 || len(a.free) > 1 {
		t.Errorf("%d chunks, %d tables are kept after a burst", chunks, len(a.free))
	}
}

package aggregator

import (
	"slices"
	"testing"
	"time"
)

// TestConfigureInterval: another interval begins where windows of both begin,
// no window is cut, none overlaps another, and none is late.
func TestConfigureInterval(t *testing.T) {
	o := defaults()
	a := New(o, t0)
	in := a.Intake(plain{})
	var starts, widths []time.Duration
	now := t0
	step := func() {
		put(t, in, now, sample(Counter, "c", 1))
		now = a.Ends().Add(3 * time.Millisecond)
		for _, w := range a.Rotate(now) {
			if w.Late {
				t.Errorf("the window of %s is late", w.Start)
			}
			starts, widths = append(starts, w.Start.Sub(t0)), append(widths, w.Width)
		}
	}
	step()
	o.Interval = 30 * time.Second // t0+10s is inside of one: two more of 10 s
	a.Configure(o)
	for range 4 {
		step()
	}
	o.Interval = 15 * time.Second
	a.Configure(o)
	step()
	step()
	const s = time.Second
	if want := []time.Duration{0, 10 * s, 20 * s, 30 * s, 60 * s, 90 * s, 120 * s}; !slices.Equal(starts, want) {
		t.Errorf("windows start at %v, want %v", starts, want)
	}
	if want := []time.Duration{10 * s, 10 * s, 10 * s, 30 * s, 30 * s, 30 * s, 15 * s}; !slices.Equal(widths, want) {
		t.Errorf("windows last %v, want %v", widths, want)
	}
}

// TestConfigureLate: values of other times that came before the interval changed
// are in a window of the width they were sorted into.
func TestConfigureLate(t *testing.T) {
	o := defaults()
	a := New(o, t0)
	in := a.Intake(plain{})
	old := sample(Counter, "c", 1)
	old.Time = t0.Add(-45 * time.Second).UnixNano()
	put(t, in, t0, old)
	o.Interval = time.Minute
	a.Configure(o)
	now := t0.Add(time.Minute)
	w := a.Rotate(now)
	if len(w) != 1 || w[0].Width != 10*time.Second || !w[0].Start.Equal(t0.Add(-50*time.Second)) {
		t.Fatalf("Rotate() = %+v, want one window of 10 s", w)
	}
	put(t, in, now, old)
	if w = a.Rotate(now.Add(time.Minute)); len(w) != 1 || w[0].Width != time.Minute || !w[0].Start.Equal(t0.Add(-time.Minute)) {
		t.Fatalf("Rotate() = %+v, want one window of a minute", w)
	}
}

// TestConfigureLimits: limits hold for what comes from then on.
func TestConfigureLimits(t *testing.T) {
	o := defaults()
	o.MaxSeries = 1
	a := New(o, t0)
	in := a.Intake(plain{})
	put(t, in, t0, sample(Counter, "a", 1), sample(Counter, "b", 1))
	o.MaxSeries, o.NegativeDelta = 10, true
	a.Configure(o)
	g := sample(Gauge, "g", -5)
	g.Flags = Minus
	put(t, in, t0, sample(Counter, "c", 1), sample(Gauge, "g", 7), g)
	w := a.Rotate(t0.Add(10 * time.Second))[0]
	if got := total(only(t, NewSeries(Counter, "c"), w)); got != "1" {
		t.Errorf("c = %s, want a series of its own", got)
	}
	if v := only(t, NewSeries(Gauge, "g"), w); v.Last() != 2 {
		t.Errorf("g = %v, want 2: a minus is a change by now", v.Last())
	}
	if got := a.Stats().Limit; got != 10 {
		t.Errorf("Limit = %d, want 10", got)
	}
}

// renaming is a spelling whose answer changes.
type renaming struct{ to *string }

func (r renaming) Name(dst *Key, _ *Sample) Reason {
	dst.SetName([]byte(*r.to))
	return Taken
}

// TestForget: after Forget every spelling is asked for again, in the middle of
// a window, and nothing is counted twice or lost.
func TestForget(t *testing.T) {
	a := New(defaults(), t0)
	name := "before"
	in := a.Intake(renaming{&name})
	put(t, in, t0, sample(Counter, "c", 1), sample(Counter, "c", 1))
	a.Forget()
	put(t, in, t0, sample(Counter, "c", 1)) // the same series in another cell
	name = "after"
	put(t, in, t0, sample(Counter, "c", 1))
	a.Forget()
	put(t, in, t0, sample(Counter, "c", 5))
	w := a.Rotate(t0.Add(10 * time.Second))[0]
	if got := total(only(t, NewSeries(Counter, "before"), w)); got != "4" {
		t.Errorf("before = %s, want 4", got)
	}
	if got := total(only(t, NewSeries(Counter, "after"), w)); got != "5" {
		t.Errorf("after = %s, want 5", got)
	}
	if w.Len() != 2 || w.Samples[Counter] != 5 {
		t.Errorf("%d series and %d samples, want 2 and 5", w.Len(), w.Samples[Counter])
	}
}

// TestIntakeClose: what a closed intake took is in the next window, the
// accounts go on balancing, and it is let go of.
func TestIntakeClose(t *testing.T) {
	a := New(defaults(), t0)
	kept := a.Intake(plain{})
	now := t0
	for range 100 {
		in := a.Intake(plain{})
		put(t, in, now, sample(Counter, "c", 1))
		put(t, kept, now, sample(Counter, "c", 1))
		in.Close()
		now = now.Add(10 * time.Second)
		w := a.Rotate(now)
		if got := total(only(t, NewSeries(Counter, "c"), w...)); got != "2" {
			t.Fatalf("c = %s, want 2", got)
		}
		w[0].Release()
	}
	if s := a.Stats(); s.Accepted[Counter] != 200 || s.Windowed[Counter] != 200 {
		t.Errorf("accepted %d, windowed %d, want 200 and 200", s.Accepted[Counter], s.Windowed[Counter])
	}
	if n := len(a.all()); n != 1 {
		t.Errorf("%d intakes are kept, want 1", n)
	}
}

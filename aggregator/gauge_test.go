package aggregator

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// gauges makes samples of one gauge from numbers as they are written.
func gauges(written ...string) (all []Sample) {
	for _, w := range written {
		var v float64
		if _, err := fmt.Sscan(w, &v); err != nil {
			panic(err)
		}
		s := sample(Gauge, "g", v)
		switch w[0] {
		case '+':
			s.Flags = Plus
		case '-':
			s.Flags = Minus
		}
		all = append(all, s)
	}
	return all
}

// The rules of docs/protocols.md on signs.
func TestGaugeSigns(t *testing.T) {
	tests := []struct {
		written         []string
		absolute, delta float64
	}{
		{[]string{"333"}, 333, 333},
		{[]string{"333", "-10", "+4"}, -6, 327},
		{[]string{"0", "-5"}, -5, -5},
		{[]string{"-10"}, -10, -10},
		{[]string{"+1", "-1"}, 0, 0},
		{[]string{"+1", "-1", "7", "-1"}, 6, 6},
		{[]string{"-1", "-1"}, -1, -2},
		{[]string{"-1", "+1", "-1"}, -1, -1},
		{[]string{"+1e308", "+1e308"}, 1.7976931348623157e308, 1.7976931348623157e308},
	}
	for _, tt := range tests {
		for _, delta := range []bool{false, true} {
			want := tt.absolute
			if delta {
				want = tt.delta
			}
			o := defaults()
			o.NegativeDelta = delta
			// All in one window, and each in its own: the running value survives.
			together, apart := New(o, t0), New(o, t0)
			a, b := together.Intake(plain{}), apart.Intake(plain{})
			var last *Window
			for i, s := range gauges(tt.written...) {
				now := t0.Add(time.Duration(i) * 10 * time.Second)
				put(t, a, now, s)
				put(t, b, now, s)
				last = apart.Rotate(now.Add(10 * time.Second))[0]
			}
			v := only(t, NewSeries(Gauge, "g"), together.Rotate(t0.Add(time.Hour))...)
			if got := v.Last(); got != want {
				t.Errorf("%q with delta %v = %g, want %g", tt.written, delta, got, want)
			}
			v = only(t, NewSeries(Gauge, "g"), last)
			if got := v.Last(); got != want {
				t.Errorf("%q in windows of their own with delta %v = %g, want %g", tt.written, delta, got, want)
			}
		}
	}
}

func TestGaugeKeepsSummary(t *testing.T) {
	a := New(defaults(), t0)
	put(t, a.Intake(plain{}), t0, gauges("3", "-2", "8", "1")...)
	v := only(t, NewSeries(Gauge, "g"), a.Rotate(t0)...)
	got := fmt.Sprint(v.Samples(), v.Last(), v.GaugeMin(), v.GaugeMax(), v.GaugeMean())
	if want := "4 1 -2 8 2.5"; got != want {
		t.Errorf("samples, last, min, max, mean = %s, want %s", got, want)
	}
}

// A gauge that nobody touches has no value in the window, but its running value stays.
func TestGaugeUntouched(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	put(t, in, t0, gauges("10")...)
	now := t0
	for i := range 100 { // longer than other series stay
		now = now.Add(10 * time.Second)
		if got := len(a.Rotate(now)); i > 0 && got != 0 {
			t.Fatalf("Rotate %d answers %d windows, want 0", i, got)
		}
	}
	put(t, in, now, gauges("+1")...)
	if v := only(t, NewSeries(Gauge, "g"), a.Rotate(now)...); v.Last() != 11 {
		t.Errorf("10, a long pause, +1 = %g, want 11", v.Last())
	}
}

// With a time a sign is only a sign, and the running value is left alone.
func TestGaugeWithTime(t *testing.T) {
	o := defaults()
	o.NegativeDelta = true
	a := New(o, t0)
	in := a.Intake(plain{})
	at := func(written string, d time.Duration) Sample {
		s := gauges(written)[0]
		s.Time = t0.Add(d).UnixNano()
		return s
	}
	// At arrival the time is 5 s: the value of 7 s is the last of its window.
	put(t, in, t0.Add(5*time.Second), gauges("100")[0], at("-7", 7*time.Second), at("+3", 2*time.Second))
	// Same second: the later arrival stays. Another window: first the greater time, then less.
	put(t, in, t0.Add(5*time.Second), at("1", -60*time.Second), at("2", -60*time.Second), at("3", -61*time.Second))
	put(t, in, t0.Add(8*time.Second), gauges("+1")...)

	windows := a.Rotate(t0.Add(10 * time.Second))
	if len(windows) != 3 {
		t.Fatalf("Rotate answers %d windows, want 3", len(windows))
	}
	g := NewSeries(Gauge, "g")
	for i, want := range []string{"101 -7 101", "3 3 3", "2 1 2"} { // live, then late ones, oldest first
		v := only(t, g, windows[i])
		if got := fmt.Sprint(v.Last(), v.GaugeMin(), v.GaugeMax()); got != want {
			t.Errorf("window %s: last, min, max = %s, want %s", windows[i].Start, got, want)
		}
	}
	// In whichever order they are merged.
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		if v := only(t, g, windows[order[0]], windows[order[1]], windows[order[2]]); v.Last() != 101 {
			t.Errorf("merged %v: last %g, want 101", order, v.Last())
		}
	}
}

// A clock that is set back does not make an earlier value the last.
func TestGaugeClockSetBack(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	put(t, in, t0, gauges("1")...)
	first := a.Rotate(t0)[0]
	put(t, in, t0.Add(-time.Hour), gauges("2")...)
	second := a.Rotate(t0)[0]
	if v := only(t, NewSeries(Gauge, "g"), second, first); v.Last() != 2 {
		t.Errorf("last = %g, want 2", v.Last())
	}
}

// Changes from several readers at once add up to the exact running value.
func TestGaugeChangesFromSeveralReaders(t *testing.T) {
	a := New(defaults(), t0)
	const readers, changes = 4, 2000
	var wg sync.WaitGroup
	for range readers {
		in := a.Intake(plain{})
		wg.Go(func() {
			batch := gauges("+3", "-1")
			for range changes {
				in.Add(t0.UnixNano(), batch)
			}
		})
	}
	var windows []*Window
	for range 50 {
		windows = append(windows, a.Rotate(t0)...)
	}
	wg.Wait()
	windows = append(windows, a.Rotate(t0)...)
	v := only(t, NewSeries(Gauge, "g"), windows...)
	if got, want := v.Last(), float64(readers*changes*2); got != want {
		// +3 is a change, and so is -1 after it.
		t.Errorf("running value = %g, want %g", got, want)
	}
	if got, want := v.Samples(), uint64(readers*changes*2); got != want {
		t.Errorf("samples = %d, want %d", got, want)
	}
}

package aggregator

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// An index finds what was put into it and not removed since, by either key, and grows
// and shrinks with it.
func TestIndex(t *testing.T) {
	for _, metric := range []bool{false, true} {
		x := newIndex(metric)
		there := map[string]*entry{}
		r := rand.New(rand.NewPCG(1, 2))
		slots := func() (n int) {
			for i := range x.shards {
				n += len(x.shards[i].hashes)
			}
			return n
		}
		key := func(i int) string {
			s := NewSeries(Counter, fmt.Sprint("m", i), Tag{"k", "v"})
			if metric {
				return s.metric()
			}
			return s.Key()
		}
		most := 0
		for step := range 60_000 {
			i := r.IntN(9000)
			k := key(i)
			switch e := there[k]; {
			case e != nil && step > 20_000 && (step > 45_000 || step%2 == 0):
				x.remove(e)
				delete(there, k)
			case e == nil && step < 45_000:
				e := &entry{series: NewSeries(Counter, fmt.Sprint("m", i), Tag{"k", "v"})}
				x.put(x.hash([]byte(k)), e)
				there[k] = e
			}
			if x.len != len(there) {
				t.Fatalf("step %d: len %d, want %d", step, x.len, len(there))
			}
			if got := x.find(x.hash([]byte(k)), []byte(k)); got != there[k] {
				t.Fatalf("step %d: find(%q) = %p, want %p", step, k, got, there[k])
			}
			most = max(most, slots())
			if step%5000 != 0 {
				continue
			}
			for i := range 9000 {
				if got := x.find(x.hash([]byte(key(i))), []byte(key(i))); got != there[key(i)] {
					t.Fatalf("step %d: find(%q) = %p, want %p", step, key(i), got, there[key(i)])
				}
			}
		}
		for _, e := range there {
			x.remove(e)
		}
		if n := slots(); x.len != 0 || n > 256*minSlots || most < 9000 {
			t.Errorf("%d entries and %d slots are left of %d", x.len, n, most)
		}
	}
}

// The first series of a metric is alone; the second makes it a metric, whose last one
// may be any of them.
func TestAlone(t *testing.T) {
	a, in := limited(100, 0)
	now := t0
	windows := func(n int, names ...string) {
		for range n {
			for _, name := range names {
				put(t, in, now, sample(Counter, name, 1))
			}
			now = now.Add(a.Interval())
			for _, w := range a.Rotate(now) {
				w.Release()
			}
		}
	}
	check := func(singles, metrics int) {
		t.Helper()
		if r := a.registry; r.singles.len != singles || len(r.metrics) != metrics {
			t.Errorf("%d alone and %d metrics, want %d and %d", r.singles.len, len(r.metrics), singles, metrics)
		}
	}
	windows(1, "a,i:1", "b,i:1", "c,i:1")
	check(3, 0)
	windows(1, "a,i:2", "b,i:2", "a,i:3")
	check(1, 2)
	windows(idleWindows+2*sweepEvery, "b,i:2")
	check(0, 1)
	windows(1, "a,i:2")
	check(1, 1)
	windows(idleWindows+2*sweepEvery, "d,i:2")
	check(1, 0)
}

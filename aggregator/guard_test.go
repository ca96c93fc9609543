package aggregator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sums adds up the totals of counters by the series' tags, less some.
func sums(t *testing.T, w *Window, without ...string) map[string]uint64 {
	t.Helper()
	all := make(map[string]uint64)
	for _, f := range mergeAll(t, 10_000, nil, readWindow(t, w)) {
		name := f.series.Name()
		for k, v := range f.series.Tags() {
			if !slices.Contains(without, k) {
				name += "," + k + ":" + v
			}
		}
		all[name] += uint64(f.value.Total())
	}
	return all
}

// Of an exploding metric only the tag that explodes is folded: what its other
// tags say stays exact, series from before stay what they are, and the culprit
// is named.
func TestGuardFoldsOneTag(t *testing.T) {
	a, in := limited(10_000, 100)
	in.From("udp:somewhere")
	spelled := func(i int) string {
		return fmt.Sprintf("c,code:%d,route:r%d,user:u%d", 200+i%2, i%5, i)
	}
	for i := range 60 {
		put(t, in, t0, sample(Counter, spelled(i), 1))
	}
	a.Rotate(t0)[0].Release()
	const n = 5000
	for i := range n {
		put(t, in, t0, sample(Counter, spelled(i), 1))
	}
	w := a.Rotate(t0)[0]
	for name, got := range sums(t, w, "user") {
		if got != n/10 {
			t.Errorf("%s: %d, want %d", name, got, n/10)
		}
	}
	folded := 0
	for _, f := range mergeAll(t, 10, nil, readWindow(t, w)) {
		switch text := f.series.String(); {
		case strings.Contains(text, "user:"+FoldedValue):
			folded++
			if strings.Count(text, FoldedValue) != 1 {
				t.Errorf("%s: more than the exploding tag is folded", text)
			}
		case f.value.Total() != 1:
			t.Errorf("%s: %v, want 1", text, f.value.Total())
		}
	}
	if folded != 10 || w.Len() != 110 {
		t.Errorf("%d series of which %d are folded, want 110 and 10", w.Len(), folded)
	}
	s := a.Stats()
	want := Folded{Metric: "c", Kind: Counter, Tag: "user", Examples: []string{"u100", "u101", "u102"}, Sender: "udp:somewhere"}
	if len(s.Folded) != 1 || fmt.Sprint(s.Folded[0]) != fmt.Sprint(want) {
		t.Errorf("Folded = %+v, want %+v", s.Folded, want)
	}
	if got := s.FoldedSamples[Counter]; got != n-100 {
		t.Errorf("%d samples folded, want %d", got, n-100)
	}
}

// When two tags explode both are folded, and the third stays.
func TestGuardFoldsTwoTags(t *testing.T) {
	a, in := limited(10_000, 100)
	const n = 20_000
	for i := range n {
		put(t, in, t0, sample(Counter, fmt.Sprintf("c,route:r%d,session:%d,user:%d", i%4, i/3, i), 1))
	}
	w := a.Rotate(t0)[0]
	if got, most := w.Len(), 100+2*extraPerTag; got > most {
		t.Errorf("%d series, want at most %d", got, most)
	}
	for name, got := range sums(t, w, "session", "user") {
		if got != n/4 {
			t.Errorf("%s: %d, want %d", name, got, n/4)
		}
	}
	if s := a.Stats(); len(s.Folded) != 1 || s.Folded[0].Tag != "user,session" {
		t.Errorf("Folded = %+v", s.Folded)
	}
}

// While the registry is full because of one metric, others go on: those it
// knows exactly, and small ones may still grow.
func TestGuardLeavesOthersAlone(t *testing.T) {
	const limit = 5000
	a, in := limited(limit, 0)
	for i := range 20 {
		put(t, in, t0, sample(Counter, fmt.Sprintf("known,route:%d", i), 1))
	}
	for i := range 2 * limit {
		put(t, in, t0, sample(Counter, fmt.Sprintf("culprit,user:%d", i), 1))
	}
	for i := range 20 {
		put(t, in, t0, sample(Counter, fmt.Sprintf("known,route:%d", i), 1))
		put(t, in, t0, sample(Counter, fmt.Sprintf("small%d,route:a", i), 1))
	}
	w := a.Rotate(t0)[0]
	all := sums(t, w)
	for i := range 20 {
		if got := all[fmt.Sprintf("known,route:%d", i)]; got != 2 {
			t.Errorf("known route %d: %d, want 2", i, got)
		}
		if got := all[fmt.Sprintf("small%d,route:a", i)]; got != 1 {
			t.Errorf("small metric %d: %d, want 1", i, got)
		}
	}
	if s := a.Stats(); len(s.Folded) != 1 || s.Folded[0].Metric != "culprit" {
		t.Errorf("Folded = %+v", s.Folded)
	}
}

// A flood of names is told of, too, for it takes their names from metrics that come later;
// once it has gone it is told of no longer.
func TestGuardTellsOfNames(t *testing.T) {
	a, in := limited(100, 0)
	now := t0
	flood := func(sender, spelled string) {
		t.Helper()
		in.From(sender)
		for i := range 3000 {
			put(t, in, now, sample(Counter, fmt.Sprintf(spelled, i), 1))
		}
	}
	told := func(want ...Folded) {
		t.Helper()
		if s := a.Stats(); fmt.Sprint(s.Folded) != fmt.Sprint(want) {
			t.Errorf("Folded = %+v, want %+v", s.Folded, want)
		}
	}
	flood("udp:first", "job%d")
	told(Folded{Metric: FoldedValue, Kind: Counter, Examples: []string{"job1100", "job1101", "job1102"}, Sender: "udp:first"})
	for range idleWindows + sweepEvery {
		now = now.Add(10 * time.Second)
		a.Rotate(now)
	}
	told()
	for i := range 100 {
		put(t, in, now, sample(Gauge, fmt.Sprintf("full%d", i), 1))
	}
	told()
	flood("udp:second", "job%d,route:a") // of which the first keep their names
	told(Folded{Metric: FoldedValue, Kind: Counter, Examples: []string{"job0", "job1", "job2"}, Sender: "udp:second"})
}

// Once the flood has gone its metric is a metric like any other.
func TestGuardRelaxes(t *testing.T) {
	a, in := limited(1000, 50)
	now := t0
	flood := func(tag string) {
		for i := range 200 {
			put(t, in, now, sample(Counter, fmt.Sprintf("c,%s:%d", tag, i), 1))
		}
	}
	flood("user")
	for range idleWindows + sweepEvery {
		put(t, in, now, sample(Counter, "c,user:1", 1))
		now = now.Add(10 * time.Second)
		a.Rotate(now)
	}
	if s := a.Stats(); len(s.Folded) != 0 || s.Series != 1 {
		t.Fatalf("%d series, folded %+v; want 1 and none", s.Series, s.Folded)
	}
	flood("path")
	if s := a.Stats(); len(s.Folded) != 1 || s.Folded[0].Tag != "path" || s.Series > 50+1 {
		t.Errorf("%d series, folded %+v; want at most 51, and path", s.Series, s.Folded)
	}
	if got := len(a.registry.metrics["\x01c\x01"].members); got != a.Stats().Series {
		t.Errorf("%d members of the only metric, %d series", got, a.Stats().Series)
	}
}

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sluice/aggregator"
)

// Of many metrics those with the most series are kept, and of these the ones
// with the most samples, in this order, however they come.
func TestLargestMetrics(t *testing.T) {
	for _, metrics := range []int{0, 1, maxSizes, maxSizes + 1, 7 * maxSizes} {
		now := time.Now()
		a := aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxSeries: 1 << 20, MaxSetMembers: 10}, now)
		in := a.Intake(named{})
		r := rand.New(rand.NewPCG(1, 2))
		for i := range metrics {
			for series := range 1 + r.IntN(5) {
				for range 1 + r.IntN(3) {
					in.Add(now.UnixNano(), []aggregator.Sample{{Kind: aggregator.Counter, Head: fmt.Appendf(nil, "m%d", i),
						Tags: fmt.Append(nil, series), Flags: aggregator.Whole, Whole: 1}})
				}
			}
		}
		var all []metricDoc
		var sluice agent
		for _, w := range a.Rotate(now) {
			for m := range w.Sizes() {
				all = append(all, metricDoc{Name: m.Name, Series: m.Series, Rate: float64(m.Samples) / 10})
			}
			sluice.noteSizes(w)
			w.Release()
		}
		if len(all) != metrics {
			t.Fatalf("%d metrics in the window, want %d", len(all), metrics)
		}
		slices.SortStableFunc(all, func(x, y metricDoc) int {
			if x.Series != y.Series {
				return y.Series - x.Series
			}
			return int(10*y.Rate+.5) - int(10*x.Rate+.5)
		})
		got := sluice.biggest(2 * maxSizes)
		if want := min(metrics, maxSizes); len(got) != want {
			t.Fatalf("%d of %d metrics are kept, want %d", len(got), metrics, want)
		}
		for i, m := range got {
			if m.Name != all[i].Name || m.Series != all[i].Series {
				t.Fatalf("of %d metrics number %d is %s with %d series, want %s with %d", metrics, i, m.Name, m.Series, all[i].Name, all[i].Series)
			}
		}
	}
}

// named is the spelling of a sample with a name and one tag.
type named struct{}

func (named) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	dst.Tag([]byte("n"), s.Tags)
	return aggregator.Taken
}

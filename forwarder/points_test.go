package forwarder

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/aggregator"
)

// t0 is when windows of tests without a clock begin.
var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// reader reads the window that is open in s.
func (s *source) reader() *aggregator.Reader {
	s.t.Helper()
	var parts [][]byte
	for _, w := range s.agg.Rotate(s.agg.Ends()) {
		for p := range w.Parts() {
			parts = append(parts, slices.Clone(p))
		}
		w.Release()
	}
	r, err := aggregator.OpenReader(parts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// withValue calls fn with the value of a distribution of these values.
func withValue(t testing.TB, values []aggregator.Weighted, fn func(*aggregator.Value)) {
	t.Helper()
	s := newSource(t, t0)
	for _, v := range values {
		s.measure(t0, "d", "", v.Value, v.Weight)
	}
	for _, v := range aggregator.Merge(100, nil, s.reader()).All() {
		fn(v)
	}
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}

func TestPointsAsTheyCame(t *testing.T) {
	values := []aggregator.Weighted{{Value: 3, Weight: 1}, {Value: -1, Weight: 1}, {Value: 2, Weight: 1}, {Value: 2, Weight: 1}}
	withValue(t, values, func(v *aggregator.Value) {
		for k, want := range map[int][]float64{0: {}, -1: {}, 1: {1.5}, 2: {0.5, 2.5}, 4: {-1, 2, 2, 3}, 20: {-1, 2, 2, 3}} {
			if got := appendPoints([]float64{}, v, k); !slices.Equal(got, want) {
				t.Errorf("points of 4 values with k = %d: %v, want %v", k, got, want)
			}
		}
	})
	// The same weight for all is a sample rate: the values stand for themselves.
	withValue(t, []aggregator.Weighted{{Value: 5, Weight: 10}, {Value: 7, Weight: 10}}, func(v *aggregator.Value) {
		if got, want := appendPoints(nil, v, 20), []float64{5, 7}; !slices.Equal(got, want) {
			t.Errorf("points of 2 values of weight 10 = %v, want %v", got, want)
		}
	})
	// Other weights: 9 of 10 measurements were 1.
	withValue(t, []aggregator.Weighted{{Value: 1, Weight: 9}, {Value: 11, Weight: 1}}, func(v *aggregator.Value) {
		got := appendPoints(nil, v, 20)
		if len(got) != 20 || mean(got) != 2 || got[17] != 1 || got[18] != 11 {
			t.Errorf("points of weights 9 and 1 = %v, want 18 times 1 and 2 times 11", got)
		}
	})
}

// For whatever values and weights: at most k points, ascending, within what was
// measured, and their mean is that of the distribution: exact while the values are
// known, and to the sketch's 1 % of their magnitude beyond.
func TestPointsProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := rapid.IntRange(1, 100).Draw(rt, "k")
		n := rapid.IntRange(1, 300).Draw(rt, "n")
		scale := math.Pow(10, float64(rapid.IntRange(-30, 300).Draw(rt, "scale")))
		weighted := rapid.Bool().Draw(rt, "weighted")
		seed := rapid.Uint64().Draw(rt, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		var values []aggregator.Weighted
		total, weight, magnitude := 0.0, 0.0, 0.0
		for range n {
			w := 1.0
			if weighted {
				w = 1 / float64(1+rng.IntN(1000))
				w = max(1, w*1000)
			}
			values = append(values, aggregator.Weighted{Value: rng.NormFloat64() * scale, Weight: w})
			weight += w
		}
		for _, v := range values {
			total += v.Value * (v.Weight / weight)
			magnitude += math.Abs(v.Value) * (v.Weight / weight)
		}
		withValue(t, values, func(v *aggregator.Value) {
			got := appendPoints(nil, v, k)
			if len(got) > k || len(got) < min(k, n) {
				rt.Fatalf("%d points, want %d to %d", len(got), min(k, n), k)
			}
			if !slices.IsSorted(got) || got[0] < v.Min() || got[len(got)-1] > v.Max() {
				rt.Errorf("points = %v, want ascending within [%v, %v]", got, v.Min(), v.Max())
			}
			tolerance := 1e-9 * magnitude
			if v.Raw() == nil {
				tolerance = 0.0101 * magnitude
			}
			if got := mean(got); math.Abs(got-total) > tolerance {
				rt.Errorf("mean of the points = %v, want %v within %v", got, total, tolerance)
			}
		})
	})
}

// TestPointsErrors measures what the upstream makes of the points of one window
// of 10,000 values, and of the six windows of a minute together; run it with -v.
// The bounds are what was measured, rounded up, so that a change for the worse shows.
func TestPointsErrors(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	shapes := []struct {
		name string
		draw func() float64
		most [3]float64 // error of avg, p50, p99 with 20 points
	}{
		{"uniform", func() float64 { return rng.Float64() * 100 }, [3]float64{0.01, 0.05, 0.05}},
		{"lognormal", func() float64 { return math.Exp(rng.NormFloat64()) }, [3]float64{0.01, 0.05, 0.30}},
		{"bimodal", func() float64 {
			if rng.IntN(10) == 0 {
				return 200 + 20*rng.NormFloat64()
			}
			return 10 + rng.NormFloat64()
		}, [3]float64{0.01, 0.05, 0.10}},
	}
	t.Logf("%-10s %4s %8s %8s %8s", "values", "k", "avg", "p50", "p99")
	for _, shape := range shapes {
		values := make([]aggregator.Weighted, 10_000)
		all := make([]float64, len(values))
		for i := range values {
			all[i] = shape.draw()
			values[i] = aggregator.Weighted{Value: all[i], Weight: 1}
		}
		slices.Sort(all)
		withValue(t, values, func(v *aggregator.Value) {
			for _, k := range []int{5, 10, 20, 50, 100} {
				got := appendPoints(nil, v, k)
				errs := [3]float64{mean(got)/mean(all) - 1, percentile(got, 0.5)/percentile(all, 0.5) - 1, percentile(got, 0.99)/percentile(all, 0.99) - 1}
				t.Logf("%-10s %4d %7.2f%% %7.2f%% %7.2f%%", shape.name, k, 100*errs[0], 100*errs[1], 100*errs[2])
				for i, what := range []string{"avg", "p50", "p99"} {
					if k == 20 && math.Abs(errs[i]) > shape.most[i] {
						t.Errorf("%s: error of %s with 20 points = %.4f, want at most %v", shape.name, what, errs[i], shape.most[i])
					}
				}
			}
		})
	}
}

// percentile is PostgreSQL's percentile_cont, which the upstream uses. values
// must be sorted.
func percentile(values []float64, q float64) float64 {
	at := q * float64(len(values)-1)
	lo, hi := values[int(math.Floor(at))], values[int(math.Ceil(at))]
	return lo + (hi-lo)*(at-math.Floor(at))
}

func BenchmarkPoints(b *testing.B) {
	for _, n := range []int{20, 100, 10_000} {
		values := make([]aggregator.Weighted, n)
		for i := range values {
			values[i] = aggregator.Weighted{Value: math.Exp(rand.NormFloat64()), Weight: 1}
		}
		withValue(b, values, func(v *aggregator.Value) {
			b.Run(fmt.Sprintf("values=%d", n), func(b *testing.B) {
				b.ReportAllocs()
				var dst []float64
				for b.Loop() {
					dst = appendPoints(dst[:0], v, fewPoints)
				}
			})
		})
	}
}

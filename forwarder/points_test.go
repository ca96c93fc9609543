package forwarder

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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
			if got := appendPoints([]float64{}, v, k, turn{}); !slices.Equal(got, want) {
				t.Errorf("points of 4 values with k = %d: %v, want %v", k, got, want)
			}
		}
	})
	// The same weight for all is a sample rate: the values stand for themselves.
	withValue(t, []aggregator.Weighted{{Value: 5, Weight: 10}, {Value: 7, Weight: 10}}, func(v *aggregator.Value) {
		if got, want := appendPoints(nil, v, 20, turn{}), []float64{5, 7}; !slices.Equal(got, want) {
			t.Errorf("points of 2 values of weight 10 = %v, want %v", got, want)
		}
	})
	// Other weights: 9 of 10 measurements were 1.
	withValue(t, []aggregator.Weighted{{Value: 1, Weight: 9}, {Value: 11, Weight: 1}}, func(v *aggregator.Value) {
		got := appendPoints(nil, v, 20, turn{})
		if len(got) != 20 || mean(got) != 2 || got[17] != 1 || got[18] != 11 {
			t.Errorf("points of weights 9 and 1 = %v, want 18 times 1 and 2 times 11", got)
		}
	})
}

// For whatever values and weights: at most k points, ascending, within what was
// measured; and the mean of those of all turns is that of the distribution: exact
// while the values are known, and to the sketch's 1 % of their magnitude beyond.
func TestPointsProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := rapid.IntRange(1, 100).Draw(rt, "k")
		n := rapid.IntRange(1, 300).Draw(rt, "n")
		turns := rapid.IntRange(1, maxTurns).Draw(rt, "turns")
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
			var all []float64
			for at := range turns {
				got := appendPoints(nil, v, k, turn{at, turns})
				if len(got) > k || len(got) < min(k, n) {
					rt.Fatalf("%d points, want %d to %d", len(got), min(k, n), k)
				}
				if !slices.IsSorted(got) || got[0] < v.Min() || got[len(got)-1] > v.Max() {
					rt.Errorf("points = %v, want ascending within [%v, %v]", got, v.Min(), v.Max())
				}
				all = append(all, got...)
			}
			tolerance := 1e-9 * magnitude
			if v.Raw() == nil {
				tolerance = 0.0101 * magnitude
			}
			if got := mean(all); math.Abs(got-total) > tolerance {
				rt.Errorf("mean of the points of all turns = %v, want %v within %v", got, total, tolerance)
			}
		})
	})
}

// The windows of any minute take every turn as often as the others, and a window
// of the same place takes another in the next minute. What is coarser takes none.
func TestTurns(t *testing.T) {
	for width, of := range map[time.Duration]int{
		time.Second: 6, 2 * time.Second: 6, 5 * time.Second: 6, 10 * time.Second: 6, 15 * time.Second: 4,
		20 * time.Second: 3, 30 * time.Second: 2,
	} {
		for _, start := range []time.Time{t0, t0.Add(17 * time.Minute)} {
			seen := make(map[turn]int)
			for at := start; at.Before(start.Add(minute)); at = at.Add(width) {
				got := turnOf(at, width)
				if seen[got]++; got.of != of || got.at < 0 || got.at >= of {
					t.Fatalf("turnOf(%v, %v) = %v, want one of %d", at, width, got, of)
				}
				if next := turnOf(at.Add(minute), width); next == got {
					t.Errorf("turnOf(%v, %v) = %v, and the same a minute later", at, width, got)
				}
			}
			for got, n := range seen {
				if want := int(minute/width) / of; n != want {
					t.Errorf("windows of %v in the minute %v take turn %v %d times, want %d", width, start, got, n, want)
				}
			}
		}
	}
	for _, width := range []time.Duration{0, minute, time.Hour} {
		if got := turnOf(t0.Add(10*time.Second), width); got != (turn{}) {
			t.Errorf("turnOf(%v) = %v, want none", width, got)
		}
	}
}

// shapes are kinds of data that distributions are made of.
var shapes = []struct {
	name string
	draw func(*rand.Rand) float64
}{
	{"uniform", func(rng *rand.Rand) float64 { return rng.Float64() * 100 }},
	{"log-normal", func(rng *rand.Rand) float64 { return math.Exp(rng.NormFloat64()) }},
	{"bimodal", func(rng *rand.Rand) float64 { // one of twelve misses the cache
		if rng.IntN(12) == 0 {
			return 200 + 20*rng.NormFloat64()
		}
		return 10 + rng.NormFloat64()
	}},
	{"heavy-tailed", func(rng *rand.Rand) float64 { return math.Pow(1-rng.Float64(), -1/1.5) }}, // Pareto, of infinite variance
}

// choices are ways to choose points: ours, without turns, and the plain middles of
// the slices.
var choices = []struct {
	name   string
	choose func(v *aggregator.Value, k int, start time.Time) []float64
}{
	{"turns", func(v *aggregator.Value, k int, start time.Time) []float64 {
		return appendPoints(nil, v, k, turnOf(start, interval))
	}},
	{"means", func(v *aggregator.Value, k int, _ time.Time) []float64 { return appendPoints(nil, v, k, turn{}) }},
	{"middles", func(v *aggregator.Value, k int, _ time.Time) (middles []float64) {
		for i := range k {
			middles = append(middles, v.Quantile((float64(i)+0.5)/float64(k)))
		}
		return middles
	}},
}

var shown = []string{"avg", "p50", "p90", "p95", "p99", "min", "max"}

// show gives what the upstream shows of values, in the order of shown.
func show(values []float64) [7]float64 {
	slices.Sort(values)
	return [...]float64{mean(values), percentile(values, 0.5), percentile(values, 0.9), percentile(values, 0.95),
		percentile(values, 0.99), values[0], values[len(values)-1]}
}

// showEach is show of every stretch of so many windows.
func showEach(values [][]float64, windows int) (all [][7]float64) {
	for stretch := range slices.Chunk(values, windows) {
		all = append(all, show(slices.Concat(stretch...)))
	}
	return all
}

// pointErrors gives how far what the upstream shows is from the truth, as a share
// of it, on average. That of min is a share of the median, because min can be 0.
func pointErrors(got, truth [][7]float64) (errs [7]float64) {
	for i, want := range truth {
		for j := range errs {
			of := want[j]
			if shown[j] == "min" {
				of = want[1]
			}
			errs[j] += math.Abs((got[i][j]-want[j])/of) / float64(len(truth))
		}
	}
	return errs
}

// TestPointsErrors measures what the upstream makes of the points of an hour of
// windows of 1,000 values, minute by minute and as a whole, and where a minute has
// one such window only. It prints the tables of docs/points.md; run it with -v.
// The bounds are what was measured, rounded up, so that a change for the worse shows.
func TestPointsErrors(t *testing.T) {
	const size = 1000
	windows := 360
	if testing.Short() {
		windows = 60
	}
	most := map[string][3]float64{ // error of avg, p95, p99 within a minute, with 20 points
		"uniform":      {0.01, 0.01, 0.01},
		"log-normal":   {0.02, 0.05, 0.12},
		"bimodal":      {0.03, 0.03, 0.03},
		"heavy-tailed": {0.10, 0.06, 0.25},
	}
	spans := []struct {
		name    string
		windows int
	}{{"one window alone", 1}, {"a minute", 6}, {"an hour", windows}}
	tables := make([]string, len(spans))
	ks := []int{0, 6, 10, 20, 50, 100}
	tails := make(map[string]float64) // errors of p90, p95 and p99 of all shapes, by choice, k and span
	for _, shape := range shapes {
		rng := rand.New(rand.NewPCG(1, 2))
		truth := make([][]float64, windows)
		points := make(map[string][][]float64) // by choice and k, of each window
		for w := range truth {
			values := make([]aggregator.Weighted, size)
			for i := range values {
				v := shape.draw(rng)
				truth[w] = append(truth[w], v)
				values[i] = aggregator.Weighted{Value: v, Weight: 1}
			}
			withValue(t, values, func(v *aggregator.Value) {
				for _, k := range ks {
					for _, c := range choices {
						key := fmt.Sprint(c.name, k)
						points[key] = append(points[key], c.choose(v, k, t0.Add(time.Duration(w)*interval)))
					}
				}
			})
		}
		for i, span := range spans {
			want := showEach(truth, span.windows)
			for _, k := range ks {
				row := fmt.Sprintf("| %s | %d |", shape.name, k)
				if k == 0 {
					if got := len(slices.Concat(points["turns0"]...)); got != 0 {
						t.Errorf("%s: %d points with k = 0, want none", shape.name, got)
					}
					tables[i] += row + strings.Repeat(" - |", len(shown)) + "\n"
					continue
				}
				errs := make(map[string][7]float64)
				for _, c := range choices {
					e := pointErrors(showEach(points[fmt.Sprint(c.name, k)], span.windows), want)
					errs[c.name] = e
					tails[fmt.Sprint(c.name, k, span.name)] += e[2] + e[3] + e[4]
				}
				for j := range shown {
					row += fmt.Sprintf(" %.1f / %.1f / %.1f |", 100*errs["turns"][j], 100*errs["means"][j], 100*errs["middles"][j])
				}
				tables[i] += row + "\n"
				if k == 20 && span.windows == 6 {
					for n, j := range []int{0, 3, 4} {
						if got, want := errs["turns"][j], most[shape.name][n]; got > want {
							t.Errorf("%s: error of %s within a minute with 20 points = %.3f, want at most %v", shape.name, shown[j], got, want)
						}
					}
				}
			}
		}
	}
	for i, span := range spans {
		t.Logf("%s: error in %% (turns / means / middles)\n\n| values | k | %s |\n|---|---|%s\n%s", span.name,
			strings.Join(shown, " | "), strings.Repeat("---|", len(shown)), tables[i])
		for _, k := range ks[1:] {
			turns, means := tails[fmt.Sprint("turns", k, span.name)], tails[fmt.Sprint("means", k, span.name)]
			if span.windows > 1 && turns > means {
				t.Errorf("%s, k = %d: errors of p90, p95 and p99 add up to %.2f with turns, to %.2f without", span.name, k, turns, means)
			}
		}
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
					dst = appendPoints(dst[:0], v, fewPoints, turn{3, 6})
				}
			})
		})
	}
}

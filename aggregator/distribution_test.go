package aggregator

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func distributionOf(values ...float64) *Value {
	v := &Value{kind: Distribution}
	for _, x := range values {
		v.dist.take(&Sample{Value: x})
	}
	v.dist.finish()
	return v
}

// near answers whether v is the quantile q of sorted within 1 %: the value at
// place q*(n-1), or between its neighbours, for DDSketch rounds the place up
// among negative values and down among others.
func near(v float64, sorted []float64, q float64) bool {
	place := q * float64(len(sorted)-1)
	low, high := sorted[int(place)], sorted[int(math.Ceil(place))]
	return v >= low-0.01*math.Abs(low)-1e-12 && v <= high+0.01*math.Abs(high)+1e-12
}

func TestQuantileAccuracy(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	shapes := map[string]func() float64{
		"uniform":   func() float64 { return 1 + 99*r.Float64() },
		"lognormal": func() float64 { return math.Exp(r.NormFloat64() * 2) },
		"bimodal": func() float64 {
			if r.IntN(2) == 0 {
				return 10 + r.NormFloat64()
			}
			return 1000 + 20*r.NormFloat64()
		},
		"negative": func() float64 { return -math.Exp(r.NormFloat64()) },
		"both":     func() float64 { return r.NormFloat64() * 100 },
	}
	for name, shape := range shapes {
		for _, n := range []int{1, 2, MaxRaw, MaxRaw + 1, 50_000} {
			values := make([]float64, n)
			sum := 0.0
			for i := range values {
				values[i] = shape()
				sum += values[i]
			}
			v := distributionOf(values...)
			slices.Sort(values)
			for _, q := range []float64{0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1} {
				got, want := v.Quantile(q), values[int(q*float64(n-1))]
				if n <= MaxRaw && got != want || !near(got, values, q) {
					t.Errorf("%s of %d: Quantile(%g) = %g, want %g", name, n, q, got, want)
				}
			}
			if v.Min() != values[0] || v.Max() != values[n-1] || v.Count() != float64(n) || math.Abs(v.Sum()-sum) > 1e-9*math.Abs(sum)+1e-6 {
				t.Errorf("%s of %d: min %g, max %g, count %g, sum %g", name, n, v.Min(), v.Max(), v.Count(), v.Sum())
			}
			weight := 0.0
			for _, b := range v.Bins() {
				weight += b.Weight
			}
			if weight != float64(n) {
				t.Errorf("%s of %d: bins weigh %g", name, n, weight)
			}
		}
	}
}

// A value of weight w is the same as w of them.
func TestWeights(t *testing.T) {
	for _, repeat := range []int{1, 40} {
		weighted, plain := &Value{kind: Distribution}, &Value{kind: Distribution}
		for range repeat {
			for value, weight := range map[float64]float64{1: 5, 2: 1, 7: 20, -3: 2} {
				weighted.dist.take(&Sample{Value: value, Weight: weight})
				for range int(weight) {
					plain.dist.take(&Sample{Value: value})
				}
			}
		}
		weighted.dist.finish()
		plain.dist.finish()
		if weighted.Count() != plain.Count() || weighted.Sum() != plain.Sum() {
			t.Errorf("count %g, sum %g, want %g, %g", weighted.Count(), weighted.Sum(), plain.Count(), plain.Sum())
		}
		for q := 0.0; q <= 1; q += 1.0 / 64 {
			got, want := weighted.Quantile(q), plain.Quantile(q)
			if math.Abs(got-want) > 0.021*math.Abs(want) { // either may be a sketch's
				t.Errorf("repeated %d times: Quantile(%g) = %g, want %g", repeat, q, got, want)
			}
		}
	}
	third := &Value{kind: Distribution}
	third.dist.take(&Sample{Value: 3, Weight: 1 / 0.3})
	if third.Count() != 1/0.3 || third.Sum() != 3*(1/0.3) {
		t.Errorf("rate 0.3: count %g, sum %g", third.Count(), third.Sum())
	}
}

// Values that a sketch cannot index stay in minimum, maximum and sum as they are.
func TestExtremeValues(t *testing.T) {
	values := []float64{math.MaxFloat64, -math.MaxFloat64, 5e-324, -5e-324, 0, 1e308, 1.7e308}
	for len(values) <= MaxRaw {
		values = append(values, values[:7]...)
	}
	v := distributionOf(values...)
	if v.Raw() != nil || v.Min() != -math.MaxFloat64 || v.Max() != math.MaxFloat64 {
		t.Errorf("raw %v, min %g, max %g", v.Raw(), v.Min(), v.Max())
	}
	d := decoder{b: v.dist.append(nil)}
	var again Value
	if again.decode(Distribution, &d); d.err != nil || again.Count() != float64(len(values)) {
		t.Errorf("decoded count %g, %v", again.Count(), d.err)
	}
	// Bins are never outside of what there was.
	same := distributionOf(slices.Repeat([]float64{100.3}, MaxRaw+1)...)
	if bins := same.Bins(); len(bins) != 1 || bins[0] != (Weighted{100.3, MaxRaw + 1}) {
		t.Errorf("bins %v, want one of 100.3", bins)
	}
	tiny := distributionOf(slices.Repeat([]float64{1e-320}, MaxRaw+1)...)
	if bins := tiny.Bins(); len(bins) != 1 || bins[0].Value != 1e-320 || tiny.Quantile(0.5) != 1e-320 {
		t.Errorf("bins %v, median %g, want 1e-320", bins, tiny.Quantile(0.5))
	}
}

// One sender's widest values: bounded in bins, and the high end stays accurate.
func TestWideSketchIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var d distribution
	values := make([]float64, 20_000)
	for i := range values {
		values[i] = math.Exp(r.Float64()*1400 - 700)
		if i%2 == 0 {
			values[i] = -values[i]
		}
		d.take(&Sample{Value: values[i]})
		if n := len(d.bins()); i%499 == 0 && n > 2*(maxBins+checkEvery)+MaxRaw+1 {
			t.Fatalf("%d bins after %d values", n, i+1)
		}
	}
	v := Value{kind: Distribution, dist: d}
	v.dist.finish()
	if n := len(v.Bins()); n > 2*maxBins+1 {
		t.Errorf("%d bins", n)
	}
	slices.Sort(values)
	for _, q := range []float64{0, 0.01, 0.99, 0.999, 1} {
		if got := v.Quantile(q); !near(got, values, q) {
			t.Errorf("Quantile(%g) = %g, want about %g", q, got, values[int(q*float64(len(values)-1))])
		}
	}
	if got := len(v.append(nil)); got > 16<<10 {
		t.Errorf("encoded in %d bytes", got)
	}
}

package aggregator

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func benchAggregator(maxSeries int) *Aggregator {
	o := defaults()
	o.MaxSeries, o.MaxSetMembers = maxSeries, 10_000
	return New(o, t0)
}

// kindBatch is what a datagram of one kind holds: 40 samples of 40 series.
func kindBatch(kind Kind) []Sample {
	batch := make([]Sample, 40)
	for i := range batch {
		batch[i] = sample(kind, fmt.Sprintf("http.server.requests,route:/api/v1/things/%d,code:200,method:get", i), float64(10+i))
		batch[i].Member = fmt.Appendf(nil, "user-%d", i)
	}
	return batch
}

// BenchmarkAdd: ns/op is per sample.
func BenchmarkAdd(b *testing.B) {
	for _, kind := range []Kind{Counter, Gauge, Distribution, Set} {
		for _, readers := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/readers=%d", kind, readers), func(b *testing.B) {
				a := benchAggregator(100_000)
				b.ReportAllocs()
				var wg sync.WaitGroup
				for range readers {
					in, batch := a.Intake(plain{}), kindBatch(kind)
					n := b.N / readers
					wg.Go(func() {
						for range n/len(batch) + 1 {
							in.Add(t0.UnixNano(), batch)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkAddDatagrams: 1,000 series of all kinds, 25 samples a datagram, in
// random order; ns/op is per datagram.
func BenchmarkAddDatagrams(b *testing.B) {
	a := benchAggregator(100_000)
	in := a.Intake(plain{})
	all := mixedSamples(1000)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	in.Add(t0.UnixNano(), all)
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		in.Add(t0.UnixNano(), all[at:at+25])
		at = (at + 25) % len(all)
	}
}

// mixedSamples are one sample each of n series: 6 of 10 counters, 2 gauges, 1
// distribution, 1 set.
func mixedSamples(n int) []Sample {
	kinds := [10]Kind{Counter, Counter, Counter, Counter, Counter, Counter, Gauge, Gauge, Distribution, Set}
	all := make([]Sample, n)
	for i := range all {
		all[i] = sample(kinds[i%10], fmt.Sprintf("service.calls,route:/api/v1/things/%d,code:200,method:get", i), float64(i%100))
		all[i].Member = fmt.Appendf(nil, "user-%d", i)
	}
	return all
}

func BenchmarkRotate(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			a := benchAggregator(2 * n)
			in := a.Intake(plain{})
			all := mixedSamples(n)
			in.Add(t0.UnixNano(), all)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				in.Add(t0.UnixNano(), all)
				b.StartTimer()
				for _, w := range a.Rotate(t0) {
					w.Release()
				}
			}
		})
	}
}

// benchWindow is one window of n series, 20 samples of each.
func benchWindow(n int, seed uint64) *Window {
	a := benchAggregator(2 * n)
	in := a.Intake(plain{})
	r := rand.New(rand.NewPCG(seed, 0))
	all := mixedSamples(n)
	for range 20 {
		for i := range all {
			all[i].Value = float64(r.IntN(10_000))
			all[i].Member = fmt.Appendf(nil, "user-%d", r.IntN(500))
		}
		in.Add(t0.UnixNano(), all)
	}
	return a.Rotate(t0)[0]
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			w := benchWindow(n, 1)
			size := 0
			b.ReportAllocs()
			for b.Loop() {
				size = 0
				for p := range w.Parts() {
					size += len(p)
				}
			}
			b.ReportMetric(float64(size)/float64(n), "B/series")
		})
	}
}

func BenchmarkScan(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			parts := clone(benchWindow(n, 1).Parts())
			b.ReportAllocs()
			for b.Loop() {
				if got := len(mergeKeys(b, reader(b, parts...))); got != n {
					b.Fatalf("%d series, want %d", got, n)
				}
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	parts := clone(benchWindow(10_000, 1).Parts())
	series := mergeKeys(b, reader(b, parts...))
	b.Run("one of 10000, window just opened", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			var v Value
			if found, err := reader(b, parts...).Find(series[i%len(series)], &v); !found || err != nil {
				b.Fatal(found, err)
			}
			i += 7919
		}
	})
	b.Run("one of 10000", func(b *testing.B) {
		r := reader(b, parts...)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			var v Value
			if found, err := r.Find(series[i%len(series)], &v); !found || err != nil {
				b.Fatal(found, err)
			}
			i += 7919
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	var windows [][][]byte
	for i := range 6 {
		windows = append(windows, clone(benchWindow(1000, uint64(i)).Parts()))
	}
	b.ReportAllocs()
	for b.Loop() {
		var in []*Reader
		for _, parts := range windows {
			in = append(in, reader(b, parts...))
		}
		if got := len(mergeKeys(b, in...)); got != 1000 {
			b.Fatalf("%d series, want 1000", got)
		}
	}
}

func mergeKeys(b *testing.B, in ...*Reader) (all []Series) {
	m := Merge(10_000, nil, in...)
	for s := range m.All() {
		all = append(all, s)
	}
	if m.Err() != nil {
		b.Fatal(m.Err())
	}
	return all
}

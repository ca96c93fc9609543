package aggregator

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"testing"
)

// BenchmarkBurst: a million series that are met for the first time, in datagrams of 20 in no
// order, and their window closed and written. With the collector as it is when there are many.
func BenchmarkBurst(b *testing.B) {
	const n = 1_000_000
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	var text []byte
	var at []int // where each name begins, and each list of tags
	for _, i := range order {
		at = append(at, len(text))
		text = fmt.Appendf(text, "shop.req.c%04d", i)
		at = append(at, len(text))
		text = fmt.Appendf(text, "env:prod,service:checkout,route:u_%04d", i)
	}
	at = append(at, len(text))
	b.ReportAllocs()
	for b.Loop() {
		a := benchAggregator(n)
		in := a.Intake(plain{})
		batch := make([]Sample, 0, 20)
		for i := range n {
			batch = append(batch, Sample{Kind: Counter, Head: text[at[2*i]:at[2*i+1]], Tags: text[at[2*i+1]:at[2*i+2]], Flags: Whole, Whole: 1})
			if len(batch) == cap(batch) {
				in.Add(t0.UnixNano(), batch)
				batch = batch[:0]
			}
		}
		for _, w := range a.Rotate(t0) {
			for range w.Parts() {
			}
			w.Release()
		}
	}
}

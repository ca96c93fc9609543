package aggregator

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// Spellings that differ in anything differ in both hashes: in one bit, in where the name
// ends, in how many zeros there are, in kind and origin.
func TestSpelled(t *testing.T) {
	k := newHashKeys()
	seen := [2]map[uint64]string{{}, {}}
	note := func(s Sample) {
		t.Helper()
		text := fmt.Sprintf("%d %d %q %q", s.Kind, s.Origin, s.Head, s.Tags)
		for i, h := range k.spell(&s) {
			if was, ok := seen[i][h]; ok && was != text {
				t.Fatalf("hash %d of %s and %s is the same", i, was, text)
			}
			seen[i][h] = text
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 70 {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		for cut := range n + 1 {
			note(Sample{Kind: Counter, Head: text[:cut], Tags: text[cut:]})
			note(Sample{Kind: Counter, Head: make([]byte, cut), Tags: make([]byte, n-cut)})
		}
		for bit := range 8 * n {
			other := bytes.Clone(text)
			other[bit/8] ^= 1 << (bit % 8)
			note(Sample{Kind: Counter, Head: other})
			note(Sample{Kind: Counter, Head: []byte("name"), Tags: other})
		}
		note(Sample{Kind: Gauge, Head: text})
		note(Sample{Kind: Counter, Head: text, Origin: 1})
		note(Sample{Kind: Counter, Head: text, Origin: 1 << 31})
	}
	for i := range 300_000 { // as programs write them
		note(Sample{Kind: Counter, Head: []byte("shop.requests"), Tags: fmt.Appendf(nil, "env:prod,user:%d", i)})
	}
}

// A bit of the text changes each bit of the hashes in half of the cases, and the two are
// of no use for guessing one another.
func TestSpelledSpreads(t *testing.T) {
	k := newHashKeys()
	r := rand.New(rand.NewPCG(3, 4))
	const n = 20_000
	var flips [128]int
	alike := 0
	for range n {
		text := make([]byte, 1+r.IntN(60))
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		s := Sample{Kind: Counter, Head: text[:len(text)/2], Tags: text[len(text)/2:]}
		before := k.spell(&s)
		text[r.IntN(len(text))] ^= 1 << r.IntN(8)
		after := k.spell(&s)
		for b := range flips {
			flips[b] += int((before[b/64] ^ after[b/64]) >> (b % 64) & 1)
		}
		alike += bits.OnesCount64(before[0] ^ before[1])
	}
	for b, got := range flips {
		if got < n*45/100 || got > n*55/100 { // 14 standard deviations
			t.Errorf("bit %d changes in %d of %d cases", b, got, n)
		}
	}
	if mean := float64(alike) / n; mean < 31 || mean > 33 {
		t.Errorf("the two hashes differ in %.1f of 64 bits", mean)
	}
}

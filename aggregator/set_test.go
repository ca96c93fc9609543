package aggregator

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestSetIsExactToItsLimit(t *testing.T) {
	const limit = 1000
	v := Value{kind: Set}
	for range 3 {
		for i := range limit {
			v.set.take(fmt.Appendf(nil, "user-%d", i), limit)
		}
	}
	if n, exact := v.Unique(); n != limit || !exact || v.Samples() != 3*limit {
		t.Errorf("Unique() = %d, %v, samples %d, want %d, true, %d", n, exact, v.Samples(), limit, 3*limit)
	}
	if members := slices.Collect(v.Members()); len(members) != limit || !slices.IsSorted(members) {
		t.Errorf("%d members, sorted %v", len(members), slices.IsSorted(members))
	}
	v.set.take([]byte("one more"), limit)
	if n, exact := v.Unique(); exact || math.Abs(float64(n)/(limit+1)-1) > 0.02 {
		t.Errorf("Unique() = %d, %v, want about %d, false", n, exact, limit+1)
	}
	for i := range 1_000_000 {
		v.set.take(fmt.Appendf(nil, "user-%d", i), limit)
	}
	if n, _ := v.Unique(); math.Abs(float64(n)/1_000_001-1) > 0.025 {
		t.Errorf("Unique() = %d, want about 1000001", n)
	}
	if got := len(v.append(nil)); got > 17<<10 {
		t.Errorf("encoded in %d bytes", got)
	}
}

// Long members are bounded by their bytes.
func TestSetIsBoundedInBytes(t *testing.T) {
	v := Value{kind: Set}
	for i := range 40 {
		v.set.take([]byte(strings.Repeat(string(rune('A'+i)), 60_000)), 10_000)
		if got := len(v.append(nil)); got > maxSetBytes+100 {
			t.Fatalf("encoded in %d bytes after %d members", got, i+1)
		}
	}
	if n, exact := v.Unique(); n != 40 || exact {
		t.Errorf("Unique() = %d, %v, want 40, false", n, exact)
	}
}

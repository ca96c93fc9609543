package aggregator

import (
	"math/rand/v2"
	"testing"
)

// links finds what was noted last of a spelling, and of no other: also where half of
// the hash is the same, and while it grows from one table to many.
func TestLinks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x links
	want := map[spelled]*link{}
	var keys []spelled
	check := func() {
		t.Helper()
		for at, l := range want {
			if got := x.find(at); got != l {
				t.Fatalf("find(%x) = %p, want %p, of %d", at, got, l, x.len)
			}
			if got := x.find(spelled{at[0], at[1] + 1}); got != want[spelled{at[0], at[1] + 1}] {
				t.Fatalf("half of %x is found", at)
			}
		}
	}
	for n := range 5 * oneTable {
		at := spelled{r.Uint64(), r.Uint64()}
		switch {
		case n%7 == 0 && n > 0: // noted again
			at = keys[r.IntN(len(keys))]
		case n%11 == 0 && n > 0: // of the first half the same
			at[0] = keys[r.IntN(len(keys))][0]
		case n%13 == 0: // all from one end of a table
			at[0] |= 0xFFFFFFFF << 32
		}
		if got := x.find(at); got != want[at] {
			t.Fatalf("find(%x) = %p before it is there, want %p", at, got, want[at])
		}
		l := new(link)
		x.put(at, l)
		want[at] = l
		keys = append(keys, at)
		if x.len != len(want) {
			t.Fatalf("len %d, want %d", x.len, len(want))
		}
		if n == oneTable/2 || n == oneTable*2 {
			check()
		}
	}
	check()
	if len(x.tables) != manyTables {
		t.Errorf("%d tables, want %d", len(x.tables), manyTables)
	}
}

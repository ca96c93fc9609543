package aggregator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// The largest values and keys there can be, of bytes that do not compress:
// every part stays within its bound and every series is found.
func TestPartsAreBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	var values []fixed
	for i := range 10 {
		f := fixed{series: NewSeries(Set, fmt.Sprint("set", i)), value: Value{kind: Set}}
		for f.value.set.bytes < maxSetBytes-1100 {
			f.value.set.take(random(1000), 10_000)
		}
		values = append(values, f)
	}
	for range 300 {
		k := Key{Kind: Counter}
		k.SetName(random(MaxName))
		for len(k.tags) < MaxTags {
			k.Tag(random(MaxTagKey), random(MaxTagValue))
		}
		f := fixed{series: k.Series(), value: Value{kind: Counter}}
		f.value.counter.take(&Sample{Value: 1})
		values = append(values, f)
	}
	slices.SortFunc(values, func(a, b fixed) int {
		if a.series.key < b.series.key {
			return -1
		}
		return 1
	})
	parts := encodeAll(values)
	if len(parts) < 5 {
		t.Errorf("%d parts are too few to test", len(parts))
	}
	for i, p := range parts {
		if len(p) > maxPart {
			t.Errorf("part %d has %d bytes, want at most %d", i, len(p), maxPart)
		}
		if r := reader(t, p); len(r.blocks) == 0 || len(r.blocks) > maxBlocks { // readable by itself
			t.Errorf("part %d has %d blocks", i, len(r.blocks))
		}
	}
	rd := reader(t, parts...)
	if rd.Len() != len(values) {
		t.Errorf("Len() = %d, want %d", rd.Len(), len(values))
	}
	for _, f := range values {
		var v Value
		if found, err := rd.Find(f.series, &v); !found || err != nil || v.Samples() != f.value.Samples() {
			t.Fatalf("Find(%.20q) = %v, %v", f.series.key, found, err)
		}
	}
	if got := mergeAll(t, 10_000, nil, rd); len(got) != len(values) {
		t.Errorf("read %d series, want %d", len(got), len(values))
	}
}

func TestManySmallSeries(t *testing.T) {
	o := defaults()
	o.MaxSeries = 90_000
	a := New(o, t0)
	in := a.Intake(plain{})
	for i := range o.MaxSeries {
		put(t, in, t0, sample(Counter, fmt.Sprintf("requests,route:/api/v1/things/%d,code:200", i), 1))
	}
	w := a.Rotate(t0)[0]
	parts := clone(w.Parts())
	r := reader(t, parts...)
	if len(parts) < 2 || r.Len() != o.MaxSeries || w.Len() != o.MaxSeries {
		t.Errorf("%d parts, %d series, want several, %d", len(parts), r.Len(), o.MaxSeries)
	}
	if got := mergeAll(t, 100, nil, r); len(got) != o.MaxSeries {
		t.Errorf("read %d series, want %d", len(got), o.MaxSeries)
	}
	for range w.Parts() {
		break // a caller may stop at any part
	}
}

func TestEmptyWindow(t *testing.T) {
	r := reader(t)
	if found, err := r.Find(NewSeries(Counter, "c"), new(Value)); found || err != nil || r.Len() != 0 {
		t.Errorf("Find in nothing = %v, %v", found, err)
	}
	if got := mergeAll(t, 1, nil, r, reader(t)); len(got) != 0 {
		t.Errorf("%d series in nothing", len(got))
	}
	if got := mergeAll(t, 1, nil); len(got) != 0 {
		t.Errorf("%d series in no windows", len(got))
	}
}

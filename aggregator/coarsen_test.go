package aggregator

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// TestCoarsen: what a window that was coarsened holds is what Merge says of
// those it was made of, whatever the steps.
func TestCoarsen(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	var windows [][][]byte
	var samples [Kinds]uint64
	now := t0
	for i := range 12 {
		for j := range 40 + i {
			put(t, in, now,
				sample(Counter, fmt.Sprintf("c%d,k:v", j%(5+i)), float64(j)),
				sample(Gauge, fmt.Sprintf("g%d", j%3), float64(i*100+j)),
				sample(Distribution, fmt.Sprintf("d%d", j%2), float64(j*i)),
				member(fmt.Sprintf("s%d", j%2), fmt.Sprintf("m%d", i*j)))
		}
		for j := range i % 3 {
			if why := in.AddEvent(now.UnixNano(), &Event{Name: fmt.Appendf(nil, "e%d.%d", i, j)}); why != Taken {
				t.Fatal(why)
			}
		}
		now = now.Add(10 * time.Second)
		for _, w := range a.Rotate(now) {
			windows = append(windows, clone(w.Parts()))
			for k, n := range w.Samples {
				samples[k] += n
			}
			w.Release()
		}
	}
	coarsen := func(in ...[][]byte) [][]byte {
		parts, _, _, err := Coarsen(100, in)
		if err != nil {
			t.Fatal(err)
		}
		return parts
	}
	var readers []*Reader
	for _, w := range windows {
		readers = append(readers, reader(t, w...))
	}
	want := mergeAll(t, 100, nil, readers...)
	once, total, series, err := Coarsen(100, windows)
	if err != nil || total != samples {
		t.Fatalf("Coarsen counts %v samples, %v, want %v", total, err, samples)
	}
	if n := series[Counter] + series[Gauge] + series[Distribution] + series[Set]; n != uint64(len(want)) || series[Events] != 0 {
		t.Errorf("Coarsen counts %v series, want %d", series, len(want))
	}
	steps := coarsen(coarsen(windows[:4]...), coarsen(windows[4:5]...), coarsen(coarsen(windows[5:9]...), coarsen(windows[9:]...)))
	for what, parts := range map[string][][]byte{"at once": once, "in steps": steps} {
		got := mergeAll(t, 100, nil, reader(t, parts...))
		if len(got) != len(want) {
			t.Fatalf("%s: %d series, want %d", what, len(got), len(want))
		}
		for i := range got {
			if got[i].series != want[i].series || !bytes.Equal(got[i].value.append(nil), want[i].value.append(nil)) {
				t.Errorf("%s: %v is not what Merge says of %v", what, got[i].series, want[i].series)
			}
		}
		m := Merge(100, nil, reader(t, parts...))
		events := ""
		for e := range m.Events() {
			events += string(e.Name) + " "
		}
		if want := "e1.0 e2.0 e2.1 e4.0 e5.0 e5.1 e7.0 e8.0 e8.1 e10.0 e11.0 e11.1 "; m.Err() != nil || events != want {
			t.Errorf("%s: events %s, %v, want %s", what, events, m.Err(), want)
		}
	}
	windows[3][0][len(windows[3][0])/2] ^= 1
	if _, _, _, err := Coarsen(100, windows); err == nil {
		t.Error("Coarsen says nothing of a damaged window")
	}
}

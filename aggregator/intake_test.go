package aggregator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// counting counts how often a spelling is taken apart.
type counting struct {
	plain
	calls *int
}

func (c counting) Name(dst *Key, s *Sample) Reason {
	*c.calls++
	return c.plain.Name(dst, s)
}

func TestSpellingsAreRemembered(t *testing.T) {
	a := New(defaults(), t0)
	calls := 0
	in := a.Intake(counting{calls: &calls})
	for range 3 {
		in.Add(t0.UnixNano(), []Sample{sample(Counter, "c,a:1,b:2", 1), sample(Counter, "c,b:2,a:1", 1),
			sample(Gauge, "c,a:1,b:2", 1), sample(Counter, "!bad", 1)})
		a.Rotate(t0)
	}
	if calls != 4 {
		t.Errorf("4 spellings were taken apart %d times", calls)
	}
	// Same leads to the sample before, without a look-up.
	batch := []Sample{sample(Counter, "packed", 1), {Kind: Counter, Flags: Same, Value: 2}, {Kind: Counter, Flags: Same, Value: 3}}
	put(t, in, t0, batch...)
	if v := only(t, NewSeries(Counter, "packed"), a.Rotate(t0)...); total(v) != "6" || v.Samples() != 3 {
		t.Errorf("packed values: %s of %d samples, want 6 of 3", total(v), v.Samples())
	}
	// A spelling in use stays through all generations, one that is not goes.
	put(t, in, t0, sample(Counter, "once", 1))
	for range 3 * linkWindows {
		put(t, in, t0, sample(Counter, "often", 1))
		a.Rotate(t0)
	}
	if got := in.hot.len + in.cold.len; got > 2 {
		t.Errorf("%d links are left, want those of 1 spelling", got)
	}
	if calls != 4+3 {
		t.Errorf("%d spellings taken apart, want 7", calls)
	}
	// So is the origin, whose tags the spelling knows.
	before := calls
	for range 2 {
		for _, origin := range []uint32{0, 1, 2, 0x7F000000} {
			s := sample(Counter, "o,a:b", 1)
			s.Origin = origin
			put(t, in, t0, s)
		}
	}
	a.Rotate(t0)
	if calls != before+4 {
		t.Errorf("a spelling of 4 origins was taken apart %d times", calls-before)
	}
	// The head's length is part of the spelling: a|b and ab| differ.
	put(t, in, t0, Sample{Kind: Counter, Head: []byte("x"), Tags: []byte("y:1"), Value: 1}, Sample{Kind: Counter, Head: []byte("xy"), Tags: []byte(":1"), Value: 1})
	if w := a.Rotate(t0)[0]; w.Len() != 2 {
		t.Errorf("%d series, want x{y:1} and xy", w.Len())
	}
}

func TestRefusals(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	tags := make([]string, MaxTags+1)
	for i := range tags {
		tags[i] = fmt.Sprintf("k%d:v", i)
	}
	late := sample(Counter, "late", 1)
	late.Time = 1
	batch := []Sample{
		sample(Counter, "good", 1), sample(Counter, "!bad", 1), {Kind: Counter, Flags: Same, Value: 1}, late,
		sample(Counter, "many,"+strings.Join(tags, ","), 1), sample(Counter, "cut,k:"+strings.Repeat("v", 201), 1),
		sample(Counter, "", 1), sample(Counter, strings.Repeat("n", MaxName+1), 1), sample(Counter, strings.Repeat("n", MaxName), 1),
	}
	want := []Reason{Taken, BadName, BadName, Late, TooManyTags, Taken, BadName, NameTooLong, Taken}
	for range 3 { // refusals are remembered
		if got := in.Add(t0.UnixNano(), batch); got != 7 {
			t.Errorf("Add marked %d, want 7", got)
		}
		for i := range batch {
			if batch[i].Refused != want[i] || (batch[i].Flags&TagCut != 0) != (i == 5) {
				t.Errorf("sample %d: Refused = %s, Flags %b, want %s", i, batch[i].Refused, batch[i].Flags, want[i])
			}
		}
	}
	if w := a.Rotate(t0)[0]; w.Samples[Counter] != 9 || w.Len() != 3 {
		t.Errorf("%d samples in %d series, want 9 in 3", w.Samples[Counter], w.Len())
	}
}

// Nothing of a batch is kept: its bytes are the caller's again.
func TestSamplesAreBorrowed(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	packet := []byte("name" + "key:value" + "member")
	s := Sample{Kind: Set, Head: packet[:4], Tags: packet[4:13], Member: packet[13:]}
	put(t, in, t0, s)
	copy(packet, bytes.Repeat([]byte("x"), len(packet)))
	v := only(t, NewSeries(Set, "name", Tag{"key", "value"}), a.Rotate(t0)...)
	for m := range v.Members() {
		if m != "member" {
			t.Errorf("member %q", m)
		}
	}
	copy(packet, "name"+"key:value"+"member")
	put(t, in, t0, s)
	if w := a.Rotate(t0)[0]; w.values[0].series != NewSeries(Set, "name", Tag{"key", "value"}) {
		t.Errorf("the link leads to %s", w.values[0].series)
	}
}

// Four readers add to series of their own and to common ones while windows
// are closed: every sample is in exactly one window.
func TestReadersAtOnce(t *testing.T) {
	a := New(defaults(), t0)
	const readers, rounds = 4, 3000
	var added sync.WaitGroup
	for n := range readers {
		in := a.Intake(plain{})
		added.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 0))
			for i := range rounds {
				now := t0.Add(time.Duration(i) * time.Millisecond)
				late := sample(Counter, "late", 1)
				late.Time = now.Add(-time.Minute).UnixNano()
				own := fmt.Sprintf("own%d,i:%d", n, i%50)
				batch := []Sample{
					sample(Counter, "common", 2), sample(Counter, own, 1), late,
					sample(Distribution, "d", float64(r.IntN(100))), sample(Gauge, "g", 5),
					member("s", fmt.Sprint(i%80)),
				}
				if got := in.Add(now.UnixNano(), batch); got != 0 {
					t.Errorf("marked %d", got)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { added.Wait(); close(done) }()
	var parts []*Reader
	var n [Kinds]uint64
	rotate := func() {
		for _, w := range a.Rotate(t0.Add(time.Second)) {
			parts = append(parts, readWindow(t, w))
			for k, samples := range w.Samples {
				n[k] += samples
			}
			w.Release()
		}
		s := a.Stats()
		for k := range Kinds {
			if s.Accepted[k] != s.Windowed[k]+s.Open[k] {
				t.Errorf("%s: accepted %d, windowed %d, open %d", Kind(k), s.Accepted[k], s.Windowed[k], s.Open[k])
			}
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		rotate()
	}
	rotate()
	const each = readers * rounds
	if want := [Kinds]uint64{Counter: 3 * each, Gauge: each, Distribution: each, Set: each}; n != want {
		t.Errorf("samples %v, want %v", n, want)
	}
	got := make(map[string]string)
	for _, f := range mergeAll(t, 100, nil, parts...) {
		v := f.value
		switch name := f.series.Name(); {
		case strings.HasPrefix(name, "own"):
			if total(v) != fmt.Sprint(rounds/50) {
				t.Errorf("%s = %s, want %d", f.series, total(v), rounds/50)
			}
		case f.series.Kind() == Counter:
			got[name] = total(v)
		case f.series.Kind() == Distribution:
			got[name] = string(v.AppendCount(nil))
		case f.series.Kind() == Set:
			u, _ := v.Unique()
			got[name] = fmt.Sprint(u)
		default:
			got[name] = fmt.Sprint(v.Last(), v.Samples())
		}
	}
	want := map[string]string{"common": fmt.Sprint(2 * each), "late": fmt.Sprint(each), "d": fmt.Sprint(each), "s": "80", "g": fmt.Sprint(5, each)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A window that is in use takes samples without allocating.
func TestAddDoesNotAllocate(t *testing.T) {
	whole := sample(Counter, "whole,k:v", 0)
	whole.Flags, whole.Whole = Whole, 5
	weighted := sample(Distribution, "weighted,k:v", 2)
	weighted.Weight = 10
	cut := sample(Counter, "cut,k:"+strings.Repeat("v", 300), 1)
	tests := map[string][]Sample{
		"counter":      {sample(Counter, "c,k:v", 1), sample(Counter, "c,k:v", 0.1), whole},
		"gauge":        {sample(Gauge, "g,k:v", 1), {Kind: Gauge, Flags: Same | Plus, Value: 1}},
		"distribution": {sample(Distribution, "d,k:v", 3)},
		"weighted":     {weighted},
		"set":          {member("s,k:v", "m")},
		"refused":      {sample(Counter, "!bad", 1)},
		"cut":          {cut},
	}
	many := make([]Sample, 0, 256)
	for i := range MaxRaw + 30 {
		many = append(many, sample(Distribution, "many,k:v", float64(i)))
		many = append(many, member("many,k:v", fmt.Sprint(i)))
	}
	tests["sketch and estimate"] = many
	for name, batch := range tests {
		t.Run(name, func(t *testing.T) {
			a := New(defaults(), t0)
			in := a.Intake(plain{})
			for range 2 * MaxRaw { // beyond raw values
				in.Add(t0.UnixNano(), batch)
			}
			if got := testing.AllocsPerRun(200, func() { in.Add(t0.UnixNano(), batch) }); got != 0 {
				t.Errorf("Add allocates %g times a batch of %d, want 0", got, len(batch))
			}
		})
	}
}

// Closing a window costs a bounded number of allocations, whatever is in it.
func TestRotateAllocations(t *testing.T) {
	o := defaults()
	o.MaxSeries = 10_000
	a := New(o, t0)
	in := a.Intake(plain{})
	batch := make([]Sample, 2000)
	for i := range batch {
		batch[i] = sample(Kind(1+i%2), fmt.Sprintf("m,i:%d", i), 1)
	}
	round := func() {
		in.Add(t0.UnixNano(), batch)
		for _, w := range a.Rotate(t0) {
			w.Release()
		}
	}
	for range 2 {
		round()
	}
	if got := testing.AllocsPerRun(20, round); got > 60 {
		t.Errorf("a window of %d series costs %g allocations, want at most 60", len(batch), got)
	}
}

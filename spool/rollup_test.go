package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A record of these tests holds the ids of the windows that were merged into
// it, so that one that is lost or there twice has a name, and padding.
func idRecord(pad int, ids ...uint64) [][]byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(ids)))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return [][]byte{b, make([]byte, pad)}
}

func recordIDs(parts [][]byte) (ids []uint64, err error) {
	if len(parts) != 2 || len(parts[0]) < 4 || len(parts[0]) != 4+8*int(binary.BigEndian.Uint32(parts[0])) {
		return nil, fmt.Errorf("%d parts are no record of ids", len(parts))
	}
	for b := parts[0][4:]; len(b) > 0; b = b[8:] {
		ids = append(ids, binary.BigEndian.Uint64(b))
	}
	return ids, nil
}

// coarsenIDs unites ids; the padding does not grow, as sketches do not.
func coarsenIDs(records [][][]byte) (parts [][]byte, samples, series [Kinds]uint64, err error) {
	var all []uint64
	pad := 0
	for _, r := range records {
		ids, err := recordIDs(r)
		if err != nil {
			return nil, samples, series, err
		}
		all = append(all, ids...)
		pad = max(pad, len(r[1]))
	}
	for _, id := range all {
		samples[1] += id
	}
	series[1] = 1
	return idRecord(pad, all...), samples, series, nil
}

// rolling is a spool that rolls up, with what it should hold.
type rolling struct {
	t      testing.TB
	opt    Options
	s      *Spool
	now    time.Time
	ids    uint64
	owed   map[string]map[uint64]bool // upstream → ids
	random *rand.Rand
}

func newRolling(t testing.TB, opt Options, upstreams ...string) *rolling {
	r := &rolling{t: t, opt: opt, now: t0, owed: map[string]map[uint64]bool{}, random: rand.New(rand.NewPCG(1, 2))}
	r.opt.Coarsen = coarsenIDs
	for _, u := range upstreams {
		r.owed[u] = map[uint64]bool{}
	}
	r.s = attach(t, r.opt, upstreams...)
	return r
}

// append stores the next window, and now and then a late one.
func (r *rolling) append(pad int) {
	r.t.Helper()
	r.now = r.now.Add(10 * time.Second)
	r.ids++
	m := Meta{ID: r.ids, Start: r.now, Width: 10 * time.Second, Samples: [Kinds]uint64{1: r.ids}, Series: [Kinds]uint64{1: 1}, Accepted: [Kinds]uint64{1: r.ids}}
	if r.random.IntN(4) == 0 {
		m.Flags, m.Start = 1, r.now.Add(-time.Duration(r.random.IntN(300))*time.Second).Truncate(10*time.Second)
	}
	seq, err := r.s.Append(r.now, m, slices.Values(idRecord(pad, r.ids)))
	if err != nil || seq == 0 {
		r.t.Fatalf("Append(%d) = %d, %v (%s)", r.ids, seq, err, r.s.Stats().Detail)
	}
	for _, owed := range r.owed {
		owed[r.ids] = true
	}
}

// fill appends until there is need for a roll-up.
func (r *rolling) fill() {
	r.t.Helper()
	for r.s.bytes() < r.opt.MaxBytes/100*rollUpAt+128<<10 {
		r.append(30_000)
	}
}

// progress takes up to n records out of what an upstream is owed, from any.
func (r *rolling) progress(name string, n int) {
	r.t.Helper()
	o := r.s.Outbox(name)
	var list []Entry
	for _, p := range o.Pending() {
		list = append(list, r.s.Entries(p)...)
	}
	if len(list) == 0 || len(o.Pending()) > RangesMax-2 {
		return
	}
	i := r.random.IntN(len(list))
	r.take(name, list[i:min(i+n, len(list))]...)
}

func (r *rolling) take(name string, list ...Entry) {
	r.t.Helper()
	o := r.s.Outbox(name)
	for _, e := range list {
		parts, err := r.s.Read(e.Seqs.From)
		if err != nil {
			r.t.Fatal(err)
		}
		err = o.Update(func(tx *Tx) error {
			p, ok := tx.Pending().Without(e.Seqs)
			if !ok {
				return fmt.Errorf("without %v", e.Seqs)
			}
			tx.Progress(p, nil)
			tx.Filtered(e.Samples)
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
		ids, err := recordIDs(parts)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, id := range ids {
			delete(r.owed[name], id)
		}
	}
}

// roll does all roll-ups that there is need for.
func (r *rolling) roll() (n int) {
	r.t.Helper()
	for {
		done, err := r.s.RollUp(r.t.Context(), r.now)
		if err != nil {
			r.t.Fatal(err)
		}
		if !done {
			return n
		}
		n++
		if n > 1000 {
			r.t.Fatal("RollUp has no end")
		}
	}
}

// check compares what upstreams are owed with what they should be.
func (r *rolling) check(s *Spool, when string) {
	r.t.Helper()
	for name, want := range r.owed {
		o := s.Outbox(name)
		got := map[uint64]bool{}
		for _, p := range o.Pending() {
			for _, e := range s.Entries(p) {
				parts, err := s.Read(e.Seqs.From)
				if err != nil {
					r.t.Fatalf("%s: Read(%v): %v", when, e.Seqs, err)
				}
				ids, err := recordIDs(parts)
				if err != nil {
					r.t.Fatal(err)
				}
				var sum uint64
				for _, id := range ids {
					if got[id] {
						r.t.Fatalf("%s: window %d is there twice", when, id)
					}
					got[id] = true
					sum += id
				}
				if sum != e.Samples[1] || e.Accepted[1] < e.Seqs.To-1 {
					r.t.Fatalf("%s: record %+v has samples %d of windows %v", when, e, sum, ids)
				}
			}
		}
		if !maps.Equal(got, want) {
			r.t.Fatalf("%s: %s is owed %d windows, want %d", when, name, len(got), len(want))
		}
		l := o.Ledger()
		if l.ConservationError != 0 || l.Windowed[1].Samples != r.ids*(r.ids+1)/2 {
			r.t.Fatalf("%s: ledger of %s: windowed %d of %d, error %d", when, name, l.Windowed[1].Samples, r.ids*(r.ids+1)/2, l.ConservationError)
		}
	}
}

// TestRollUp keeps 7 times more windows than there is room for.
func TestRollUp(t *testing.T) {
	r := newRolling(t, small(t), "a", "b")
	most := int64(0)
	for range 900 {
		r.append(30_000)
		if err := r.s.Maintain(r.now); err != nil {
			t.Fatal(err)
		}
		r.roll()
		most = max(most, r.s.Stats().Bytes)
	}
	r.check(r.s, "at the end")
	st := r.s.Stats()
	if most > r.opt.MaxBytes || st.RolledUp < 700 || st.Evicted > 0 {
		t.Errorf("%d bytes of %d; %+v", most, r.opt.MaxBytes, st)
	}
	t.Logf("%d windows of 30 kB in %d records, %d bytes, at most %d", r.ids, st.Records, st.Bytes, most)
	finest, coarsest := time.Hour, time.Duration(0)
	for _, e := range r.s.Entries(Range{0, Open}) {
		finest, coarsest = min(finest, e.Width), max(coarsest, e.Width)
	}
	if finest != 10*time.Second || coarsest < 5*time.Minute {
		t.Errorf("widths from %v to %v: what is new should be fine, and what is old coarse", finest, coarsest)
	}
	r.reattach()
	r.check(r.s, "after a restart")
}

func (r *rolling) reattach() {
	r.t.Helper()
	if err := r.s.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.s = attach(r.t, r.opt, slices.Collect(maps.Keys(r.owed))...)
}

// TestRollUpRandom mixes appends, progress anywhere, roll-ups and restarts. A
// roll-up is stopped by a crash after each of its steps: what the folder is then
// must hold the same windows.
func TestRollUpRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	crashes := 0
	rounds := 3
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		opt := small(t)
		opt.MaxBytes = 3 << 20
		var r *rolling
		var copies []string
		opt.stepping = func(step string) {
			if crashes++; crashes%5 == 0 {
				dir := filepath.Join(t.TempDir(), step)
				copyDir(t, opt.Dir, dir)
				copies = append(copies, dir)
			}
		}
		r = newRolling(t, opt, "a", "b")
		r.random = rand.New(rand.NewPCG(seed, uint64(round)))
		for range 600 {
			switch n := r.random.IntN(20); {
			case n < 14 && r.s.bytes() < opt.MaxBytes-2*opt.SegmentBytes: // else the oldest would be evicted
				r.append(10_000 + r.random.IntN(30_000))
			case n < 15:
				r.progress([]string{"a", "b"}[r.random.IntN(2)], 1+r.random.IntN(5))
			case n < 16 && r.random.IntN(4) == 0:
				r.reattach()
			default:
				if err := r.s.Maintain(r.now); err != nil {
					t.Fatal(err)
				}
				r.roll()
				for _, dir := range copies {
					o := r.opt
					o.Dir, o.stepping = dir, nil
					s := attach(t, o, "a", "b")
					r.check(s, "after a crash: "+filepath.Base(dir))
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					os.RemoveAll(dir)
				}
				copies = nil
				r.check(r.s, "after a roll-up")
			}
			for _, st := range r.s.Stats().MemoryDropped {
				if st > 0 {
					t.Fatal("memory is full")
				}
			}
		}
		if r.s.Stats().Evicted > 0 { // of what nobody is owed, or the model would not agree
			t.Logf("%d segments evicted", r.s.Stats().Evicted)
		}
	}
	if crashes < 5*rounds {
		t.Errorf("%d steps of roll-ups in %d rounds", crashes, rounds)
	}
	t.Logf("%d steps of roll-ups, a crash after every fifth", crashes)
}

// TestRollUpNotWhileHeld: a reader that holds sees the records it has listed.
func TestRollUpNotWhileHeld(t *testing.T) {
	opt := small(t)
	r := newRolling(t, opt, "a")
	r.fill()
	release := r.s.Hold()
	list := r.s.Entries(Range{0, Open})
	done := make(chan int)
	go func() { done <- r.roll() }()
	for _, e := range list {
		if parts, err := r.s.Read(e.Seqs.From); err != nil || len(parts[0]) != 12 {
			t.Errorf("Read(%d) = %v", e.Seqs.From, err)
		}
	}
	select {
	case <-done:
		t.Error("rolled up while it was held")
	case <-time.After(100 * time.Millisecond):
	}
	release()
	if n := <-done; n == 0 {
		t.Error("nothing was rolled up")
	}
	r.check(r.s, "after")
}

// TestRollUpNotUnderGroup: what is being sealed stays as it is, and so does what
// has come to an end inside of a new record.
func TestRollUpNotUnderGroup(t *testing.T) {
	r := newRolling(t, small(t), "a")
	r.fill()
	first := r.s.Entries(Range{0, Open})[:3]
	o := r.s.Outbox("a")
	group := Range{first[0].Seqs.From, first[2].Seqs.To}
	if err := o.Update(func(tx *Tx) error { tx.Progress(nil, &Group{Seqs: group}); return nil }); err != nil {
		t.Fatal(err)
	}
	r.roll()
	for i, e := range r.s.Entries(group) {
		if e.Seqs != first[i].Seqs {
			t.Errorf("record %v of an open group became %v", first[i].Seqs, e.Seqs)
		}
	}
	r.check(r.s, "beside a group")
	if err := o.Update(func(tx *Tx) error { tx.Progress(nil, nil); return nil }); err != nil {
		t.Fatal(err)
	}
	r.fill()
	next, _ := r.s.nextRollUp()
	inside := next.outputs[slices.IndexFunc(next.outputs, func(c coarse) bool { return len(c.members) > 1 })].members[1]
	once := false
	r.s.opt.stepping = func(step string) { // between planning and replacing
		if step == "written" && !once {
			once = true
			r.take("a", inside.Entry)
		}
	}
	r.roll()
	if !once {
		t.Fatal("nothing was rolled up")
	}
	r.check(r.s, "after progress meanwhile")
}

// TestRollUpDamaged: a record that cannot be read is left for its readers to
// find out; its segment stays.
func TestRollUpDamaged(t *testing.T) {
	r := newRolling(t, small(t), "a")
	r.fill()
	next, _ := r.s.nextRollUp()
	bad := next.outputs[slices.IndexFunc(next.outputs, func(c coarse) bool { return len(c.members) > 1 })].members[1]
	r.s.opt.Coarsen = func(records [][][]byte) (parts [][]byte, samples, series [Kinds]uint64, err error) {
		for _, rec := range records {
			if ids, _ := recordIDs(rec); ids[0] == bad.ID {
				return nil, samples, series, errors.New("damaged")
			}
		}
		return coarsenIDs(records)
	}
	good, damaged := 0, 0
	for range 30 {
		r.append(30_000)
		switch done, err := r.s.RollUp(t.Context(), r.now); {
		case done:
			good++
		case errors.Is(err, ErrDamaged):
			damaged++
		case err != nil:
			t.Fatal(err)
		}
	}
	if damaged != 1 || good == 0 {
		t.Errorf("%d roll-ups met the damage, want 1; %d did not", damaged, good)
	}
	if got := r.s.Entries(bad.Seqs); len(got) != 1 || got[0].Seqs != bad.Seqs {
		t.Errorf("the damaged record is %+v", got)
	}
	r.check(r.s, "after")
}

// TestWiderCounts: of what a crash left, in whatever order it is found.
func TestWiderCounts(t *testing.T) {
	record := func(from, to, n uint64) logged {
		return logged{Entry: Entry{Seqs: Range{from, to}}, first: n, last: n}
	}
	all := []logged{record(1, 2, 1), record(2, 3, 1), record(3, 4, 1), record(4, 5, 1), record(2, 4, 2), record(2, 5, 3)}
	for range 100 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		var x index
		for _, l := range all {
			x = x.put(l)
		}
		if len(x) != 2 || x[0].Seqs != (Range{1, 2}) || x[1].Seqs != (Range{2, 5}) {
			t.Fatalf("put in order %v: %v", all, x)
		}
	}
	if x := (index{}).put(record(1, 2, 1)).put(record(1, 2, 2)); len(x) != 1 || x[0].first != 2 {
		t.Errorf("of two writings: %v", x)
	}
}

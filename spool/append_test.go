package spool

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestAppendError breaks the tail segment: the record waits in memory, the
// segment is not written to again, and the record keeps its number.
func TestAppendError(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 1, 100))
	s.tail.db.Close()
	seq, err := s.Append(t0, Meta{ID: 2, Start: t0}, slices.Values(content(2, 1, 100)))
	if seq != 0 || err != nil || s.Stats().State != "memory" || s.Stats().MemoryRecords != 1 {
		t.Fatalf("Append = %d, %v, %+v, want it in memory", seq, err, s.Stats())
	}
	if seq := mustAppend(t, s, 3, t0, content(3, 1, 100)); seq != 3 {
		t.Errorf("the record after it is %d, want 3", seq)
	}
	if e := s.Entries(Range{2, 3}); len(e) != 1 || e[0].ID != 2 {
		t.Errorf("record 2 is %+v", e)
	}
	if n := s.Stats().Segments; n != 2 {
		t.Errorf("%d segments, want 2", n)
	}
}

// TestAppendAmbiguous: an append came through although it was reported as
// failed. Its repetition has the same number, and is the one that counts.
func TestAppendAmbiguous(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 1, 100))
	mustAppend(t, s, 2, t0, content(2, 3, 100))
	s.index, s.next = s.index[:1], 2 // as if the second had failed
	s.retireLocked()
	mustAppend(t, s, 3, t0, content(3, 2, 100)) // another one, had memory dropped the first
	for range 2 {
		if got, err := s.Read(2); err != nil || !sameParts(got, content(3, 2, 100)) {
			t.Errorf("Read(2) = %d parts, %v, want the newer", len(got), err)
		}
		if st := s.Stats(); st.Records != 2 || st.LastSeq != 2 {
			t.Errorf("Stats() = %+v, want 2 records", st)
		}
		mustBalance(t, s)
		dir := filepath.Join(t.TempDir(), "copy")
		copyDir(t, opt.Dir, dir)
		s = attach(t, Options{Dir: dir, SegmentBytes: opt.SegmentBytes, MaxBytes: opt.MaxBytes}, "flux")
	}
}

// TestAppendWhileAttaching: nobody waits for a slow check.
func TestAppendWhileAttaching(t *testing.T) {
	opt := small(t)
	s := attach(t, opt)
	mustAppend(t, s, 1, t0, content(1, 1, 100))
	s.Close()
	os.Remove(filepath.Join(opt.Dir, trustedName))
	var once sync.Once
	opt.checking = func(string) {
		once.Do(func() {
			if seq, err := s.Append(t0, Meta{ID: 2, Start: t0}, slices.Values(content(2, 1, 100))); seq != 0 || err != nil {
				t.Errorf("Append = %d, %v", seq, err)
			}
		})
	}
	s = New(opt) // what checking appends to
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	if got := s.Next(); got != 3 {
		t.Errorf("Next() = %d, want 3: the record that came meanwhile is written", got)
	}
	s.Close()
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	opt := small(t)
	opt.MaxBytes = 2 << 20
	s := attach(t, opt, "a", "b")
	var wg sync.WaitGroup
	run := func(fn func(i int)) {
		wg.Go(func() {
			for i := range 40 {
				fn(i)
			}
		})
	}
	run(func(i int) {
		s.Append(t0, Meta{ID: uint64(i), Start: t0, Samples: [Kinds]uint64{1: 3}}, slices.Values(content(1, 2, 40_000)))
	})
	run(func(int) {
		for _, e := range s.Entries(Range{0, Open}) {
			s.Read(e.Seqs.From) // ErrGone when it was evicted meanwhile
		}
		s.Stats()
	})
	run(func(int) {
		if err := s.Maintain(t0.Add(time.Second)); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"a", "b"} {
		o := s.Outbox(name)
		run(func(i int) {
			if err := o.Update(func(tx *Tx) error {
				x := s.Entries(Range{0, Open})
				if len(x) == 0 {
					return nil
				}
				r := Range{tx.Pending()[0].From, x[len(x)-1].Seqs.To}
				n := (Pending{r}).Samples(x)
				p, ok := tx.Pending().Without(r)
				if r.Empty() || !ok {
					return nil
				}
				b := batchOf(n[1], 2)
				tx.Progress(p, nil)
				tx.Seal(&b)
				tx.Put("t", "k", []byte{byte(i)})
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		run(func(int) {
			if b, ok := o.Due(t0); ok {
				if err := o.Update(func(tx *Tx) error { tx.Settle(b.Seq, Settlement{To: Delivered}); return nil }); err != nil {
					t.Error(err)
				}
			}
			if l := o.Ledger(); l.ConservationError != 0 {
				t.Errorf("%+v", l)
			}
			for range o.Table("t") {
			}
		})
	}
	wg.Wait()
	mustBalance(t, s)
}

// TestManySmall: records that wait together are written together, in their order and each
// with its number; large ones between them alone. An error leaves all of them waiting, and
// then the first is tried alone, for of what was tried nobody knows whether it is on disk.
func TestManySmall(t *testing.T) {
	opt := small(t)
	opt.SegmentBytes = 1 << 20
	s := attach(t, opt, "flux")
	transactions := func() int {
		t.Helper()
		tx, err := s.tail.db.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		return int(tx.ID())
	}
	mustAppend(t, s, 1, t0, content(1, 1, 100))
	before, want := transactions(), []uint64{1}
	remember := func(id uint64, size int) {
		t.Helper()
		want = append(want, id)
		if err := s.Remember(t0, Meta{ID: id, Start: t0, Samples: [Kinds]uint64{1: 1}}, slices.Values(content(id, 1, size))); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint64(2); id <= 301; id++ {
		remember(id, 100)
	}
	remember(302, 3*ownBucket)
	for id := uint64(303); id <= 310; id++ {
		remember(id, 100)
	}
	if seq := s.Flush(t0); seq != 310 {
		t.Fatalf("Flush() = %d, want 310", seq)
	}
	if n := transactions() - before; n != 3 {
		t.Errorf("%d transactions for two runs of small records and a large one, want 3", n)
	}
	if got := ids(s); !slices.Equal(got, want) {
		t.Errorf("on disk are %v, want %v", got, want)
	}

	s.tail.db.Close()
	for id := uint64(311); id <= 320; id++ {
		remember(id, 100)
	}
	if seq := s.Flush(t0); seq != 0 {
		t.Fatalf("Flush() = %d with a segment that cannot be written, want 0", seq)
	}
	if st := s.Stats(); st.MemoryRecords != 10 || st.State != "memory" {
		t.Errorf("Stats() = %+v, want 10 records in memory", st)
	}
	if recs := s.memory.next(0); len(recs) != 1 {
		t.Errorf("%d records are tried again at once, want 1", len(recs))
	}
	if seq := s.Flush(t0); seq != 320 {
		t.Errorf("Flush() = %d, want 320", seq)
	}
	if got := ids(s); !slices.Equal(got, want) {
		t.Errorf("on disk are %v, want %v", got, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = attach(t, opt, "flux")
	defer s.Close()
	if got := ids(s); !slices.Equal(got, want) || s.Next() != 321 {
		t.Errorf("after a restart %v are on disk and %d is next, want %v and 321", got, s.Next(), want)
	}
}

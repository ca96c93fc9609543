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

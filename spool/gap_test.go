package spool

import (
	"slices"
	"testing"
	"time"
)

// TestGaps: the ledger says from when to when the windows were of which
// something was dropped, and still does after a restart.
func TestGaps(t *testing.T) {
	opt := small(t)
	opt.MaxBytes = 3 << 20
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	at := func(n int) time.Time { return t0.Add(time.Duration(n) * 10 * time.Second) }
	mustAppend(t, s, 1, at(1), content(1, 1, 100))
	mustAppend(t, s, 2, at(2), content(2, 1, 100))
	b := batchOf(2, 1)
	b.Windows = Range{2, 3}
	if err := o.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{2, 3})
		tx.Progress(p, nil)
		tx.Seal(&b)
		tx.Dropped("damaged", [Kinds]uint64{3: 2})
		tx.Gap("damaged", Range{2, 3})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.Update(func(tx *Tx) error {
		tx.Settle(b.Seq, Settlement{To: Dropped, Reason: "unverified", At: t0})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for n := 3; s.Stats().Evicted == 0; n++ {
		mustAppend(t, s, uint64(n), at(n), content(uint64(n), 1, 30_000))
	}
	last := s.Entries(Range{0, Open})[0].Start // what is left begins where what was dropped ends
	for range 2 {
		l := o.Ledger()
		want := map[string]Span{"damaged": {at(2), at(3)}, "unverified": {at(2), at(3)}, "spool_full": {at(1), last}}
		for reason, w := range want {
			if got := l.Gaps[reason]; !got.From.Equal(w.From) || !got.To.Equal(w.To) {
				t.Errorf("gap of %s is %v, want %v", reason, got, w)
			}
		}
		if len(l.Gaps) != len(want) || l.ConservationError != 0 {
			t.Errorf("ledger %+v", l)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = attach(t, opt, "flux")
		o = s.Outbox("flux")
	}
}

// TestMemoryGap: the same of what never came to the disk.
func TestMemoryGap(t *testing.T) {
	s := New(Options{MemoryBytes: 250})
	for n := range 5 {
		at := t0.Add(time.Duration(n) * time.Minute)
		if _, err := s.Append(at, Meta{Start: at, Width: time.Minute, Samples: [Kinds]uint64{1: 1}}, slices.Values(content(1, 1, 100))); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.Stats().MemoryGap, (Span{t0, t0.Add(3 * time.Minute)}); got != want || s.Stats().MemoryDropped[1] != 3 {
		t.Errorf("MemoryGap = %v, want %v", got, want)
	}
}

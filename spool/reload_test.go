package spool

import (
	"testing"
	"time"
)

// TestReleaseUpstream: what only an upstream is owed that is no longer
// configured goes after Retention; configured again in time, it is owed it all.
func TestReleaseUpstream(t *testing.T) {
	s := attach(t, small(t), "flux", "gone")
	o := s.Outbox("gone")
	flux := s.Outbox("flux")
	fill := func() {
		for id := uint64(1); id <= 6; id++ {
			seq := mustAppend(t, s, id, t0, content(id, 1, 100_000))
			if err := flux.Update(func(tx *Tx) error {
				tx.Progress(Pending{{seq + 1, Open}}, nil)
				tx.Dropped("x", s.Entries(Range{seq, seq + 1})[0].Samples)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	s.Release("gone")
	if s.Outbox("gone") != o {
		t.Fatal("another handle for the same upstream")
	}
	late := t0.Add(48 * time.Hour)
	if err := s.Maintain(late); err != nil {
		t.Fatal(err)
	}
	if d := o.Ledger().Dropped[reasonRemoved]; d != (Amounts{}) {
		t.Errorf("configured again, but dropped %v", d)
	}
	s.Release("gone")
	s.Release("never heard of")
	if err := s.Maintain(late); err != nil {
		t.Fatal(err)
	}
	if d := o.Ledger().Dropped[reasonRemoved]; d == (Amounts{}) {
		t.Error("nothing was dropped of what only a released upstream is owed")
	}
	mustBalance(t, s)
}

// TestSetLimits: a smaller bound is kept from the next append on.
func TestSetLimits(t *testing.T) {
	o := small(t)
	o.MaxBytes = 8 << 20
	s := attach(t, o)
	for id := uint64(1); id <= 30; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	if got := s.Stats().Bytes; got < 2<<20 {
		t.Fatalf("the spool has %d bytes, want more than the bound to come", got)
	}
	s.SetLimits(2<<20, time.Hour)
	mustAppend(t, s, 31, t0, content(31, 1, 1000))
	if got := s.Stats().Bytes; got > 2<<20 {
		t.Errorf("the spool has %d bytes after SetLimits, want at most %d", got, 2<<20)
	}
	if err := s.Maintain(t0.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Expired == 0 {
		t.Errorf("nothing expired after the new retention: %+v", st)
	}
}

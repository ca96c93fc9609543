package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestHalfMadeSegment: a disk that fills up cuts the making of a segment short. What
// is left of it does not keep the next one from being made.
func TestHalfMadeSegment(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	whole, err := os.ReadFile(filepath.Join(opt.Dir, outboxName))
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range []int{1, 4096, 8192, 12288} { // bbolt writes four pages at first
		s.retireLocked()
		temp := filepath.Join(opt.Dir, segmentName(s.highest+1)+tempSuffix)
		if err := os.WriteFile(temp, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s, uint64(id+1), t0, content(1, 1, 100))
	}
}

// TestFolderInQuarantine: a folder that is not empty cannot be removed for room;
// what else there is, is.
func TestFolderInQuarantine(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	if err := os.MkdirAll(filepath.Join(opt.Dir, quarantineDir, segmentName(1), "more"), 0o700); err != nil {
		t.Fatal(err)
	}
	for id := uint64(1); id <= 60; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	if st := s.Stats(); st.Evicted == 0 || st.Bytes > opt.MaxBytes || st.Quarantined != 1 {
		t.Errorf("Stats() = %+v, want segments evicted and the folder where it was", st)
	}
}

// TestDeadLettersShare: dead letters do not take the room of windows, however much
// the upstream says to each.
func TestDeadLettersShare(t *testing.T) {
	opt := small(t)
	opt.MaxBytes, opt.SegmentBytes = 32<<20, 1<<20
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	answer := []byte(strings.Repeat("x", answerMax))
	for range 12 { // 24 MiB
		b := batchOf(0, 499)
		if err := o.Update(func(tx *Tx) error { tx.Seal(&b); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := o.Update(func(tx *Tx) error {
			tx.Settle(b.Seq, Settlement{To: Dead, Reason: "status 400", Answer: answer, At: t0})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint64(1); id <= 60; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	if o.DeadLost() == 0 || o.DeadCount() < 800 {
		t.Errorf("%d dead letters are kept and %d are not, want 4 MiB of them", o.DeadCount(), o.DeadLost())
	}
	if n := o.Ledger().Dropped[reasonFull]; n != (Amounts{}) {
		t.Errorf("%v were dropped of 6 MB of windows, in a spool of 32 MiB", n)
	}
	mustBalance(t, s)
}

// TestSetLimitsBelowSegment: when the bound is set to no more than a segment had,
// segments get smaller, too.
func TestSetLimitsBelowSegment(t *testing.T) {
	opt := small(t)
	opt.MaxBytes, opt.SegmentBytes = 64<<20, 0
	opt.Coarsen = func([][][]byte) ([][]byte, [Kinds]uint64, [Kinds]uint64, error) {
		return nil, [Kinds]uint64{}, [Kinds]uint64{}, errors.New("not to be called")
	}
	s := attach(t, opt, "flux")
	s.SetLimits(8<<20, time.Hour)
	for id := uint64(1); id <= 120; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	if st := s.Stats(); st.Bytes > 8<<20 || st.Segments < 4 {
		t.Errorf("Stats() = %+v, want several segments within 8 MiB", st)
	}
}

// TestCompactKeepsReserve: a copy of outbox.db has the free pages of a new one.
func TestCompactKeepsReserve(t *testing.T) {
	opt := small(t)
	opt.MaxBytes = 256 << 20
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	big := Batch{Lane: Metrics, Body: slices.Concat(content(1, 8, 1<<20)...)}
	if err := o.Update(func(tx *Tx) error { tx.Seal(&big); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := o.Update(func(tx *Tx) error { tx.Settle(1, Settlement{To: Delivered}); return nil }); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(opt.Dir, outboxName)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = attach(t, opt, "flux")
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	free := 0
	if err := s.box.db.View(func(tx *bolt.Tx) error {
		for id := 2; ; id++ {
			p, err := tx.Page(id)
			if err != nil || p == nil {
				return err
			}
			if p.Type == "free" {
				free += s.box.db.Info().PageSize
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if after.Size() >= before.Size() || free < reserveMax {
		t.Errorf("outbox.db had %d bytes and has %d, %d of them free, want %d", before.Size(), after.Size(), free, reserveMax)
	}
}

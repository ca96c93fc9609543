package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestHighWater: without segments the outbox still knows which numbers are
// used up.
func TestHighWater(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	for id := uint64(1); id <= 3; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 10))
	}
	s.Outbox("flux").Update(func(*Tx) error { return nil })
	s.Close()
	os.Remove(filepath.Join(opt.Dir, segmentName(1)))
	s = attach(t, opt, "flux")
	if seq := mustAppend(t, s, 4, t0, content(4, 1, 10)); seq != 4 {
		t.Errorf("Append = %d, want 4", seq)
	}
	if l := s.Outbox("flux").Ledger(); l.Dropped["damaged"][1].Samples != 1+2+3 || l.ConservationError != 0 {
		t.Errorf("ledger %+v", l)
	}
}

// TestTwoWritings: a crash in the middle of repeating a record over several
// segments must not mix the two writings of it.
func TestTwoWritings(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 2, 100))
	s.retireLocked()
	other := encodeFrames(Range{1, 2}, appendMeta(nil, &Meta{ID: 2}, nil), content(2, 2, 100))
	if _, _, err := s.putLocked(t0, 1, 0, other[:1]); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = attach(t, opt, "flux")
	if got, err := s.Read(1); err != nil || !sameParts(got, content(1, 2, 100)) {
		t.Errorf("Read(1) = %v, want the complete writing", err)
	}
	if st := s.Stats(); st.Records != 1 || st.DamagedRecords != 1 {
		t.Errorf("Stats() = %+v, want 1 record and 1 incomplete", st)
	}
}

// TestFailedWriting: the first part of a failed writing stands in an older
// segment than the complete record of the same number.
func TestFailedWriting(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	other := encodeFrames(Range{1, 2}, appendMeta(nil, &Meta{ID: 2}, nil), content(2, 2, 100))
	if _, _, err := s.putLocked(t0, 1, 0, other[:1]); err != nil {
		t.Fatal(err)
	}
	s.retireLocked()
	mustAppend(t, s, 1, t0, content(1, 2, 100))
	s.Close()
	s = attach(t, opt, "flux")
	if got, err := s.Read(1); err != nil || !sameParts(got, content(1, 2, 100)) {
		t.Errorf("Read(1) = %v, want the complete writing", err)
	}
	if e := s.Entries(Range{0, Open}); len(e) != 1 || e[0].ID != 1 {
		t.Errorf("Entries = %+v, want the complete writing", e)
	}
}

// TestFreelistOverlap: a freelist that names a page in use would have bbolt
// write over a record later. The checksums of the frames do not see it.
func TestFreelistOverlap(t *testing.T) {
	path := filepath.Join(t.TempDir(), segmentName(1))
	b := smallFile(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write(b)
	m, err := findMeta(f, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	at := m.freelist * m.pageSize
	count := native.Uint16(b[at+10:])
	native.PutUint16(b[at+10:], count+1)
	native.PutUint64(b[at+pageHead+8*uint64(count):], m.root)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckFile(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("CheckFile = %v, want ErrDamaged", err)
	}
}

// TestGone: what is evicted is removed from the disk, and nothing else.
func TestGone(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	for id := uint64(1); id <= 60; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	var want []string
	for _, g := range s.segmentList() {
		want = append(want, filepath.Join(opt.Dir, g.name()))
	}
	got, _ := filepath.Glob(filepath.Join(opt.Dir, "*.seg"))
	if !slices.Equal(got, want) {
		t.Errorf("on disk are %v, want %v", got, want)
	}
	st := s.Stats()
	if st.Evicted == 0 || st.Bytes > opt.MaxBytes {
		t.Errorf("Stats() = %+v", st)
	}
	l := s.Outbox("flux").Ledger()
	if l.ConservationError != 0 || l.Windowed[1].Samples != 60*61/2 || l.Dropped[reasonFull] == (Amounts{}) {
		t.Errorf("ledger %+v", l)
	}
}

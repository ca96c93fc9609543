package spool

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var firstRelease = filepath.Join("testdata", "v1")

// TestFirstRelease opens a spool as the first release wrote it. The folder is
// never made anew: SPOOL_TEST_MAKE=1 fills it only when it does not exist.
func TestFirstRelease(t *testing.T) {
	if os.Getenv("SPOOL_TEST_MAKE") != "" {
		makeFirstRelease(t)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt files have the byte order of the machine, and this one was written on a little endian one")
	}
	opt := Options{Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 1 << 20}
	copyDir(t, firstRelease, opt.Dir)
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	if st := s.Stats(); st.Quarantined != 0 || st.Records != 3 || s.Identity() == "" {
		t.Fatalf("Stats() = %+v", st)
	}
	for seq := uint64(1); seq <= 3; seq++ {
		if got, err := s.Read(seq); err != nil || !sameParts(got, content(seq, 2, 50)) {
			t.Errorf("Read(%d) = %v", seq, err)
		}
	}
	b, ok := o.Due(t0)
	if want := batchOf(1+2, 3); !ok || string(b.Body) != string(want.Body) || !slices.Equal(b.Items, want.Items) || b.URL != want.URL {
		t.Errorf("Due = %+v, %v", b, ok)
	}
	g, ok := o.Group()
	if !ok || g.K != 20 || string(g.After) != "m" || g.Width != time.Minute || g.Sealed[3] != 1 {
		t.Errorf("Group() = %+v, %v", g, ok)
	}
	if got, want := o.Pending(), (Pending{{3, Open}}); !slices.Equal(got, want) {
		t.Errorf("Pending() = %v, want %v", got, want)
	}
	if len(o.Requests()) != 1 || !o.Requests()[0].Equal(t0) || string(o.Get("t", "k")) != "v" || len(o.Dead()) != 2 {
		t.Errorf("requests %v, t/k %q, dead %v", o.Requests(), o.Get("t", "k"), o.Dead())
	}
	if l := o.Ledger(); l.ConservationError != 0 || l.Queued[1].Samples != 3 || l.Filtered[3].Samples != 1 || l.Dropped["x"][3].Samples != 4 {
		t.Errorf("ledger %+v", l)
	}
}

func makeFirstRelease(t *testing.T) {
	if _, err := os.Stat(firstRelease); err == nil {
		t.Fatalf("%s exists; it is the proof that old spools are read and stays as it is", firstRelease)
	}
	s := New(Options{Dir: firstRelease, MaxBytes: 1 << 20})
	o := s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	for id := uint64(1); id <= 3; id++ {
		mustAppend(t, s, id, t0, content(id, 2, 50))
	}
	b, dead := batchOf(1+2, 3), batchOf(0, 2)
	if err := o.Update(func(tx *Tx) error {
		tx.Progress(Pending{{3, Open}}, &Group{Seqs: Range{3, 4}, Width: time.Minute, K: 20, After: []byte("m"), Sealed: [Kinds]uint64{3: 1}})
		tx.Seal(&b)
		tx.Seal(&dead)
		tx.Dropped("x", [Kinds]uint64{3: 4})
		tx.Filtered([Kinds]uint64{3: 1})
		tx.Spent([]time.Time{t0})
		tx.Put("t", "k", []byte("v"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.Update(func(tx *Tx) error { tx.Settle(dead.Seq, Settlement{To: Dead, Reason: "r", At: t0}); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(firstRelease, lockName))
	os.Remove(filepath.Join(firstRelease, trustedName)) // times of change do not survive a checkout
}

// largeRecords is a spool of a small record, one that has a bucket of its own and
// one that was streamed, in this order.
var (
	largeRecords = filepath.Join("testdata", "large")
	largeParts   = [][][]byte{content(1, 2, 50), content(2, 3, 4_000), content(3, 8, 10_000)}
)

// TestFirstLargeRecords opens a spool with large records as they were first written.
// The folder is never made anew, as with TestFirstRelease.
func TestFirstLargeRecords(t *testing.T) {
	if os.Getenv("SPOOL_TEST_MAKE") != "" {
		makeLargeRecords(t)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt files have the byte order of the machine, and this one was written on a little endian one")
	}
	opt := Options{Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 1 << 20}
	copyDir(t, largeRecords, opt.Dir)
	s := attach(t, opt, "flux")
	if st := s.Stats(); st.Quarantined != 0 || st.DamagedRecords != 0 || st.Records != len(largeParts) {
		t.Fatalf("Stats() = %+v", st)
	}
	for i, want := range largeParts {
		if got, err := s.Read(uint64(i + 1)); err != nil || !sameParts(got, want) {
			t.Errorf("Read(%d) = %v", i+1, err)
		}
	}
	if seq := mustAppend(t, s, 4, t0, content(4, 8, 10_000)); seq != 4 {
		t.Errorf("the next record is %d, want 4", seq)
	}
	if got, want := s.Outbox("flux").Pending(), (Pending{{1, Open}}); !slices.Equal(got, want) {
		t.Errorf("Pending() = %v, want %v", got, want)
	}
}

func makeLargeRecords(t *testing.T) {
	if _, err := os.Stat(largeRecords); err == nil {
		t.Fatalf("%s exists; it is the proof that old spools are read and stays as it is", largeRecords)
	}
	s := New(Options{Dir: largeRecords, MaxBytes: 1 << 20, transaction: 42_000})
	s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	for i, parts := range largeParts {
		mustAppend(t, s, uint64(i+1), t0, parts)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(largeRecords, lockName))
	os.Remove(filepath.Join(largeRecords, trustedName)) // times of change do not survive a checkout
}

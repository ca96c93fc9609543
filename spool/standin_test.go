package spool

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// claimable makes a spool without a folder that has records 1 to n in memory.
func claimable(t *testing.T, n int) *Spool {
	t.Helper()
	opt := small(t)
	opt.MemoryBytes = 8000 // 1,000 at once, 2,000 in all
	s := New(opt)
	s.Outbox("a")
	s.Outbox("b")
	for id := uint64(1); id <= uint64(n); id++ {
		m := Meta{ID: id, Start: t0, Width: time.Second, Samples: [Kinds]uint64{1: id}}
		if _, err := s.Append(t0, m, slices.Values(content(id, 1, 300))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func ids(s *Spool) (list []uint64) {
	for _, e := range s.Entries(Range{0, Open}) {
		list = append(list, e.ID)
	}
	return list
}

func TestClaim(t *testing.T) {
	s := claimable(t, 12)
	if s.Claim(t0.Add(standInAfter-1)) || s.StandIn() != nil {
		t.Fatal("records were claimed early")
	}
	later := t0.Add(standInAfter)
	if !s.Claim(later) {
		t.Fatal("nothing was claimed")
	}
	in := s.StandIn()
	if got, want := ids(in), []uint64{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("claimed %v, want %v", got, want)
	}
	if parts, err := in.Read(2); err != nil || !sameParts(parts, content(2, 1, 300)) {
		t.Errorf("Read(2) = %v, want what was appended", err)
	}
	// Upstream a takes what there is, b nothing: it loses the oldest beyond 2,000 bytes.
	a, _ := in.Find("a")
	for {
		err := a.Update(func(tx *Tx) error {
			p, _ := tx.Pending().Without(Range{1, in.Next()})
			b := batchOf(0, 1)
			tx.Progress(p, nil)
			tx.Seal(&b)
			tx.Settle(b.Seq, Settlement{To: Delivered, At: t0})
			for _, e := range in.Entries(Range{1, in.Next()}) {
				if a.Pending().Contains(e.Seqs.From) {
					tx.Merged(e.Samples)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Claim(later) {
			break
		}
	}
	if got, want := ids(in), []uint64{7, 8, 9, 10, 11, 12}; !slices.Equal(got, want) {
		t.Errorf("held %v, want %v", got, want)
	}
	if st := s.Stats(); st.MemoryRecords != 6 || st.MemoryDropped != [Kinds]uint64{} {
		t.Errorf("Stats() = %+v, want 6 records in memory, nothing dropped for all", st)
	}
	all, early := uint64(12*13/2), uint64(6*7/2)
	if l := s.Outbox("a").Ledger(); l.ConservationError != 0 || l.Windowed[1].Samples != all || l.Delivered[1].Samples != all {
		t.Errorf("ledger of a: %+v, want %d delivered", l, all)
	}
	if l := s.Outbox("b").Ledger(); l.ConservationError != 0 || l.Windowed[1].Samples != all || l.Dropped["memory_full"][1].Samples != early || l.Pending[1].Samples != all-early {
		t.Errorf("ledger of b: %+v, want %d dropped as memory_full", l, early)
	}

	// What is settled goes to the ledgers on disk; the rest goes on.
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Maintain(later); err != nil {
			t.Fatal(err)
		}
	}
	if s.StandIn() == nil || s.Next() != 1 {
		t.Errorf("StandIn() = %v, Next() = %d, want what is pending kept, and nothing on disk", s.StandIn(), s.Next())
	}
	b, _ := in.Find("b")
	if err := b.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, in.Next()})
		tx.Progress(p, nil)
		tx.Filtered([Kinds]uint64{1: all - early})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(later); err != nil {
		t.Fatal(err)
	}
	if s.StandIn() != nil {
		t.Error("the stand-in is still there")
	}
	mustBalance(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = attach(t, s.opt, "a", "b")
	if l := s.Outbox("a").Ledger(); l.Delivered[1].Samples != all || l.Windowed[1].Samples != all || l.Delivered[0].Items+l.Delivered[1].Items == 0 {
		t.Errorf("ledger of a on disk: %+v, want %d delivered", l, all)
	}
	if l := s.Outbox("b").Ledger(); l.Filtered[1].Samples != all-early || l.Dropped["memory_full"][1].Samples != early {
		t.Errorf("ledger of b on disk: %+v", l)
	}
	mustBalance(t, s)
}

// Dead letters of a stand-in are kept, too.
func TestClaimDead(t *testing.T) {
	s := claimable(t, 3)
	s.Claim(t0.Add(standInAfter))
	a, _ := s.StandIn().Find("a")
	batch := batchOf(6, 2)
	if err := a.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, 4})
		tx.Progress(p, nil)
		tx.Seal(&batch)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if batch.Seq < standInSequences {
		t.Errorf("batch %d, want it far from those of outbox.db", batch.Seq)
	}
	if err := a.Update(func(tx *Tx) error {
		tx.Settle(batch.Seq, Settlement{To: Dead, Reason: "refused", At: t0})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(t0); err != nil {
		t.Fatal(err)
	}
	if got := s.Outbox("a").Dead(); len(got) == 0 || got[0].Reason != "refused" || len(a.Dead()) != 0 {
		t.Errorf("dead letters %+v, want those of the stand-in; %d are left there", got, len(a.Dead()))
	}
	mustBalance(t, s)
}

// A record that a disk which fails may have all the same is not claimed: another
// process could find it there.
func TestClaimTried(t *testing.T) {
	dir := mount(t, "size=2m")
	s := New(Options{Dir: filepath.Join(dir, "spool"), MaxBytes: 64 << 20, SegmentBytes: 256 << 10})
	s.Outbox("a")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	var kept []uint64
	for id := uint64(1); id <= 20 && len(kept) < 5; id++ {
		seq, err := s.Append(t0, Meta{ID: id, Start: t0}, slices.Values(content(id, 1, 50_000)))
		if err != nil {
			t.Fatal(err)
		}
		if seq == 0 {
			kept = append(kept, id)
		}
	}
	if !s.Claim(t0.Add(time.Hour)) {
		t.Fatal("nothing was claimed")
	}
	if got := ids(s.StandIn()); !slices.Equal(got, kept[1:]) {
		t.Errorf("claimed %v of %v, want all but the first", got, kept)
	}
	os.Remove(f.Name())
	if err := s.Maintain(t0); err != nil {
		t.Fatal(err)
	}
	if list := ids(s); list[len(list)-1] != kept[0] {
		t.Errorf("on disk %v, want %d at the end", list, kept[0])
	}
	mustBalance(t, s)
	if left := s.Left(); left.Records != len(kept)-1 || left.Writing {
		t.Errorf("Left() = %+v, want %d records", left, len(kept)-1)
	}
	if err := s.Close(); err == nil {
		t.Error("Close() said nothing of the records in memory")
	}
}

// TestClaimNewUpstream: batches of an upstream that is configured while there is a
// stand-in have sequences that none of outbox.db have.
func TestClaimNewUpstream(t *testing.T) {
	s := claimable(t, 3)
	if !s.Claim(t0.Add(standInAfter)) {
		t.Fatal("nothing was claimed")
	}
	o := s.StandIn().Outbox("c")
	b := batchOf(0, 1)
	if err := o.Update(func(tx *Tx) error { tx.Seal(&b); return nil }); err != nil {
		t.Fatal(err)
	}
	if b.Seq < standInSequences {
		t.Errorf("the first batch has sequence %d, want %d or more", b.Seq, uint64(standInSequences))
	}
	if p := o.Pending(); p[0].From != 4 {
		t.Errorf("it is owed %v, want what comes", p)
	}
}

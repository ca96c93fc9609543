package spool

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A disk that hangs has one Flush that does not come back. Whoever remembers records
// meanwhile does not wait, Stats says so, and memory has its bound; the record that is
// being written is neither dropped nor counted twice.
func TestHang(t *testing.T) {
	opt := small(t)
	opt.MemoryBytes = 1000
	s := New(opt)
	s.attaching.Store(true) // as Attach does
	s.Unanswered(t0)
	if st := s.Stats(); st.State != "memory" || !strings.Contains(st.Detail, "has not answered since") {
		t.Errorf("while it is being opened Stats() = %+v, want since when", st)
	}
	s.attaching.Store(false)
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	remember := func(id uint64) {
		t.Helper()
		if err := s.Remember(t0, Meta{ID: id, Samples: [Kinds]uint64{1: id}}, slices.Values(content(id, 1, 300))); err != nil {
			t.Fatal(err)
		}
	}
	s.Unanswered(t0) // nothing waits for the disk
	if st := s.Stats(); st.State != "ok" {
		t.Errorf("Stats() = %+v, want ok", st)
	}
	remember(1)
	s.io.Lock() // as the write of the first record does
	recs := s.memory.next(0)
	flushed := make(chan uint64)
	go func() { flushed <- s.Flush(t0) }()
	s.Unanswered(t0)
	for id := uint64(2); id <= 9; id++ {
		remember(id)
	}
	if st := s.Stats(); st.State != "memory" || !strings.Contains(st.Detail, "has not answered since "+t0.Format(time.TimeOnly)) {
		t.Errorf("Stats() = %+v, want memory and since when", st)
	}
	if s.Claim(t0.Add(time.Hour)) {
		t.Error("records are claimed while one is being written")
	}
	// 1 is being written, 9 came last, and 7 and 8 fit beside them.
	if st := s.Stats(); st.MemoryRecords != 4 || st.MemoryDropped[1] != 2+3+4+5+6 {
		t.Errorf("Stats() = %+v, want 4 records in memory, and those of 2 to 6 dropped", st)
	}
	if left := s.Left(); left.Records != 4 || left.Samples[1] != 1+7+8+9 || !left.Writing {
		t.Errorf("Left() = %+v, want those 4 and that one is being written", left)
	}
	steps := s.Steps()
	if err := s.writeLocked(t0, recs); err != nil { // it answers
		t.Fatal(err)
	}
	s.io.Unlock()
	if seq := <-flushed; seq != 4 {
		t.Errorf("Flush() = %d, want 4, the sequence of the last record", seq)
	}
	if got, want := ids(s), []uint64{1, 7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("on disk are %v, want %v", got, want)
	}
	if s.Steps() == steps || s.Left() != (Left{}) {
		t.Errorf("Steps() = %d, before %d; Left() = %+v, want more, and nothing", s.Steps(), steps, s.Left())
	}
	if st := s.Stats(); st.State != "ok" || st.MemoryRecords != 0 || st.MemoryBytes != 0 {
		t.Errorf("Stats() = %+v, want ok, and nothing in memory", st)
	}
}

// outbox.db alone hangs, in a transaction that does not come back: records are stored,
// and nobody but its own users waits. Writing says since when.
func TestOutboxHangs(t *testing.T) {
	s := attach(t, small(t), "flux")
	defer s.Close()
	o := s.Outbox("flux")
	mustAppend(t, s, 1, t0, content(1, 1, 300))
	if since := s.Writing(); !since.IsZero() {
		t.Errorf("Writing() = %v while nobody does, want the zero time", since)
	}
	began, hung, answer, over := time.Now(), make(chan bool), make(chan bool), make(chan error)
	go func() {
		over <- o.Update(func(tx *Tx) error {
			hung <- true
			<-answer
			tx.Put("table", "key", []byte("value"))
			return nil
		})
	}()
	<-hung
	done := make(chan bool)
	go func() {
		defer close(done)
		if err := s.Maintain(t0); err != nil {
			t.Error(err)
		}
		mustAppend(t, s, 2, t0, content(2, 1, 300))
		if s.SetLimits(1<<20, time.Hour) {
			t.Error("limits are set while somebody may be reading them")
		}
		s.Outbox("another")
		if err := s.Maintain(t0); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("something waits for outbox.db")
	}
	if since := s.Writing(); since.Before(began) || since.After(time.Now()) {
		t.Errorf("Writing() = %v, want when the transaction began", since)
	}
	if got, want := ids(s), []uint64{1, 2}; !slices.Equal(got, want) {
		t.Errorf("on disk are %v, want %v", got, want)
	}
	answer <- true
	if err := <-over; err != nil {
		t.Error(err)
	}
	<-done
	if since := s.Writing(); !since.IsZero() || string(o.Get("table", "key")) != "value" {
		t.Errorf("after it Writing() = %v and the value is %q, want neither to be as before", since, o.Get("table", "key"))
	}
}

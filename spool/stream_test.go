package spool

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// streaming is small with four parts of 10,000 bytes to a transaction.
func streaming(t testing.TB) Options {
	opt := small(t)
	opt.transaction = 42_000
	return opt
}

// during yields parts and calls fn before the one of that number.
func during(parts [][]byte, number int, fn func()) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i, p := range parts {
			if i == number {
				fn()
			}
			if !yield(p) {
				return
			}
		}
	}
}

// frames counts what segments hold, whether it is part of a whole record or not.
func frames(t testing.TB, s *Spool) (n int) {
	t.Helper()
	for _, g := range s.segmentList() {
		if err := CheckFile(filepath.Join(s.opt.Dir, g.name())); err != nil {
			t.Error(err)
		}
		read := segment{number: g.number}
		if err := s.dir.openOld(&read); err != nil {
			t.Fatal(err)
		}
		if _, err := read.scan(func(frame) { n++ }); err != nil {
			t.Error(err)
		}
		read.close()
	}
	return n
}

// TestStream: a large record goes to disk as its parts come, no more of it than a
// transaction and a part is in memory, and it is there once it is whole.
func TestStream(t *testing.T) {
	opt := streaming(t)
	s := attach(t, opt, "flux")
	want := content(1, 33, 10_000) // more than one segment
	asked := 0
	parts := func(yield func([]byte) bool) {
		own := make([]byte, 10_000) // a part is valid until the next
		for _, p := range want {
			asked++
			s.tail.close() // bbolt locks a file
			s.tail = nil
			stored := frames(t, s)
			if ahead := asked - 1 - stored; ahead > 4 {
				t.Errorf("%d parts are in memory, want at most 4", ahead)
			}
			if n := len(s.Entries(Range{0, Open})); n != 0 {
				t.Errorf("%d records can be seen before the last part", n)
			}
			copy(own, p)
			if !yield(own) {
				return
			}
		}
	}
	seq, err := s.Append(t0, Meta{ID: 1, Start: t0, Samples: [Kinds]uint64{1: 5}}, parts)
	if seq != 1 || err != nil || asked != len(want) {
		t.Fatalf("Append = %d, %v, and asked for %d parts, want 1 and %d", seq, err, asked, len(want))
	}
	mustAppend(t, s, 2, t0, content(2, 4, 10_000)) // fits one transaction
	for range 2 {
		if got, err := s.Read(1); err != nil || !sameParts(got, want) {
			t.Errorf("Read(1) = %d parts, %v", len(got), err)
		}
		if got, err := s.Read(2); err != nil || !sameParts(got, content(2, 4, 10_000)) {
			t.Errorf("Read(2) = %d parts, %v", len(got), err)
		}
		if e := s.Entries(Range{0, Open}); len(e) != 2 || e[0].Bytes != 330_000 || e[0].Samples[1] != 5 {
			t.Errorf("Entries() = %+v", e)
		}
		mustBalance(t, s)
		s.Close()
		s = attach(t, opt, "flux")
	}
}

// TestStreamCrash: the process ends between two transactions of a record, all in one
// segment, or in two. Nothing of it is there afterwards, and it is no damage, then or
// later.
func TestStreamCrash(t *testing.T) {
	for _, part := range []int{10, 30} {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			opt := streaming(t)
			s := attach(t, opt, "flux")
			mustAppend(t, s, 1, t0, content(1, 2, 1000))
			dir := filepath.Join(t.TempDir(), "copy")
			seq, err := s.Append(t0, Meta{ID: 2, Start: t0}, during(content(2, 33, 10_000), part, func() { copyDir(t, opt.Dir, dir) }))
			if seq != 2 || err != nil {
				t.Fatalf("Append = %d, %v", seq, err)
			}
			opt.Dir = dir
			for n := range uint64(3) {
				s := attach(t, opt, "flux")
				if st := s.Stats(); st.Records != 1+int(n) || st.DamagedRecords != 0 || st.Quarantined != 0 {
					t.Errorf("after a crash: %+v", st)
				}
				if got, want := frames(t, s), 2+int(n); got != want {
					t.Errorf("%d parts are in segments, want %d", got, want)
				}
				mustAppend(t, s, 3+n, t0, content(3+n, 1, 1000)) // 2 is not used again
				mustBalance(t, s)
				s.Close()
			}
		})
	}
}

// TestStreamCrashInNextSegment: what is left of such a record in a segment that is not
// the newest stays there, and is no damage at any start, whatever comes after it.
func TestStreamCrashInNextSegment(t *testing.T) {
	for number := 1; number <= 33; number += 4 {
		opt := streaming(t)
		s := attach(t, opt, "flux")
		mustAppend(t, s, 1, t0, content(1, 2, 1000))
		dir := filepath.Join(t.TempDir(), "copy")
		seq, err := s.Append(t0, Meta{ID: 2, Start: t0}, during(content(2, 34, 10_000), number, func() { copyDir(t, opt.Dir, dir) }))
		if seq != 2 || err != nil {
			t.Fatalf("Append = %d, %v", seq, err)
		}
		segments := s.index[len(s.index)-1]
		if segments.first == segments.last {
			t.Fatal("the record lies in one segment")
		}
		opt.Dir = dir
		for n := range uint64(3) {
			s := attach(t, opt, "flux")
			if st := s.Stats(); st.Records != 1+int(n) || st.DamagedRecords != 0 || st.Quarantined != 0 {
				t.Errorf("after a crash at part %d, start %d: %+v", number, n, st)
			}
			mustAppend(t, s, 3+n, t0, content(3+n, 1, 1000))
			mustBalance(t, s)
			s.Close()
		}
	}
}

// TestStreamRestLost: a record whose last parts are gone together with their
// segment is a damaged one.
func TestStreamRestLost(t *testing.T) {
	opt := streaming(t)
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 33, 10_000))
	last := s.index[0].last
	if s.index[0].first == last {
		t.Fatal("the record lies in one segment")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(opt.Dir, segmentName(last)), 5000); err != nil {
		t.Fatal(err)
	}
	s = attach(t, opt, "flux")
	if st := s.Stats(); st.Records != 0 || st.DamagedRecords != 1 || st.Quarantined != 1 {
		t.Errorf("Stats() = %+v, want one damaged record and one file in quarantine", st)
	}
}

// TestStreamRefused: the disk refuses a later part. The record waits in memory as a
// whole, and what was written of it is not taken for part of the next attempt.
func TestStreamRefused(t *testing.T) {
	opt := streaming(t)
	s := attach(t, opt, "flux")
	want := content(1, 12, 10_000)
	seq, err := s.Append(t0, Meta{ID: 1, Start: t0}, during(want, 10, func() {
		if s.tail != nil {
			s.tail.db.Close()
		}
	}))
	if st := s.Stats(); seq != 0 || err != nil || st.MemoryRecords != 1 || st.MemoryBytes != 120_000 || st.Records != 0 {
		t.Fatalf("Append = %d, %v, %+v, want it in memory", seq, err, st)
	}
	if seq := mustAppend(t, s, 2, t0, content(2, 1, 100)); seq != 2 {
		t.Errorf("the record after it is %d, want 2", seq)
	}
	for range 2 {
		if got, err := s.Read(1); err != nil || !sameParts(got, want) {
			t.Errorf("Read(1) = %d parts, %v", len(got), err)
		}
		if st := s.Stats(); st.Records != 2 || st.DamagedRecords != 0 {
			t.Errorf("Stats() = %+v, want 2 records", st)
		}
		mustBalance(t, s)
		s.Close()
		s = attach(t, opt, "flux")
	}
}

// TestStreamTooLarge: a record that does not fit MaxBytes takes the place of the
// others, as ever, but not of its own parts; then it waits in memory, and the next one
// finds room.
func TestStreamTooLarge(t *testing.T) {
	opt := streaming(t)
	opt.MaxBytes = 1 << 20
	s := attach(t, opt)
	mustAppend(t, s, 1, t0, content(1, 2, 10_000))
	first := uint64(0)
	parts := during(content(2, 200, 10_000), 199, func() { t.Error("all of it fits") })
	parts = func(parts iter.Seq[[]byte]) iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			for p := range parts {
				if !yield(p) {
					return
				}
				if first == 0 {
					first = s.filling
				}
				if n := s.segments[0].number; s.filling > 0 && n > first {
					t.Fatalf("the first segment is %d, and the record began in %d", n, first)
				}
			}
		}
	}(parts)
	if _, err := s.storeLocked(t0, Meta{ID: 2, Start: t0}, parts); !isFull(err) || first == 0 {
		t.Fatalf("storing it = %v, begun in segment %d, want it to be full", err, first)
	}
	for id := uint64(3); id < 40; id++ {
		mustAppend(t, s, id, t0, content(id, 4, 10_000))
	}
	if got := s.bytes(); got > opt.MaxBytes {
		t.Errorf("%d bytes, want at most %d", got, opt.MaxBytes)
	}
	mustBalance(t, s)
}

// Frames of a streamed record that contradict themselves are not taken.
func TestStreamedFrames(t *testing.T) {
	body := []byte("body")
	frameOf := func(part, parts uint16, flags byte) []byte {
		b := make([]byte, frameHead+len(body)+frameTail)
		copy(b[frameHead:], body)
		f := frame{version: frameStreamed, seqs: Range{5, 6}, part: part, parts: parts}
		f.seal(b)
		if b[5] != flags {
			t.Errorf("part %d of %d has flags %d, want %d", part, parts, b[5], flags)
		}
		return b
	}
	for _, c := range []struct {
		part, parts uint16
		flags       byte
		good        bool
	}{
		{1, 0, 0, true}, {1, 2, flagLast, true}, {partsMax - 2, 0, 0, true}, {partsMax - 1, partsMax, flagLast, true},
		{1, 3, 0, false}, {1, 1, 0, false}, {partsMax - 1, 0, 0, false}, {partsMax, 0, flagLast, false},
	} {
		_, got, err := decodeFrame(partKey(5, c.part), frameOf(c.part, c.parts, c.flags))
		if good := err == nil && slices.Equal(got, body); good != c.good {
			t.Errorf("part %d of %d: %v, want good: %v", c.part, c.parts, err, c.good)
		}
	}
}

package spool

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// Append stores one record in one synced transaction (in several when it is
// larger than a segment) and gives its sequence. When there is no folder, or
// the disk refuses, the record stays in the memory log and seq is 0 with a nil
// error: it gets its sequence when it is written, before any later record.
// The error is about the record itself, which is then nowhere.
//
// Each part is valid until the next one is asked for; a record has 1 to 65,535
// parts.
func (s *Spool) Append(now time.Time, m Meta, parts iter.Seq[[]byte]) (seq uint64, err error) {
	if err := s.Remember(now, m, parts); err != nil {
		return 0, err
	}
	return s.Flush(now), nil
}

// Remember is the first half of Append, which does not touch the disk: the record
// is in the memory log. One that does not fit there beside newer ones is dropped.
func (s *Spool) Remember(now time.Time, m Meta, parts iter.Seq[[]byte]) error {
	rec := gather(m, parts)
	if n := len(rec.parts); n == 0 || n > partsMax {
		return fmt.Errorf("append record: it has %d parts, want 1 to %d", n, partsMax)
	}
	if rec.bytes > math.MaxUint32 {
		return fmt.Errorf("append record: it has %d bytes, want at most %d", rec.bytes, uint32(math.MaxUint32))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory.since.IsZero() {
		s.memory.since = now
	}
	s.memory.trim() // this one may be written at once
	s.memory.push(rec)
	return nil
}

// Flush is the second half of Append: it writes the memory log and gives the sequence
// of the record that was remembered last, or 0 if that is still in memory.
// It takes as long as the disk does; see Unanswered.
func (s *Spool) Flush(now time.Time) (seq uint64) {
	if !s.attaching.Load() { // which may take seconds; the caller need not wait for it
		s.io.Lock()
		_ = s.flushLocked(now) // is in Stats
		s.io.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory.trim()
	if s.memory.last == s.memory.pushed {
		return s.memory.lastSeq
	}
	return 0
}

// Unanswered tells the spool that a Flush has not come back: its disk hangs. Stats says
// so until a record is written, or refused.
func (s *Spool) Unanswered(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.memory.records) == 0 || s.failure != nil { // it came back just now; or there is trouble already
		return
	}
	s.failure = fmt.Errorf("the disk has not answered since %s", since.UTC().Format(time.TimeOnly+"Z"))
	s.log.Error("records are kept in memory", "error", s.failure)
}

// flushLocked writes the memory log, in order, up to the first failure.
func (s *Spool) flushLocked(now time.Time) error {
	if s.dir == nil {
		return ErrDetached
	}
	for {
		s.mu.Lock()
		rec, ok := s.memory.next()
		s.mu.Unlock()
		if !ok {
			return nil
		}
		if err := s.writeLocked(now, rec); err != nil {
			return err
		}
	}
}

// writeLocked puts the first record of the memory log into the tail segment and the
// index. After an error its sequence is given to the next attempt: should the failed one have
// come through after all, both carry the same number, and the newer counts.
func (s *Spool) writeLocked(now time.Time, rec record) error {
	seq, err := s.storeLocked(now, rec)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && (s.failure == nil || s.failure.Error() != err.Error()) {
		s.log.Error("record is kept in memory", "error", err)
	}
	if err == nil && s.failure != nil {
		s.log.Info("records are written to disk again", "records", len(s.memory.records))
	}
	s.failure = err
	s.memory.wrote(seq, err)
	return err
}

func (s *Spool) storeLocked(now time.Time, rec record) (uint64, error) {
	l := logged{Entry: Entry{Bytes: uint32(rec.bytes), Meta: rec.meta}, parts: uint16(len(rec.parts))}
	s.mu.RLock()
	seq := s.next
	meta := appendMeta(nil, &rec.meta, s.cursorsLocked())
	s.mu.RUnlock()
	l.Seqs = Range{seq, seq + 1}
	l.bind = checksum(meta)
	frames := encodeFrames(l.Seqs, meta, rec.parts)
	var size int64
	for _, f := range frames {
		size += int64(len(f))
	}
	if err := s.makeRoomLocked(now, size); err != nil {
		return 0, err
	}
	for part := 0; part < len(frames); {
		g, n, err := s.putLocked(now, seq, uint16(part), frames[part:])
		if err != nil {
			return 0, fmt.Errorf("append record %d: %w", seq, err)
		}
		if l.first == 0 {
			l.first = g.number
		}
		l.last = g.number
		part += n
	}
	s.mu.Lock()
	s.index = s.index.put(l)
	s.next = seq + 1
	s.mu.Unlock()
	return seq, nil
}

// chunk is how much of a record goes into an empty segment; the rest is
// bbolt's.
func (s *Spool) chunk() int64 { return s.opt.SegmentBytes - s.opt.SegmentBytes/8 - 32<<10 }

// putLocked writes as many of the frames as one segment takes, and says how
// many that were.
func (s *Spool) putLocked(now time.Time, seq uint64, part uint16, frames [][]byte) (*segment, int, error) {
	budget := s.chunk()
	n, size := 0, int64(0)
	for n < len(frames) && (n == 0 || size+int64(len(frames[n])) <= budget) {
		size += int64(len(frames[n]))
		n++
	}
	g, fresh, err := s.tailLocked(now, size)
	for err == nil {
		err = g.put(seq, part, frames[:n])
		switch {
		case err == nil:
			s.mu.Lock()
			g.size = s.dir.size(g.name())
			s.mu.Unlock()
			for _, f := range frames[:n] {
				g.largest = max(g.largest, int64(len(f)))
			}
			return g, n, nil
		case errors.Is(err, bolterrors.ErrMaxSizeReached) && (!fresh || n > 1):
			if fresh { // cannot be by the budget above; be safe
				n = (n + 1) / 2
			}
			s.retireLocked()
			g, fresh, err = s.tailLocked(now, size)
		default:
			// The error may have left the file and what the kernel holds of it
			// different. The segment is not appended to again.
			s.retireLocked()
		}
	}
	return nil, 0, err
}

// tailLocked gives the segment to append to, a fresh one when there is none,
// or it is too old. need is what is to be put into it.
func (s *Spool) tailLocked(now time.Time, need int64) (g *segment, fresh bool, err error) {
	s.mu.RLock()
	var last *segment
	if n := len(s.segments); n > 0 {
		last = s.segments[n-1]
	}
	s.mu.RUnlock()
	limit := max(s.opt.SegmentBytes, need+need/4+256<<10) // a part larger than a segment gets a segment of its size
	if age := now.Sub(s.born(last)); last != nil && (age >= s.opt.SegmentAge || age < -s.opt.SegmentAge) {
		s.retireLocked()
	}
	if s.tail != nil {
		return s.tail, false, nil
	}
	if last != nil && last.number > s.retired {
		if s.old == last {
			_ = s.old.close()
			s.old = nil
		}
		if err := s.dir.openTail(last, limit); err == nil {
			s.tail = last
			last.largest = limit // not known: it was written by another process
			return last, false, nil
		}
		s.log.Error("segment cannot be appended to, a new one is started", "segment", last.name(), "error", err)
		s.retireLocked()
	}
	g, err = s.dir.createSegment(s.highest+1, limit, now)
	if err != nil {
		if g != nil { // created, but it could not be opened: it is empty
			_ = s.dir.remove(g.name())
		}
		return nil, false, err
	}
	s.highest = g.number
	s.tail = g
	s.mu.Lock()
	s.segments = append(s.segments, g)
	s.mu.Unlock()
	s.trustLocked(false)
	return g, true, nil
}

func (s *Spool) born(g *segment) time.Time {
	if g == nil {
		return time.Time{}
	}
	return g.born
}

// retireLocked ends appending to the newest segment.
func (s *Spool) retireLocked() {
	s.retired = s.highest
	if s.tail == nil {
		return
	}
	if err := s.tail.close(); err != nil {
		s.log.Error("close segment", "segment", s.tail.name(), "error", err)
	}
	s.tail = nil
}

// trustLocked notes the files that are finished: all but the newest segment
// and the outbox, and with all of them at a clean stop.
func (s *Spool) trustLocked(all bool) {
	if s.opt.Guest { // the list would be the guest's, whom the owner's process may not be able to read
		return
	}
	s.mu.RLock()
	names := make([]string, 0, len(s.segments)+1)
	for i, g := range s.segments {
		if all || i < len(s.segments)-1 {
			names = append(names, g.name())
		}
	}
	s.mu.RUnlock()
	if all {
		names = append(names, outboxName)
	}
	// Without it more is checked at the next start, nothing else.
	if err := s.dir.writeTrusted(names); err != nil {
		s.log.Warn("list of finished files is not written", "error", err)
	}
}

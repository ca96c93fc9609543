package spool

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// Append stores one record, synced, and gives its sequence: in one transaction, or
// part by part in several when it takes more than 4 MiB, of which only the last makes
// it count. When there is no folder, or the disk refuses, the record stays in the
// memory log and seq is 0 with a nil error: it gets its sequence when it is written,
// before any later record. The error is about the record itself, which is then nowhere.
//
// Each part is valid until the next one is asked for; a record has 1 to 65,535
// parts. Of a large record they are asked for a second time, from the first on, when the
// disk refuses one: they must be the same. Append takes as long as the disk does;
// see Unanswered.
func (s *Spool) Append(now time.Time, m Meta, parts iter.Seq[[]byte]) (seq uint64, err error) {
	next, stop := iter.Pull(parts)
	defer stop()
	s.mu.RLock()
	most := s.transaction()
	s.mu.RUnlock()
	rec := record{meta: m}
	for p, ok := next(); ok; p, ok = next() {
		if rec.add(p); rec.bytes > most {
			return s.stream(now, m, parts, func(yield func([]byte) bool) {
				for _, p := range rec.parts {
					if !yield(p) {
						return
					}
				}
				for p, ok := next(); ok && yield(p); p, ok = next() {
				}
			})
		}
	}
	if err := s.remember(now, rec); err != nil {
		return 0, err
	}
	return s.Flush(now), nil
}

// stream writes a large record as the rest of its parts come. When that fails it is
// gathered from all of them.
func (s *Spool) stream(now time.Time, m Meta, all, parts iter.Seq[[]byte]) (seq uint64, err error) {
	tried := false
	if !s.attaching.Load() { // which may take seconds; the caller need not wait for it
		s.mu.Lock()
		s.streaming = &m
		s.mu.Unlock()
		s.io.Lock()
		if err = s.flushLocked(now); err == nil {
			tried = true
			seq, err = s.storeLocked(now, m, parts)
			s.mu.Lock()
			s.tellLocked(err)
			s.mu.Unlock()
		}
		s.io.Unlock()
		s.mu.Lock()
		s.streaming = nil
		s.mu.Unlock()
		if err == nil || errors.Is(err, errRecord) {
			return seq, err
		}
	}
	rec := gather(m, all)
	rec.tried = tried
	if err := s.remember(now, rec); err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.memory.trim()
	s.mu.Unlock()
	return 0, nil
}

// errRecord: a record is not one, wherever it is to be kept.
var errRecord = errors.New("append record")

// checkRecord tells what is wrong with a record of so many parts, bytes in all.
func checkRecord(parts int, bytes int64) error {
	if parts == 0 || parts > partsMax {
		return fmt.Errorf("%w: it has %d parts, want 1 to %d", errRecord, parts, partsMax)
	}
	if bytes > math.MaxUint32 {
		return fmt.Errorf("%w: it has %d bytes, want at most %d", errRecord, bytes, uint32(math.MaxUint32))
	}
	return nil
}

// Remember is the first half of Append for when the disk is not to be waited for: the
// record is in the memory log. One that does not fit there beside newer ones is dropped.
func (s *Spool) Remember(now time.Time, m Meta, parts iter.Seq[[]byte]) error {
	return s.remember(now, gather(m, parts))
}

func (s *Spool) remember(now time.Time, rec record) error {
	if err := checkRecord(len(rec.parts), rec.bytes); err != nil {
		return err
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

// Unanswered tells the spool that an Append or Attach has not come back: its disk hangs.
// Stats says so until a record is written, or refused, or Attach is over.
func (s *Spool) Unanswered(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := len(s.memory.records) > 0 || s.streaming != nil || s.attaching.Load() // else it came back just now
	if trouble := s.failure != nil && !errors.Is(s.failure, ErrDetached); trouble || !waits {
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
		most := s.chunk() / 4
		if s.failure != nil { // what was tried may be on disk, and is not delivered from memory
			most = 0
		}
		recs := s.memory.next(most)
		s.mu.Unlock()
		if len(recs) == 0 {
			return nil
		}
		if err := s.writeLocked(now, recs); err != nil {
			return err
		}
	}
}

// writeLocked puts the first records of the memory log into the tail segment and the
// index: one, or several that are small. After an error their sequences are given to the next
// attempt: should the failed one have come through after all, both carry the same numbers,
// and the newer counts.
func (s *Spool) writeLocked(now time.Time, recs []record) (err error) {
	var seq uint64
	n := 1
	if len(recs) == 1 {
		seq, err = s.storeLocked(now, recs[0].meta, slices.Values(recs[0].parts))
	} else {
		seq, n, err = s.storeSmallLocked(now, recs)
	}
	if err != nil {
		n = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellLocked(err)
	s.memory.wrote(seq, n)
	return err
}

// storeSmallLocked writes small records in one transaction, or as many as there is room
// for: n. A transaction costs two syncs, and of late windows there can be hundreds at once.
func (s *Spool) storeSmallLocked(now time.Time, recs []record) (seq uint64, n int, err error) {
	s.mu.RLock()
	seq = s.next
	cursors := s.cursorsLocked()
	s.mu.RUnlock()
	list, frames, size := make([]logged, len(recs)), make([][]byte, len(recs)), int64(0)
	for i, rec := range recs {
		w := writing{s: s, now: now, meta: appendMeta(nil, &rec.meta, cursors)}
		w.meta = be.AppendUint64(w.meta, rand.Uint64())
		w.Meta, w.Seqs, w.bind = rec.meta, Range{seq + uint64(i), seq + uint64(i) + 1}, checksum(w.meta)
		w.add(rec.parts[0])
		h := frame{seqs: w.Seqs, bind: w.bind, version: frameVersion, meta: w.meta, parts: 1}
		h.seal(w.buf)
		w.Bytes, w.parts = uint32(w.bytes), 1
		list[i], frames[i] = w.logged, w.buf
		size += int64(len(w.buf))
	}
	if err := s.makeRoomLocked(now, size); err != nil {
		return 0, 0, err
	}
	g, fresh, err := s.tailLocked(now, size)
	for n = len(frames); err == nil; {
		err = g.putSmall(seq, frames[:n])
		s.steps.Add(1)
		switch {
		case err == nil:
			s.mu.Lock()
			defer s.mu.Unlock()
			g.size = s.dir.size(g.name())
			for i := range n {
				list[i].first, list[i].last = g.number, g.number
				g.largest = max(g.largest, int64(len(frames[i])))
				s.index = s.index.put(list[i])
			}
			s.next = seq + uint64(n)
			return seq, n, nil
		case errors.Is(err, bolterrors.ErrMaxSizeReached) && (!fresh || n > 1):
			if fresh { // cannot be by what memory.next takes; be safe
				n = (n + 1) / 2
			}
			s.retireLocked()
			g, fresh, err = s.tailLocked(now, size)
		default: // as in putLocked
			s.retireLocked()
		}
	}
	return 0, 0, fmt.Errorf("append records from %d on: %w", seq, err)
}

// tellLocked notes how the attempt to write a record went; mu is held.
func (s *Spool) tellLocked(err error) {
	if errors.Is(err, errRecord) {
		return
	}
	if err != nil && (s.failure == nil || s.failure.Error() != err.Error()) {
		s.log.Error("record is kept in memory", "error", err)
	}
	if err == nil && s.failure != nil {
		s.log.Info("records are written to disk again", "records", len(s.memory.records))
	}
	s.failure = err
}

// transactionBytes is how much of a record is in memory and goes into one
// transaction, and a part more: each writes the last page anew, which may hold four
// parts besides (see growthLocked), and bbolt keeps all that it writes until it has.
const transactionBytes = 4 << 20

// transaction is how much of a record goes into one here; io or mu is held.
func (s *Spool) transaction() int64 {
	if s.opt.transaction > 0 {
		return s.opt.transaction
	}
	return min(transactionBytes, s.chunk())
}

// storeLocked writes a record as its parts come. What a crash leaves of one whose
// last part was not written is no record, and Attach removes it.
func (s *Spool) storeLocked(now time.Time, m Meta, parts iter.Seq[[]byte]) (uint64, error) {
	s.mu.RLock()
	seq := s.next
	w := writing{s: s, now: now, meta: appendMeta(nil, &m, s.cursorsLocked())}
	s.mu.RUnlock()
	w.meta = be.AppendUint64(w.meta, rand.Uint64()) // so that parts of an earlier attempt are never taken for this one's
	w.Meta, w.Seqs, w.bind = m, Range{seq, seq + 1}, checksum(w.meta)
	most := s.transaction()
	defer func() { s.filling = 0 }()
	for p := range parts {
		if err := checkRecord(w.count+1, w.bytes+int64(len(p))); err != nil {
			return 0, err
		}
		if n := int64(len(w.buf)); n > 0 && n+int64(len(p)) > most {
			if err := w.flush(false); err != nil {
				return 0, err
			}
		}
		w.add(p)
	}
	if err := checkRecord(w.count, w.bytes); err != nil {
		return 0, err
	}
	if err := w.flush(true); err != nil {
		return 0, err
	}
	w.Bytes, w.parts = uint32(w.bytes), uint16(w.count)
	s.mu.Lock()
	s.index = s.index.put(w.logged)
	s.next = seq + 1
	s.mu.Unlock()
	return seq, nil
}

// writing is a record on its way into segments.
type writing struct {
	s   *Spool
	now time.Time
	logged
	meta     []byte
	streamed bool // parts were written before it was known how many there are
	count    int  // of the parts
	bytes    int64

	buf   []byte // frames that are not written yet, without heads
	ends  []int
	begun int // part that buf begins with
}

// add takes a part in.
func (w *writing) add(p []byte) {
	w.buf = append(w.buf, make([]byte, frameHead)...)
	if w.count == 0 {
		w.buf = append(w.buf, w.meta...)
	}
	w.buf = append(append(w.buf, p...), make([]byte, frameTail)...)
	w.ends = append(w.ends, len(w.buf))
	w.count++
	w.bytes += int64(len(p))
}

// flush writes the frames in buf; last: there are no more.
func (w *writing) flush(last bool) error {
	h := frame{seqs: w.Seqs, bind: w.bind, version: frameVersion}
	if w.streamed = w.streamed || !last; w.streamed {
		h.version = frameStreamed
	}
	frames := make([][]byte, len(w.ends))
	begin := 0
	for i, end := range w.ends {
		h.part, h.meta, h.parts = uint16(w.begun+i), nil, 0
		if h.part == 0 {
			h.meta = w.meta
		}
		if !w.streamed || last && i == len(w.ends)-1 {
			h.parts = uint16(w.count)
		}
		frames[i] = w.buf[begin:end:end]
		h.seal(frames[i])
		begin = end
	}
	s := w.s
	if err := s.makeRoomLocked(w.now, int64(len(w.buf))); err != nil {
		return err
	}
	for len(frames) > 0 {
		g, n, err := s.putLocked(w.now, w.Seqs.From, uint16(w.begun), frames)
		if err != nil {
			return fmt.Errorf("append record %d: %w", w.Seqs.From, err)
		}
		if w.first == 0 {
			w.first, s.filling = g.number, g.number
		}
		w.last = g.number
		w.begun += n
		frames = frames[n:]
	}
	w.buf, w.ends = w.buf[:0], w.ends[:0]
	return nil
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
		s.steps.Add(1)
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

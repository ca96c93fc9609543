package spool

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Reasons under which eviction books what an upstream does not get.
const (
	reasonFull    = "spool_full"       // MaxBytes
	reasonRemoved = "upstream_removed" // no longer configured, and older than Retention
	reasonMemory  = "memory_full"      // a quarter of MemoryBytes, see Claim
)

// Maintain is to be called every few seconds: it writes the memory log, opens
// an outbox again that failed, and removes what is older than Retention or
// over MaxBytes. It does nothing while detached, and leaves outbox.db alone while
// somebody else is changing that. Its error has been dealt
// with: the spool goes on, and tries again next time.
func (s *Spool) Maintain(now time.Time) error {
	s.io.Lock()
	defer s.io.Unlock()
	if s.dir == nil {
		return nil
	}
	var err error
	free := s.tryOut() // else a transaction is under way, which may hang: records are written all the same
	if free {
		err = s.reopenBoxLocked()
		s.unlockOut()
	}
	if free && err == nil {
		err = s.expireLocked(now)
	}
	s.trimQuarantine()
	err = errors.Join(err, s.makeRoomLocked(now, 0), s.flushLocked(now))
	if free && err == nil {
		err = s.adoptLocked()
	}
	s.countQuarantine()
	return err
}

// quarantineMax bounds what is kept to be looked at.
const quarantineMax = 32 << 20

func (s *Spool) trimQuarantine() {
	names, bytes := s.dir.quarantined()
	for len(names) > 0 && bytes > quarantineMax {
		bytes -= s.dir.size(names[0])
		_ = s.dir.remove(names[0]) // what remains is tried again
		names = names[1:]
	}
	s.countQuarantine()
}

// expireLocked lets go of what is older than Retention: first of what only
// upstreams wait for that are no longer configured, then of the segments that
// nobody is owed.
func (s *Spool) expireLocked(now time.Time) error {
	cutoff := now.Add(-s.opt.Retention)
	for _, o := range s.unconfigured() {
		if err := s.expireOutbox(o, cutoff, now); err != nil {
			return err
		}
	}
	for _, g := range s.segmentList() {
		if s.newest(g).Before(cutoff) && !s.owed(g, true) {
			if err := s.unlinkLocked(g); err != nil {
				return err
			}
			s.mu.Lock()
			s.stats.Expired++
			s.mu.Unlock()
		}
	}
	return nil
}

func (s *Spool) expireOutbox(o *Outbox, cutoff, now time.Time) error {
	st := o.state()
	var upTo uint64
	s.mu.RLock()
	for i := range s.index {
		if !s.index[i].end().Before(cutoff) {
			break
		}
		upTo = s.index[i].Seqs.To
	}
	s.mu.RUnlock()
	var batches []uint64
	for i := range st.heads {
		if st.heads[i].Sealed.Before(cutoff) {
			batches = append(batches, st.heads[i].Seq)
		}
	}
	if upTo <= st.pending[0].From && len(batches) == 0 {
		return nil
	}
	return o.Update(func(tx *Tx) error {
		for _, seq := range batches {
			tx.Settle(seq, Settlement{To: Dropped, Reason: reasonRemoved, At: now})
		}
		tx.forgo(upTo, reasonRemoved)
		return nil
	})
}

// makeRoomLocked evicts until size more bytes fit into MaxBytes, in this
// order:
//
//	quarantined files, oldest first
//	segments that nobody is owed, even inside Retention, oldest first
//	segments that only upstreams are owed which are no longer configured
//	the oldest segment, whoever is owed it
//
// Before it comes to the last two, RollUp has merged pending records to coarser
// ones: it begins earlier, at 80 % of MaxBytes, because it takes its time.
//
// What an upstream is owed goes in two steps: first its outbox says so, with
// the samples, then the file is removed. A crash in between leaves a file that
// nobody is owed. The disk itself being full takes the first three steps, too,
// one file at a time, but never the last: what is pending is not given up for
// somebody else's files.
func (s *Spool) makeRoomLocked(now time.Time, size int64) error {
	s.mu.RLock()
	diskFull := isFull(s.failure) && !errors.Is(s.failure, errFull)
	s.mu.RUnlock()
	if diskFull && size == 0 {
		if _, err := s.evictLocked(false); err != nil {
			return err
		}
	}
	if size > 0 {
		size = s.growthLocked(size)
	}
	s.countQuarantine() // and the outbox
	for {
		over := s.bytes() + size - (s.opt.MaxBytes - s.reserve())
		if over <= 0 {
			return nil
		}
		ok, err := s.evictLocked(true)
		if err != nil {
			return fmt.Errorf("%w: %w", errFull, err)
		}
		if !ok {
			return fmt.Errorf("%w: %d bytes over spool.max_bytes %d and nothing left to evict", errFull, over, s.opt.MaxBytes)
		}
	}
}

// growthLocked is the most that a record of size bytes adds to the files. In a
// new segment that is little more than the record. In the newest one bbolt
// writes the last leaf page anew, which may hold four values besides (node.go,
// splitTwo), and frees the old one for later; and a file grows in steps.
func (s *Spool) growthLocked(size int64) int64 {
	limit := s.opt.SegmentBytes
	step := min(allocSize, limit/8) + 96<<10
	need := size + size/8 + step*(1+size/s.chunk())
	if g := s.tail; g != nil {
		need = max(need, min(limit-g.size, 2*size+4*g.largest+step))
	} else if s.highest > s.retired {
		need = max(need, limit-s.lastSize())
	}
	return need
}

func (s *Spool) lastSize() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := len(s.segments); n > 0 {
		return s.segments[n-1].size
	}
	return 0
}

func (s *Spool) bytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.stats.Bytes
	for _, g := range s.segments {
		n += g.size
	}
	return n
}

// evictLocked removes one file; false when there is none left.
func (s *Spool) evictLocked(pending bool) (bool, error) {
	names, _ := s.dir.quarantined()
	for _, name := range names {
		if err := s.dir.remove(name); err == nil {
			s.countQuarantine()
			return true, nil
		} // a folder that is not empty, for one: it must not keep the others here
	}
	list := s.segmentList()
	if s.filling > 0 { // of the record that room is made for, parts are there already
		list = slices.DeleteFunc(list, func(g *segment) bool { return g.number >= s.filling })
	}
	for _, g := range list {
		if !s.owed(g, true) {
			return s.evictSegment(g)
		}
	}
	for _, g := range list {
		if !s.owed(g, false) {
			if err := s.forgo(g, s.unconfigured()); err != nil {
				return false, err
			}
			return s.evictSegment(g)
		}
	}
	if !pending || len(list) == 0 {
		return false, nil
	}
	s.mu.RLock()
	all := make([]*Outbox, 0, len(s.outboxes))
	for _, o := range s.outboxes {
		if o.st != nil {
			all = append(all, o)
		}
	}
	s.mu.RUnlock()
	if err := s.forgo(list[0], all); err != nil {
		return false, err
	}
	return s.evictSegment(list[0])
}

func (s *Spool) evictSegment(g *segment) (bool, error) {
	if err := s.unlinkLocked(g); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.stats.Evicted++
	s.mu.Unlock()
	return true, nil
}

// forgo has outboxes give up what they are owed of g, and all that is older.
func (s *Spool) forgo(g *segment, from []*Outbox) error {
	var upTo uint64
	s.mu.RLock()
	for i := range s.index {
		if s.index[i].first <= g.number {
			upTo = max(upTo, s.index[i].Seqs.To)
		}
	}
	s.mu.RUnlock()
	for _, o := range from {
		if o.Pending()[0].From >= upTo {
			continue
		}
		err := o.Update(func(tx *Tx) error { tx.forgo(upTo, reasonFull); return nil })
		if err != nil {
			return err
		}
		s.log.Warn("pending records are dropped", "upstream", o.name, "reason", reasonFull, "segment", g.name(), "before", upTo)
	}
	return nil
}

// forgo advances the ranges to upTo, and beyond a group that starts before it,
// and books what that takes away.
func (tx *Tx) forgo(upTo uint64, reason string) {
	st := tx.st
	sealed := [Kinds]uint64{}
	if g := st.group; g != nil && g.Seqs.From < upTo {
		upTo = max(upTo, g.Seqs.To)
		sealed, st.group = g.Sealed, nil
	}
	gone := Range{st.pending[0].From, upTo}
	p, ok := st.pending.Without(gone)
	if gone.Empty() || !ok {
		return
	}
	s := tx.o.s
	s.mu.RLock()
	lost := s.index.pending(st.pending, upTo)
	s.mu.RUnlock()
	for k := range lost {
		lost[k] -= sealed[k]
	}
	for _, r := range st.pending {
		tx.Gap(reason, Range{max(r.From, gone.From), min(r.To, gone.To)})
	}
	st.pending = p
	tx.Dropped(reason, lost)
}

// unlinkLocked removes a segment and its records from the index. The ledgers
// have read them before, from their meta: what nobody is owed was taken out of
// the ranges by an Update, and every Update reads all there is.
func (s *Spool) unlinkLocked(g *segment) error {
	if s.old == g {
		s.old = nil
	}
	if s.highest == g.number {
		s.retireLocked()
	}
	if err := g.close(); err != nil {
		s.log.Error("close segment", "segment", g.name(), "error", err)
	}
	if err := s.dir.remove(g.name()); err != nil {
		return fmt.Errorf("remove %s: %w", g.name(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = slices.DeleteFunc(s.segments, func(o *segment) bool { return o == g })
	// A new slice: readers outside the lock may hold the old one.
	kept := make(index, 0, len(s.index))
	for _, l := range s.index {
		if g.number < l.first || l.last < g.number {
			kept = append(kept, l)
		}
	}
	s.index = kept
	return nil
}

func (s *Spool) segmentList() []*segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.segments)
}

func (s *Spool) unconfigured() (list []*Outbox) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.outboxes {
		if o.st != nil && !o.configured {
			list = append(list, o)
		}
	}
	return list
}

// newest is when the time of the last record in g is over.
func (s *Spool) newest(g *segment) (t time.Time) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.index {
		if l := &s.index[i]; l.first <= g.number && g.number <= l.last && l.end().After(t) {
			t = l.end()
		}
	}
	if t.IsZero() { // it has none: incomplete ones, or none yet
		t = g.born
	}
	return t
}

// owed tells whether an upstream is owed a record of g; all asks about those
// that are no longer configured, too.
func (s *Spool) owed(g *segment, all bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.index {
		l := &s.index[i]
		if g.number < l.first || l.last < g.number {
			continue
		}
		for _, o := range s.outboxes {
			if o.st != nil && (all || o.configured) && o.st.pending.Contains(l.Seqs.From) {
				return true
			}
		}
	}
	return false
}

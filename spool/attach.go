package spool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// Attach opens or makes the folder (0700, its files 0600), locks it, removes
// temporary names, has every file checked that is not as the last clean stop
// left it, quarantines what is damaged, indexes the segments, loads the
// outboxes and writes the memory log behind what is there. It does nothing
// when attached. After an error (ErrLocked, or what the file system said) the
// spool is as it was and Attach may be called again.
func (s *Spool) Attach(ctx context.Context, now time.Time) error {
	s.io.Lock()
	defer s.io.Unlock()
	if s.dir != nil {
		return nil
	}
	s.attaching.Store(true)
	defer s.attaching.Store(false)
	dir, err := openFolder(s.opt.Dir)
	if err == nil {
		dir.unsynced = s.opt.unsynced
		if err = s.loadLocked(ctx, dir, now); err != nil {
			dir.close()
		}
	}
	if err != nil {
		err = fmt.Errorf("attach spool %s: %w", s.opt.Dir, err)
		s.mu.Lock()
		s.failure = err
		s.mu.Unlock()
		return err
	}
	s.trustLocked(false)
	s.attaching.Store(false)
	_ = s.flushLocked(now) // what remains is tried again by Append and Maintain
	return nil
}

func (s *Spool) loadLocked(ctx context.Context, dir *folder, now time.Time) error {
	identity, err := s.identify(dir)
	if err != nil {
		return err
	}
	names, err := dir.names()
	if err != nil {
		return err
	}
	trusted := dir.readTrusted()
	var numbers []uint64
	listed, hadBox := 0, false
	for _, name := range names {
		number := segmentNumber(name)
		if number == 0 && name != outboxName {
			continue
		}
		if number != 0 {
			listed++
		}
		ok, err := s.examine(ctx, dir, name, trusted)
		if err != nil {
			return err
		}
		if ok && number != 0 {
			numbers = append(numbers, number)
		}
		hadBox = hadBox || ok && name == outboxName
	}
	slices.Sort(numbers) // names of seven digits sort wrongly
	segments, a, damaged, err := s.scan(dir, numbers, now)
	if err != nil {
		return err
	}
	interrupted := a.interrupted(numbersOf(segments), len(segments) < listed)
	damaged += a.incomplete()

	s.out.Lock()
	defer s.out.Unlock()
	if hadBox && !s.opt.Guest {
		if err := dir.compact(s.boxReserve()); err != nil {
			s.log.Warn("outbox is not compacted", "error", err)
		}
	}
	box := &box{dir: dir}
	states, err := s.loadBox(box, hadBox, a)
	if err != nil {
		return err
	}

	s.mu.Lock()
	s.box, s.generation, s.identity = box, box.generation, identity
	s.segments, s.index, s.next = segments, a.done, a.next
	for _, st := range states {
		s.next = max(s.next, st.read)
	}
	s.stats.DamagedRecords = damaged
	s.showLocked(states)
	s.attached = true
	s.failure = nil
	s.mu.Unlock()
	s.dir, s.tail, s.old, s.retired, s.highest = dir, nil, nil, 0, 0
	if len(numbers) > 0 {
		s.highest = numbers[len(numbers)-1]
	}
	s.countQuarantine()
	if s.opt.Guest {
		return nil
	}
	// Also tells at once whether the outbox can be written.
	if err := s.touchLocked(); err != nil {
		_ = box.close()
		s.detachLocked()
		return err
	}
	s.dropStandIns(a)
	s.dropInterrupted(interrupted)
	return nil
}

// dropStandIns removes segments whose every record another one stands for: what
// a crash left of a roll-up. One that cannot be removed is nobody's, and goes by
// eviction.
func (s *Spool) dropStandIns(a *assembly) {
	for _, l := range a.done {
		for n := l.first; n <= l.last; n++ {
			delete(a.full, n)
		}
	}
	for _, g := range s.segmentList() {
		if !a.full[g.number] || g.number == s.highest {
			continue
		}
		if err := s.unlinkLocked(g); err != nil {
			s.log.Warn("a segment that was rolled up is still there", "segment", g.name(), "error", err)
		}
	}
}

// examine decides whether a file may be opened. One that is damaged, or not a
// file, is quarantined.
func (s *Spool) examine(ctx context.Context, dir *folder, name string, trusted map[string]bool) (bool, error) {
	_, err := dir.regular(name)
	if err == nil && !trusted[dir.seal(name)] {
		path := filepath.Join(dir.path, name)
		if s.opt.checking != nil {
			s.opt.checking(path)
		}
		err = CheckFile(path)
		s.steps.Add(1)
	}
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if !errors.Is(err, ErrDamaged) {
		return false, err
	}
	return false, s.quarantine(dir, name, err)
}

func (s *Spool) quarantine(dir *folder, name string, why error) error {
	if s.opt.Guest {
		if name == outboxName {
			return why
		}
		return nil // it is left out
	}
	s.log.Error("file is quarantined", "file", name, "error", why)
	return dir.quarantine(name)
}

// scan indexes the segments. When one turns out to be damaged it is
// quarantined and the scan starts again without it.
func (s *Spool) scan(dir *folder, numbers []uint64, now time.Time) (segments []*segment, a *assembly, damaged uint64, err error) {
	a = &assembly{open: map[assemblyKey]*partial{}, full: map[uint64]bool{}, next: 1}
	for i, n := range numbers {
		g := &segment{number: n, born: now}
		bad := 0
		if err = dir.openOld(g); err == nil {
			bad, err = g.scan(func(f frame) { a.add(n, f) })
			err = errors.Join(err, g.close())
			s.steps.Add(1)
		}
		if errors.Is(err, ErrDamaged) {
			if err := s.quarantine(dir, g.name(), err); err != nil {
				return nil, nil, 0, err
			}
			return s.scan(dir, slices.Delete(slices.Clone(numbers), i, i+1), now)
		}
		if err != nil {
			return nil, nil, 0, err
		}
		damaged += uint64(bad)
		segments = append(segments, g)
	}
	for _, l := range a.done { // a segment is as old as its first record
		for _, g := range segments {
			if g.number == l.first && l.Start.Before(g.born) {
				g.born = l.Start
			}
		}
	}
	return segments, a, damaged, nil
}

// interrupted takes the records out that were being written when the process ended,
// for nothing of those is missing that was ever whole: the segment that the rest would be
// in is there, no sequence came after them, or another attempt to write them went well.
// lost: a segment is gone in which the rest of one may have been.
func (a *assembly) interrupted(segments map[uint64]bool, lost bool) (list []*partial) {
	for key, p := range a.open {
		i := a.done.after(p.Seqs.From)
		again := i < len(a.done) && a.done[i].Seqs == p.Seqs
		if p.streamed() && (again || segments[p.last+1] || !lost && p.Seqs.To == a.next) {
			list = append(list, p)
			delete(a.open, key)
		}
	}
	return list
}

func numbersOf(segments []*segment) map[uint64]bool {
	have := make(map[uint64]bool, len(segments))
	for _, g := range segments {
		have[g.number] = true
	}
	return have
}

// incomplete counts records of which a part is missing.
func (a *assembly) incomplete() (n uint64) {
	for _, p := range a.open {
		if p.meta { // without its first part it is the rest of one that was evicted
			n++
		}
	}
	return n
}

// dropInterrupted removes what a crash has left of a record, from every segment that
// has some of it: at a later start, when others have come after it, it would be taken
// for one that was damaged.
func (s *Spool) dropInterrupted(list []*partial) {
	for _, p := range list {
		for _, g := range s.segmentList() {
			if g.number < p.first || g.number > p.last {
				continue
			}
			err := s.dir.openTail(g, g.size+s.opt.SegmentBytes)
			if err == nil {
				err = errors.Join(g.remove(p.Seqs.From, p.bind, len(p.have)), g.close())
			}
			if err != nil { // it takes room, and may count as damaged later
				s.log.Warn("the beginning of a record is left in a segment", "segment", g.name(), "error", err)
			}
		}
	}
}

// loadBox opens outbox.db, or makes one. When it was lost, every upstream
// resumes from the ranges that the newest record remembers; what it was sent
// since then is not known, nor are the batches, and its ledger starts anew.
func (s *Spool) loadBox(x *box, exists bool, a *assembly) (map[string]*state, error) {
	if exists {
		states, err := x.open()
		if err == nil {
			for _, st := range states {
				st.reconcile(a.done)
			}
			return states, nil
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		if err := s.quarantine(x.dir, outboxName, err); err != nil {
			return nil, err
		}
	}
	var random [8]byte
	rand.Read(random[:])
	states := map[string]*state{}
	if s.opt.Guest { // a file of its own, of root's for one, the owner's process could not open
		x.generation, x.kept = be.Uint64(random[:]), keptBuckets{}
	} else if err := x.dir.createBox(be.Uint64(random[:]), s.boxReserve()); err != nil {
		return nil, err
	} else if states, err = x.open(); err != nil {
		return nil, err
	}
	for _, c := range a.newer {
		if c.pending.Valid() != nil {
			continue
		}
		st := newState(c.pending, a.next)
		st.doubt = a.next
		st.owed = a.done.pending(st.pending, st.read)
		st.windowed = st.owed
		st.drop("outbox_lost", Amounts{}) // how much is not known: the reason stands there with 0
		states[c.name] = st
		s.log.Error("outbox was lost, resuming from the newest record", "upstream", c.name, "from", c.pending[0].From, "record", a.of)
	}
	return states, nil
}

func (s *Spool) boxReserve() int64 { return min(reserveMax, s.opt.MaxBytes/64) }

// showLocked puts loaded states in place; configured upstreams without one are
// new.
func (s *Spool) showLocked(states map[string]*state) {
	for name, st := range states {
		s.outboxLocked(name).st = st
	}
	for name, o := range s.outboxes {
		if states[name] != nil {
			continue
		}
		o.st = nil
		if o.configured {
			o.st = s.newStateLocked()
		}
	}
}

// touchLocked writes the state of every outbox; out is held.
func (s *Spool) touchLocked() error {
	txs := map[*Outbox]*Tx{}
	s.mu.RLock()
	for _, o := range s.outboxes {
		if o.st != nil {
			txs[o] = &Tx{o: o, st: o.st.clone()}
		}
	}
	s.mu.RUnlock()
	return s.commitLocked(txs)
}

// reopenBoxLocked sees to it that outbox.db is open; out is held. After a
// failed commit it is checked, opened and loaded anew.
func (s *Spool) reopenBoxLocked() error {
	s.mu.RLock()
	x, next, records := s.box, s.next, s.index
	s.mu.RUnlock()
	if x == nil {
		return ErrDetached
	}
	x.mu.RLock()
	isOpen := x.db != nil || x.kept != nil
	x.mu.RUnlock()
	if isOpen {
		return nil
	}
	exists, err := s.examine(context.Background(), x.dir, outboxName, nil)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	a := &assembly{done: records, next: next}
	if !exists {
		s.mu.RLock()
		a.newer = s.cursorsLocked() // newer than those of any record
		s.mu.RUnlock()
	}
	states, err := s.loadBox(x, exists, a)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.generation = x.generation
	s.showLocked(states)
	s.mu.Unlock()
	return nil
}

// detachLocked forgets the folder; io and out are held.
func (s *Spool) detachLocked() {
	s.dir, s.tail, s.old = nil, nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attached, s.box, s.segments, s.index, s.identity = false, nil, nil, nil, ""
	for _, o := range s.outboxes {
		o.st = nil
	}
	s.failure = ErrDetached
}

// Close writes the memory log, closes all files and notes which are finished,
// so that the next Attach need not check them. The error says what is lost:
// records that are only in memory.
func (s *Spool) Close() error {
	s.io.Lock()
	defer s.io.Unlock()
	if s.dir == nil {
		return s.unwritten(nil)
	}
	err := s.flushLocked(time.Now())
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.RLock()
	x := s.box
	s.mu.RUnlock()
	if bad := errors.Join(s.tail.close(), s.old.close(), x.close()); bad == nil {
		s.trustLocked(true)
	} else { // all that was reported is synced: nothing is lost, and more is checked at the next start
		s.log.Error("close spool", "error", bad)
	}
	s.dir.close()
	s.detachLocked()
	return s.unwritten(err)
}

// Left is what a process takes with it that ends now.
type Left struct {
	Records int           // that are in memory only, and batches made of such
	Samples [Kinds]uint64 // in them; of what is delivered from memory those that the upstream which has the fewest does not have
	Writing bool          // the disk is being given some of them, which may be there later
}

// Left tells what would be lost without Close. It waits for no disk.
func (s *Spool) Left() (left Left) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	left.Records, left.Writing = len(s.memory.records), s.memory.writing > 0
	for i := range s.memory.records {
		addTo(&left.Samples, &s.memory.records[i].meta.Samples)
	}
	if s.streaming != nil {
		left.Records, left.Writing = left.Records+1, true
		addTo(&left.Samples, &s.streaming.Samples)
	}
	in := s.standIn
	if in == nil {
		return left
	}
	records, _ := in.holds()
	left.Records += records
	var most [Kinds]uint64
	for _, name := range in.Outboxes() {
		o, _ := in.Find(name)
		if !o.Configured() {
			continue
		}
		left.Records += len(o.Batches())
		l := o.Ledger()
		for k := range most {
			most[k] = max(most[k], l.Pending[k].Samples+l.Queued[k].Samples+l.Sending[k].Samples+l.InDoubt[k].Samples)
		}
	}
	addTo(&left.Samples, &most)
	return left
}

func (s *Spool) unwritten(why error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := len(s.memory.records)
	if s.standIn != nil {
		n += s.standIn.unfinished()
	}
	if why == nil {
		why = s.failure
	}
	if n > 0 {
		return fmt.Errorf("close spool: %d records are only in memory: %w", n, why)
	}
	return nil
}

func (s *Spool) countQuarantine() {
	names, bytes := s.dir.quarantined()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Quarantined, s.stats.Bytes = len(names), bytes+s.dir.size(outboxName)
}

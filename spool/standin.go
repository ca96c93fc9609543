package spool

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Records are claimed when the disk has refused them for as long as standInWindows of
// them last, and for standInAfter: most troubles are over sooner, and a claimed record
// is lost if the process ends.
const (
	standInWindows = 3
	standInAfter   = 5 * time.Second
)

// standInShare is the part of MemoryBytes that records of a stand-in may take,
// beside the memory log.
const standInShare = 4

// standInSequences is how far the sequences of a stand-in's batches lie beyond
// those of outbox.db. A process that is killed takes them with it, and none that
// follows may give them to other batches: a marker of one would be taken for that
// of another.
const standInSequences = 1 << 32

// StandIn gives the spool that stands in for this one: it holds the records that
// were claimed, and the outboxes from which they are delivered, in memory alone. Nil
// while there is none. What it has settled, Maintain adds to the ledgers on disk.
func (s *Spool) StandIn() *Spool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.standIn
}

// Claim moves records from the memory log to the stand-in, once the disk has refused
// them for as long as three windows last, and for 5 s: the oldest, at most an eighth of MemoryBytes at once. It answers
// whether there were any. All configured upstreams are owed them then, and the disk
// never gets them, so that no later process can send them again. A record of which a
// write was begun may be on disk already; it stays in the memory log.
//
// At most a quarter of MemoryBytes is held. Beyond, upstreams lose the oldest that
// they are still owed, as Dropped["memory_full"].
func (s *Spool) Claim(now time.Time) bool {
	if !s.io.TryLock() { // a disk that hangs keeps nobody waiting
		return false
	}
	defer s.io.Unlock()
	s.mu.Lock()
	var records []record
	if s.memory.overdue(now) {
		records = s.memory.claim(s.opt.MemoryBytes / standInShare / 2)
	}
	if len(records) > 0 && s.standIn == nil {
		s.standIn = s.newStandInLocked()
		s.log.Warn("windows are delivered from memory until the spool can be written", "windows", len(records))
	}
	in := s.standIn
	s.mu.Unlock()
	if len(records) == 0 {
		return false
	}
	for _, rec := range records {
		in.hold(rec)
	}
	in.forget(s.opt.MemoryBytes / standInShare)
	return true
}

func (s *Spool) newStandInLocked() *Spool {
	in := New(Options{Log: s.opt.Log})
	var random [16]byte
	rand.Read(random[:])
	in.attached, in.failure, in.held = true, nil, map[uint64][][]byte{}
	in.identity, in.generation = s.identity, be.Uint64(random[8:])
	if in.identity == "" { // the folder has never been open
		in.identity = hex.EncodeToString(random[:8])
	}
	in.box = &box{generation: in.generation, kept: keptBuckets{}}
	for name, o := range s.outboxes {
		if !o.configured {
			continue
		}
		to := in.outboxLocked(name)
		to.configured, to.st = true, in.newStateLocked()
		if o.st != nil {
			to.st.nextBatch += o.st.nextBatch
		}
	}
	return in
}

// newStateLocked is the state of an upstream that is owed the next record first.
func (s *Spool) newStateLocked() *state {
	st := newState(Pending{{s.next, Open}}, s.next)
	if s.held != nil {
		var random [4]byte
		rand.Read(random[:])
		st.nextBatch = standInSequences + uint64(be.Uint32(random[:]))
	}
	return st
}

// hold takes a record in.
func (s *Spool) hold(rec record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq := s.next
	s.next++
	s.index = s.index.put(logged{Entry: Entry{Seqs: Range{seq, seq + 1}, Bytes: uint32(rec.bytes), Meta: rec.meta}, parts: uint16(len(rec.parts))})
	s.held[seq] = rec.parts
}

// forget lets go of the records that nobody is owed, and beyond so many bytes of the
// oldest others.
func (s *Spool) forget(most int64) {
	_, bytes := s.holds()
	gone := map[uint64]bool{}
	for _, e := range s.Entries(Range{0, Open}) {
		owing := s.owing(e.Seqs.From)
		if bytes <= most && slices.ContainsFunc(owing, (*Outbox).Configured) {
			continue
		}
		for _, o := range owing {
			_ = o.Update(func(tx *Tx) error { tx.forgo(e.Seqs.To, reasonMemory); return nil }) // in memory nothing fails
		}
		if len(owing) > 0 {
			bytes -= int64(e.Bytes)
		}
		gone[e.Seqs.From] = true
	}
	if len(gone) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := make(index, 0, len(s.index)) // a new slice: readers outside the lock may hold the old one
	for _, l := range s.index {
		if !gone[l.Seqs.From] {
			kept = append(kept, l)
		}
	}
	s.index = kept
	for seq := range gone {
		delete(s.held, seq)
	}
}

func (s *Spool) owing(seq uint64) (list []*Outbox) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.outboxes {
		if o.st.pending.Contains(seq) {
			list = append(list, o)
		}
	}
	return list
}

// holds tells how many records somebody is owed, and their bytes.
func (s *Spool) holds() (records int, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.index {
		for _, o := range s.outboxes {
			if o.st.pending.Contains(s.index[i].Seqs.From) {
				records, bytes = records+1, bytes+int64(s.index[i].Bytes)
				break
			}
		}
	}
	return records, bytes
}

// unfinished counts what a stand-in has not delivered: records and batches.
func (s *Spool) unfinished() (n int) {
	s.forget(math.MaxInt64)
	n, _ = s.holds()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.outboxes {
		if o.configured {
			n += len(o.st.heads)
		}
	}
	return n
}

// adoptLocked adds what the stand-in has settled to the outboxes on disk, and lets go of it
// when nothing of it waits any more; io is held. A commit whose error was ambiguous
// is repeated, and the ledger then counts twice on both sides.
func (s *Spool) adoptLocked() error {
	in := s.StandIn()
	if in == nil {
		return nil
	}
	for _, name := range in.Outboxes() {
		from, _ := in.Find(name)
		to, ok := s.Find(name)
		if !ok {
			continue
		}
		in.out.Lock()
		settled := from.state().settled()
		letters := from.Dead()
		var err error
		if len(letters) > 0 || !settled.empty() {
			if err = to.Update(func(tx *Tx) error { tx.adopt(settled, letters); return nil }); err == nil {
				in.mu.Lock()
				from.st = from.st.without(settled)
				in.mu.Unlock()
				in.box.drop(name, deadBucket)
			}
		}
		in.out.Unlock()
		if err != nil {
			return err
		}
	}
	if in.unfinished() > 0 {
		return nil
	}
	s.mu.Lock()
	s.standIn = nil
	s.mu.Unlock()
	s.log.Info("nothing is delivered from memory any more")
	return nil
}

// settled is what a state's books have of what is over.
func (st *state) settled() *state {
	n := newState(Pending{{1, Open}}, 1)
	n.delivered, n.dead, n.filtered, n.requests = st.delivered, st.dead, st.filtered, st.requests
	n.dropped, n.gaps = maps.Clone(st.dropped), maps.Clone(st.gaps)
	sum := st.filtered
	for _, a := range append(slices.Collect(maps.Values(st.dropped)), st.delivered, st.dead) {
		sum.add(a)
	}
	for k := range sum {
		n.windowed[k], n.sealed[k] = sum[k].Samples, sum[k].Items
	}
	return n
}

func (st *state) empty() bool {
	return st.windowed == [Kinds]uint64{} && st.sealed == [Kinds]uint64{}
}

// without gives a state less what is settled.
func (st *state) without(settled *state) *state {
	c := st.clone()
	c.delivered, c.dead, c.filtered, c.dropped, c.gaps, c.letters = Amounts{}, Amounts{}, Amounts{}, map[string]Amounts{}, map[string]Span{}, nil
	for k := range c.windowed {
		c.windowed[k] -= settled.windowed[k]
		c.sealed[k] -= settled.sealed[k]
	}
	return c
}

// adopt adds what another state has settled, and its dead letters. Its log of
// requests has those of both, if it is the newer one.
func (tx *Tx) adopt(from *state, letters []DeadLetter) {
	st := tx.st
	if n, m := len(from.requests), len(st.requests); n > 0 && (m == 0 || from.requests[n-1].After(st.requests[m-1])) {
		tx.Spent(from.requests)
	}
	st.delivered.add(from.delivered)
	st.dead.add(from.dead)
	st.filtered.add(from.filtered)
	for reason, a := range from.dropped {
		st.drop(reason, a)
	}
	for reason, span := range from.gaps {
		st.gaps[reason] = st.gaps[reason].with(span)
	}
	addTo(&st.windowed, &from.windowed)
	addTo(&st.sealed, &from.sealed)
	for _, d := range letters {
		d.ID = st.nextDead
		st.nextDead++
		v := encodeLetter(&d)
		tx.write(deadBucket, seqKey(d.ID), v)
		st.letters = append(slices.Clip(st.letters), letter{d.ID, int64(len(v))})
	}
	tx.trimLetters()
}

// keptBuckets are the buckets of a stand-in's outboxes, by upstream, a slash and
// their name: those that are read again.
type keptBuckets map[string]keptBucket

type keptBucket map[string][]byte

func (k keptBuckets) commit(changes map[string][]write) {
	for name, writes := range changes {
		for _, w := range writes {
			if w.bucket != contentsBucket && w.bucket != deadBucket {
				continue // the state has it
			}
			b := k[name+"/"+w.bucket]
			if b == nil {
				b = keptBucket{}
				k[name+"/"+w.bucket] = b
			}
			if w.value == nil {
				delete(b, string(w.key))
				continue
			}
			b[string(w.key)] = w.value
		}
	}
}

func (b keptBucket) Get(key []byte) []byte { return b[string(key)] }

func (b keptBucket) ForEach(fn func(k, v []byte) error) error {
	for _, k := range slices.SortedFunc(maps.Keys(b), strings.Compare) {
		if err := fn([]byte(k), b[k]); err != nil {
			return err
		}
	}
	return nil
}

func (x *box) drop(name, bucket string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.kept, name+"/"+bucket)
}

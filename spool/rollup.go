package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// A CoarsenFunc merges the contents of several records into one, given by its
// parts, and counts per kind the samples and series in it. What it is given is
// valid during the call; what it gives belongs to the caller.
type CoarsenFunc func(records [][][]byte) (parts [][]byte, samples, series [Kinds]uint64, err error)

// widths to which records are merged, finest first: each nests into the next.
var widths = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

// rollUpAt is the share of MaxBytes, in percent, that records which somebody is
// owed may take before they are rolled up.
const rollUpAt = 80

// reserveBytes is room that is kept for a segment that is being rolled up.
const reserveBytes = 32 << 20

// reserve is what appends leave of MaxBytes for the roll-up's file.
func (s *Spool) reserve() int64 {
	if s.opt.Coarsen == nil {
		return 0
	}
	return min(reserveBytes, s.opt.SegmentBytes)
}

// Hold keeps all records as they are until release is called: none is rolled up
// meanwhile (one may still be evicted). Whoever lists Entries and then Reads
// them holds for as long as that takes, seconds at most, and does not call Hold
// again before the release.
func (s *Spool) Hold() (release func()) {
	s.plan.RLock()
	return s.plan.RUnlock
}

// RollUp makes room when what is owed takes 80 % of MaxBytes and more: some
// segments, oldest and finest first, are replaced by one with coarser records.
// It answers whether it did that, and may then be called again. Without
// Options.Coarsen it does nothing. It takes seconds for a segment, during which
// records are appended and read all the same; ctx ends it early.
//
// A record that stands for several others has their range of sequences, the
// start of the first of them, and the width they were merged to; it is formed
// only of records that every upstream is owed or none of which it is. The new
// segment is made under a temporary name, synced, and renamed over the last of
// those it replaces, the others are removed then. So after a crash there are
// the old ones, or the new one and some of the old: where records overlap, the
// wider one counts.
func (s *Spool) RollUp(ctx context.Context, now time.Time) (done bool, err error) {
	if s.opt.Coarsen == nil {
		return false, nil
	}
	s.rolling.Lock()
	defer s.rolling.Unlock()
	if now.Before(s.rollAfter) && s.rollAfter.Sub(now) <= rollUpPause {
		return false, nil
	}
	r, ok := s.nextRollUp()
	if !ok {
		return false, nil
	}
	err = r.write(ctx)
	s.step("written")
	if err == nil {
		done, err = s.replace(r)
	}
	if !done {
		_ = r.dir.root.Remove(r.temp())
	}
	switch {
	case ctx.Err() != nil:
		return false, nil
	case errors.Is(err, bolterrors.ErrMaxSizeReached): // merged it is as large as before
		r.giveUp()
		return false, nil
	case errors.Is(err, ErrDamaged):
		r.giveUp()
	case err != nil:
		s.rollAfter = now.Add(rollUpPause)
	}
	if err != nil {
		s.log.Error("segments are not rolled up", "first", r.from[0].name(), "last", r.last().name(), "error", err)
		return false, fmt.Errorf("roll up %s to %s: %w", r.from[0].name(), r.last().name(), err)
	}
	return done, nil
}

// rollUpPause is how long RollUp rests after an error of the disk.
const rollUpPause = time.Minute

// step tells tests how far a roll-up is.
func (s *Spool) step(name string) {
	if s.opt.stepping != nil {
		s.opt.stepping(name)
	}
}

// rollUp is one replacement of adjacent segments by one.
type rollUp struct {
	s       *Spool
	dir     *folder
	from    []*segment // ascending
	width   time.Duration
	outputs []coarse
	cursors []cursor
	size    int64 // of the new file
	segment int64 // SegmentBytes
}

// coarse is a record that is to be made of others, or of one as it is.
type coarse struct {
	seqs    Range
	members []logged
	made    logged
}

// giveUp has no roll-up touch these segments again.
func (r *rollUp) giveUp() {
	for _, g := range r.from {
		g.stiff = true
	}
}

func (r *rollUp) last() *segment { return r.from[len(r.from)-1] }
func (r *rollUp) temp() string   { return r.last().name() + tempSuffix }

// nextRollUp chooses what to replace: of the finest width at which that is worth
// while, the oldest segments.
func (s *Spool) nextRollUp() (*rollUp, bool) {
	s.io.Lock()
	dir := s.dir
	s.io.Unlock()
	if dir == nil {
		return nil, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	x := s.bySegmentLocked()
	var owed int64
	for _, g := range s.segments {
		if x.owed[g.number] {
			owed += g.size
		}
	}
	threshold := min(s.opt.MaxBytes/100*rollUpAt, s.opt.MaxBytes-2*s.reserve())
	if owed+s.stats.Bytes < threshold && !isFull(s.failure) {
		return nil, false
	}
	for _, width := range widths {
		for i := 0; i < len(s.segments)-1; i++ {
			if from, outputs := s.stretchLocked(x, i, width); from != nil {
				return &rollUp{s: s, dir: dir, from: from, width: width, outputs: outputs, cursors: s.cursorsLocked(), segment: s.opt.SegmentBytes}, true
			}
		}
	}
	return nil, false
}

// bySegment sorts the index by segment.
type bySegment struct {
	records map[uint64][]logged
	owed    map[uint64]bool
	fixed   map[uint64]bool // holds a part of a record that lies in several, or what a group is sealing
}

func (s *Spool) bySegmentLocked() bySegment {
	x := bySegment{records: map[uint64][]logged{}, owed: map[uint64]bool{}, fixed: map[uint64]bool{}}
	var groups []Range
	for _, o := range s.outboxes {
		if o.st != nil && o.st.group != nil {
			groups = append(groups, o.st.group.Seqs)
		}
	}
	for _, l := range s.index {
		fixed := l.first != l.last || slices.ContainsFunc(groups, l.Seqs.Overlaps)
		owed := false
		for _, o := range s.outboxes {
			owed = owed || o.st != nil && o.st.pending.Contains(l.Seqs.From)
		}
		for n := l.first; n <= l.last; n++ {
			x.fixed[n] = x.fixed[n] || fixed
			x.owed[n] = x.owed[n] || owed
		}
		x.records[l.first] = append(x.records[l.first], l)
	}
	return x
}

// stretchLocked gives the segments from the i-th on that are worth being
// replaced together, and by what: as many as fit into one segment with room to spare. The newest
// segment, which is appended to, is never among them.
func (s *Spool) stretchLocked(x bySegment, i int, width time.Duration) (from []*segment, outputs []coarse) {
	var records []logged
	var size int64
	for j, g := range s.segments[i : len(s.segments)-1] {
		size += g.size
		if g.stiff || x.fixed[g.number] || !x.owed[g.number] {
			break
		}
		if j > 0 && size > s.opt.SegmentBytes/4*3 && len(records)+len(x.records[g.number]) > fewRecords {
			break
		}
		records = append(records, x.records[g.number]...)
		try := s.mergedLocked(records, width)
		if len(try)*3 <= len(records)*2 { // worth the while: at least a third less
			from, outputs = s.segments[i:i+j+1], try
		}
	}
	return slices.Clone(from), outputs
}

// mergedLocked groups records, which ascend, into those that one record of
// width can stand for. A block is a run of records without a gap whose every
// upstream is owed all or none: inside a block it does not matter which sequence
// belongs to which record, so those of one bucket need not be neighbours, and the
// results share the block's sequences among them.
func (s *Spool) mergedLocked(records []logged, width time.Duration) (list []coarse) {
	type bucket struct {
		start int64
		flags uint16
	}
	open := map[bucket]int{} // position in list
	for i, l := range records {
		if i > 0 && (records[i-1].Seqs.To != l.Seqs.From || !s.alikeLocked(records[i-1].Seqs.From, l.Seqs.From)) {
			clear(open)
		}
		b := bucket{l.Start.Truncate(width).UnixNano(), l.Flags}
		nests := l.Width > 0 && width%l.Width == 0
		if at, ok := open[b]; nests && ok {
			list[at].members = append(list[at].members, l)
			list[len(list)-1].seqs.To = l.Seqs.To
			continue
		}
		if nests {
			open[b] = len(list)
		}
		list = append(list, coarse{seqs: l.Seqs, members: []logged{l}})
	}
	return list
}

// fewRecords may always be merged, however large they are: a minute of them.
const fewRecords = 6

// alikeLocked tells whether every upstream is owed both or neither.
func (s *Spool) alikeLocked(a, b uint64) bool {
	for _, o := range s.outboxes {
		if o.st != nil && o.st.pending.Contains(a) != o.st.pending.Contains(b) {
			return false
		}
	}
	return true
}

// write makes the new segment under its temporary name. It holds no lock: the
// segments it reads do not change, and one that is evicted meanwhile is noticed
// by replace.
func (r *rollUp) write(ctx context.Context) (err error) {
	_ = r.dir.root.Remove(r.temp())
	opt := r.dir.dbOptions()
	opt.NoSync = true // it is synced once, when it is whole
	opt.MaxSize = int(max(r.segment, r.from[0].size))
	to, err := r.dir.openDB(r.temp(), opt)
	if err != nil {
		return err
	}
	to.AllocSize = int(min(256<<10, max(r.segment/16, 4096))) // finer than usual: many of these files are small
	defer func() { err = errors.Join(err, closeDB(to)) }()
	var sources sources
	defer func() { sources.close() }()
	if err := sources.open(r.dir, r.from); err != nil {
		return err
	}
	return guard(func() error {
		if err := to.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket(recordsBucket); return err }); err != nil {
			return err
		}
		var puts []framed
		bytes := 0
		for i := range r.outputs {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			frames, err := r.make(sources, &r.outputs[i])
			if err != nil {
				return fmt.Errorf("record %d: %w", r.outputs[i].seqs.From, err)
			}
			puts = append(puts, framed{r.outputs[i].seqs.From, frames})
			if bytes += int(r.outputs[i].made.Bytes); bytes >= rollUpBatch || i == len(r.outputs)-1 {
				err := putAll(to, puts)
				if r.s.steps.Add(1); err != nil {
					return err
				}
				puts, bytes = nil, 0
			}
		}
		r.size = r.dir.size(r.temp())
		return to.Sync()
	})
}

// rollUpBatch is how much is written in one transaction, more or less: each
// writes the last page anew, and all of it is in memory.
const rollUpBatch = 4 << 20

type framed struct {
	seq    uint64
	frames [][]byte
}

func putAll(db *bolt.DB, records []framed) error {
	return db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket)
		b.FillPercent = 1.0
		for _, r := range records {
			for p, f := range r.frames {
				if err := b.Put(partKey(r.seq, uint16(p)), f); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// make gives the frames of one record of the new segment.
func (r *rollUp) make(in sources, c *coarse) ([][]byte, error) {
	contents := make([][][]byte, len(c.members))
	m := c.members[0].Meta
	m.Samples, m.Absent = [Kinds]uint64{}, 0
	for i := range c.members {
		member := &c.members[i]
		var err error
		if contents[i], err = in.parts(member); err != nil {
			return nil, err
		}
		addTo(&m.Samples, &member.Samples)
		m.Absent += min(member.Absent, 1<<32-1-m.Absent)
		if member.Start.Before(m.Start) {
			m.Start = member.Start
		}
	}
	parts := contents[0]
	if len(c.members) > 1 {
		var samples [Kinds]uint64
		var err error
		parts, samples, m.Series, err = r.s.opt.Coarsen(contents)
		if err == nil && samples != m.Samples {
			err = fmt.Errorf("merged it has %v samples, its records say %v", samples, m.Samples)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		m.Width = r.width
		var series uint64
		for _, n := range m.Series {
			series += n
		}
		m.Absent = uint32(min(uint64(m.Absent), series))
	}
	if n := len(parts); n == 0 || n > partsMax {
		return nil, fmt.Errorf("%w: merged it has %d parts", ErrDamaged, n)
	}
	r.totals(&m, c.seqs)
	meta := appendMeta(nil, &m, r.cursors)
	c.made = logged{Entry: Entry{Seqs: c.seqs, Meta: m}, bind: checksum(meta), parts: uint16(len(parts)), first: r.last().number, last: r.last().number}
	for _, p := range parts {
		c.made.Bytes += uint32(len(p))
	}
	return encodeFrames(c.seqs, meta, parts), nil
}

// totals gives a record the running totals that the last of its sequences had.
func (r *rollUp) totals(m *Meta, seqs Range) {
	var latest uint64
	for i := range r.outputs {
		for j := range r.outputs[i].members {
			if l := &r.outputs[i].members[j]; l.Seqs.From < seqs.To && l.Seqs.From >= latest {
				latest, m.Accepted, m.Dropped = l.Seqs.From, l.Accepted, l.Dropped
			}
		}
		if r.outputs[i].seqs.From >= seqs.To {
			break
		}
	}
}

// sources are segments open for reading, each with a transaction that keeps
// what is read from it valid. They are handles of their own: the spool's may be
// closed at any time.
type sources map[uint64]*source

type source struct {
	segment
	tx *bolt.Tx
}

func (in *sources) open(d *folder, list []*segment) error {
	*in = sources{}
	for _, g := range list {
		src := &source{segment: segment{number: g.number}}
		if err := d.openOld(&src.segment); err != nil {
			return err
		}
		(*in)[g.number] = src
		if err := guard(func() (err error) { src.tx, err = src.db.Begin(false); return err }); err != nil {
			return err
		}
	}
	return nil
}

func (in sources) close() {
	for _, src := range in {
		if src.tx != nil {
			_ = guard(src.tx.Rollback)
		}
		_ = src.segment.close()
	}
}

// parts gives the contents of a record where they stand in the mapped file.
func (in sources) parts(l *logged) ([][]byte, error) {
	src := in[l.first]
	b := src.tx.Bucket(recordsBucket)
	if b == nil {
		return nil, fmt.Errorf("%w: %s has no bucket", ErrDamaged, src.name())
	}
	parts := make([][]byte, l.parts)
	for p := range parts {
		var err error
		if parts[p], err = find(b, l.Seqs.From, uint16(p), l.bind); err != nil {
			return nil, fmt.Errorf("%w: part %d: %w", ErrDamaged, p, err)
		}
	}
	return parts, nil
}

// replace puts the new segment in place, unless the world has changed since the
// roll-up was planned: then it answers false, and the next one fares better.
func (s *Spool) replace(r *rollUp) (bool, error) {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.io.Lock()
	defer s.io.Unlock()
	s.lockOut()
	defer s.unlockOut()
	if s.dir != r.dir || !s.stillFits(r) {
		return false, nil
	}
	// All ledgers read the records as they are: one that has read half of a
	// record's sequences could not say which samples it has counted.
	if err := s.reopenBoxLocked(); err != nil {
		return false, err
	}
	if err := s.touchLocked(); err != nil {
		return false, err
	}
	if s.old != nil && slices.Contains(r.from, s.old) {
		_ = s.old.close()
		s.old = nil
	}
	last := r.last()
	if err := s.dir.root.Rename(r.temp(), last.name()); err != nil {
		return false, err
	}
	synced := syncDir(s.dir.root)
	s.step("renamed")
	var before int64
	for _, g := range r.from {
		before += g.size
	}
	s.swapIndex(r)
	for _, g := range r.from[:len(r.from)-1] {
		if synced != nil { // a power cut may bring back what was replaced: then these are needed, too
			break
		}
		if err := s.unlinkLocked(g); err != nil { // nobody is owed it: it is removed later
			s.log.Warn("a segment that was rolled up is still there", "segment", g.name(), "error", err)
		}
		s.step("removed")
	}
	s.trustLocked(false)
	s.log.Info("pending windows are rolled up, for the spool is filling up", "segments", len(r.from), "width", r.width,
		"records", s.rolledFrom(r), "into", len(r.outputs), "bytes", before, "now", r.size)
	return true, synced
}

func (s *Spool) rolledFrom(r *rollUp) (n int) {
	for i := range r.outputs {
		n += len(r.outputs[i].members)
	}
	return n
}

// stillFits tells whether all segments are there, no group has begun in them,
// and no upstream's ranges have come to end inside a record.
func (s *Spool) stillFits(r *rollUp) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range r.from {
		if !slices.Contains(s.segments, g) {
			return false
		}
	}
	for _, o := range s.outboxes {
		if o.st == nil {
			continue
		}
		for i := range r.outputs {
			c := &r.outputs[i]
			if g := o.st.group; g != nil && g.Seqs.Overlaps(c.seqs) {
				return false
			}
			if o.st.pending.Overlaps(c.seqs) && !(Pending{c.seqs}).within(o.st.pending) {
				return false
			}
		}
	}
	return true
}

// swapIndex shows the new records instead of the old ones.
func (s *Spool) swapIndex(r *rollUp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.last().size = r.size
	gone := map[uint64]bool{}
	for _, g := range r.from {
		gone[g.number] = true
	}
	kept := make(index, 0, len(s.index)) // a new slice: readers outside the lock may hold the old one
	for _, l := range s.index {
		if !gone[l.first] {
			kept = append(kept, l)
		}
	}
	for i := range r.outputs {
		kept = kept.put(r.outputs[i].made)
	}
	s.index = kept
	s.stats.RolledUp += uint64(s.rolledFrom(r) - len(r.outputs))
}

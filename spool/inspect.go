package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// SegmentInfo is what there is to know about a segment.
type SegmentInfo struct {
	File       string
	Bytes      int64
	Records    int
	Seqs       Range     // of the first record to that of the last; empty without records
	Start, End time.Time // of the times of its records
	Owed       []string  // the upstreams that are owed some of it, in order
}

// Segments lists the segments in the order of their numbers.
func (s *Spool) Segments() []SegmentInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]SegmentInfo, len(s.segments))
	at := map[uint64]*SegmentInfo{}
	for i, g := range s.segments {
		list[i] = SegmentInfo{File: g.name(), Bytes: g.size}
		at[g.number] = &list[i]
	}
	for i := range s.index {
		l := &s.index[i]
		for n := l.first; n <= l.last; n++ {
			g := at[n]
			if g == nil {
				continue
			}
			if g.Records++; g.Records == 1 {
				g.Seqs, g.Start, g.End = l.Seqs, l.Start, l.end()
			}
			g.Seqs.To = l.Seqs.To
			if l.Start.Before(g.Start) {
				g.Start = l.Start
			}
			if l.end().After(g.End) {
				g.End = l.end()
			}
			for name, o := range s.outboxes {
				if o.st != nil && o.st.pending.Contains(l.Seqs.From) && !slices.Contains(g.Owed, name) {
					g.Owed = append(g.Owed, name)
				}
			}
		}
	}
	for i := range list {
		slices.Sort(list[i].Owed)
	}
	return list
}

// FileInfo is a file with its size.
type FileInfo struct {
	File  string
	Bytes int64
}

// OtherFiles lists what is no segment: outbox.db and what is in quarantine/.
func (s *Spool) OtherFiles() (list []FileInfo) {
	s.io.Lock()
	defer s.io.Unlock()
	if s.dir == nil {
		return nil
	}
	names, _ := s.dir.quarantined()
	for _, name := range append([]string{outboxName}, names...) {
		list = append(list, FileInfo{name, s.dir.size(name)})
	}
	return list
}

// Configured tells whether Spool.Outbox was called for this upstream.
func (o *Outbox) Configured() bool {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	return o.configured
}

// CheckFolder checks every segment and outbox.db of a folder that nobody uses,
// with CheckFile, and calls fn with each one's name, size and what is wrong with
// it, if anything. It changes nothing. ErrLocked when somebody uses the folder,
// fs.ErrNotExist when there is no spool.
func CheckFolder(path string, fn func(name string, size int64, err error)) error {
	if _, err := os.Stat(filepath.Join(path, lockName)); err != nil {
		return fmt.Errorf("check spool %s: %w", path, errors.Unwrap(err))
	}
	dir, err := openFolder(path)
	if err != nil {
		return fmt.Errorf("check spool %s: %w", path, err)
	}
	defer dir.close()
	list, err := fs.ReadDir(dir.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("check spool %s: %w", path, err)
	}
	for _, e := range list {
		if segmentNumber(e.Name()) == 0 && e.Name() != outboxName {
			continue
		}
		_, err := dir.regular(e.Name())
		if err == nil {
			err = CheckFile(filepath.Join(path, e.Name()))
		}
		fn(e.Name(), dir.size(e.Name()), err)
	}
	return nil
}

// Verified is what Verify has looked at, and what it has found.
type Verified struct {
	Files, Records, Batches, DeadLetters int
	Faults                               []string // at most 100
}

func (v *Verified) fault(format string, args ...any) {
	if len(v.Faults) < 100 {
		v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
	}
}

// Verify reads all there is: the pages and checksums of every segment but the
// newest, every record, which content looks into and counts the samples of,
// every batch and dead letter, and adds every ledger up anew. Records that are
// evicted or rolled up meanwhile are no fault. It calls step after each file and record,
// and ends early with ctx's error.
func (s *Spool) Verify(ctx context.Context, content func(parts [][]byte) (samples [Kinds]uint64, err error), step func()) (v Verified, err error) {
	if !s.Attached() {
		return v, ErrDetached
	}
	list := s.segmentList()
	for i, g := range list {
		if i == len(list)-1 {
			break // it is being written to; its records are read below
		}
		v.Files++
		if err := CheckFile(filepath.Join(s.opt.Dir, g.name())); err != nil && slices.Contains(s.segmentList(), g) {
			v.fault("%v", err)
		}
		if step(); ctx.Err() != nil {
			return v, ctx.Err()
		}
	}
	for _, e := range s.Entries(Range{0, Open}) {
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		s.verifyRecord(&v, e, content)
		step()
	}
	for _, name := range s.Outboxes() {
		if o, ok := s.Find(name); ok {
			o.verify(&v)
		}
	}
	return v, nil
}

func (s *Spool) verifyRecord(v *Verified, e Entry, content func([][]byte) ([Kinds]uint64, error)) {
	defer s.Hold()()
	if now := s.Entries(e.Seqs); len(now) == 0 || now[0].Seqs != e.Seqs {
		return // evicted, or rolled up
	}
	v.Records++
	parts, err := s.Read(e.Seqs.From)
	if errors.Is(err, ErrGone) {
		return
	}
	var samples [Kinds]uint64
	if err == nil {
		samples, err = content(parts)
	}
	switch {
	case err != nil:
		v.fault("record %d: %v", e.Seqs.From, err)
	case samples != e.Samples:
		v.fault("record %d holds %v samples, and is booked with %v", e.Seqs.From, samples, e.Samples)
	}
}

func (o *Outbox) verify(v *Verified) {
	for _, b := range o.Batches() {
		full, err := o.Load(b.Seq)
		if errors.Is(err, ErrGone) {
			continue // settled meanwhile
		}
		v.Batches++
		if err != nil {
			v.fault("%v", err)
			continue
		}
		var is Amounts
		for _, it := range full.Items {
			is[it.Kind].Samples += it.Samples
			is[it.Kind].Items++
		}
		if st := o.state(); st != nil {
			if i, ok := st.find(b.Seq); ok && st.heads[i].amounts != is {
				v.fault("batch %d of %s holds %v, and is booked with %v", b.Seq, o.name, is, st.heads[i].amounts)
			}
		}
	}
	st := o.state()
	letters := o.Dead()
	v.DeadLetters += len(letters)
	if st != nil && st == o.state() && len(letters) != len(st.letters) {
		v.fault("%s has %d dead letters, of which %d can be read", o.name, len(st.letters), len(letters))
	}
	l := o.Ledger()
	if l.ConservationError != 0 {
		v.fault("the ledger of %s is off by %d: %s", o.name, l.ConservationError, l.describe())
	}
}

// describe lists the columns that are not empty.
func (l *Ledger) describe() string {
	var b strings.Builder
	column := func(name string, a Amounts) {
		if a != (Amounts{}) {
			fmt.Fprintf(&b, "%s %v ", name, a)
		}
	}
	column("windowed", l.Windowed)
	column("sealed", l.Sealed)
	column("pending", l.Pending)
	column("queued", l.Queued)
	column("sending", l.Sending)
	column("in doubt", l.InDoubt)
	column("delivered", l.Delivered)
	column("dead", l.Dead)
	column("filtered", l.Filtered)
	for reason, a := range l.Dropped {
		column("dropped "+reason, a)
	}
	return strings.TrimSpace(b.String())
}

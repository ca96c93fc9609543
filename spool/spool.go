package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Errors that callers test for.
var (
	// ErrLocked: another process has the folder.
	ErrLocked = errors.New("spool is used by another process")
	// ErrDetached: there is no folder yet, or no longer.
	ErrDetached = errors.New("spool is not attached")
	// ErrDamaged: bytes on disk are not what was written.
	ErrDamaged = errors.New("spool data is damaged")
	// ErrGone: a record, batch or dead letter is not there (any more).
	ErrGone = errors.New("not in the spool")
	// ErrStale: an Update works on ranges that have changed since; plan anew.
	ErrStale = errors.New("ranges have changed")
)

// Options of a Spool. The zero value of a field means what its comment says.
type Options struct {
	Dir          string
	MaxBytes     int64         // of segments, outbox and quarantine; 0 = 256 MiB
	Retention    time.Duration // how long records nobody is owed are kept; 0 = 6 h
	SegmentBytes int64         // of one file; 0 = 32 MiB, but at most an eighth of MaxBytes; at least 256 KiB
	SegmentAge   time.Duration // a new file after this time; 0 = 1 h
	MemoryBytes  int64         // bound of the memory log; 0 = 32 MiB
	Machine      string        // identifies this machine, see identify; "" = not known
	Guest        bool          // only to look, and to settle dead letters: damaged files stay where they are, nothing is tidied up
	Coarsen      CoarsenFunc   // merges records, see RollUp; nil = none is ever merged

	Log *slog.Logger // nil = none

	checking    func(path string) // tests: called before a file is checked
	stepping    func(step string) // tests: called when RollUp has done a step
	unsynced    bool              // tests: nothing is synced, to see that they find what that costs
	transaction int64             // tests: bytes of a record that go into one transaction; 0 = the usual
}

// Stats of a Spool, as of the call.
type Stats struct {
	State  string // ok | memory (new records are kept in memory) | full (so, for want of room)
	Detail string // why it is not ok

	Segments int
	Bytes    int64     // of segments, outbox and quarantine on disk
	Records  int       // complete ones
	Oldest   time.Time // start of the first record; zero when there is none
	LastSeq  uint64    // of the last record ever appended; 0 before the first

	Quarantined    int    // files in quarantine/
	DamagedRecords uint64 // parts with a wrong checksum and tails that were cut off, found at Attach
	Evicted        uint64 // segments removed to keep MaxBytes, since New
	Expired        uint64 // segments removed because of Retention, since New
	RolledUp       uint64 // records that others stand for now, since New

	MemoryRecords int
	MemoryBytes   int64
	MemoryDropped [Kinds]uint64 // samples, since New
	MemoryGap     Span          // of the records they were in
}

// Spool is the log of records and the outboxes. Its methods may be called
// concurrently.
//
// Locks, taken in this order: rolling for RollUp; plan, which readers Hold and
// which a roll-up takes to put its result in place; io for the segments; out for
// outbox.db; mu for what readers see. mu is never held while a file is touched,
// so readers do not wait for a disk; the one that reads a record does, because a
// segment must not be removed under it.
type Spool struct {
	opt     Options // see SetLimits
	derived bool    // opt.SegmentBytes follows MaxBytes
	log     *slog.Logger

	attaching atomic.Bool
	steps     atomic.Uint64 // see Steps

	rolling   sync.Mutex // guards the fields below, and segment.stiff
	rollAfter time.Time  // no roll-up before: the last one met an error

	plan sync.RWMutex // held for writing while records are replaced by coarser ones

	io      sync.Mutex // guards the fields below, and all files but outbox.db
	dir     *folder    // nil while detached
	tail    *segment   // open for appending, or nil
	old     *segment   // open for reading, or nil
	retired uint64     // number of the last segment that must not be appended to
	highest uint64     // number of the last segment made
	filling uint64     // number of the segment in which a record begins that is being written; 0: none

	out     sync.Mutex                // serialises changes of outbox.db
	writing atomic.Pointer[time.Time] // since when it is held for that; nil while it is not

	mu         sync.RWMutex // guards the fields below
	attached   bool
	identity   string
	generation uint64
	box        *box
	segments   []*segment // ascending
	index      index
	next       uint64 // sequence of the next record
	outboxes   map[string]*Outbox
	memory     memory
	streaming  *Meta               // of a record that is being written and is not in the memory; nil if there is none
	standIn    *Spool              // see StandIn
	held       map[uint64][][]byte // of a stand-in: the parts of its records; nil for any other
	failure    error               // of the last attempt to write a record, or to attach
	stats      Stats               // the counters of it
}

// New gives a spool that keeps records in memory until Attach. It touches
// nothing.
func New(o Options) *Spool {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Retention <= 0 {
		o.Retention = 6 * time.Hour
	}
	derived := o.SegmentBytes <= 0
	if derived {
		o.SegmentBytes = min(32<<20, o.MaxBytes/8)
	}
	o.SegmentBytes = max(o.SegmentBytes, 256<<10)
	if o.SegmentAge <= 0 {
		o.SegmentAge = time.Hour
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 32 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Spool{
		opt: o, derived: derived, log: o.Log, next: 1, outboxes: map[string]*Outbox{},
		memory: memory{limit: o.MemoryBytes}, failure: ErrDetached,
	}
}

// Attached tells whether the folder is in use.
func (s *Spool) Attached() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.attached
}

// cursorsLocked is every upstream's ranges, for the meta of a record.
func (s *Spool) cursorsLocked() (list []cursor) {
	for _, name := range slices.Sorted(maps.Keys(s.outboxes)) {
		if st := s.outboxes[name].st; st != nil {
			list = append(list, cursor{name, s.generation, st.pending})
		}
	}
	return list
}

// Entries gives the complete records whose first sequence lies in r, ascending.
func (s *Spool) Entries(r Range) []Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	part := s.index[s.index.after(r.From):max(s.index.after(r.To), s.index.after(r.From))]
	list := make([]Entry, len(part))
	for i := range part {
		list[i] = part[i].Entry
	}
	return list
}

// Read gives the parts of the record that starts at seq. They belong to the
// caller. ErrGone when there is no such record, ErrDamaged when a part is not
// what was written.
func (s *Spool) Read(seq uint64) ([][]byte, error) {
	s.io.Lock()
	defer s.io.Unlock()
	s.mu.RLock()
	i := s.index.after(seq)
	found := i < len(s.index) && s.index[i].Seqs.From == seq
	var l logged
	var in []*segment
	if found {
		l = s.index[i]
		for _, g := range slices.Backward(s.segments) {
			if l.first <= g.number && g.number <= l.last {
				in = append(in, g)
			}
		}
	}
	held := s.held[seq]
	s.mu.RUnlock()
	if !found {
		return nil, fmt.Errorf("read record %d: %w", seq, ErrGone)
	}
	if held != nil {
		return slices.Clone(held), nil
	}
	parts := make([][]byte, l.parts)
	for p := range parts {
		body, err := s.partLocked(in, &l, uint16(p))
		if s.steps.Add(1); err != nil {
			return nil, fmt.Errorf("read record %d part %d: %w", seq, p, err)
		}
		parts[p] = body
	}
	return parts, nil
}

// partLocked looks for a part in the newest segment first.
func (s *Spool) partLocked(in []*segment, l *logged, part uint16) ([]byte, error) {
	for _, g := range in {
		if g.db == nil {
			_ = s.old.close()
			s.old = nil
			if err := s.dir.openOld(g); err != nil {
				return nil, err
			}
			s.old = g
		}
		body, err := g.get(l.Seqs.From, part, l.bind)
		if !errors.Is(err, ErrGone) {
			return body, err
		}
	}
	return nil, fmt.Errorf("%w: the part is missing", ErrDamaged)
}

// Next is the sequence that the next record will get.
func (s *Spool) Next() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.next
}

// Identity is 64 random bits as 16 hexadecimal digits, made with the folder
// and kept in it; "" before Attach.
func (s *Spool) Identity() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.identity
}

// Outbox gives the handle of an upstream, which from then on counts as
// configured. Ask for every configured upstream before Attach: what only
// upstreams that nobody asked for are owed goes after Retention. The ranges of
// a new one start at the next record. The name is at most 255 bytes.
func (s *Spool) Outbox(name string) *Outbox {
	name = name[:min(len(name), 255)]
	s.mu.Lock()
	o := s.outboxLocked(name)
	o.configured = true
	fresh := s.attached && o.st == nil
	waits := s.failure != nil // for the disk, which may hang; the caller does not
	if fresh {
		o.st = s.newStateLocked()
	}
	s.mu.Unlock()
	if fresh && !waits && s.tryOut() { // nor for another transaction, which may hang
		defer s.unlockOut()
		// A failure is not lost: every later Update writes the whole state.
		if err := o.updateLocked(func(*Tx) error { return nil }); err != nil {
			s.log.Error("new outbox is not on disk yet", "upstream", name, "error", err)
		}
	}
	return o
}

// lockOut is for whoever changes outbox.db.
func (s *Spool) lockOut() {
	s.out.Lock()
	now := time.Now()
	s.writing.Store(&now)
}

// tryOut is lockOut if nobody else has it.
func (s *Spool) tryOut() bool {
	ok := s.out.TryLock()
	if ok {
		now := time.Now()
		s.writing.Store(&now)
	}
	return ok
}

func (s *Spool) unlockOut() {
	s.writing.Store(nil)
	s.out.Unlock()
}

// Writing tells since when outbox.db is being changed: for more than a few seconds if
// its disk hangs. The zero time while it is not.
func (s *Spool) Writing() (since time.Time) {
	if at := s.writing.Load(); at != nil {
		since = *at
	}
	return since
}

// Release says that an upstream is no longer configured, until Outbox is called
// for it again: what only it is owed goes after Retention. Nothing must use its
// handle meanwhile.
func (s *Spool) Release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.outboxes[name[:min(len(name), 255)]]; o != nil {
		o.configured = false
	}
	if s.standIn != nil {
		s.standIn.Release(name)
	}
}

// Steps counts how often the disk has done something that was asked of it, well or
// not: while there is work and the number stays the same, it does not answer.
func (s *Spool) Steps() uint64 { return s.steps.Load() }

// SetLimits changes MaxBytes and Retention of the options, with the same
// meaning of 0, and with MaxBytes the size of new segments, if that was 0. The
// next append or Maintain acts on them. It waits for no disk: while one is being
// used it changes nothing and answers false.
func (s *Spool) SetLimits(maxBytes int64, retention time.Duration) bool {
	var o Options
	o.MaxBytes, o.Retention = maxBytes, retention
	o = New(o).opt
	if !s.io.TryLock() { // all, for one of them is held where they are read
		return false
	}
	defer s.io.Unlock()
	if !s.out.TryLock() {
		return false
	}
	defer s.out.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opt.MaxBytes, s.opt.Retention = o.MaxBytes, o.Retention
	if s.derived { // a segment of the old size may be all that the new bound has room for
		s.opt.SegmentBytes = o.SegmentBytes
	}
	return true
}

// Find gives the handle of an upstream that has state on disk, configured or
// not; asking does not make it configured.
func (s *Spool) Find(name string) (*Outbox, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o := s.outboxes[name]
	return o, o != nil && o.st != nil
}

func (s *Spool) outboxLocked(name string) *Outbox {
	o := s.outboxes[name]
	if o == nil {
		o = &Outbox{s: s, name: name}
		s.outboxes[name] = o
	}
	return o
}

// Outboxes names all upstreams that have state on disk, also those that are no
// longer configured, in order.
func (s *Spool) Outboxes() (names []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, o := range s.outboxes {
		if o.st != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Stats tells how the spool is.
func (s *Spool) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.stats
	st.State = "ok"
	if s.failure != nil {
		st.State, st.Detail = "memory", s.failure.Error()
		if isFull(s.failure) {
			st.State = "full"
		}
	}
	st.Segments, st.Records, st.LastSeq = len(s.segments), len(s.index), s.next-1
	for _, g := range s.segments {
		st.Bytes += g.size
	}
	if len(s.index) > 0 {
		st.Oldest = s.index[0].Start
	}
	st.MemoryRecords, st.MemoryBytes, st.MemoryDropped, st.MemoryGap = len(s.memory.records), s.memory.bytes, s.memory.dropped, s.memory.gap
	if s.standIn != nil {
		records, bytes := s.standIn.holds()
		st.MemoryRecords, st.MemoryBytes = st.MemoryRecords+records, st.MemoryBytes+bytes
	}
	return st
}

// errFull: MaxBytes is reached and nothing can be evicted.
var errFull = errors.New("spool is full")

// isFull tells whether an error is about room. bbolt passes the error of
// growing a file on as text only (db.go, grow), hence the comparison.
func isFull(err error) bool {
	return errors.Is(err, errFull) || errors.Is(err, syscall.ENOSPC) ||
		err != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error())
}

// view reads from one of an upstream's buckets.
func (s *Spool) view(name, bucket string, fn func(bucket) error) error {
	s.mu.RLock()
	x := s.box
	s.mu.RUnlock()
	if x == nil {
		return ErrDetached
	}
	return x.view(name, bucket, fn)
}

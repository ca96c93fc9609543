package spool

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
)

// Group is a stretch of records that is being sealed a piece at a time.
type Group struct {
	Seqs  Range
	Width time.Duration
	K     uint16 // points per distribution
	After []byte // key of the last series that is done; at most 65,535 bytes

	// Sealed counts the samples already taken out of the records of Seqs:
	// into batches, or dropped, or filtered.
	Sealed [Kinds]uint64
}

// DeadLetter is an item that the upstream refused for good.
type DeadLetter struct {
	ID      uint64 // assigned by the outbox
	Batch   uint64
	Lane    Lane
	Kind    uint8
	Samples uint64
	At      time.Time
	Reason  string
	Answer  []byte // the upstream's
	Item    []byte
}

// Outbox is one upstream's part of the spool: what it is owed, its sealed
// batches, its ledger. The handle works before Attach, when it is empty and
// Update answers ErrDetached. Methods may be called concurrently; what they
// give belongs to the caller unless they say otherwise.
type Outbox struct {
	s    *Spool
	name string

	configured bool   // guarded by s.mu: Spool.Outbox was called in this process
	st         *state // guarded by s.mu; nil before Attach
}

func (o *Outbox) Name() string { return o.name }

// state gives what readers may look at.
func (o *Outbox) state() *state {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	return o.st
}

// Pending is what the upstream is still owed; nil before Attach. It is shared
// and must not be changed.
func (o *Outbox) Pending() Pending {
	if st := o.state(); st != nil {
		return st.pending
	}
	return nil
}

// Group gives the stretch that is being sealed, if there is one.
func (o *Outbox) Group() (Group, bool) {
	st := o.state()
	if st == nil || st.group == nil {
		return Group{}, false
	}
	g := *st.group
	g.After = slices.Clone(g.After)
	return g, true
}

// Doubtful is the first sequence that has certainly not been sent by a
// generation of outbox.db that was lost: what is pending below may have been.
// 0 when nothing was lost.
func (o *Outbox) Doubtful() uint64 {
	if st := o.state(); st != nil {
		return st.doubt
	}
	return 0
}

// Generation is 16 hexadecimal digits, random for every outbox.db that is
// created; "" before Attach. Agent, generation and sequence identify a batch.
func (o *Outbox) Generation() string {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	if o.st == nil {
		return ""
	}
	return fmt.Sprintf("%016x", o.s.generation)
}

// Due gives the first queued batch whose time has come, with its content:
// lanes in the order of their numbers, then by sequence. One whose content is
// damaged on disk is settled as Dropped["damaged"] and passed over.
func (o *Outbox) Due(now time.Time) (*Batch, bool) {
	return o.DueOf(now, func(*Batch) bool { return true })
}

// DueOf is Due among those batches that of answers true for; it is shown them
// without Items and Body, and must not change them.
func (o *Outbox) DueOf(now time.Time, of func(*Batch) bool) (*Batch, bool) {
	for {
		st := o.state()
		if st == nil {
			return nil, false
		}
		var best *head
		for i := range st.heads {
			h := &st.heads[i]
			if h.Batch.State == Queued && !h.Due.After(now) && (best == nil || h.Lane < best.Lane) && of(&h.Batch) {
				best = h
			}
		}
		if best == nil {
			return nil, false
		}
		b, err := o.Load(best.Seq)
		if err == nil {
			return b, true
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, false
		}
		o.s.log.Error("batch is damaged and dropped", "upstream", o.name, "batch", best.Seq, "error", err)
		err = o.Update(func(tx *Tx) error {
			tx.Settle(best.Seq, Settlement{To: Dropped, Reason: "damaged", At: now})
			return nil
		})
		if err != nil {
			return nil, false
		}
	}
}

// Batches gives all batches in the order they were sealed, without Items and
// Body.
func (o *Outbox) Batches() []Batch {
	st := o.state()
	if st == nil {
		return nil
	}
	list := make([]Batch, len(st.heads))
	for i := range st.heads {
		list[i] = st.heads[i].Batch
	}
	return list
}

// Load gives one batch with its content. ErrGone, ErrDamaged.
func (o *Outbox) Load(seq uint64) (*Batch, error) {
	st := o.state()
	if st == nil {
		return nil, ErrDetached
	}
	i, ok := st.find(seq)
	if !ok {
		return nil, fmt.Errorf("load batch %d of %s: %w", seq, o.name, ErrGone)
	}
	b := st.heads[i].Batch
	found := false
	err := o.s.view(o.name, contentsBucket, func(in bucket) error {
		v := in.Get(seqKey(seq))
		if found = v != nil; !found {
			return nil
		}
		if err := decodeContent(seq, v, &b); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return nil
	})
	if err == nil && !found {
		err = ErrGone // settled in between, or sealed by an Update that is not over
		if _, ok := o.state().find(seq); ok {
			err = fmt.Errorf("%w: no content", ErrDamaged)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load batch %d of %s: %w", seq, o.name, err)
	}
	return &b, nil
}

// Bytes is what the contents of the batches take on disk.
func (o *Outbox) Bytes() int64 { return o.BytesOf(func(*Batch) bool { return true }) }

// BytesOf is Bytes of those batches that of answers true for; see DueOf.
func (o *Outbox) BytesOf(of func(*Batch) bool) (n int64) {
	if st := o.state(); st != nil {
		for i := range st.heads {
			if h := st.heads[i]; of(&h.Batch) {
				n += int64(h.stored)
			}
		}
	}
	return n
}

// Requests is the request log as Tx.Spent stored it.
func (o *Outbox) Requests() []time.Time {
	if st := o.state(); st != nil {
		return slices.Clone(st.requests)
	}
	return nil
}

// Get gives one value of a table, nil when there is none.
func (o *Outbox) Get(table, key string) []byte {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	if o.st == nil {
		return nil
	}
	return slices.Clone(o.st.tables[table][key])
}

// Table gives a table's keys and values, as they are at the call, in no order.
func (o *Outbox) Table(table string) iter.Seq2[string, []byte] {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	if o.st == nil {
		return func(func(string, []byte) bool) {}
	}
	return maps.All(maps.Clone(o.st.tables[table]))
}

// Ledger adds up the account as of now, what is delivered from memory included, see
// Spool.Claim.
func (o *Outbox) Ledger() Ledger {
	o.s.mu.RLock()
	defer o.s.mu.RUnlock()
	l := Ledger{Dropped: map[string]Amounts{}, Gaps: map[string]Span{}}
	if o.st != nil {
		l = o.st.ledger(o.s.index)
	}
	if o.s.standIn == nil {
		return l
	}
	if in, ok := o.s.standIn.Find(o.name); ok {
		l.add(in.Ledger())
	}
	return l
}

// Dead gives the dead letters, oldest first. One that is damaged on disk is
// left out.
func (o *Outbox) Dead() (list []DeadLetter) {
	if o.state() == nil {
		return nil
	}
	err := o.s.view(o.name, deadBucket, func(in bucket) error {
		return in.ForEach(func(k, v []byte) error {
			if d, err := decodeLetter(k, v); err == nil {
				list = append(list, d)
			}
			return nil
		})
	})
	if err != nil {
		o.s.log.Error("read dead letters", "upstream", o.name, "error", err)
	}
	return list
}

// DeadCount is how many dead letters there are.
func (o *Outbox) DeadCount() int {
	if st := o.state(); st != nil {
		return len(st.letters)
	}
	return 0
}

// DeadLost counts the dead letters that went because there were more than
// 32 MiB of them. The ledger still counts them as dead.
func (o *Outbox) DeadLost() uint64 {
	if st := o.state(); st != nil {
		return st.deadLost
	}
	return 0
}

func encodeLetter(d *DeadLetter) []byte {
	v := []byte{batchVersion, byte(d.Lane), d.Kind}
	v = be.AppendUint64(v, d.Batch)
	v = be.AppendUint64(v, d.Samples)
	v = appendTime(v, d.At)
	v = appendText(v, d.Reason)
	v = appendText(v, d.Answer)
	v = append(v, d.Item...)
	return closed(seqKey(d.ID), v)
}

func decodeLetter(key, v []byte) (d DeadLetter, err error) {
	v, err = opened(key, v)
	if err != nil || len(key) != 8 {
		return d, errShort
	}
	r := reader{b: v}
	if n := r.u8(); n != batchVersion {
		return d, fmt.Errorf("dead letter has version %d, this program reads %d", n, batchVersion)
	}
	d = DeadLetter{ID: be.Uint64(key), Lane: Lane(r.u8()), Kind: r.u8(), Batch: r.u64(), Samples: r.u64(), At: r.time()}
	d.Reason, d.Answer = string(r.text()), slices.Clone(r.text())
	d.Item = slices.Clone(r.b)
	return d, r.err()
}

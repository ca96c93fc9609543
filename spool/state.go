package spool

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// state is all that is kept of one upstream, but for the batches' contents and
// the dead letters, which stay on disk. A state that readers can see is never
// changed: an Update works on a clone and puts it in place after the commit.
type state struct {
	since     uint64 // first sequence that this upstream was owed
	read      uint64 // the ledger has read the records below
	doubt     uint64 // what is pending below may have been sent in a lost generation
	nextBatch uint64
	nextDead  uint64
	deadLost  uint64 // dead letters that went for want of room

	pending Pending
	group   *Group

	windowed  [Kinds]uint64 // samples of records in [since, read)
	owed      [Kinds]uint64 // samples of records in pending and below read
	sealed    [Kinds]uint64 // items
	delivered Amounts
	dead      Amounts
	filtered  Amounts
	dropped   map[string]Amounts
	gaps      map[string]Span

	heads    []head // ascending
	letters  []letter
	requests []time.Time
	tables   map[string]map[string][]byte // changed in place, under Spool.mu
}

type letter struct {
	id   uint64
	size int64
}

func newState(p Pending, next uint64) *state {
	return &state{
		since: p[0].From, read: next, nextBatch: 1, nextDead: 1, pending: p,
		dropped: map[string]Amounts{}, gaps: map[string]Span{}, tables: map[string]map[string][]byte{},
	}
}

// clone shares what an Update replaces as a whole.
func (st *state) clone() *state {
	c := *st
	c.heads = slices.Clone(st.heads)
	c.dropped, c.gaps = maps.Clone(st.dropped), maps.Clone(st.gaps)
	return &c
}

func (st *state) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(st.heads, seq, func(h head, s uint64) int {
		switch {
		case h.Seq < s:
			return -1
		case h.Seq > s:
			return 1
		}
		return 0
	})
}

func (st *state) drop(reason string, a Amounts) {
	sum := st.dropped[reason]
	sum.add(a)
	st.dropped[reason] = sum
}

func (st *state) groupSealed() (n [Kinds]uint64) {
	if st.group != nil {
		n = st.group.Sealed
	}
	return n
}

// catchUp has the ledger read the records below next. The append of a record
// needs no transaction of the outbox for that reason.
func (st *state) catchUp(x index, next uint64) {
	sum := x.samples(st.read)
	addTo(&st.windowed, &sum)
	st.read = max(st.read, next)
	st.owed = x.pending(st.pending, st.read)
}

// reconcile compares what the records below read amount to with what they
// amounted to at the last commit, after a start. What is missing stood in a
// segment that was damaged; what is there again stood in one that came back.
func (st *state) reconcile(x index) {
	before := st.owed
	sealed := st.groupSealed()
	for k := range before {
		before[k] -= sealed[k]
	}
	if g := st.group; g != nil {
		var has [Kinds]uint64
		for _, l := range x[x.after(g.Seqs.From):x.after(g.Seqs.To)] {
			addTo(&has, &l.Samples)
		}
		for k := range has {
			if has[k] < g.Sealed[k] { // the rest of the group cannot be told any more
				if p, ok := st.pending.Without(g.Seqs); ok {
					st.pending, st.group = p, nil
				}
				break
			}
		}
	}
	st.owed = x.pending(st.pending, st.read)
	after := st.owed
	sealed = st.groupSealed()
	var lost Amounts
	for k := range after {
		switch d := int64(before[k] - (after[k] - sealed[k])); {
		case d > 0:
			lost[k].Samples = uint64(d)
		case d < 0:
			st.windowed[k] += uint64(-d)
		}
	}
	if lost != (Amounts{}) {
		st.drop("damaged", lost)
	}
}

// ledger adds up the account as of now; records beyond read are in it.
func (st *state) ledger(x index) Ledger {
	l := Ledger{Delivered: st.delivered, Dead: st.dead, Filtered: st.filtered, Dropped: maps.Clone(st.dropped), Gaps: maps.Clone(st.gaps)}
	l.Windowed.addSamples(st.windowed)
	l.Windowed.addSamples(x.samples(st.read))
	l.Pending.addSamples(x.pending(st.pending, Open))
	for k, n := range st.groupSealed() {
		l.Pending[k].Samples -= n
	}
	for k, n := range st.sealed {
		l.Sealed[k].Items = n
	}
	for i := range st.heads {
		switch h := &st.heads[i]; h.Batch.State {
		case Queued:
			l.Queued.add(h.amounts)
		case Sending:
			l.Sending.add(h.amounts)
		case InDoubt:
			l.InDoubt.add(h.amounts)
		}
	}
	l.balance()
	return l
}

// The keys of an upstream's bucket, and the buckets in it.
const (
	stateKey    = "state"
	ledgerKey   = "ledger"
	requestsKey = "requests"

	headsBucket    = "heads"
	contentsBucket = "contents"
	deadBucket     = "dead"
	tablesBucket   = "tables"
)

const stateVersion = 1

func (st *state) encode() []byte {
	v := []byte{stateVersion}
	for _, n := range []uint64{st.since, st.read, st.doubt, st.nextBatch, st.nextDead, st.deadLost} {
		v = be.AppendUint64(v, n)
	}
	v = appendPending(v, st.pending)
	if g := st.group; g != nil {
		v = appendRange(append(v, 1), g.Seqs)
		v = be.AppendUint64(v, uint64(g.Width))
		v = be.AppendUint16(v, g.K)
		v = appendText(v, g.After)
		v = appendCounts(v, &g.Sealed)
	} else {
		v = append(v, 0)
	}
	return closed([]byte(stateKey), v)
}

func (st *state) encodeLedger() []byte {
	v := []byte{stateVersion}
	for _, n := range []*[Kinds]uint64{&st.windowed, &st.owed, &st.sealed} {
		v = appendCounts(v, n)
	}
	for _, a := range []*Amounts{&st.delivered, &st.dead, &st.filtered} {
		v = appendAmounts(v, a)
	}
	v = be.AppendUint16(v, uint16(len(st.dropped)))
	for _, reason := range slices.Sorted(maps.Keys(st.dropped)) {
		a := st.dropped[reason]
		v = appendAmounts(appendText(v, reason), &a)
	}
	v = be.AppendUint16(v, uint16(len(st.gaps)))
	for _, reason := range slices.Sorted(maps.Keys(st.gaps)) {
		v = appendText(v, reason)
		v = appendTime(appendTime(v, st.gaps[reason].From), st.gaps[reason].To)
	}
	return closed([]byte(ledgerKey), v)
}

func (st *state) encodeRequests() []byte {
	v := be.AppendUint32([]byte{stateVersion}, uint32(len(st.requests)))
	for _, t := range st.requests {
		v = appendTime(v, t)
	}
	return closed([]byte(requestsKey), v)
}

// fields opens one of the three records above behind its version.
func fields(key string, v []byte) (*reader, error) {
	v, err := opened([]byte(key), v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	r := &reader{b: v}
	if n := r.u8(); n != stateVersion {
		return nil, fmt.Errorf("%s has version %d, this program reads %d", key, n, stateVersion)
	}
	return r, nil
}

// decodeState undoes encode, encodeLedger and encodeRequests. It keeps nothing
// of its arguments.
func decodeState(state_, ledger, requests []byte) (*state, error) {
	r, err := fields(stateKey, state_)
	if err != nil {
		return nil, err
	}
	st := &state{dropped: map[string]Amounts{}, gaps: map[string]Span{}, tables: map[string]map[string][]byte{}}
	for _, n := range []*uint64{&st.since, &st.read, &st.doubt, &st.nextBatch, &st.nextDead, &st.deadLost} {
		*n = r.u64()
	}
	st.pending = r.pending()
	if r.u8() == 1 {
		st.group = &Group{Seqs: r.span(), Width: time.Duration(r.u64()), K: r.u16(), After: slices.Clone(r.text()), Sealed: r.counts()}
	}
	if r.bad {
		return nil, errShort
	}
	if err := st.pending.Valid(); err != nil {
		return nil, err
	}
	if r, err = fields(ledgerKey, ledger); err != nil {
		return nil, err
	}
	st.windowed, st.owed, st.sealed = r.counts(), r.counts(), r.counts()
	st.delivered, st.dead, st.filtered = r.amounts(), r.amounts(), r.amounts()
	for range r.u16() {
		reason := string(r.text())
		st.dropped[reason] = r.amounts()
		if r.bad {
			return nil, errShort
		}
	}
	for n := r.more16(); n > 0; n-- {
		reason := string(r.text())
		st.gaps[reason] = Span{r.time(), r.time()}
		if r.bad {
			return nil, errShort
		}
	}
	if requests == nil {
		return st, nil
	}
	if r, err = fields(requestsKey, requests); err != nil {
		return nil, err
	}
	for range r.u32() {
		st.requests = append(st.requests, r.time())
		if r.bad {
			return nil, errShort
		}
	}
	return st, nil
}

// tableKey puts a table's keys side by side.
func tableKey(table, key string) []byte { return append(appendText(nil, table), key...) }

package spool

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Column is where the amounts of a settled batch go.
type Column uint8

const (
	Delivered Column = 1
	Dropped   Column = 2 // with a reason
	Dead      Column = 3 // each item becomes a dead letter
	Replaced  Column = 4 // nowhere: batches sealed in the same Update carry the samples on
)

// Settlement says what became of a batch.
type Settlement struct {
	To       Column // of every item that nothing below speaks of
	Reason   string // of To Dropped, and in dead letters
	Rejected int    // so many items, not known which, were refused: Dropped["rejected"], samples in proportion
	Dead     []int  // indices of the items that become dead letters
	Answer   []byte // the upstream's, kept in dead letters; cut to 4 KiB
	At       time.Time
}

const (
	answerMax = 4 << 10
	deadMax   = 32 << 20 // bytes of dead letters per upstream, or an eighth of MaxBytes; the oldest go first
)

// Tx is one Update of one outbox. A method that is asked for something
// impossible spoils the transaction: Update answers its error and nothing has
// happened. A Tx is used by the goroutine that runs the Update's function, and
// only until that returns.
type Tx struct {
	o      *Outbox
	st     *state // a clone: what the outbox will be
	writes []write
	puts   []write // of tables, to be done in memory after the commit
	err    error
}

func (tx *Tx) fail(format string, args ...any) {
	if tx.err == nil {
		tx.err = fmt.Errorf(format, args...)
	}
}

func (tx *Tx) write(bucket string, key, value []byte) {
	tx.writes = append(tx.writes, write{bucket, key, value})
}

// Pending is what is owed at this point of the transaction. Ranges computed
// before the Update may be out of date: eviction may have advanced them.
func (tx *Tx) Pending() Pending { return tx.st.pending }

// Progress replaces the ranges and the group. p may only take sequences away;
// nil leaves the ranges as they are. g nil means that no group is open. A
// group must lie in ranges that are still owed: when it does not, windows of
// it were evicted meanwhile, and the turn is to be planned anew.
func (tx *Tx) Progress(p Pending, g *Group) {
	if p != nil {
		if err := p.Valid(); err != nil {
			tx.fail("progress: %w", err)
			return
		}
		if !p.within(tx.st.pending) {
			tx.fail("progress to %v: %w", p, ErrStale)
			return
		}
		if from, next := p[len(p)-1].From, tx.o.s.Next(); from > next && from > tx.st.pending[len(tx.st.pending)-1].From {
			tx.fail("progress to %d, beyond the next record %d", from, next)
			return
		}
		tx.st.pending = slices.Clone(p)
	}
	tx.st.group = nil
	if g == nil {
		return
	}
	if !(Pending{g.Seqs}).within(tx.st.pending) {
		tx.fail("group %v: %w", g.Seqs, ErrStale)
		return
	}
	own := *g
	own.After = bytes.Clone(g.After)
	tx.st.group = &own
}

// Next is the sequence that the next Seal of this transaction assigns.
func (tx *Tx) Next() uint64 { return tx.st.nextBatch }

// Seal puts a batch into the outbox, in state Queued, and sets its Seq. What
// it holds is encoded before Seal returns. The caller advances the ranges or
// the group in the same Update.
func (tx *Tx) Seal(b *Batch) {
	if err := checkBatch(b); err != nil {
		tx.fail("seal: %w", err)
		return
	}
	b.Seq, b.State = tx.st.nextBatch, Queued
	tx.st.nextBatch++
	content, raw := encodeContent(b.Seq, b)
	h := head{Batch: *b, raw: uint32(raw), stored: uint32(len(content))}
	h.Items, h.Body = nil, nil
	for _, it := range b.Items {
		h.amounts[it.Kind].Samples += it.Samples
		h.amounts[it.Kind].Items++
		tx.st.sealed[it.Kind]++
	}
	tx.st.heads = append(tx.st.heads, h)
	tx.write(headsBucket, seqKey(b.Seq), encodeHead(&h))
	tx.write(contentsBucket, seqKey(b.Seq), content)
}

// head gives a batch to be changed.
func (tx *Tx) head(seq uint64) *head {
	i, ok := tx.st.find(seq)
	if !ok {
		tx.fail("batch %d of %s: %w", seq, tx.o.name, ErrGone)
		return nil
	}
	return &tx.st.heads[i]
}

// State moves a batch. A move back from Sending to Queued says that it is
// certainly not with the upstream.
func (tx *Tx) State(seq uint64, s State, due, started time.Time, attempts uint32) {
	if s < Queued || s > InDoubt {
		tx.fail("batch %d: state %d is unknown", seq, s)
		return
	}
	if h := tx.head(seq); h != nil {
		h.Batch.State, h.Due, h.Started, h.Attempts = s, due, started, attempts
		tx.write(headsBucket, seqKey(seq), encodeHead(h))
	}
}

// Target notes another URL that a batch goes to.
func (tx *Tx) Target(seq uint64, url string) {
	if h := tx.head(seq); h != nil {
		h.URL = url
		tx.write(headsBucket, seqKey(seq), encodeHead(h))
	}
}

// Settle takes a batch out of the outbox and books its samples and items.
func (tx *Tx) Settle(seq uint64, s Settlement) {
	h := tx.head(seq)
	if h == nil {
		return
	}
	rest := h.amounts
	if s.To == Dead || len(s.Dead) > 0 {
		rest.sub(tx.bury(h, s))
	}
	if s.Rejected > 0 {
		part := share(rest, uint64(s.Rejected))
		rest.sub(part)
		tx.st.drop("rejected", part)
		tx.gapOf("rejected", h)
	}
	switch s.To {
	case Delivered:
		tx.st.delivered.add(rest)
	case Dropped:
		tx.st.drop(s.Reason, rest)
		tx.gapOf(s.Reason, h)
	case Dead:
		tx.st.dead.add(rest) // items whose content could not be read any more
	case Replaced:
		for k := range rest {
			tx.st.sealed[k] -= rest[k].Items
		}
	default:
		tx.fail("settle batch %d: column %d is unknown", seq, s.To)
	}
	i, _ := tx.st.find(seq)
	tx.st.heads = slices.Delete(tx.st.heads, i, i+1)
	tx.write(headsBucket, seqKey(seq), nil)
	tx.write(contentsBucket, seqKey(seq), nil)
}

// bury makes dead letters of the items that s names, or of all but the
// agent's own, and tells what they amount to.
func (tx *Tx) bury(h *head, s Settlement) (sum Amounts) {
	b, err := tx.o.Load(h.Seq)
	if errors.Is(err, ErrDamaged) {
		return sum
	}
	if err != nil {
		tx.fail("settle: %w", err)
		return sum
	}
	which := slices.Clone(s.Dead)
	if s.To == Dead {
		which = which[:0]
		for i, it := range b.Items {
			if it.Kind != 0 {
				which = append(which, i)
			}
		}
	}
	slices.Sort(which)
	for _, i := range slices.Compact(which) {
		if i < 0 || i >= len(b.Items) {
			tx.fail("settle batch %d: it has no item %d", h.Seq, i)
			return sum
		}
		it := b.Items[i]
		d := DeadLetter{
			ID: tx.st.nextDead, Batch: h.Seq, Lane: h.Lane, Kind: it.Kind, Samples: it.Samples, At: s.At,
			Reason: s.Reason, Answer: s.Answer[:min(len(s.Answer), answerMax)], Item: b.Body[it.Off : it.Off+it.Len],
		}
		tx.st.nextDead++
		v := encodeLetter(&d)
		tx.write(deadBucket, seqKey(d.ID), v)
		tx.st.letters = append(slices.Clip(tx.st.letters), letter{d.ID, int64(len(v))})
		sum[it.Kind].Samples += it.Samples
		sum[it.Kind].Items++
	}
	tx.st.dead.add(sum)
	tx.trimLetters()
	return sum
}

func (tx *Tx) trimLetters() {
	var total int64
	for _, l := range tx.st.letters {
		total += l.size
	}
	// outbox.db gets no smaller while it is open: without a share of MaxBytes letters
	// would push windows out.
	for total > min(deadMax, tx.o.s.opt.MaxBytes/8) {
		l := tx.st.letters[0]
		tx.st.letters = tx.st.letters[1:]
		tx.st.deadLost++
		total -= l.size
		tx.write(deadBucket, seqKey(l.id), nil)
	}
}

// Exhume takes a dead letter out of the outbox and of the ledger. Its samples
// are the caller's: seal it again in a batch, or book them as Dropped.
func (tx *Tx) Exhume(id uint64) {
	i := slices.IndexFunc(tx.st.letters, func(l letter) bool { return l.id == id })
	if i < 0 {
		tx.fail("dead letter %d of %s: %w", id, tx.o.name, ErrGone)
		return
	}
	var d DeadLetter
	err := tx.o.s.view(tx.o.name, deadBucket, func(b bucket) (err error) {
		d, err = decodeLetter(seqKey(id), b.Get(seqKey(id)))
		return err
	})
	if err != nil || d.Kind >= Kinds {
		tx.fail("dead letter %d of %s: %w: %w", id, tx.o.name, ErrDamaged, err)
		return
	}
	tx.st.dead[d.Kind].Samples -= d.Samples
	tx.st.dead[d.Kind].Items--
	tx.st.sealed[d.Kind]--
	tx.st.letters = slices.Delete(slices.Clone(tx.st.letters), i, i+1)
	tx.write(deadBucket, seqKey(id), nil)
}

// Dropped books samples that leave the ranges, or the group, without having
// been sealed.
func (tx *Tx) Dropped(reason string, samples [Kinds]uint64) {
	var a Amounts
	a.addSamples(samples)
	tx.st.drop(reason, a)
}

// Gap notes that something of the records in r was dropped for a reason, so that
// the ledger can say from when to when. Settle does so by itself.
func (tx *Tx) Gap(reason string, r Range) {
	s := tx.o.s
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.index[s.index.after(r.From):max(s.index.after(r.To), s.index.after(r.From))] {
		tx.st.gaps[reason] = tx.st.gaps[reason].with(l.span())
	}
}

// gapOf is Gap for a batch; when its records are gone, it was sealed soon after
// them.
func (tx *Tx) gapOf(reason string, h *head) {
	before := tx.st.gaps[reason]
	if tx.Gap(reason, h.Windows); tx.st.gaps[reason] == before && !h.Sealed.IsZero() {
		tx.st.gaps[reason] = before.with(Span{h.Sealed, h.Sealed})
	}
}

// Merged books samples as delivered that leave the ranges, or the group, and for
// which items in batches sealed before stand already.
func (tx *Tx) Merged(samples [Kinds]uint64) { tx.st.delivered.addSamples(samples) }

// Filtered is Dropped for what this upstream is not meant to get.
func (tx *Tx) Filtered(samples [Kinds]uint64) { tx.st.filtered.addSamples(samples) }

// Spent replaces the stored request log: the times of the requests that still
// count against the budget.
func (tx *Tx) Spent(times []time.Time) {
	tx.st.requests = slices.Clone(times)
	tx.write("", []byte(requestsKey), tx.st.encodeRequests())
}

// Put stores a small value in one of the upstream's tables. The value is
// copied. Tables live in memory, too; whoever writes one bounds it.
func (tx *Tx) Put(table, key string, value []byte) {
	k := tableKey(table, key)
	if n := len(k); n > bolt.MaxKeySize {
		tx.fail("put %s: key of %d bytes, want at most %d", table, n, bolt.MaxKeySize)
		return
	}
	own := append(make([]byte, 0, len(value)+4), value...)
	tx.write(tablesBucket, k, closed(k, own))
	tx.puts = append(tx.puts, write{table, []byte(key), own})
}

// Delete takes a value out of a table.
func (tx *Tx) Delete(table, key string) {
	tx.write(tablesBucket, tableKey(table, key), nil)
	tx.puts = append(tx.puts, write{table, []byte(key), nil})
}

func (st *state) put(table, key string, value []byte) {
	t := st.tables[table]
	if t == nil {
		t = map[string][]byte{}
		st.tables[table] = t
	}
	if value == nil {
		delete(t, key)
		return
	}
	t[key] = value
}

// Update runs fn and writes what it asked for in one transaction, synced. When
// fn answers an error, nothing has happened. An error of the commit is
// ambiguous: the file is opened anew and the outbox is then what the disk says,
// which may be before or after fn; until that has worked Update answers an
// error. ErrDetached before Attach.
//
// fn may call the outbox's other methods, which show it as it was, and the
// spool's Entries, Next and Stats; everything else of the spool may wait for
// this very Update to end.
func (o *Outbox) Update(fn func(*Tx) error) error {
	o.s.lockOut()
	defer o.s.unlockOut()
	return o.updateLocked(fn)
}

func (o *Outbox) updateLocked(fn func(*Tx) error) error {
	if err := o.s.reopenBoxLocked(); err != nil {
		return fmt.Errorf("update outbox %s: %w", o.name, err)
	}
	tx := &Tx{o: o, st: o.state().clone()}
	err := fn(tx)
	if err == nil {
		err = tx.err
	}
	if err == nil {
		err = o.s.commitLocked(map[*Outbox]*Tx{o: tx})
	}
	if err != nil {
		return fmt.Errorf("update outbox %s: %w", o.name, err)
	}
	return nil
}

// commitLocked writes transactions of one or several outboxes, then shows what
// they did. Tables are shared by a state and its clones, so they change here
// alone, after the commit.
func (s *Spool) commitLocked(txs map[*Outbox]*Tx) error {
	changes := map[string][]write{}
	s.mu.RLock()
	for o, tx := range txs {
		tx.st.catchUp(s.index, s.next)
		tx.write("", []byte(stateKey), tx.st.encode())
		tx.write("", []byte(ledgerKey), tx.st.encodeLedger())
		changes[o.name] = tx.writes
	}
	s.mu.RUnlock()
	err := s.box.commit(changes)
	if s.steps.Add(1); err != nil {
		_ = s.box.close()
		if again := s.reopenBoxLocked(); again != nil {
			s.log.Error("outbox cannot be opened again", "error", again)
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for o, tx := range txs {
		for _, p := range tx.puts {
			tx.st.put(p.bucket, string(p.key), p.value)
		}
		o.st = tx.st
	}
	return nil
}

// within tells whether all of p lies in o.
func (p Pending) within(o Pending) bool {
	for _, r := range p {
		i, ok := o.find(r.From)
		if !ok || r.To > o[i].To {
			return false
		}
	}
	return true
}

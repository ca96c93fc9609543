package forwarder

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// roundWindows bounds the windows of one round, for a round is one
// transaction and its rendered bytes are in memory.
const roundWindows = 1000

// A round renders pending windows onto a sheet until the sheet has as many
// batches as there is room for requests, and remembers how far it got.
type round struct {
	forwarder *Forwarder
	sheet     *Sheet
	slots     int
	start     spool.Pending // what was owed when the round began
	pending   spool.Pending
	group     spool.Group // the window that is partly sealed; zero if none is
	windows   spool.Range // those rendered
	changed   bool

	filtered, damaged, doubtful [spool.Kinds]uint64 // samples
}

func (r *round) render() error {
	f := r.forwarder
	for range roundWindows {
		g, e, ok := plan(r.pending, r.group, f.spool.Next(), f.spool.Entries)
		if !ok {
			return nil
		}
		r.group = g
		done, err := r.window(e)
		switch {
		case errors.Is(err, spool.ErrGone) && !f.outbox.Pending().Contains(e.Seqs.From):
			return spool.ErrStale // evicted, and booked by who did that
		case errors.Is(err, spool.ErrDamaged), errors.Is(err, spool.ErrGone):
			f.log.Error("a window cannot be read; its samples are lost", "sequence", e.Seqs.From, "start", e.Start, "error", err)
		case err != nil || !done:
			return err
		}
		for kind, n := range e.Samples { // what was not in it, of what should have been
			r.damaged[kind] += n - r.group.Sealed[kind]
		}
		rest, ok := r.pending.Without(e.Seqs)
		if !ok {
			return fmt.Errorf("window %d: pending has more than %d ranges", e.Seqs.From, spool.RangesMax)
		}
		r.pending, r.group, r.changed = rest, spool.Group{}, true
	}
	return nil
}

// window renders the series of one record that have not been sealed yet. done
// is false when the sheet is full.
func (r *round) window(e spool.Entry) (done bool, err error) {
	f := r.forwarder
	parts, err := f.spool.Read(e.Seqs.From)
	if err != nil {
		return false, err
	}
	reader, err := aggregator.OpenReader(parts...)
	if err != nil {
		return false, fmt.Errorf("%w: %w", spool.ErrDamaged, err)
	}
	if r.windows.To == 0 {
		r.windows.From = e.Seqs.From
	}
	r.windows.To = e.Seqs.To
	// What an outbox that was lost may have sent already follows the same rule as a
	// batch in doubt that cannot be looked for.
	doubtful := e.Seqs.From < f.outbox.Doubtful() && !f.options.Resend
	all := aggregator.Merge(f.options.MaxSetMembers, r.group.After, reader)
	for s, v := range all.All() {
		before := r.sheet.mark()
		r.sheet.begin(v.Kind(), v.Samples())
		wanted := f.matches(s.Name())
		if wanted && !(doubtful && !repeatable(s.Kind())) {
			f.upstream.Render(r.sheet, e.Start, s, v)
		}
		if len(r.sheet.batches) > r.slots && before.batches > 0 { // a series larger than a minute's budget goes alone
			r.sheet.back(before)
			return false, nil
		}
		switch {
		case r.sheet.items > 0:
		case wanted && doubtful:
			r.doubtful[s.Kind()] += v.Samples()
		default:
			r.filtered[s.Kind()] += v.Samples()
		}
		r.group.After = append(r.group.After[:0:0], s.Key()...)
		r.group.Sealed[s.Kind()] += v.Samples()
		r.changed = true
	}
	if all.Err() != nil {
		return false, fmt.Errorf("%w: %w", spool.ErrDamaged, all.Err())
	}
	return true, nil
}

// commit adds to the transaction that stores the sheet how far the round got.
// When windows were evicted meanwhile, the sheet may hold what has been booked as
// dropped: ErrStale.
func (r *round) commit(tx *spool.Tx) error {
	if !slices.Equal(tx.Pending(), r.start) {
		return spool.ErrStale
	}
	for _, b := range r.sheet.batches {
		b.Windows = r.windows
	}
	var g *spool.Group
	if !r.group.Seqs.Empty() {
		g = &r.group
	}
	tx.Progress(r.pending, g)
	tx.Filtered(r.filtered)
	for reason, samples := range map[string][spool.Kinds]uint64{"damaged": r.damaged, "outbox_lost": r.doubtful} {
		if samples != [spool.Kinds]uint64{} {
			tx.Dropped(reason, samples)
		}
	}
	return nil
}

// seal stores what a round rendered, for at most slots requests. It answers
// whether there was anything.
func (f *Forwarder) seal(now time.Time, slots int) (bool, error) {
	sheet := &Sheet{maxItems: f.options.ItemsPerRequest - 1, maxBody: fluxBody, head: fluxHead}
	if !f.upstream.Known() { // one item tells the dialect: nothing that matters is sent before
		f.upstream.Hello(sheet, now)
		return true, f.store(sheet, now, func(*spool.Tx) error { return nil })
	}
	r := &round{forwarder: f, sheet: sheet, slots: slots, start: f.outbox.Pending()}
	r.pending = r.start
	r.group, _ = f.outbox.Group()
	if err := r.render(); err != nil || !r.changed {
		f.upstream.names.forget()
		return false, err
	}
	return true, f.store(sheet, now, r.commit)
}

// store seals the batches of a sheet, and what with adds, in one transaction.
func (f *Forwarder) store(sheet *Sheet, now time.Time, with func(*spool.Tx) error) error {
	err := f.outbox.Update(func(tx *spool.Tx) error {
		if err := with(tx); err != nil {
			return err
		}
		for _, b := range sheet.batches {
			f.sealBatch(tx, b, now)
		}
		for _, name := range f.upstream.names.fresh {
			u := f.upstream.names.uses[name]
			tx.Put(namesTable, name, u[:])
		}
		return nil
	})
	if err != nil {
		f.upstream.names.forget()
		return err
	}
	f.upstream.names.keep()
	return nil
}

func (f *Forwarder) sealBatch(tx *spool.Tx, b *spool.Batch, now time.Time) {
	b.Sealed, b.Due = now, now
	b.Seq = tx.Next()
	f.upstream.Finish(b)
	tx.Seal(b)
}

// part makes a batch of those items of b that keep answers true for, without
// the agent's own, which it gets anew. It answers nil if there are none.
func part(b *spool.Batch, keep func(i int, item spool.Item) bool) *spool.Batch {
	sheet := Sheet{maxItems: len(b.Items), maxBody: len(b.Body), head: fluxHead}
	for i, item := range b.Items {
		if item.Kind == 0 || !keep(i, item) {
			continue
		}
		sheet.begin(aggregator.Kind(item.Kind), item.Samples)
		sheet.Item(b.Lane, func(dst []byte) []byte { return append(dst, b.Body[item.Off:item.Off+item.Len]...) })
	}
	if len(sheet.batches) == 0 {
		return nil
	}
	sheet.batches[0].Windows = b.Windows
	return sheet.batches[0]
}

// carried counts the items of a batch less the agent's own.
func carried(b *spool.Batch) (n int) {
	for _, item := range b.Items {
		if item.Kind != 0 {
			n++
		}
	}
	return n
}

// halve replaces a batch that is too large by two; one item that is too large
// by itself is dead.
func (f *Forwarder) halve(tx *spool.Tx, b *spool.Batch, reason string, now time.Time) {
	half := carried(b) / 2
	if half == 0 {
		f.settle(tx, b, spool.Settlement{To: spool.Dead, Reason: reason, At: now})
		return
	}
	// The agent's own items come last, so the first half are all others.
	f.sealBatch(tx, part(b, func(i int, _ spool.Item) bool { return i < half }), now)
	f.sealBatch(tx, part(b, func(i int, _ spool.Item) bool { return i >= half }), now)
	f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
}

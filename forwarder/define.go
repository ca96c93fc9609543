package forwarder

import (
	"context"
	"encoding/binary"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// A self-hosted Flux learns of a metric, and of its type, from its single-item
// endpoint only: what comes in batches alone is stored and shown nowhere. So the
// first item of a name goes there, and so do members of sets, which a batch to
// that server must not have. The endpoint has a budget of its own, and a name for
// which there is no room goes on in batches until there is.

const (
	// definitionTable names the metrics of which the upstream at the address under
	// definedKey has had a single item.
	definitionTable = "definitions"
	definedKey      = "defined at"
	// singlesKey has the times of the single-item requests of the last minute.
	singlesKey = "singles"
)

// maxSingleAttempts bounds how often a single item that may have arrived is sent:
// a definition, gauge or member changes nothing if it had.
const maxSingleAttempts = 5

// definitions are what single items can be sent for.
type definitions struct {
	made  map[string]bool // at most maxNames
	fresh []string        // since the last commit, in order
	room  int             // single items that may be sealed in this round
}

// claim tells whether the first item of a name is to go on its own.
func (d *definitions) claim(name string) bool {
	if d.room <= 0 || len(d.made) >= maxNames || d.made[name] {
		return false
	}
	d.room--
	d.made[name] = true
	d.fresh = append(d.fresh, name)
	return true
}

// back takes back what was claimed since there were as many as mark, with the
// room there was.
func (d *definitions) back(mark, room int) {
	for _, name := range d.fresh[mark:] {
		delete(d.made, name)
	}
	d.fresh, d.room = d.fresh[:mark], room
}

func (d *definitions) keep() { d.fresh = d.fresh[:0] }

// A claim is what was taken of the contact's memories, to be given back if the
// series turns out not to fit.
type claim struct{ members, definitions, room int }

func (c *contact) mark() claim {
	return claim{c.members.mark(), len(c.definitions.fresh), c.definitions.room}
}

func (c *contact) back(to claim) {
	c.members.back(to.members)
	c.definitions.back(to.definitions, to.room)
}

// keep is called when what was claimed is on disk, forget when it is not.
func (c *contact) keep() {
	c.names.keep()
	c.members.keep()
	c.definitions.keep()
}

func (c *contact) forget() {
	c.names.forget()
	c.back(claim{})
}

// takeDefinitions takes up what was defined, if it was at this address.
func (f *Forwarder) takeDefinitions(tx *spool.Tx) {
	f.contact.definitions = definitions{made: make(map[string]bool)}
	if string(f.outbox.Get(stateTable, definedKey)) == f.options.URL {
		for name := range f.outbox.Table(definitionTable) {
			f.contact.definitions.made[name] = true
		}
		return
	}
	for name := range f.outbox.Table(definitionTable) {
		tx.Delete(definitionTable, name)
	}
	tx.Put(stateTable, definedKey, []byte(f.options.URL))
}

// putDefinitions adds what was claimed to a transaction.
func (f *Forwarder) putDefinitions(tx *spool.Tx) {
	for _, name := range f.contact.definitions.fresh {
		tx.Put(definitionTable, name, []byte{1})
	}
}

// undefine forgets a definition that did not arrive, so that it is made again.
func (f *Forwarder) undefine(tx *spool.Tx, b *spool.Batch) {
	name := nameOf(b.Body)
	if f.contact.definitions.made[name] {
		delete(f.contact.definitions.made, name)
		tx.Delete(definitionTable, name)
	}
}

// singleRoom is how many single items may be sealed: a minute's, less those that
// wait and those that count.
func (f *Forwarder) singleRoom(now time.Time) int {
	if f.options.Type != Flux || f.contact.dialect != SelfHosted || f.options.SinglesPerMinute == 0 {
		return 0
	}
	waiting := 0
	for _, b := range f.outbox.Batches() {
		if b.Lane == spool.Singles {
			waiting++
		}
	}
	return max(0, f.singles.left(now)-waiting)
}

// single sends the first single item that waits, if it is older than the first
// batch that is due, or there is none: a definition goes before what it defines. It
// answers how long to wait if there is nothing to do.
func (f *Forwarder) single(ctx context.Context, now time.Time) time.Duration {
	wait := idle
	due := func(b *spool.Batch) bool { return b.Lane == spool.Singles && !f.condemned(b.Seq) }
	for _, b := range f.outbox.Batches() {
		if b.State == spool.Queued && due(&b) {
			wait = min(wait, b.Due.Sub(now))
		}
	}
	if wait == idle {
		return idle
	}
	if open := max(f.notBefore.Sub(now), f.singlesNotBefore.Sub(now), f.singles.next(now).Sub(now)); open > 0 {
		return max(wait, open)
	}
	if b, ok := f.outbox.DueOf(now, due); ok {
		return f.deliver(ctx, b)
	}
	return max(wait, time.Second)
}

// firstSingle tells whether a single item waits that was sealed before every batch
// that is due.
func (f *Forwarder) firstSingle(now time.Time) bool {
	if f.singlesNotBefore.After(now) || f.singles.next(now).After(now) {
		return false
	}
	for _, b := range f.outbox.Batches() { // ascending
		if b.State == spool.Queued && !b.Due.After(now) && !f.tried(b.Seq) && !f.condemned(b.Seq) {
			return b.Lane == spool.Singles
		}
	}
	return false
}

// respell replaces a batch that its upstream would not take any more, because
// another server answers there now: strings for a self-hosted one become single
// items, and everything gets markers that can be found again. It answers false if
// the batch can be sent as it is.
//
// A marker can be found while no later one has its slot: a batch that has waited
// for half of them, as parts of a trial may, gets another, too. What may be with
// the upstream already is left as it is.
func (f *Forwarder) respell(b *spool.Batch, now time.Time) (bool, error) {
	if f.options.Type != Flux {
		return false, nil
	}
	batches := f.outbox.Batches()
	old := b.Lane == spool.Metrics && b.Dialect == SelfHosted && batches[len(batches)-1].Seq-b.Seq >= selfHostedSlots/2
	strings := b.Lane == spool.Sets && f.contact.dialect == SelfHosted
	if b.Dialect == "" || b.Lane == spool.Singles || b.Lane == spool.Events || f.outbox.Get(resentTable, resentKey(b)) != nil ||
		b.Dialect == f.contact.dialect && !old && !strings {
		return false, nil
	}
	err := f.outbox.Update(func(tx *spool.Tx) error {
		if strings {
			sheet := f.newSheet()
			for _, item := range b.Items {
				if item.Kind == 0 {
					continue
				}
				sheet.begin(aggregator.Kind(item.Kind), item.Samples)
				sheet.Item(spool.Singles, func(dst []byte) []byte { return append(dst, b.Body[item.Off:item.Off+item.Len]...) })
			}
			for _, single := range sheet.singles {
				single.Windows = b.Windows
				f.sealBatch(tx, single, now)
			}
			f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
			return f.lost(tx, b, now)
		}
		again := part(f.upstream, b, func(int, spool.Item) bool { return true })
		if again == nil { // it only asks
			f.settle(tx, b, spool.Settlement{To: spool.Dropped, Reason: "superseded", At: now})
			return f.lost(tx, b, now)
		}
		have := f.faults[b.Seq]
		f.sealBatch(tx, again, now)
		f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
		if have != nil {
			f.faults[again.Seq] = have
		}
		if t, ok := f.trialOf(b.Seq); ok {
			f.tidyTrials = true
			t.test = again.Seq
			tx.Put(trialTable, trialKey(t.root), t.encode())
		}
		return nil
	})
	f.reloadTrials()
	if err != nil {
		f.ready = false
	}
	return true, err
}

// encodeTimes and decodeTimes keep request times, 8 bytes each.
func encodeTimes(times []time.Time) (v []byte) {
	for _, t := range times {
		v = binary.BigEndian.AppendUint64(v, uint64(t.UnixNano()))
	}
	return v
}

func decodeTimes(v []byte) (times []time.Time) {
	for ; len(v) >= 8; v = v[8:] {
		times = append(times, time.Unix(0, int64(binary.BigEndian.Uint64(v))))
	}
	return times
}

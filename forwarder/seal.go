package forwarder

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// pieceBytes bounds what is read of a bucket at once, as stored. A bucket of
// more is rendered in pieces, each at the time of its first window: so counters,
// points and members add up upstream all the same, and the last gauge is the last.
const pieceBytes = 32 << 20

// roundGroups bounds the groups of one round, for a round is one transaction.
const roundGroups = 256

// A Bucket is what becomes one value per series: the windows within one
// stretch of the group's width.
type Bucket struct {
	// At is the start of its first window, the timestamp of its items. That is the
	// bucket's start, unless what came before has been sent or was never there: a
	// gauge at the bucket's start would then stand before an older one.
	At   time.Time
	Rung rung
	// Deltas: only what adds up is rendered, counters, members, points and their
	// like. A gauge would overwrite a value that is more complete.
	Deltas bool
	// LargeSet is how many members a set may have to go out one by one when the
	// rung says unique.
	LargeSet uint64

	start    time.Time
	turn     turn
	piece    uint16
	doubtful bool // an outbox that was lost may have sent it already
	entries  []spool.Entry
}

// A round renders what the plan says onto a sheet until the sheet has as many
// batches as there is room for requests, and remembers how far it got.
type round struct {
	forwarder *Forwarder
	sheet     *Sheet
	slots     int
	start     spool.Pending // what was owed when the round began
	next      uint64        // sequence of the next record then
	pending   spool.Pending
	owed      []spool.Entry // the records of pending
	group     spool.Group   // the one that is partly sealed; zero if none is
	windows   spool.Range   // those rendered
	changed   bool
	plan      Plan // the last one
	doubt     int  // see Forwarder.doubt

	allowed float64 // events that may go out, see overBudget

	filtered, damaged, doubtful, superseded, repeated, overBudget counts
}

// counts are samples per kind.
type counts = [spool.Kinds]uint64

func (f *Forwarder) newRound(slots int) *round {
	r := &round{forwarder: f, slots: slots, start: f.outbox.Pending(), doubt: f.doubt, allowed: f.allowed}
	r.sheet = f.newSheet()
	if len(f.convicts) > 0 {
		r.sheet.suspect = func(item []byte) bool { return f.convicts[seriesOf(item)] }
	}
	r.pending, r.next = r.start, f.spool.Next()
	r.group, _ = f.outbox.Group()
	for _, have := range r.pending {
		r.owed = append(r.owed, f.spool.Entries(have)...)
	}
	if r.group.Seqs.Empty() {
		r.pending = r.pending.Existing(r.owed, r.next)
	}
	return r
}

// need is what there is to plan with.
func (r *round) need(now time.Time) Need {
	f := r.forwarder
	return Need{
		Interval: f.options.Interval, Points: f.options.Points, Scalars: len(f.options.Scalars),
		Items: f.room(), PerMin: f.limit(), Slots: r.slots - len(r.sheet.batches),
		Members: f.members(), Large: f.largeSet(), Events: f.eventsPerMinute(),
		CatchUp: f.options.CatchUp, Since: f.draining, Group: r.group, Pending: r.pending, Owed: r.owed, Recent: f.recent(now),
	}
}

func (r *round) render(now time.Time) error {
	for range roundGroups {
		r.plan = plan(r.need(now), now)
		if !r.plan.OK {
			return nil
		}
		r.group = r.plan.Group
		if done, err := r.renderGroup(); err != nil || !done {
			return err
		}
		rest, owed, ok := without(r.pending, r.owed, r.group.Seqs, r.next)
		if !ok {
			return fmt.Errorf("windows %v: pending has more than %d ranges", r.group.Seqs, spool.RangesMax)
		}
		r.pending, r.owed, r.group, r.changed = rest, owed, spool.Group{}, true
	}
	return nil
}

// without gives what is owed less a group that is done. Records that are gone, for their
// segment was damaged, leave no range behind: in time there would be as many as there may be.
func without(p spool.Pending, owed []spool.Entry, group spool.Range, next uint64) (spool.Pending, []spool.Entry, bool) {
	p, ok := p.Existing(owed, next).Without(group)
	owed = slices.DeleteFunc(owed, func(e spool.Entry) bool { return group.Contains(e.Seqs.From) })
	return p.Existing(owed, next), owed, ok
}

// renderGroup renders the series of a group that have not been sealed yet. done
// is false when the sheet is full.
func (r *round) renderGroup() (done bool, err error) {
	var entries []spool.Entry
	for _, e := range r.owed {
		if r.group.Seqs.Contains(e.Seqs.From) {
			entries = append(entries, e)
		}
	}
	for _, b := range r.buckets(entries) {
		after, ok := r.after(&b)
		if !ok {
			continue // it was done in an earlier turn
		}
		if done, err := r.renderBucket(&b, after); err != nil || !done {
			return done, err
		}
	}
	for _, e := range entries { // what could not be read, of what should have been there
		for kind, n := range e.Samples {
			r.damaged[kind] += n
		}
	}
	for kind, n := range r.group.Sealed {
		r.damaged[kind] -= n
	}
	return true, nil
}

// buckets sorts windows into buckets, in the order in which they are rendered.
// Late windows of a minute that has been sent are pieces of their own.
func (r *round) buckets(entries []spool.Entry) []Bucket {
	rung := rungOf(r.group)
	byStart := make(map[int64][2][]spool.Entry) // windows, and those of which only deltas go
	widths := make(map[int64]time.Duration)
	sent := r.sentMinutes(entries)
	for _, e := range entries {
		start, width := rung.bucket(&e)
		widths[start.UnixNano()] = width
		both := byStart[start.UnixNano()]
		i := 0
		if late(e) && sent[e.Start.Truncate(minute).Unix()] {
			i = 1
		}
		both[i] = append(both[i], e)
		byStart[start.UnixNano()] = both
	}
	var list []Bucket
	for _, start := range slices.Sorted(maps.Keys(byStart)) {
		b := Bucket{Rung: rung, LargeSet: uint64(r.forwarder.largeSet()), start: time.Unix(0, start), turn: turnOf(time.Unix(0, start), widths[start])}
		for i, entries := range byStart[start] {
			b.Deltas = i == 1 || len(entries) > 0 && r.past(&entries[0])
			for len(entries) > 0 {
				n, size := 1, int64(entries[0].Bytes)
				for n < len(entries) && size+int64(entries[n].Bytes) <= pieceBytes {
					size += int64(entries[n].Bytes)
					n++
				}
				b.entries, entries = entries[:n], entries[n:]
				list = append(list, r.dated(b))
				b.piece++
			}
		}
	}
	return list
}

// past tells whether newer windows than this one have been sealed for an upstream
// that takes all gauges for those of now. While a group is partly sealed the answer
// for its windows stays the same, for no other group is sealed then.
func (r *round) past(e *spool.Entry) bool {
	n := len(r.pending)
	return n > 0 && e.Seqs.From < r.pending[n-1].From && r.forwarder.upstream.Form().Now
}

// dated gives a bucket the time of its items. Late windows do not count where
// there are others: what their minute had before may have been sent.
func (r *round) dated(b Bucket) Bucket {
	f := r.forwarder
	live := slices.ContainsFunc(b.entries, func(e spool.Entry) bool { return !late(e) })
	for _, e := range b.entries {
		if late(e) != live && (b.At.IsZero() || e.Start.Before(b.At)) {
			b.At = e.Start.UTC()
		}
		b.doubtful = b.doubtful || e.Seqs.From < f.outbox.Doubtful() && !f.options.Resend
	}
	return b
}

// sentMinutes gives the minutes, in seconds since 1970, of which a live window
// has been sealed: the gauges upstream are then better than those of the late
// windows among entries. It is empty if there are none.
func (r *round) sentMinutes(entries []spool.Entry) map[int64]bool {
	sent := make(map[int64]bool)
	if !slices.ContainsFunc(entries, late) {
		return sent
	}
	f := r.forwarder
	for _, e := range f.spool.Entries(spool.Range{From: 0, To: f.spool.Next()}) {
		if !late(e) && !r.pending.Contains(e.Seqs.From) {
			sent[e.Start.Truncate(minute).Unix()] = true
		}
	}
	return sent
}

// A group remembers the last series or event that is done, with its bucket:
//
//	bucket's start  8 bytes, nanoseconds since 1970, big endian
//	piece           2 bytes
//	key             the series', or see eventKey
func (r *round) done(b *Bucket, key string) {
	after := binary.BigEndian.AppendUint64(make([]byte, 0, 10+len(key)), uint64(b.start.UnixNano()))
	r.group.After = append(binary.BigEndian.AppendUint16(after, b.piece), key...)
}

// after returns the key behind which a bucket's rendering goes on, or false if
// all of the bucket is done.
func (r *round) after(b *Bucket) (key []byte, ok bool) {
	if len(r.group.After) < 10 {
		return nil, true
	}
	at := int64(binary.BigEndian.Uint64(r.group.After))
	piece := binary.BigEndian.Uint16(r.group.After[8:])
	switch c := cmp.Or(cmp.Compare(b.start.UnixNano(), at), cmp.Compare(b.piece, piece)); {
	case c < 0:
		return nil, false
	case c > 0:
		return nil, true
	}
	return r.group.After[10:], true
}

// renderBucket renders the events and the series of a bucket behind after. done
// is false when the sheet is full. Windows that cannot be read are left out.
func (r *round) renderBucket(b *Bucket, after []byte) (done bool, err error) {
	readers, err := r.open(b)
	if err != nil {
		return false, err
	}
	f := r.forwarder
	all := aggregator.Merge(f.options.MaxSetMembers, after, readers...)
	all.LimitTags(f.upstream.Form().Tags)
	if !r.renderEvents(b, after, all) {
		return false, nil
	}
	for s, v := range all.All() {
		fits := r.place(b, all.Last(), s.Kind(), v.Samples(), func() *counts {
			if !f.matches(s.Name()) {
				return &r.filtered
			}
			f.upstream.Render(r.sheet, b, s, v)
			switch {
			case s.Kind() == aggregator.Set && !(b.Deltas && b.Rung.unique): // all its members are there
				return &r.repeated
			case b.Deltas: // nothing of it adds up
				return &r.superseded
			}
			return &r.filtered
		})
		if !fits {
			return false, nil
		}
	}
	if all.Err() != nil {
		f.log.Error("windows cannot be read; samples are lost", "start", b.At, "error", all.Err())
	}
	return true, nil
}

// place lets render put the items onto the sheet that stand for samples of a
// kind; key is the place behind them. Samples that have no items are booked under
// the reason that render answers. It answers false if they do not fit any more.
func (r *round) place(b *Bucket, key string, kind aggregator.Kind, samples uint64, render func() (reason *counts)) (fits bool) {
	f := r.forwarder
	before, claims := r.sheet.mark(), f.contact.mark()
	r.sheet.begin(kind, samples)
	reason := render()
	r.sheet.end()
	if b.doubtful && r.doubt > 0 {
		r.doubt -= r.sheet.items
		if !repeatable(kind) && r.sheet.items > 0 {
			r.sheet.back(before)
			f.contact.back(claims)
			r.sheet.items, reason = 0, &r.doubtful
		}
	}
	if max(len(r.sheet.batches), len(r.sheet.apart)) > r.slots && before.batches+before.apart > 0 { // a series larger than a minute's budget goes alone
		r.sheet.back(before)
		f.contact.back(claims)
		return false
	}
	if r.sheet.items == 0 {
		reason[kind] += samples
	} else if kind == aggregator.Events {
		r.allowed--
	}
	r.done(b, key)
	r.group.Sealed[kind] += samples
	r.changed = true
	return true
}

// open reads the windows of a bucket.
func (r *round) open(b *Bucket) ([]*aggregator.Reader, error) {
	f := r.forwarder
	var readers []*aggregator.Reader
	for _, e := range b.entries {
		if r.windows.To == 0 {
			r.windows = e.Seqs
		}
		r.windows = spool.Range{From: min(r.windows.From, e.Seqs.From), To: max(r.windows.To, e.Seqs.To)}
		parts, err := f.spool.Read(e.Seqs.From)
		var reader *aggregator.Reader
		if err == nil {
			reader, err = aggregator.OpenReader(parts...)
			if err != nil {
				err = fmt.Errorf("%w: %w", spool.ErrDamaged, err)
			}
		}
		switch {
		case err == nil:
			readers = append(readers, reader)
		case errors.Is(err, spool.ErrGone) && !f.outbox.Pending().Contains(e.Seqs.From):
			return nil, spool.ErrStale // evicted, and booked by who did that
		case errors.Is(err, spool.ErrDamaged), errors.Is(err, spool.ErrGone):
			f.log.Error("a window cannot be read; its samples are lost", "sequence", e.Seqs.From, "start", e.Start, "error", err)
		default:
			return nil, err
		}
	}
	return readers, nil
}

// commit adds to the transaction that stores the sheet how far the round got.
// When windows were evicted meanwhile, the sheet may hold what has been booked as
// dropped: ErrStale.
func (r *round) commit(tx *spool.Tx) error {
	if !slices.Equal(tx.Pending(), r.start) {
		return spool.ErrStale
	}
	for _, b := range slices.Concat(r.sheet.singles, r.sheet.batches, r.sheet.apart) {
		b.Windows = r.windows
	}
	var g *spool.Group
	if !r.group.Seqs.Empty() {
		g = &r.group
	}
	if r.forwarder.doubt > 0 && r.doubt <= 0 {
		tx.Put(stateTable, doubtKey, []byte(r.forwarder.outbox.Generation()))
	}
	tx.Progress(r.pending, g)
	tx.Filtered(r.filtered)
	tx.Merged(r.repeated)
	for reason, samples := range map[string]counts{"damaged": r.damaged, "outbox_lost": r.doubtful, "superseded": r.superseded, overBudget: r.overBudget} {
		if samples != (counts{}) {
			tx.Dropped(reason, samples)
			tx.Gap(reason, r.windows)
		}
	}
	return nil
}

// seal stores what a round rendered, for at most slots requests. It answers
// whether there was anything, and if not, when to look again.
func (f *Forwarder) seal(now time.Time, slots int) (sealed bool, wait time.Duration, err error) {
	defer f.spool.Hold()() // what is planned with is what is read
	r := f.newRound(slots)
	f.contact.definitions.room = f.singleRoom(now)
	if d, ok := f.upstream.(definer); ok {
		d.Define(r.sheet, now)
		if len(r.sheet.singles) > 0 {
			return true, 0, f.store(r.sheet, now, func(*spool.Tx) error { return nil })
		}
	}
	err = r.render(now)
	f.notePlan(r.plan)
	f.draining = r.plan.Since
	if err != nil || !r.changed {
		f.contact.forget()
		return false, r.plan.Wait, err
	}
	if err := f.store(r.sheet, now, r.commit); err != nil {
		return false, 0, err
	}
	f.doubt = r.doubt
	f.noteEvents(r)
	return true, 0, nil
}

// members is how many of a set may go out one by one: where strings are not
// taken, none, but their number.
func (f *Forwarder) members() int {
	if !f.upstream.Members() {
		return 1
	}
	return f.options.MaxSetMembers
}

// room is how many items of others a request has room for beside the agent's own.
func (f *Forwarder) room() int { return f.options.ItemsPerRequest - f.upstream.Form().Own }

// largeSet is how many members a set may have to go out one by one when large
// ones do not: 5 % of a minute's items.
func (f *Forwarder) largeSet() int { return max(1, f.limit()*f.options.ItemsPerRequest/20) }

// recent returns the windows of the last whole minute: what a minute brings.
func (f *Forwarder) recent(now time.Time) []spool.Entry {
	to := now.Truncate(minute)
	from := to.Add(-minute)
	next := f.spool.Next()
	look := uint64(minute/f.options.Interval)*4 + 64 // late windows lie between
	entries := f.spool.Entries(spool.Range{From: next - min(next, look), To: next})
	return slices.DeleteFunc(entries, func(e spool.Entry) bool { return e.Start.Before(from) || !e.Start.Before(to) })
}

// store seals the batches of a sheet, and what with adds, in one transaction.
func (f *Forwarder) store(sheet *Sheet, now time.Time, with func(*spool.Tx) error) error {
	err := f.outbox.Update(func(tx *spool.Tx) error {
		if err := with(tx); err != nil {
			return err
		}
		for _, b := range slices.Concat(sheet.singles, sheet.batches) {
			f.sealBatch(tx, b, now)
		}
		f.putDefinitions(tx)
		joined := make(map[uint64]bool)
		for _, b := range sheet.apart {
			if err := f.sealApart(tx, b, joined, now); err != nil {
				return err
			}
		}
		for _, name := range f.contact.names.fresh {
			u := f.contact.names.uses[name]
			tx.Put(namesTable, name, u[:])
		}
		return nil
	})
	f.reloadTrials()
	if err != nil {
		f.contact.forget()
		return err
	}
	f.contact.keep()
	return nil
}

func (f *Forwarder) newSheet() *Sheet {
	form := f.upstream.Form()
	return &Sheet{maxItems: f.room(), maxBody: maxBody, head: form.Head, events: form.Events}
}

func (f *Forwarder) sealBatch(tx *spool.Tx, b *spool.Batch, now time.Time) {
	b.Sealed, b.Due = now, now
	b.Seq = tx.Next()
	f.upstream.Finish(b)
	tx.Seal(b)
}

// part makes a batch of those items of b that keep answers true for, without
// the agent's own, which it gets anew. It answers nil if there are none.
func part(u Upstream, b *spool.Batch, keep func(i int, item spool.Item) bool) *spool.Batch {
	form := u.Form()
	sheet := Sheet{maxItems: len(b.Items), maxBody: len(b.Body), head: form.Head, events: form.Events}
	for i, item := range b.Items {
		if item.Kind == 0 || !keep(i, item) {
			continue
		}
		sheet.begin(aggregator.Kind(item.Kind), item.Samples)
		sheet.Item(b.Lane, func(dst []byte) []byte { return append(dst, b.Body[item.Off:item.Off+item.Len]...) })
	}
	made := slices.Concat(sheet.batches, sheet.singles)
	if len(made) == 0 {
		return nil
	}
	made[0].Windows = b.Windows
	return made[0]
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
func (f *Forwarder) halve(tx *spool.Tx, b *spool.Batch, v Verdict, now time.Time) {
	half := carried(b) / 2
	if half == 0 {
		f.settle(tx, b, spool.Settlement{To: spool.Dead, Reason: v.Reason, Answer: v.Answer, At: now})
		return
	}
	// The agent's own items come last, so the first half are all others.
	f.sealBatch(tx, part(f.upstream, b, func(i int, _ spool.Item) bool { return i < half }), now)
	f.sealBatch(tx, part(f.upstream, b, func(i int, _ spool.Item) bool { return i >= half }), now)
	f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
}

package forwarder

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// maxDoubts is how many batches may be in doubt before nothing else is sent.
const maxDoubts = 16

// secondLook is how long after a complete answer the upstream is looked at
// once more: the transaction behind a complete answer is over, but the one that
// answers reads may lag.
const secondLook = 2 * time.Second

// looksPerMinute keeps reads within the upstream's 60 a minute: a look takes
// up to two. Their times are on disk, for an agent that is restarted often.
const looksPerMinute = 30

// underWay stands in the stored times for that of a look which is not over.
var underWay = time.Unix(0, 0)

// doubtful returns the batch in doubt that is to be looked for next, and when.
func (f *Forwarder) doubtful() (b *spool.Batch, due time.Time) {
	for _, have := range f.outbox.Batches() {
		if have.State == spool.InDoubt && (b == nil || have.Due.Before(due)) {
			b, due = &have, have.Due
		}
	}
	return b, due
}

func (f *Forwarder) doubts() int {
	n := 0
	for _, b := range f.outbox.Batches() {
		if b.State == spool.InDoubt && b.Lane != spool.Singles {
			n++
		}
	}
	return n
}

// verify looks whether a batch in doubt has arrived, and settles it if that is
// certain. Reads have a budget of their own, see looksPerMinute.
func (f *Forwarder) verify(ctx context.Context, header *spool.Batch) time.Duration {
	b, err := f.outbox.Load(header.Seq)
	if errors.Is(err, spool.ErrDamaged) {
		return f.spoilt(header, err)
	}
	if err != nil {
		return f.trouble("read a batch in doubt", err)
	}
	found := unreadable
	if f.options.Verify {
		err := f.outbox.Update(func(tx *spool.Tx) error {
			tx.Put(stateTable, readsKey, encodeTimes(append(f.reads.stored(time.Now()), underWay)))
			return nil
		})
		if err != nil {
			f.ready = false // it may say that one is under way
			return f.trouble("note that a batch in doubt is looked for", err)
		}
		f.reads.begin(time.Now(), 0)
		found = f.look(ctx, b)
		f.reads.end(time.Now())
	}
	if found == unreadable && f.held() {
		found = unanswered // a key that may not write may not read either: another may
	}
	if ctx.Err() != nil {
		return time.Second
	}
	now := time.Now()
	err = f.outbox.Update(func(tx *spool.Tx) error {
		tx.Put(stateTable, readsKey, encodeTimes(f.reads.stored(now)))
		switch found {
		case present:
			f.settle(tx, b, spool.Settlement{To: spool.Delivered, At: now})
			f.upstream.Note(tx, b, Verdict{Is: Delivered})
			return f.passed(tx, b, now)
		case absent:
			return f.notThere(tx, b, now)
		case unanswered:
			tx.State(b.Seq, spool.InDoubt, now.Add(max(f.options.Settle/4, time.Second)), b.Started, b.Attempts)
		case partial:
			return f.giveUp(tx, b, "partial", now)
		default:
			return f.giveUp(tx, b, "unverified", now)
		}
		return nil
	})
	if err != nil {
		f.ready = false
		return f.trouble("settle a batch in doubt", err)
	}
	f.reloadTrials()
	f.mu.Lock()
	if found == present {
		f.passes++
		f.refusals = 0
		f.stats.Verified++
		f.stats.LastDelivery = now
	}
	if f.stats.State == "in_doubt" && f.doubts() == 0 {
		if f.stats.State = "retrying"; found == present {
			f.stats.State, f.stats.LastError = "ok", ""
		}
	}
	f.mu.Unlock()
	level := slog.LevelInfo
	if found == unanswered {
		level = slog.LevelDebug // it is asked again and again
	}
	f.log.Log(ctx, level, "looked for a batch in doubt", "batch", b.Seq, "found", found.String())
	return 0
}

// spoilt gives up a batch in doubt that the disk does not give back as it was.
func (f *Forwarder) spoilt(header *spool.Batch, why error) time.Duration {
	f.log.Error("a batch in doubt is damaged and dropped", "batch", header.Seq, "error", why)
	now := time.Now()
	err := f.outbox.Update(func(tx *spool.Tx) error {
		f.settle(tx, header, spool.Settlement{To: spool.Dropped, Reason: "damaged", At: now})
		return f.lost(tx, header, now)
	})
	if err != nil {
		f.ready = false
		return f.trouble("drop a batch that was damaged", err)
	}
	f.reloadTrials()
	return 0
}

func (f *Forwarder) held() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats.State == "held"
}

func (f finding) String() string {
	return [...]string{"nothing", "present", "absent", "partial", "undefined", "unreadable", "unanswered"}[f]
}

// look asks the upstream.
func (f *Forwarder) look(ctx context.Context, b *spool.Batch) finding {
	req, err := f.upstream.Look(b)
	if err != nil || req == nil {
		return unreadable
	}
	found := f.upstream.Found(b, f.roundTrip(ctx, req))
	if found != undefined {
		return found
	}
	// A marker that was never stored is a metric nobody knows. Whether it is that
	// or a key without the right to read shows in the list of all metrics.
	if req, err = f.upstream.List(); err != nil {
		return unreadable
	}
	return f.upstream.Listed(f.roundTrip(ctx, req))
}

// notThere acts on a batch that the upstream does not have: the first time it
// waits and looks again, the second time the batch is sent again.
func (f *Forwarder) notThere(tx *spool.Tx, b *spool.Batch, now time.Time) error {
	if f.looks[b.Seq]++; f.looks[b.Seq] < 2 {
		wait := f.options.Settle
		if b.Due.Before(b.Started.Add(f.options.Settle)) { // there was a complete answer
			wait = secondLook
		}
		tx.State(b.Seq, spool.InDoubt, now.Add(wait), b.Started, b.Attempts)
		return nil
	}
	delete(f.looks, b.Seq)
	if v, yes := f.atFault(b); yes {
		return f.refused(tx, b, v, now)
	}
	// A batch that fails again and again must not take the budget of the others.
	wait := min(time.Second<<min(b.Attempts, 6), heldProbe)
	tx.State(b.Seq, spool.Queued, now.Add(wait), b.Started, b.Attempts)
	return nil
}

// resentTable names the batches that are sent once more unverified, by sequence.
const resentTable = "resent"

func resentKey(b *spool.Batch) string { return strconv.FormatUint(b.Seq, 10) }

// settle ends a batch and forgets what was kept about it.
func (f *Forwarder) settle(tx *spool.Tx, b *spool.Batch, s spool.Settlement) {
	tx.Settle(b.Seq, s)
	if s.To == spool.Dead || s.To == spool.Dropped || s.Rejected > 0 {
		f.contact.members.lose(b)
	}
	if f.outbox.Get(resentTable, resentKey(b)) != nil {
		tx.Delete(resentTable, resentKey(b))
	}
	delete(f.looks, b.Seq)
	delete(f.faults, b.Seq)
}

// repeatable tells whether sending a series of that kind again changes nothing.
func repeatable(k aggregator.Kind) bool { return k == aggregator.Gauge || k == aggregator.Set }

// harmless tells whether nobody can tell that a batch was sent again.
func (f *Forwarder) harmless(b *spool.Batch) bool {
	return carried(b) > 0 && !slices.ContainsFunc(b.Items, func(i spool.Item) bool { return f.upstream.Repeats(b, i) != nothing })
}

// giveUp settles a batch in doubt that cannot be looked for, or of which a part is
// there; reason says which. Gauges and sets
// are sent once more, which changes nothing if they had arrived. Counters and
// distributions are dropped unless the upstream is configured to resend: one
// lost window is bounded, and doubling, where each attempt may commit and time
// out, is not.
func (f *Forwarder) giveUp(tx *spool.Tx, b *spool.Batch, reason string, now time.Time) error {
	if f.harmless(b) {
		tx.State(b.Seq, spool.Queued, now, b.Started, b.Attempts)
		return nil
	}
	resent := f.outbox.Get(resentTable, resentKey(b)) != nil
	harmless := part(f.upstream, b, func(_ int, i spool.Item) bool { return f.upstream.Repeats(b, i) != doubles })
	rest := part(f.upstream, b, func(_ int, i spool.Item) bool { return f.upstream.Repeats(b, i) == doubles })
	drop := spool.Settlement{To: spool.Dropped, Reason: reason, At: now}
	switch {
	case b.Lane == spool.Singles && rest == nil && b.Attempts < maxSingleAttempts: // it adds nothing
		tx.State(b.Seq, spool.Queued, now.Add(min(time.Second<<min(b.Attempts, 6), heldProbe)), b.Started, b.Attempts)
		return nil
	case b.Lane == spool.Singles:
		if carried(b) == 0 {
			f.undefine(tx, b)
		}
		f.settle(tx, b, drop)
		return nil
	case harmless == nil && rest == nil: // a hello: another one asks
		f.settle(tx, b, drop)
		return nil
	case resent || harmless == nil && !f.options.Resend:
		f.settle(tx, b, drop)
		f.log.Error("a batch in doubt cannot be verified and is dropped", "reason", reason, "batch", b.Seq, "items", len(b.Items))
		return f.lost(tx, b, now)
	case rest == nil || f.options.Resend:
		tx.Put(resentTable, resentKey(b), []byte{1})
		tx.State(b.Seq, spool.Queued, now, b.Started, b.Attempts)
		return nil
	}
	f.sealBatch(tx, harmless, now)
	tx.Put(resentTable, resentKey(harmless), []byte{1})
	f.sealBatch(tx, rest, now)
	tx.Settle(rest.Seq, drop)
	f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
	f.log.Error("a batch in doubt cannot be verified: its gauges and sets are sent again, the rest is dropped",
		"reason", reason, "batch", b.Seq, "dropped", carried(rest))
	return f.lost(tx, b, now)
}

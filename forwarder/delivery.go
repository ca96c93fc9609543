package forwarder

import (
	"context"
	"time"

	"sluice/spool"
)

// deliver sends a batch and acts on the verdict. That a request is being made
// is on disk before its first byte leaves.
func (f *Forwarder) deliver(ctx context.Context, b *spool.Batch) time.Duration {
	start := time.Now()
	if done, err := f.respell(b, start); err != nil {
		return f.trouble("write a batch anew", err)
	} else if done {
		return 0
	}
	f.mu.Lock()
	budget := f.budget
	if b.Lane == spool.Singles {
		budget = f.singles
	}
	budget.begin(start, len(b.Items))
	f.mu.Unlock()
	err := f.outbox.Update(func(tx *spool.Tx) error {
		tx.State(b.Seq, spool.Sending, b.Due, start, b.Attempts+1)
		f.spent(tx, b, start)
		return nil
	})
	if err != nil {
		f.ready = false // it may say Sending now
		return f.trouble("note that a batch is being sent", err)
	}
	b.Attempts, b.Started = b.Attempts+1, start
	f.count(b)

	req, err := f.upstream.Request(b)
	o := outcome{err: err}
	if err == nil {
		o = f.roundTrip(ctx, req)
	}
	if ctx.Err() != nil && o.err != nil && o.wrote {
		return 0 // we are to stop: Sending, as it stands on disk, is the truth
	}
	now := time.Now()
	f.mu.Lock()
	budget.end(now)
	f.mu.Unlock()
	v := f.upstream.Verdict(b, o, now)
	if (v.Is == Refused || v.Is == TooLarge) && carried(b) == 0 && b.Lane != spool.Singles {
		v.Is = Held // it carries nothing that could be at fault: the upstream wants none of ours
	}
	return f.act(b, v, now)
}

// spent notes in a transaction the times of the requests that count.
func (f *Forwarder) spent(tx *spool.Tx, b *spool.Batch, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Lane == spool.Singles {
		tx.Put(stateTable, singlesKey, encodeTimes(f.singles.stored(now)))
		return
	}
	tx.Spent(f.budget.stored(now))
}

func (f *Forwarder) count(b *spool.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Lane == spool.Singles {
		f.stats.Singles++
		return
	}
	f.stats.Requests++
	f.stats.Items += uint64(len(b.Items))
	if b.Attempts > 1 {
		f.stats.Retries++
	}
}

// act does what the verdict on a batch asks for.
func (f *Forwarder) act(b *spool.Batch, v Verdict, now time.Time) time.Duration {
	var delay time.Duration
	state := "ok"
	var learnt []byte
	pause := f.singlesBackoff
	if b.Lane != spool.Singles {
		learnt, pause = f.learnShare(v, now), f.backoff
	}
	err := f.outbox.Update(func(tx *spool.Tx) error {
		f.spent(tx, b, now)
		if learnt != nil {
			tx.Put(stateTable, shareKey, learnt)
		}
		switch v.Is {
		case Delivered:
			f.settle(tx, b, spool.Settlement{To: spool.Delivered, Rejected: v.Rejected, At: now})
			f.upstream.Note(tx, b, v)
			if f.learns(v) {
				tx.Put(stateTable, f.dialectKey(), []byte(v.Dialect))
			}
			return f.passed(tx, b, now)
		case Again:
			delay = max(pause.NextBackOff(), v.RetryAfter, time.Millisecond)
			state = "retrying"
			f.upstream.Note(tx, b, v)
			tx.State(b.Seq, spool.Queued, now.Add(delay), b.Started, b.Attempts)
		case Held:
			delay = heldProbe
			state = "held"
			f.upstream.Note(tx, b, v)
			tx.State(b.Seq, spool.Queued, now, b.Started, b.Attempts) // a restart with another key asks at once
		case InDoubt:
			delay = max(pause.NextBackOff(), time.Millisecond)
			state = "in_doubt"
			due := now
			if !v.Over || b.Lane == spool.Singles {
				due = b.Started.Add(f.options.Settle)
			}
			tx.State(b.Seq, spool.InDoubt, due, b.Started, b.Attempts)
			f.suspect(b, v)
		case Refused:
			if carried(b) == 0 { // a definition: its items, which are others, go their own way
				f.settle(tx, b, spool.Settlement{To: spool.Dropped, Reason: "definition", At: now})
				return nil
			}
			return f.refused(tx, b, v, now)
		case TooLarge:
			if f.tried(b.Seq) {
				return f.refused(tx, b, v, now)
			}
			f.halve(tx, b, v, now)
		}
		return nil
	})
	if err != nil {
		// The request log is too old by one answer, and the batch still says
		// Sending: both are taken up again as after a crash.
		f.ready = false
		return f.trouble("note the answer to a batch", err)
	}
	f.reloadTrials()
	f.conclude(b, v, state, now)
	switch {
	case delay == 0:
		pause.Reset()
	case b.Lane == spool.Singles:
		f.singlesNotBefore = now.Add(delay)
	default:
		f.notBefore = now.Add(delay)
	}
	return 0
}

// learnShare adapts the share of the requests to a verdict. It answers what is to
// be stored, nil if nothing has changed.
func (f *Forwarder) learnShare(v Verdict, now time.Time) []byte {
	f.mu.Lock()
	before := *f.share
	switch {
	case v.Limited:
		f.share.refused(now)
	case v.Is == Delivered:
		f.share.taken(now)
	}
	f.budget.limit = f.share.now
	after := *f.share
	f.mu.Unlock()
	if after.now == before.now && after.halved.Equal(before.halved) {
		return nil
	}
	if after.now < before.now {
		f.log.Warn("the upstream counts more requests than this agent makes: it takes a smaller share", "requests_per_minute", after.now, "before", before.now, "answer", v.Reason)
	}
	return after.encode()
}

// learns tells whether a verdict tells a dialect that is not known yet. One that
// is configured is not for the upstream to change.
func (f *Forwarder) learns(v Verdict) bool {
	return f.options.Dialect == "" && f.contact.dialect != v.Dialect
}

// conclude tells what a verdict changed.
func (f *Forwarder) conclude(b *spool.Batch, v Verdict, state string, now time.Time) {
	if b.Lane == spool.Singles && v.Is != Delivered {
		if v.Is != Again || b.Attempts == 1 {
			f.log.Warn("a single item was not delivered", "batch", b.Seq, "attempts", b.Attempts, "answer", v.Reason)
		}
		return
	}
	if v.Is != Delivered {
		f.draining = time.Time{} // CatchUp begins when the upstream is back
		f.fail(state, v.Reason)
		if v.Is == Refused || v.Is == TooLarge {
			f.refusals++
			f.log.Error("the upstream refused a batch", "batch", b.Seq, "items", len(b.Items), "answer", v.Reason)
		}
		return
	}
	if f.learns(v) {
		f.log.Info("the upstream's dialect is known now", "dialect", v.Dialect)
		f.learn(v.Dialect)
	}
	f.passes++
	f.refusals = 0
	f.mu.Lock()
	was := f.stats.State
	f.stats.State, f.stats.LastError, f.stats.LastDelivery = "ok", "", now
	f.mu.Unlock()
	if was != "ok" {
		f.log.Info("delivering again", "after", was)
	}
	if v.Rejected > 0 {
		f.log.Warn("the upstream rejected items of a batch", "batch", b.Seq, "rejected", v.Rejected, "accepted", v.Accepted)
	}
	f.log.Debug("delivered", "batch", b.Seq, "items", len(b.Items), "attempts", b.Attempts)
}

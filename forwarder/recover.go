package forwarder

import (
	"fmt"
	"slices"
	"time"

	"sluice/spool"
)

// recover takes up what an earlier process left: the dialect, the names, the
// request log, and batches that were being sent when it died.
func (f *Forwarder) recover(now time.Time) error {
	if f.main != nil {
		f.recoverStandIn()
		return nil
	}
	f.contact.agent, f.contact.generation = f.spool.Identity(), f.outbox.Generation()
	if f.options.Dialect == "" {
		f.learn(string(f.outbox.Get(stateTable, f.dialectKey())))
	}
	f.contact.names = names{uses: make(map[string]use)}
	for name, u := range f.outbox.Table(namesTable) {
		if len(u) == len(use{}) {
			f.contact.names.uses[name] = use(u)
		}
	}
	f.doubt = 0
	if f.outbox.Doubtful() > 0 && string(f.outbox.Get(stateTable, doubtKey)) != f.outbox.Generation() {
		// The ranges are those of the newest record. Since then, for no longer than
		// one window, the lost outbox may have sealed what one turn takes.
		f.doubt = f.options.RequestsPerMinute * f.options.ItemsPerRequest
	}
	times := f.outbox.Requests()
	if len(times) == 0 && f.outbox.Doubtful() > 0 {
		times = slices.Repeat([]time.Time{now}, f.options.RequestsPerMinute) // the log was lost with the outbox
	}
	for _, b := range f.outbox.Batches() {
		if b.Type != f.options.Type {
			return fmt.Errorf("batches for a %s wait under the name %s, which is now that of a %s; give the new upstream another name", b.Type, f.options.Name, f.options.Type)
		}
	}
	sending := 0
	singles := decodeTimes(f.outbox.Get(stateTable, singlesKey))
	reads := decodeTimes(f.outbox.Get(stateTable, readsKey))
	looking := slices.Contains(reads, underWay)
	if looking { // it may still be on its way, as those of batches that are being sent
		reads = append(slices.DeleteFunc(reads, underWay.Equal), now) // it counts once, whatever starts follow
	}
	back := f.setBack(slices.Concat(times, singles, reads), now)
	err := f.outbox.Update(func(tx *spool.Tx) error {
		f.takeDefinitions(tx)
		for _, b := range f.outbox.Batches() {
			due, started := f.retimed(&b, back, now)
			switch {
			case b.State == spool.Sending:
				sending++
				if b.Lane == spool.Singles {
					singles = append(singles, now)
				} else {
					times = append(times, now) // it may have been the last thing the upstream saw
				}
				if full, err := f.outbox.Load(b.Seq); err == nil && f.harmless(full) {
					tx.State(b.Seq, spool.Queued, now, started, b.Attempts) // before what comes after it
					continue
				}
				tx.State(b.Seq, spool.InDoubt, started.Add(f.options.Settle), started, b.Attempts)
				continue
			case b.State == spool.Queued && b.Lane != spool.Singles && due.After(f.notBefore) && due.After(now):
				f.notBefore = due // the upstream was failing, or asked for it
			}
			tx.State(b.Seq, b.State, due, started, b.Attempts)
		}
		if sending > 0 || looking || back { // should we end before the next request, nothing else tells of these
			tx.Spent(newBudget(f.options.RequestsPerMinute, times, now).times)
			tx.Put(stateTable, singlesKey, encodeTimes(newBudget(max(1, f.options.SinglesPerMinute), singles, now).times))
			tx.Put(stateTable, readsKey, encodeTimes(newBudget(looksPerMinute, reads, now).times))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sending > 0 {
		f.log.Warn("requests were under way when the agent stopped; their batches are in doubt", "batches", sending)
	}
	batches, alone, looks := f.requestsFromMemory()
	times, singles, reads = united(times, batches), united(singles, alone), united(reads, looks)
	f.mu.Lock()
	*f.budget = *newBudget(f.options.RequestsPerMinute, united(times, f.budget.times), now)
	*f.share = *newShare(f.options.RequestsPerMinute, now)
	f.share.restore(f.outbox.Get(stateTable, shareKey), now)
	f.budget.limit = f.share.now
	f.mu.Unlock()
	*f.singles = *newBudget(max(1, f.options.SinglesPerMinute), united(singles, f.singles.times), now)
	*f.reads = *newBudget(looksPerMinute, united(reads, f.reads.times), now)
	f.loadTrials()
	f.ready, f.taken = true, true
	return nil
}

// setBack tells whether something that is stored was done later than now: then the
// clock was wrong, or is.
func (f *Forwarder) setBack(requests []time.Time, now time.Time) bool {
	after := func(t time.Time) bool { return t.After(now) }
	return slices.ContainsFunc(requests, after) ||
		slices.ContainsFunc(f.outbox.Batches(), func(b spool.Batch) bool { return after(b.Sealed) || after(b.Started) })
}

// retimed puts the stored times of a batch on the monotonic clock of now, so that no
// later step of the wall clock moves them, and takes them for what they can have been:
// an attempt was not made after now, and no delay is longer than those that are given.
// back tells that the clock was set back, so that delays cannot be told from the step.
func (f *Forwarder) retimed(b *spool.Batch, back bool, now time.Time) (due, started time.Time) {
	ahead := max(0, b.Started.Sub(now))
	if !b.Started.IsZero() {
		started = now.Add(b.Started.Sub(now) - ahead)
	}
	wait := b.Due.Sub(now) - ahead
	switch {
	case b.State == spool.InDoubt: // it counts from the attempt, whatever else is wrong
		wait = min(wait, max(f.options.Settle, secondLook))
	case back:
		wait = min(wait, 0)
	default:
		wait = min(wait, maxRetryAfter)
	}
	return now.Add(wait), started
}

// stateTable holds single values: the dialect that was learnt, of each address;
// the generation whose doubts about a lost outbox are settled; the share of
// the requests; and the times of the requests that Tx.Spent does not keep.
const (
	stateTable = "state"
	doubtKey   = "doubt"
	shareKey   = "share"
	readsKey   = "reads" // of looks; that of one under way is underWay
)

func (f *Forwarder) dialectKey() string { return "dialect " + f.options.URL }

func (f *Forwarder) learn(dialect string) {
	f.contact.dialect = dialect
	f.mu.Lock()
	f.stats.Dialect = dialect
	f.mu.Unlock()
}

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
	err := f.outbox.Update(func(tx *spool.Tx) error {
		f.takeDefinitions(tx)
		for _, b := range f.outbox.Batches() {
			switch {
			case b.State == spool.Sending:
				sending++
				if b.Lane == spool.Singles {
					singles = append(singles, now)
				} else {
					times = append(times, now) // it may have been the last thing the upstream saw
				}
				if full, err := f.outbox.Load(b.Seq); err == nil && f.harmless(full) {
					tx.State(b.Seq, spool.Queued, now, b.Started, b.Attempts) // before what comes after it
					continue
				}
				due := min(b.Started.Sub(now), 0) + f.options.Settle
				tx.State(b.Seq, spool.InDoubt, now.Add(due), b.Started, b.Attempts)
			case b.Sealed.After(now), b.Started.After(now): // the clock was set back
				tx.State(b.Seq, b.State, now, b.Started, b.Attempts)
			case b.State == spool.Queued && b.Lane != spool.Singles && b.Due.After(f.notBefore) && b.Due.After(now):
				f.notBefore = now.Add(b.Due.Sub(now)) // the upstream was failing, or asked for it
			}
		}
		if sending > 0 { // should we end before the next request, nothing else tells of these
			tx.Spent(newBudget(f.options.RequestsPerMinute, times, now).times)
			tx.Put(stateTable, singlesKey, encodeTimes(newBudget(max(1, f.options.SinglesPerMinute), singles, now).times))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sending > 0 {
		f.log.Warn("requests were under way when the agent stopped; their batches are in doubt", "batches", sending)
	}
	batches, alone := f.requestsFromMemory()
	times, singles = united(times, batches), united(singles, alone)
	f.mu.Lock()
	*f.budget = *newBudget(f.options.RequestsPerMinute, united(times, f.budget.times), now)
	*f.share = *newShare(f.options.RequestsPerMinute, now)
	f.share.restore(f.outbox.Get(stateTable, shareKey), now)
	f.budget.limit = f.share.now
	f.mu.Unlock()
	*f.singles = *newBudget(max(1, f.options.SinglesPerMinute), united(singles, f.singles.times), now)
	f.loadTrials()
	f.ready, f.taken = true, true
	return nil
}

// stateTable holds single values: the dialect that was learnt, of each address;
// the generation whose doubts about a lost outbox are settled; and the share of
// the requests.
const (
	stateTable = "state"
	doubtKey   = "doubt"
	shareKey   = "share"
)

func (f *Forwarder) dialectKey() string { return "dialect " + f.options.URL }

func (f *Forwarder) learn(dialect string) {
	f.contact.dialect = dialect
	f.mu.Lock()
	f.stats.Dialect = dialect
	f.mu.Unlock()
}

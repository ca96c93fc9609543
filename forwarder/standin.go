package forwarder

import (
	"context"
	"maps"
	"slices"
	"time"

	"sluice/spool"
)

// While the spool's folder cannot be written, windows wait in memory. What no disk has
// cannot be sent twice by a process to come, so it need not wait: such windows are
// claimed from the spool and delivered by another Forwarder, which stands in and keeps
// its batches in memory (spool.Claim). It does its turns in the same goroutine, and
// shares budget, share and backoff of the upstream, so there is one request at a time
// all the same. What is on disk, sealed or not, is left alone until that can be
// written again.
//
// What the one that stands in has begun it also ends, when the disk is back already.

// substitute gives the forwarder that stands in, after it has claimed what can be sent
// now; nil if there is none.
func (f *Forwarder) substitute(now time.Time) *Forwarder {
	if f.born.IsZero() {
		f.born = now
	}
	from := f.spool.StandIn()
	if f.idleFor(from, now) && f.spool.Claim(now) {
		from = f.spool.StandIn()
	}
	in := f.standIn // written by this goroutine alone
	if in != nil && in.spool != from {
		f.mu.Lock()
		f.stats.count(&in.stats)
		f.standIn = nil
		f.mu.Unlock()
		in = nil
	}
	if in == nil && from != nil {
		in = f.newStandIn(from)
		f.mu.Lock()
		f.standIn = in
		f.mu.Unlock()
	}
	if in != nil {
		in.hurry = f.hurry
	}
	return in
}

// idleFor tells whether more could be sent from memory than what is claimed: the
// upstream takes something, a request is free, and nothing waits. Before the request
// log was read, a minute must have passed in which nobody made any.
func (f *Forwarder) idleFor(from *spool.Spool, now time.Time) bool {
	if !f.taken && now.Sub(f.born) < window {
		return false
	}
	f.mu.Lock()
	slot := f.budget.next(now)
	f.mu.Unlock()
	if f.notBefore.After(now) || slot.After(now) {
		return false
	}
	if from == nil {
		return true
	}
	box, ok := from.Find(f.options.Name)
	if !ok || f.standIn != nil && f.standIn.notBefore.After(now) {
		return false
	}
	for _, have := range box.Pending() {
		if len(from.Entries(have)) > 0 {
			return false
		}
	}
	return len(box.Batches()) == 0
}

func (f *Forwarder) newStandIn(from *spool.Spool) *Forwarder {
	o := f.options
	o.Transport = f.client.Transport
	in := New(o, from)
	in.main, in.mu = f, f.mu
	f.mu.Lock()
	defer f.mu.Unlock()
	in.budget, in.share, in.reads, in.singles = f.budget, f.share, f.reads, f.singles
	in.backoff, in.singlesBackoff = f.backoff, f.singlesBackoff
	in.notBefore, in.singlesNotBefore = f.notBefore, f.singlesNotBefore
	if clear := f.born.Add(window); !f.taken { // it goes on for a forwarder before this one
		in.notBefore, in.singlesNotBefore = clear, clear
	}
	return in
}

// recoverStandIn takes up what the main forwarder knows of the upstream. Its sequences
// and its generation are others; the agent is the same, if its folder was ever open.
func (f *Forwarder) recoverStandIn() {
	f.contact.agent, f.contact.generation = f.spool.Identity(), f.outbox.Generation()
	dialect := string(f.outbox.Get(stateTable, f.dialectKey()))
	if dialect == "" {
		dialect = f.main.contact.dialect
	}
	if f.options.Dialect == "" {
		f.learn(dialect)
	}
	f.contact.names = names{uses: make(map[string]use)}
	maps.Copy(f.contact.names.uses, f.main.contact.names.uses)
	f.contact.definitions = definitions{made: make(map[string]bool)}
	maps.Copy(f.contact.definitions.made, f.main.contact.definitions.made)
	f.loadTrials()
	f.ready, f.taken = true, true
}

// both lets the main forwarder and the one that stands in do a turn, one first and
// then the other, and the next time the other way round.
func (f *Forwarder) both(ctx context.Context, in *Forwarder) time.Duration {
	own := func(ctx context.Context) time.Duration {
		if wait := time.Until(f.rest); wait > 0 {
			return wait
		}
		return f.ownTurn(ctx)
	}
	first, second := in.ownTurn, own
	if f.changed = !f.changed; f.changed {
		first, second = second, first
	}
	wait := first(ctx)
	if wait <= 0 {
		return wait
	}
	return min(wait, second(ctx))
}

// add adds what a forwarder that stands in has done, and shows its trouble.
func (s *Stats) add(in *Stats) {
	s.count(in)
	s.Isolating += in.Isolating
	if in.State != "ok" {
		s.State, s.LastError = in.State, in.LastError
	}
}

func (s *Stats) count(in *Stats) {
	s.Requests, s.Items, s.Singles = s.Requests+in.Requests, s.Items+in.Items, s.Singles+in.Singles
	s.Retries, s.Verified = s.Retries+in.Retries, s.Verified+in.Verified
	if in.LastDelivery.After(s.LastDelivery) {
		s.LastDelivery = in.LastDelivery
	}
	if s.Dialect == "" {
		s.Dialect = in.Dialect
	}
}

// requestsFromMemory are the times of the requests that a stand-in has stored: of all
// that counted then, for the budget is the same.
func (f *Forwarder) requestsFromMemory() (batches, singles, reads []time.Time) {
	from := f.spool.StandIn()
	if from == nil {
		return nil, nil, nil
	}
	box, ok := from.Find(f.options.Name)
	if !ok {
		return nil, nil, nil
	}
	return box.Requests(), decodeTimes(box.Get(stateTable, singlesKey)), decodeTimes(box.Get(stateTable, readsKey))
}

// united are the times of two logs of the same requests.
func united(a, b []time.Time) []time.Time {
	have := make(map[int64]bool, len(a))
	for _, t := range a {
		have[t.UnixNano()] = true
	}
	all := slices.Clone(a)
	for _, t := range b {
		if !have[t.UnixNano()] {
			all = append(all, t)
		}
	}
	return all
}

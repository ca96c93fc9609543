// Package forwarder turns windows into accepted requests: it renders what the
// spool holds for one upstream, seals it into batches, sends them within the
// upstream's budget, and finds out what became of each.
//
// # Words
//
//   - upstream: a metrics API, and how to speak to it ([Upstream]): flux,
//     pulse, datacat.
//   - dialect: which of two servers answers under the name Flux, or Pulse. It decides how
//     sets are rendered and whether an upstream can be read back. It is learnt from
//     the first answer, unless it is configured.
//   - item: one JSON object. A series' samples ride on exactly one of its items, the
//     first, so that the ledger balances in samples and in items.
//   - sheet: the batches that a round of rendering fills, in lanes: metrics and sets
//     travel apart.
//   - batch: items with an identity (agent, sequence). From when it is sealed its
//     bytes never change; it is sent as it is, or replaced by parts of it that have
//     sequences of their own.
//   - session: what items belong to at a DataCat. Its totals are made when a request
//     is made, of the growth that is sealed.
//   - marker: the gauge sluice.delivery, last item of every batch, by which a batch
//     is found upstream. A Pulse has two, which frame the others.
//   - hello: a batch that carries the gauge sluice.up and nothing else, to learn the
//     dialect from; or the request for a session. It goes before everything else.
//   - verdict: what the outcome of a request means for its batch ([Verdict]).
//   - in doubt: the request may or may not have been stored.
//
// # A batch's way
//
// States are on disk (spool.State); each arrow is one synced transaction.
//
//	windows ──render, seal──▶ Queued ──a slot is free──▶ Sending ──request──┐
//	                            ▲  ▲                        │ verdict       │ we died
//	                            │  ├─── again · held ◀──────┤               │
//	                            │  └─── refused: parts ◀────┤               ▼
//	                            │                           ├─ no answer ▶ InDoubt ──look──┐
//	                            ├── absent, twice ◀─────────┼──────────────────────────────┤
//	                            └── gauges, sets, resend ◀──┼─────────── unreadable ◀──────┤
//	                                                        ▼                              │
//	                                          delivered · dead letters · dropped ◀─────────┘
//
// A batch in doubt steps aside: the lane goes on with others, until [maxDoubts] are
// in doubt at once.
//
// # A turn
//
// Run is a loop of turns, each doing one thing:
//
//  1. At the first: what an earlier process left is taken up. Batches in state
//     Sending are in doubt now, and count as requests of this moment.
//  2. A batch in doubt that is due is looked for.
//  3. If the last request failed, or the budget is spent: wait.
//  4. A queued batch that is due is sent. That it is being sent, and when, is on
//     disk before its first byte leaves. One request is in flight at a time.
//  5. If nothing is queued: plan, render what the plan says, as much as a minute's
//     requests hold, and seal it. The ranges of what is owed move in the same
//     transaction. What of a plan's group does not fit is left for the next turn,
//     which goes on behind the last series that was sealed (spool.Group).
//
// # A plan
//
// plan is a pure function of the index of what is owed ([Need]). Windows of the
// last two minutes and of this one are live and go first; older ones are backlog.
// For each of the two it chooses a rung of the ladder (docs/reliability.md, "What is
// sent when it does not fit"): the finest that the budget has room for. A group is
// one stretch of windows and its rung; it is ended before another is begun.
//
// Rendering is late on purpose: what is not sealed can still be merged or evicted.
// Windows that are evicted while they are rendered are found out when the
// transaction begins, and the round is thrown away.
//
// # Without a disk
//
// While windows cannot be stored, a second Forwarder stands in, which takes its turns
// in the same goroutine and shares the budget: see standin.go.
//
// # A trial
//
// A batch that is refused goes through a trial (type trial), which finds the items
// at fault by asking for parts of it. A fault is what speaks for it that a batch is
// to be refused: nothing dies before another was taken since.
//
// # Limits
//
//	requests      Options.RequestsPerMinute in any 60 s, however long each takes
//	looks         looksPerMinute in any 60 s, two requests each at most
//	items         Options.ItemsPerRequest, the marker among them
//	body          maxBody, 4 MiB less 4 KiB
//	points        Options.Points a distribution and bucket, fewer on lower rungs
//	outbox        outboxMax bytes of sealed batches; nothing is sealed beyond
//	trials        maxIsolation bytes of them, maxTrial requests for each, every
//	              isolationShare-th request for all
//	convicts      maxConvicts series
//	doubts        maxDoubts batches; beyond nothing is sent
//	tags          pulseTags of a series at a Pulse; those that become equal are merged
//	totals        maxTotals in a DataCat's session; then another is begun
//	answer        maxAnswer bytes are read of it
//	wait          Options.Timeout for an answer's head, twice that for all of it
//	Retry-After   at most maxRetryAfter is obeyed
//	members       maxMembers of the newest minute are remembered
//	single items  Options.SinglesPerMinute in any 60 s, beside the requests
//	definitions   maxNames are remembered
//	names         maxNames are remembered with their type
//
// # Who owns what
//
// Run does all the work in one goroutine, which owns every field of a Forwarder
// that its mutex does not guard. Stats, Wake and Name may be called by anybody at
// any time. A sheet owns the bodies it fills; once sealed, the spool has a copy.
// Values of windows are borrowed from the aggregator's reader while one series is
// rendered. The API key is in request headers and nowhere else.
package forwarder

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/cespare/xxhash/v2"

	"sluice/aggregator"
	"sluice/spool"
)

// Options of one upstream. All fields must be set unless they say otherwise.
type Options struct {
	Name    string // the outbox's
	Type    string // Flux, Pulse, DataCat
	URL     string // without the API's path and without a final slash
	Key     string
	Version string // of sluice, for User-Agent
	Host    string // of this machine, for a DataCat's list of sessions; "": none

	RequestsPerMinute int
	SinglesPerMinute  int           // requests to the single-item endpoint, beside the others; 0: it is not used
	ItemsPerRequest   int           // the agent's own among them, see Form
	Timeout           time.Duration // for the answer to one request
	Dialect           string        // Hosted, SelfHosted, or "" to find out
	Verify            bool          // look for what is in doubt before it is sent again
	Resend            bool          // send what is in doubt and cannot be verified once more, instead of dropping it
	Settle            time.Duration // how long a lost answer waits before it is looked for
	Points            int           // most values per distribution and window; 0 for none
	Scalars           []string      // of count, sum, min, max, p50, p95, p99
	Only, Except      []string      // name globs; empty Only is all
	MaxSetMembers     int
	Interval          time.Duration // of the windows; divides a minute
	CatchUp           time.Duration // within which a backlog is to be drained
	Spread            time.Duration // by at most so much hosts put off their requests after a window's end, each by its own; 0: none

	Transport http.RoundTripper // nil: a new connection for each request
	Log       *slog.Logger      // nil: none
}

// outboxMax is how many bytes of sealed batches an upstream may have waiting.
const outboxMax = 16 << 20

// heldProbe is how long a held upstream is left alone between two requests.
const heldProbe = 60 * time.Second

// A Forwarder delivers the windows of a spool to one upstream. Run does all
// the work, in one goroutine, so that there is one request at a time.
type Forwarder struct {
	options  Options
	spool    *spool.Spool
	outbox   *spool.Outbox
	upstream Upstream
	client   *http.Client
	log      *slog.Logger
	wake     chan struct{} // holds one token when something was appended

	// Owned by Run.
	contact                 *contact // shared with upstream
	ready                   bool     // recover has been called
	hurry                   bool     // we are to stop
	backoff, singlesBackoff *backoff.ExponentialBackOff
	notBefore               time.Time      // no request before, because the last one failed
	draining                time.Time      // since when a backlog is being drained; zero if none is
	looks                   map[uint64]int // how often a batch in doubt has been looked for
	reads                   *budget        // of looks
	singles                 *budget        // of single items
	singlesNotBefore        time.Time      // no single item before, because the last one failed
	doubt                   int            // items that an outbox that was lost may have sent of what is pending
	allowed                 float64        // events that may go out, see overBudget
	flooded                 bool           // there were more in the last round

	// Of isolation, see trial and fault.
	trials     []trial         // as in the outbox, in the order in which they are held
	convicts   map[uint64]bool // as in the outbox, see seriesOf
	tidyTrials bool            // an update under way changes one of the two
	seen       map[uint64]bool // hashes of names that were delivered since the start; at most maxNames
	isolated   time.Time       // when the last request for a trial was made
	faults     map[uint64]*fault
	passes     uint64 // batches that were delivered since the start
	refusals   int    // since something was delivered
	question   uint64 // sequence of the batch that asks whether the upstream takes anything; 0 if there is none

	// Of delivery from memory, see standIn.
	main    *Forwarder // of one that stands in; else nil
	taken   bool       // recover has been called once with success
	born    time.Time  // when the first turn was
	rest    time.Time  // the spool is left alone until then: it made trouble
	changed bool       // whose turn it is

	mu      *sync.Mutex // guards the fields below, also of the one that stands in
	budget  *budget
	share   *share
	stats   Stats
	standIn *Forwarder // nil while there is none
}

// Stats tells how an upstream is doing.
type Stats struct {
	Name, Type, URL string
	Dialect         string // "" while it is not known
	State           string // ok | retrying | held | in_doubt
	LastError       string
	LastDelivery    time.Time

	RequestsUsed, RequestsAllowed int // in the last minute; the second is learnt and at most what is configured
	ItemsUsed, ItemsAllowed       int // with them

	Width, BacklogWidth time.Duration // that new windows, old ones are rendered at
	Points              int           // most per distribution of new windows
	Behind              int           // windows that are backlog
	Drained             time.Duration // estimate until there is none

	Isolating int // batches that were refused and are searched for the items at fault

	Requests, Items uint64 // made and sent since start
	Singles         uint64 // requests with a single item, beside them
	Retries         uint64 // requests that were not the first for their batch
	Verified        uint64 // batches in doubt that were found upstream
}

// New makes a forwarder that takes from s. It starts nothing.
func New(o Options, s *spool.Spool) *Forwarder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = newTransport(o.Timeout)
	}
	c := &contact{dialect: o.Dialect, outbox: s.Outbox(o.Name)}
	f := &Forwarder{
		options: o, spool: s, outbox: s.Outbox(o.Name),
		upstream: newUpstream(o, c), contact: c,
		client: &http.Client{
			Transport:     o.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log:   o.Log.With("upstream", o.Name),
		wake:  make(chan struct{}, 1),
		looks: make(map[uint64]int),
		seen:  make(map[uint64]bool), faults: make(map[uint64]*fault),
		mu: new(sync.Mutex),
	}
	f.backoff, f.singlesBackoff = newBackoff(), newBackoff()
	f.budget = newBudget(o.RequestsPerMinute, nil, time.Now())
	f.share = newShare(o.RequestsPerMinute, time.Now())
	f.allowed = within(max(o.CatchUp, minute), f.eventsPerMinute())
	f.reads = newBudget(looksPerMinute, nil, time.Now())
	f.singles = newBudget(max(1, o.SinglesPerMinute), nil, time.Now())
	f.stats = Stats{Name: o.Name, Type: o.Type, URL: o.URL, Dialect: o.Dialect, State: "ok", RequestsAllowed: o.RequestsPerMinute}
	return f
}

// newBackoff has full jitter: each delay is anywhere between 0 and twice the
// interval. No give-up time: how long data is worth keeping is the spool's business.
func newBackoff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
}

// Wake tells the forwarder that a window was appended.
func (f *Forwarder) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// idle is how long the forwarder sleeps when there is nothing to do and nobody
// wakes it.
const idle = time.Minute

// Run delivers until ctx is done, then goes on with what can be sent at once,
// and returns when nothing is left, when budget or upstream make it wait, or
// when abort is done, which also ends a request under way. What is not
// delivered then waits in the spool.
func (f *Forwarder) Run(ctx, abort context.Context) {
	for {
		f.hurry = ctx.Err() != nil
		wait := f.turn(abort)
		if abort.Err() != nil || wait > 0 && f.hurry { // a turn that did not know of the stop may have left something
			return
		}
		if wait <= 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-f.wake:
		case <-ctx.Done():
		case <-abort.Done():
		}
		timer.Stop()
	}
}

// turn does one thing and answers how long to wait before the next.
func (f *Forwarder) turn(ctx context.Context) time.Duration {
	if in := f.substitute(time.Now()); in != nil {
		return f.both(ctx, in)
	}
	return f.ownTurn(ctx)
}

func (f *Forwarder) ownTurn(ctx context.Context) time.Duration {
	now := time.Now()
	if !f.spool.Attached() {
		return time.Second
	}
	if !f.ready {
		if err := f.recover(now); err != nil {
			return f.trouble("take up where the last process ended", err)
		}
	}
	if b, due := f.doubtful(); b != nil {
		wait := max(due.Sub(now), f.reads.next(now).Sub(now))
		if wait > 0 && f.doubts() < maxDoubts {
			return min(wait, f.next(ctx, now)) // the lane goes on meanwhile
		} else if wait > 0 {
			return wait
		}
		return f.verify(ctx, b)
	}
	return f.next(ctx, now)
}

// next sends what is sealed, or seals what is pending, if there is room for a
// request.
func (f *Forwarder) next(ctx context.Context, now time.Time) time.Duration {
	if f.firstSingle(now) {
		if wait := f.single(ctx, now); wait <= 0 {
			return wait
		}
	}
	wait := f.nextBatch(ctx, now)
	if wait <= 0 {
		return wait
	}
	return min(wait, f.single(ctx, now))
}

func (f *Forwarder) nextBatch(ctx context.Context, now time.Time) time.Duration {
	if wait := f.notBefore.Sub(now); wait > 0 {
		return wait
	}
	f.mu.Lock()
	slot := f.budget.next(now)
	f.mu.Unlock()
	if wait := slot.Sub(now); wait > 0 {
		return wait
	}
	if !f.upstream.Known() {
		return f.greet(ctx, now)
	}
	if f.doubted() {
		return f.ask(ctx, now)
	}
	hearing, at := f.hearing(now)
	if hearing != nil {
		if b, ok := f.outbox.DueOf(now, func(b *spool.Batch) bool { return b.Seq == hearing.Seq }); ok {
			f.isolated = now
			return f.deliver(ctx, b)
		}
		return f.missing(hearing, now)
	}
	if b, ok := f.outbox.DueOf(now, func(b *spool.Batch) bool {
		return b.Lane != spool.Singles && !f.tried(b.Seq) && !f.condemned(b.Seq)
	}); ok {
		return f.deliver(ctx, b)
	}
	wait, queued := idle, 0
	for _, b := range f.outbox.Batches() {
		if b.State == spool.Queued && b.Lane != spool.Singles && !f.tried(b.Seq) { // a retry of its own: nothing is sealed before that
			wait = min(wait, b.Due.Sub(now))
			if f.faults[b.Seq] == nil { // but for one that may be at fault itself
				queued += maxFaulty
			}
			queued++
		}
	}
	if !at.IsZero() {
		wait = min(wait, at.Sub(now))
	}
	if queued >= maxFaulty || f.outbox.Bytes() >= outboxMax {
		return max(wait, time.Second) // not less: a batch that is due but cannot be read
	}
	if put := f.offset(now); put > 0 {
		return min(put, max(wait, time.Millisecond))
	}
	sealed, err := f.revive(now)
	again := time.Duration(0)
	if !sealed && err == nil {
		sealed, again, err = f.seal(now, f.limit()) // a minute's worth: parts of requests would waste them
	}
	switch {
	case errors.Is(err, spool.ErrStale):
		f.log.Debug("windows were evicted while they were rendered", "error", err)
		return time.Second
	case err != nil:
		return f.trouble("seal", err)
	case sealed:
		return 0
	}
	return min(max(again, time.Millisecond), max(wait, time.Millisecond))
}

// greet sends a hello, before everything else.
func (f *Forwarder) greet(ctx context.Context, now time.Time) time.Duration {
	hello := func(b *spool.Batch) bool { return b.Windows.Empty() && b.Dialect == "" }
	if b, ok := f.outbox.DueOf(now, hello); ok {
		return f.deliver(ctx, b)
	}
	for _, b := range f.outbox.Batches() {
		if b.State == spool.Queued && hello(&b) {
			return max(b.Due.Sub(now), time.Second)
		}
	}
	if err := f.hello(now); err != nil {
		return f.trouble("seal", err)
	}
	return 0
}

// offset is how long new windows are still to be left alone: all hosts close
// theirs at the same moment, and each waits for another part of Spread, always the
// same. It is 0 when there is a backlog, or when we are to stop.
func (f *Forwarder) offset(now time.Time) time.Duration {
	if f.options.Spread <= 0 || f.hurry || !f.draining.IsZero() {
		return 0
	}
	part := float64(xxhash.Sum64String(f.contact.agent)>>11) / (1 << 53)
	return now.Truncate(f.options.Interval).Add(time.Duration(part * float64(f.options.Spread))).Sub(now)
}

// limit is how many requests a minute may have.
func (f *Forwarder) limit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.budget.limit
}

// notePlan keeps what the last plan decided, for status.
func (f *Forwarder) notePlan(p Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Width, f.stats.BacklogWidth, f.stats.Points = p.Live.width, p.Backlog.width, p.Live.points
	f.stats.Behind, f.stats.Drained = p.Behind, p.Drained
}

// spoolRest is how long a spool that made trouble is left alone.
const spoolRest = 5 * time.Second

// trouble reports that the spool did not let something be done, once per
// cause, and answers how long to wait before trying again.
func (f *Forwarder) trouble(what string, err error) time.Duration {
	f.fail("", fmt.Sprintf("%s: %v", what, err))
	f.rest = time.Now().Add(spoolRest)
	return spoolRest
}

// fail notes an error and logs it if it is another one than before.
func (f *Forwarder) fail(state, text string) {
	f.mu.Lock()
	changed := f.stats.LastError != text || state != "" && f.stats.State != state
	f.stats.LastError = text
	if state != "" {
		f.stats.State = state
	}
	f.mu.Unlock()
	if changed {
		f.log.Warn("not delivered", "state", state, "error", text)
	}
}

// Stats returns the state as of now.
func (f *Forwarder) Stats(now time.Time) Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.RequestsAllowed, s.ItemsAllowed = f.budget.limit, f.budget.limit*f.options.ItemsPerRequest
	s.RequestsUsed, s.ItemsUsed = f.budget.spent(now)
	if f.standIn != nil {
		s.add(&f.standIn.stats)
	}
	return s
}

// matches tells whether the upstream wants metrics of that name.
func (f *Forwarder) matches(name string) bool {
	match := func(glob string) bool { return aggregator.Match(glob, name) }
	return (len(f.options.Only) == 0 || slices.ContainsFunc(f.options.Only, match)) && !slices.ContainsFunc(f.options.Except, match)
}

// Name returns the name of the upstream.
func (f *Forwarder) Name() string { return f.options.Name }

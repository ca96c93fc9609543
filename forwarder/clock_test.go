package forwarder

import (
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// ahead changes what is stored to what it would be if a clock that was an hour ahead had
// been used for it, and starts anew with the right one.
func (r *rig) ahead(change func(tx *spool.Tx, b spool.Batch, hour time.Duration)) {
	r.t.Helper()
	const hour = time.Hour
	err := r.f.outbox.Update(func(tx *spool.Tx) error {
		var times []time.Time
		for _, t := range r.f.outbox.Requests() {
			times = append(times, t.Add(hour))
		}
		tx.Spent(times)
		for _, b := range r.f.outbox.Batches() {
			change(tx, b, hour)
		}
		return nil
	})
	if err != nil || len(r.f.outbox.Batches()) == 0 {
		r.t.Fatalf("%v, %d batches, want some", err, len(r.f.outbox.Batches()))
	}
	r.restart()
}

// fails seals one window and lets its request fail.
func (r *rig) fails(f fluxtest.Fault) {
	r.t.Helper()
	r.flux.Fault(f)
	r.count(time.Now(), "c", "", 1)
	r.next()
	for range 2 { // it is sealed, and sent
		r.f.turn(r.t.Context())
	}
	if got := len(r.flux.Requests()); got != 1 {
		r.t.Fatalf("%d requests, want 1", got)
	}
}

// A clock that was right when an attempt began and ahead when it ended, and is set back
// while the agent is stopped: the delay that the answer asked for ends on time.
func TestClockAheadOfAnAnswer(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.fails(fluxtest.Status(503))
		r.ahead(func(tx *spool.Tx, b spool.Batch, hour time.Duration) {
			tx.State(b.Seq, b.State, b.Due.Add(hour), b.Started, b.Attempts)
		})
		r.run(time.Minute + time.Second)
		r.settled()
		if got := r.flux.CounterTotal("c").Float; got != 1 {
			t.Errorf("total = %v after a minute, want 1", got)
		}
	})
}

// A batch in doubt whose attempt was in the future, by a clock that was ahead, is looked
// for once settle is over, and not before: what is still on its way would be sent twice.
// The fake fails the test if it is.
func TestClockAheadOfADoubt(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.fails(fluxtest.CommitLater(30*time.Second, 504))
		r.ahead(func(tx *spool.Tx, b spool.Batch, hour time.Duration) {
			tx.State(b.Seq, b.State, b.Due.Add(hour), b.Started.Add(hour), b.Attempts)
		})
		r.run(2*o.Settle + time.Second)
		r.settled()
		if got := r.flux.CounterTotal("c").Float; got != 1 {
			t.Errorf("total = %v, want 1", got)
		}
	})
}

// What a start takes up is on the monotonic clock: a clock that was ahead, at this start
// as well, holds up nothing when it steps back. (Not simulated, for there is no such
// clock in a bubble.)
func TestClockStepsBackAfterStart(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	r := newRig(t, o, fluxtest.Options{})
	for _, f := range []fluxtest.Fault{fluxtest.CommitThenClose(), fluxtest.Status(503)} {
		r.flux.Fault(f)
		r.count(time.Now(), "c", "", 1)
		r.close()
		r.f.notBefore = time.Time{}
		for range 2 {
			r.f.turn(t.Context())
		}
	}
	r.restart()
	if err := r.f.recover(time.Now()); err != nil {
		t.Fatal(err)
	}
	monotonic := func(t time.Time) bool { return t != t.Round(0) } // which strips the reading
	for _, b := range r.f.outbox.Batches() {
		if !monotonic(b.Due) || !monotonic(b.Started) {
			t.Errorf("batch %d in state %d is due %v, was started %v: want times with a monotonic reading", b.Seq, b.State, b.Due, b.Started)
		}
	}
	if n := len(r.f.outbox.Batches()); n != 2 {
		t.Errorf("%d batches wait, want one in doubt and one to be sent again", n)
	}
	for _, at := range append(r.f.reads.times, r.f.budget.times...) {
		if !monotonic(at) {
			t.Errorf("a request at %v counts, want a time with a monotonic reading", at)
		}
	}
}

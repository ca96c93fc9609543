package forwarder

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Requests are made whenever the budget allows, or later; each takes some time
// and arrives at any moment within it. The process is restarted at random, also
// in the midst of a request, with the clock set back, and the clock is set while
// it runs. No 60 s of true time have more than limit arrivals.
//
// The true time is that of a clock which only goes forward. What is stored is
// wall time: true time and an offset. A clock that is set forward while the agent
// is stopped is not in the test: nothing on the host tells it from an hour of sleep.
func TestBudgetLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		clock := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) // of the wall, at true time 0
		var at time.Duration                                  // true time
		now := func() time.Time { return clock.Add(at) }
		wait := func(label string, most time.Duration) {
			at += time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, label))
		}
		b := newBudget(limit, nil, now())
		var stored []time.Time
		var arrivals []time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			wait("idle", 3*time.Second)
			at += max(0, b.next(now()).Sub(now()))
			if b.left(now()) < 1 {
				t.Fatalf("next allows a request, left = %d", b.left(now()))
			}
			b.begin(now(), 1)
			stored = slices.Clone(b.times)
			begin := at
			if rapid.Bool().Draw(t, "long") {
				wait("duration", 2*time.Minute)
			} else {
				wait("duration", time.Second)
			}
			arrivals = append(arrivals, begin+time.Duration(rapid.Int64Range(0, int64(at-begin)).Draw(t, "arrival")))
			crash := rapid.IntRange(0, 9).Draw(t, "restart")
			if crash > 0 {
				b.end(now())
			}
			if crash > 1 {
				continue
			}
			// What the agent does at its start: a request that was under way counts as of now.
			clock = clock.Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "set back")))
			b = newBudget(limit, append(stored, now()), now())
		}
		slices.Sort(arrivals)
		for i := limit; i < len(arrivals); i++ {
			if got := arrivals[i] - arrivals[i-limit]; got < time.Minute {
				t.Fatalf("%d requests within %v, limit %d in 1m0s", limit+1, got, limit)
			}
		}
	})
}

// All of the budget can be used: a budget that never allowed anything would
// pass the test above.
func TestBudgetIsSpent(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	b := newBudget(10, nil, now)
	made := 0
	for end := now.Add(time.Hour); now.Before(end); {
		at := b.next(now)
		if at.After(now) {
			now = at
			continue
		}
		b.begin(now, 499)
		now = now.Add(10 * time.Millisecond)
		b.end(now)
		made++
	}
	if got, want := made, 599; got < want {
		t.Errorf("%d requests in an hour, want at least %d", got, want)
	}
	if requests, items := b.spent(now); requests > 10 || items != requests*499 {
		t.Errorf("spent = %d requests with %d items, want at most 10 with 499 each", requests, items)
	}
}

// Stored times live on the monotonic clock once they are taken up: a step of the
// wall clock in the first minute frees nothing.
func TestBudgetUsesMonotonicClock(t *testing.T) {
	now := time.Now()
	b := newBudget(1, []time.Time{now.Add(-time.Second).Round(0), now.Add(time.Hour).Round(0)}, now)
	for _, at := range b.times {
		if at == at.Round(0) { // Round(0) strips the monotonic reading
			t.Errorf("%v has no monotonic reading", at)
		}
	}
	if got := b.next(now).Sub(now); got != time.Minute {
		t.Errorf("next after a time in the future = %v, want 1m0s from now", got)
	}
}

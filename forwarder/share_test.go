package forwarder

import (
	"net/http"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"sluice/forwarder/fluxtest"
)

func TestShare(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s := newShare(10, now)
	step := func(what string, wait time.Duration, do func(), want int) {
		t.Helper()
		now = now.Add(wait)
		do()
		if s.now != want {
			t.Errorf("after %s the share is %d, want %d", what, s.now, want)
		}
	}
	refused := func() { s.refused(now) }
	taken := func() { s.taken(now) }
	step("a delivery", 2*time.Minute, taken, 10)
	step("a 429", 0, refused, 5)
	step("another in the same minute", 59*time.Second, refused, 5)
	step("another a minute after the first", time.Second, refused, 2)
	step("another", time.Minute, refused, 1)
	step("another", time.Minute, refused, 1)
	step("a minute without anything", time.Minute, taken, 1) // nothing showed that it is clean
	step("a clean minute", time.Minute, taken, 2)
	step("half a minute", 30*time.Second, taken, 2)
	step("a clean minute", 30*time.Second, taken, 3)
	restored := newShare(10, now)
	restored.restore(s.encode(), now)
	if restored.now != s.now || !restored.halved.Equal(s.halved) {
		t.Errorf("restored = %+v, want %+v", restored, s)
	}
	early := now.Add(-24 * time.Hour) // the clock was set back
	restored.restore(s.encode(), early)
	if restored.halved.After(early) {
		t.Errorf("halved at %v, in the future of %v", restored.halved, early)
	}
	lower := newShare(2, now)
	if lower.restore(s.encode(), now); lower.now != 2 {
		t.Errorf("share with a lower configuration = %d, want 2", lower.now)
	}
	for i := 0; s.now < 10 && i < 100; i++ {
		now = now.Add(30 * time.Second)
		s.taken(now)
	}
	if s.now != 10 {
		t.Errorf("share never grew back: %d, want 10", s.now)
	}
}

// Two agents with one key and more than enough to send find out that there is
// another, and each takes about half of the requests. One is restarted on the way,
// and what it has learnt is not forgotten.
func TestTwoAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions()
		a := newRig(t, o, fluxtest.Options{EnforceRate: true, Allow: []fluxtest.Rule{fluxtest.RuleRate}})
		b := &rig{source: newSource(t, time.Now()), flux: a.flux, options: o}
		b.open(filepath.Join(t.TempDir(), "spool"))
		t.Cleanup(func() { b.spool.Close() })
		delivered, refused := map[string]int{}, 0
		const begin, length = 30 * time.Minute, 5 * time.Hour
		start := time.Now()
		for _, r := range []*rig{a, b} {
			r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
				if err == nil && req.Method == http.MethodPost && time.Since(start) > begin {
					if resp.StatusCode < 300 {
						delivered[r.storage.Dir]++
					} else {
						refused++
					}
				}
				return resp, err
			})
		}
		for time.Since(start) < length {
			wait := time.Minute
			for _, r := range []*rig{a, b} {
				if len(r.f.outbox.Batches()) == 0 && r.f.ready { // more than enough, however small the share
					for range 10 {
						if err := r.f.hello(time.Now()); err != nil {
							t.Fatal(err)
						}
					}
				}
				wait = min(wait, max(r.f.turn(t.Context()), time.Millisecond))
			}
			time.Sleep(wait)
			if time.Since(start) > 2*time.Hour && time.Since(start) < 2*time.Hour+wait {
				before := b.f.Stats(time.Now()).RequestsAllowed
				b.restart()
				b.f.turn(t.Context())
				if got := b.f.Stats(time.Now()).RequestsAllowed; got > before+1 {
					t.Errorf("share after a restart = %d, want %d as before", got, before)
				}
			}
		}
		var served []time.Time
		for _, c := range a.flux.Requests() {
			if c.Stored == 0 {
				continue
			}
			served = append(served, c.Time)
			for c.Time.Sub(served[0]) >= time.Minute {
				served = served[1:]
			}
			if len(served) > 10 {
				t.Fatalf("%d requests served in a minute, at %v", len(served), c.Time)
			}
		}
		one, other := delivered[a.storage.Dir], delivered[b.storage.Dir]
		all := one + other
		minutes := int((length - begin) / time.Minute)
		t.Logf("delivered %d and %d in %d minutes, %d times 429", one, other, minutes, refused)
		if one < all*2/5 || other < all*2/5 {
			t.Errorf("shares of %d and %d requests, want each at least 40 %%", one, other)
		}
		if all < minutes*6 {
			t.Errorf("%d requests in %d minutes, want at least 6 of 10 a minute", all, minutes)
		}
		if refused > all/8 {
			t.Errorf("%d of %d requests answered by 429, want at most one in eight", refused, all+refused)
		}
		a.ledger()
		b.ledger()
	})
}

// Hosts spread their requests, each always by the same, and none waits when it is
// to stop.
func TestSpread(t *testing.T) {
	o := testOptions()
	o.Spread = 5 * time.Second
	o.Dialect = Hosted
	offsets := map[time.Duration]bool{}
	for range 5 {
		simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
			var first time.Duration
			for i := range 3 {
				r.count(time.Now(), "c", "", 1)
				r.next()
				closed := time.Now()
				r.run(8 * time.Second)
				rows := r.flux.RowsOf("c")
				if len(rows) != i+1 {
					t.Fatalf("%d windows arrived, want %d within 8s", len(rows), i+1)
				}
				after := r.flux.Requests()[rows[i].Request-1].Time.Sub(closed)
				if i == 0 {
					first = after
				}
				if after != first || after > o.Spread {
					t.Errorf("window %d went %v after its end, the first %v, want the same and at most %v", i, after, first, o.Spread)
				}
			}
			offsets[first] = true
			r.count(time.Now(), "c", "", 1)
			r.next()
			r.f.hurry = true
			for range 4 {
				r.f.turn(t.Context())
			}
			if got := len(r.flux.RowsOf("c")); got != 4 {
				t.Errorf("%d windows arrived at a stop, want 4 at once", got)
			}
		})
	}
	if len(offsets) < 4 {
		t.Errorf("5 hosts have %d offsets, want them to differ", len(offsets))
	}
}

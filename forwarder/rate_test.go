package forwarder

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// The law of the rate, over days: whatever the load, whatever the upstream answers,
// however often the agent is stopped, or dies between two requests or in the midst of
// one, no 60 s have an 11th request; the fake fails the test for one. The seed is
// printed. SLUICE_RATE_HOURS makes it longer: 2400 are 100 days.
func TestRateLawForDays(t *testing.T) {
	hours := 4
	if text := os.Getenv("SLUICE_RATE_HOURS"); text != "" {
		var err error
		if hours, err = strconv.Atoi(text); err != nil || hours < 1 {
			t.Fatalf("SLUICE_RATE_HOURS = %q, want a number of hours", text)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SLUICE_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	began := time.Now()
	o := testOptions()
	o.ItemsPerRequest = 21 // small batches, so that all of the budget is used
	o.Spread = interval / 2
	f := fluxtest.Options{KeepRows: 20_000, Fault: moods(seed)}
	simulate(t, o, f, func(t *testing.T, r *rig) {
		t.Logf("seed %d, %d hours", seed, hours)
		// Only what is owed matters here. What is kept beside it would be read anew at
		// each of thousands of starts.
		r.storage.Retention, r.storage.SegmentAge = 10*time.Minute, 10*time.Minute
		r.restart()
		l := &life{rig: r, random: rand.New(rand.NewPCG(seed, 1))}
		r.hook = l
		names, want := 1, int64(0)
		for window := range hours * int(time.Hour/interval) {
			if window%60 == 0 {
				names = 1 + l.random.IntN(60) // from idle to more than fits
			}
			for i := range names {
				r.count(time.Now(), "c", fmt.Sprint("id:", i), 1)
			}
			want += int64(names)
			l.fate()
			l.until(r.agg.Ends())
			r.close()
			if err := r.spool.Maintain(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		l.killing = false
		l.until(time.Now().Add(2 * time.Hour))
		r.settled()
		if got, _ := r.flux.CounterTotal("c").Whole(); got.Int64() != want {
			t.Errorf("total = %v, want %d", got, want)
		}
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("at most %d requests in 60 s, want 10: the law must be met at its limit", got)
		}
		calls, spoiled := r.flux.Requests(), 0
		for _, c := range calls {
			if c.Fault != "" {
				spoiled++
			}
		}
		t.Logf("%d requests, at most %d in any 60 s; %d restarts, %d crashes, %d of them during a request, %d outages, %d requests that went wrong",
			len(calls), r.flux.MaxRequestsIn(time.Minute), l.restarts, l.crashes, l.killed, l.outages, spoiled)
	})
	t.Logf("seed %d took %v", seed, time.Since(began).Round(time.Second))
}

// Every kind of request has a limit of its own, and keeps it however often the agent is
// stopped or dies, also in the midst of one and once more right after its start. Each is
// asked for more than there may be.
func TestRateLawOfEachKind(t *testing.T) {
	for _, c := range []struct {
		call  fluxtest.Call
		limit int
		set   func(*Options, *fluxtest.Options)
	}{
		{fluxtest.CallBatch, 10, func(o *Options, _ *fluxtest.Options) { o.ItemsPerRequest = 11 }},
		{fluxtest.CallSingle, 5, func(o *Options, f *fluxtest.Options) {
			o.Dialect, o.SinglesPerMinute = SelfHosted, 5
			f.Dialect, f.SinglesPerMinute = fluxtest.SelfHosted, 5
			f.Allow = []fluxtest.Rule{fluxtest.RuleTwice} // a definition changes nothing if it had arrived
		}},
		{fluxtest.CallQuery, looksPerMinute, func(o *Options, f *fluxtest.Options) {
			o.Settle = time.Second // batches in doubt are asked for again a second after a 503
			f.QueriesPerMinute = looksPerMinute
		}},
	} {
		t.Run(string(c.call), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if text := os.Getenv("SLUICE_SEED"); text != "" {
				seed, _ = strconv.ParseUint(text, 10, 64)
			}
			t.Logf("seed %d", seed)
			o, f := testOptions(), fluxtest.Options{}
			o.Dialect = Hosted
			c.set(&o, &f)
			simulate(t, o, f, func(t *testing.T, r *rig) {
				l := &life{rig: r, random: rand.New(rand.NewPCG(seed, 1))}
				l.fatal = func(req *http.Request) bool {
					batch := strings.HasSuffix(req.URL.Path, "/batch")
					return map[fluxtest.Call]bool{fluxtest.CallQuery: req.Method == http.MethodGet, fluxtest.CallBatch: batch, fluxtest.CallSingle: !batch && req.Method == http.MethodPost}[c.call]
				}
				r.hook = l
				if c.call == fluxtest.CallQuery {
					for range 30 {
						r.flux.Fault(fluxtest.CommitThenClose())
					}
					for range 2000 {
						r.flux.FaultReads(fluxtest.Status(503))
					}
				}
				for i := range 180 { // 30 minutes
					for n := range 20 {
						r.count(time.Now(), fmt.Sprint("c.", i, ".", n), "", 1)
					}
					if l.random.IntN(3) == 0 {
						l.until(time.Now().Add(time.Duration(l.random.Int64N(int64(interval)))))
						l.end(min(l.random.IntN(4), 2))
					}
					l.until(r.agg.Ends())
					r.close()
				}
				if got := r.flux.MaxCallsIn(c.call, time.Minute); got != c.limit {
					t.Errorf("at most %d calls in 60 s, want %d: the law must be met at its limit", got, c.limit)
				}
				if l.killed < 10 || l.restarts < 5 {
					t.Errorf("%d restarts, %d crashes in the midst of a request: want more", l.restarts, l.killed)
				}
				t.Logf("%d restarts, %d crashes, %d of them in the midst of a request", l.restarts, l.crashes, l.killed)
			})
		})
	}
}

// A request that was under way when the agent died counts from the restart, also when
// the agent ends again before it has made another.
func TestRateLawTwiceDead(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest, o.Dialect = 11, Hosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		requests, image := 0, ""
		r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			if requests++; requests == o.RequestsPerMinute {
				image = r.image()
				time.Sleep(5 * time.Second) // on its way
			}
			return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		})
		for range 12 { // more than a minute's requests hold
			for i := range 150 {
				r.count(time.Now(), "c", fmt.Sprint("id:", i), 1)
			}
			time.Sleep(time.Until(r.agg.Ends()))
			r.close()
		}
		for image == "" {
			time.Sleep(max(0, r.f.turn(t.Context())))
		}
		r.crash(image)
		r.f.turn(t.Context()) // takes up what was left
		r.restart()
		r.run(10 * time.Minute)
		r.settled()
		if got, want := r.flux.CounterTotal("c").Float, 1800.0; got != want {
			t.Errorf("total = %v, want %v", got, want)
		}
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("at most %d requests in 60 s, want 10", got)
		}
	})
}

// moods gives an upstream that answers one in 50 posts in one of the ways in
// which a request may fail, be too much, or be stored while its answer is lost.
func moods(seed uint64) func(int, *http.Request) fluxtest.Fault {
	random := rand.New(rand.NewPCG(seed, 2))
	return func(_ int, req *http.Request) fluxtest.Fault {
		if req.Method != http.MethodPost || random.IntN(50) > 0 {
			return fluxtest.Fault{}
		}
		some := time.Duration(random.IntN(90)) * time.Second
		all := []fluxtest.Fault{
			fluxtest.Status(429), fluxtest.RetryAfter(some), fluxtest.Status(503),
			fluxtest.Refuse(some), fluxtest.CloseUnread(), fluxtest.ResetAfterRead(), fluxtest.Hang(),
			fluxtest.Delay(some), fluxtest.CommitThenClose(), fluxtest.CommitThenHang(), fluxtest.CommitThen(500), fluxtest.CommitThen(504),
		}
		return all[random.IntN(len(all))]
	}
}

// A life is a forwarder with what happens to it.
type life struct {
	*rig
	random  *rand.Rand
	resume  time.Time                // the end of an outage; zero while there is none
	killing bool                     // at the next request the agent is to die
	fatal   func(*http.Request) bool // at one of these; nil: at a post
	image   string                   // the disk at that moment

	restarts, crashes, killed, outages int
}

// fate decides what happens in a window, in about one of 40 something, at a
// moment inside it.
func (l *life) fate() {
	l.t.Helper()
	if !l.resume.IsZero() && time.Now().After(l.resume) {
		l.resume = time.Time{}
		if err := l.flux.Resume(); err != nil {
			l.t.Fatal(err)
		}
	}
	what := l.random.IntN(160)
	if what > 3 {
		return
	}
	l.until(time.Now().Add(time.Duration(l.random.Int64N(int64(interval)))))
	if what < 3 {
		l.end(what)
	} else if l.resume.IsZero() {
		l.flux.Pause()
		l.resume = time.Now().Add(time.Duration(l.random.Int64N(int64(20 * time.Minute))))
		l.outages++
	}
}

// end stops the agent (0), kills it (1), or has it killed in its next request (2).
func (l *life) end(how int) {
	switch how {
	case 0:
		l.away(l.restart)
		l.restarts++
	case 1:
		l.away(func() { l.crash() })
		l.crashes++
	case 2:
		l.killing = true
	}
}

// away lets the agent be down for a while, mostly a moment. What comes meanwhile
// is in the window that is open.
func (l *life) away(start func()) {
	if l.random.IntN(4) == 0 {
		time.Sleep(time.Duration(l.random.Int64N(int64(90 * time.Second))))
	}
	start()
}

// until lets the forwarder work up to a moment, or die on the way.
func (l *life) until(end time.Time) {
	l.t.Helper()
	for time.Now().Before(end) {
		wait := l.f.turn(l.t.Context())
		if image, old := l.image, l.storage.Dir; image != "" {
			l.image, l.killing = "", false
			l.away(func() { l.crash(image) })
			if l.crashes++; l.random.IntN(2) == 0 { // and ends again before it has done anything
				if err := l.f.recover(time.Now()); err != nil {
					l.t.Fatal(err)
				}
				l.restart()
			}
			l.killed++
			if err := os.RemoveAll(old); err != nil {
				l.t.Error(err)
			}
		} else if wait > 0 {
			time.Sleep(min(wait, time.Until(end)))
		}
	}
}

// RoundTrip takes the request to the upstream, which may take a while. What the agent
// does after the one at which it dies has not happened: its disk is as it was.
func (l *life) RoundTrip(req *http.Request) (*http.Response, error) {
	fatal := req.Method == http.MethodPost
	if l.fatal != nil {
		fatal = l.fatal(req)
	}
	if l.killing && l.image == "" && fatal {
		l.image = l.rig.image()
	}
	if l.random.IntN(3) == 0 {
		time.Sleep(time.Duration(l.random.Int64N(int64(5 * time.Second))))
	}
	return fluxtest.Transport(l.flux.Handler()).RoundTrip(req)
}

// A look that was under way at a death counts once, not again with each start.
func TestLookUnderWayCountsOnce(t *testing.T) {
	r := newRig(t, testOptions(), fluxtest.Options{})
	err := r.f.outbox.Update(func(tx *spool.Tx) error {
		tx.Put(stateTable, readsKey, encodeTimes([]time.Time{underWay}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		r.restart()
		if err := r.f.recover(time.Now()); err != nil {
			t.Fatal(err)
		}
		if n := len(r.f.reads.times); n != 1 {
			t.Errorf("after start %d %d looks count, want 1", i+1, n)
		}
	}
}

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// simulate runs a test of the forwarder with simulated time.
func simulate(t *testing.T, o Options, f fluxtest.Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newRig(t, o, f)) })
}

func TestDelivers(t *testing.T) {
	for name, dialect := range map[string]fluxtest.Dialect{Hosted: fluxtest.Hosted, SelfHosted: fluxtest.SelfHosted} {
		t.Run(name, func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{Dialect: dialect}, func(t *testing.T, r *rig) {
				var w tally
				for range 30 {
					r.traffic(&w)
					r.next()
				}
				r.run(2 * time.Minute)
				r.exact(&w)
				s := r.f.Stats(time.Now())
				if s.State != "ok" || s.LastError != "" || s.Dialect != name || s.Retries != 0 || s.Verified != 0 {
					t.Errorf("Stats() = %+v, want ok, no error, no retries, dialect %s", s, name)
				}
			})
		})
	}
}

// A backlog of an hour is delivered whole, within the rate, after the upstream
// has been refusing connections.
func TestOutage(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		r.flux.Pause()
		attempts := 0
		r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			attempts++
			return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		})
		for range 360 {
			r.traffic(&w)
			r.next()
		}
		// Delays grow to between 0 and 2 minutes, so about one a minute.
		if attempts < 20 || attempts > 150 {
			t.Errorf("%d attempts in an hour of outage, want about 60", attempts)
		}
		if s := r.f.Stats(time.Now()); s.State != "retrying" || s.LastError == "" {
			t.Errorf("during the outage Stats() = %+v, want retrying with an error", s)
		}
		r.ledger()
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for len(r.f.outbox.Batches()) > 0 || r.f.outbox.Pending()[0].From < r.spool.Next() {
			r.run(time.Minute)
			if time.Since(start) > 2*time.Hour {
				t.Fatal("not drained after 2 h")
			}
		}
		t.Logf("1 h of outage drained in %v", time.Since(start))
		r.exact(&w)
	})
}

func TestSpoolComesLate(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		detached := spool.New(spool.Options{Dir: filepath.Join(t.TempDir(), "later")})
		o := r.options
		o.Transport = r
		f := New(o, detached)
		if got := f.turn(t.Context()); got <= 0 {
			t.Errorf("turn without a spool answers %v, want some time to wait", got)
		}
		if got := len(r.flux.Requests()); got != 0 {
			t.Errorf("%d requests without a spool, want none", got)
		}
	})
}

// The dialect is asked for with an item that no data rides on, found out once,
// and remembered across restarts, but not for another address.
func TestDialectIsRemembered(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{Dialect: fluxtest.SelfHosted}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		rows := r.flux.Rows()
		if len(rows) < 2 || rows[0].Name != fluxHello || rows[1].Name != fluxMarker {
			t.Fatalf("first rows = %+v, want %s and %s", rows[:min(2, len(rows))], fluxHello, fluxMarker)
		}
		r.restart()
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		if got := len(r.flux.RowsOf(fluxHello)); got != 1 {
			t.Errorf("after a restart %d rows of %s, want still 1", got, fluxHello)
		}
		r.exact(&w)
		r.options.URL = "http://flux.test:81"
		r.restart()
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		if got := len(r.flux.RowsOf(fluxHello)); got != 2 {
			t.Errorf("at another address %d rows of %s, want 2", got, fluxHello)
		}
		r.exact(&w)
	})
}

func TestDialectIsObeyed(t *testing.T) {
	o := testOptions()
	o.Dialect = SelfHosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		if got := len(r.flux.RowsOf(fluxHello)); got != 0 {
			t.Errorf("%d rows of %s with a configured dialect, want none", got, fluxHello)
		}
		if got := r.flux.SetMembers("users"); len(got) > 0 {
			t.Errorf("members %v went as strings although the dialect is configured as %s", got, SelfHosted)
		}
		r.exact(&w)
	})
}

// An upstream that refuses even the hello is asked once a minute, and nothing
// that matters is lost to it.
func TestHelloRefused(t *testing.T) {
	for _, status := range []int{400, 413, 422, 401, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			broken := true
			f := fluxtest.Options{Fault: func(int, *http.Request) fluxtest.Fault {
				if broken {
					return fluxtest.Status(status)
				}
				return fluxtest.Fault{}
			}}
			simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
				var w tally
				for range 60 {
					r.traffic(&w)
					r.next()
				}
				if got := len(r.flux.Requests()); got < 9 || got > 11 {
					t.Errorf("%d requests in 10 minutes, want one a minute", got)
				}
				if got := r.f.Stats(time.Now()).State; got != "held" {
					t.Errorf("state = %s, want held", got)
				}
				broken = false
				r.run(15 * time.Minute)
				r.exact(&w)
			})
		})
	}
}

// Held: one request a minute, nothing lost, in whichever way the upstream says
// that it wants none of ours.
func TestHeld(t *testing.T) {
	for _, fault := range []fluxtest.Fault{fluxtest.Status(401), fluxtest.Status(403), fluxtest.Status(404), fluxtest.Redirect(302), fluxtest.Redirect(307)} {
		t.Run(fault.String(), func(t *testing.T) {
			held := false
			f := fluxtest.Options{Fault: func(int, *http.Request) fluxtest.Fault {
				if held {
					return fault
				}
				return fluxtest.Fault{}
			}}
			simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
				var w tally
				r.traffic(&w)
				r.next()
				r.run(time.Minute)
				held = true
				before := len(r.flux.Requests())
				for i := range 120 {
					r.traffic(&w)
					r.next()
					if i == 60 {
						r.restart()
					}
				}
				if got := len(r.flux.Requests()) - before; got < 19 || got > 22 {
					t.Errorf("%d requests in 20 minutes, want one a minute", got)
				}
				if got := r.f.Stats(time.Now()).State; got != "held" {
					t.Errorf("state = %s, want held", got)
				}
				if got := len(r.f.outbox.Batches()); got > 10 {
					t.Errorf("%d batches were sealed for an upstream that is held", got)
				}
				held = false
				r.run(45 * time.Minute)
				r.exact(&w)
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for name, fault := range map[string]func() fluxtest.Fault{
		"seconds": func() fluxtest.Fault { return fluxtest.RetryAfter(10 * time.Minute) },
		"date":    func() fluxtest.Fault { return fluxtest.RetryAt(time.Now().Add(10 * time.Minute)) },
		"absurd":  fluxtest.RetryAbsurd,
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
				var w tally
				r.traffic(&w)
				r.next()
				r.run(time.Minute)
				r.flux.Fault(fault())
				r.traffic(&w)
				r.next()
				r.run(time.Second)
				calls := r.flux.Requests()
				asked := calls[len(calls)-1].Time
				if got := calls[len(calls)-1].Status; got != 429 {
					t.Fatalf("status of the last call = %d, want 429", got)
				}
				r.restart() // which does not make it forget
				for range 6 * 70 {
					r.traffic(&w)
					r.next()
				}
				want := 10 * time.Minute
				if name == "absurd" {
					want = maxRetryAfter
				}
				next := r.flux.Requests()[len(calls)]
				if got := next.Time.Sub(asked); got < want-time.Second || got > want+time.Minute {
					t.Errorf("next request after %v, want %v", got, want)
				}
				r.run(time.Hour)
				r.exact(&w)
			})
		})
	}
}

// The law of the rate, with more data than it allows, requests that are seconds
// on their way, and crashes at any moment, also within a request; fluxtest watches
// every 60 s by arrival.
func TestRateLaw(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 12
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		crashing, image := false, ""
		requests := 0
		r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			requests++
			if crashing && image == "" {
				image = r.image()
			}
			time.Sleep(time.Duration(requests%7) * time.Second) // not in step with the 10
			return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		})
		for i := range 6 * 90 { // 90 minutes
			for n := range 30 {
				r.count(time.Now(), fmt.Sprint("c", n), "", int64(i))
			}
			r.next()
			switch i % 17 {
			case 5:
				r.run(time.Duration(i%7) * time.Second)
				r.crash()
			case 11: // the answer to a request that is under way comes to nobody
				crashing = true
				for image == "" {
					time.Sleep(max(0, r.f.turn(t.Context())))
				}
				r.crash(image)
				crashing, image = false, ""
			}
		}
		r.ledger()
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("most requests in any 60 s = %d, want 10: all of the budget, no more", got)
		}
		if got, want := requests, 90*10; got < want*7/10 {
			t.Errorf("%d requests in 90 minutes with a backlog, want nearly %d", got, want)
		}
	})
}

// What is in the log for one window, when it takes several minutes to seal,
// arrives once, across a crash in between.
func TestLargeWindowInSeveralMinutes(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 60
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		const series = 3000
		want := int64(0)
		for i := range series {
			r.count(time.Now(), "many", fmt.Sprintf("id:%d", i), int64(i))
			want += int64(i)
		}
		r.next()
		minutes := 0
		for ; r.f.outbox.Pending()[0].From < r.spool.Next(); minutes++ {
			r.run(time.Minute)
			r.ledger()
			if minutes == 2 {
				if g, ok := r.f.outbox.Group(); !ok || len(g.After) == 0 {
					t.Errorf("Group() = %+v, %v in the midst of a window, want where it stands", g, ok)
				}
				r.crash()
			}
			if minutes > 20 {
				t.Fatal("not sealed after 20 minutes")
			}
		}
		r.run(2 * time.Minute)
		r.settled()
		if got, _ := r.flux.CounterTotal("many").Whole(); got.Int64() != want {
			t.Errorf("total = %v, want %d", got, want)
		}
		if got := r.flux.CounterTotal("many").Rows; got != series {
			t.Errorf("%d rows, want %d", got, series)
		}
		if minutes < 4 {
			t.Errorf("sealed in %d minutes, want several", minutes)
		}
	})
}

// A series that is larger than all of a minute's budget goes in one piece, over
// several minutes, and what comes behind it is not lost.
func TestBigSeriesGoesAlone(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 20
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		for i := range 1000 {
			r.member(time.Now(), "m", "", fmt.Sprint(i))
		}
		r.count(time.Now(), "before", "", 1) // in key order shorter names come first
		r.count(time.Now(), "a", "", 1)
		r.next()
		err := r.f.outbox.Update(func(tx *spool.Tx) error { // what a plan may have begun when the budget was larger
			g := rung{width: interval, points: fewPoints}.group(spool.Range{From: 1, To: 2})
			tx.Progress(nil, &g)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.run(time.Second)
		if got := r.f.outbox.Ledger().Sealed[aggregator.Set].Items; got != 1000 && got != 0 {
			t.Errorf("%d members are sealed, want all or none", got)
		}
		r.run(15 * time.Minute)
		r.settled()
		if got := len(r.flux.SetMembers("m")); got != 1000 {
			t.Errorf("%d members arrived, want 1000", got)
		}
		if got := r.flux.CounterTotal("a").Float + r.flux.CounterTotal("before").Float; got != 2 {
			t.Errorf("counters around it arrived as %v, want 2", got)
		}
	})
}

func TestFiltered(t *testing.T) {
	o := testOptions()
	o.Only, o.Except = []string{"req*", "temp"}, []string{"*.secret"}
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		now := time.Now()
		r.count(now, "req", "", 1)
		r.count(now, "req.secret", "", 1)
		r.gauge(now, "temp", "", 1)
		r.gauge(now, "humidity", "", 1)
		r.gauge(now, "humidity", "", 2)
		r.next()
		r.run(time.Minute)
		l := r.settled()
		if got, want := [2]uint64{l.Filtered[aggregator.Counter].Samples, l.Filtered[aggregator.Gauge].Samples}, [2]uint64{1, 2}; got != want {
			t.Errorf("filtered counters and gauges = %v, want %v", got, want)
		}
		for _, name := range []string{"req.secret", "humidity"} {
			if got := len(r.flux.RowsOf(name)); got != 0 {
				t.Errorf("%d rows of %s, want none", got, name)
			}
		}
		if got := len(r.flux.RowsOf("req")) + len(r.flux.RowsOf("temp")); got != 2 {
			t.Errorf("%d rows of what was to go, want 2", got)
		}
	})
}

func TestDamagedWindow(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		m := spool.Meta{Start: time.Now().Add(-interval), Width: interval, Samples: [spool.Kinds]uint64{0, 5, 0, 2}}
		if _, err := r.spool.Append(time.Now(), m, slices.Values([][]byte{[]byte("no window at all")})); err != nil {
			t.Fatal(err)
		}
		r.traffic(&w)
		r.next()
		r.run(2 * time.Minute)
		l := r.settled()
		if got := l.Dropped["damaged"]; got[1].Samples != 5 || got[3].Samples != 2 {
			t.Errorf("dropped as damaged = %+v, want 5 counters and 2 distributions", got)
		}
		if got, _ := r.flux.CounterTotal("req").Whole(); got.Int64() != w.counted {
			t.Errorf("total = %v, want %d: the other windows are not affected", got, w.counted)
		}
	})
}

// bulk makes a window of about 100 KB, which no compression makes small.
func (r *rig) bulk(seed int) (n uint64) {
	for i := range 1500 {
		r.count(time.Now(), fmt.Sprintf("bulk.%016x", uint64(seed*1500+i+1)*0x9E3779B97F4A7C15), "", 1)
	}
	return 1500
}

// The spool's bound is reached during an outage: the oldest windows go, what
// they were is known, and nothing is delivered that is booked as dropped.
func TestEviction(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.spool.Close()
		r.storage.MaxBytes, r.storage.SegmentBytes = 3<<20, 256<<10
		r.open(r.storage.Dir)
		r.run(time.Minute)
		r.flux.Pause()
		sent := uint64(0)
		for i := range 120 {
			sent += r.bulk(i)
			r.next()
			if err := r.spool.Maintain(time.Now()); err != nil {
				t.Fatal(err)
			}
			r.ledger()
		}
		dropped := r.ledger().Dropped["spool_full"][aggregator.Counter].Samples
		if dropped == 0 {
			t.Fatal("nothing was evicted, the test is of no use")
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		r.run(45 * time.Minute)
		l := r.settled()
		dropped = l.Dropped["spool_full"][aggregator.Counter].Samples
		rows := uint64(0)
		for _, row := range r.flux.Rows() {
			if row.Type == "counter" {
				rows++
			}
		}
		if rows+dropped != sent {
			t.Errorf("%d arrived and %d dropped of %d", rows, dropped, sent)
		}
	})
}

// Windows that are evicted between rendering and storing are not sealed, for
// they have been booked as dropped by then.
func TestEvictedWhileRendering(t *testing.T) {
	o := testOptions()
	o.RequestsPerMinute = 1000 // all fits as it is
	simulate(t, o, fluxtest.Options{RequestsPerMinute: 1000}, func(t *testing.T, r *rig) {
		r.spool.Close()
		r.storage.MaxBytes, r.storage.SegmentBytes = 3<<20, 256<<10
		r.open(r.storage.Dir)
		r.run(time.Minute)
		const rendered = 12 // windows, of which eviction takes some
		for i := range rendered {
			r.bulk(i)
			time.Sleep(interval)
			r.close()
		}
		now := time.Now()
		round := r.f.newRound(1000)
		if err := round.render(now); err != nil || round.pending[0].From != r.spool.Next() {
			t.Fatalf("render: %v, still pending %v", err, round.pending)
		}
		for i := rendered; r.ledger().Dropped["spool_full"][aggregator.Counter].Samples == 0; i++ {
			if i > 200 {
				t.Fatal("nothing is evicted")
			}
			r.bulk(i)
			time.Sleep(interval)
			r.close()
		}
		if from := r.f.outbox.Pending()[0].From; from >= round.pending[0].From {
			t.Fatalf("windows before %d were evicted, want less than the %d rendered", from, rendered)
		}
		if err := r.f.store(round.sheet, now, round.commit); !errors.Is(err, spool.ErrStale) {
			t.Errorf("store after an eviction: %v, want ErrStale", err)
		}
		r.ledger()
		if got := len(r.f.outbox.Batches()); got != 0 {
			t.Errorf("%d batches sealed, want none", got)
		}
	})
}

// An outbox that is lost has forgotten what it sent. What may have gone is not
// sent twice, and as the log of requests is lost, too, there is none for a minute.
func TestOutboxLost(t *testing.T) {
	for _, resend := range []bool{false, true} {
		t.Run(fmt.Sprintf("resend=%v", resend), func(t *testing.T) {
			o := testOptions()
			o.Resend = resend
			simulate(t, o, fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleTwice, fluxtest.RuleChangedBatch}}, func(t *testing.T, r *rig) {
				var w tally
				for range 6 {
					r.traffic(&w)
					r.next()
				}
				r.run(time.Second)
				if err := r.spool.Close(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(r.storage.Dir, "outbox.db"), make([]byte, 8192), 0o600); err != nil {
					t.Fatal(err)
				}
				lost := time.Now()
				r.open(r.storage.Dir)
				if r.f.outbox.Doubtful() == 0 {
					t.Fatal("Doubtful() = 0 after the outbox was lost")
				}
				for range 12 {
					r.traffic(&w)
					r.next()
				}
				r.run(2 * time.Minute)
				l := r.settled()
				gone := l.Dropped["outbox_lost"][aggregator.Counter].Samples
				if resend != (gone == 0) {
					t.Errorf("%d samples dropped as outbox_lost with resend %v", gone, resend)
				}
				if got := r.flux.Duplicates(); !resend && len(got) > 0 {
					t.Errorf("%d counters stored twice", len(got))
				}
				for _, call := range r.flux.Requests() {
					if at := call.Time.Sub(lost); at > 0 && at < time.Minute {
						t.Errorf("a request %v after the outbox was lost, want none for a minute", at)
					}
				}
			})
		})
	}
}

// A clock that was set back while the agent was stopped makes no batch wait for
// the time to come again.
func TestClockSetBack(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleRate}}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		r.flux.Fault(fluxtest.Status(503))
		r.traffic(&w)
		r.next()
		r.run(0)
		r.f.turn(t.Context())
		r.f.turn(t.Context())
		future := time.Now().Add(time.Hour)
		err := r.f.outbox.Update(func(tx *spool.Tx) error {
			for _, b := range r.f.outbox.Batches() {
				tx.State(b.Seq, spool.Queued, future, future, 1)
			}
			tx.Spent([]time.Time{future, future})
			return nil
		})
		if err != nil || len(r.f.outbox.Batches()) == 0 {
			t.Fatalf("%v, %d batches, want some", err, len(r.f.outbox.Batches()))
		}
		r.restart()
		r.run(3 * time.Minute)
		r.exact(&w)
	})
}

// With the context done Run sends what there is and returns.
func TestRunDrains(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.f.Run(ctx, t.Context()) }()
		var w tally
		for range 3 {
			r.traffic(&w)
			time.Sleep(time.Until(r.agg.Ends()))
			r.close()
			r.f.Wake()
		}
		synctest.Wait()
		r.traffic(&w)
		r.close() // the last, short window, as at a stop
		stop()
		start := time.Now()
		<-done
		if got := time.Since(start); got > time.Second {
			t.Errorf("Run took %v to return from an upstream that is well, want no time", got)
		}
		r.exact(&w)
	})
}

// An agent may be told to stop while a turn runs that leaves new windows alone for
// a moment: Run takes another turn, which knows of the stop.
func TestRunStoppedInATurn(t *testing.T) {
	o := testOptions()
	o.Spread = 5 * time.Second
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		r.traffic(&w)
		time.Sleep(time.Until(r.agg.Ends()))
		r.close()
		if wait := r.f.turn(t.Context()); wait <= time.Millisecond {
			t.Fatalf("a turn waits %v, want a part of the spread", wait)
		}
		r.f.Run(&endsAfter{Context: t.Context(), asks: 1}, t.Context())
		r.exact(&w)
	})
}

// endsAfter is a context that ends after it was asked a number of times whether it
// has.
type endsAfter struct {
	context.Context
	asks int
}

func (c *endsAfter) Err() error {
	if c.asks--; c.asks >= 0 {
		return nil
	}
	return context.Canceled
}

func (c *endsAfter) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// An upstream that hangs while the agent stops: Run returns when it must, and
// the next start finds out what came of the request.
func TestRunAborted(t *testing.T) {
	for _, fault := range []fluxtest.Fault{fluxtest.Hang(), fluxtest.CommitThenHang()} {
		t.Run(fault.String(), func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
				var w tally
				r.traffic(&w)
				r.next()
				r.run(time.Minute)
				r.flux.Fault(fault)
				ctx, stop := context.WithCancel(t.Context())
				abort, cut := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); r.f.Run(ctx, abort) }()
				r.traffic(&w)
				time.Sleep(time.Until(r.agg.Ends()))
				r.close()
				r.f.Wake()
				time.Sleep(time.Second)
				stop()
				time.Sleep(5 * time.Second)
				select {
				case <-done:
					t.Error("Run returned with a request under way and time left")
				default:
				}
				cut()
				synctest.Wait()
				select {
				case <-done:
				default:
					t.Fatal("Run did not return when aborted")
				}
				for _, b := range r.f.outbox.Batches() {
					if b.Lane == spool.Metrics && b.State != spool.Sending {
						t.Errorf("batch %d is in state %d after the abort, want Sending", b.Seq, b.State)
					}
				}
				r.restart()
				r.run(5 * time.Minute)
				r.exact(&w)
			})
		})
	}
}

// BenchmarkSeal renders and stores one window of 1,000 series, syncs and all.
func BenchmarkSeal(b *testing.B) {
	s := newSource(b, time.Now())
	for i := range 1000 {
		s.count(time.Now(), "http.requests", fmt.Sprintf("route:/api/%d,method:get", i), int64(i))
	}
	w := s.agg.Rotate(time.Now())[0]
	store := spool.New(spool.Options{Dir: b.TempDir()})
	o := testOptions()
	o.Dialect, o.Transport = Hosted, roundTripper(nil)
	f := New(o, store)
	if err := store.Attach(b.Context(), time.Now()); err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	if err := f.recover(time.Now()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for _, old := range f.outbox.Batches() {
			err := f.outbox.Update(func(tx *spool.Tx) error {
				tx.Settle(old.Seq, spool.Settlement{To: spool.Delivered, At: time.Now()})
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		if _, err := store.Append(time.Now(), spool.Meta{Start: w.Start, Width: w.Width, Samples: w.Samples}, w.Parts()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if ok, _, err := f.seal(time.Now(), 10); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// Of a backlog, an outbox that was lost can have sent no more than one turn's
// worth since the newest record: the rest is delivered.
func TestOutboxLostWithBacklog(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.count(time.Now(), "begin", "", 1)
		r.next()
		r.run(time.Minute)
		r.flux.Pause()
		const windows, series = 60, 300
		for range windows {
			for i := range series {
				r.count(time.Now(), "backlog", fmt.Sprintf("n:%d", i), 1)
			}
			r.next()
		}
		waiting := r.ledger().Queued[aggregator.Counter].Samples // in batches, which go with the outbox
		if err := r.spool.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(r.storage.Dir, "outbox.db")); err != nil {
			t.Fatal(err)
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		r.open(r.storage.Dir)
		r.run(time.Hour)
		l := r.settled()
		gone := l.Dropped["outbox_lost"][aggregator.Counter].Samples
		if turn := uint64(r.options.RequestsPerMinute * r.options.ItemsPerRequest * 6); gone == 0 || gone > turn { // six windows of a minute merge into one item
			t.Errorf("%d samples dropped as outbox_lost, want 1 to %d", gone, turn)
		}
		var stored float64
		for _, s := range r.flux.Series() {
			if s.Name == "backlog" {
				stored += r.flux.CounterTotal("backlog", "n:"+s.Tags["n"]).Float
			}
		}
		if got := uint64(stored) + gone + waiting; got != windows*series {
			t.Errorf("%v stored, %d dropped and %d lost in batches, want %d in all", stored, gone, waiting, windows*series)
		}
	})
}

// A member goes out once a minute, over windows and batches; one in a batch of which
// not all arrived goes out again.
func TestMembersOnce(t *testing.T) {
	rejects := false
	f := fluxtest.Options{Reject: func(row fluxtest.Row) bool { return rejects && row.Member == "b" }}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		r.run(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		r.close()
		window := func(members ...string) {
			for _, m := range members {
				r.member(time.Now(), "s", "", m)
			}
			r.member(time.Now(), "other", "", "a") // is another set
			r.next()
		}
		minute := func() {
			r.run(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
			r.close()
		}
		rows := func(want ...string) {
			t.Helper()
			r.run(8 * time.Second)
			var got []string
			for _, row := range r.flux.RowsOf("s") {
				got = append(got, row.Member)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("members that arrived: %v, want %v", got, want)
			}
		}
		window("a", "b")
		window("a", "b")
		window("b", "c")
		rows("a", "b", "c")
		minute()
		window("a")
		rows("a", "a", "b", "c") // of another minute
		l := r.ledger()
		if got, want := l.Delivered[aggregator.Set].Samples, l.Windowed[aggregator.Set].Samples; got != want {
			t.Errorf("%d samples are delivered, want all %d: the upstream has their members", got, want)
		}
		minute()
		rejects = true
		window("b")
		r.run(time.Second)
		if got := r.ledger().Dropped["rejected"]; got[aggregator.Set].Items != 1 {
			t.Fatalf("rejected %+v, want 1 item", got)
		}
		rejects = false
		window("b", "d")
		r.run(5 * time.Minute)
		rows("a", "a", "b", "b", "c", "d")
		r.settled()
	})
}

// What is remembered of members is bounded, belongs to one minute, and is taken
// back with what was not sealed.
func TestMembersClaims(t *testing.T) {
	item := func(value, at string) []byte {
		return fmt.Appendf(nil, `{"name":"s","type":"set","value":%q,"timestamp":"2026-11-21T10:00:%s.000Z","tags":{}}`, value, at)
	}
	var m members
	if !m.claim(5, item("a", "00")) || m.claim(5, item("a", "10")) || !m.claim(5, item("b", "10")) {
		t.Error("claims are not once a minute, whatever the second")
	}
	m.keep()
	mark := m.mark()
	if !m.claim(5, item("c", "20")) {
		t.Error("c cannot be claimed")
	}
	if m.back(mark); !m.claim(5, item("c", "20")) || m.claim(5, item("b", "20")) {
		t.Error("what is taken back cannot be claimed again, or what is kept can")
	}
	if !m.claim(4, item("b", "00")) || !m.claim(6, item("b", "00")) || m.claim(6, item("b", "00")) {
		t.Error("an older minute is not remembered, a newer one is")
	}
	if len(m.sent) != 1 {
		t.Errorf("%d members of the minute are remembered, want 1", len(m.sent))
	}
	body := item("b", "00")
	m.lose(&spool.Batch{Lane: spool.Sets, Body: body, Items: []spool.Item{{Len: uint32(len(body))}}})
	if !m.claim(6, item("b", "30")) {
		t.Error("a member that was lost cannot be claimed")
	}
}

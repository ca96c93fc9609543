package forwarder

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// poison makes an upstream that answers status to every call with an item of the
// name.
func poison(dialect fluxtest.Dialect, status int, name string) fluxtest.Options {
	return fluxtest.Options{Dialect: dialect, Poison: func(row fluxtest.Row) int {
		if row.Name == name {
			return status
		}
		return 0
	}}
}

// crowd puts 497 counters and one at fault, which sorts as the at-th of them, into
// a window and closes it.
func (r *rig) crowd(at int, bad string) (sum int64) {
	r.t.Helper()
	for i := range 497 {
		name := fmt.Sprintf("a.%03d", i)
		if i >= at {
			name = fmt.Sprintf("z.%03d", i)
		}
		r.count(time.Now(), name, "", int64(i))
		sum += int64(i)
	}
	r.count(time.Now(), bad, "", 1)
	r.next()
	return sum
}

func (r *rig) total(prefixes ...string) (sum int64) {
	for _, row := range r.flux.Rows() {
		for _, p := range prefixes {
			if row.Type == "counter" && strings.HasPrefix(row.Name, p) {
				sum += int64(row.Value)
			}
		}
	}
	return sum
}

// One item of 498 at fault, wherever it stands, whether it looks unusual or not,
// and whichever way it is refused, costs at most 18 requests and itself.
func TestOneAtFault(t *testing.T) {
	for _, c := range []struct {
		name    string
		dialect fluxtest.Dialect
		status  int
		bad     string
	}{
		{"400", fluxtest.Hosted, 400, "m.bad"},
		{"422", fluxtest.Hosted, 422, "m.bad"},
		{"415", fluxtest.SelfHosted, 415, "m.bad"},
		{"400 of a long name", fluxtest.Hosted, 400, strings.Repeat("m", 200)},
		{"400 of a name that is not ASCII", fluxtest.Hosted, 400, "m.bé"},
	} {
		for _, at := range []int{0, 1, 100, 248, 249, 300, 496, 497} {
			t.Run(fmt.Sprintf("%s/%d", c.name, at), func(t *testing.T) {
				simulate(t, testOptions(), poison(c.dialect, c.status, c.bad), func(t *testing.T, r *rig) {
					r.run(time.Minute) // the dialect is known
					before := len(r.flux.Requests())
					want := r.crowd(at, c.bad)
					r.run(20 * time.Minute)
					l := r.settled()
					if got := len(r.flux.Requests()) - before; got > 18 {
						t.Errorf("%d requests, want at most 18", got)
					} else {
						t.Logf("%d requests", got)
					}
					if got := r.total("a.", "z."); got != want {
						t.Errorf("total of the others = %d, want %d", got, want)
					}
					if got := l.Dead[aggregator.Counter]; got.Samples != 1 || got.Items != 1 {
						t.Errorf("dead letters = %+v, want 1 with 1 sample", got)
					}
					dead := r.f.outbox.Dead()
					if len(dead) != 1 || !strings.Contains(string(dead[0].Item), c.bad) || !strings.Contains(dead[0].Reason, fmt.Sprint(c.status)) || len(dead[0].Answer) == 0 {
						t.Errorf("dead letters = %+v, want %s with the upstream's answer", dead, c.bad)
					}
					if got := r.flux.Duplicates(); len(got) > 0 {
						t.Errorf("%d counters stored twice", len(got))
					}
				})
			})
		}
	}
}

// A self-hosted server answers 500 to what it cannot take. Others pass meanwhile,
// so it is the batch's fault; when none passes, it is the server's, for hours, and
// nothing dies.
func TestServerErrors(t *testing.T) {
	t.Run("of one item", func(t *testing.T) {
		simulate(t, testOptions(), poison(fluxtest.SelfHosted, 500, "m.bad"), func(t *testing.T, r *rig) {
			want := r.crowd(300, "m.bad")
			for range 360 {
				r.count(time.Now(), "tick", "", 1)
				r.next()
			}
			r.run(10 * time.Minute)
			l := r.settled()
			if got := r.total("a.", "z."); got != want {
				t.Errorf("total of the others = %d, want %d", got, want)
			}
			if got := r.total("tick"); got != 360 {
				t.Errorf("total of tick = %d, want 360", got)
			}
			if got := l.Dead[aggregator.Counter]; got.Samples != 1 || got.Items != 1 {
				t.Errorf("dead letters = %+v, want 1", got)
			}
		})
	})
	t.Run("alone", func(t *testing.T) { // nothing else is there to pass
		simulate(t, testOptions(), poison(fluxtest.SelfHosted, 500, "m"), func(t *testing.T, r *rig) {
			r.run(time.Minute)
			r.count(time.Now(), "m", "", 1)
			r.next()
			r.run(20 * time.Minute)
			if got := r.settled().Dead[aggregator.Counter].Samples; got != 1 {
				t.Errorf("%d samples are dead, want 1", got)
			}
		})
	})
	for _, status := range []int{400, 500, 502} {
		t.Run(fmt.Sprintf("of all, %d", status), func(t *testing.T) {
			down := false
			f := fluxtest.Options{Fault: func(_ int, r *http.Request) fluxtest.Fault {
				if down && r.Method == http.MethodPost {
					return fluxtest.Status(status)
				}
				return fluxtest.Fault{}
			}}
			simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
				var w tally
				for i := range 720 {
					down = i >= 60 && i < 420
					r.traffic(&w)
					r.next()
					if i == 400 && r.f.Stats(time.Now()).State == "ok" {
						t.Error("state is ok while everything is refused")
					}
				}
				r.run(10 * time.Minute)
				l := r.settled()
				if got := len(r.f.outbox.Dead()); got != 0 {
					t.Errorf("%d dead letters, want none", got)
				}
				if got, _ := r.flux.CounterTotal("req").Whole(); got.Int64() != w.counted {
					t.Errorf("total = %v, want %d", got, w.counted)
				}
				if got := l.Dropped; len(got) > 0 {
					t.Errorf("dropped %v, want nothing", got)
				}
			})
		})
	}
}

// Crashes at every turn of an isolation lose nothing and double nothing.
func TestIsolationCrashes(t *testing.T) {
	for _, status := range []int{400, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			simulate(t, testOptions(), poison(fluxtest.SelfHosted, status, "m.bad"), func(t *testing.T, r *rig) {
				r.run(time.Minute)
				want := r.crowd(300, "m.bad")
				ticks, turns := int64(0), 0
				for start := time.Now(); time.Since(start) < 2*time.Hour; {
					if wait := r.f.turn(t.Context()); wait > 0 {
						time.Sleep(min(wait, time.Until(r.agg.Ends())))
					}
					if !time.Now().Before(r.agg.Ends()) && time.Since(start) < time.Hour {
						r.count(time.Now(), "tick", "", 1)
						ticks++
						r.close()
					} else if !time.Now().Before(r.agg.Ends()) {
						r.close()
					}
					if turns++; time.Since(start) < 50*time.Minute && (status == 400 || turns%9 == 0) {
						r.crash() // what is known of a 500 has to be found out again
					}
					r.ledger()
				}
				l := r.settled()
				if got := r.total("a.", "z."); got != want {
					t.Errorf("total of the others = %d, want %d", got, want)
				}
				if got := r.total("tick"); got != ticks {
					t.Errorf("total of tick = %d, want %d", got, ticks)
				}
				if got := l.Dead[aggregator.Counter]; got.Samples != 1 || got.Items != 1 {
					t.Errorf("dead letters = %+v, want 1", got)
				}
				if got := r.flux.Duplicates(); len(got) > 0 {
					t.Errorf("%d counters stored twice", len(got))
				}
				for key := range r.f.outbox.Table(trialTable) {
					t.Errorf("trial %s is still there", key)
				}
			})
		})
	}
}

// A batch of which most items are at fault does not take the budget for hours:
// after maxTrial requests what is refused is dead as it is, and what was not asked
// for is asked for once more. The lane goes on.
func TestManyAtFault(t *testing.T) {
	f := fluxtest.Options{Poison: func(row fluxtest.Row) int {
		if strings.HasPrefix(row.Name, "bad") {
			return 400
		}
		return 0
	}}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		r.run(time.Minute)
		for i := range 200 {
			r.count(time.Now(), fmt.Sprintf("bad.%d", i), "", 1)
			r.count(time.Now(), fmt.Sprintf("good.%d", i), "", 1)
		}
		r.next()
		before := len(r.flux.Requests())
		worst := time.Duration(0)
		for i := range 360 {
			r.count(time.Now(), "tick", fmt.Sprint("n:", i), 1)
			end := r.agg.Ends()
			r.next()
			r.run(9 * time.Second)
			for _, row := range r.flux.RowsOf("tick", fmt.Sprint("n:", i)) {
				worst = max(worst, r.flux.Requests()[row.Request-1].Time.Sub(end))
			}
		}
		if got := r.total("tick"); got != 360 || worst > 15*time.Second {
			t.Errorf("%d of 360 windows arrived, the slowest within %v, want all within 15s", got, worst)
		}
		l := r.settled()
		if got := len(r.flux.Requests()) - before - 360; got > maxTrial+20 {
			t.Errorf("%d requests for one batch, want at most %d and its last parts", got, maxTrial)
		}
		if got := l.Dead[aggregator.Counter].Samples; got < 200 {
			t.Errorf("%d dead, want at least the 200 at fault", got)
		}
		t.Logf("%d requests; of 200 others %d are delivered", len(r.flux.Requests())-before-360, r.total("good"))
	})
}

// A series that is at fault in every window costs the others nothing once it is
// known, and is a series like others again when the upstream takes it.
func TestAgainAtFault(t *testing.T) {
	bad := true
	f := fluxtest.Options{Poison: func(row fluxtest.Row) int {
		if bad && row.Name == "m" {
			return 400
		}
		return 0
	}}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		window := func() {
			for i := range 20 {
				r.count(time.Now(), fmt.Sprintf("a.%02d", i), "", 1)
				r.count(time.Now(), fmt.Sprintf("z.%02d", i), "", 1)
			}
			r.count(time.Now(), "m", "", 1)
			r.next()
		}
		for range 360 { // an hour
			window()
		}
		r.run(9 * time.Second)
		if got := r.total("a.", "z."); got != 360*40 {
			t.Errorf("total of the others = %d, want %d: nothing of them waits", got, 360*40)
		}
		if n := len(r.f.trials); n > 2 {
			t.Errorf("%d trials, want at most one for what came last and one for what waits", n)
		}
		r.crash()
		bad = false
		for range 60 {
			window()
		}
		r.run(10 * time.Minute)
		l := r.settled()
		if dead, got := l.Dead[aggregator.Counter].Samples, r.total("m"); dead+uint64(got) != 420 || got < 58 {
			t.Errorf("%d dead and %d delivered, want 420 in all and at least 58 delivered", dead, got)
		}
		if n := len(r.f.convicts); n != 0 {
			t.Errorf("%d series still travel apart, want none", n)
		}
		if got := r.f.outbox.Bytes(); got != 0 {
			t.Errorf("%d bytes are left", got)
		}
	})
}

// Dead letters are sent once more, or given up, by ID or all.
func TestRetryAndDrop(t *testing.T) {
	bad := true
	f := fluxtest.Options{Poison: func(row fluxtest.Row) int {
		if bad && strings.HasPrefix(row.Name, "m") {
			return 400
		}
		return 0
	}}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		r.run(time.Minute)
		for i := range 5 {
			r.count(time.Now(), fmt.Sprintf("m%d", i), "", 10)
		}
		r.member(time.Now(), "mset", "", "x")
		r.next()
		r.run(time.Hour)
		box := r.f.outbox
		dead := box.Dead()
		if len(dead) != 6 {
			t.Fatalf("%d dead letters, want 6", len(dead))
		}
		if n, err := Retry(box, []uint64{dead[0].ID, 999}); !errors.Is(err, spool.ErrGone) || n != 0 {
			t.Errorf("Retry of an unknown letter = %d, %v; want 0 and ErrGone", n, err)
		}
		if n, err := Drop(box, []uint64{dead[1].ID}); err != nil || n != 1 {
			t.Errorf("Drop = %d, %v; want 1", n, err)
		}
		if n, err := Retry(box, []uint64{dead[0].ID}); err != nil || n != 1 {
			t.Errorf("Retry = %d, %v; want 1", n, err)
		}
		r.crash() // it is asked of the spool, not of the process
		box = r.f.outbox
		r.run(10 * time.Minute)
		r.settled()
		if got := len(box.Dead()); got != 5 {
			t.Errorf("%d dead letters after a retry that was refused, want 5", got)
		}
		bad = false
		if n, err := Retry(box, nil); err != nil || n != 5 {
			t.Errorf("Retry of all = %d, %v; want 5", n, err)
		}
		if n, err := Drop(box, []uint64{box.Dead()[0].ID}); err != nil || n != 1 {
			t.Errorf("Drop of what is to be sent = %d, %v; want 1", n, err)
		}
		r.run(10 * time.Minute)
		l := r.settled()
		if got := len(box.Dead()); got != 0 {
			t.Errorf("%d dead letters are left, want none", got)
		}
		lost := l.Dropped["discarded"]
		if got := l.Delivered[aggregator.Counter].Samples + lost[aggregator.Counter].Samples + l.Delivered[aggregator.Set].Samples + lost[aggregator.Set].Samples; got != 6 {
			t.Errorf("%d samples delivered or discarded, want 6: %+v", got, l)
		}
		for key := range box.Table(retryTable) {
			t.Errorf("letter %s is still to be sent", key)
		}
	})
}

// Whatever is refused, at most every fifth request is one for a trial, also when the
// budget is used up and after the second dead letter, when what is left goes part by
// part; the lane goes on all the while, and only what is at fault dies.
func TestIsolationShare(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 101
	const ticks, good, bad, windows = 150, 90, 5, 200
	f := fluxtest.Options{MaxItems: 101, Poison: func(row fluxtest.Row) int {
		if strings.HasPrefix(row.Name, "bad.") {
			return 400
		}
		return 0
	}}
	simulate(t, o, f, func(t *testing.T, r *rig) {
		var trials []time.Time
		r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			id := req.Header.Get("Sluice-Batch")
			seq, _ := strconv.ParseUint(id[strings.LastIndexByte(id, '-')+1:], 10, 64)
			if r.f.tried(seq) {
				trials = append(trials, time.Now())
			}
			return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		})
		late, sent := 0, 0
		for w := range windows {
			for i := range ticks {
				r.count(time.Now(), "tick", fmt.Sprint("id:", i), 1)
				sent++
			}
			if w == 30 {
				for i := range good {
					r.count(time.Now(), fmt.Sprintf("good.%02d", i), "", 1)
				}
				for i := range bad {
					r.count(time.Now(), fmt.Sprintf("bad.%d", i*17), "", 1)
				}
			}
			r.next()
			got, _ := r.flux.CounterTotal("tick").Whole()
			late = max(late, (sent-int(got.Int64()))/ticks)
		}
		r.hook = nil
		r.run(10 * time.Minute)
		l := r.settled()
		if got := l.Dead[aggregator.Counter].Samples; got != bad {
			t.Errorf("%d samples are dead, want %d", got, bad)
		}
		if got := r.total("good."); got != good {
			t.Errorf("total of the others in the batch = %d, want %d", got, good)
		}
		if got := r.total("tick"); got != int64(sent) {
			t.Errorf("total of tick = %d, want %d", got, sent)
		}
		for i := 1; i < len(trials); i++ {
			if gap := trials[i].Sub(trials[i-1]); gap < 30*time.Second {
				t.Errorf("requests %d and %d for trials are %v apart, want 30 s: a fifth of 10 a minute", i-1, i, gap)
			}
		}
		if late > 30 {
			t.Errorf("windows came %d windows late, want 30 at most", late)
		}
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("at most %d requests in 60 s, want 10: the budget must be used up", got)
		}
		t.Logf("%d requests for trials; new windows at most %d windows late", len(trials), late)
	})
}

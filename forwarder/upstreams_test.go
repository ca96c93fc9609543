package forwarder

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// This is the suite that every Upstream passes: the same traffic and the same
// troubles, against the strict fake of its own server.

// servers are those that an Upstream has to get on with.
var servers = []struct {
	name string
	fake fluxtest.Dialect
	typ  string
	// verified: what came of a batch in doubt can be read back. At a DataCat only
	// counters, which can be repeated, are exact without.
	verified bool
}{
	{"flux hosted", fluxtest.Hosted, Flux, true},
	{"flux self-hosted", fluxtest.SelfHosted, Flux, true},
	{"pulse hosted", fluxtest.PulseHosted, Pulse, true},
	{"pulse open", fluxtest.PulseOpen, Pulse, true},
	{"datacat", fluxtest.DataCat, DataCat, false},
}

// optionsOf are test options of a type, with the limits of its default
// configuration.
func optionsOf(typ string) Options {
	o := testOptions()
	switch o.Type = typ; typ {
	case Pulse:
		o.ItemsPerRequest = 999
	case DataCat:
		o.ItemsPerRequest, o.RequestsPerMinute = 1, 600
	}
	return o
}

// eachServer runs a test against each server.
func eachServer(t *testing.T, test func(t *testing.T, r *rig, verified bool)) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			o := optionsOf(s.typ)
			simulate(t, o, fluxtest.Options{Dialect: s.fake, MaxItems: o.ItemsPerRequest}, func(t *testing.T, r *rig) { test(t, r, s.verified) })
		})
	}
}

// counted is what the upstream makes of a counter.
func (r *rig) counted(name string) float64 {
	if r.options.Type == DataCat {
		return r.flux.Grown(name)
	}
	return r.flux.CounterTotal(name).Float
}

// arrived demands that the counters of a tally are exact upstream and that the books
// balance; and if all is set that everything is there once.
func (r *rig) arrived(w *tally, all bool) {
	r.t.Helper()
	l := r.settled()
	windows := len(w.windows)
	for name, want := range map[string]float64{"req": float64(w.counted), "lat.count": w.values, "lat.sum": w.sum, "busy.count": float64(300 * windows)} {
		if got := r.counted(name); got != want {
			r.t.Errorf("upstream's total of %s = %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]int{"lat": 5 * windows, "busy": fewPoints * windows} {
		if got := len(r.flux.Points(name)); got > want || all && got < want {
			r.t.Errorf("upstream has %d points of %s, want %d", got, name, want)
		}
	}
	last, _ := r.flux.GaugeLast("temp", "room:a")
	if want := float64(windows-1) - 2.5; last.Value != want && (all || r.options.Type != Pulse) {
		r.t.Errorf("upstream's last temp = %v, want %v", last.Value, want)
	}
	if got := len(r.flux.RowsOf("users.unique")); r.f.contact.dialect != Hosted && r.options.Type == Flux && got != windows {
		r.t.Errorf("upstream has %d rows of users.unique, want %d", got, windows)
	}
	for k, windowed := range l.Windowed {
		got := l.Delivered[k].Samples
		if !all && r.options.Type == DataCat {
			got += l.Dropped["unverified"][k].Samples
		}
		if got != windowed.Samples {
			r.t.Errorf("ledger has %d samples of %s delivered, want all %d: dropped %+v", got, aggregator.Kind(k), windowed.Samples, l.Dropped)
		}
	}
}

func TestUpstreams(t *testing.T) {
	eachServer(t, func(t *testing.T, r *rig, _ bool) {
		var w tally
		for i := range 30 {
			r.traffic(&w)
			r.next()
			if i == 15 {
				r.restart()
			}
		}
		r.run(3 * time.Minute)
		r.arrived(&w, true)
		if s := r.f.Stats(time.Now()); s.State != "ok" || s.LastError != "" || s.Type != r.options.Type || s.Retries != 0 {
			t.Errorf("Stats() = %+v, want ok, no error, no retries", s)
		}
	})
}

// Troubles meet one request of a window. Where what came of it can be read back, or
// sent again without doubling, everything is exact; where not, it is for points only
// that it is lost, and counted.
func TestUpstreamsTroubles(t *testing.T) {
	troubles := []fluxtest.Fault{
		fluxtest.Refuse(30 * time.Second), fluxtest.CloseUnread(), fluxtest.ResetAfterRead(), fluxtest.CommitThenClose(),
		fluxtest.Hang(), fluxtest.CommitThenHang(), fluxtest.HTML(), fluxtest.EmptyOK(), fluxtest.GarbageJSON(),
		fluxtest.Redirect(302), fluxtest.RetryAfter(45 * time.Second), fluxtest.Status(401), fluxtest.Status(403), fluxtest.Status(404),
		fluxtest.Status(408), fluxtest.Status(429), fluxtest.Status(500), fluxtest.CommitThen(500), fluxtest.Status(502),
		fluxtest.CommitThen(504), fluxtest.Status(503), fluxtest.CommitThen(524), fluxtest.Status(521),
	}
	for _, trouble := range troubles {
		t.Run(trouble.String(), func(t *testing.T) {
			eachServer(t, func(t *testing.T, r *rig, verified bool) {
				requests := []int{0}
				if r.options.Type == DataCat {
					requests = []int{0, 5, 20, 42} // a point, a count, a counter
				}
				var w tally
				for _, n := range requests {
					for i := range 3 {
						r.traffic(&w)
						r.next()
						if i == 1 {
							r.run(3 * time.Second)
							for range n {
								r.flux.Fault(fluxtest.Fault{})
							}
							r.flux.Fault(trouble)
						}
					}
					r.run(10 * time.Minute)
				}
				r.arrived(&w, verified)
			})
		})
	}
}

// The agent dies while a request is under way, with the item stored and not.
func TestUpstreamsCrashes(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for _, nth := range []int{1, 2, 8, 22, 43} {
			t.Run(fmt.Sprintf("stored %t, request %d", stored, nth), func(t *testing.T) {
				eachServer(t, func(t *testing.T, r *rig, verified bool) {
					if r.options.Type != DataCat && nth > 3 {
						return // of a window there are two requests at most
					}
					var w tally
					r.traffic(&w)
					r.next()
					r.run(2 * time.Minute)
					r.traffic(&w)
					r.close()
					posts, dir := 0, ""
					r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
						if posts++; posts != nth {
							return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
						}
						dir = r.image()
						if stored {
							fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
						}
						return nil, errors.New("crashed")
					})
					for range 4 * nth {
						if dir == "" {
							time.Sleep(min(r.f.turn(t.Context()), time.Second))
						}
					}
					r.hook = nil
					if dir != "" {
						r.crash(dir)
					}
					for range 6 {
						r.traffic(&w)
						r.next()
					}
					r.run(10 * time.Minute)
					// An open Pulse gives what is sent again the time at which it comes.
					r.arrived(&w, verified && r.f.contact.dialect != SelfHosted || r.options.Type == Flux)
				})
			})
		}
	}
}

// An outage of 20 minutes is made up for.
func TestUpstreamsOutage(t *testing.T) {
	eachServer(t, func(t *testing.T, r *rig, _ bool) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		r.flux.Pause()
		for range 120 {
			n := int64(len(w.windows))
			r.count(time.Now(), "req", "route:r0", n)
			w.counted += n
			w.windows = append(w.windows, time.Now())
			r.next()
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		r.run(30 * time.Minute)
		r.settled()
		if got := r.counted("req"); got != float64(w.counted) {
			t.Errorf("upstream's total of req = %v, want %d", got, w.counted)
		}
	})
}

// What a Pulse has stored of a batch before it failed is neither doubled nor passed
// over in silence.
func TestPulsePartial(t *testing.T) {
	for _, fault := range []fluxtest.Fault{fluxtest.PartThen(2, 422), fluxtest.PartThen(20, 500), fluxtest.PartThen(3, 400)} {
		t.Run(fault.String(), func(t *testing.T) {
			o := optionsOf(Pulse)
			simulate(t, o, fluxtest.Options{Dialect: fluxtest.PulseOpen, MaxItems: 999}, func(t *testing.T, r *rig) {
				var w tally
				for i := range 4 {
					if i == 2 {
						r.run(30 * time.Second)
						r.flux.Fault(fault)
					}
					r.traffic(&w)
					r.next()
				}
				r.run(10 * time.Minute)
				l := r.settled()
				for _, kind := range []aggregator.Kind{aggregator.Counter, aggregator.Distribution} {
					dropped, windowed := l.Dropped["partial"][kind].Samples, l.Windowed[kind].Samples
					if dropped != windowed/4 || l.Delivered[kind].Samples+dropped != windowed {
						t.Errorf("%d samples of %s are dropped as partial and %d delivered, want a quarter of %d and the rest", dropped, kind, l.Delivered[kind].Samples, windowed)
					}
				}
				if got := r.flux.Duplicates(); len(got) > 0 {
					t.Errorf("%d counters were stored twice", len(got))
				}
				if got := len(r.flux.RowsOf("temp")); got != 4 {
					t.Errorf("upstream has %d gauges, want 4: they are sent again", got)
				}
			})
		})
	}
}

// A refusal of a whole batch, before anything was stored, is isolated as at a Flux.
func TestPulseRefuses(t *testing.T) {
	for _, fake := range []fluxtest.Dialect{fluxtest.PulseHosted, fluxtest.PulseOpen} {
		o := optionsOf(Pulse)
		simulate(t, o, fluxtest.Options{Dialect: fake, MaxItems: 999}, func(t *testing.T, r *rig) {
			var w tally
			for i := range 6 {
				if i == 2 {
					r.run(30 * time.Second)
					r.flux.Fault(fluxtest.Status(400))
				}
				r.traffic(&w)
				r.next()
			}
			r.run(30 * time.Minute)
			r.arrived(&w, true)
		})
	}
}

// Series of more than 10 tags keep the first 10, and what becomes equal is merged.
func TestPulseTags(t *testing.T) {
	o := optionsOf(Pulse)
	simulate(t, o, fluxtest.Options{Dialect: fluxtest.PulseHosted, MaxItems: 999}, func(t *testing.T, r *rig) {
		var ten []string
		for i := range 10 {
			ten = append(ten, fmt.Sprintf("k%d:v", i))
		}
		now := time.Now()
		tags := strings.Join(ten, ",")
		r.count(now, "hits", tags, 1)
		for i := range 5 {
			r.count(now, "hits", fmt.Sprintf("%s,z:%d", tags, i), 10)
			r.gauge(now.Add(time.Duration(i)*time.Millisecond), "level", fmt.Sprintf("%s,z:%d", tags, i), float64(i))
			r.member(now, "who", fmt.Sprintf("%s,z:%d", tags, i), fmt.Sprint("u", i%3))
			r.measure(now, "took", fmt.Sprintf("%s,z:%d", tags, i), float64(i), 1)
		}
		r.next()
		r.run(2 * time.Minute)
		l := r.settled()
		for name, want := range map[string]float64{"hits": 51, "level": 4, "who.unique": 3, "took.count": 5, "took.max": 4} {
			rows := r.flux.RowsOf(name, ten...)
			if len(rows) != 1 || rows[0].Value != want || len(rows[0].Tags) != 10 {
				t.Errorf("upstream has %+v of %s, want one row of %v with 10 tags", rows, name, want)
			}
		}
		if got, want := l.Delivered[aggregator.Counter].Samples, uint64(6); got != want {
			t.Errorf("%d samples of counters are delivered, want %d", got, want)
		}
	})
}

// Sessions that are gone are made anew, with totals that begin anew.
func TestDataCatSessions(t *testing.T) {
	simulate(t, optionsOf(DataCat), fluxtest.Options{Dialect: fluxtest.DataCat}, func(t *testing.T, r *rig) {
		var w tally
		for i := range 40 {
			r.traffic(&w)
			r.next()
			if i%10 == 5 {
				r.run(2 * time.Second)
				r.flux.EndSessions()
			}
		}
		r.run(3 * time.Minute)
		r.arrived(&w, true)
		if got := r.flux.Sessions(); got != 5 {
			t.Errorf("%d sessions were made, want 5", got)
		}
	})
}

// A session that does not last is not made anew all the time.
func TestDataCatSessionThatFails(t *testing.T) {
	simulate(t, optionsOf(DataCat), fluxtest.Options{Dialect: fluxtest.DataCat}, func(t *testing.T, r *rig) {
		var w tally
		r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			r.flux.EndSessions()
			return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		})
		r.traffic(&w)
		r.next()
		r.run(30 * time.Minute)
		if got := r.flux.Sessions(); got < 10 || got > 31 {
			t.Errorf("%d sessions were made in 30 minutes, want at most one a minute", got)
		}
		r.hook = nil
		r.run(5 * time.Minute)
		r.arrived(&w, true)
	})
}

// A 404 of DataCat's own is no answer to whether an item is stored: counters are sent
// again, which nobody can tell, gauges once, and points follow the policy.
func TestDataCatStoreError(t *testing.T) {
	for _, resend := range []bool{false, true} {
		o := optionsOf(DataCat)
		o.Resend = resend
		simulate(t, o, fluxtest.Options{Dialect: fluxtest.DataCat, Allow: []fluxtest.Rule{fluxtest.RuleTwice}}, func(t *testing.T, r *rig) {
			var w tally
			r.traffic(&w)
			r.next()
			r.run(time.Minute)
			r.traffic(&w)
			r.close()
			for range 44 { // each item of the window meets one
				r.flux.Fault(fluxtest.StoreError(), fluxtest.Fault{})
			}
			r.run(40 * time.Minute)
			l := r.settled()
			for name, want := range map[string]float64{"req": float64(w.counted), "lat.count": w.values, "busy.count": 600} {
				if got := r.counted(name); got != want {
					t.Errorf("upstream's total of %s = %v, want %v", name, got, want)
				}
			}
			if got, want := len(r.flux.Points("lat")), 10; resend && got <= want || !resend && got != want {
				t.Errorf("resend %t: upstream has %d points of lat; 10 were stored once", resend, got)
			}
			lost := l.Dropped["unverified"][aggregator.Distribution].Samples
			if (lost > 0) == resend {
				t.Errorf("resend %t: %d samples of distributions are dropped, %+v", resend, lost, l)
			}
		})
	}
}

// Under one name there is one type: batches of another are not sent to what they were
// not made for.
func TestChangedType(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.run(time.Minute)
		r.flux.Pause()
		r.count(time.Now(), "c", "", 1)
		r.next()
		r.run(time.Minute)
		if len(r.f.outbox.Batches()) == 0 {
			t.Fatal("nothing is sealed")
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		before := len(r.flux.Requests())
		r.options = optionsOf(Pulse)
		r.restart()
		r.run(10 * time.Minute)
		if got := len(r.flux.Requests()) - before; got != 0 {
			t.Errorf("%d requests were made, want none", got)
		}
		if got := r.f.Stats(time.Now()).LastError; !strings.Contains(got, "flux") || !strings.Contains(got, "another name") {
			t.Errorf("LastError = %q, want what to do about it", got)
		}
		r.options = testOptions()
		r.restart()
		r.run(10 * time.Minute)
		r.settled()
		if got := r.counted("c"); got != 1 {
			t.Errorf("upstream's total of c = %v, want 1", got)
		}
	})
}

// A total keeps what single additions would lose to rounding.
func TestDataCatTotal(t *testing.T) {
	simulate(t, optionsOf(DataCat), fluxtest.Options{Dialect: fluxtest.DataCat}, func(t *testing.T, r *rig) {
		for i := range 12 {
			n := int64(1)
			if i == 0 {
				n = 1 << 53
			}
			r.count(time.Now(), "big", "", n)
			r.next()
		}
		r.run(2 * time.Minute)
		r.settled()
		if got, want := r.counted("big"), float64(1<<53+12); got != want {
			t.Errorf("upstream's total of big = %v, want %v", got, want)
		}
	})
}

// A total whose answer was lost goes before what comes after it: a total that becomes
// smaller would be taken for a restart. The fake demands it.
func TestDataCatTotalInOrder(t *testing.T) {
	for _, crash := range []bool{false, true} {
		simulate(t, optionsOf(DataCat), fluxtest.Options{Dialect: fluxtest.DataCat}, func(t *testing.T, r *rig) {
			r.count(time.Now(), "c", "", 5)
			r.next()
			r.run(10 * time.Second)
			r.count(time.Now(), "c", "", 100)
			r.close()
			dir := ""
			r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
				r.hook, dir = nil, r.image()
				r.flux.Fault(fluxtest.CommitThenClose())
				return r.RoundTrip(req)
			})
			for dir == "" {
				time.Sleep(min(r.f.turn(t.Context()), time.Second))
			}
			if crash {
				r.crash(dir)
			}
			for range 3 {
				r.count(time.Now(), "c", "", 1)
				r.next()
			}
			r.run(5 * time.Minute)
			r.settled()
			if got := r.counted("c"); got != 108 {
				t.Errorf("upstream's total of c = %v, want 108", got)
			}
			if got := len(r.flux.RowsOf("c")); got != 6 {
				t.Errorf("upstream has %d rows of c, want 6: one was sent twice", got)
			}
		})
	}
}

// An item that its upstream never takes is a dead letter, and costs the others
// nothing.
func TestUpstreamsPoison(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			o := optionsOf(s.typ)
			fake := fluxtest.Options{Dialect: s.fake, MaxItems: o.ItemsPerRequest, Poison: func(r fluxtest.Row) int {
				if r.Name == "bad" {
					return 400
				}
				return 0
			}}
			simulate(t, o, fake, func(t *testing.T, r *rig) {
				good, bad := 0, 0
				for i := range 12 {
					r.count(time.Now(), "good", "", 1)
					good++
					if i == 3 {
						r.gauge(time.Now(), "bad", "", 1)
						bad++
					}
					r.next()
				}
				r.run(time.Hour)
				l := r.settled()
				lost := l.Dropped["partial"][aggregator.Counter].Samples
				if got := r.counted("good"); got != float64(good)-float64(lost) || s.fake != fluxtest.PulseOpen && lost > 0 {
					t.Errorf("upstream's total of good = %v, want %d; %d dropped as partial", got, good, lost)
				}
				dead, partly := l.Dead[aggregator.Gauge].Samples, l.Dropped["partial"][aggregator.Gauge].Samples+l.Dropped["unverified"][aggregator.Gauge].Samples
				if dead+partly != uint64(bad) || s.fake != fluxtest.PulseOpen && partly > 0 {
					t.Errorf("%d samples are dead and %d dropped, want %d: %+v", dead, partly, bad, l.Dropped)
				}
			})
		})
	}
}

// What a backlog holds comes at the wrong time to an open Pulse: sums are right all
// the same, and no gauge of then comes after one of now.
func TestPulseBacklog(t *testing.T) {
	for _, fake := range []fluxtest.Dialect{fluxtest.PulseHosted, fluxtest.PulseOpen} {
		simulate(t, optionsOf(Pulse), fluxtest.Options{Dialect: fake, MaxItems: 999}, func(t *testing.T, r *rig) {
			r.run(time.Minute)
			r.flux.Pause()
			const windows, away = 180, 100
			for i := range windows {
				r.count(time.Now(), "hits", "", 1)
				r.gauge(time.Now(), "level", "", float64(i))
				r.next()
				if i == away {
					if err := r.flux.Resume(); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.run(20 * time.Minute)
			l := r.settled()
			if got := r.counted("hits"); got != windows {
				t.Errorf("upstream's total of hits = %v, want %d", got, windows)
			}
			rows := r.flux.RowsOf("level")
			if last := rows[len(rows)-1]; fake == fluxtest.PulseOpen && last.Value != float64(windows-1) {
				t.Errorf("the last level to come = %v, want %d", last.Value, windows-1)
			}
			for i := range rows[1:] {
				if fake == fluxtest.PulseOpen && rows[i+1].Value < rows[i].Value {
					t.Errorf("level %v came after %v", rows[i+1].Value, rows[i].Value)
				}
			}
			superseded := l.Dropped["superseded"][aggregator.Gauge].Samples
			if (superseded > 0) != (fake == fluxtest.PulseOpen) {
				t.Errorf("%d samples of gauges are superseded", superseded)
			}
		})
	}
}

// What is sealed is sent as it is. That another server answers now, for which it would
// be sealed anew, is known by the dialect of a Flux only.
func TestUpstreamsSealOnce(t *testing.T) {
	eachServer(t, func(t *testing.T, r *rig, _ bool) {
		r.count(time.Now(), "c", "", 1)
		r.next()
		for range 500 { // not for a time: a turn that seals anew takes none
			time.Sleep(min(r.f.turn(t.Context()), time.Second))
		}
		r.settled()
		if got := r.counted("c"); got != 1 {
			t.Errorf("upstream's total of c = %v, want 1", got)
		}
		var sealed uint64
		if err := r.f.outbox.Update(func(tx *spool.Tx) error { sealed = tx.Next() - 1; return nil }); err != nil {
			t.Fatal(err)
		}
		if sent := len(r.flux.Requests()); sealed != uint64(sent) {
			t.Errorf("%d batches were sealed for %d requests", sealed, sent)
		}
	})
}

// More series than the budget has items a minute, for a while: buckets are wide, and
// each takes several turns. That takes no value from a counter and no gauge away,
// though an open Pulse shows late windows at the time of their arrival.
func TestPulseOverBudget(t *testing.T) {
	for name, dialect := range map[string]fluxtest.Dialect{"hosted": fluxtest.PulseHosted, "open": fluxtest.PulseOpen} {
		t.Run(name, func(t *testing.T) {
			const series, windows = 300, 45
			o := optionsOf(Pulse)
			o.ItemsPerRequest = 22
			simulate(t, o, fluxtest.Options{Dialect: dialect, MaxItems: 999}, func(t *testing.T, r *rig) {
				for window := range windows {
					for i := range series {
						r.count(time.Now(), fmt.Sprintf("c.%03d", i), "", 1)
						r.gauge(time.Now(), fmt.Sprintf("g.%03d", i), "", float64(window))
					}
					r.next()
				}
				r.run(2 * time.Hour)
				for i := range series {
					if got := r.counted(fmt.Sprintf("c.%03d", i)); got != windows {
						t.Errorf("c.%03d is %v upstream, want %d", i, got, windows)
					}
					if last, _ := r.flux.GaugeLast(fmt.Sprintf("g.%03d", i)); last.Value != windows-1 {
						t.Errorf("the last g.%03d upstream is %v, want %d", i, last.Value, windows-1)
					}
				}
				l := r.settled()
				if got, want := l.Delivered[aggregator.Counter].Samples, l.Windowed[aggregator.Counter].Samples; got != want {
					t.Errorf("%d samples of counters delivered, want %d: dropped %+v", got, want, l.Dropped)
				}
			})
		})
	}
}

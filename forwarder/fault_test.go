package forwarder

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
)

// A fault meets one batch of metrics, in which one window's counters, gauges and
// distributions are; a window's sets go in a batch of their own.
type faultCase struct {
	fault fluxtest.Fault
	// known: what came of the batch is known, or can be read back. Nothing is lost
	// or doubled then, of any kind. For the others what happens depends on
	// whether reading back is possible.
	known bool
}

var faults = []faultCase{
	{fault: fluxtest.Refuse(30 * time.Second)},
	{fault: fluxtest.CloseUnread()},
	{fault: fluxtest.ResetAfterRead()},
	{fault: fluxtest.CommitThenClose()},
	{fault: fluxtest.Hang()},
	{fault: fluxtest.CommitThenHang()},
	{fault: fluxtest.Slow(10 * time.Millisecond), known: true},
	{fault: fluxtest.Delay(20 * time.Second), known: true},
	{fault: fluxtest.Delay(100 * time.Second), known: true},
	{fault: fluxtest.HTML()},
	{fault: fluxtest.EmptyOK()},
	{fault: fluxtest.GarbageJSON()},
	{fault: fluxtest.WrongCount(1)},
	{fault: fluxtest.WrongCount(-1)},
	{fault: fluxtest.Redirect(301), known: true},
	{fault: fluxtest.Redirect(302), known: true},
	{fault: fluxtest.Redirect(307), known: true},
	{fault: fluxtest.Redirect(308), known: true},
	{fault: fluxtest.HugeBody(500, 1<<20)},
	{fault: fluxtest.HugeBody(200, 1<<20)},
	{fault: fluxtest.HugeBody(503, 1<<20), known: true},
	{fault: fluxtest.RetryAfter(45 * time.Second), known: true},
	{fault: fluxtest.Status(400), known: true},
	{fault: fluxtest.Status(401), known: true},
	{fault: fluxtest.Status(403), known: true},
	{fault: fluxtest.Status(404), known: true},
	{fault: fluxtest.Status(405), known: true},
	{fault: fluxtest.Status(408)},
	{fault: fluxtest.Status(413), known: true},
	{fault: fluxtest.Status(415), known: true},
	{fault: fluxtest.Status(422), known: true},
	{fault: fluxtest.Status(429), known: true},
	{fault: fluxtest.Status(500)},
	{fault: fluxtest.CommitThen(500)},
	{fault: fluxtest.Status(502)},
	{fault: fluxtest.CommitThen(502)},
	{fault: fluxtest.CommitLater(20*time.Second, 502)},
	{fault: fluxtest.Status(503), known: true},
	{fault: fluxtest.Status(504)},
	{fault: fluxtest.CommitThen(504)},
	{fault: fluxtest.CommitLater(20*time.Second, 504)},
	{fault: fluxtest.CommitLater(45*time.Second, 524)},
	{fault: fluxtest.Status(520)},
	{fault: fluxtest.CommitThen(520)},
	{fault: fluxtest.Status(521), known: true},
	{fault: fluxtest.Status(522), known: true},
	{fault: fluxtest.Status(523), known: true},
	{fault: fluxtest.Status(524)},
	{fault: fluxtest.CommitThen(524)},
	{fault: fluxtest.Status(525), known: true},
	{fault: fluxtest.Status(526), known: true},
	{fault: fluxtest.Status(530), known: true},
}

// kinds are the kinds of metrics, by the name under which each stands upstream
// exactly once for each window.
var kinds = []struct {
	kind aggregator.Kind
	name string
}{
	{aggregator.Counter, "one.counter"},
	{aggregator.Gauge, "one.gauge"},
	{aggregator.Distribution, "one.distribution.count"},
	{aggregator.Set, "one.set"},
}

// one puts one series of each kind into the open window and closes it.
func (r *rig) one() (start time.Time) {
	r.t.Helper()
	now := time.Now()
	r.count(now, "one.counter", "", 1)
	r.gauge(now, "one.gauge", "", 1)
	r.measure(now, "one.distribution", "", 1, 1)
	r.member(now, "one.set", "", r.agg.Ends().Format(time.TimeOnly)) // a member goes out once a minute
	start = r.agg.Ends().Add(-interval).UTC()                        // as a key of a map
	r.next()
	return start
}

// effects tells, per kind, how many windows are not upstream, and how many are
// there once more than they should be.
func (r *rig) effects(windows []time.Time) map[string]effect {
	all := map[string]effect{}
	for _, k := range kinds {
		n := map[time.Time]int{}
		name := k.name
		if k.kind == aggregator.Set && r.f.contact.dialect == SelfHosted {
			name += ".unique"
		}
		for _, row := range r.flux.RowsOf(name) {
			n[row.Time]++
		}
		var e effect
		for _, at := range windows {
			if n[at] == 0 {
				e.lost++
			}
			e.doubled += max(0, n[at]-1)
		}
		all[k.kind.String()] = e
	}
	return all
}

// meet has the third of five windows meet the fault, and tells the effects.
func meet(t *testing.T, r *rig, c faultCase) map[string]effect {
	var windows []time.Time
	for i := range 5 {
		if i == 2 {
			r.run(30 * time.Second)
			r.flux.Fault(c.fault)
		}
		windows = append(windows, r.one())
	}
	r.run(20 * time.Minute)
	r.settled()
	return r.effects(windows)
}

func wantEffects(t *testing.T, got map[string]effect, want func(k aggregator.Kind) effect) {
	t.Helper()
	for _, k := range kinds {
		if got, want := got[k.kind.String()], want(k.kind); got != want {
			t.Errorf("%s: %v, want %v", k.kind, got, want)
		}
	}
}

// Where the upstream can be read, no fault loses or doubles anything. A refusal
// that is none of an item's is found out by asking for the parts.
func TestFaultsVerified(t *testing.T) {
	for name, dialect := range map[string]fluxtest.Dialect{Hosted: fluxtest.Hosted, SelfHosted: fluxtest.SelfHosted} {
		for i, c := range faults {
			t.Run(fmt.Sprintf("%s/%d %s", name, i, c.fault), func(t *testing.T) {
				simulate(t, testOptions(), fluxtest.Options{Dialect: dialect}, func(t *testing.T, r *rig) {
					got := meet(t, r, c)
					wantEffects(t, got, func(aggregator.Kind) effect { return effect{} })
				})
			})
		}
	}
}

// Where it cannot be read, gauges and sets are sent once more, and counters and
// distributions are dropped, or sent once more if so configured. What is
// definite stays exact.
func TestFaultsUnverified(t *testing.T) {
	for _, resend := range []bool{false, true} {
		for i, c := range faults {
			t.Run(fmt.Sprintf("resend=%v/%d %s", resend, i, c.fault), func(t *testing.T) {
				o := testOptions()
				o.Resend, o.Verify = resend, false
				// A batch that is sent again on purpose may be stored twice.
				f := fluxtest.Options{Dialect: fluxtest.SelfHosted, Allow: []fluxtest.Rule{fluxtest.RuleTwice}}
				simulate(t, o, f, func(t *testing.T, r *rig) {
					got := meet(t, r, c)
					stored := c.fault.Stored()
					wantEffects(t, got, func(k aggregator.Kind) effect {
						switch again := resend || repeatable(k); {
						case c.known, !again && stored:
							return effect{}
						case !again:
							return effect{lost: 1}
						case stored:
							return effect{doubled: 1}
						}
						return effect{} // sent again, and now it is there
					})
				})
			})
		}
	}
}

// A key that may write but not read: told once, loudly, and the rule for what
// cannot be verified holds.
func TestKeyThatMayNotRead(t *testing.T) {
	for _, status := range []int{401, 403, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			f := fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleTwice}, Fault: func(_ int, r *http.Request) fluxtest.Fault {
				if r.Method == http.MethodGet {
					return fluxtest.Status(status)
				}
				return fluxtest.Fault{}
			}}
			simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
				got := meet(t, r, faultCase{fault: fluxtest.CommitThenClose()})
				wantEffects(t, got, func(k aggregator.Kind) effect {
					if k == aggregator.Gauge {
						return effect{doubled: 1}
					}
					return effect{} // sets went in a batch of their own
				})
				l := r.ledger()
				if got := l.Dropped["unverified"]; got[aggregator.Counter].Samples != 1 || got[aggregator.Distribution].Samples != 1 || got[aggregator.Gauge].Samples != 0 {
					t.Errorf("dropped as unverified = %+v, want 1 counter and 1 distribution", got)
				}
				for name := range r.f.outbox.Table(resentTable) {
					t.Errorf("table %s still has %s", resentTable, name)
				}
			})
		})
	}
}

// Reading back that is disturbed for a while is tried again, and settles then.
func TestReadsDisturbed(t *testing.T) {
	for _, read := range []fluxtest.Fault{
		fluxtest.Status(500), fluxtest.Status(502), fluxtest.Status(429), fluxtest.HTML(), fluxtest.EmptyOK(),
		fluxtest.Redirect(302), fluxtest.CloseUnread(), fluxtest.ResetAfterRead(), fluxtest.GarbageJSON(), fluxtest.HugeBody(500, 1<<20),
	} {
		for _, write := range []fluxtest.Fault{fluxtest.CommitThenClose(), fluxtest.ResetAfterRead()} {
			t.Run(fmt.Sprintf("%s/%s", write, read), func(t *testing.T) {
				simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
					r.flux.FaultReads(read, read, read)
					got := meet(t, r, faultCase{fault: write})
					wantEffects(t, got, func(aggregator.Kind) effect { return effect{} })
				})
			})
		}
	}
}

// Reads that lag behind writes by less than twice the settle time mislead nobody.
func TestReadsLag(t *testing.T) {
	for _, lag := range []time.Duration{30 * time.Second, 90 * time.Second} {
		t.Run(lag.String(), func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{ReadLag: lag}, func(t *testing.T, r *rig) {
				got := meet(t, r, faultCase{fault: fluxtest.CommitThenClose()})
				wantEffects(t, got, func(aggregator.Kind) effect { return effect{} })
				if got := r.f.Stats(time.Now()).Verified; got != 1 {
					t.Errorf("verified = %d, want 1", got)
				}
			})
		})
	}
}

// Before the first marker was stored, nobody has heard of its name: the list of
// metrics tells that from a key that may not read.
func TestVeryFirstBatchInDoubt(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.flux.Fault(fluxtest.ResetAfterRead())
		r.count(time.Now(), "one", "", 1) // no set, whose batch would carry a marker, too
		r.next()
		r.run(5 * time.Minute)
		r.settled()
		if got := r.flux.CounterTotal("one"); got.Float != 1 || got.Rows != 1 {
			t.Errorf("total of one = %v in %d rows, want 1 in 1", got.Float, got.Rows)
		}
		lists := 0
		for _, call := range r.flux.Requests() {
			if call.Path == fluxListPath {
				lists++
			}
		}
		if lists == 0 {
			t.Error("the list of metrics was not asked for")
		}
	})
}

// The lane goes on while up to maxDoubts batches are in doubt, and no further.
func TestManyInDoubt(t *testing.T) {
	lossy := true
	f := fluxtest.Options{Fault: func(_ int, r *http.Request) fluxtest.Fault {
		if lossy {
			return fluxtest.CommitThenClose()
		}
		return fluxtest.Fault{}
	}}
	o := testOptions()
	o.Dialect = Hosted
	o.Settle = 30 * time.Minute
	simulate(t, o, f, func(t *testing.T, r *rig) {
		var windows []time.Time
		for range 180 {
			windows = append(windows, r.one())
		}
		if got := r.f.doubts(); got != maxDoubts {
			t.Errorf("%d batches in doubt, want %d", got, maxDoubts)
		}
		if got := len(r.flux.Requests()); got != maxDoubts {
			t.Errorf("%d requests, want %d: none beyond those in doubt", got, maxDoubts)
		}
		if got := r.f.Stats(time.Now()).State; got != "in_doubt" {
			t.Errorf("state = %s, want in_doubt", got)
		}
		lossy = false
		r.run(3 * time.Hour)
		r.settled()
		wantEffects(t, r.effects(windows), func(aggregator.Kind) effect { return effect{} })
		if s := r.f.Stats(time.Now()); s.Verified != maxDoubts || s.State != "ok" {
			t.Errorf("verified = %d and state = %s, want %d and ok", s.Verified, s.State, maxDoubts)
		}
	})
}

// Items that the upstream rejects one by one are counted and not sent again.
func TestRejectedItems(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		meet(t, r, faultCase{fault: fluxtest.Rejected(3)})
		l := r.ledger()
		items := uint64(0)
		for _, a := range l.Dropped["rejected"] {
			items += a.Items
		}
		if items != 3 {
			t.Errorf("%d items rejected in the ledger, want 3", items)
		}
	})
}

// A batch that is too large is halved until it fits; one item that is too large
// by itself is a dead letter.
func TestTooLarge(t *testing.T) {
	f := fluxtest.Options{TooLarge: 30, Poison: func(row fluxtest.Row) int {
		if row.Name == "huge" {
			return 413
		}
		return 0
	}}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		want := int64(0)
		for i := range 200 {
			r.count(time.Now(), "many", fmt.Sprintf("id:%d", i), int64(i))
			want += int64(i)
		}
		r.count(time.Now(), "huge", "", 1)
		r.next()
		r.run(20 * time.Minute)
		l := r.settled()
		if got, _ := r.flux.CounterTotal("many").Whole(); got.Int64() != want {
			t.Errorf("total = %v, want %d", got, want)
		}
		if got := l.Dead[aggregator.Counter]; got.Samples != 1 || got.Items != 1 {
			t.Errorf("dead letters = %+v, want 1", got)
		}
		if got := r.flux.Duplicates(); len(got) > 0 {
			t.Errorf("%d counters stored twice", len(got))
		}
	})
}

// A crash at any point between sealing and settling, with the request stored or
// not, loses nothing and doubles nothing.
func TestCrashes(t *testing.T) {
	const (
		sealed   = "sealed, before SENDING"
		sending  = "SENDING, before the request"
		answered = "answered, before the settle"
		settled  = "settled"
	)
	for _, point := range []string{sealed, sending, answered, settled} {
		for _, fault := range []fluxtest.Fault{{}, fluxtest.Status(503), fluxtest.Status(500), fluxtest.CommitThen(500), fluxtest.ResetAfterRead(), fluxtest.CommitThenClose()} {
			t.Run(point+"/"+fault.String(), func(t *testing.T) {
				simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
					windows := []time.Time{r.one(), r.one()}
					r.run(time.Minute)
					r.flux.Fault(fault)
					windows = append(windows, r.one())
					var dir string
					posts := 0
					r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
						posts++
						if posts == 1 && point == sending {
							dir = r.image()
							return nil, fmt.Errorf("crashed")
						}
						resp, err := fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
						if posts == 1 && point == answered {
							dir = r.image()
						}
						return resp, err
					})
					r.f.turn(t.Context()) // seals
					if got := len(r.f.outbox.Batches()); got == 0 {
						t.Fatal("nothing is sealed")
					}
					if point == sealed {
						dir = r.image()
					} else {
						r.f.turn(t.Context()) // delivers
					}
					if point == settled {
						dir = r.image()
					}
					r.hook = nil
					r.crash(dir)
					windows = append(windows, r.one())
					r.run(10 * time.Minute)
					r.settled()
					wantEffects(t, r.effects(windows), func(aggregator.Kind) effect { return effect{} })
				})
			})
		}
	}
}

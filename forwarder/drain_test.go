package forwarder

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
)

// These tests take the upstream away for hours, give it back, and watch the
// backlog go while new windows keep coming: how long it takes, that nothing is
// lost, doubled or overwritten by something older, and that new windows do not
// wait for old ones. fluxtest fails them for an 11th request in any 60 s.

// A load is what each window gets.
type load struct{ counters, gauges, distributions, sets int }

// A drain is a load under way, with what the upstream must have in the end.
type drain struct {
	*rig
	load
	windows int
	starts  []time.Time
	ticks   []int   // windows with a tick
	counted []int64 // by counter
	members int
	users   int           // that the members of sets are taken from; 0: there are ever new ones
	most    time.Duration // a drain may take; 0: 6 h
	away    bool          // the upstream is
	mute    bool          // no ticks during the outage: they are series of their own, which take room
	each    func()        // called after each window, if set
}

func newDrain(r *rig, l load) *drain {
	return &drain{rig: r, load: l, counted: make([]int64, l.counters)}
}

// step is one window. Gauges are its number, so that what is newer is greater.
// Its own series tick tells when it arrived.
func (d *drain) step() {
	d.t.Helper()
	now := time.Now()
	for i := range d.counters {
		n := int64(d.windows%7 + i)
		d.count(now, "c", fmt.Sprintf("id:%d", i), n)
		d.counted[i] += n
	}
	for i := range d.gauges {
		d.gauge(now, "g", fmt.Sprintf("id:%d", i), float64(d.windows))
	}
	for i := range d.distributions {
		for v := range 30 {
			d.measure(now, "d", fmt.Sprintf("id:%d", i), float64(v), 1)
		}
	}
	for i := range d.sets {
		for m := range 3 { // one in three is new
			n := d.windows + m
			if d.users > 0 {
				n %= d.users
			}
			d.members = max(d.members, n+1)
			d.member(now, "s", fmt.Sprintf("id:%d", i), fmt.Sprint(n))
		}
	}
	if !d.mute || !d.away {
		d.count(now, "tick", fmt.Sprintf("window:%d", d.windows), 1)
		d.ticks = append(d.ticks, d.windows)
	}
	d.starts = append(d.starts, d.agg.Ends().Add(-interval))
	d.windows++
	d.next()
	d.ledger()
	if d.each != nil {
		d.each()
	}
}

func (d *drain) steps(n int) {
	d.t.Helper()
	for range n {
		d.step()
	}
}

// behind counts the windows owed that are older than two minutes.
func (d *drain) behind() (n int) {
	for _, have := range d.f.outbox.Pending() {
		for _, e := range d.spool.Entries(have) {
			if e.Start.Before(time.Now().Add(-3*minute - interval)) {
				n++
			}
		}
	}
	return n + len(d.f.outbox.Batches())/(2*d.options.RequestsPerMinute)
}

// owed counts the windows that are not sealed.
func (d *drain) owed() (n int) {
	for _, have := range d.f.outbox.Pending() {
		n += len(d.spool.Entries(have))
	}
	return n
}

// outage takes the upstream away for n windows, gives it back, and goes on until
// there is no backlog. It answers how long that took, from the end of the outage.
// New windows may take as long as most meanwhile.
func (d *drain) outage(n int, most time.Duration, during func(minute int)) time.Duration {
	d.t.Helper()
	d.flux.Pause()
	d.away = true
	d.steps(n)
	if err := d.flux.Resume(); err != nil {
		d.t.Fatal(err)
	}
	d.away = false
	back := time.Now()
	first := d.windows
	for i := 0; d.behind() > 0; i++ {
		d.step()
		if during != nil && i%6 == 5 {
			during(i / 6)
		}
		if most := max(d.most, 6*time.Hour); time.Since(back) > most {
			d.t.Fatalf("%d windows are still owed %v after the outage", d.behind(), most)
		}
	}
	took := time.Since(back)
	d.steps(6)
	d.run(5 * minute)
	for range 15 { // the rest of a backlog may take what is left of CatchUp
		if d.owed() == 0 {
			break
		}
		d.run(minute)
	}
	d.latency(first, back, most)
	return took
}

// latency demands that windows which were closed after the outage arrived within
// most of their end, or of the first request that was made after it.
func (d *drain) latency(first int, back time.Time, most time.Duration) {
	d.t.Helper()
	calls := d.flux.Requests()
	for _, c := range calls {
		if c.Stored > 0 && c.Time.After(back) {
			back = c.Time
			break
		}
	}
	worst, which := time.Duration(0), ""
	arrived := make(map[string]time.Time)
	for _, s := range d.flux.Series() {
		if s.Name == "tick" {
			arrived[s.Tags["window"]] = calls[s.Last.Request-1].Time
		}
	}
	for i := first; i < d.windows; i++ {
		at, ok := arrived[fmt.Sprint(i)]
		if !ok {
			d.t.Errorf("window %d did not arrive", i)
			continue
		}
		from := d.starts[i].Add(interval)
		if from.Before(back) {
			from = back
		}
		if took := at.Sub(from); took > worst {
			worst = took
			which = fmt.Sprintf("window %v, arrived %v", d.starts[i], at)
		}
	}
	if worst > most {
		d.t.Errorf("a new window took %v while there was a backlog, want at most %v: %s", worst, most, which)
	}
	d.t.Logf("new windows took at most %v during the drain", worst)
}

// complete demands that all has arrived, once, and that of the gauges of any
// minute the newest stands.
func (d *drain) complete() {
	d.t.Helper()
	l := d.settled()
	totals := make(map[string]int64)
	for _, row := range d.flux.RowsOf("c") {
		totals[row.Tags["id"]] += int64(row.Value)
	}
	for i, want := range d.counted {
		if got := totals[fmt.Sprint(i)]; got != want {
			d.t.Fatalf("upstream's total of counter %d = %d, want %d", i, got, want)
		}
	}
	if got, want := d.flux.CounterTotal("tick").Float, float64(len(d.ticks)); got != want {
		d.t.Errorf("upstream has %v windows, want %v", got, want)
	}
	if got, want := d.flux.CounterTotal("d.count").Float, float64(30*d.distributions*d.windows); got != want {
		d.t.Errorf("upstream's count of values = %v, want %v", got, want)
	}
	for i := range d.sets {
		if got := len(d.flux.SetMembers("s", fmt.Sprintf("id:%d", i))); got != d.members {
			d.t.Errorf("upstream has %d members of set %d, want %d", got, i, d.members)
		}
	}
	newest := make(map[time.Time]float64) // by minute
	for i, start := range d.starts {
		newest[start.Truncate(minute)] = float64(i)
	}
	rows := d.flux.RowsOf("g", "id:0")
	slices.SortStableFunc(rows, func(a, b fluxtest.Row) int { return a.Time.Compare(b.Time) })
	for i, row := range rows {
		if i > 0 && row.Value < rows[i-1].Value {
			d.t.Errorf("gauge at %v is %v, and %v was before", row.Time, row.Value, rows[i-1].Value)
		}
		if last := i+1 == len(rows) || !rows[i+1].Time.Truncate(minute).Equal(row.Time.Truncate(minute)); last && row.Value < newest[row.Time.Truncate(minute)] {
			d.t.Errorf("the last gauge of the minute at %v is %v, older than %v", row.Time, row.Value, newest[row.Time.Truncate(minute)])
		}
	}
	if d.gauges > 0 && len(rows) == 0 {
		d.t.Error("no gauge arrived")
	}
	for kind := range l.Windowed {
		if got, want := l.Delivered[kind].Samples, l.Windowed[kind].Samples; got != want {
			d.t.Errorf("%d samples of %s are delivered, want all %d", got, aggregator.Kind(kind), want)
		}
	}
	if got := d.flux.MaxRequestsIn(minute); got > d.options.RequestsPerMinute {
		d.t.Errorf("%d requests in a minute, want at most %d", got, d.options.RequestsPerMinute)
	}
}

// fifo is how long sending n windows of so many items as they are would take,
// with new ones coming.
func (d *drain) fifo(n, items int) string {
	budget, brings := d.options.RequestsPerMinute*(d.options.ItemsPerRequest-1), items*int(minute/interval)
	if brings >= budget {
		return "for ever"
	}
	return (time.Duration(n*items/(budget-brings)) * minute).String()
}

// An hour at 700 counters is made good within catch_up, also when each request
// takes a while, so that the budget comes back piece by piece.
func TestDrainHour(t *testing.T) {
	for _, c := range []struct {
		name  string
		load  load
		each  time.Duration // a request takes
		items int           // of a window as it is
		late  time.Duration // a new window may take
	}{
		{"counters", load{counters: 700}, 0, 700, 3 * minute},
		{"slow", load{counters: 700}, 300 * time.Millisecond, 700, 3 * minute},
		// A bucket of the backlog that is begun holds up new windows for as long as
		// it takes in the third that they leave.
		{"most of the budget", load{counters: 3300, gauges: 100}, 0, 3400, 6 * minute},
		{"mixed", load{counters: 300, gauges: 40, distributions: 20, sets: 10}, 300 * time.Millisecond, 300 + 40 + 20*27 + 30, 3 * minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
				if c.each > 0 {
					r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
						time.Sleep(c.each)
						return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
					})
				}
				d := newDrain(r, c.load)
				d.steps(18)
				took := d.outage(360, c.late, nil)
				t.Logf("an hour drained in %v; first in, first out: %v", took, d.fifo(360, c.items))
				if took > 15*minute {
					t.Errorf("drained after %v, want 15 minutes", took)
				}
				d.complete()
			})
		})
	}
}

// A day is made good in less than two hours. The short form has a fifth of the
// series and of the items in a request. Under the race detector, which makes it five
// times as slow, the day has six hours: nothing here is concurrent.
func TestDrainDay(t *testing.T) {
	hours := 24
	if raceEnabled {
		hours = 6
	}
	for _, c := range []struct {
		name          string
		items, series int
		long          bool
	}{{"400 series", 100, 400, false}, {"2000 series", 499, 2000, true}} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && os.Getenv("SLUICE_LONG") == "" {
				t.Skip("set SLUICE_LONG=1 for the full size")
			}
			o := testOptions()
			o.ItemsPerRequest = c.items
			simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
				r.storage.MaxBytes = 4 << 30
				r.spool.Close()
				r.open(r.storage.Dir)
				d := newDrain(r, load{counters: c.series - 10, gauges: 10})
				d.steps(18)
				// An hour's bucket that is begun is ended before anything else goes.
				took := d.outage(hours*360, 5*minute, nil)
				t.Logf("%d hours drained in %v; first in, first out: %v", hours, took, d.fifo(hours*360, c.series))
				if took > 2*time.Hour {
					t.Errorf("drained after %v, want less than 2 h", took)
				}
				d.complete()
			})
		})
	}
}

// A crash every minute of a drain loses and doubles nothing.
func TestDrainCrashes(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		d := newDrain(r, load{counters: 400, gauges: 20, distributions: 20, sets: 5})
		d.steps(18)
		crashes := 0
		took := d.outage(360, 5*minute, func(i int) {
			for range i % 5 { // not always at the same point of a round
				r.f.turn(t.Context())
			}
			crashes++
			d.crash()
			d.ledger()
		})
		t.Logf("an hour drained in %v with %d crashes", took, crashes)
		if crashes < 3 {
			t.Errorf("%d crashes, want some", crashes)
		}
		d.complete()
	})
}

// More than the budget takes, for an hour, and then less again: windows get
// coarser, and finer again, and nothing is lost or stands behind something older.
func TestOverload(t *testing.T) {
	o := testOptions()
	o.RequestsPerMinute = 2
	simulate(t, o, fluxtest.Options{RequestsPerMinute: 2}, func(t *testing.T, r *rig) {
		d := newDrain(r, load{counters: 2400, gauges: 10})
		d.load.counters = 20
		d.steps(30 + 3) // the load comes in the midst of a minute
		d.load.counters = 2400
		widest := time.Duration(0)
		for range 360 {
			d.step()
			widest = max(widest, r.f.Stats(time.Now()).BacklogWidth)
		}
		if widest != 5*minute {
			t.Errorf("2,400 series on a budget of 996 a minute were sent at %v, want 5 minutes", widest)
		}
		if got := r.f.Stats(time.Now()).Behind; got > 15*6 {
			t.Errorf("after an hour of overload %d windows wait, want at most those of 15 minutes", got)
		}
		d.load.counters = 20
		d.steps(30 * 6)
		if s := r.f.Stats(time.Now()); s.Width != interval || s.Behind != 0 {
			t.Errorf("half an hour after the overload: %+v, want the interval and no backlog", s)
		}
		d.run(5 * minute)
		d.complete()
	})
}

// Windows that come late into a minute that has been sent: what adds up is
// added, and what is there stays.
func TestLateIntoSentMinute(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		at := time.Now()
		put := func(when time.Time, v float64, members ...string) {
			for _, s := range []aggregator.Sample{
				{Kind: aggregator.Counter, Flags: aggregator.Whole, Whole: int64(v)},
				{Kind: aggregator.Gauge, Value: v},
				{Kind: aggregator.Distribution, Value: v, Weight: 1},
			} {
				s.Time = when.UnixNano()
				r.add(time.Now(), s, "late."+s.Kind.String(), "")
			}
			for _, m := range members {
				r.add(time.Now(), aggregator.Sample{Kind: aggregator.Set, Member: []byte(m), Time: when.UnixNano()}, "late.set", "")
			}
		}
		for range 12 {
			put(time.Now(), 10, "a", "b")
			r.next()
		}
		r.run(minute)
		r.close()
		put(at.Add(15*time.Second), 3, "b", "c") // into the first minute, which is gone
		put(at.Add(-30*minute), 5, "d")          // into one that had no windows
		r.next()
		r.run(3 * minute)
		l := r.settled()
		if got, want := r.flux.CounterTotal("late.counter").Float, 12*10+3+5.0; got != want {
			t.Errorf("counter = %v, want %v", got, want)
		}
		if got, want := r.flux.CounterTotal("late.distribution.count").Float, 14.0; got != want {
			t.Errorf("count of the distribution = %v, want %v", got, want)
		}
		if got, want := r.flux.CounterTotal("late.distribution.sum").Float, 12*10+3+5.0; got != want {
			t.Errorf("sum of the distribution = %v, want %v", got, want)
		}
		if got, want := len(r.flux.Points("late.distribution")), 14; got != want {
			t.Errorf("%d points, want %d", got, want)
		}
		if got, want := r.flux.SetMembers("late.set"), []string{"a", "b", "c", "d"}; !slices.Equal(got, want) {
			t.Errorf("members %v, want %v", got, want)
		}
		for _, name := range []string{"late.gauge", "late.distribution.max", "late.distribution.p50"} {
			for _, row := range r.flux.RowsOf(name) {
				want := 10.0
				if row.Time.Before(at) {
					want = 5
				}
				if row.Value != want {
					t.Errorf("%s at %v = %v, want %v", name, row.Time, row.Value, want)
				}
			}
			if got := len(r.flux.RowsOf(name)); got != 13 {
				t.Errorf("%d rows of %s, want 13: the window in an empty minute goes out whole", got, name)
			}
		}
		if got := l.Dropped["superseded"]; got[aggregator.Gauge].Samples != 1 || got[aggregator.Counter].Samples+got[aggregator.Distribution].Samples+got[aggregator.Set].Samples != 0 {
			t.Errorf("superseded = %+v, want 1 gauge", got)
		}
	})
}

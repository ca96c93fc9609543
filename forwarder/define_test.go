package forwarder

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
)

func selfHostedOptions(singles int) (Options, fluxtest.Options) {
	o := testOptions()
	o.SinglesPerMinute = singles
	return o, fluxtest.Options{Dialect: fluxtest.SelfHosted, SinglesPerMinute: singles}
}

// mixed puts series of every kind into a window and closes it: names of each, and
// members that are new in every window.
func (r *rig) mixed(names, window int) {
	now := time.Now()
	for i := range names {
		r.count(now, fmt.Sprintf("c.%d", i), "", int64(window+1))
		r.gauge(now, fmt.Sprintf("g.%d", i), "", float64(window))
	}
	for v := range 5 {
		r.measure(now, "d", "", float64(v+window), 1)
	}
	r.member(now, "s", "", fmt.Sprint("m", window))
	r.next()
}

func (r *rig) singles() (n int) {
	for _, c := range r.flux.Requests() {
		if c.Call == fluxtest.CallSingle {
			n++
		}
	}
	return n
}

// mixedIsThere demands that all of mixed arrived: what adds up exactly once, gauges
// and members at least once.
func (r *rig) mixedIsThere(names, windows int) {
	r.t.Helper()
	for i := range names {
		if got, _ := r.flux.CounterTotal(fmt.Sprintf("c.%d", i)).Whole(); got.Int64() != int64(windows*(windows+1)/2) {
			r.t.Errorf("total of c.%d = %v, want %d", i, got, windows*(windows+1)/2)
		}
		at := map[time.Time]bool{}
		for _, row := range r.flux.RowsOf(fmt.Sprintf("g.%d", i)) {
			at[row.Time] = true
		}
		if len(at) != windows {
			r.t.Errorf("g.%d has values at %d times, want %d", i, len(at), windows)
		}
	}
	if got := r.flux.CounterTotal("d.count").Float; got != float64(5*windows) {
		r.t.Errorf("d.count = %v, want %d", got, 5*windows)
	}
}

// Single items are a self-hosted Flux's alone: no other server has a call more for
// them, whatever there is room for.
func TestDefinitionsElsewhere(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			o := optionsOf(s.typ)
			o.SinglesPerMinute = 60
			simulate(t, o, fluxtest.Options{Dialect: s.fake, MaxItems: o.ItemsPerRequest}, func(t *testing.T, r *rig) {
				for i := range 6 {
					r.mixed(3, i)
				}
				r.run(3 * time.Minute)
				r.settled()
				for i := range 3 {
					if got := r.counted(fmt.Sprintf("c.%d", i)); got != 21 {
						t.Errorf("total of c.%d = %v, want 21", i, got)
					}
				}
				own := s.typ == Flux && s.fake == fluxtest.SelfHosted
				if got := r.f.Stats(time.Now()).Singles; got > 0 != own {
					t.Errorf("%d single items, want some: %t", got, own)
				}
			})
		})
	}
}

// Every name is defined by a single item: a counter's by 0, so that it stays exact,
// a gauge's and a distribution's by their first. Members are single items, too. What
// is defined is not defined again, also not after a restart.
func TestDefinitions(t *testing.T) {
	o, f := selfHostedOptions(60)
	simulate(t, o, f, func(t *testing.T, r *rig) {
		for i := range 12 {
			r.mixed(10, i)
		}
		r.run(3 * time.Minute)
		l := r.settled()
		r.mixedIsThere(10, 12)
		if got := r.flux.Undefined(); len(got) > 0 {
			t.Errorf("not defined: %v", got)
		}
		if got := r.flux.SetMembers("s"); len(got) != 12 {
			t.Errorf("members %v, want 12", got)
		}
		if got := len(r.flux.Points("d")); got != 5*12 {
			t.Errorf("%d points of d, want %d", got, 5*12)
		}
		for k := range l.Windowed {
			if l.Delivered[k].Samples != l.Windowed[k].Samples {
				t.Errorf("%d of %d samples of %s are delivered", l.Delivered[k].Samples, l.Windowed[k].Samples, aggregator.Kind(k))
			}
		}
		// 2 of our own, 20 names, of the distribution itself and 7 scalars, 12 members.
		if got := r.singles(); got != 2+20+8+12 {
			t.Errorf("%d single items, want 42", got)
		}
		calls := r.flux.Requests()
		if first := slices.IndexFunc(calls, func(c fluxtest.Request) bool { return c.Call == fluxtest.CallSingle }); first != 1 {
			t.Errorf("call %d is the first with a single item, want the second: the marker is defined before data is sent", first+1)
		}
		r.restart()
		r.mixed(10, 12)
		r.run(time.Minute)
		if got := r.singles(); got != 42+1 {
			t.Errorf("%d single items after a restart, want one member more than 42", got)
		}
	})
}

// Names for which there is no room go on in batches, at once, and are defined when
// there is; sets go out as their number meanwhile.
func TestDefinitionsWait(t *testing.T) {
	o, f := selfHostedOptions(5)
	simulate(t, o, f, func(t *testing.T, r *rig) {
		for i := range 6 {
			r.mixed(20, i)
		}
		r.run(9 * time.Second)
		if got := len(r.flux.RowsOf("c.19")); got != 6 {
			t.Errorf("%d windows of a metric without a definition arrived, want 6: data does not wait", got)
		}
		if got := len(r.flux.RowsOf("s.unique")); got == 0 {
			t.Error("no number of members arrived")
		}
		for i := range 6 * 15 {
			r.mixed(20, 6+i)
			if i%20 == 10 {
				r.crash()
			}
		}
		r.run(3 * time.Minute)
		r.settled()
		r.mixedIsThere(20, 6*16)
		got := slices.DeleteFunc(r.flux.Undefined(), func(name string) bool { return name == "s.unique" }) // goes out only if there is no room
		if len(got) > 0 {
			t.Errorf("not defined after 15 minutes: %v", got)
		}
	})
}

// Whatever meets a single item, nothing that adds up is lost or doubled, no gauge
// or member is lost, and everything else goes on.
func TestSingleFaults(t *testing.T) {
	for i, c := range faults {
		for which := 1; which <= 8; which += 3 { // of our own, of a counter, of a gauge
			t.Run(fmt.Sprintf("%d %s/%d", i, c.fault, which), func(t *testing.T) {
				o, f := selfHostedOptions(60)
				f.Allow = []fluxtest.Rule{fluxtest.RuleTwice} // what changes nothing is sent again
				n := 0
				f.Fault = func(_ int, r *http.Request) fluxtest.Fault {
					if r.URL.Path == fluxListPath && r.Method == http.MethodPost {
						if n++; n == which {
							return c.fault
						}
					}
					return fluxtest.Fault{}
				}
				simulate(t, o, f, func(t *testing.T, r *rig) {
					for i := range 12 {
						r.mixed(2, i)
					}
					r.run(20 * time.Minute)
					l := r.settled()
					refused := slices.Contains([]string{"status 400", "status 415", "status 422", "status 413"}, c.fault.String())
					if !refused || which != 7 { // one gauge is dead then
						r.mixedIsThere(2, 12)
					}
					if got := len(r.flux.SetMembers("s")); got != 12 {
						t.Errorf("%d members arrived, want 12", got)
					}
					if got := l.Delivered[aggregator.Counter].Samples; got != 24 {
						t.Errorf("%d counter samples delivered, want 24", got)
					}
				})
			})
		}
	}
}

// A name that the single-item endpoint refuses does not hold up the others, nor
// is it asked for again and again.
func TestDefinitionRefused(t *testing.T) {
	o, f := selfHostedOptions(60)
	singles := 0
	f.Fault = func(_ int, r *http.Request) fluxtest.Fault {
		if r.URL.Path == fluxListPath && r.Method == http.MethodPost {
			singles++
			return fluxtest.Status(400)
		}
		return fluxtest.Fault{}
	}
	simulate(t, o, f, func(t *testing.T, r *rig) {
		for i := range 60 {
			r.count(time.Now(), "c", "", int64(i))
			r.next()
		}
		r.run(time.Minute)
		l := r.settled()
		if got := l.Delivered[aggregator.Counter].Samples; got != 60 {
			t.Errorf("%d samples delivered, want 60", got)
		}
		if singles != 3 {
			t.Errorf("%d single items, want one for each name", singles)
		}
		if got := r.f.Stats(time.Now()).State; got != "ok" {
			t.Errorf("state = %s, want ok: the batches are taken", got)
		}
	})
}

// A crash at any turn defines nothing twice that counts, and loses nothing.
func TestDefinitionsCrash(t *testing.T) {
	o, f := selfHostedOptions(60)
	f.Allow = []fluxtest.Rule{fluxtest.RuleTwice}
	simulate(t, o, f, func(t *testing.T, r *rig) {
		turns := 0
		for i := range 30 {
			now := time.Now()
			r.count(now, fmt.Sprintf("c.%d", i%7), "", 1)
			r.gauge(now, fmt.Sprintf("g.%d", i%7), "", float64(i))
			for time.Now().Before(r.agg.Ends()) {
				if wait := r.f.turn(t.Context()); wait > 0 {
					time.Sleep(min(wait, time.Until(r.agg.Ends())))
				}
				if turns++; turns%3 == 0 {
					r.crash()
				}
			}
			r.close()
		}
		r.run(10 * time.Minute)
		l := r.settled()
		total := int64(0)
		for i := range 7 {
			n, _ := r.flux.CounterTotal(fmt.Sprintf("c.%d", i)).Whole()
			total += n.Int64()
		}
		if total != 30 || l.Delivered[aggregator.Counter].Samples != 30 {
			t.Errorf("total = %d and %d samples delivered, want 30", total, l.Delivered[aggregator.Counter].Samples)
		}
		if got := r.flux.Undefined(); len(got) > 0 {
			t.Errorf("not defined: %v", got)
		}
	})
}

// A self-hosted server that takes the place of the hosted one gets no string: what
// is sealed is written anew for it, and what is defined is defined there.
func TestServerReplaced(t *testing.T) {
	o := testOptions()
	o.SinglesPerMinute = 60
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		for i := range 6 {
			r.mixed(3, i)
		}
		r.run(9 * time.Second)
		r.flux.Fault(fluxtest.Status(503)) // what is sealed waits
		r.mixed(3, 6)
		for r.f.turn(t.Context()) <= 0 {
		}
		if got := len(r.f.outbox.Batches()); got < 2 {
			t.Fatalf("%d batches wait, want one of metrics and one of members", got)
		}
		r.flux.Become(fluxtest.SelfHosted)
		for i := range 12 {
			r.mixed(3, 7+i)
		}
		r.run(5 * time.Minute)
		r.settled()
		r.mixedIsThere(3, 19)
		if got := r.flux.SetMembers("s"); len(got) != 19 || !slices.Contains(got, "m6") {
			t.Errorf("members %v, want 19", got)
		}
		if got := r.f.Stats(time.Now()).Dialect; got != SelfHosted {
			t.Errorf("dialect = %s, want %s", got, SelfHosted)
		}
		r.flux.Become(fluxtest.Hosted) // and back
		for i := range 6 {
			r.mixed(3, 19+i)
		}
		r.run(5 * time.Minute)
		r.settled()
		r.mixedIsThere(3, 25)
		if got := r.f.Stats(time.Now()).Dialect; got != Hosted {
			t.Errorf("dialect = %s, want %s", got, Hosted)
		}
		for _, name := range r.flux.Undefined() {
			if !strings.HasPrefix(name, "sluice.") {
				t.Errorf("%s is not defined", name)
			}
		}
	})
}

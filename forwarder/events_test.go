package forwarder

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// event puts an event into the open window.
func (s *source) event(now time.Time, name string) {
	s.t.Helper()
	if got := s.intake.AddEvent(now.UnixNano(), &aggregator.Event{Name: []byte(name)}); got != aggregator.Taken {
		s.t.Fatalf("AddEvent(%s) = %v", name, got)
	}
}

// names are those of the events upstream, in the order of storing.
func (r *rig) names() (names []string) {
	for _, e := range r.flux.Events() {
		names = append(names, e.Name)
	}
	return names
}

func (r *rig) wantEvents(want []string) {
	r.t.Helper()
	got := r.names()
	if slices.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	r.t.Errorf("%d events upstream, want %d; at %d %q, want %q", len(got), len(want), at, got[at:min(at+3, len(got))], want[at:min(at+3, len(want))])
}

func TestRenderEventGolden(t *testing.T) {
	var k aggregator.Key
	k.Tag([]byte("region"), []byte("e\"u"))
	k.Tag([]byte("app"), nil)
	f, sheet := fluxOf(Hosted), newSheet(2)
	for _, e := range []*aggregator.Event{
		{Name: []byte("order \"placed\"\n"), Time: time.Date(2026, 1, 2, 3, 4, 5, 678_999_999, time.UTC).UnixNano(), Value: -0.1, HasValue: true,
			Properties: []byte(`{"text":"a\nb","n":[1,{}]}`), Tags: k.AppendTags(nil), UserID: []byte("u"), SessionID: []byte("s"),
			RequestID: []byte("r"), Environment: []byte("prod"), Service: []byte("web"), Host: []byte("h\x00")},
		{Name: []byte("zero"), Time: -1, HasValue: true, Properties: []byte(`{"nul":"\u0000","not":"\\u0000","\\\u0000":1}`)},
		{Name: []byte("bare"), Time: 1},
		{Name: bytes.Repeat([]byte("n"), 256), Time: 1},
	} {
		sheet.begin(aggregator.Events, 1)
		f.RenderEvent(sheet, e)
	}
	for i, want := range []string{
		`{"events":[{"name":"order \"placed\"\n","value":-0.1,"timestamp":"2026-01-02T03:04:05.678Z","properties":{"text":"a\nb","n":[1,{}]},` +
			`"user_id":"u","session_id":"s","request_id":"r","environment":"prod","service":"web","host":"h?","tags":{"app":"","region":"e\"u"}},` +
			`{"name":"zero","value":0,"timestamp":"1969-12-31T23:59:59.999Z","properties":{"nul":"\u003f","not":"\\u0000","\\\u003f":1},"tags":{}}]}`,
		`{"events":[{"name":"bare","timestamp":"1970-01-01T00:00:00.000Z","tags":{}},` +
			`{"name":"` + shorten(strings.Repeat("n", 256), "") + `","timestamp":"1970-01-01T00:00:00.000Z","tags":{}}]}`,
	} {
		b := sheet.batches[i]
		f.Finish(b)
		if got := string(b.Body); got != want || !json.Valid(b.Body) || b.Lane != spool.Events || b.URL == "" {
			t.Errorf("batch %d in lane %d is\n%s\nwant\n%s", i, b.Lane, got, want)
		}
		for _, item := range b.Items {
			if item.Kind != uint8(aggregator.Events) || item.Samples != 1 || !json.Valid(b.Body[item.Off:item.Off+item.Len]) {
				t.Errorf("item %+v", item)
			}
		}
	}
}

// Events arrive beside metrics, never in one call with them, each once, in the
// order in which they were taken, and the ledger has them in samples and in items.
func TestEventsArrive(t *testing.T) {
	for name, dialect := range map[string]fluxtest.Dialect{Hosted: fluxtest.Hosted, SelfHosted: fluxtest.SelfHosted} {
		t.Run(name, func(t *testing.T) {
			simulate(t, testOptions(), fluxtest.Options{Dialect: dialect}, func(t *testing.T, r *rig) {
				var w tally
				var want []string
				for i := range 30 {
					for range i % 3 {
						want = append(want, fmt.Sprint("event ", len(want)))
						r.event(time.Now(), want[len(want)-1])
					}
					if i < 25 { // then events alone
						r.traffic(&w)
					}
					r.next()
				}
				r.run(2 * time.Minute)
				r.exact(&w)
				r.wantEvents(want)
				l := r.settled()
				if got := l.Delivered[aggregator.Events]; got.Samples != uint64(len(want)) || got.Items != uint64(len(want)) {
					t.Errorf("ledger has %+v of events delivered, want %d", got, len(want))
				}
				if got := l.Sealed[aggregator.Events].Items; got != uint64(len(want)) {
					t.Errorf("%d events sealed, want %d", got, len(want))
				}
			})
		})
	}
}

// More events than a minute's requests hold are sealed in pieces; a crash in
// between loses and doubles none.
func TestManyEventsOfOneWindow(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 60
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		var want []string
		for range 1500 { // within CatchUp's share, 15 minutes of 295
			want = append(want, fmt.Sprint("event ", len(want)))
			r.event(time.Now(), want[len(want)-1])
		}
		r.count(time.Now(), "beside", "", 7)
		r.next()
		minutes := 0
		for ; r.f.outbox.Pending()[0].From < r.spool.Next(); minutes++ {
			r.run(time.Minute)
			r.ledger()
			if minutes == 1 {
				if g, ok := r.f.outbox.Group(); !ok || len(g.After) != 15 || g.Sealed[aggregator.Events] == 0 {
					t.Errorf("Group() = %+v, %v in the midst of a window, want where it stands", g, ok)
				}
				r.crash()
			}
			if minutes > 10 {
				t.Fatal("not sealed after 10 minutes")
			}
		}
		r.run(2 * time.Minute)
		if minutes < 2 {
			t.Errorf("sealed in %d minutes, want several", minutes)
		}
		r.wantEvents(want)
		if l := r.settled(); l.Delivered[aggregator.Events].Samples != 1500 || l.Delivered[aggregator.Counter].Samples != 1 {
			t.Errorf("delivered %+v", l.Delivered)
		}
		for _, q := range r.flux.Requests() {
			if q.Items > 60 {
				t.Errorf("%d items in a request, want at most 60", q.Items)
			}
		}
	})
}

// What the upstream answers to a batch of events means what it means for
// metrics; but there is no marker to look for, so what is in doubt is dropped, or
// sent once more if so configured.
func TestEventFaults(t *testing.T) {
	for _, resend := range []bool{false, true} {
		for i, c := range faults {
			t.Run(fmt.Sprintf("resend=%v/%d %s", resend, i, c.fault), func(t *testing.T) {
				o := testOptions()
				o.Resend = resend
				simulate(t, o, fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleTwice}}, func(t *testing.T, r *rig) {
					r.run(time.Minute) // the dialect is known
					for i := range 5 {
						if i == 2 {
							r.run(30 * time.Second)
							r.flux.Fault(c.fault)
						}
						r.event(time.Now(), fmt.Sprintf("event %da", i)) // two, so that what is too large has halves
						r.event(time.Now(), fmt.Sprintf("event %db", i))
						r.next()
					}
					r.run(20 * time.Minute)
					l := r.settled()
					want := 1
					switch stored := c.fault.Stored(); {
					case c.known:
					case stored && resend:
						want = 2
					case !stored && !resend:
						want = 0
					}
					got := map[string]int{}
					for _, name := range r.names() {
						got[name]++
					}
					if got["event 2a"] != want || got["event 2b"] != want || len(r.names()) != 8+2*want {
						t.Errorf("upstream has %q, want those of window 2 in it %d times", r.names(), want)
					}
					if !c.known && !resend && l.Dropped["unverified"][aggregator.Events].Samples != 2 {
						t.Errorf("dropped: %+v, want 2 events unverified", l.Dropped)
					}
					for _, q := range r.flux.Requests() {
						if q.Method == http.MethodGet {
							t.Errorf("asked for %s: events have no marker", q.Path)
						}
					}
				})
			})
		}
	}
}

// An upstream's count of events it refused, and one for which it refuses a batch.
func TestEventsRefused(t *testing.T) {
	f := fluxtest.Options{
		RejectEvent: func(e fluxtest.Event) bool { return strings.HasPrefix(e.Name, "no") },
		PoisonEvent: func(e fluxtest.Event) int {
			if e.Name == "poison" {
				return 422
			}
			return 0
		},
	}
	simulate(t, testOptions(), f, func(t *testing.T, r *rig) {
		for _, name := range []string{"yes", "no 1", "no 2", "yes too"} {
			r.event(time.Now(), name)
		}
		r.next()
		r.run(time.Minute)
		l := r.settled()
		if l.Delivered[aggregator.Events].Samples != 2 || l.Dropped["rejected"][aggregator.Events].Samples != 2 {
			t.Errorf("delivered %+v, dropped %+v, want 2 events of each", l.Delivered, l.Dropped)
		}
		for i := range 20 {
			r.event(time.Now(), fmt.Sprint("good ", i))
			if i == 7 {
				r.event(time.Now(), "poison")
			}
		}
		r.count(time.Now(), "beside", "", 1)
		r.next()
		r.run(30 * time.Minute)
		if l = r.settled(); l.Dead[aggregator.Events] != (spool.Amount{Samples: 1, Items: 1}) || l.Delivered[aggregator.Events].Samples != 22 {
			t.Errorf("dead %+v, delivered %+v, want one event dead", l.Dead, l.Delivered)
		}
		names := r.names()
		if slices.Sort(names); len(slices.Compact(names)) != 22 {
			t.Errorf("upstream has %q, want 22 different ones", names)
		}
	})
}

// Only and Except speak of the names of events, too.
func TestEventsFiltered(t *testing.T) {
	o := testOptions()
	o.Only, o.Except = []string{"deploy*"}, []string{"*secret"}
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		for _, name := range []string{"deploy 1", "other", "deploy secret", "deploy 2"} {
			r.event(time.Now(), name)
		}
		r.next()
		r.run(time.Minute)
		r.wantEvents([]string{"deploy 1", "deploy 2"})
		if l := r.settled(); l.Filtered[aggregator.Events].Samples != 2 {
			t.Errorf("filtered %+v, want 2 events", l.Filtered)
		}
	})
}

// eventless is a Flux that has no place for events.
type eventless struct{ Upstream }

func (e eventless) Form() Form {
	f := e.Upstream.Form()
	f.Events = ""
	return f
}

func (eventless) RenderEvent(*Sheet, *aggregator.Event) { panic("an event is rendered") }

// Where an upstream has no place for events they are filtered, and cost nothing.
func TestUpstreamWithoutEvents(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.f.upstream = eventless{r.f.upstream}
		for range 20_000 {
			r.event(time.Now(), "x")
		}
		r.count(time.Now(), "beside", "", 7)
		r.next()
		if got := plan(r.f.newRound(10).need(time.Now()), time.Now()); got.Live.width != interval {
			t.Errorf("the plan is for windows of %v, want %v", got.Live.width, interval)
		}
		r.run(time.Minute)
		if l := r.settled(); l.Filtered[aggregator.Events].Samples != 20_000 || l.Delivered[aggregator.Counter].Samples != 1 {
			t.Errorf("filtered %+v, delivered %+v", l.Filtered, l.Delivered)
		}
	})
}

// After an outage all events come through, in their order, behind the live ones
// or before.
func TestEventsOfAnOutage(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		var w tally
		r.traffic(&w)
		r.next()
		r.run(time.Minute)
		r.flux.Pause()
		sent := 0
		for range 360 {
			for range 50 { // of 2,490 that a minute has room for, 300
				r.event(time.Now(), fmt.Sprintf("event %05d", sent))
				sent++
			}
			r.traffic(&w)
			r.next()
		}
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
		t.Logf("1 h of outage with %d events drained in %v", sent, time.Since(start))
		r.exact(&w)
		names := r.names()
		slices.Sort(names)
		if names = slices.Compact(names); len(names) != sent || len(r.flux.Events()) != sent {
			t.Errorf("%d events arrived, %d different ones, want %d", len(r.flux.Events()), len(names), sent)
		}
	})
}

// A flood of events costs metrics neither their width nor their way: what is
// beyond half of the budget over time is dropped, and counted.
func TestEventFlood(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 60 // 590 items a minute, so 295 are for events
	o.CatchUp = 5 * time.Minute
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		const minutes = 60
		sent, total, behind := 0, int64(0), 0
		for i := range minutes * 6 {
			for range 200 { // 1,200 a minute
				r.event(time.Now(), fmt.Sprint("event ", sent))
				sent++
			}
			for j := range 10 {
				r.count(time.Now(), "req", fmt.Sprint("r:", j), 1)
				total++
			}
			r.next()
			s := r.f.Stats(time.Now())
			if i > 6*20 && (s.Width > minute || s.BacklogWidth > 15*minute) {
				t.Fatalf("after %d windows widths are %v and %v", i, s.Width, s.BacklogWidth)
			}
			behind = max(behind, s.Behind)
		}
		r.run(30 * time.Minute)
		l := r.settled()
		if got, _ := r.flux.CounterTotal("req").Whole(); got.Int64() != total {
			t.Errorf("total = %v, want %d", got, total)
		}
		arrived, dropped := len(r.names()), int(l.Dropped[overBudget][aggregator.Events].Samples)
		if arrived+dropped != sent || dropped == 0 {
			t.Errorf("%d events arrived, %d dropped, want %d in all", arrived, dropped, sent)
		}
		if least := 295 * minutes; arrived < least*9/10 {
			t.Errorf("%d events arrived, want about %d", arrived, least)
		}
		t.Logf("of %d events %d arrived; at most %d windows were behind", sent, arrived, behind)
	})
}

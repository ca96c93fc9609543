package forwarder

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// drawNeed makes up what there is to plan with: windows of a steady or churning
// agent, late ones among them, records that are gone, ranges with holes.
func drawNeed(t *rapid.T) (n Need, now time.Time) {
	n = Need{
		Interval: rapid.SampledFrom([]time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, minute}).Draw(t, "interval"),
		Points:   rapid.SampledFrom([]int{0, 3, 20, 100}).Draw(t, "points"),
		Scalars:  rapid.IntRange(0, 7).Draw(t, "scalars"),
		Members:  rapid.SampledFrom([]int{1, 10_000}).Draw(t, "members"),
		Items:    rapid.IntRange(1, 498).Draw(t, "items"),
		PerMin:   rapid.IntRange(1, 10).Draw(t, "per minute"),
		CatchUp:  rapid.SampledFrom([]time.Duration{minute, 15 * minute, time.Hour}).Draw(t, "catch up"),
	}
	n.Large = max(1, n.Items*n.PerMin/20)
	n.Slots = rapid.IntRange(1, n.PerMin).Draw(t, "slots")
	count := rapid.IntRange(0, 400).Draw(t, "windows")
	step := rapid.SampledFrom([]int{1, 1, 1, 7}).Draw(t, "step") // times the interval between two windows
	size := rapid.SampledFrom([]uint64{2, 30, 700, 20_000}).Draw(t, "series")
	lateOnes := rapid.SampledFrom([]int{0, 0, 3, 1}).Draw(t, "late") // one in so many
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))

	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "start")) * n.Interval)
	var all []spool.Entry
	seq := uint64(1)
	add := func(start time.Time, flags uint16) {
		e := spool.Entry{Seqs: spool.Range{From: seq, To: seq + 1}, Bytes: 1000, Meta: spool.Meta{Start: start, Width: n.Interval, Flags: flags}}
		total := uint64(0)
		for kind := aggregator.Counter; kind <= aggregator.Set; kind++ {
			e.Series[kind] = rnd.Uint64N(size)
			e.Samples[kind] = e.Series[kind] * (1 + rnd.Uint64N(30))
			total += e.Series[kind]
		}
		e.Absent = uint32(rnd.Uint64N(total/4 + 1))
		all = append(all, e)
		seq++
	}
	for range count {
		if seq += uint64(rnd.IntN(50) / 49); lateOnes > 0 && rnd.IntN(lateOnes) == 0 {
			add(at.Add(-time.Duration(rnd.IntN(200))*n.Interval), aggregator.FlagLate)
		}
		add(at, 0)
		at = at.Add(time.Duration(step) * n.Interval)
	}
	now = at.Add(time.Duration(rnd.Int64N(int64(3 * minute))))
	n.Pending = spool.Pending{{From: 1, To: spool.Open}}
	for range rapid.SampledFrom([]int{0, 1, 5, 100}).Draw(t, "holes") {
		from := 1 + rnd.Uint64N(seq)
		if rest, ok := n.Pending.Without(spool.Range{From: from, To: from + 1 + rnd.Uint64N(4)}); ok && len(rest) < spool.RangesMax {
			n.Pending = rest // as the planner would leave it: one below the bound
		}
	}
	to := now.Truncate(minute)
	for _, e := range all {
		if n.Pending.Contains(e.Seqs.From) {
			n.Owed = append(n.Owed, e)
		}
		if !e.Start.Before(to.Add(-minute)) && e.Start.Before(to) {
			n.Recent = append(n.Recent, e)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "draining") == 0 {
		n.Since = now.Add(-time.Duration(rnd.Int64N(int64(2 * n.CatchUp))))
	}
	return n, now
}

// bucketOf is where a window's bucket begins and how wide it is, by the words:
// the rung's width, if the window nests into it.
func bucketOf(e spool.Entry, r rung) (time.Time, time.Duration) {
	if r.width%e.Width != 0 {
		return e.Start, e.Width
	}
	return e.Start.Truncate(r.width), r.width
}

// bound is the estimate, done the slow way: each bucket by itself, a late window
// by itself, a window that does not follow on the one before with all its series.
func bound(n Need, entries []spool.Entry, r rung) (items int) {
	type sizes struct{ series, samples [spool.Kinds]uint64 }
	buckets := make(map[string]*sizes)
	for i, e := range entries {
		at, _ := bucketOf(e, r)
		key, follows := at.String(), false
		if late(e) {
			key = fmt.Sprint("late", i)
		} else if j := lastLive(entries, i); j >= 0 {
			before, _ := bucketOf(entries[j], r)
			follows = before.Equal(at)
			for ; j < i; j++ {
				follows = follows && entries[j].Seqs.To == entries[j+1].Seqs.From
			}
		}
		if buckets[key] == nil {
			buckets[key] = new(sizes)
		}
		absent := uint64(e.Absent)
		for _, kind := range []aggregator.Kind{aggregator.Set, aggregator.Distribution, aggregator.Counter, aggregator.Gauge} {
			series := e.Series[kind]
			if follows {
				if series = min(series, absent); kind != aggregator.Set {
					absent -= series
				}
			}
			buckets[key].series[kind] += series
			buckets[key].samples[kind] += e.Samples[kind]
		}
	}
	scalars, members := n.Scalars, n.Members
	if r.few {
		scalars = min(2, scalars)
	}
	if r.unique {
		members = min(members, n.Large)
	}
	for _, b := range buckets {
		items += int(b.series[1]+b.series[2]) + int(b.series[3])*scalars + min(int(b.samples[3]), int(b.series[3])*r.points) +
			min(int(b.samples[4]), int(b.series[4])*members)
	}
	return items
}

func lastLive(entries []spool.Entry, i int) int {
	for i--; i >= 0 && late(entries[i]); i-- {
	}
	return i
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, now := drawNeed(t)
		p := plan(n, now)
		if !p.OK && p.Wait <= 0 {
			t.Fatalf("a plan that has nothing says to wait %v", p.Wait)
		}
		liveFrom := now.Truncate(minute).Add(-2 * minute)
		lastOld := -1 // index of the last window that is neither live nor late
		for i, e := range n.Owed {
			if !late(e) && e.Start.Before(liveFrom) {
				lastOld = i
			}
		}
		split := lastOld + 1
		for split < len(n.Owed) && late(n.Owed[split]) && n.Owed[split].Start.Before(liveFrom) {
			split++
		}
		old, live := n.Owed[:split], n.Owed[split:]

		// What goes first, and at which rungs.
		share := n.PerMin * n.Items
		unseen := slices.DeleteFunc(n.rungs(), func(r rung) bool { return r.width > minute })
		fits := func(r rung) bool {
			most := share
			switch {
			case len(old) > 0 && r == unseen[len(unseen)-1]:
				most -= share / 4
			case len(old) > 0:
				most /= 2
			}
			return bound(n, n.Recent, r) <= most && bound(n, live, r) <= 3*most
		}
		first := fits(p.Live)
		for _, r := range unseen[:slices.Index(unseen, p.Live)] {
			if !fits(r) {
				continue
			}
			// Finer ones fit. They are given up only for the backlog's sake, and up to a minute.
			if r.width == minute || p.Live.width < minute || len(old) == 0 {
				t.Fatalf("live windows go at %+v, they fit at %+v", p.Live, r)
			}
		}
		if !first && p.Live != unseen[len(unseen)-1] {
			t.Fatalf("live windows do not fit at %+v, and there is %+v", p.Live, unseen[len(unseen)-1])
		}
		if first = first && len(n.Pending) < spool.RangesMax-1; first {
			share -= bound(n, n.Recent, p.Live)
		} else {
			old, live = n.Owed, nil
		}
		left := n.CatchUp * 3 / 4
		if first && !n.Since.IsZero() {
			left -= now.Sub(n.Since)
		}
		drains := func(r rung) bool {
			spare := float64(share)
			if !first {
				spare -= float64(bound(n, n.Recent, r)) / max(r.width.Minutes(), 1)
			}
			return spare >= 0 && float64(bound(n, old, r)) <= spare*max(left, r.width).Minutes()
		}
		rungs := n.rungs()
		at := slices.Index(rungs, p.Backlog)
		for _, r := range rungs[:at] {
			if drains(r) && bound(n, old, r) > 0 {
				t.Fatalf("the backlog goes at %+v, it is drained in time at %+v", p.Backlog, r)
			}
		}
		if !drains(p.Backlog) && at != len(rungs)-1 && bound(n, n.Recent, p.Backlog) == 0 {
			t.Fatalf("the backlog is not drained in time at %+v, and that is not the last rung", p.Backlog)
		}

		// What is due.
		incomplete := func(e spool.Entry, r rung) bool {
			start, width := bucketOf(e, r)
			left := start.Add(width + settled).Sub(now)
			return width > e.Width && left > 0 && left <= width+settled
		}
		due := func(entries []spool.Entry, r rung) bool { return len(entries) > 0 && !incomplete(entries[0], r) }
		if want := due(live, p.Live) || due(old, p.Backlog); p.OK != want {
			t.Fatalf("OK = %v, want %v: wait %v, %d live, %d old", p.OK, want, p.Wait, len(live), len(old))
		}
		if !p.OK {
			return
		}
		from, r := old, p.Backlog
		if due(live, p.Live) {
			from, r = live, p.Live
		}
		g := p.Group
		if rungOf(g) != r {
			t.Fatalf("the group's rung is %+v, want %+v", rungOf(g), r)
		}
		if g.Seqs.From != from[0].Seqs.From {
			t.Fatalf("the group begins with %d, want %d", g.Seqs.From, from[0].Seqs.From)
		}
		inside := slices.ContainsFunc(n.Pending, func(r spool.Range) bool { return r.From <= g.Seqs.From && g.Seqs.To <= r.To })
		rest, ok := n.Pending.Without(g.Seqs)
		if !inside || !ok || len(rest) > spool.RangesMax {
			t.Fatalf("group %v does not lie in one of %v, or leaves %d ranges", g.Seqs, n.Pending, len(rest))
		}
		var in []spool.Entry
		for _, e := range n.Owed {
			if g.Seqs.Contains(e.Seqs.From) {
				in = append(in, e)
			}
		}
		if len(in) > groupWindows {
			t.Fatalf("the group has %d windows", len(in))
		}
		touched := make(map[time.Time]bool)
		for _, e := range in {
			if incomplete(e, r) {
				t.Fatalf("window %d at %v is sent at %v, its bucket of %v is not complete", e.Seqs.From, e.Start, now, r.width)
			}
			if start, width := bucketOf(e, r); e.Start.Before(start) || e.Start.Add(e.Width).After(start.Add(width)) {
				t.Fatalf("window %v+%v crosses its bucket %v+%v", e.Start, e.Width, start, width)
			} else if !late(e) {
				touched[start] = true
			}
		}
		room := max(n.Slots, 1) * n.Items
		if got := bound(n, in, r); got > room && len(touched) > 1 && len(in) < groupWindows {
			t.Fatalf("%d buckets of %d items for room of %d", len(touched), got, room)
		}
		for _, e := range from { // a bucket is not cut
			start, _ := bucketOf(e, r)
			if late(e) || g.Seqs.Contains(e.Seqs.From) || !touched[start] || len(in) == groupWindows {
				continue
			}
			whole := slices.ContainsFunc(n.Pending, func(r spool.Range) bool { return r.Contains(g.Seqs.From) && r.Contains(e.Seqs.From) })
			if whole && !slices.ContainsFunc(from[:slices.IndexFunc(from, func(o spool.Entry) bool { return o.Seqs == e.Seqs })], func(o spool.Entry) bool { return incomplete(o, r) }) {
				t.Fatalf("window %d belongs to a bucket of group %v", e.Seqs.From, g.Seqs)
			}
		}
		n.Group = g
		if got := plan(n, now.Add(time.Hour)); !got.OK || got.Group.Seqs != g.Seqs || got.Group.K != g.K || got.Group.Width != g.Width {
			t.Fatalf("an unfinished group %v does not go first, but %v", g, got.Group)
		}
	})
}

// Planning again and again takes every window once, and ends.
func TestPlanTakesAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, now := drawNeed(t)
		taken := make(map[uint64]int)
		owed := len(n.Owed)
		for turns := 0; len(n.Owed) > 0; turns++ {
			if turns > owed+1000 { // six hours of waiting for the last rung's bucket
				t.Fatalf("%d turns for %d windows", turns, owed)
			}
			p := plan(n, now)
			if !p.OK {
				now, n.Recent = now.Add(p.Wait), nil
				continue
			}
			rest, ok := n.Pending.Without(p.Group.Seqs)
			if !ok {
				t.Fatalf("%v does not go out of %d ranges", p.Group.Seqs, len(n.Pending))
			}
			n.Pending = rest
			n.Owed = slices.DeleteFunc(slices.Clone(n.Owed), func(e spool.Entry) bool {
				if in := p.Group.Seqs.Contains(e.Seqs.From); in {
					taken[e.Seqs.From]++
					return true
				}
				return false
			})
		}
		for seq, times := range taken {
			if times != 1 || len(taken) != owed {
				t.Fatalf("window %d was taken %d times; %d windows of %d", seq, times, len(taken), owed)
			}
		}
	})
}

func TestLadder(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, minute} {
		for _, points := range []int{0, 1, 20, 30, 100} {
			rungs := ladder(interval, points)
			if got, want := rungs[0], (rung{width: interval, points: points}); got != want {
				t.Errorf("ladder(%v, %d) begins with %+v, want %+v", interval, points, got, want)
			}
			for i, r := range rungs {
				if r.width < interval || r.width%interval != 0 {
					t.Errorf("ladder(%v, %d) has a rung of %v", interval, points, r.width)
				}
				if got := rungOf(r.group(spool.Range{From: 1, To: 2})); got != r {
					t.Errorf("rung %+v is stored and comes back as %+v", r, got)
				}
				if i == 0 {
					continue
				}
				if b := rungs[i-1]; r == b || r.width < b.width || r.points > b.points || b.unique && !r.unique || b.few && !r.few {
					t.Errorf("ladder(%v, %d): %+v is not coarser than %+v", interval, points, r, b)
				}
			}
			if got, want := rungs[len(rungs)-1], (rung{width: 6 * time.Hour, unique: true, few: true}); got != want {
				t.Errorf("ladder(%v, %d) ends with %+v, want %+v", interval, points, got, want)
			}
		}
	}
	if got := ladder(20*time.Second, 20)[1].width; got != minute {
		t.Errorf("after 20 s comes %v, want a minute: 30 s cut windows", got)
	}
}

// Windows that were made with another interval are merged only into what they
// nest into.
func TestPlanOtherInterval(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	n := Need{Interval: 15 * time.Second, Items: 498, PerMin: 10, Slots: 10, CatchUp: 15 * minute, Members: 1, Large: 1, Pending: spool.Pending{{From: 1, To: spool.Open}}}
	for i := range uint64(6) {
		n.Owed = append(n.Owed, spool.Entry{Seqs: spool.Range{From: i + 1, To: i + 2}, Meta: spool.Meta{
			Start: at.Add(time.Duration(i) * 10 * time.Second), Width: 10 * time.Second, Series: [spool.Kinds]uint64{0, 400}, Samples: [spool.Kinds]uint64{0, 400}}})
	}
	if got, want := n.items(n.Owed, rung{width: 15 * time.Second}), 2400; got != want {
		t.Errorf("windows of 10 s are %d items at 15 s, want %d: each goes by itself", got, want)
	}
	if got, want := n.items(n.Owed, rung{width: minute}), 400; got != want {
		t.Errorf("windows of 10 s are %d items at 60 s, want %d", got, want)
	}
}

// The estimate is never below what is rendered, whatever comes and goes, if the
// values of a series weigh the same.
func TestEstimateBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		names := rapid.SampledFrom([]int{3, 20, 60}).Draw(t, "names")
		values := rapid.SampledFrom([]int{1, 4, 60}).Draw(t, "values")
		hosted := rapid.Bool().Draw(t, "hosted")
		now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		agg := aggregator.New(aggregator.Options{Interval: interval, MaxLateness: time.Hour, MaxSeries: 10_000, MaxSetMembers: 100}, now)
		in := []*aggregator.Intake{agg.Intake(plain{}), agg.Intake(plain{})}
		o := testOptions()
		o.MaxSetMembers = 100
		n := Need{Interval: interval, Points: 20, Scalars: len(o.Scalars), Members: o.MaxSetMembers, Large: 10, Items: 498, PerMin: 10}
		f := newFlux(o, &contact{agent: "a", dialect: Hosted, names: names0()})
		if !hosted {
			f.dialect, n.Members = SelfHosted, 1
		}
		var entries []spool.Entry
		var bodies [][][]byte
		for range rapid.IntRange(1, 40).Draw(t, "windows") {
			for range rnd.IntN(names * values) {
				s := aggregator.Sample{Kind: aggregator.Kind(1 + rnd.IntN(4)), Value: rnd.Float64(), Weight: 1}
				if s.Kind == aggregator.Set {
					s.Member = fmt.Append(nil, rnd.IntN(300))
				}
				if rnd.IntN(50) == 0 {
					s.Time = now.Add(-time.Duration(rnd.IntN(300)) * time.Second).UnixNano()
				}
				s.Head = fmt.Append(nil, "n", s.Kind, rnd.IntN(names))
				in[rnd.IntN(2)].Add(now.UnixNano(), []aggregator.Sample{s})
			}
			now = now.Add(interval)
			for _, w := range agg.Rotate(now) {
				seq := uint64(len(entries) + 1)
				entries = append(entries, spool.Entry{Seqs: spool.Range{From: seq, To: seq + 1},
					Meta: spool.Meta{Start: w.Start, Width: w.Width, Flags: w.Flags(), Absent: w.Absent, Samples: w.Samples, Series: w.Series}})
				var parts [][]byte
				for p := range w.Parts() {
					parts = append(parts, bytes.Clone(p))
				}
				bodies = append(bodies, parts)
				w.Release()
			}
		}
		for i := range entries { // and a record that is gone, so that its follower's Absent says less
			if len(entries) > 3 && rnd.IntN(20) == 0 {
				entries, bodies = slices.Delete(entries, i, i+1), slices.Delete(bodies, i, i+1)
				break
			}
		}
		for _, r := range n.rungs() {
			buckets := make(map[time.Time][]*aggregator.Reader)
			for i, e := range entries {
				reader, err := aggregator.OpenReader(bodies[i]...)
				if err != nil {
					t.Fatal(err)
				}
				at, _ := bucketOf(e, r)
				buckets[at] = append(buckets[at], reader)
			}
			sheet := &Sheet{maxItems: 498, maxBody: maxBody, head: fluxHead, events: fluxEvents}
			for at, readers := range buckets {
				b := &Bucket{At: at, Rung: r, LargeSet: uint64(n.Large)}
				for s, v := range aggregator.Merge(n.Members, nil, readers...).All() {
					sheet.begin(v.Kind(), v.Samples())
					f.Render(sheet, b, s, v)
				}
			}
			items := 0
			for _, b := range sheet.batches {
				items += len(b.Items)
			}
			if got := n.items(entries, r); got < items {
				t.Fatalf("at %+v %d windows are estimated at %d items and are %d", r, len(entries), got, items)
			}
		}
	})
}

func names0() names { return names{uses: make(map[string]use)} }

// What must not be cheaper than it is: small sets keep their members where large
// ones go out as a number.
func TestEstimateSmallSets(t *testing.T) {
	e := spool.Entry{Seqs: spool.Range{From: 1, To: 2}, Meta: spool.Meta{Width: interval, Series: [spool.Kinds]uint64{4: 100}, Samples: [spool.Kinds]uint64{4: 20_000}}}
	n := Need{Members: 10_000, Large: 249}
	if got, want := n.items([]spool.Entry{e}, rung{width: minute, unique: true}), 20_000; got != want {
		t.Errorf("100 sets of 200 members are %d items, want %d", got, want)
	}
	e.Samples[4] = 1_000_000
	if got, want := n.items([]spool.Entry{e}, rung{width: minute, unique: true}), 24_900; got != want {
		t.Errorf("100 large sets are at most %d items, want %d", got, want)
	}
}

// week makes what a week of 10 s windows without an upstream leaves.
func week() (n Need, now time.Time) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n = Need{Interval: interval, Points: 100, Scalars: 7, Members: 10_000, Large: 249, Items: 498, PerMin: 10, Slots: 10,
		CatchUp: 15 * minute, Pending: spool.Pending{{From: 1, To: spool.Open}}}
	for i := range uint64(60_000) {
		n.Owed = append(n.Owed, spool.Entry{Seqs: spool.Range{From: i + 1, To: i + 2}, Meta: spool.Meta{Start: at, Width: interval,
			Series: [spool.Kinds]uint64{0, 600, 100, 30, 5}, Samples: [spool.Kinds]uint64{0, 6000, 100, 900, 50}}})
		at = at.Add(interval)
	}
	n.Recent = n.Owed[len(n.Owed)-6:]
	return n, at
}

// BenchmarkPlan plans a week's backlog, as one turn does.
func BenchmarkPlan(b *testing.B) {
	n, now := week()
	b.ReportAllocs()
	for b.Loop() {
		if p := plan(n, now); !p.OK {
			b.Fatalf("nothing to do with %d windows", len(n.Owed))
		}
	}
}

// Whatever is owed, and whatever of it is gone, round after round leaves nothing, and
// never more ranges than there may be: a stretch without records closes by itself.
func TestPlanEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, now := drawNeed(t)
		n.Slots = 1
		keep := rapid.SampledFrom([]int{1, 2, 3, 10}).Draw(t, "gone") // all but one in so many; 1: none is gone
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed of gone"), 0))
		n.Owed = slices.DeleteFunc(n.Owed, func(spool.Entry) bool { return rnd.IntN(keep) > 0 })
		for i := 0; len(n.Pending) < spool.RangesMax && i < 200; i++ { // up to the bound, most of it about nothing
			from := 1 + rnd.Uint64N(2000)
			if slices.ContainsFunc(n.Owed, func(e spool.Entry) bool { return e.Seqs.From == from }) {
				continue
			}
			n.Pending, _ = n.Pending.Without(spool.Range{From: from, To: from + 1})
		}
		next := uint64(3000)
		n.Pending = n.Pending.Existing(n.Owed, next) // as a round does
		for rounds := 0; len(n.Owed) > 0; rounds++ {
			p := plan(n, now)
			if !p.OK {
				if now = now.Add(p.Wait); rounds > 10_000 {
					t.Fatalf("%d windows are never due: %v", len(n.Owed), n.Owed)
				}
				continue
			}
			before := n.Owed
			var ok bool
			n.Pending, n.Owed, ok = without(n.Pending, slices.Clone(n.Owed), p.Group.Seqs, next)
			if !ok || n.Pending.Valid() != nil {
				t.Fatalf("group %v leaves %v: %v", p.Group.Seqs, n.Pending, n.Pending.Valid())
			}
			for _, e := range before {
				if inside := p.Group.Seqs.Contains(e.Seqs.From); inside == n.Pending.Contains(e.Seqs.From) {
					t.Fatalf("window %d is in group %v: %v, and is still owed: %v", e.Seqs.From, p.Group.Seqs, inside, !inside)
				}
			}
		}
		if len(n.Pending) != 1 || n.Pending[0].From > next {
			t.Fatalf("nothing is owed any more, and ranges are %v, want one, from %d at most", n.Pending, next)
		}
	})
}

// Half of the windows of a backlog are gone with their segments, one here, one there, and
// what is left takes a request each: all of it is delivered. (Each left a range behind.)
func TestRecordsMissing(t *testing.T) {
	o := testOptions()
	o.Dialect, o.ItemsPerRequest, o.CatchUp = Hosted, 11, 24*time.Hour
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		r.storage.SegmentAge = time.Second // a segment for each
		r.restart()
		r.flux.Pause()
		const windows = 160
		for i := range windows {
			for id := range 100 {
				r.count(time.Now(), "c", fmt.Sprint("w:", i, ",id:", id), 1)
			}
			time.Sleep(time.Until(r.agg.Ends()))
			r.close()
		}
		if err := r.spool.Close(); err != nil {
			t.Fatal(err)
		}
		for n := 1; n < windows; n += 2 {
			if err := os.Remove(filepath.Join(r.storage.Dir, fmt.Sprintf("%06d.seg", n))); err != nil {
				t.Fatal(err)
			}
		}
		r.open(r.storage.Dir)
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		r.run(4 * time.Hour)
		r.settled()
		if got, want := r.flux.CounterTotal("c").Float, 100.0*windows/2; got != want {
			t.Errorf("total = %v, want %v", got, want)
		}
		if got := r.f.outbox.Pending(); len(got) != 1 {
			t.Errorf("pending is %v, want one range", got)
		}
	})
}

// With as many holes as there may be, the oldest stretch goes before live
// windows, for they would make another.
func TestPlanHoles(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 5, 0, time.UTC)
	n := Need{Interval: interval, Items: 498, PerMin: 10, Slots: 10, CatchUp: 15 * minute, Members: 1, Large: 1}
	for i := range uint64(200) {
		n.Owed = append(n.Owed, spool.Entry{Seqs: spool.Range{From: 1 + 2*i, To: 2 + 2*i}, Meta: spool.Meta{
			Start: now.Add(time.Duration(i)*interval - 200*interval).Truncate(interval), Width: interval,
			Series: [spool.Kinds]uint64{0, 5}, Samples: [spool.Kinds]uint64{0, 5}}})
	}
	for _, c := range []struct{ ranges, first int }{{spool.RangesMax - 2, 200 - 12}, {spool.RangesMax - 1, 0}, {spool.RangesMax, 0}} {
		n.Pending = nil
		for i := range uint64(c.ranges - 1) {
			n.Pending = append(n.Pending, spool.Range{From: 1 + 2*i, To: 2 + 2*i})
		}
		n.Pending = append(n.Pending, spool.Range{From: 1 + 2*uint64(c.ranges-1), To: spool.Open})
		p := plan(n, now)
		if want := n.Owed[c.first].Seqs.From; !p.OK || p.Group.Seqs.From != want {
			t.Errorf("with %d ranges the first group is %v (%v), want it to begin with %d", c.ranges, p.Group.Seqs, p.OK, want)
		}
	}
}

// What is left of a bucket has the time of its first window, for a gauge at the
// bucket's start would stand before those that were sent; late windows of a
// minute that was sent are a piece of their own, of deltas only.
func TestBucketsThatWereBegun(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{}, func(t *testing.T, r *rig) {
		start := time.Now()
		for range 6 {
			r.gauge(time.Now(), "g", "", 1)
			time.Sleep(interval)
			r.close()
		}
		r.add(time.Now(), aggregator.Sample{Kind: aggregator.Gauge, Value: 1, Time: start.Add(5 * time.Second).UnixNano()}, "g", "")
		time.Sleep(interval)
		r.close()
		entries := r.spool.Entries(spool.Range{From: 4, To: spool.Open})
		round := r.f.newRound(10)
		round.pending = spool.Pending{{From: 4, To: spool.Open}} // three windows of the minute were sent
		round.group = rung{width: minute}.group(spool.Range{From: 4, To: r.spool.Next()})
		list := round.buckets(entries)
		if len(list) != 2 {
			t.Fatalf("%d buckets of %d windows, want one of what is left and one of late windows", len(list), len(entries))
		}
		if b := list[0]; !b.At.Equal(start.Add(3*interval)) || b.Deltas || len(b.entries) != 3 {
			t.Errorf("what is left: %d windows at %v, deltas %v, want 3 at %v", len(b.entries), b.At, b.Deltas, start.Add(3*interval))
		}
		if b := list[1]; !b.At.Equal(start) || !b.Deltas || len(b.entries) != 1 || b.piece != 1 {
			t.Errorf("the late one: %d windows at %v, deltas %v, piece %d, want 1 at %v, deltas, piece 1", len(b.entries), b.At, b.Deltas, b.piece, start)
		}
	})
}

// With one request free what is sealed is no less than with ten: a request cut
// off where the first set stands would be wasted.
func TestSealFillsRequests(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		for i := range 100 {
			r.count(time.Now(), fmt.Sprintf("n%03d", 2*i), "", 1)
			r.member(time.Now(), fmt.Sprintf("n%03d", 2*i+1), "", "m")
		}
		r.next()
		r.f.budget = newBudget(10, slices.Repeat([]time.Time{time.Now()}, 9), time.Now())
		for range 3 {
			r.f.turn(t.Context())
		}
		l := r.ledger()
		if got := l.Sealed[aggregator.Counter].Items + l.Sealed[aggregator.Set].Items; got != 200 {
			t.Errorf("%d items are sealed, want all 200 in two batches", got)
		}
		r.run(2 * minute)
		r.settled()
		if got := len(r.flux.Requests()); got != 2 {
			t.Errorf("%d requests, want 2", got)
		}
	})
}

// TestNoScalars: where there are no scalars to stand for a distribution, it
// keeps a point at every rung, unless none is wanted.
func TestNoScalars(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for points, want := range map[int]int{100: 1, 0: 0} {
		e := spool.Entry{Seqs: spool.Range{From: 1, To: 2}, Meta: spool.Meta{Start: now.Add(-24 * time.Hour), Width: interval}}
		e.Series[aggregator.Distribution], e.Samples[aggregator.Distribution] = 1_000_000, 100_000_000
		p := plan(Need{Interval: interval, Points: points, Items: 498, PerMin: 10, Slots: 10, CatchUp: 15 * time.Minute,
			Pending: spool.Pending{{From: 1, To: spool.Open}}, Owed: []spool.Entry{e}}, now)
		if got := rungOf(p.Group).points; !p.OK || got != want {
			t.Errorf("with %d points and no scalars the plan is %+v: %d points, want %d", points, p, got, want)
		}
	}
}

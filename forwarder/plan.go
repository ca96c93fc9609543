package forwarder

import (
	"slices"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// A rung is one step of the ladder from fine to coarse: how windows are
// rendered when the budget does not allow better.
type rung struct {
	width  time.Duration // at least the window's own
	points int           // most values per distribution
	unique bool          // large sets go out as their number
	few    bool          // of a distribution's scalars only count and sum
}

// minute is the finest bucket that the upstream's queries show: up to it a
// greater width changes nothing that anybody can see.
const minute = time.Minute

// fewPoints is how many points distributions keep while the width can still
// grow unseen; below, the upstream's percentiles are of no use.
const fewPoints = 20

// ladder lists the rungs, finest first. First distributions lose points that
// few would miss, then the width grows up to a minute, unseen. Only then
// something is given up: the points, the members of large sets, the time
// within 5 minutes and more, and at last all of a distribution but its count
// and sum. Steps that are no multiple of interval are left out.
func ladder(interval time.Duration, points int) []rung {
	rungs := []rung{{width: interval, points: points}}
	add := func(r rung) {
		if r.width >= interval && r.width%interval == 0 && r != rungs[len(rungs)-1] {
			rungs = append(rungs, r)
		}
	}
	few := min(points, fewPoints)
	add(rung{width: interval, points: max(points/2, few)})
	add(rung{width: interval, points: few})
	add(rung{width: 30 * time.Second, points: few})
	add(rung{width: minute, points: few})
	add(rung{width: minute})
	for _, w := range []time.Duration{minute, 5 * minute, 15 * minute, time.Hour} {
		add(rung{width: w, unique: true})
	}
	add(rung{width: time.Hour, unique: true, few: true})
	add(rung{width: 6 * time.Hour, unique: true, few: true})
	return rungs
}

// A group's rung is stored in its Width and K, the flags in the upper bits.
const (
	groupUnique = 1 << 14
	groupFew    = 1 << 15
)

func (r rung) group(seqs spool.Range) spool.Group {
	g := spool.Group{Seqs: seqs, Width: r.width, K: uint16(r.points)}
	if r.unique {
		g.K |= groupUnique
	}
	if r.few {
		g.K |= groupFew
	}
	return g
}

func rungOf(g spool.Group) rung {
	return rung{width: g.Width, points: int(g.K &^ (groupUnique | groupFew)), unique: g.K&groupUnique != 0, few: g.K&groupFew != 0}
}

// Need is what a plan is made from. All of it is small: of a window about 200
// bytes, never its content.
type Need struct {
	Interval time.Duration
	Points   int // most per distribution
	Scalars  int // items per distribution beside the points

	Members int // most of a set that go out one by one
	Large   int // the same at rungs where large sets go out as their number

	Events int // items in a minute that events may be, over time; 0 where they are not taken

	Items   int           // application items in a request
	PerMin  int           // requests in a minute
	Slots   int           // requests that there is room for
	CatchUp time.Duration // within which a backlog is to be drained
	Since   time.Time     // since when one is being drained; zero if none is

	Group   spool.Group   // the one that is partly sealed, if any
	Pending spool.Pending // what the upstream is owed
	Owed    []spool.Entry // the records of it, ascending
	Recent  []spool.Entry // the windows of the last whole minute, owed or not: what a minute brings
}

// A Plan says what to render next.
type Plan struct {
	Group spool.Group
	OK    bool          // there is something to render now
	Wait  time.Duration // else: until when it is worth looking again

	Live, Backlog rung          // chosen for new windows, for old ones
	Behind        int           // windows that are backlog
	Drained       time.Duration // estimate until there is none; 0 if there is none
	Since         time.Time     // what the next plan is to be given
}

// rungs is the ladder for what is needed. Where no scalars stand beside them,
// distributions keep a point, for without one they would not go out at all.
func (n *Need) rungs() []rung {
	rungs := ladder(n.Interval, n.Points)
	if n.Scalars == 0 {
		for i := range rungs {
			rungs[i].points = max(rungs[i].points, min(n.Points, 1))
		}
	}
	return rungs
}

// liveMinutes is for how many whole minutes windows are live. In the first after
// its own a minute is complete and there is a request for it, or there was a
// moment before; a second is for a request that came too late. What waits for
// longer is backlog, and waits behind what is older.
const liveMinutes = 2

// plan chooses what to render: the group that is partly sealed; else live
// windows, whose rung leaves half of the budget to a backlog if there is one;
// else the oldest windows, at the finest rung at which the whole backlog is
// drained within CatchUp. It is a pure function.
func plan(n Need, now time.Time) Plan {
	rungs := n.rungs()
	liveFrom := now.Truncate(minute).Add(-liveMinutes * minute)
	split := len(n.Owed) // where live windows begin: the tail of those owed
	for split > 0 && (!n.Owed[split-1].Start.Before(liveFrom) || late(n.Owed[split-1])) {
		split--
	}
	for split < len(n.Owed) && late(n.Owed[split]) && n.Owed[split].Start.Before(liveFrom) {
		split++ // late windows alone are no live ones
	}
	old, live := n.Owed[:split], n.Owed[split:]

	var p Plan
	for _, finest := range []time.Duration{n.Interval, minute} {
		p = Plan{}
		share, back := n.PerMin*n.Items, old
		first := n.liveRung(&p, rungs, finest, old, live, share)
		if first {
			share -= n.items(n.Recent, p.Live)
		} else {
			back = n.Owed
		}
		n.backlogRung(&p, rungs, back, share, first, now)
		if !first {
			old, live = n.Owed, nil
			break
		}
		if p.Backlog.width <= minute && p.Backlog.points >= min(n.Points, fewPoints) {
			break // live windows that are merged to a minute, unseen, would help nobody
		}
	}
	n.choose(&p, live, old, now)
	return p
}

// liveRung chooses the finest rung from a width of finest to a minute at which
// live windows fit into the budget, or into half of it while there is a backlog;
// the coarsest of these may take three quarters. It answers whether they may go first:
// not if they do not fit, nor if what is owed has too many holes already.
func (n *Need) liveRung(p *Plan, rungs []rung, finest time.Duration, old, live []spool.Entry, share int) (first bool) {
	most := share
	if len(old) > 0 {
		share, most = share/2, share-share/4
	}
	for i, r := range rungs {
		if r.width > minute {
			break
		}
		if r.width < finest {
			continue
		}
		if i+1 == len(rungs) || rungs[i+1].width > minute {
			share = most
		}
		p.Live = r
		// Live windows themselves count, too, because the last whole minute knows
		// nothing of what has only begun.
		if n.items(n.Recent, r) <= share && n.items(live, r) <= (liveMinutes+1)*share {
			return len(n.Pending) < spool.RangesMax-1
		}
	}
	return false
}

// backlogRung chooses the finest rung at which old windows are drained in what
// is left of CatchUp, of which a quarter is kept in hand: requests are not always
// full, and the first after an outage comes late. A rung may always take as long
// as it is wide, or a bucket of more than CatchUp's items would never fit. If
// live windows are among the old, because they do not go first, what each minute
// brings must fit, too, and the rest of the budget does the draining.
func (n *Need) backlogRung(p *Plan, rungs []rung, old []spool.Entry, share int, first bool, now time.Time) {
	left := n.CatchUp - n.CatchUp/4
	if p.Behind = len(old); first && len(old) > 0 {
		p.Since = n.Since
		if p.Since.IsZero() {
			p.Since = now
		}
		left -= now.Sub(p.Since)
	}
	for _, r := range rungs {
		spare := share
		if !first {
			spare -= n.items(n.Recent, r) * int(minute/time.Second) / int(max(r.width, minute)/time.Second)
		}
		p.Backlog = r
		items := n.items(old, r)
		p.Drained = 0
		if items > 0 && spare > 0 {
			p.Drained = time.Duration(float64(items) / float64(spare) * float64(minute))
		}
		if spare >= 0 && float64(items) <= float64(spare)*max(left, r.width).Minutes() {
			break
		}
	}
}

// choose picks the group: what is begun, what is live, what is old.
func (n *Need) choose(p *Plan, live, old []spool.Entry, now time.Time) {
	if !n.Group.Seqs.Empty() {
		p.Group, p.OK = n.Group, true
		return
	}
	p.Wait = minute
	for _, c := range []struct {
		entries []spool.Entry
		rung    rung
	}{{live, p.Live}, {old, p.Backlog}} {
		due := n.due(c.entries, c.rung, now, &p.Wait)
		if seqs, ok := n.stretch(due, c.rung); ok {
			p.Group, p.OK = c.rung.group(seqs), true
			return
		}
	}
}

// settled is how long after its end a bucket is taken for complete: its last
// window is closed and stored by then.
const settled = 2 * time.Second

// due returns the entries before the first whose bucket is not complete yet.
func (n *Need) due(entries []spool.Entry, r rung, now time.Time, wait *time.Duration) []spool.Entry {
	for i := range entries {
		e := &entries[i]
		start, width := r.bucket(e)
		if width == e.Width {
			continue // a window that is closed is all of its bucket
		}
		if left := start.Add(width + settled).Sub(now); left > 0 && left <= width+settled {
			*wait = min(*wait, left)
			return entries[:i]
		}
	}
	return entries
}

// stretch takes as many of the first entries as what can be sent at once has
// room for, at least one bucket, all in one range of what is owed. Buckets are
// not cut, but for late windows that lie scattered over them.
func (n *Need) stretch(due []spool.Entry, r rung) (seqs spool.Range, ok bool) {
	for i := range due { // as far as they are owed in one piece, and a group may reach
		if i == groupWindows || i > 0 && !n.together(due[i-1].Seqs.To, due[i].Seqs.From) {
			due = due[:i]
			break
		}
	}
	if len(due) == 0 {
		return seqs, false
	}
	room := max(n.Slots, 1) * n.Items
	est := estimate{need: n, rung: r}
	end := 0 // of the whole buckets that fit
	for i := range due {
		est.add(&due[i])
		if !r.ends(due, i) {
			continue
		}
		if end > 0 && est.items() > room {
			break
		}
		end = i + 1
	}
	return spool.Range{From: due[0].Seqs.From, To: due[end-1].Seqs.To}, true
}

// bucket returns where the bucket of a window begins, and how wide it is: as the
// rung says, if the window nests into that, else the window is one of its own.
func (r rung) bucket(e *spool.Entry) (start time.Time, width time.Duration) {
	width = e.Width
	if width > 0 && r.width%width == 0 {
		width = r.width
	}
	return e.Start.Truncate(width), width
}

// ends tells whether a bucket ends with entry i, and none is open that has
// windows on both sides of it, late ones aside.
func (r rung) ends(entries []spool.Entry, i int) bool {
	if i+1 == len(entries) {
		return true
	}
	at, _ := r.bucket(&entries[i])
	if next, _ := r.bucket(&entries[i+1]); next.Equal(at) {
		return false
	}
	before, after := i, i+1
	for before >= 0 && late(entries[before]) {
		before--
	}
	for after < len(entries) && late(entries[after]) {
		after++
	}
	if before < 0 || after == len(entries) {
		return true
	}
	at, _ = r.bucket(&entries[before])
	next, _ := r.bucket(&entries[after])
	return !next.Equal(at)
}

// groupWindows bounds a group: 1 h at the shortest common interval is 3,600.
const groupWindows = 4096

// together tells whether the sequences from a to b are owed in one piece.
func (n *Need) together(a, b uint64) bool {
	return slices.ContainsFunc(n.Pending, func(r spool.Range) bool { return r.From < a && b < r.To })
}

func late(e spool.Entry) bool { return e.Flags&aggregator.FlagLate != 0 }

// items estimates, from above, how many items entries become at a rung.
func (n *Need) items(entries []spool.Entry, r rung) int {
	est := estimate{need: n, rung: r}
	for i := range entries {
		est.add(&entries[i])
	}
	return est.items()
}

// An estimate bounds, from above, what windows amount to, bucket by bucket: the
// series of the first, and of each that follows it those that were absent from
// the window before. Late windows add all of theirs. One thing is not known: a few
// values of different weights become as many points as the rung allows. What is
// sealed goes by what is rendered, so that only takes longer.
type estimate struct {
	need *Need
	rung rung
	done uint64 // items of late windows, and of the buckets before the open one

	events   uint64
	from, to time.Time // of the windows that have some

	bucket          time.Time
	next            uint64 // sequence behind the last
	series, samples [spool.Kinds]uint64
}

func (x *estimate) add(e *spool.Entry) {
	if n := e.Samples[aggregator.Events]; n > 0 {
		if x.events += n; x.from.IsZero() {
			x.from = e.Start
		}
		x.to = e.Start.Add(e.Width)
	}
	follows := x.next == e.Seqs.From
	if x.next = e.Seqs.To; late(*e) {
		if !follows {
			x.next = 0 // the live window before may be the one that is not there
		}
		x.done += x.cost(&e.Series, &e.Samples)
		return
	}
	if at, _ := x.rung.bucket(e); !at.Equal(x.bucket) {
		x.done += x.cost(&x.series, &x.samples)
		x.bucket, x.series, x.samples = at, [spool.Kinds]uint64{}, [spool.Kinds]uint64{}
		follows = false
	}
	absent := uint64(e.Absent)
	for _, kind := range dearest {
		series := e.Series[kind]
		if follows {
			series = min(series, absent)
			if kind != aggregator.Set {
				absent -= series
			}
		}
		x.series[kind] += series
		x.samples[kind] += e.Samples[kind]
	}
}

func (x *estimate) items() int {
	// A flood of events must not make metrics coarser than their share of the
	// budget asks for; what is beyond is spread over later minutes, or dropped.
	minutes := max(1, int((x.to.Sub(x.from)+minute-1)/minute))
	events := min(x.events, uint64(minutes*x.need.Events))
	return int(x.done + x.cost(&x.series, &x.samples) + events)
}

// dearest lists the kinds by what a series of theirs costs, for it is not
// known of which kind absent ones are. What a set costs is not known either, so
// all the absent may be sets, and of other kinds as well.
var dearest = [...]aggregator.Kind{aggregator.Set, aggregator.Distribution, aggregator.Counter, aggregator.Gauge}

// cost bounds the items of so many series with so many samples.
func (x *estimate) cost(series, samples *[spool.Kinds]uint64) uint64 {
	scalars, members := x.need.Scalars, x.need.Members
	if x.rung.few {
		scalars = min(scalars, 2)
	}
	if x.rung.unique {
		members = min(members, x.need.Large)
	}
	d, set := series[aggregator.Distribution], series[aggregator.Set]
	return series[aggregator.Counter] + series[aggregator.Gauge] +
		d*uint64(scalars) + min(samples[aggregator.Distribution], d*uint64(x.rung.points)) +
		min(samples[aggregator.Set], set*uint64(max(members, 1)))
}

package aggregator

import (
	"sync"
	"unsafe"
)

// An Intake is one reader's way into the aggregator. What the reader adds it
// keeps in a table of its own, so that readers do not wait for each other.
type Intake struct {
	home     *Aggregator
	spelling Spelling
	from     string // see From

	mu         sync.Mutex // guards the fields below; taken once per Add
	options    *Options
	closed     bool
	window     uint32 // number of the open window
	start, end int64  // of the open window, nanoseconds since 1970
	table      *table
	absent     uint32 // series in table that were not in the window before

	accepted, live [Kinds]uint64 // samples in windows that are closed, in table
	folded         [Kinds]uint64 // samples since the start whose series stands in for theirs

	// Links from spellings to series, in two generations: a link that is used
	// moves to hot; cold is dropped as a whole when hot has aged or grown enough.
	// So spellings that are no longer written go, without ever being searched for.
	hot, cold links
	aged      int // windows since hot was begun

	// Links made in the open window to series that were in it already, by what they
	// lead to: spellings of the same series share one, so that a flood of spellings
	// takes two cells of the table.
	fresh map[target]*link

	key Key     // scratch of resolve
	at  spelled // scratch of find: what is looked up
}

type target struct {
	entry       *entry
	cut, folded bool
}

// A link is what is remembered of a spelling.
type link struct {
	entry   *entry
	window  uint32 // that place is about
	place   uint32 // of the series' cell in the table
	refused Reason
	cut     bool // a tag was
	folded  bool // the series stands in for the one that was written
}

// linkWindows is how many windows a generation of links lasts: idle spellings
// are forgotten after one to two times that.
const linkWindows = 60

// linksPerSeries bounds the links of all intakes together, per series that may
// be open: two spellings each, in two generations. An intake that is left without
// any still has minLinks.
const (
	linksPerSeries = 4
	minLinks       = 1024
)

func (in *Intake) open(window uint32, start, end int64, t *table) {
	in.window, in.start, in.end, in.table = window, start, end, t
}

// rotate hands over the table and opens another window.
func (in *Intake) rotate(window uint32, start, end int64, empty *table) (full *table, absent uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	full, absent = in.table, in.absent
	in.open(window, start, end, empty)
	for k, n := range in.live {
		in.accepted[k] += n
	}
	in.absent, in.live = 0, [Kinds]uint64{}
	if len(in.fresh) > 0 {
		in.fresh = make(map[target]*link) // a large map stays large for ever
	}
	if in.aged++; in.aged >= linkWindows {
		in.age()
	}
	return full, absent
}

func (in *Intake) age() {
	in.home.links.Add(-int64(in.cold.len))
	in.hot, in.cold = links{}, in.hot
	in.aged = 0
}

// Close says that there will be no Add any more. What was added is in the next
// window, as ever; after that the aggregator forgets the intake.
func (in *Intake) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.forget()
}

// forget drops all links. Those of the open window are made anew, with cells of
// their own, which the window puts together when it is closed.
func (in *Intake) forget() {
	in.home.links.Add(-int64(in.hot.len + in.cold.len))
	in.hot, in.cold, in.fresh = links{}, links{}, make(map[target]*link)
	in.aged = 0
}

// From says who sends what is added from now on: text for Folded.Sender. It is
// called by whom Add is called by.
func (in *Intake) From(sender string) { in.from = sender }

// Add takes a batch of samples that arrived at now, in nanoseconds since 1970.
// It answers how many of them it marked, by setting Refused or the flag TagCut.
// The batch is the caller's again when Add returns; nothing of it is kept.
func (in *Intake) Add(now int64, batch []Sample) (marked int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var l *link
	for i := range batch {
		s := &batch[i]
		if s.Flags&Same == 0 || l == nil {
			l = in.find(s)
		}
		reason := l.refused
		if reason == Taken {
			if reason = in.take(now, l, s); l.folded && reason == Taken {
				in.folded[s.Kind]++
			}
		}
		if s.Refused = reason; l.cut {
			s.Flags |= TagCut
		}
		if reason != Taken || l.cut {
			marked++
		}
	}
	return marked
}

func (in *Intake) take(now int64, l *link, s *Sample) Reason {
	if s.Time != 0 && (s.Time < in.start || s.Time >= in.end) {
		return in.home.late.take(in.options, now, l.entry, s)
	}
	if s.Kind >= Distribution && in.home.memory.full() {
		return TooMuchMemory
	}
	switch s.Kind {
	case Counter:
		cellOf(in, l, &in.table.counters).value.take(s)
	case Gauge:
		v, time, seq := l.entry.running.take(s, now, in.options.NegativeDelta)
		cellOf(in, l, &in.table.gauges).value.take(v, time, seq)
	case Distribution:
		in.charge(cellOf(in, l, &in.table.distributions).value.take(s))
	case Set:
		in.charge(cellOf(in, l, &in.table.sets).value.take(s.Member, in.options.MaxSetMembers))
	}
	in.live[s.Kind]++
	return Taken
}

// cellOf returns the cell of a link's series in the open window.
func cellOf[V any](in *Intake, l *link, s *slab[V]) *cell[V] {
	if l.window == in.window {
		return s.at(int(l.place))
	}
	place, c := s.next(l.entry)
	l.window, l.place = in.window, uint32(place)
	if place%slabSize == 0 {
		in.charge(slabSize * int(unsafe.Sizeof(*c)))
	}
	// A reader that is a window ahead of this one may have been here before: then
	// it is unknown, and counted.
	if last := l.entry.window.Swap(in.window); last != in.window && last+1 != in.window {
		in.absent++
	}
	return c
}

// charge notes that a value has grown by so many bytes.
func (in *Intake) charge(grown int) {
	if grown != 0 {
		in.table.bytes += grown
		in.home.memory.add(grown)
	}
}

// find returns the link of a sample's spelling, making one on a miss.
func (in *Intake) find(s *Sample) *link {
	in.at = in.home.keys.spell(s)
	if l := in.hot.find(in.at); l != nil && in.follow(l) {
		return l
	}
	if l := in.cold.find(in.at); l != nil && in.follow(l) {
		in.remember(l)
		return l
	}
	return in.resolve(s)
}

// follow answers whether l still leads somewhere; from now on it does until
// the window closes.
func (in *Intake) follow(l *link) bool {
	return l.window == in.window || l.entry == nil || l.entry.use(in.window)
}

// resolve takes a spelling apart and links it to its series.
func (in *Intake) resolve(s *Sample) *link {
	in.key.Reset(s.Kind)
	reason := in.spelling.Name(&in.key, s)
	if reason == Taken {
		reason = in.key.check()
	}
	if reason != Taken {
		l := &link{refused: reason, cut: in.key.Cut}
		in.remember(l)
		return l
	}
	e, own, first := in.home.registry.resolve(&in.key, in.window, in.from)
	to := target{entry: e, cut: in.key.Cut, folded: !own}
	l := in.fresh[to]
	if l == nil {
		if l = first; l == nil {
			l = &link{entry: e}
		}
		l.cut, l.folded = to.cut, to.folded
		if e.window.Load() >= in.window { // most series have one spelling, whose cell is their first
			in.fresh[to] = l
		}
	}
	if own { // a flood of new spellings must not push out the links of the others
		in.remember(l)
	}
	return l
}

func (in *Intake) remember(l *link) {
	limit := linksPerSeries * in.options.MaxSeries
	if in.hot.len >= max(limit/2, minLinks) || in.hot.len >= minLinks && in.home.links.Load() >= int64(limit) {
		in.age()
	}
	before := in.hot.len
	in.hot.put(in.at, l)
	in.home.links.Add(int64(in.hot.len - before))
}

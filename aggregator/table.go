package aggregator

// A table holds what one intake has collected in one window: for each series
// it met a cell, in the order of meeting. It is filled by its intake, handed
// over to the window at Rotate as it is, and reused after Release.
type table struct {
	counters      slab[counter]
	gauges        slab[gauge]
	distributions slab[distribution]
	sets          slab[set]
	bytes         int // of all of it, as charged to the memory
}

// A cell is one series' value in one table.
type cell[V any] struct {
	entry *entry
	value V
}

// slabSize is the number of cells allocated at once.
const slabSize = 64

// A slab is a list of cells that do not move.
type slab[V any] struct {
	chunks []*[slabSize]cell[V]
	len    int
}

// next adds a cell, whose value is as it was left by reset, and answers its
// place.
func (s *slab[V]) next(e *entry) (place int, c *cell[V]) {
	if s.len == len(s.chunks)*slabSize {
		s.chunks = append(s.chunks, new([slabSize]cell[V]))
	}
	place = s.len
	s.len++
	c = s.at(place)
	c.entry = e
	return place, c
}

func (s *slab[V]) at(place int) *cell[V] { return &s.chunks[place/slabSize][place%slabSize] }

// reset empties the slab for the next window. It keeps the memory that was
// used this time, so that what a burst took is given back one window later.
func (s *slab[V]) reset(value func(*V)) {
	for i := range s.len {
		c := s.at(i)
		c.entry = nil
		value(&c.value)
	}
	used := (s.len + slabSize - 1) / slabSize
	clear(s.chunks[used:])
	s.chunks = s.chunks[:used]
	s.len = 0
}

func (t *table) reset() {
	t.bytes = 0
	t.counters.reset(func(c *counter) { *c = counter{} })
	t.gauges.reset(func(g *gauge) { *g = gauge{} })
	t.distributions.reset((*distribution).reset)
	t.sets.reset((*set).reset)
}

// collect adds the table's values to those of a window.
func (t *table) collect(w *Window) {
	collect(&t.counters, w, Counter, func(c *counter) aggregate { return c })
	collect(&t.gauges, w, Gauge, func(g *gauge) aggregate { return g })
	collect(&t.distributions, w, Distribution, func(d *distribution) aggregate { return d })
	collect(&t.sets, w, Set, func(s *set) aggregate { return s })
}

func collect[V any](s *slab[V], w *Window, kind Kind, as func(*V) aggregate) {
	for i := range s.len {
		c := s.at(i)
		w.add(c.entry.series, kind, as(&c.value))
	}
}

// cells returns how many series the table holds.
func (t *table) cells() int {
	return t.counters.len + t.gauges.len + t.distributions.len + t.sets.len
}

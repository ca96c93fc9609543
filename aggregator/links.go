package aggregator

import "math/bits"

// links finds what is remembered of spellings. It is one table with open addressing as
// long as there are few, and many when there are many: then none takes long to grow,
// and a reader that meets a new spelling does not wait for that. A lookup takes half of the
// time that one in a map takes, for what it looks for is a hash already.
type links struct {
	tables []linkTable // a power of two, by the lower bits of the first hash
	len    int
}

// A linkTable has a spelling in the first free slot from where the upper bits of its
// first hash point.
type linkTable struct {
	slots []linked
	used  int
}

type linked struct {
	at   spelled
	link *link // nil: the slot is free
}

// Of the one table at most half of the slots are used, so that most lookups end at the
// first; of many at most four fifths, and they grow by half. What is beyond oneTable spellings
// is spread over manyTables.
const (
	minLinked  = 8
	oneTable   = 2048
	manyTables = 256
)

func (x *links) find(at spelled) *link {
	if x.len == 0 {
		return nil
	}
	t := &x.tables[at[0]&uint64(len(x.tables)-1)]
	for i := t.home(at); i < len(t.slots); {
		s := &t.slots[i]
		if s.at == at || s.link == nil {
			return s.link
		}
		if i++; i == len(t.slots) {
			i = 0
		}
	}
	return nil // the table is empty
}

// put notes a link, in the place of another of the same spelling.
func (x *links) put(at spelled, l *link) {
	switch {
	case len(x.tables) == 0:
		x.tables = make([]linkTable, 1)
	case len(x.tables) == 1 && x.len >= oneTable:
		x.spread()
	}
	t := &x.tables[at[0]&uint64(len(x.tables)-1)]
	if len(x.tables) == 1 && 2*(t.used+1) > len(t.slots) {
		t.grow(2 * len(t.slots))
	} else if 5*(t.used+1) > 4*len(t.slots) {
		t.grow(len(t.slots) + len(t.slots)/2)
	}
	if t.place(at, l) {
		x.len++
	}
}

func (x *links) spread() {
	old := x.tables[0].slots
	*x = links{tables: make([]linkTable, manyTables)}
	for i := range old {
		if s := &old[i]; s.link != nil {
			x.put(s.at, s.link)
		}
	}
}

// home is where a spelling is looked for first.
func (t *linkTable) home(at spelled) int {
	i, _ := bits.Mul64(at[0], uint64(len(t.slots)))
	return int(i)
}

func (t *linkTable) grow(slots int) {
	old := t.slots
	*t = linkTable{slots: make([]linked, max(slots, minLinked))}
	for i := range old {
		if s := &old[i]; s.link != nil {
			t.place(s.at, s.link)
		}
	}
}

// place answers whether the spelling is new.
func (t *linkTable) place(at spelled, l *link) bool {
	i := t.home(at)
	for t.slots[i].link != nil && t.slots[i].at != at {
		if i++; i == len(t.slots) {
			i = 0
		}
	}
	fresh := t.slots[i].link == nil
	t.slots[i] = linked{at, l}
	if fresh {
		t.used++
	}
	return fresh
}

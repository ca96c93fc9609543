package aggregator

import "hash/maphash"

// An index finds entries by their key, or by that of their metric. It is many small
// tables rather than a large one: none takes long to grow, and each gives its memory back
// by itself. An entry takes 8 bytes and the room that is left between them.
type index struct {
	seed   maphash.Seed
	metric bool // by name and kind
	len    int
	shards [256]shard
}

// A shard is a table with open addressing: an entry is in the first free slot
// from where its hash points. At most three quarters are used.
type shard struct {
	slots []*entry // a power of two
	used  int
}

const minSlots = 8

func newIndex(metric bool) *index { return &index{seed: maphash.MakeSeed(), metric: metric} }

func (x *index) key(e *entry) string {
	if x.metric {
		return e.series.metric()
	}
	return e.series.key
}

func (x *index) find(key []byte) *entry {
	h := maphash.Bytes(x.seed, key)
	s := &x.shards[byte(h)]
	for i := h >> 8; s.used > 0; i++ {
		e := s.slots[i&uint64(len(s.slots)-1)]
		if e == nil || x.key(e) == string(key) {
			return e
		}
	}
	return nil
}

// put adds an entry whose key is not there yet.
func (x *index) put(e *entry) {
	h := maphash.String(x.seed, x.key(e))
	s := &x.shards[byte(h)]
	if 4*(s.used+1) > 3*len(s.slots) {
		x.resize(s, max(2*len(s.slots), minSlots))
	}
	s.place(h, e)
	x.len++
}

func (s *shard) place(h uint64, e *entry) {
	i, mask := h>>8, uint64(len(s.slots)-1)
	for s.slots[i&mask] != nil {
		i++
	}
	s.slots[i&mask] = e
	s.used++
}

// resize puts the entries of a shard into so many slots.
func (x *index) resize(s *shard, slots int) {
	old := s.slots
	*s = shard{}
	if slots > 0 {
		s.slots = make([]*entry, slots)
	}
	for _, e := range old {
		if e != nil {
			s.place(maphash.String(x.seed, x.key(e)), e)
		}
	}
}

// remove takes an entry out that is there. Those behind it move up, so that each is
// still found from where its hash points.
func (x *index) remove(e *entry) {
	h := maphash.String(x.seed, x.key(e))
	s := &x.shards[byte(h)]
	mask := uint64(len(s.slots) - 1)
	i := h >> 8 & mask
	for s.slots[i] != e {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; s.slots[j] != nil; j = (j + 1) & mask {
		home := maphash.String(x.seed, x.key(s.slots[j])) >> 8 & mask
		if (j-home)&mask >= (j-i)&mask { // it may stand at i
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = nil
	s.used--
	x.len--
	if len(s.slots) > minSlots && 8*s.used < len(s.slots) {
		x.resize(s, len(s.slots)/2)
	}
}

// drop takes those entries out of a shard that gone says are to go.
func (x *index) drop(s *shard, gone func(*entry) bool) {
	before := s.used
	for i, e := range s.slots {
		if e != nil && gone(e) {
			s.slots[i] = nil
			s.used--
		}
	}
	if s.used == before {
		return
	}
	x.len -= before - s.used
	slots := minSlots
	for 4*s.used > 3*slots {
		slots *= 2
	}
	if s.used == 0 {
		slots = 0
	}
	x.resize(s, slots)
}

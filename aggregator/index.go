package aggregator

import "hash/maphash"

// An index finds entries by their key, or by that of their metric. It is many small
// tables rather than a large one: none takes long to grow, and each gives its memory back
// by itself. An entry takes 12 bytes and the room that is left between them.
type index struct {
	seed   maphash.Seed
	metric bool // by name and kind
	len    int
	shards [256]shard
}

// A shard is a table with open addressing: an entry is in the first free slot
// from where its hash points; at most seven eighths of the slots are used. The hashes stand
// by themselves, so that entries, which are all over the memory, are touched neither to find
// that one is not there nor to grow.
type shard struct {
	hashes  []uint32 // 0: the slot is free
	entries []*entry
	used    int
}

const minSlots = 8

func newIndex(metric bool) *index { return &index{seed: maphash.MakeSeed(), metric: metric} }

func (x *index) key(e *entry) string {
	if x.metric {
		return e.series.metric()
	}
	return e.series.key
}

// hash is what find and put are to be given of a key.
func (x *index) hash(key []byte) uint64 { return maphash.Bytes(x.seed, key) }

// split tells the shard of a hash and what stands there of it.
func (x *index) split(hash uint64) (*shard, uint32) {
	return &x.shards[byte(hash)], max(uint32(hash>>32), 1)
}

// home is the slot where a hash is looked for first.
func (s *shard) home(h uint32) int { return int(uint64(h) * uint64(len(s.hashes)) >> 32) }

func (s *shard) next(i int) int {
	if i++; i == len(s.hashes) {
		return 0
	}
	return i
}

func (x *index) find(hash uint64, key []byte) *entry {
	s, h := x.split(hash)
	if s.used == 0 {
		return nil
	}
	for i := s.home(h); s.hashes[i] != 0; i = s.next(i) {
		if s.hashes[i] == h && x.key(s.entries[i]) == string(key) {
			return s.entries[i]
		}
	}
	return nil
}

// put adds an entry whose key is not there yet.
func (x *index) put(hash uint64, e *entry) {
	s, h := x.split(hash)
	if n := len(s.hashes); 8*(s.used+1) > 7*n {
		s.resize(max(n+n/2, minSlots))
	}
	s.place(h, e)
	x.len++
}

func (s *shard) place(h uint32, e *entry) {
	i := s.home(h)
	for s.hashes[i] != 0 {
		i = s.next(i)
	}
	s.hashes[i], s.entries[i] = h, e
	s.used++
}

// resize puts the entries of a shard into so many slots.
func (s *shard) resize(slots int) {
	old := *s
	*s = shard{}
	if slots > 0 {
		s.hashes, s.entries = make([]uint32, slots), make([]*entry, slots)
	}
	for i, h := range old.hashes {
		if h != 0 {
			s.place(h, old.entries[i])
		}
	}
}

// remove takes an entry out that is there. Those behind it move up, so that each is
// still found from where its hash points.
func (x *index) remove(e *entry) {
	s, h := x.split(maphash.String(x.seed, x.key(e)))
	i, n := s.home(h), len(s.hashes)
	for s.entries[i] != e {
		i = s.next(i)
	}
	for j := s.next(i); s.hashes[j] != 0; j = s.next(j) {
		if home := s.home(s.hashes[j]); (j-home+n)%n >= (j-i+n)%n { // it may stand at i
			s.hashes[i], s.entries[i] = s.hashes[j], s.entries[j]
			i = j
		}
	}
	s.hashes[i], s.entries[i] = 0, nil
	s.used--
	x.len--
	if n > minSlots && 8*s.used < n {
		s.resize(n / 2)
	}
}

// drop takes those entries out of a shard that gone says are to go.
func (x *index) drop(s *shard, gone func(*entry) bool) {
	before := s.used
	for i, e := range s.entries {
		if e != nil && gone(e) {
			s.hashes[i], s.entries[i] = 0, nil
			s.used--
		}
	}
	if s.used == before {
		return
	}
	x.len -= before - s.used
	slots := 0
	if s.used > 0 {
		slots = max(s.used+s.used/2, minSlots)
	}
	s.resize(slots)
}

package spool

import (
	"slices"
)

// logged is a record of the index with what is needed to find its parts.
type logged struct {
	Entry
	bind        uint32
	parts       uint16
	first, last uint64 // numbers of the segments it lies in; mostly the same
}

// index is every complete record on disk, ascending by sequence.
type index []logged

// after gives the position of the first record from seq on.
func (x index) after(seq uint64) int {
	i, _ := slices.BinarySearchFunc(x, seq, func(l logged, s uint64) int {
		switch {
		case l.Seqs.From < s:
			return -1
		case l.Seqs.From > s:
			return 1
		}
		return 0
	})
	return i
}

// put adds a record. Of records that have sequences in common the one that
// stands for more wins: it was made of the others, of which a crash may have left
// some. Of two with the same sequences it is the newer writing, because an append
// that answered an error may have come through all the same and was then repeated
// under the same number.
func (x index) put(l logged) index {
	i := x.after(l.Seqs.From)
	if i > 0 && x[i-1].Seqs.To > l.Seqs.From {
		i--
	}
	j := i
	for ; j < len(x) && x[j].Seqs.From < l.Seqs.To; j++ {
		if x[j].Seqs.length() > l.Seqs.length() {
			return x
		}
	}
	return slices.Replace(x, i, j, l)
}

// samples adds up the samples of the records from seq on.
func (x index) samples(seq uint64) (sum [Kinds]uint64) {
	for i := x.after(seq); i < len(x); i++ {
		addTo(&sum, &x[i].Samples)
	}
	return sum
}

// pending adds up the samples of the records before seq that p still owes. Every
// transaction does so: it costs what is owed, not what is kept.
func (x index) pending(p Pending, seq uint64) (sum [Kinds]uint64) {
	for _, r := range p {
		end := x.after(min(r.To, seq))
		for i := x.after(r.From); i < end; i++ {
			addTo(&sum, &x[i].Samples)
		}
	}
	return sum
}

// assembly puts records together from their parts while segments are scanned
// in ascending order.
type assembly struct {
	open  map[assemblyKey]*partial
	done  index
	full  map[uint64]bool // numbers of segments with a complete record, whether it counts or not
	next  uint64          // greater than every sequence seen
	newer []cursor        // of the greatest sequence with a readable meta
	of    uint64          // that sequence
}

type assemblyKey struct {
	seq  uint64
	bind uint32
}

type partial struct {
	logged
	meta bool
	have []bool // by part
	got  int
}

// streamed tells whether it is the beginning of a record that was written part
// by part: how many there were to be is not known.
func (p *partial) streamed() bool { return p.parts == 0 }

func (a *assembly) add(segment uint64, f frame) {
	a.next = max(a.next, f.seqs.To)
	key := assemblyKey{f.seqs.From, f.bind}
	p := a.open[key]
	if p == nil {
		p = &partial{}
		p.Seqs, p.bind, p.first = f.seqs, f.bind, segment
		a.open[key] = p
	}
	if p.parts == 0 && int(f.parts) >= len(p.have) {
		p.parts = f.parts
	}
	if f.parts != 0 && f.parts != p.parts || p.parts != 0 && f.part >= p.parts {
		return
	}
	if more := int(f.part) + 1 - len(p.have); more > 0 {
		p.have = append(p.have, make([]bool, more)...)
	}
	if p.have[f.part] {
		return
	}
	if f.part == 0 {
		m, cursors, err := decodeMeta(f.meta)
		if err != nil {
			return
		}
		p.Meta, p.meta = m, true
		if f.seqs.From >= a.of {
			a.of, a.newer = f.seqs.From, cursors
		}
	}
	p.have[f.part] = true
	p.got++
	p.last = segment
	p.Bytes += uint32(f.body)
	if p.got == int(p.parts) {
		for n := p.first; n <= p.last; n++ {
			a.full[n] = true
		}
		a.done = a.done.put(p.logged)
		delete(a.open, key)
	}
}

package spool

import (
	"fmt"
	"math"
	"slices"
)

// Open is the end of a range that has no end yet: it takes in every record
// still to come.
const Open = math.MaxUint64

// RangesMax is the most ranges that one Pending may have. Each costs 16 bytes
// in every record's meta, and a planner that needs more holes than this is to
// drain the oldest stretch first.
const RangesMax = 64

// Range is a stretch of sequences, half open: From is in it, To is not.
// To == Open reaches beyond every record.
type Range struct{ From, To uint64 }

// Contains tells whether seq lies in r.
func (r Range) Contains(seq uint64) bool { return r.From <= seq && seq < r.To }

// Empty tells whether no sequence lies in r.
func (r Range) Empty() bool { return r.From >= r.To }

func (r Range) length() uint64 { return r.To - r.From }

// Overlaps tells whether some sequence lies in both.
func (r Range) Overlaps(o Range) bool { return max(r.From, o.From) < min(r.To, o.To) }

// Pending is what one upstream is still owed: ranges that are ascending,
// disjoint, not adjacent, at most RangesMax, the last one open. Methods do not
// change it; a Pending may be shared.
type Pending []Range

// Contains tells whether seq is still owed.
func (p Pending) Contains(seq uint64) bool {
	i, ok := p.find(seq)
	return ok && p[i].Contains(seq)
}

// Overlaps tells whether anything in r is still owed.
func (p Pending) Overlaps(r Range) bool {
	for _, have := range p {
		if have.Overlaps(r) {
			return true
		}
	}
	return false
}

// find gives the last range that starts at or before seq.
func (p Pending) find(seq uint64) (int, bool) {
	i, exact := slices.BinarySearchFunc(p, seq, func(r Range, s uint64) int {
		switch {
		case r.From < s:
			return -1
		case r.From > s:
			return 1
		}
		return 0
	})
	if exact {
		return i, true
	}
	return i - 1, i > 0
}

// Without gives p less r: it advances p when r starts where p does, and
// punches a hole otherwise. It answers p itself and false when the hole would
// need more than RangesMax ranges; drain the oldest range first then. The last
// range stays open, so an r that reaches Open is refused, too.
func (p Pending) Without(r Range) (Pending, bool) {
	if r.Empty() {
		return p, true
	}
	if r.To == Open {
		return p, false
	}
	out := make(Pending, 0, len(p)+1)
	for _, have := range p {
		if !have.Overlaps(r) {
			out = append(out, have)
			continue
		}
		if left := (Range{have.From, r.From}); !left.Empty() {
			out = append(out, left)
		}
		if right := (Range{r.To, have.To}); !right.Empty() {
			out = append(out, right)
		}
	}
	if len(out) > RangesMax {
		return p, false
	}
	return out, true
}

// Existing gives p less what there is no record of: of each range what lies between the
// first and the last of its records, which are all entries that p owes, ascending. Of the
// last, which stays open, nothing from next on is taken: those are still to come.
func (p Pending) Existing(entries []Entry, next uint64) Pending {
	out := make(Pending, 0, len(p))
	for _, r := range p {
		var has Range
		for ; len(entries) > 0 && entries[0].Seqs.From < r.To; entries = entries[1:] {
			if has.Empty() {
				has.From = max(entries[0].Seqs.From, r.From)
			}
			has.To = min(entries[0].Seqs.To, r.To)
		}
		if r.To == Open {
			if has.Empty() {
				has.From = max(r.From, next)
			}
			has.To = Open
		}
		if !has.Empty() {
			out = append(out, has)
		}
	}
	return out
}

// Samples adds up, per kind, the samples of the entries that are still owed.
// An entry that stands for several sequences counts when its first is owed:
// such entries are only made where the whole range is.
func (p Pending) Samples(entries []Entry) (sum [Kinds]uint64) {
	for i := range entries {
		if p.Contains(entries[i].Seqs.From) {
			addTo(&sum, &entries[i].Samples)
		}
	}
	return sum
}

// Valid says what is wrong with p, or nil.
func (p Pending) Valid() error {
	if n := len(p); n == 0 || n > RangesMax {
		return fmt.Errorf("pending has %d ranges, want 1 to %d", n, RangesMax)
	}
	var end uint64
	for i, r := range p {
		if r.Empty() || (i > 0 && r.From <= end) {
			return fmt.Errorf("pending range %d [%d,%d) is empty or not beyond %d", i, r.From, r.To, end)
		}
		end = r.To
	}
	if end != Open {
		return fmt.Errorf("pending ends at %d, want it open", end)
	}
	return nil
}

func addTo(sum, n *[Kinds]uint64) {
	for k := range sum {
		sum[k] += n[k]
	}
}

package aggregator

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/axiomhq/hyperloglog"
	"github.com/cespare/xxhash/v2"
)

// maxSetBytes bounds one exact set as encoded: each member's text and 3 bytes
// for its length. It keeps a set well within a part (see maxPart).
const (
	maxSetBytes    = 1 << 20
	memberOverhead = 3
)

// A set knows its members up to a limit, and their number within about 2 %
// beyond: then it is a HyperLogLog of 2^14 registers (16 KiB), fed with
// xxhash64, from the start dense so that its estimate does not depend on the
// order in which members came.
type set struct {
	samples uint64
	members map[string]struct{}
	bytes   int // as encoded, see maxSetBytes
	sketch  *hyperloglog.Sketch
}

// take adds a member. It answers by how many bytes that made the set grow.
func (s *set) take(member []byte, limit int) (grown int) {
	s.samples++
	if s.sketch != nil {
		s.sketch.InsertHash(xxhash.Sum64(member))
		return 0
	}
	if _, ok := s.members[string(member)]; ok {
		return 0
	}
	if s.members == nil {
		s.members = make(map[string]struct{})
	}
	s.members[string(member)] = struct{}{}
	s.bytes += len(member) + memberOverhead
	was := len(s.members) * memberBytes
	if s.settle(limit); s.sketch != nil {
		return estimateBytes - was // of the text nothing is taken off: it is an estimate
	}
	return len(member) + memberBytes
}

// What a member takes beside its text, in a map that may just have grown, and
// what an estimate takes.
const (
	memberBytes   = 64
	estimateBytes = 17 << 10
)

func (s *set) merge(o *set, limit int) {
	s.samples += o.samples
	if o.sketch != nil && s.sketch == nil {
		s.estimate()
	}
	if o.sketch != nil {
		// Same precision and both dense: the only errors Merge knows are about these.
		if err := s.sketch.Merge(o.sketch); err != nil {
			panic("aggregator: merge sets: " + err.Error())
		}
		return
	}
	for m := range o.members {
		s.samples-- // take counts it
		s.take([]byte(m), limit)
	}
}

// settle turns the set into an estimate when it is over its limits.
func (s *set) settle(limit int) {
	if s.sketch == nil && (len(s.members) > limit || s.bytes > maxSetBytes) {
		s.estimate()
	}
}

func (s *set) estimate() {
	s.sketch = hyperloglog.NewNoSparse()
	for m := range s.members {
		s.sketch.InsertHash(xxhash.Sum64String(m))
	}
	s.members, s.bytes = nil, 0
}

func (s *set) reset() {
	members := s.members
	clear(members)
	if s.bytes > 1<<12 { // a large map stays large for ever
		members = nil
	}
	*s = set{members: members}
}

const (
	setExact    = 0
	setEstimate = 1
)

// denseHeader begins an encoded HyperLogLog: version 2, precision 14, no bias,
// dense (hyperloglog.Sketch.UnmarshalBinary).
var denseHeader = [4]byte{2, 14, 0, 0}

func (s *set) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.samples)
	if s.sketch != nil {
		data, err := s.sketch.MarshalBinary()
		if err != nil {
			panic("aggregator: encode set: " + err.Error()) // it writes to memory
		}
		dst = append(dst, setEstimate)
		dst = binary.AppendUvarint(dst, uint64(len(data)))
		return append(dst, data...)
	}
	dst = append(dst, setExact)
	dst = binary.AppendUvarint(dst, uint64(len(s.members)))
	for _, m := range slices.Sorted(maps.Keys(s.members)) {
		dst = binary.AppendUvarint(dst, uint64(len(m)))
		dst = append(dst, m...)
	}
	return dst
}

func (s *set) decode(d *decoder) {
	s.samples = d.uvarint()
	switch d.byte() {
	case setExact:
		n := d.uvarint()
		if n > uint64(len(d.b)) { // each member takes a byte at least
			d.fail()
			return
		}
		s.members = make(map[string]struct{}, min(n, 1<<14)) // n is only a claim
		last := ""
		for i := range n {
			m := string(d.bytes(d.uvarint()))
			if d.err != nil || i > 0 && m <= last {
				d.fail()
				return
			}
			s.members[m] = struct{}{}
			s.bytes += len(m) + memberOverhead
			last = m
		}
	case setEstimate:
		data := d.bytes(d.uvarint())
		// Only the form that append writes: sketches of another precision do not merge.
		if len(data) < len(denseHeader) || [4]byte(data) != denseHeader {
			d.fail()
			return
		}
		s.sketch = hyperloglog.NewNoSparse()
		if err := s.sketch.UnmarshalBinary(data); err != nil {
			d.fail()
		}
	default:
		d.fail()
	}
}

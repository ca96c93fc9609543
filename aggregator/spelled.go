package aggregator

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// spelled stands for a spelling in the links: two hashes of it under secret keys. The
// text itself would take more memory than everything else that is kept of a series. That
// two of a million spellings are taken for each other has a chance of 1 in 10^26;
// memory that fails silently is likelier by far.
type spelled [2]uint64

// hashKeys are secret, so that nobody can look for spellings that are taken for each other,
// or that make lookups slow.
type hashKeys [8]uint64

func newHashKeys() (k hashKeys) {
	for i := range k {
		k[i] = rand.Uint64() | 1
	}
	return k
}

// spell hashes kind, origin, head and tags, of which none can be taken for part of
// another. The two hashes are those with which the Go runtime's maps do on processors
// without AES (memhashFallback in runtime/hash64.go, after wyhash): products of 128 bits, whose
// halves are put together. Both are made in one pass over the text where it stands.
func (k *hashKeys) spell(s *Sample) spelled {
	which := uint64(s.Kind)<<56 | uint64(len(s.Head))<<32 | uint64(s.Origin)
	tags := uint64(len(s.Tags))
	a, b := mix(which^k[0], tags^k[1]), mix(which^k[2], tags^k[3])
	a, b = k.text(a, b, s.Head)
	a, b = k.text(a, b, s.Tags)
	return spelled{mix(a^k[4], k[5]), mix(b^k[6], k[7])}
}

func (k *hashKeys) text(a, b uint64, p []byte) (uint64, uint64) {
	for ; len(p) > 16; p = p[16:] {
		x, y := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		a, b = mix(x^a^k[0], y^k[1]), mix(x^k[2], y^b^k[3])
	}
	var x, y uint64 // up to 16 bytes; those that are in both are no harm, for the length is known
	switch n := len(p); {
	case n >= 8:
		x, y = binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[n-8:])
	case n >= 4:
		x, y = uint64(binary.LittleEndian.Uint32(p)), uint64(binary.LittleEndian.Uint32(p[n-4:]))
	case n > 0:
		x = uint64(p[0])<<16 | uint64(p[n/2])<<8 | uint64(p[n-1])
	}
	return mix(x^a^k[4], y^k[5]), mix(x^k[6], y^b^k[7])
}

func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

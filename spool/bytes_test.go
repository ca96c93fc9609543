package spool

import (
	"slices"
	"testing"
)

// TestEveryBit: whichever bit of whichever record is wrong, it is refused, and
// so is every record under another's key.
func TestEveryBit(t *testing.T) {
	b := batchOf(9, 3)
	content, raw := encodeContent(3, &b)
	h := head{Batch: b, raw: uint32(raw), stored: uint32(len(content))}
	h.Seq = 3
	st := newState(Pending{{1, 3}, {5, Open}}, 5)
	st.group = &Group{Seqs: Range{1, 3}, After: []byte("x")}
	st.drop("x", Amounts{1: {1, 2}})
	st.requests = append(st.requests, t0)
	meta := appendMeta(nil, &Meta{ID: 1, Start: t0}, []cursor{{"flux", 7, st.pending}})
	for name, c := range map[string]struct {
		key, value []byte
		decode     func(key, v []byte) error
	}{
		"frame":    {partKey(5, 0), encodeFrames(Range{5, 6}, meta, [][]byte{[]byte("body")})[0], func(k, v []byte) error { _, _, err := decodeFrame(k, v); return err }},
		"content":  {seqKey(3), content, func(k, v []byte) error { return decodeContent(be.Uint64(k), v, &Batch{Lane: Metrics}) }},
		"head":     {seqKey(3), encodeHead(&h), func(k, v []byte) error { _, err := decodeHeadRecord(be.Uint64(k), v); return err }},
		"letter":   {seqKey(3), encodeLetter(&DeadLetter{ID: 3}), func(k, v []byte) error { _, err := decodeLetter(k, v); return err }},
		"state":    {nil, st.encode(), func(_, v []byte) error { _, err := decodeState(v, st.encodeLedger(), nil); return err }},
		"ledger":   {nil, st.encodeLedger(), func(_, v []byte) error { _, err := decodeState(st.encode(), v, nil); return err }},
		"requests": {nil, st.encodeRequests(), func(_, v []byte) error { _, err := decodeState(st.encode(), st.encodeLedger(), v); return err }},
	} {
		if err := c.decode(c.key, c.value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for bit := range 8 * len(c.value) {
			v := slices.Clone(c.value)
			v[bit/8] ^= 1 << (bit % 8)
			if c.decode(c.key, v) == nil {
				t.Errorf("%s: a wrong bit %d is not seen", name, bit)
			}
		}
		for n := range c.value {
			if c.decode(c.key, c.value[:n]) == nil {
				t.Errorf("%s: cut off at %d is not seen", name, n)
			}
		}
		if c.key != nil {
			other := slices.Clone(c.key)
			other[7]++
			if c.decode(other, c.value) == nil {
				t.Errorf("%s: not refused under another key", name)
			}
		}
	}
}

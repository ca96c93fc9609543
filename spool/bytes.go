package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"
)

// Everything that spool writes is big endian and closed by a CRC-32C
// (Castagnoli, RFC 3720 appendix B.4), which is computed in hardware on amd64
// and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var be = binary.BigEndian

var errShort = errors.New("record is cut off or its CRC-32C is wrong")

// appendTime keeps nanoseconds since 1970; 0 is the zero time.
func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return be.AppendUint64(dst, 0)
	}
	return be.AppendUint64(dst, uint64(t.UnixNano()))
}

// appendText keeps at most 65,535 bytes behind a 2-byte length.
func appendText[T string | []byte](dst []byte, s T) []byte {
	s = s[:min(len(s), math.MaxUint16)]
	return append(be.AppendUint16(dst, uint16(len(s))), s...)
}

func appendCounts(dst []byte, n *[Kinds]uint64) []byte {
	for _, v := range n {
		dst = be.AppendUint64(dst, v)
	}
	return dst
}

func appendAmounts(dst []byte, a *Amounts) []byte {
	for _, v := range a {
		dst = be.AppendUint64(be.AppendUint64(dst, v.Samples), v.Items)
	}
	return dst
}

func appendRange(dst []byte, r Range) []byte {
	return be.AppendUint64(be.AppendUint64(dst, r.From), r.To)
}

// appendPending writes a count byte and 16 bytes a range.
func appendPending(dst []byte, p Pending) []byte {
	dst = append(dst, byte(len(p)))
	for _, r := range p {
		dst = appendRange(dst, r)
	}
	return dst
}

// closed appends the CRC-32C of key and value to value. The key is part of it
// so that a value under another's key is found out.
func closed(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return be.AppendUint32(value, sum)
}

// opened undoes closed. What it gives is part of value.
func opened(key, value []byte) ([]byte, error) {
	if len(value) < 4 {
		return nil, errShort
	}
	body := value[:len(value)-4]
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	if be.Uint32(value[len(body):]) != sum {
		return nil, errShort
	}
	return body, nil
}

// reader takes fields off the front of b. After the first field that is not
// there it gives zeros and bad stays true, so a decoder asks once, at its end.
type reader struct {
	b   []byte
	bad bool
}

// take gives the next n bytes, a part of b, or nil.
func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return be.Uint16(v)
	}
	return 0
}

// more16 is u16 where an earlier release may have written no more: then 0.
func (r *reader) more16() uint16 {
	if len(r.b) == 0 {
		return 0
	}
	return r.u16()
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return be.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return be.Uint64(v)
	}
	return 0
}

func (r *reader) time() time.Time {
	if ns := int64(r.u64()); ns != 0 {
		return time.Unix(0, ns).UTC()
	}
	return time.Time{}
}

func (r *reader) text() []byte { return r.take(int(r.u16())) }

func (r *reader) counts() (n [Kinds]uint64) {
	for k := range n {
		n[k] = r.u64()
	}
	return n
}

func (r *reader) amounts() (a Amounts) {
	for k := range a {
		a[k] = Amount{Samples: r.u64(), Items: r.u64()}
	}
	return a
}

func (r *reader) span() Range { return Range{From: r.u64(), To: r.u64()} }

func (r *reader) pending() Pending {
	p := make(Pending, 0, RangesMax)
	for range r.u8() {
		p = append(p, r.span())
		if r.bad {
			return nil
		}
	}
	return p
}

// err tells whether all fields were there.
func (r *reader) err() error {
	if r.bad {
		return errShort
	}
	return nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

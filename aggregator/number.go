package aggregator

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// A number is a sum that does not depend on the order of its terms: whole
// terms are kept in 128 bits, all others as a float64 with the rounding error
// of every addition beside it (Knuth's two-sum). The whole part is exact for
// any number of terms a process can take; the rest is within one unit in the
// last place of the true sum, unless that overflows: it then stays at
// ±math.MaxFloat64.
type number struct {
	hi        int64  // upper half of the whole part
	lo        uint64 // lower half
	sum, lost float64
}

// maxWhole bounds the floats that go into the whole part: every whole float64
// of at most 2^62 converts to int64 and back without change.
const maxWhole = 1 << 62

func (n *number) addInt(v int64) {
	var carry uint64
	n.lo, carry = bits.Add64(n.lo, uint64(v), 0)
	n.hi += v>>63 + int64(carry)
}

// add takes any float but NaN; infinities saturate.
func (n *number) add(v float64) {
	if math.Abs(v) <= maxWhole && v == math.Trunc(v) {
		n.addInt(int64(v))
		return
	}
	n.addFraction(v)
}

func (n *number) addFraction(v float64) {
	s := n.sum + v
	if math.IsInf(s, 0) {
		n.sum, n.lost = math.Copysign(math.MaxFloat64, s), 0
		return
	}
	t := s - n.sum
	n.lose((n.sum - (s - t)) + (v - t))
	n.sum = s
}

// lose notes a rounding error. Beside sums near the greatest float it can
// overflow, or be of no meaning; what is left out then is below the last place.
func (n *number) lose(v float64) {
	if l := n.lost + v; l-l == 0 { // finite
		n.lost = l
	}
}

func (n *number) merge(o *number) {
	var carry uint64
	n.lo, carry = bits.Add64(n.lo, o.lo, 0)
	n.hi += o.hi + int64(carry)
	n.addFraction(o.sum)
	n.lose(o.lost)
}

// whole answers the value if it has no fraction and fits.
func (n *number) whole() (int64, bool) {
	v := int64(n.lo)
	return v, n.sum == 0 && n.lost == 0 && n.hi == v>>63
}

func (n *number) big() *big.Int {
	b := new(big.Int).SetInt64(n.hi)
	return b.Lsh(b, 64).Add(b, new(big.Int).SetUint64(n.lo))
}

// float returns the value rounded once, within ±math.MaxFloat64.
func (n *number) float() float64 {
	if v, ok := n.whole(); ok {
		return float64(v)
	}
	f := new(big.Float).SetPrec(256).SetInt(n.big())
	f.Add(f, big.NewFloat(n.sum))
	f.Add(f, big.NewFloat(n.lost))
	v, _ := f.Float64()
	return clampFloat(v)
}

func clampFloat(v float64) float64 {
	return max(-math.MaxFloat64, min(v, math.MaxFloat64))
}

// appendJSON writes the value as a JSON number, with all digits if it is whole.
func (n *number) appendJSON(dst []byte) []byte {
	if v, ok := n.whole(); ok {
		return strconv.AppendInt(dst, v, 10)
	}
	if n.sum == 0 && n.lost == 0 {
		return n.big().Append(dst, 10)
	}
	return AppendFloat(dst, n.float())
}

// AppendFloat writes a finite float the shortest way that reads back the same
// and is valid JSON.
func AppendFloat(dst []byte, v float64) []byte {
	if v == 0 {
		return append(dst, '0') // never -0
	}
	format := byte('f')
	if a := math.Abs(v); a < 1e-6 || a >= 1e21 { // as encoding/json does
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}

// Form of a number on disk: one byte of flags, then the whole part as a zigzag
// varint, or as 16 bytes if it does not fit 64 bits; then, if there is a
// fraction, sum and lost as 8 bytes each.
const (
	numberWide     = 1
	numberFraction = 2
)

var errDamaged = errors.New("damaged window")

func (n *number) append(dst []byte) []byte {
	var flags byte
	if n.hi != int64(n.lo)>>63 {
		flags |= numberWide
	}
	if n.sum != 0 || n.lost != 0 {
		flags |= numberFraction
	}
	dst = append(dst, flags)
	if flags&numberWide != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(n.hi))
		dst = binary.LittleEndian.AppendUint64(dst, n.lo)
	} else {
		dst = binary.AppendVarint(dst, int64(n.lo))
	}
	if flags&numberFraction != 0 {
		dst = appendFloat64(dst, n.sum)
		dst = appendFloat64(dst, n.lost)
	}
	return dst
}

func (d *decoder) number() (n number) {
	flags := d.byte()
	if flags&numberWide != 0 {
		n.hi, n.lo = int64(d.uint64()), d.uint64()
	} else {
		v := d.varint()
		n.hi, n.lo = v>>63, uint64(v)
	}
	if flags&numberFraction != 0 {
		n.sum, n.lost = d.finite(), d.finite()
	}
	if flags&^(numberWide|numberFraction) != 0 {
		d.fail()
	}
	return n
}

func appendFloat64(dst []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
}

// A decoder reads values from bytes whose checksum was right; what still does
// not make sense is an error, which stays: later reads answer zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	d.b, d.err = nil, errDamaged
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if uint64(len(d.b)) < n {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) finite() float64 {
	v := math.Float64frombits(d.uint64())
	if math.IsNaN(v) || math.IsInf(v, 0) {
		d.fail()
		return 0
	}
	return v
}

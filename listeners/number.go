package listeners

import (
	"math"
	"strconv"
	"strings"
	"unsafe"

	"sluice/aggregator"
)

// A number is a decimal number as a line writes it.
type number struct {
	value float64 // finite, never -0
	whole int64   // the exact value when exact
	exact bool    // written with digits alone and within int64
	sign  byte    // '+', '-' or 0
}

// powers holds the powers of ten that a float64 represents exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// parse reads all of b: an optional sign, ASCII digits with an optional point,
// an optional exponent. It answers Taken, NonFinite for the words that clients
// write for what is not a finite number, or BadValue.
//
// strconv takes more than this (hexadecimal, underscores), so the form is
// checked here. A number of at most 15 digits, times or over a power of ten of
// at most 22, has both operands exact in a float64, so that one operation
// rounds correctly (Clinger, "How to Read Floating Point Numbers Accurately",
// 1990); what does not fit goes to strconv.
func (n *number) parse(b []byte) aggregator.Reason {
	*n = number{}
	i := 0
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		n.sign = b[0]
		i = 1
	}
	start := i
	var mantissa uint64 // meaningless beyond 19 digits, and then not used
	digits := 0         // of the mantissa, without leading zeros
	for ; i < len(b) && isDigit(b[i]); i++ {
		mantissa = mantissa*10 + uint64(b[i]-'0')
		if digits > 0 || b[i] != '0' {
			digits++
		}
	}
	written := i - start
	if i == len(b) && written > 0 {
		if n.setWhole(mantissa, digits) {
			return aggregator.Taken
		}
		return n.parseSlowly(b)
	}
	exponent := 0
	if i < len(b) && b[i] == '.' {
		i++
		point := i
		for ; i < len(b) && isDigit(b[i]); i++ {
			mantissa = mantissa*10 + uint64(b[i]-'0')
			if digits > 0 || b[i] != '0' {
				digits++
			}
		}
		written += i - point
		exponent = point - i
	}
	if written == 0 {
		return notANumber(b[start:])
	}
	if i < len(b) {
		e, ok := parseExponent(b[i:])
		if !ok {
			return aggregator.BadValue
		}
		exponent += e
	}
	switch {
	case digits > 15 || exponent < -22 || exponent > 22:
		return n.parseSlowly(b)
	case exponent < 0:
		n.setValue(float64(mantissa) / powers[-exponent])
	default:
		n.setValue(float64(mantissa) * powers[exponent])
	}
	return aggregator.Taken
}

// setWhole sets the number from its digits if that is exact.
func (n *number) setWhole(mantissa uint64, digits int) bool {
	switch {
	case digits > 19: // 10^19 - 1 is below 2^64, so 19 digits have not wrapped around
		return false
	case mantissa <= math.MaxInt64:
		n.whole = int64(mantissa)
		if n.sign == '-' {
			n.whole = -n.whole
		}
	case mantissa == 1<<63 && n.sign == '-':
		n.whole = math.MinInt64
	default:
		return false
	}
	n.exact, n.value = true, float64(n.whole)
	return true
}

func (n *number) setValue(magnitude float64) {
	n.value = magnitude
	if n.sign == '-' && magnitude != 0 { // -0 is 0
		n.value = -magnitude
	}
}

// parseSlowly leaves b, whose form has been checked, to strconv.
func (n *number) parseSlowly(b []byte) aggregator.Reason {
	// The string is not kept: strconv copies what it puts into its errors.
	v, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(b), len(b)), 64)
	if err != nil { // the form is right, so the number is out of range
		return aggregator.BadValue
	}
	n.setValue(math.Abs(v))
	return aggregator.Taken
}

// parseExponent reads all of b as an exponent, clipped to what float64 can tell apart
// from its neighbours whatever the mantissa of a packet's length is.
func parseExponent(b []byte) (e int, ok bool) {
	if b[0] != 'e' && b[0] != 'E' {
		return 0, false
	}
	b = b[1:]
	negative := false
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		negative = b[0] == '-'
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		e = min(e*10+int(c-'0'), 1<<20)
	}
	if negative {
		e = -e
	}
	return e, true
}

// notANumber tells the words for infinity and not-a-number from other text.
// b has no sign.
func notANumber(b []byte) aggregator.Reason {
	if len(b) > len("infinity") {
		return aggregator.BadValue
	}
	for _, word := range [...]string{"nan", "inf", "infinity", "∞"} {
		if strings.EqualFold(string(b), word) {
			return aggregator.NonFinite
		}
	}
	return aggregator.BadValue
}

func isDigit(c byte) bool { return c-'0' <= 9 }

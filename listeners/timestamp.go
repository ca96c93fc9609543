package listeners

import (
	"math"
	"time"
)

// Times that fit into nanoseconds since 1970, less a day for offsets, in
// seconds: the years 1677 to 2262.
const (
	minSeconds = math.MinInt64/1_000_000_000 + 86400
	maxSeconds = math.MaxInt64/1_000_000_000 - 86400
)

// parseTimestamp reads a time as text: RFC 3339 with or without a fraction, or
// "YYYY-MM-DD HH:MM:SS[.f]", which is taken as UTC. It answers nanoseconds since
// 1970, cut to whole ones.
func parseTimestamp(b []byte) (ns int64, ok bool) {
	const form = "0000-00-00T00:00:00"
	if len(b) < len(form) {
		return 0, false
	}
	for i := range len(form) {
		switch c := form[i]; {
		case c == '0' && !isDigit(b[i]), c == '-' && b[i] != '-', c == ':' && b[i] != ':':
			return 0, false
		}
	}
	year, month, day := digits(b[0:4]), digits(b[5:7]), digits(b[8:10])
	hour, minute, second := digits(b[11:13]), digits(b[14:16]), digits(b[17:19])
	if month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	nano, rest, ok := fraction(b[len(form):])
	if !ok {
		return 0, false
	}
	offset := int64(0)
	switch b[10] {
	case ' ':
		ok = len(rest) == 0
	case 'T', 't':
		offset, ok = parseOffset(rest)
	default:
		ok = false
	}
	seconds := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC).Unix() - offset
	if !ok || seconds < minSeconds || seconds > maxSeconds {
		return 0, false
	}
	return seconds*1e9 + nano, true
}

func digits(b []byte) (n int) {
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// fraction reads an optional point with at least one digit behind it.
func fraction(b []byte) (nano int64, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '.' {
		return 0, b, true
	}
	b = b[1:]
	scale, i := int64(1e8), 0
	for ; i < len(b) && isDigit(b[i]); i++ {
		nano += int64(b[i]-'0') * scale
		scale /= 10
	}
	return nano, b[i:], i > 0
}

// parseOffset reads Z or ±hh:mm, in seconds east of UTC.
func parseOffset(b []byte) (seconds int64, ok bool) {
	if len(b) == 1 && (b[0] == 'Z' || b[0] == 'z') {
		return 0, true
	}
	if len(b) != 6 || b[0] != '+' && b[0] != '-' || b[3] != ':' ||
		!isDigit(b[1]) || !isDigit(b[2]) || !isDigit(b[4]) || !isDigit(b[5]) {
		return 0, false
	}
	hour, minute := digits(b[1:3]), digits(b[4:6])
	if hour > 23 || minute > 59 {
		return 0, false
	}
	seconds = int64(hour*60+minute) * 60
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

// unixTimestamp reads a JSON number: seconds since 1970 below 1e11, which is the
// year 5138, and milliseconds from there.
func unixTimestamp(b []byte) (ns int64, ok bool) {
	var n number
	if n.parse(b) != 0 {
		return 0, false
	}
	unit := int64(1e9)
	if math.Abs(n.value) >= 1e11 {
		unit = 1e6
	}
	if n.exact {
		if limit := math.MaxInt64 / unit; n.whole > limit || n.whole < -limit {
			return 0, false
		}
		return n.whole * unit, true
	}
	whole, part := math.Modf(n.value)
	if math.Abs(whole) >= float64(math.MaxInt64/unit) {
		return 0, false
	}
	return int64(whole)*unit + int64(math.Round(part*float64(unit))), true
}

// appendTimestamp writes a time the way all answers do.
func appendTimestamp(dst []byte, ns int64) []byte {
	return time.Unix(0, ns).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
}

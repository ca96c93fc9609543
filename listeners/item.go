package listeners

import (
	"bytes"
	"math"
	"strconv"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// A dialect is how an item is to be read.
type dialect uint8

const (
	fluxItem dialect = iota
	pulseItem
)

// Limits of one call, in items (PROTOCOLS of Flux and Pulse as published).
const (
	maxFlux   = 500
	maxPulse  = 1000
	pulseTags = 10
)

// maxMember is the longest member of a set in bytes: what a datagram can carry.
const maxMember = MaxPacket

// members are the parts of an item as they stand in the body, each one JSON
// value, or nil when it is missing.
type members struct {
	name, typ, kind, value, timestamp, tags                              []byte
	properties, userID, sessionID, requestID, environment, service, host []byte
}

// field notes one member of an item. Of a member that comes twice the last counts.
func (m *members) field(d *jx.Decoder, key []byte) error {
	var to *[]byte
	switch string(key) {
	case "name":
		to = &m.name
	case "type":
		to = &m.typ
	case "kind":
		to = &m.kind
	case "value":
		to = &m.value
	case "timestamp":
		to = &m.timestamp
	case "tags":
		to = &m.tags
	case "properties":
		to = &m.properties
	case "user_id":
		to = &m.userID
	case "session_id":
		to = &m.sessionID
	case "request_id":
		to = &m.requestID
	case "environment":
		to = &m.environment
	case "service":
		to = &m.service
	case "host":
		to = &m.host
	default:
		return d.Skip()
	}
	raw, err := d.Raw() // of the body, which stays as it is while the request lasts
	*to = raw
	return err
}

// absent answers whether a member is missing or null.
func absent(raw []byte) bool { return len(raw) == 0 || raw[0] == 'n' }

func isText(raw []byte) bool { return len(raw) > 0 && raw[0] == '"' }

func isNumber(raw []byte) bool { return len(raw) > 0 && (raw[0] == '-' || isDigit(raw[0])) }

// text returns what a JSON string says, borrowed from the body or from scratch.
func (x *exchange) text(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	start := len(x.scratch)
	x.inner.ResetBytes(raw)
	x.scratch, _ = x.inner.StrAppend(x.scratch) // it was valid when it was read
	return x.scratch[start:]
}

// cleanText is text as valid UTF-8 without control characters.
func (x *exchange) cleanText(raw []byte) []byte {
	b := x.text(raw)
	if isClean(b) {
		return b
	}
	start := len(x.scratch)
	x.scratch = clean(x.scratch, b, math.MaxInt)
	return x.scratch[start:]
}

// name reads the name of an item, metric or event.
func (x *exchange) name(raw []byte) ([]byte, Code) {
	if !isText(raw) {
		return nil, MissingName
	}
	name := x.cleanText(raw)
	switch {
	case len(name) == 0:
		return nil, MissingName
	case len(name) > aggregator.MaxName:
		return nil, NameTooLong
	case bytes.HasPrefix(name, []byte(reservedPrefix)):
		return nil, ReservedName
	}
	return name, Accepted
}

// metric makes a sample of the item in x.item. The checks come in the order of the
// table in docs/protocols.md; the first that fails is the answer.
func (x *exchange) metric(d dialect, s *aggregator.Sample) (code Code) {
	m := &x.item
	*s = aggregator.Sample{}
	if s.Head, code = x.name(m.name); code != Accepted {
		return code
	}
	if s.Kind, code = x.kind(d); code != Accepted {
		return code
	}
	if code = x.value(s, m.value); code != Accepted {
		return code
	}
	if s.Time, code = x.timestamp(m.timestamp); code != Accepted {
		return code
	}
	if s.Tags, code = x.tags(m.tags); code != Accepted {
		return code
	}
	if d == pulseItem && len(s.Tags) > 0 && x.distinctTags(s.Tags, pulseTags) > pulseTags {
		return TooManyTags
	}
	return Accepted
}

// dialectOf answers how the item in x.item is written. The Ruby SDK drops the
// path of PULSE_URL, so items of Pulse arrive at the paths of Flux; they have a
// kind and no type.
func (x *exchange) dialectOf(path dialect) dialect {
	if path == fluxItem && absent(x.item.typ) && !absent(x.item.kind) {
		return pulseItem
	}
	return path
}

func (x *exchange) kind(d dialect) (aggregator.Kind, Code) {
	raw := x.item.typ
	if d == pulseItem {
		if absent(raw) {
			raw = x.item.kind
		}
		if absent(raw) {
			return aggregator.Gauge, Accepted
		}
	}
	if !isText(raw) {
		return 0, InvalidType
	}
	switch text := string(x.text(raw)); {
	case text == "gauge":
		return aggregator.Gauge, Accepted
	case text == "counter":
		return aggregator.Counter, Accepted
	case text == "histogram", d == fluxItem && text == "distribution":
		return aggregator.Distribution, Accepted
	case d == fluxItem && text == "set":
		return aggregator.Set, Accepted
	}
	return 0, InvalidType
}

// value reads the value of a metric. A string that holds a number is one: Ruby
// writes every BigDecimal so.
func (x *exchange) value(s *aggregator.Sample, raw []byte) Code {
	if s.Kind == aggregator.Set {
		return x.member(s, raw)
	}
	var n number
	switch {
	case raw == nil && s.Kind == aggregator.Counter:
		n = number{value: 1, whole: 1, exact: true}
	case isNumber(raw):
		if n.parse(raw) != aggregator.Taken {
			return InvalidValue
		}
	case isText(raw):
		if n.parse(x.text(raw)) != aggregator.Taken {
			return InvalidValue
		}
	default:
		return InvalidValue
	}
	n.sign = 0 // here a sign is only a sign
	set(s, &n, 1)
	return Accepted
}

func (x *exchange) member(s *aggregator.Sample, raw []byte) Code {
	switch {
	case isText(raw):
		s.Member = x.cleanText(raw)
	case isNumber(raw), len(raw) > 0 && (raw[0] == 't' || raw[0] == 'f'):
		s.Member = raw
	}
	if len(s.Member) == 0 || len(s.Member) > maxMember {
		return InvalidValue
	}
	return Accepted
}

// timestamp reads the time of an item; 0 is now.
func (x *exchange) timestamp(raw []byte) (ns int64, code Code) {
	ok := false
	switch {
	case absent(raw):
		return 0, Accepted
	case isText(raw):
		ns, ok = parseTimestamp(x.text(raw))
	case isNumber(raw):
		ns, ok = unixTimestamp(raw)
	}
	if !ok {
		return 0, InvalidTimestamp
	}
	if ns == 0 { // 1970, not now
		ns = 1
	}
	return ns, Accepted
}

// tags returns the tags as they are written: a JSON object, or an array of
// strings. Their bytes are the sample's spelling, which jsonNaming takes apart.
func (x *exchange) tags(raw []byte) ([]byte, Code) {
	switch {
	case absent(raw):
		return nil, Accepted
	case raw[0] != '{' && raw[0] != '[':
		return nil, InvalidTags
	case len(raw) == 2: // {} and []
		return nil, Accepted
	case raw[0] == '{':
		return raw, Accepted
	}
	x.inner.ResetBytes(raw)
	good := true
	x.inner.Arr(func(d *jx.Decoder) error {
		good = good && d.Next() == jx.String
		return d.Skip()
	})
	if !good {
		return nil, InvalidTags
	}
	return raw, Accepted
}

// distinctTags counts different keys; when there are no more than most at all it
// does not look whether they differ.
func (x *exchange) distinctTags(raw []byte, most int) int {
	n := 0
	eachTag(raw, func(key, value []byte) bool { n++; return true })
	if n <= most {
		return n
	}
	seen := map[string]bool{}
	eachTag(raw, func(key, value []byte) bool { seen[string(key)] = true; return true })
	return len(seen)
}

// appendText appends b as a JSON string.
func appendText(dst, b []byte) []byte {
	w := jx.Writer{Buf: dst}
	w.ByteStr(b)
	return w.Buf
}

// appendValue writes the value of a sample as it was understood.
func appendValue(dst []byte, s *aggregator.Sample) []byte {
	switch {
	case s.Kind == aggregator.Set:
		return appendText(dst, s.Member)
	case s.Flags&aggregator.Whole != 0:
		return strconv.AppendInt(dst, s.Whole, 10)
	}
	w := jx.Writer{Buf: dst}
	w.Float64(s.Value)
	return w.Buf
}

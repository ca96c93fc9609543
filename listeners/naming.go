package listeners

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"sluice/aggregator"
)

// The first names what the agent says about itself; the second is how the
// telemetry that Datadog's clients add to an application's metrics begins.
const (
	reservedPrefix  = "sluice."
	telemetryPrefix = "datadog.dogstatsd.client."
)

// Naming is how the statsd dialect writes names and tags (docs/protocols.md,
// "Names" and "Tags"). It implements aggregator.Spelling. It is not changed
// once it is in use.
type Naming struct {
	// Rules are what the configuration does to every series; nil is nothing.
	Rules *Rules

	// Origins knows where samples were sent from; nil is nobody.
	Origins Origins

	// TagsInNames takes name,k=v and its relatives apart. When false, such text
	// is part of the name.
	TagsInNames bool

	// ClientTelemetry takes the metrics that Datadog's clients send about
	// themselves. When false they are refused with the reason ClientTelemetry.
	ClientTelemetry bool
}

var _ aggregator.Spelling = (*Naming)(nil)

// Name implements aggregator.Spelling.
func (n *Naming) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	parts := n.split(s.Head)
	var buf [aggregator.MaxName + utf8.UTFMax]byte
	name, reason := parts.name(buf[:0])
	if reason != aggregator.Taken {
		return reason
	}
	if !n.ClientTelemetry && bytes.HasPrefix(name, []byte(telemetryPrefix)) {
		return aggregator.ClientTelemetry
	}
	dst.SetName(name)
	if !addTags(dst, parts.tags, parts.between, '=') || !addTags(dst, s.Tags, ',', ':') {
		return aggregator.TooManyTags
	}
	n.tagOrigin(dst, s.Origin)
	return n.Rules.Apply(dst)
}

// tagOrigin adds the tags of an origin where the sender has none of their keys. Those
// beyond aggregator.MaxTags are left out.
func (n *Naming) tagOrigin(dst *aggregator.Key, origin uint32) {
	if origin == 0 {
		return
	}
	cut := dst.Cut
	for _, t := range n.Origins.Tags(origin) {
		dst.Default(t.Key, t.Value)
	}
	dst.Cut = cut // the client is not told about what it did not send
}

// check answers why head is no name, or Taken. A parser asks before it gives
// a reason that comes later in the order of checks.
func (n *Naming) check(head []byte) aggregator.Reason {
	parts := n.split(head)
	var buf [aggregator.MaxName + utf8.UTFMax]byte
	_, reason := parts.name(buf[:0])
	return reason
}

// parts is a head taken apart. The name is before and after together: only
// the form with brackets has an after.
type parts struct {
	before, after []byte
	tags          []byte
	between       byte // what separates the tags
}

// split takes head, which is without its value, apart.
func (n *Naming) split(head []byte) parts {
	colon := bytes.IndexByte(head, ':') // only tag values inside a name hold one
	if colon < 0 {
		colon = len(head)
	}
	mark := 0
	for mark < colon && plain[head[mark]] {
		mark++
	}
	end, ok := n.tagsInside(head, mark, colon)
	if !ok {
		return parts{before: head}
	}
	p := parts{before: head[:mark], tags: head[mark+1:], between: ','}
	switch head[mark] {
	case ';':
		p.between = ';'
	case '[':
		p.tags, p.after = head[mark+1:end], head[end+1:]
	}
	return p
}

// tagsInside answers whether the character head[mark] begins tags inside the
// name, given that it is the first of , ; # [ before the first colon (mark ==
// colon: there is none). Of the form with brackets, end is the place of the
// closing one.
func (n *Naming) tagsInside(head []byte, mark, colon int) (end int, ok bool) {
	if !n.TagsInNames || mark >= colon {
		return 0, false
	}
	end = colon
	if head[mark] == '[' {
		if end = mark + bytes.IndexByte(head[mark:colon], ']'); end < mark {
			return 0, false
		}
	}
	return end, bytes.IndexByte(head[mark+1:end], '=') >= 0
}

// plain holds the bytes that have no meaning in a head.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = !strings.ContainsRune(":|,;#[", rune(c))
	}
	return t
}()

// name appends the normalised name to dst, which has room for a name that is
// just too long, and answers why it cannot be taken, or Taken.
func (p *parts) name(dst []byte) ([]byte, aggregator.Reason) {
	gap := false // the last character stands for a run of spaces and control characters
	dst, gap = appendName(dst, p.before, gap)
	dst, _ = appendName(dst, p.after, gap)
	switch {
	case len(dst) == 0:
		return nil, aggregator.BadName
	case len(dst) > aggregator.MaxName:
		return nil, aggregator.NameTooLong
	case bytes.HasPrefix(dst, []byte(reservedPrefix)):
		return nil, aggregator.ReservedName
	}
	return dst, aggregator.Taken
}

// appendName appends b as a name until it is longer than a name may be.
func appendName(dst, b []byte, gap bool) ([]byte, bool) {
	for len(b) > 0 && len(dst) <= aggregator.MaxName {
		r, size := utf8.DecodeRune(b) // U+FFFD and one byte for what is not UTF-8
		b = b[size:]
		switch {
		case r == ' ' || unicode.IsControl(r):
			if !gap {
				dst = append(dst, '_')
			}
			gap = true
			continue
		case r == '/':
			r = '-'
		}
		gap = false
		dst = utf8.AppendRune(dst, r)
	}
	return dst, gap
}

// addTags sets the tags in list on dst, elements separated by between, each
// key from its value by the first equals. It answers false when they are too many.
func addTags(dst *aggregator.Key, list []byte, between, equals byte) bool {
	for len(list) > 0 {
		element := list
		if i := bytes.IndexByte(list, between); i >= 0 {
			element, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		key, value, ok := splitTag(element, equals)
		if !ok {
			continue
		}
		var k [aggregator.MaxTagKey + utf8.UTFMax]byte
		var v [aggregator.MaxTagValue + utf8.UTFMax]byte
		if !dst.Tag(clean(k[:0], key, aggregator.MaxTagKey), clean(v[:0], value, aggregator.MaxTagValue)) {
			return false
		}
	}
	return true
}

var valueTrue = []byte("true")

// splitTag takes one element apart; ok is false when it is passed over.
func splitTag(element []byte, equals byte) (key, value []byte, ok bool) {
	element = trim(element)
	if i := bytes.IndexByte(element, equals); i >= 0 {
		key, value = trim(element[:i]), trim(element[i+1:])
	} else {
		key, value = element, valueTrue
	}
	switch string(key) {
	case "", "dd.internal.entity_id", "dd.internal.card", "dd.internal.jmx_check_name":
		return nil, nil, false // the last three are origin fields in their older form
	}
	return key, value, true
}

// clean returns b as valid UTF-8 without control characters: b itself, or what
// it appended to dst. It stops once that is longer than limit, in a whole
// character, because the rest would be cut anyway.
func clean(dst, b []byte, limit int) []byte {
	if isClean(b) {
		return b
	}
	for len(b) > 0 && len(dst) <= limit {
		r, size := utf8.DecodeRune(b)
		b = b[size:]
		if unicode.IsControl(r) {
			r = '_'
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// isClean answers whether b is valid UTF-8 without control characters.
func isClean(b []byte) bool {
	for i := 0; i < len(b); {
		if c := b[i]; ' ' <= c && c < 0x7F {
			i++
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 || unicode.IsControl(r) {
			return false
		}
		i += size
	}
	return true
}

// trim returns b without spaces and tabs around it.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

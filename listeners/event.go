package listeners

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"sluice/aggregator"
)

// eventsSize is how many events a parser collects before they are handed over.
const eventsSize = 64

// A parsedEvent is an event or a service check, whether a tag of it was cut, and where
// it comes from.
type parsedEvent struct {
	aggregator.Event
	cut    bool
	origin uint32
}

// Events returns the events and service checks among what the last Next read,
// which are valid as long as its samples.
func (p *Parser) Events() []*aggregator.Event {
	events := make([]*aggregator.Event, len(p.events))
	for i := range p.events {
		events[i] = &p.events[i].Event
	}
	return events
}

// event reads a line that begins with _e{, with what white space ends it: it may be
// the text's.
//
//	_e{<title length>,<text length>}:<title>|<text>[|field]...
func (p *Parser) event(line []byte) aggregator.Reason {
	rest := line[len("_e{"):]
	titleLength, rest, ok := cutLength(rest, ',')
	if !ok || titleLength == 0 {
		return aggregator.BadEvent
	}
	textLength, rest, ok := cutLength(rest, '}')
	if !ok || len(rest) == 0 || rest[0] != ':' {
		return aggregator.BadEvent
	}
	rest = rest[1:]
	title, text, fields, ok := cutTexts(rest, titleLength, textLength, byteLength)
	for _, length := range []func([]byte, int) int{utf16Length, runeLength} {
		if !ok {
			title, text, fields, ok = cutTexts(rest, titleLength, textLength, length)
		}
	}
	if !ok {
		return aggregator.BadEvent
	}

	e := p.newEvent()
	e.Name = p.text(title, false)
	alert, priority := alerts[0], priorities[0]
	var key, source []byte
	for fields = bytes.TrimRight(fields, trailing); len(fields) > 0; {
		var field []byte
		field, fields, _ = bytes.Cut(fields, bar)
		switch name, value := cutField(field); name {
		case "k:":
			key = value
		case "s:":
			source = value
		case "p:":
			priority = oneOf(priorities, value, priority)
		case "t:":
			alert = oneOf(alerts, value, alert)
		default:
			if !p.common(e, name, value) {
				return p.forget(aggregator.TooManyTags)
			}
		}
	}

	start := p.property(`{"text":`, p.text(text, false))
	p.property(`,"alert_type":`, alert)
	p.property(`,"priority":`, priority)
	if len(key) > 0 {
		p.property(`,"aggregation_key":`, p.text(key, false))
	}
	if len(source) > 0 {
		p.property(`,"source_type_name":`, p.text(source, false))
	}
	if len(e.Name) > aggregator.MaxName { // the whole of it
		p.property(`,"title":`, e.Name)
		e.Name = cutTitle(e.Name)
	}
	p.scratch = append(p.scratch, `,"kind":"event"}`...)
	e.Properties = p.since(start)
	p.finish(e)
	return aggregator.Taken
}

// serviceCheck reads a line that begins with _sc|.
//
//	_sc|<name>|<status>[|field]...
func (p *Parser) serviceCheck(line []byte) aggregator.Reason {
	name, rest, ok := bytes.Cut(line[len("_sc|"):], bar)
	status, fields, more := bytes.Cut(rest, bar)
	switch {
	case !ok || len(name) == 0 || len(status) != 1 || status[0] < '0' || status[0] > '3':
		return aggregator.BadServiceCheck
	}
	e := p.newEvent()
	if e.Name = p.text(name, false); len(e.Name) > aggregator.MaxName {
		return p.forget(aggregator.NameTooLong)
	}
	e.Value, e.HasValue = float64(status[0]-'0'), true
	var message []byte // as it stands in the line, with its bars
	inMessage := false
	for more {
		var field []byte
		field, fields, more = bytes.Cut(fields, bar)
		switch name, value := cutField(field); name {
		case "m:":
			message, inMessage = value, true
		case "", "k:", "p:", "s:", "t:": // no fields of a check
			if inMessage { // it follows the message in the line
				message = message[:len(message)+1+len(field)]
			}
		default:
			inMessage = false
			if !p.common(e, name, value) {
				return p.forget(aggregator.TooManyTags)
			}
		}
	}
	start := p.property(`{"status":`, statuses[status[0]-'0'])
	if len(message) > 0 {
		p.property(`,"message":`, p.text(message, true))
	}
	p.scratch = append(p.scratch, `,"kind":"service_check"}`...)
	e.Properties = p.since(start)
	p.finish(e)
	return aggregator.Taken
}

var (
	bar        = []byte("|")
	statuses   = [][]byte{[]byte("ok"), []byte("warning"), []byte("critical"), []byte("unknown")}
	priorities = [][]byte{[]byte("normal"), []byte("low")} // the first is the default
	alerts     = [][]byte{[]byte("info"), []byte("warning"), []byte("error"), []byte("success")}
)

// oneOf returns value if it is one of several, else otherwise.
func oneOf(several [][]byte, value, otherwise []byte) []byte {
	for _, s := range several {
		if bytes.Equal(s, value) {
			return s
		}
	}
	return otherwise
}

// trailing is what trimLine removes from the end of lines.
const trailing = "\r\x00 \t"

// cutField takes a field apart: what tells which it is, "" if it is none that is
// known, and its value.
func cutField(field []byte) (name string, value []byte) {
	for _, name := range [...]string{"d:", "h:", "k:", "p:", "s:", "t:", "m:", "#", "c:", "e:", "card:"} {
		if bytes.HasPrefix(field, []byte(name)) {
			return name, field[len(name):]
		}
	}
	return "", nil
}

// common reads a field that events and checks share; one that is bad is passed over. It answers false if there are too many tags.
func (p *Parser) common(e *parsedEvent, name string, value []byte) bool {
	switch name {
	case "d:":
		if at := parseTime(value); at != 0 && at/1e9 < maxEventTime {
			e.Time = at
		}
	case "h:":
		e.Host = p.text(value, false)
	case "#":
		if e.origin == 0 {
			e.origin = p.whence.tagged(p.naming, value)
		}
		return addTags(&p.key, value, ',', ':')
	case "c:", "e:":
		if e.origin == 0 {
			e.origin = p.whence.from(p.naming, value)
		}
	}
	return true
}

// maxEventTime is the first second of the year 2262, behind which nanoseconds
// do not fit into 64 bits.
const maxEventTime = 9_214_646_400

func (p *Parser) newEvent() *parsedEvent {
	p.events = append(p.events, parsedEvent{})
	p.key.Reset(aggregator.Events)
	return &p.events[len(p.events)-1]
}

// forget takes back the last event.
func (p *Parser) forget(why aggregator.Reason) aggregator.Reason {
	p.events = p.events[:len(p.events)-1]
	return why
}

// finish sets the tags, and what tags say of where the event belongs to.
func (p *Parser) finish(e *parsedEvent) {
	e.cut = p.key.Cut
	if e.origin == 0 {
		e.origin = p.whence.kernel
	}
	p.naming.tagOrigin(&p.key, e.origin)
	p.naming.Rules.Tag(&p.key)
	start := len(p.scratch)
	p.scratch = p.key.AppendTags(p.scratch)
	e.Tags = p.since(start)
	e.Environment, e.Service = e.Tag("env"), e.Tag("service")
	if len(e.Host) == 0 {
		e.Host = e.Tag("host")
	}
}

// property appends a member to the properties in the scratch, and answers where.
func (p *Parser) property(name string, value []byte) (start int) {
	start = len(p.scratch)
	p.json.Buf = append(p.scratch, name...)
	p.json.ByteStr(value)
	p.scratch, p.json.Buf = p.json.Buf, nil
	return start
}

// since returns what was appended to the scratch.
func (p *Parser) since(start int) []byte { return p.scratch[start:len(p.scratch):len(p.scratch)] }

// text returns b as the text of an event: valid UTF-8, newlines for the two
// characters \n, and no other control characters but tabs. In a check's message
// m\: stands for m: as well.
func (p *Parser) text(b []byte, message bool) []byte {
	if bytes.IndexByte(b, '\\') < 0 && isClean(b) {
		return b
	}
	dst := make([]byte, 0, len(b)+utf8.UTFMax)
	for len(b) > 0 {
		switch {
		case bytes.HasPrefix(b, []byte(`\n`)):
			dst, b = append(dst, '\n'), b[2:]
			continue
		case message && bytes.HasPrefix(b, []byte(`m\:`)):
			dst, b = append(dst, "m:"...), b[3:]
			continue
		}
		r, size := utf8.DecodeRune(b) // U+FFFD and one byte for what is not UTF-8
		if b = b[size:]; unicode.IsControl(r) && r != '\t' {
			r = '_'
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// cutTitle cuts a title to what a name may be, not inside a character.
func cutTitle(b []byte) []byte {
	if len(b) <= aggregator.MaxName {
		return b
	}
	end := aggregator.MaxName
	for end > 0 && !utf8.RuneStart(b[end]) {
		end--
	}
	return b[:end]
}

// cutLength reads the digits before end.
func cutLength(b []byte, end byte) (n int, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && isDigit(b[i]); i++ {
		n = min(n*10+int(b[i]-'0'), MaxPacket+1) // longer is no packet
	}
	if i == 0 || i == len(b) || b[i] != end {
		return 0, nil, false
	}
	return n, b[i+1:], true
}

// cutTexts takes title and text off, whose lengths are in a unit. Behind the text
// the line ends, but for white space, or a field begins.
func cutTexts(b []byte, titleLength, textLength int, length func([]byte, int) int) (title, text, fields []byte, ok bool) {
	n := length(b, titleLength)
	if n < 0 || n == len(b) || b[n] != '|' {
		return nil, nil, nil, false
	}
	title, b = b[:n], b[n+1:]
	if n = length(b, textLength); n < 0 {
		return nil, nil, nil, false
	}
	text, b = b[:n], b[n:]
	switch {
	case len(bytes.TrimRight(b, trailing)) == 0:
		return title, text, nil, true
	case b[0] == '|':
		return title, text, b[1:], true
	}
	return nil, nil, nil, false
}

// byteLength, utf16Length and runeLength answer how many bytes the first n units
// of b are, or -1 if it has fewer or one is cut in two.
func byteLength(b []byte, n int) int {
	if n > len(b) {
		return -1
	}
	return n
}

func utf16Length(b []byte, n int) int {
	at := 0
	for n > 0 && at < len(b) {
		r, size := utf8.DecodeRune(b[at:])
		at += size
		if n--; r > 0xFFFF {
			n--
		}
	}
	if n != 0 {
		return -1
	}
	return at
}

func runeLength(b []byte, n int) int {
	at := 0
	for ; n > 0 && at < len(b); n-- {
		_, size := utf8.DecodeRune(b[at:])
		at += size
	}
	if n > 0 {
		return -1
	}
	return at
}

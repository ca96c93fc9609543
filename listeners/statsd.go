package listeners

import (
	"bytes"
	"math"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

const (
	// batchSize is how many samples a batch holds before it is handed over: the
	// sink's lock is then taken rarely, and the samples (112 bytes each) stay in
	// the second-level cache.
	batchSize = 512

	// batchKept is the largest capacity of a batch that is kept for the next packet:
	// all values of a packed packet of 8 KiB, which is what clients send on Unix
	// sockets. A line of MaxPacket bytes makes up to 32,765 samples, 3.6 MiB.
	batchKept = 4096

	// minRate is the smallest sample rate. Weights are at most its inverse.
	minRate = 1e-6
)

// A Parser turns packets in the statsd dialect into samples. It allocates
// nothing once its buffers have grown to the size of the traffic. It is used
// by one goroutine.
//
//	p.Start(packet, false)
//	for more := true; more; {
//		var batch []aggregator.Sample
//		batch, more = p.Next()
//		...
//	}
type Parser struct {
	// Refused counts the lines that the parser refused, by reason. The owner may
	// set it back to zero. What is wrong with a name or with the number of tags
	// shows only when a sink asks the Naming, and is then marked on the sample;
	// a line that fails here counts the reason of its name if that fails, too.
	Refused [aggregator.Reasons]uint64

	naming  *Naming
	rest    []byte              // of the packet, not yet parsed
	batch   []aggregator.Sample // reused by Next
	events  []parsedEvent       // reused by Next
	key     aggregator.Key      // scratch of events
	json    jx.Writer           // the same
	whence  whence              // see From
	scratch []byte              // reused by Next: bytes of samples that do not stand in the packet as they must
}

// NewParser returns a parser for lines that n names.
func NewParser(n *Naming) *Parser { return &Parser{naming: n} }

// Start begins a packet, which is lent until Next has answered that there is no
// more. truncated says that the packet's end is missing: its last line is then
// refused as Truncated.
func (p *Parser) Start(packet []byte, truncated bool) {
	if cap(p.batch) > batchKept {
		p.batch = nil
	}
	if truncated {
		p.Refused[aggregator.Truncated]++
		packet = packet[:bytes.LastIndexByte(packet, '\n')+1]
	}
	p.rest = bytes.TrimPrefix(packet, []byte("\xEF\xBB\xBF")) // the byte order mark
	p.whence.claim = nil
}

// Next returns the packet's next samples, which are valid until Next or Start
// is called again, and whether there may be more. The batch can be empty. The
// samples of one line are never spread over two batches. Events tells which
// events were between them.
func (p *Parser) Next() (batch []aggregator.Sample, more bool) {
	p.batch, p.events, p.scratch = p.batch[:0], p.events[:0], p.scratch[:0]
	for len(p.rest) > 0 && len(p.batch) < batchSize && len(p.events) < eventsSize {
		line := p.rest
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, p.rest = line[:i], line[i+1:]
		} else {
			p.rest = nil
		}
		whole := line
		line = trimLine(line)
		if len(line) == 0 {
			continue
		}
		if reason := p.parse(line, whole); reason != aggregator.Taken {
			p.Refused[reason]++
		}
	}
	return p.batch, len(p.rest) > 0
}

// trimLine returns line without the white space around it. Clients end lines
// with CR LF, and C programs send the zero byte of their strings.
func trimLine(line []byte) []byte {
	for len(line) > 0 {
		switch line[len(line)-1] {
		case '\r', 0, ' ', '\t':
			line = line[:len(line)-1]
			continue
		}
		break
	}
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	return line
}

// parse appends the samples of one line to the batch, or its event to the events,
// or neither and answers why. whole is the line with the white space around it.
func (p *Parser) parse(line, whole []byte) aggregator.Reason {
	if line[0] == '_' {
		switch {
		case bytes.HasPrefix(line, []byte("_e{")):
			return p.event(whole[bytes.IndexByte(whole, '_'):])
		case bytes.HasPrefix(line, []byte("_sc|")):
			return p.serviceCheck(line)
		}
	}

	mark := 0 // the first character that may begin tags inside the name
	for mark < len(line) && plain[line[mark]] {
		mark++
	}
	colon := mark
	for colon < len(line) && line[colon] != ':' && line[colon] != '|' {
		colon++
	}
	if colon == len(line) || line[colon] == '|' {
		return aggregator.MalformedLine
	}
	bar := bytes.IndexByte(line[colon:], '|')
	if bar < 0 {
		return aggregator.MalformedLine
	}
	if colon == 0 {
		return aggregator.BadName
	}
	head, rest := line[:colon+bar], line[colon+bar+1:]

	kind, rest, ok := cutKind(rest)
	if !ok {
		return aggregator.BadType
	}
	if mark < colon && kind != aggregator.Set && head[mark] != '[' {
		if _, ok := p.naming.tagsInside(head, mark, colon); ok {
			colon = bytes.LastIndexByte(head, ':') // tag values may hold colons
		}
	}
	s := aggregator.Sample{Head: head[:colon], Kind: kind}
	if reason := p.values(&s, head[colon+1:], rest); reason != aggregator.Taken {
		if named := p.naming.check(s.Head); named != aggregator.Taken {
			return named // checks of the name come before those of what follows
		}
		return reason
	}
	return aggregator.Taken
}

// cutKind reads the type and returns the sections behind it.
func cutKind(b []byte) (kind aggregator.Kind, sections []byte, ok bool) {
	end := 0
	for end < len(b) && b[end] != '|' && end < 3 { // no type has three letters
		end++
	}
	switch string(b[:end]) {
	case "c", "m":
		kind = aggregator.Counter
	case "g":
		kind = aggregator.Gauge
	case "ms", "h", "d":
		kind = aggregator.Distribution
	case "s":
		kind = aggregator.Set
	default:
		return 0, nil, false
	}
	return kind, b[min(end+1, len(b)):], true
}

// values appends a sample like s for each value, or none and answers why. rest
// is what comes behind the type.
func (p *Parser) values(s *aggregator.Sample, values, rest []byte) aggregator.Reason {
	// Sections are read first, because they decide what a value amounts to, but
	// the values are judged first.
	rate, reason := p.sections(s, rest)
	if s.Kind == aggregator.Set {
		if len(values) == 0 {
			return aggregator.BadValue
		}
		if reason == aggregator.Taken {
			s.Member = p.member(values)
			p.batch = append(p.batch, *s)
		}
		return reason
	}
	if s.Kind == aggregator.Distribution && rate < 1 {
		s.Weight = 1 / rate
	}
	start := len(p.batch)
	for len(values) > 0 {
		value := values
		if i := bytes.IndexByte(values, ':'); i >= 0 {
			value, values = values[:i], values[i+1:]
		} else {
			values = nil
		}
		if len(value) == 0 {
			continue
		}
		var n number
		if bad := n.parse(value); bad != aggregator.Taken {
			p.batch = p.batch[:start]
			return bad
		}
		if !set(s, &n, rate) && reason == aggregator.Taken {
			reason = aggregator.BadValue
		}
		p.batch = append(p.batch, *s)
		s.Flags |= aggregator.Same
	}
	if len(p.batch) == start {
		return aggregator.BadValue
	}
	if reason != aggregator.Taken {
		p.batch = p.batch[:start]
	}
	return reason
}

// set puts one value into s. It answers false when the value is too large to be
// scaled by the rate.
func set(s *aggregator.Sample, n *number, rate float64) bool {
	s.Flags &^= aggregator.Whole | aggregator.Plus | aggregator.Minus
	s.Value = n.value
	switch s.Kind {
	case aggregator.Counter:
		if rate < 1 {
			s.Value /= rate
			return !math.IsInf(s.Value, 0)
		}
		if n.exact {
			s.Whole = n.whole
			s.Flags |= aggregator.Whole
		}
	case aggregator.Gauge:
		// With a time of its own a value never changes the running one, so there
		// the sign is no more than a sign.
		switch {
		case s.Time != 0:
		case n.sign == '+':
			s.Flags |= aggregator.Plus
		case n.sign == '-':
			s.Flags |= aggregator.Minus
		}
	}
	return true
}

// sections reads the sections of a line up to the first bad one, and puts tags
// and time into s. The rate is from minRate to 1.
func (p *Parser) sections(s *aggregator.Sample, rest []byte) (rate float64, reason aggregator.Reason) {
	rate = 1
	joined := -1 // where in the scratch the tags of several sections are put together
	for len(rest) > 0 {
		section := rest
		if i := bytes.IndexByte(rest, '|'); i >= 0 {
			section, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		if len(section) == 0 {
			continue
		}
		switch section[0] {
		case '#':
			switch {
			case s.Tags == nil:
				s.Tags = section[1:]
			case joined < 0:
				joined = len(p.scratch)
				p.scratch = append(p.scratch, s.Tags...)
				fallthrough
			default:
				p.scratch = append(p.scratch, ',')
				p.scratch = append(p.scratch, section[1:]...)
				s.Tags = p.scratch[joined:]
			}
		case '@':
			var n number
			if n.parse(section[1:]) != aggregator.Taken || n.value < minRate {
				return rate, aggregator.BadRate
			}
			rate = min(n.value, 1)
		case 'T':
			at := parseTime(section[1:])
			if at == 0 {
				return rate, aggregator.BadTimestamp
			}
			if s.Kind == aggregator.Counter || s.Kind == aggregator.Gauge {
				s.Time = at
			}
		case 'c', 'e':
			if p.whence.on && s.Origin == 0 && len(section) > 2 && section[1] == ':' {
				s.Origin = p.whence.from(p.naming, section[2:])
			}
		}
		// card: and the rest belong to versions of the protocol that ask for more.
	}
	if p.whence.on && s.Origin == 0 {
		s.Origin = p.whence.tagged(p.naming, s.Tags)
	}
	return rate, aggregator.Taken
}

// parseTime reads seconds since 1970, digits only, and returns nanoseconds, or 0
// when b is no time. What lies beyond int64 becomes its maximum, which the
// aggregator finds to be in the future.
func parseTime(b []byte) int64 {
	const maxSeconds = math.MaxInt64 / 1_000_000_000
	var seconds int64
	for _, c := range b {
		if !isDigit(c) {
			return 0
		}
		seconds = min(seconds*10+int64(c-'0'), maxSeconds+1)
	}
	if seconds > maxSeconds {
		return math.MaxInt64
	}
	return seconds * 1e9
}

// member returns the member of a set as it is to be kept. Its length is not
// limited but by the packet.
func (p *Parser) member(b []byte) []byte {
	if isClean(b) {
		return b
	}
	start := len(p.scratch)
	p.scratch = clean(p.scratch, b, math.MaxInt)
	return p.scratch[start:]
}

package listeners

import (
	"iter"
	"sync/atomic"

	"sluice/aggregator"
)

// MaxPacket is the longest packet that is taken whole, in bytes. UDP carries at
// most 65,507 over IPv4 and 65,527 over IPv6; Unix datagrams are promised 65,536.
const MaxPacket = 65536

// A Sink takes samples. *aggregator.Intake is the one that matters.
type Sink interface {
	// Add takes the samples that arrived at now, in nanoseconds since 1970. The
	// batch and all it points to are lent until Add returns. Add sets Refused on
	// samples it does not take and TagCut on those whose tags it had to cut, and
	// answers how many it marked in one way or the other. Calls on one Sink are
	// never concurrent.
	Add(now int64, batch []aggregator.Sample) (marked int)

	// AddEvent takes an event that arrived at now, or answers why not. The event
	// and all it points to are lent until AddEvent returns.
	AddEvent(now int64, e *aggregator.Event) aggregator.Reason

	// From says who sends what is added from now on, for people to read.
	From(sender string)
}

var _ Sink = (*aggregator.Intake)(nil)

// Origins tell where something was sent from. *origin.Table is the one that matters.
// Calls may be concurrent, and never wait: what is not known at the moment has no
// origin, 0. now is in nanoseconds since 1970.
type Origins interface {
	// Process returns the origin of what a process sends.
	Process(pid int32, now int64) uint32
	// Claim returns that of a sender who says of itself what stands in claim: the
	// field c: or e: of DogStatsD, or the tag dd.internal.entity_id. It is lent.
	Claim(claim []byte, now int64) uint32
	// Tags returns what an origin stands for; it never changes.
	Tags(origin uint32) []aggregator.Tag
	// On answers whether there are any.
	On() bool
}

// Sinks opens a sink for one reader, whose samples are spelled in the dialect
// that the argument knows. A reader has one all its life.
type Sinks func(aggregator.Spelling) Sink

// Stats is what a listener has counted since it was opened.
type Stats struct {
	Name    string // transport and address: "udp:127.0.0.1:8125", "unixgram:/run/sluice/statsd.sock"
	Packets uint64 // datagrams read, empty ones too
	Bytes   uint64 // their payload
	Samples uint64 // samples that the sink took, events among them

	// Refused counts by reason. Late and what comes behind it count values; every
	// other reason counts lines, however many values were packed into one.
	Refused [aggregator.Reasons]uint64
	// Codes counts what an API has refused: items, and requests as a whole.
	Codes  [Codes]uint64
	TagCut uint64 // lines or items that were taken with a tag key or value cut to its limit

	// KernelDropped counts datagrams that the kernel threw away because the
	// receive buffer was full. Linux only, UDP only: a full Unix socket makes
	// its senders wait or fail, and nothing is counted.
	KernelDropped uint64

	// Connections are open now; Evicted were closed for others' sake. Stream sockets
	// only.
	Connections int
	Evicted     uint64

	ReceiveBuffer int // bytes granted by the kernel, in the unit in which they were asked for
}

// Rejected yields what was refused by the text of its reason or code.
func (s *Stats) Rejected() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for reason, n := range s.Refused {
			if n > 0 && !yield(aggregator.Reason(reason).String(), n) {
				return
			}
		}
		for code, n := range s.Codes {
			if n > 0 && !yield(Code(code).String(), n) {
				return
			}
		}
	}
}

// counters are a listener's sums over all its readers.
type counters struct {
	packets, bytes, samples, cut atomic.Uint64
	refused                      [aggregator.Reasons]atomic.Uint64
}

// tally is what one reader has counted since it last added to the counters:
// they are shared, so they are touched once per system call and not per sample.
type tally struct {
	packets, bytes, samples, cut uint64
}

// stats returns the sums as a listener's.
func (c *counters) stats(name string) Stats {
	s := Stats{Name: name, Packets: c.packets.Load(), Bytes: c.bytes.Load(), Samples: c.samples.Load(), TagCut: c.cut.Load()}
	for reason := range c.refused {
		s.Refused[reason] = c.refused[reason].Load()
	}
	return s
}

// add takes over, and empties, what a reader and its parser have counted.
func (c *counters) add(t *tally, refused *[aggregator.Reasons]uint64) {
	c.packets.Add(t.packets)
	c.bytes.Add(t.bytes)
	c.samples.Add(t.samples)
	if t.cut > 0 {
		c.cut.Add(t.cut)
	}
	*t = tally{}
	for reason, n := range refused {
		if n > 0 {
			c.refused[reason].Add(n)
			refused[reason] = 0
		}
	}
}

// A feed turns packets into what a sink takes, and counts.
type feed struct {
	parser *Parser
	sink   Sink
	tally  tally
}

// take adds a packet that arrived at now.
func (f *feed) take(now int64, packet []byte, truncated bool) {
	f.parser.Start(packet, truncated)
	f.add(now, len(packet))
}

// goOn adds lines that go on a text that has begun.
func (f *feed) goOn(now int64, lines []byte) {
	f.parser.Start(nil, false)
	f.parser.rest = lines
	f.add(now, len(lines))
}

// add hands over what the parser reads.
func (f *feed) add(now int64, bytes int) {
	f.tally.packets++
	f.tally.bytes += uint64(bytes)
	for more := true; more; {
		var batch []aggregator.Sample
		batch, more = f.parser.Next()
		if len(batch) > 0 {
			f.tally.samples += uint64(len(batch))
			if f.sink.Add(now, batch) > 0 {
				f.tally.marks(batch, &f.parser.Refused)
			}
		}
		for i := range f.parser.events {
			f.takeEvent(now, &f.parser.events[i])
		}
	}
}

func (f *feed) takeEvent(now int64, e *parsedEvent) {
	if reason := f.sink.AddEvent(now, &e.Event); reason != aggregator.Taken {
		f.parser.Refused[reason]++
		return
	}
	f.tally.samples++
	if e.cut {
		f.tally.cut++
	}
}

// marks counts what a sink has marked in a batch. The samples of one line
// share their spelling, so what is wrong with it is counted at the first.
func (t *tally) marks(batch []aggregator.Sample, refused *[aggregator.Reasons]uint64) {
	for i := range batch {
		s := &batch[i]
		first := s.Flags&aggregator.Same == 0
		switch {
		case s.Refused == aggregator.Taken:
			if first && s.Flags&aggregator.TagCut != 0 {
				t.cut++
			}
			continue
		case s.Refused >= aggregator.Late: // said of a value, not of its spelling
			refused[s.Refused]++
		case first:
			refused[s.Refused]++
		}
		t.samples--
	}
}

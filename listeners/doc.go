// Package listeners turns bytes that local programs send into samples and
// events and hands them to a Sink, which is an aggregator's intake.
//
// # Words
//
// A packet is what arrived in one piece: a datagram, or a frame of a stream. It holds lines, separated
// by newlines. A line is one metric in the statsd dialect and becomes one
// sample, or several when values are packed; or it is an event or a service check. A line that cannot be taken is
// refused: it is counted under exactly one reason, and never affects the other
// lines of its packet. The accepted protocol is docs/protocols.md.
//
// A request is what arrives over HTTP. It holds items, JSON objects in the dialect
// of Flux, Pulse or DataCat; an item becomes one sample or one event, or is
// refused: it is counted under exactly one [Code], which also stands in the
// answer. An [API] has the paths, a [Guard] and a [ConnLimit] keep strangers and
// floods from them.
//
// # Who owns the memory
//
// A reader owns its buffers, and a request the one its body is in. Samples borrow from them: they are valid until
// Sink.Add returns and then overwritten, so whoever keeps bytes copies them.
// From the socket to the sink nothing is allocated once the buffers have grown
// to the size of the traffic; of a request, only what net/http does.
//
// # Limits
//
//	packet      MaxPacket bytes; of a longer one the complete lines are taken
//	batch       about 512 samples, or one line's packed values if those are more
//	body        MaxBody bytes, before and after inflation; 48 MiB of those over 64 KiB
//	request     500 metrics and 500 events, 1,000 metrics of Pulse
//	sessions    10,000, of running totals 16 MiB
//	events      64 at once, behind the samples that came with them
//	connections MaxConns and MaxConnsOfPeer of HTTP, MaxStreams of a stream socket;
//	            the one that is silent for longest goes
//	a frame     has frameTimeout to come in, and a line of a stream socket; what there is
//	            of them shares MaxStreamRoom beyond 4 KiB each
//	senders     MaxSenders of a Unix socket; the one that is silent for longest joins the
//	            others, or the newcomer while none has been for senderRest
//	socket path 107 bytes (unix(7): sun_path holds 108 with the final zero)
//	name, tags  aggregator.MaxName, MaxTagKey, MaxTagValue, MaxTags
//
// A reader never waits for anything but its socket and the sink's lock: Unix
// datagram sockets queue as few as ten datagrams (net.unix.max_dgram_qlen), and
// every client blocks or drops while the reader is elsewhere.
//
// Constructors take the socket and start nothing. Serve blocks, and returns
// when every goroutine it started has returned.
package listeners

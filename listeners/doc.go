// Package listeners turns bytes that local programs send into samples and
// hands them to a Sink, which is an aggregator's intake.
//
// # Words
//
// A packet is what arrived in one piece: a datagram. It holds lines, separated
// by newlines. A line is one metric in the statsd dialect and becomes one
// sample, or several when values are packed. A line that cannot be taken is
// refused: it is counted under exactly one reason, and never affects the other
// lines of its packet. The accepted protocol is docs/protocols.md.
//
// # Who owns the memory
//
// A reader owns its buffers. Samples borrow from them: they are valid until
// Sink.Add returns and then overwritten, so whoever keeps bytes copies them.
// From the socket to the sink nothing is allocated once the buffers have grown
// to the size of the traffic.
//
// # Limits
//
//	packet      MaxPacket bytes; of a longer one the complete lines are taken
//	batch       about 512 samples, or one line's packed values if those are more
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

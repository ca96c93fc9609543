package listeners

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sluice/aggregator"
)

// MaxStreams bounds the connections of a stream socket. Each takes a descriptor,
// 4 KiB, and what more of a frame has arrived. Beyond, the connection goes that
// has been silent for longest, of the user with the most of them; its client
// connects anew when it has something to say.
const MaxStreams = 1024

// MaxStreamRoom bounds the bytes of frames and lines that have come in by half, beyond
// the first 4 KiB of each connection, of all stream sockets of the process. A
// connection that needs more is closed, and what has arrived counted as truncated.
const MaxStreamRoom = 16 << 20

// streamRoom is what is left of it.
var streamRoom budget

func init() { streamRoom.left.Store(MaxStreamRoom) }

const (
	// frameHead is the length in front of a frame: 4 bytes, little endian.
	frameHead = 4
	// streamBuffer is what a connection begins with; it grows to what a frame needs,
	// and is given back when more than that lies idle.
	streamBuffer = 4 << 10
	// frameTimeout is how long a frame or line may take to come in. Clients write one at
	// once; what stands still in the midst of one holds memory for nothing.
	frameTimeout = 30 * time.Second
	// maxFeeds is how many sinks a socket's connections share: parsing is short.
	maxFeeds = 4
)

// Stream listens on a Unix stream socket. Each connection carries frames, of which
// each is a packet, or newline-separated text.
//
//	open ──Serve──▶ accepting ──ctx done──▶ emptying ──▶ closed
type Stream struct {
	options  PacketOptions
	name     string
	listener *net.UnixListener
	file     *socketFile // nil if somebody else has opened the socket
	adopted  bool
	counters counters
	senders  senders
	feeds    chan *feed // those that no connection uses
	stopping atomic.Bool

	mu      sync.Mutex // guards the fields below
	closed  bool
	conns   map[*stream]struct{}
	evicted uint64
}

// ListenUnixStream opens a Unix stream socket at path, with the rules for files
// that ListenUnixgram has.
func ListenUnixStream(path string, mode fs.FileMode, group string, o PacketOptions) (*Stream, error) {
	l, file, err := bindUnix("unix", path, mode, group, listenPrivate)
	if err != nil {
		return nil, listenError("unix", path, "listen.unix", err)
	}
	l.SetUnlinkOnClose(false) // the file may be another's by then
	return newStream(l, file, o), nil
}

// AdoptStream takes over a Unix stream socket that somebody else has opened and
// holds on to, such as systemd: its file stays, and who connects from now on is
// for whoever takes it over next.
func AdoptStream(l *net.UnixListener, o PacketOptions) *Stream {
	l.SetUnlinkOnClose(false)
	s := newStream(l, nil, o)
	s.adopted = true
	return s
}

func newStream(l *net.UnixListener, file *socketFile, o PacketOptions) *Stream {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Stream{options: o, name: "unix:" + l.Addr().String(), listener: l, file: file,
		feeds: make(chan *feed, min(runtime.GOMAXPROCS(0), maxFeeds)), conns: make(map[*stream]struct{})}
}

// Name returns transport and address, such as "unix:/run/sluice/stream.sock".
func (s *Stream) Name() string { return s.name }

// Addr returns the path that clients connect to.
func (s *Stream) Addr() string { return s.listener.Addr().String() }

// Serve accepts connections until ctx is done, then takes what they had sent by
// then, closes all and returns nil. Connections share as many sinks as there are
// processors, at most maxFeeds. It returns early only when the socket was closed.
func (s *Stream) Serve(ctx context.Context, open Sinks) error {
	defer s.Close()
	for range cap(s.feeds) {
		s.feeds <- &feed{parser: NewParser(&s.options.Naming), sink: open(&s.options.Naming)}
	}
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	serve := func(conn *net.UnixConn) {
		c := s.add(conn)
		running.Go(func() { c.run(); s.remove(c) })
	}
	last := ""
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			serve(conn)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !s.adopted { // else they are for whoever takes the socket over
				s.serveWaiting(serve)
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			s.stop()
			return fmt.Errorf("accept on %s: %w", s.name, err)
		default: // such as EMFILE: the socket is still good
			if text := err.Error(); text != last {
				last = text
				s.options.Log.Error("accepting a connection, which is tried again", "listener", s.name, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// serveWaiting accepts the connections that are in the kernel's queue.
func (s *Stream) serveWaiting(serve func(*net.UnixConn)) {
	for {
		conn, err := acceptWaiting(s.listener)
		if err != nil { // such as EMFILE
			s.options.Log.Error("connections that waited at the stop are lost", "listener", s.name, "error", err)
		}
		if conn == nil {
			return
		}
		serve(conn)
	}
}

// stop ends what the connections may send, and the waiting for new ones. Serve then
// accepts those in the kernel's queue, unless the socket is another's.
func (s *Stream) stop() {
	s.file.remove() // from here on, new clients are refused and not forgotten
	s.listener.SetDeadline(time.Now().Add(acceptRest))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping.Store(true)
	for c := range s.conns {
		c.end()
	}
}

// add counts a connection in, and another out if they are too many.
func (s *Stream) add(conn *net.UnixConn) *stream {
	now := time.Now().UnixNano()
	c := &stream{of: s, conn: conn, credentials: credentialsOf(conn)}
	c.sender = s.senders.of(s.name, c.credentials, now)
	c.active.Store(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= MaxStreams {
		s.evictLocked()
	}
	s.conns[c] = struct{}{}
	if s.stopping.Load() {
		c.end()
	}
	return c
}

// evictLocked ends the connection that has been silent for longest, of the user
// with the most of them; all users are one where they are not known.
func (s *Stream) evictLocked() {
	of := map[uint32]int{}
	for c := range s.conns {
		of[c.uid]++
	}
	most := 0
	for _, n := range of {
		most = max(most, n)
	}
	var silent *stream
	since := int64(math.MaxInt64)
	for c := range s.conns {
		if at := c.active.Load(); of[c.uid] == most && at < since {
			silent, since = c, at
		}
	}
	delete(s.conns, silent)
	silent.end() // what it has sent is still read
	s.evicted++
}

func (s *Stream) remove(c *stream) {
	c.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Stats returns what has been counted so far. It may be called at any time, also
// after Close.
func (s *Stream) Stats() Stats {
	stats := s.counters.stats(s.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Connections, stats.Evicted = len(s.conns), s.evicted
	return stats
}

// Senders returns what was counted of each program that has sent.
func (s *Stream) Senders() []Sender { return s.senders.list() }

// Close closes the socket and removes its file. It is Serve that ends
// connections; Close is for a Stream that is not served. It may be called more
// than once.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.file.remove()
	s.listener.Close()
}

// A stream is one connection.
type stream struct {
	of   *Stream
	conn *net.UnixConn
	credentials
	active atomic.Int64 // when it was last heard of, nanoseconds since 1970
	ending atomic.Bool  // nothing more may be sent

	// Owned by run.
	sender *sender // nil if it is not known

	buf   []byte // read and not yet taken
	taken int    // from streamRoom, for buf
	known bool   // whether it is text
	text  bool   // newline-separated
	skip  bool   // the rest of a line that is too long
	timed bool   // there is a deadline for a frame or line
	fresh bool   // a frame or line has been completed since
}

// run reads until the client or the listener ends the connection, or a frame
// cannot be one.
func (c *stream) run() {
	defer c.giveRoom()
	for {
		if !c.makeRoom() {
			c.refuse(aggregator.Truncated)
			return
		}
		n, err := c.conn.Read(c.buf[len(c.buf):cap(c.buf)])
		if n > 0 {
			c.active.Store(time.Now().UnixNano())
			c.buf = c.buf[:len(c.buf)+n]
			if !c.take(false) {
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.ending.Load() {
			c.refuse(aggregator.Truncated) // half a line may look like a whole one
			return
		}
		if err != nil {
			c.take(true)
			return
		}
		c.limitFrame()
	}
}

// end ends what the client may send. What it has sent by then, run takes.
func (c *stream) end() {
	c.ending.Store(true)
	stopStream(c.conn)
}

// name says who the client is, for people to read.
func (c *stream) name() string {
	if c.sender == nil {
		return c.of.name
	}
	return c.sender.text
}

// makeRoom grows the buffer if it is full, and gives a large one back that is empty. It
// answers false if streams have no more room.
func (c *stream) makeRoom() bool {
	switch {
	case len(c.buf) == 0 && cap(c.buf) != streamBuffer:
		c.giveRoom()
		c.buf = make([]byte, 0, streamBuffer)
	case len(c.buf) == cap(c.buf):
		size := min(2*cap(c.buf), frameHead+MaxPacket)
		more := size - cap(c.buf)
		if !streamRoom.take(more) {
			return false
		}
		c.taken += more
		c.buf = append(make([]byte, 0, size), c.buf...)
	}
	return true
}

// giveRoom gives back what the buffer has taken.
func (c *stream) giveRoom() {
	streamRoom.left.Add(int64(c.taken))
	c.taken = 0
}

// refuse counts what was read and not yet taken as refused.
func (c *stream) refuse(why aggregator.Reason) {
	f := <-c.of.feeds
	defer func() { c.of.feeds <- f }()
	f.parser.Refused[why]++
	c.of.counters.add(&f.tally, &f.parser.Refused)
}

// limitFrame sets a deadline when a frame or line begins, and takes it away when none is
// under way.
func (c *stream) limitFrame() {
	if deadline, change := c.deadline(time.Now()); change && !c.ending.Load() {
		c.conn.SetReadDeadline(deadline)
	}
}

// deadline answers until when the frame or line under way must be there, the zero time if
// none is, and whether that is news.
func (c *stream) deadline(now time.Time) (at time.Time, change bool) {
	begun := len(c.buf) > 0
	change = begun != c.timed || begun && c.fresh
	c.timed, c.fresh = begun, false
	if begun {
		at = now.Add(frameTimeout)
	}
	return at, change
}

// take takes the packets that are complete; end says that nothing will follow. It
// answers false if the connection is of no use any more.
func (c *stream) take(end bool) (good bool) {
	if !c.known {
		if len(c.buf) < frameHead && !end {
			return true
		}
		c.known, c.text = true, isText4(c.buf[:min(len(c.buf), frameHead)])
	}
	f := <-c.of.feeds
	defer func() { c.of.feeds <- f }()
	now := time.Now().UnixNano()
	f.parser.From(c.pid, now)
	f.sink.From(c.name())
	good = true
	var rest []byte
	if c.text {
		rest = c.takeLines(f, now, end)
	} else {
		rest, good = c.takeFrames(f, now)
		if end && len(rest) > 0 {
			f.parser.Refused[aggregator.Truncated]++
		}
	}
	c.fresh = c.fresh || len(rest) < len(c.buf)
	c.buf = c.buf[:copy(c.buf, rest)]
	if !c.of.senders.count(c.sender, now, f.tally.packets, f.tally.samples) {
		c.sender = c.of.senders.of(c.of.name, c.credentials, now)
	}
	c.of.counters.add(&f.tally, &f.parser.Refused)
	return good
}

// takeFrames takes the complete frames and returns what is left.
func (c *stream) takeFrames(f *feed, now int64) (rest []byte, good bool) {
	rest = c.buf
	tap := c.of.options.Tap.get()
	for len(rest) >= frameHead {
		length := binary.LittleEndian.Uint32(rest)
		if length > MaxPacket { // where the next one begins cannot be known
			f.parser.Refused[aggregator.BadFrame]++
			return nil, false
		}
		if uint32(len(rest)-frameHead) < length {
			break
		}
		if length > 0 {
			if tap != nil {
				tap(c.of.name, now, rest[frameHead:frameHead+length])
			}
			f.take(now, rest[frameHead:frameHead+length], false)
		}
		rest = rest[frameHead+length:]
	}
	return rest, true
}

// takeLines takes the complete lines and returns what is left. A line that is longer
// than a packet is refused as truncated, once.
func (c *stream) takeLines(f *feed, now int64, end bool) (rest []byte) {
	complete := c.buf
	if !end {
		i := bytes.LastIndexByte(c.buf, '\n') + 1
		complete, rest = c.buf[:i], c.buf[i:]
	}
	if c.skip && len(complete) > 0 {
		_, complete, _ = bytes.Cut(complete, []byte("\n"))
		c.skip = false
	}
	if len(complete) > 0 {
		if tap := c.of.options.Tap.get(); tap != nil {
			tap(c.of.name, now, complete)
		}
		f.goOn(now, complete)
	}
	if len(rest) > MaxPacket {
		if !c.skip {
			f.parser.Refused[aggregator.Truncated]++
		}
		c.skip, rest = true, nil
	}
	if c.skip {
		rest = nil
	}
	return rest
}

// isText4 answers whether b, the first bytes of a connection, are text: no length that
// a frame may have looks like that.
func isText4(b []byte) bool {
	for _, c := range b {
		if (c < ' ' || c > '~') && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

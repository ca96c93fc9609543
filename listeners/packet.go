package listeners

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// defaultReceiveBuffer is what the kernel is asked for, in bytes. Loss is decided by
// the buffer more than by speed (docs/benchmarks.md): with 4 MiB one reader rides
// out stalls that cost packets with the usual 208 KiB.
const defaultReceiveBuffer = 4 << 20

// PacketOptions says how a datagram socket is read.
type PacketOptions struct {
	// ReceiveBuffer is asked of the kernel, in bytes; 0 means 4 MiB. What was
	// granted stands in Stats.
	ReceiveBuffer int

	// Readers is how many goroutines take turns on the socket; 0 means 1. With
	// more than one, gauges that follow each other closely may change places.
	Readers int

	// Naming says how names and tags are read. It is not changed afterwards.
	Naming Naming

	// Tap is shown every packet; nil is nobody.
	Tap *Tap

	// Log is told what an operator should know, never more than a line per cause;
	// nil discards it.
	Log *slog.Logger
}

// packetConn is what *net.UDPConn and *net.UnixConn have in common.
type packetConn interface {
	net.PacketConn
	syscall.Conn
	Read([]byte) (int, error)
	SetReadBuffer(bytes int) error
}

// Packet listens on one datagram socket: each datagram is a packet.
//
//	open ──Serve──▶ reading ──ctx done──▶ emptying ──▶ closed
type Packet struct {
	options  PacketOptions
	name     string
	conn     packetConn
	raw      syscall.RawConn
	file     *socketFile // of a Unix socket that we opened; else nil
	adopted  bool
	granted  int
	counters counters
	senders  senders

	mu      sync.Mutex // guards the fields below
	closed  bool
	drops   uint32 // the kernel's counter, which wraps around, as last seen
	dropped uint64 // the same since it was opened
}

// ListenUDP opens a UDP socket at addr, which is host:port. Port 0 takes any free
// one; Addr then tells which.
func ListenUDP(addr string, o PacketOptions) (*Packet, error) {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, listenError("udp", addr, "listen.udp", err)
	}
	return newPacket(conn.(*net.UDPConn), nil, "udp:"+conn.LocalAddr().String(), false, o)
}

// ListenUnixgram opens a Unix datagram socket at path, for which sending needs the
// permission to write that mode gives. group, a name or a number, becomes the
// group of the socket file; empty leaves the process's own. At no moment is the
// file open to more than mode and group say.
//
// A socket of this user that nobody listens on any more is replaced. Anything else at
// the path, a symbolic link included, is an error and is left alone. Close removes the file
// unless it has become another one.
func ListenUnixgram(path string, mode fs.FileMode, group string, o PacketOptions) (*Packet, error) {
	conn, file, err := bindUnix("unixgram", path, mode, group, bindPrivate)
	if err != nil {
		return nil, listenError("unixgram", path, "listen.unixgram", err)
	}
	return newPacket(conn, file, "unixgram:"+path, false, o)
}

// AdoptPacket takes over a datagram socket that somebody else has opened and
// holds on to, such as systemd: what it queues while nobody reads is for whoever
// takes it over next. So it is neither shut down when reading ends nor is its
// file removed, and its receive buffer is raised but never lowered. conn is
// closed when it cannot be used.
func AdoptPacket(conn net.PacketConn, o PacketOptions) (*Packet, error) {
	switch c := conn.(type) {
	case *net.UDPConn:
		return newPacket(c, nil, "udp:"+c.LocalAddr().String(), true, o)
	case *net.UnixConn:
		return newPacket(c, nil, "unixgram:"+c.LocalAddr().String(), true, o)
	}
	conn.Close()
	return nil, fmt.Errorf("adopt a socket of network %s: it is neither UDP nor Unix datagram", conn.LocalAddr().Network())
}

// newPacket takes over conn, and closes it when it cannot be used.
func newPacket(conn packetConn, file *socketFile, name string, adopted bool, o PacketOptions) (*Packet, error) {
	if o.ReceiveBuffer <= 0 {
		o.ReceiveBuffer = defaultReceiveBuffer
	}
	o.Readers = max(o.Readers, 1)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Packet{options: o, name: name, conn: conn, file: file, adopted: adopted}
	var err error
	if p.raw, err = conn.SyscallConn(); err == nil {
		p.granted, err = receiveBuffer(p.raw)
	}
	if err == nil && (!adopted || p.granted < o.ReceiveBuffer) {
		p.granted, err = setReceiveBuffer(conn, p.raw, o.ReceiveBuffer)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("listen %s: set the receive buffer to %d bytes: %w", name, o.ReceiveBuffer, err)
	}
	passCredentials(conn, p.raw)
	if p.granted < o.ReceiveBuffer {
		o.Log.Warn("the kernel granted a smaller receive buffer; bursts may be lost (raise net.core.rmem_max)",
			"listener", name, "asked", o.ReceiveBuffer, "granted", p.granted)
	}
	return p, nil
}

// listenError puts what, on what, why and a hint into one line. key is the
// configuration's.
func listenError(network, addr, key string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) { // says what and on what, too
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = " (another statsd agent? set " + key + " or stop it)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = " (no interface of this machine has it; set " + key + ")"
	case errors.Is(err, fs.ErrPermission):
		hint = " (the agent's user may not; set " + key + " or its permissions)"
	case errors.Is(err, fs.ErrNotExist):
		hint = " (create the folder or set " + key + ")"
	}
	return fmt.Errorf("listen %s %s: %w%s", network, addr, err, hint)
}

// Name returns transport and address, such as "udp:127.0.0.1:8125".
func (p *Packet) Name() string { return p.name }

// Addr returns where clients send to: host:port or a path.
func (p *Packet) Addr() string {
	if p.file != nil {
		return p.file.path
	}
	return p.conn.LocalAddr().String()
}

// Serve reads until ctx is done, then takes what the kernel had accepted by
// then, closes the socket and returns nil. Each reader opens a sink of its own. It
// returns early only when the socket was closed or cannot be read.
func (p *Packet) Serve(ctx context.Context, open Sinks) error {
	defer p.Close()
	// A deadline in the past wakes the readers, who then empty the queue; to close
	// first would throw away what the kernel holds.
	stop := context.AfterFunc(ctx, func() {
		p.file.remove() // from here on, new clients are refused and not forgotten
		if !p.adopted { // else it lives on, in the hands of who opened it
			stopReceiving(p.conn)
		}
		p.conn.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()

	readers := make([]reader, p.options.Readers)
	for i := range readers {
		in, err := newReceiver(p.conn, p.raw)
		if err != nil {
			return fmt.Errorf("read %s: %w", p.name, err)
		}
		defer in.close()
		sink := open(&p.options.Naming)
		sink.From(p.name)
		readers[i] = reader{packet: p, in: in, feed: feed{parser: NewParser(&p.options.Naming), sink: sink}}
	}
	errs := make([]error, len(readers))
	var running sync.WaitGroup
	for i := range readers {
		running.Go(func() { errs[i] = readers[i].run(ctx) })
	}
	running.Wait()
	for _, err := range errs { // one says it: they read the same socket
		if err != nil {
			return err
		}
	}
	return nil
}

// reader is what one goroutine reads with.
type reader struct {
	packet *Packet
	in     *receiver
	feed

	// The sender of the last datagram, and what it has sent that is not counted yet.
	sender         *sender
	credentials    credentials
	heard, samples uint64
}

// run reads until the socket's deadline has passed, and then what is left.
func (r *reader) run(ctx context.Context) error {
	last := ""
	for {
		n, err := r.in.receive()
		switch {
		case err == nil:
			r.in.rest(n, r.takeAll(n))
		case errors.Is(err, os.ErrDeadlineExceeded):
			return r.empty()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("read %s: %w", r.packet.name, err)
		default: // such as ENOMEM: the socket is still good
			if text := err.Error(); text != last {
				last = text
				r.packet.options.Log.Error("reading a socket, which is tried again", "listener", r.packet.name, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// takeAll adds the n datagrams that were received to the sink. It answers when.
func (r *reader) takeAll(n int) (now int64) {
	now = time.Now().UnixNano()
	tap := r.packet.options.Tap.get()
	for i := range n {
		packet, truncated := r.in.datagram(i)
		if tap != nil {
			tap(r.packet.name, now, packet)
		}
		before, sender := r.tally.samples, r.in.credentials(i)
		r.from(now, sender)
		r.take(now, packet, truncated)
		r.heard++
		r.samples += r.tally.samples - before
	}
	r.flush(now)
	r.packet.counters.add(&r.tally, &r.parser.Refused)
	return now
}

// from notes who has sent the next packet.
func (r *reader) from(now int64, c credentials) {
	r.parser.From(c.pid, now)
	if c == r.credentials {
		return
	}
	r.flush(now)
	r.sender, r.credentials = r.packet.senders.of(r.packet.name, c, now), c
	text := r.packet.name
	if r.sender != nil {
		text = r.sender.text
	}
	r.sink.From(text)
}

// flush counts what the last sender has sent. Should it have been put among the
// others meanwhile, it is looked up anew.
func (r *reader) flush(now int64) {
	if !r.packet.senders.count(r.sender, now, r.heard, r.samples) {
		r.sender, r.credentials = nil, credentials{}
	}
	r.heard, r.samples = 0, 0
}

// empty takes what is left in the socket's queue. A flood does not hold it up:
// the queue is first in first out, and each datagram in it takes at least 256
// bytes of a buffer of twice the size that was granted (socket(7); in fact the
// kernel's own structures take more), so after that many everything that
// was there at the beginning has been read.
func (r *reader) empty() error {
	for left := r.packet.granted/128 + 1024; left > 0; {
		n, err := r.in.receiveWaiting()
		if err != nil {
			return fmt.Errorf("empty %s before closing: %w", r.packet.name, err)
		}
		if n == 0 {
			break
		}
		r.takeAll(n)
		left -= n
	}
	return nil
}

// Stats returns what has been counted so far. It may be called at any time, also
// after Close.
func (p *Packet) Stats() Stats {
	s := p.counters.stats(p.name)
	s.ReceiveBuffer = p.granted
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countDropsLocked()
	s.KernelDropped = p.dropped
	return s
}

// Senders returns what was counted of each program that has sent: to a Unix socket,
// on Linux.
func (p *Packet) Senders() []Sender { return p.senders.list() }

// countDropsLocked asks the kernel how many datagrams it has dropped.
func (p *Packet) countDropsLocked() {
	if p.closed {
		return
	}
	if drops, ok := kernelDrops(p.raw); ok {
		p.dropped += uint64(drops - p.drops)
		p.drops = drops
	}
}

// Close closes the socket and removes its file. What the kernel has accepted and
// Serve has not read is lost, so it is Serve that closes; Close is for a
// Packet that is not served. It may be called more than once.
func (p *Packet) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if p.raw != nil {
		p.countDropsLocked()
	}
	p.closed = true
	p.file.remove() // before the socket is closed: while it is open its inode cannot be another file's
	p.conn.Close()
}

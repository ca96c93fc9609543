package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
)

// An endpoint is a socket as the configuration wants it. Two that are equal need
// only one socket: it stays open when the configuration is read again.
type endpoint struct {
	kind    string // udp, unixgram, unix, http
	addr    string // host:port or path
	mode    fs.FileMode
	group   string
	buffer  int
	readers int
	nth     int  // among those of the same kind and address, which port 0 allows
	beside  bool // ::1 beside 127.0.0.1: not every host has it

	inherited bool // systemd has opened it
}

// endpoints lists what a configuration wants open. Clients resolve localhost to
// 127.0.0.1 or ::1, so what is on the former is on the latter, too.
func endpoints(l configs.Listen) (all []endpoint) {
	add := func(e endpoint) {
		for _, other := range all {
			if other.same(e) {
				e.nth++
			}
		}
		all = append(all, e)
		if v6, ok := onIPv6(e.addr); ok && !e.beside {
			e.addr, e.beside = v6, true
			all = append(all, e)
		}
	}
	packet := endpoint{buffer: int(l.ReceiveBuffer), readers: l.Readers}
	for _, addr := range l.UDP {
		e := packet
		e.kind, e.addr = "udp", addr
		add(e)
	}
	for _, s := range l.Unixgram {
		e := packet
		e.kind, e.addr, e.mode, e.group = "unixgram", s.Path, s.Mode, s.Group
		add(e)
	}
	for _, s := range l.Unix {
		add(endpoint{kind: "unix", addr: s.Path, mode: s.Mode, group: s.Group})
	}
	if l.HTTP != "" {
		add(endpoint{kind: "http", addr: l.HTTP})
	}
	return all
}

// same tells whether two endpoints cannot be open at once.
func (e endpoint) same(o endpoint) bool { return e.kind == o.kind && e.addr == o.addr }

// path is that of a Unix socket, whatever it carries; else it is empty.
func (e endpoint) path() string {
	if path, ok := strings.CutPrefix(e.addr, "unix:"); ok && e.kind == "http" {
		return path
	}
	if e.kind == "unixgram" || e.kind == "unix" {
		return e.addr
	}
	return ""
}

// inTheWayOf tells whether e may be free once o is closed: it is the same path,
// or the same port, which an address of all interfaces takes on each of them.
func (o endpoint) inTheWayOf(e endpoint) bool {
	if path := e.path(); path != "" {
		return o.path() == path
	}
	_, mine, _ := net.SplitHostPort(o.addr)
	_, port, err := net.SplitHostPort(e.addr)
	return o.kind == e.kind && (o.addr == e.addr || err == nil && mine == port)
}

// onIPv6 returns the IPv6 side of an address on 127.0.0.1 with a fixed port.
func onIPv6(addr string) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	return net.JoinHostPort("::1", port), err == nil && (host == "127.0.0.1" || host == "localhost") && port != "0"
}

// packets are what listens for the statsd dialect: *listeners.Packet or
// *listeners.Stream.
type packets interface {
	Name() string
	Addr() string
	Serve(context.Context, listeners.Sinks) error
	Stats() listeners.Stats
	Senders() []listeners.Sender
	Close()
}

// A socket is an open endpoint and what serves it.
//
//	open ──start──▶ served ──stop──▶ emptied and closed
type socket struct {
	endpoint
	name   string       // transport and address, as in status
	packet packets      // of datagrams or a stream; else nil
	web    net.Listener // of HTTP; else nil

	stop func()        // set by start
	done chan struct{} // closed when it is no longer served
}

// open opens a socket and does not serve it yet.
func (a *agent) open(e endpoint) (*socket, error) {
	s := &socket{endpoint: e, done: make(chan struct{})}
	o := listeners.PacketOptions{ReceiveBuffer: e.buffer, Readers: e.readers, Naming: listeners.Naming{TagsInNames: true, Rules: &a.rules, Origins: a.origins}, Tap: &a.tails.tap, Log: a.log}
	file, handedOver := a.heir(e)
	var err error
	switch {
	case handedOver:
		if err = adopt(s, file, o); err != nil {
			err = fmt.Errorf("take over %s %s from systemd: %w", e.kind, e.addr, err)
		}
	case e.kind == "udp":
		s.packet, err = listeners.ListenUDP(e.addr, o)
	case e.kind == "unixgram":
		s.packet, err = listeners.ListenUnixgram(e.addr, e.mode, e.group, o)
	case e.kind == "unix":
		s.packet, err = listeners.ListenUnixStream(e.addr, e.mode, e.group, o)
	default:
		s.web, err = listenHTTP(e.addr)
	}
	switch {
	case err != nil:
		return nil, err
	case s.packet != nil:
		s.name = s.packet.Name()
	default:
		s.name = httpName(s.web.Addr())
		s.web = a.conns.Listener(s.web)
	}
	return s, nil
}

// httpMode is the mode of a Unix socket for HTTP, whose configuration is a path
// alone. It belongs to the group of the process.
const httpMode = 0o660

func listenHTTP(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listeners.ListenUnixHTTP(path, httpMode, "")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen http %s: %w (set listen.http, or \"\" to turn it off)", addr, cause(err))
	}
	return l, nil
}

// httpName names a listener the way the configuration does.
func httpName(at net.Addr) string {
	if at.Network() == "unix" {
		return "http:unix:" + at.String()
	}
	return "http:" + at.String()
}

// close closes a socket that was never served.
func (s *socket) close() {
	if s.packet != nil {
		s.packet.Close()
	} else {
		s.web.Close()
	}
}

// start serves a socket until its stop is called. Should it end by itself, the
// agent ends.
func (a *agent) start(s *socket) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() {
		defer close(s.done)
		serve := a.serveHTTP
		if s.packet != nil {
			serve = a.servePackets
		}
		if err := serve(ctx, s); err != nil {
			select {
			case a.fatal <- err:
			default: // another one was first
			}
		}
	}()
}

// end stops sockets and waits until they are emptied and closed.
func end(sockets []*socket) {
	for _, s := range sockets {
		s.stop()
	}
	for _, s := range sockets {
		<-s.done
	}
}

// servePackets gives each reader an intake of its own, for as long as it reads.
func (a *agent) servePackets(ctx context.Context, s *socket) error {
	var intakes []*aggregator.Intake
	defer func() {
		for _, in := range intakes {
			in.Close()
		}
	}()
	return s.packet.Serve(ctx, func(spelling aggregator.Spelling) listeners.Sink {
		in := a.aggregator.Intake(spelling)
		intakes = append(intakes, in)
		return in
	})
}

// httpGrace is how long requests under way may take when an HTTP listener is
// closed.
const httpGrace = 2 * time.Second

func (a *agent) serveHTTP(ctx context.Context, s *socket) error {
	server := a.server()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		grace, cancel := context.WithTimeout(a.abort, httpGrace) // at the agent's end shutdown_timeout counts, too
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(s.web)
	if !stop() {
		<-closed
	}
	server.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve http %s: %w", s.web.Addr(), err)
}

// ofKind picks the sockets that take packets, or those of HTTP.
func ofKind(sockets []*socket, packets bool) (picked []*socket) {
	for _, s := range sockets {
		if (s.packet != nil) == packets {
			picked = append(picked, s)
		}
	}
	return picked
}

// thoseInherited picks the sockets that systemd has opened, or our own.
func thoseInherited(sockets []*socket, inherited bool) (picked []*socket) {
	for _, s := range sockets {
		if s.inherited == inherited {
			picked = append(picked, s)
		}
	}
	return picked
}

// without is list without the elements of other.
func without(list, other []endpoint) []endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e endpoint) bool { return slices.Contains(other, e) })
}

// cause is the error without what, where and the name of the system call.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

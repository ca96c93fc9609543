package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"sluice/configs"
	"sluice/listeners"
)

// An inherited socket was opened by systemd for us and stays open in its hands
// (sd_listen_fds(3)): what is sent while no agent runs waits in it. It is known by
// its kind and address. The file is kept open, so that it can be taken over again
// after a reload; every taking over uses a descriptor of its own.
type inherited struct {
	endpoint
	file *os.File
}

// inheritSockets takes what systemd has handed over, which is nothing in most
// runs, once in the life of the process. What is no socket is an error.
func inheritSockets() (all []inherited, err error) {
	for _, f := range activation.Files(true) {
		e, err := describe(f)
		if err != nil {
			return nil, fmt.Errorf("take over the socket %s from systemd: %w", f.Name(), err)
		}
		all = append(all, inherited{endpoint: e, file: f})
	}
	return all, nil
}

// describe tells what the configuration would call a socket.
func describe(f *os.File) (endpoint, error) {
	if conn, err := net.FilePacketConn(f); err == nil {
		defer conn.Close()
		kind := conn.LocalAddr().Network() // udp, unixgram
		if kind != "unix" {                // a stream passes for a connection of packets
			return endpoint{kind: kind, addr: conn.LocalAddr().String(), inherited: true}, nil
		}
	}
	l, err := net.FileListener(f)
	if err != nil {
		return endpoint{}, err
	}
	defer l.Close()
	return endpoint{kind: "http", addr: strings.TrimPrefix(httpName(l.Addr()), "http:"), inherited: true}, nil
}

// wanted lists the endpoints of a configuration, and whatever systemd has opened
// beside: nobody else reads that, and to leave it unread would be to lose it
// silently.
func (a *agent) wanted(l configs.Listen) []endpoint {
	all := endpoints(l)
	for i := range all {
		_, all[i].inherited = a.heir(all[i])
	}
	for _, in := range a.inherited {
		if !slices.ContainsFunc(endpoints(l), in.is) {
			e := in.endpoint
			e.buffer, e.readers = int(l.ReceiveBuffer), l.Readers
			all = append(all, e)
		}
	}
	return all
}

// tellInherited names the sockets that are served though no configuration asks
// for them. What a stream carries that nobody has named is taken for HTTP.
func (a *agent) tellInherited(l configs.Listen) {
	for _, in := range a.inherited {
		if !slices.ContainsFunc(endpoints(l), in.is) {
			a.log.Warn("systemd has opened a socket that is not in the configuration; it is served", "kind", in.kind, "address", in.addr)
		}
	}
}

// heir finds the inherited socket of an endpoint.
func (a *agent) heir(e endpoint) (*os.File, bool) {
	for _, in := range a.inherited {
		if in.is(e) {
			return in.file, true
		}
	}
	return nil, false
}

// is tells whether a socket is the one that an endpoint asks for. All of a host's
// addresses have several spellings.
func (in *inherited) is(e endpoint) bool {
	if e.kind == "unix" { // what a stream carries is for the configuration to say
		return in.kind == "http" && in.addr == "unix:"+e.addr
	}
	return in.kind == e.kind && (in.addr == e.addr || in.kind != "unixgram" && sameAddress(in.addr, e.addr))
}

func sameAddress(a, b string) bool {
	x, errX := net.ResolveTCPAddr("tcp", a)
	y, errY := net.ResolveTCPAddr("tcp", b)
	if errX != nil || errY != nil || x.Port != y.Port {
		return false
	}
	all := func(ip net.IP) bool { return ip == nil || ip.IsUnspecified() }
	return all(x.IP) && all(y.IP) || x.IP.Equal(y.IP)
}

// adopt takes over an inherited socket.
func adopt(s *socket, f *os.File, o listeners.PacketOptions) (err error) {
	if s.kind == "http" {
		s.web, err = net.FileListener(f)
		return err
	}
	if s.kind == "unix" {
		l, err := net.FileListener(f)
		if err != nil {
			return err
		}
		s.packet = listeners.AdoptStream(l.(*net.UnixListener), o)
		return nil
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return err
	}
	s.packet, err = listeners.AdoptPacket(conn, o)
	return err
}

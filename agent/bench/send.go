//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sender sends a corpus again and again, and knows exactly how much of it.
type sender struct {
	corpus   *corpus
	fd       int
	messages [64]message
	iovecs   [64]unix.Iovec

	next, times      int // packet to send next; how often the corpus has been sent whole
	packets, samples int
}

// message is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
}

func dial(network, addr string, c *corpus) (*sender, error) {
	var to unix.Sockaddr = &unix.SockaddrUnix{Name: addr}
	domain := unix.AF_UNIX
	if network == "udp" {
		a, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect %s %s: %w", network, addr, err)
	}
	return &sender{corpus: c, fd: fd}, nil
}

func (s *sender) close() { unix.Close(s.fd) }

// tick is how often a sender that has a rate is active: what is due goes out
// together, as from a program with several threads.
const tick = 250 * time.Microsecond

// maxBurst bounds what is sent at once after the sender itself was kept from
// running, which is not the receiver's fault.
const maxBurst = 2 * time.Millisecond

// run sends at a rate of lines a second (0: as fast as it can) until the time
// is over or that many lines have gone out (0: no limit).
func (s *sender) run(rate int, during time.Duration, lines int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, last, sent, due := time.Now(), time.Now(), s.samples, 0.0
	for {
		now := time.Now()
		if now.Sub(begin) >= during || lines > 0 && s.samples-sent >= lines {
			return nil
		}
		if rate == 0 {
			if err := s.send(len(s.messages)); err != nil {
				return err
			}
			continue
		}
		due = min(due+now.Sub(last).Seconds()*float64(rate), max(float64(rate)*maxBurst.Seconds(), 1))
		last = now
		for due >= 1 {
			n, taken := 0, 0
			for n < len(s.messages) && s.next+n < len(s.corpus.packets) && float64(taken) < due {
				taken += s.corpus.samples(s.next + n)
				n++
			}
			if err := s.send(n); err != nil {
				return err
			}
			due -= float64(taken)
		}
		pause := unix.NsecToTimespec(int64(tick))
		unix.Nanosleep(&pause, nil)
	}
}

// send sends up to n packets, no further than to the corpus' end.
func (s *sender) send(n int) error {
	n = min(n, len(s.corpus.packets)-s.next)
	for i := range n {
		p := s.corpus.packets[s.next+i]
		s.iovecs[i].Base = &p[0]
		s.iovecs[i].SetLen(len(p))
		s.messages[i].header.Iov = &s.iovecs[i]
		s.messages[i].header.SetIovlen(1)
	}
	for at := 0; at < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages[at])), uintptr(n-at), 0, 0, 0)
		switch errno {
		case 0:
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS:
			continue
		default: // ECONNREFUSED, too: a packet that nobody heard would spoil the account
			return os.NewSyscallError("sendmmsg", errno)
		}
		for i := range int(sent) {
			s.samples += s.corpus.samples(s.next + i)
		}
		at += int(sent)
		s.next += int(sent)
		s.packets += int(sent)
	}
	if s.next == len(s.corpus.packets) {
		s.next = 0
		s.times++
	}
	return nil
}

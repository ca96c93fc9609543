//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receive is the floor or the reference: it takes datagrams, 64 with one system
// call, in the runtime's poller, which of the ways that Go has costs least. It
// ends when it is killed.
func receive(what, at string) error {
	debug.SetGCPercent(400)
	network, addr, _ := strings.Cut(at, ":")
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), network, addr)
	if err != nil {
		return err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		}
	})
	var sum int
	take := func(packet []byte) { sum += bytes.Count(packet, []byte{'\n'}) + 1 }
	switch what {
	case "floor":
	case "reference":
		take = newReference().packet
	default:
		return fmt.Errorf("-serve %s: it is floor or reference", what)
	}
	const slots, stride = 64, 16<<10 + 17*64
	arena := make([]byte, slots*stride)
	var messages [slots]message
	var iovecs [slots]unix.Iovec
	for i := range messages {
		iovecs[i].Base = &arena[i*stride]
		iovecs[i].SetLen(stride)
		messages[i].header.Iov = &iovecs[i]
		messages[i].header.SetIovlen(1)
	}
	n := 0
	call := func(fd uintptr) bool {
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&messages[0])), slots, unix.MSG_DONTWAIT, 0, 0)
		n, err = int(got), nil
		if errno != 0 {
			n, err = 0, os.NewSyscallError("recvmmsg", errno)
		}
		return errno != unix.EAGAIN
	}
	for {
		if err := raw.Read(call); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		for i := range n {
			take(arena[i*stride : i*stride+int(messages[i].length)])
		}
	}
}

// A reference is the least that adds lines up per series: the bytes around the
// value are the identity, values are short decimals, a distribution counts in
// logarithmic buckets of 1 %. It is for its cost only.
type reference struct {
	places []uint32 // open addressing: place in slots, from 1; the number is a power of two
	checks []uint32 // the hash's upper half, beside it
	slots  []slot
	scale  float64
}

type slot struct {
	hash       uint64
	name, rest []byte
	kind       byte
	value      float64
	first      int
	buckets    []uint32
	members    map[uint64]struct{}
}

func newReference() *reference {
	return &reference{places: make([]uint32, 1<<12), checks: make([]uint32, 1<<12), scale: 1 / math.Log(1.01/0.99)}
}

func (r *reference) packet(packet []byte) {
	for len(packet) > 0 {
		text := packet
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			text, packet = text[:i], text[i+1:]
		} else {
			packet = nil
		}
		colon := bytes.IndexByte(text, ':')
		if colon < 0 {
			continue
		}
		bar := colon + 1
		for bar < len(text) && text[bar] != '|' {
			bar++
		}
		if bar+1 >= len(text) {
			continue
		}
		r.add(text[:colon], text[colon+1:bar], text[bar+1:])
	}
}

func (r *reference) add(name, value, rest []byte) {
	s := r.find(name, rest)
	switch s.kind {
	case 'c':
		s.value += decimal(value)
	case 'g':
		s.value = decimal(value)
	case 's':
		s.members[hash(value, 1)] = struct{}{}
	default:
		s.count(int(math.Log(max(decimal(value), 1e-9)) * r.scale))
	}
}

func (r *reference) find(name, rest []byte) *slot {
	h := hash(rest, hash(name, 1))
	h ^= h >> 32
	mask := uint64(len(r.places) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		place := r.places[i]
		if place == 0 {
			break
		}
		if r.checks[i] != uint32(h>>32) {
			continue
		}
		if s := &r.slots[place-1]; s.hash == h && bytes.Equal(s.name, name) && bytes.Equal(s.rest, rest) {
			return s
		}
	}
	s := slot{hash: h, name: bytes.Clone(name), rest: bytes.Clone(rest), kind: rest[0]}
	if s.kind == 's' {
		s.members = make(map[uint64]struct{})
	}
	r.slots = append(r.slots, s)
	r.place(len(r.slots))
	return &r.slots[len(r.slots)-1]
}

func (r *reference) place(n int) {
	if 2*n > len(r.places) {
		r.places, r.checks = make([]uint32, 2*len(r.places)), make([]uint32, 2*len(r.places))
		for i := range n - 1 {
			r.place(i + 1)
		}
	}
	h := r.slots[n-1].hash
	i, mask := h, uint64(len(r.places)-1)
	for r.places[i&mask] != 0 {
		i++
	}
	r.places[i&mask], r.checks[i&mask] = uint32(n), uint32(h>>32)
}

// hash multiplies and folds eight bytes at a time.
func hash(b []byte, h uint64) uint64 {
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * 0x9E3779B97F4A7C15
		h ^= h >> 29
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 0x100000001B3
	}
	return h
}

// count adds one to a bucket; there is always room for a few beside.
func (s *slot) count(i int) {
	const room = 16
	switch {
	case s.buckets == nil:
		s.first, s.buckets = i-room, make([]uint32, 2*room)
	case i < s.first:
		more := s.first - i + room
		s.first, s.buckets = s.first-more, append(make([]uint32, more, more+len(s.buckets)), s.buckets...)
	case i >= s.first+len(s.buckets):
		s.buckets = append(s.buckets, make([]uint32, i-s.first-len(s.buckets)+room)...)
	}
	s.buckets[i-s.first]++
}

// decimal reads digits with at most one point, at most 15 of them.
func decimal(b []byte) float64 {
	var mantissa uint64
	scale, step := 1.0, 1.0
	for _, c := range b {
		if c == '.' {
			step = 10
			continue
		}
		mantissa = mantissa*10 + uint64(c-'0')
		scale *= step
	}
	return float64(mantissa) / scale
}

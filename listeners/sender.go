package listeners

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxSenders bounds the programs that a Unix socket counts apart. Beyond, the one
// that has been silent for longest is counted among the others, if it has been for
// senderRest; else the newcomer is.
const MaxSenders = 64

// senderRest is long enough that programs which take turns do not push each other
// out: to count one apart costs a hundred times what counting does.
const senderRest = 10 * time.Second

// A Sender is a program that has sent to a Unix socket, as the kernel names it.
type Sender struct {
	PID     int32  // process; 0: all of that user that cannot be seen, as in another PID namespace
	UID     uint32 // user
	Command string // the program's name, as in ps -o comm; "" if it was gone before it could be asked for
	Others  bool   // those that are not counted apart, all together
	Packets uint64
	Samples uint64 // that the sink took
}

// credentials tell who has sent something; the zero value is nobody.
type credentials struct {
	known bool
	pid   int32 // 0 if it cannot be seen
	uid   uint32
}

// A sender is what is counted of one program.
type sender struct {
	credentials
	command          string
	text             string // for people to read: the socket, the program and its process or user
	packets, samples uint64
	last             int64 // when it was heard of, nanoseconds since 1970
	gone             bool  // counted among the others
}

// senders are those of one socket.
type senders struct {
	mu     sync.Mutex // guards the fields below
	all    map[credentials]*sender
	others sender
	full   int64 // until when nobody has been silent for senderRest, nanoseconds since 1970
}

// of returns the sender with those credentials, which may be the others, and nil if
// they are nobody's. socket is the name of where it sends to, now is in nanoseconds
// since 1970.
func (s *senders) of(socket string, c credentials, now int64) *sender {
	if !c.known {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.all[c]; one != nil {
		return one
	}
	if s.all == nil {
		s.all = make(map[credentials]*sender)
	}
	if len(s.all) >= MaxSenders && !s.dropLocked(now) {
		if !s.others.gone {
			s.others.gone, s.others.text = true, socket
		}
		return &s.others
	}
	one := &sender{credentials: c, last: now}
	if c.pid == 0 {
		one.text = fmt.Sprintf("%s uid %d", socket, c.uid)
	} else {
		one.command = commandOf(c.pid)
		one.text = fmt.Sprintf("%s %s[%d]", socket, cmp.Or(one.command, "?"), c.pid)
	}
	s.all[c] = one
	return one
}

// dropLocked counts the one that has been silent for longest among the others. It
// answers false if all have been heard of lately.
func (s *senders) dropLocked(now int64) bool {
	if now < s.full {
		return false
	}
	var silent *sender
	for _, one := range s.all {
		if silent == nil || one.last < silent.last {
			silent = one
		}
	}
	if free := silent.last + int64(senderRest); now < free {
		s.full = free
		return false
	}
	delete(s.all, silent.credentials)
	silent.gone = true
	s.others.packets += silent.packets
	s.others.samples += silent.samples
	return true
}

// count adds to what one has sent. It answers false if that is counted among the
// others by now.
func (s *senders) count(one *sender, now int64, packets, samples uint64) bool {
	if one == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	apart := !one.gone
	if !apart {
		one = &s.others
	}
	one.packets += packets
	one.samples += samples
	one.last = now
	return apart
}

// list returns all, those with most samples first, and the others last.
func (s *senders) list() []Sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Sender, 0, len(s.all)+1)
	for _, one := range s.all {
		list = append(list, one.show())
	}
	slices.SortFunc(list, func(a, b Sender) int {
		return cmp.Or(cmp.Compare(b.Samples, a.Samples), cmp.Compare(a.PID, b.PID), cmp.Compare(a.UID, b.UID))
	})
	if s.others.packets > 0 {
		list = append(list, Sender{Others: true, Packets: s.others.packets, Samples: s.others.samples})
	}
	return list
}

func (s *sender) show() Sender {
	return Sender{PID: s.pid, UID: s.uid, Command: s.command, Packets: s.packets, Samples: s.samples}
}

package listeners

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// To be woken is what a datagram costs most: at 50,000 a second, a line each, four
// fifths of the time go to it. So on a busy socket a reader that did not fill its
// slots sleeps for a moment, and then takes what has come meanwhile with one
// call. What it adds to the delay of a sample is nothing beside a window's length.
const (
	lullLength = 200 * time.Microsecond
	// lullRate is from how many datagrams a second it pays: a lull is itself a
	// system call and a wake-up. With 9,000 of 22 lines each it gained nothing.
	lullRate = 20_000
	// lullBuffer is the smallest receive buffer with which it is done. A datagram of
	// one line takes 768 bytes of it (skb truesize), so this one holds 1,365: what
	// comes within a lull at 7 million a second.
	lullBuffer = 1 << 20
)

// lull decides whether a socket is busy, by the last datagrams.
type lull struct {
	allowed bool
	busy    bool
	since   int64 // nanoseconds since 1970
	seen    int   // datagrams since then
}

// rest waits for a moment if n datagrams that arrived at now are a busy
// socket's but did not fill the slots. The processor is kept, as in recvmmsg: the
// scheduler, told, would wake other threads for it, which costs more than it saves.
// A signal ends the wait early.
func (r *receiver) rest(n int, now int64) {
	if l := &r.lull; !l.allowed || !l.note(n, now) || n == slots {
		return
	}
	pause := unix.NsecToTimespec(int64(lullLength))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
}

// note counts n datagrams and answers whether the socket is busy.
func (l *lull) note(n int, now int64) bool {
	l.seen += n
	took := now - l.since
	if l.seen >= 256 || took > int64(50*time.Millisecond) {
		l.busy = int64(l.seen)*int64(time.Second) >= lullRate*took
		l.seen, l.since = 0, now
	}
	return l.busy
}

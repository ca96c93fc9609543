package listeners

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// slots is how many datagrams one system call takes. Beyond 64 the call's own
	// cost no longer shows next to that of the datagrams.
	slots = 64

	// slotStride is the distance of two slots in the arena. At a multiple of
	// 4 KiB the first lines of all slots would fall into the same few sets of
	// the processor's caches; so they are 17 lines apart.
	slotStride = MaxPacket + 17*64
)

// receiver reads many datagrams with one system call, into an arena that has a
// slot of MaxPacket bytes for each. The arena is 4 MiB of address space
// outside the heap; only the pages that datagrams reach cost memory, and the
// garbage collector does not count it.
type receiver struct {
	raw      syscall.RawConn
	arena    []byte
	iovecs   [slots]unix.Iovec
	messages [slots]message
	told     *[slots]credentialsMessage // of Unix sockets; else nil

	// call is r.recvmmsg, bound once: a closure per receive would be allocated.
	call func(fd uintptr) (done bool)
	n    int
	err  error

	lull lull
}

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
}

// credentialsMessage is the control message SCM_CREDENTIALS of unix(7). There is room
// for no other, so descriptors that somebody sends are closed by the kernel.
type credentialsMessage struct {
	header unix.Cmsghdr
	cred   unix.Ucred
}

func newReceiver(conn packetConn, raw syscall.RawConn) (*receiver, error) {
	arena, err := unix.Mmap(-1, 0, slots*slotStride, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	unix.Madvise(arena, unix.MADV_NOHUGEPAGE) // a wish: a huge page is resident as a whole
	r := &receiver{raw: raw, arena: arena}
	r.call = r.recvmmsg
	// A Unix socket queues as few as ten datagrams: there, senders would wait.
	if _, udp := conn.(*net.UDPConn); udp {
		raw.Control(func(fd uintptr) {
			buffer, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
			r.lull.allowed = err == nil && buffer/2 >= lullBuffer
		})
	}
	for i := range r.messages {
		r.iovecs[i].Base = &arena[i*slotStride]
		r.iovecs[i].SetLen(MaxPacket)
		r.messages[i].header.Iov = &r.iovecs[i]
		r.messages[i].header.SetIovlen(1)
	}
	if _, unixgram := conn.(*net.UnixConn); unixgram {
		r.makeControl()
	}
	return r, nil
}

// makeControl makes room for what the kernel tells with each datagram, see
// passCredentials.
func (r *receiver) makeControl() {
	r.told = new([slots]credentialsMessage)
	for i := range r.messages {
		r.messages[i].header.Control = (*byte)(unsafe.Pointer(&r.told[i]))
	}
	r.n = slots
	r.resetControl()
}

// resetControl makes room again for what the kernel told with the last datagrams.
func (r *receiver) resetControl() {
	if r.told == nil {
		return
	}
	for i := range r.n {
		r.messages[i].header.SetControllen(int(unsafe.Sizeof(credentialsMessage{})))
	}
}

// overflowUID stands for users that have no number here (user_namespaces(7)).
const overflowUID = 65534

// credentials tell who has sent one of the packets that were received.
func (r *receiver) credentials(i int) (c credentials) {
	if r.told == nil || r.messages[i].header.Controllen == 0 || r.told[i].header.Type != unix.SCM_CREDENTIALS {
		return c
	}
	cred := &r.told[i].cred
	if cred.Pid == 0 && cred.Uid == overflowUID { // sent before anybody asked for credentials
		return c
	}
	return credentials{known: true, pid: cred.Pid, uid: cred.Uid}
}

// close gives the arena back. No packet may be in use any more.
func (r *receiver) close() { unix.Munmap(r.arena) }

// receive waits for datagrams and takes up to 64 of those that are there. It
// answers os.ErrDeadlineExceeded once the socket's read deadline has passed.
//
// The wait is in the runtime's poller: a thread that blocks in recvmmsg costs
// twice as much at 50,000 datagrams a second, and four times at 5,000.
func (r *receiver) receive() (n int, err error) {
	if err := r.raw.Read(r.call); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// receiveWaiting takes up to 64 datagrams that are already there; 0 means that
// there are none. It does not mind the deadline.
func (r *receiver) receiveWaiting() (n int, err error) {
	empty := false
	if err := r.raw.Control(func(fd uintptr) { empty = !r.recvmmsg(fd) }); err != nil {
		return 0, err
	}
	if empty {
		return 0, nil
	}
	return r.n, r.err
}

// recvmmsg fills the slots; false means that nothing is there yet.
//
// It does not block, so the scheduler is not told (RawSyscall): at 50,000
// datagrams a second, each its own call, telling it is a quarter of all CPU time.
// The longest call copies 64 full datagrams, well under a millisecond.
func (r *receiver) recvmmsg(fd uintptr) (done bool) {
	r.resetControl()
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.messages[0])), slots, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
			return true
		case unix.EAGAIN:
			r.n = 0
			return false
		case unix.EINTR:
			continue
		default:
			r.n, r.err = 0, os.NewSyscallError("recvmmsg", errno)
			return true
		}
	}
}

// datagram returns one of the packets that were received. It is valid until
// the next receive. truncated says that its end is missing.
func (r *receiver) datagram(i int) (packet []byte, truncated bool) {
	m := &r.messages[i]
	at := i * slotStride
	return r.arena[at : at+int(m.length)], m.header.Flags&unix.MSG_TRUNC != 0
}

// stopReceiving lets the kernel refuse what is sent to a Unix socket from now on, so
// that no sender believes to have been heard; what is queued stays. UDP knows
// nothing of the kind.
func stopReceiving(conn packetConn) {
	if c, ok := conn.(*net.UnixConn); ok {
		c.CloseRead()
	}
}

// setReceiveBuffer asks for a buffer and returns what was granted. Only
// CAP_NET_ADMIN gets past net.core.rmem_max.
func setReceiveBuffer(_ packetConn, raw syscall.RawConn, bytes int) (granted int, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
		}
	})
	if err = errors.Join(controlErr, err); err != nil {
		return 0, err
	}
	return receiveBuffer(raw)
}

// receiveBuffer returns the size of the buffer, in the unit in which it is asked
// for. The kernel sets and reports twice of that, the other half being for its
// own structures (socket(7)).
func receiveBuffer(raw syscall.RawConn) (bytes int, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		bytes, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	return bytes / 2, errors.Join(controlErr, err)
}

// kernelDrops returns the socket's drop counter. SO_RXQ_OVFL reports the same
// counter, but with the datagram that comes after the loss: when none does,
// the loss is never seen. SO_MEMINFO (Linux 4.12) can be asked at any time and
// costs nothing while reading.
func kernelDrops(raw syscall.RawConn) (drops uint32, ok bool) {
	raw.Control(func(fd uintptr) {
		var info [unix.SK_MEMINFO_VARS]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		ok = errno == 0 && size > 4*unix.SK_MEMINFO_DROPS
		drops = info[unix.SK_MEMINFO_DROPS]
	})
	return drops, ok
}

// bindPrivate opens a Unix datagram socket whose file appears with at most mode.
func bindPrivate(network, path string, mode fs.FileMode) (*net.UnixConn, error) {
	conn, err := private(mode).ListenPacket(context.Background(), network, path)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// listenPrivate is bindPrivate for a stream socket.
func listenPrivate(network, path string, mode fs.FileMode) (*net.UnixListener, error) {
	l, err := private(mode).Listen(context.Background(), network, path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// private binds sockets to files of at most mode. The mode that bind gives the
// file is that of the socket's own inode less the umask, so it is set there,
// before there is a file: neither the umask of the process nor a second path is
// needed.
func private(mode fs.FileMode) *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode)) })
		if controlErr != nil {
			return controlErr
		}
		return os.NewSyscallError("fchmod", err)
	}}
}

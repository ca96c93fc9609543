package listeners

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// credentialsOf asks the kernel who has opened a connection (SO_PEERCRED, unix(7)).
func credentialsOf(conn *net.UnixConn) (c credentials) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return c
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			c = credentials{known: true, pid: cred.Pid, uid: cred.Uid}
		}
	})
	return c
}

// passCredentials has the kernel tell with each datagram from now on who has sent it
// (SO_PASSCRED, unix(7)). It is only for show, so an error is none.
func passCredentials(conn packetConn, raw syscall.RawConn) {
	if _, unixgram := conn.(*net.UnixConn); unixgram {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	}
}

// commandOf returns the name of a running program; its control characters, which it
// may choose itself, become underscores.
func commandOf(pid int32) string {
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		return ""
	}
	return string(clean(nil, bytes.TrimSuffix(comm, []byte("\n")), 64))
}

// acceptRest is how much longer a listener waits for connections once its stop has
// begun: acceptWaiting finds them.
const acceptRest = 0

// acceptWaiting takes a connection that is in the kernel's queue, whatever the
// listener's deadline is; nil is none.
func acceptWaiting(l *net.UnixListener) (*net.UnixConn, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	var accepted int
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			accepted, _, failed = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if failed != unix.EINTR && failed != unix.ECONNABORTED {
				return
			}
		}
	})
	switch {
	case err != nil:
		return nil, err
	case failed == unix.EAGAIN:
		return nil, nil
	case failed != nil:
		return nil, os.NewSyscallError("accept4", failed)
	}
	file := os.NewFile(uintptr(accepted), "")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// stopStream lets the kernel refuse what is sent from now on. What is queued is read,
// and then comes the end of input.
func stopStream(conn *net.UnixConn) { conn.CloseRead() }

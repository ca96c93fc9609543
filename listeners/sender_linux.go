package listeners

import (
	"bytes"
	"net"
	"os"
	"strconv"

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
			c = credentials{pid: cred.Pid, uid: cred.Uid}
		}
	})
	return c
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

// stopStream lets the kernel refuse what is sent from now on. What is queued is read,
// and then comes the end of input.
func stopStream(conn *net.UnixConn) { conn.CloseRead() }

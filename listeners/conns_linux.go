package listeners

import (
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// userOf names the user at the other end of a Unix stream socket.
func userOf(c *net.UnixConn) (name string) {
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			name = "uid:" + strconv.FormatUint(uint64(cred.Uid), 10)
		}
	})
	return name
}

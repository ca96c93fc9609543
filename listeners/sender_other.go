//go:build !linux

package listeners

import (
	"net"
	"syscall"
	"time"
)

// credentialsOf does not know.
func credentialsOf(*net.UnixConn) credentials { return credentials{} }

func passCredentials(packetConn, syscall.RawConn) {}

func commandOf(int32) string { return "" }

// acceptRest is how much longer a listener waits for connections once its stop has
// begun: long enough for those in the system's queue, unless the machine is busy.
const acceptRest = 20 * time.Millisecond

func acceptWaiting(*net.UnixListener) (*net.UnixConn, error) { return nil, nil }

// stopStream leaves a moment to read what is queued: not every system keeps it
// when a socket is closed for reading.
func stopStream(conn *net.UnixConn) { conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) }

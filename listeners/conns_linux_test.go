package listeners

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNetwork runs f in a network of its own, whose loopback interface also has the
// addresses given. Sockets that f opens in its own goroutine are there.
func inNetwork(t *testing.T, f func(), addresses ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the network with its last socket
		err := makeNetwork(addresses)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("no network of its own: %v", err)
	}
}

func makeNetwork(addresses []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifreq.SetUint16(unix.IFF_UP)
	err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq)
	for i, address := range addresses {
		alias, bad := unix.NewIfreq("lo:" + string(rune('1'+i)))
		if bad == nil {
			bad = alias.SetInet4Addr(net.ParseIP(address).To4())
		}
		if bad == nil {
			bad = unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias)
		}
		err = errors.Join(err, bad)
	}
	return err
}

// TestConnsOfOneAddress is "Connections" of "HTTP: common rules": one address beyond
// loopback has at most 64 of the connections, so others get in at once.
func TestConnsOfOneAddress(t *testing.T) {
	const here, other = "192.0.2.1", "192.0.2.2"
	inNetwork(t, func() {
		l, err := net.Listen("tcp", here+":0")
		if err != nil {
			t.Error(err)
			return
		}
		limit := NewConnLimit(MaxConns, MaxConnsOfPeer)
		s := &http.Server{Handler: limit.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })),
			ConnContext: limit.ConnContext}
		served := make(chan error, 1)
		go func() { served <- s.Serve(limit.Listener(l)) }()
		defer func() { s.Close(); <-served }()
		connect := func(from string) net.Conn {
			c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, l.Addr().(*net.TCPAddr))
			if err != nil {
				t.Error(err)
				return nil
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		open := func() (n int) {
			limit.mu.Lock()
			defer limit.mu.Unlock()
			for c := range limit.conns {
				if c.peer == here {
					n++
				}
			}
			return n
		}
		for i := range 3 * MaxConnsOfPeer { // all silent
			if connect(here) == nil {
				return
			}
			if n := open(); n > MaxConnsOfPeer {
				t.Errorf("%d connections of one address after %d, want at most %d", n, i, MaxConnsOfPeer)
			}
		}
		c := connect(other)
		if c == nil {
			return
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer, err := io.ReadAll(io.LimitReader(c, 12)); string(answer) != "HTTP/1.1 200" {
			t.Errorf("from another address: %q, %v, want an answer", answer, err)
		}
		if n := open(); n != MaxConnsOfPeer {
			t.Errorf("%d connections of one address are open, want %d", n, MaxConnsOfPeer)
		}
	}, here, other)
}

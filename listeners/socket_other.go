//go:build !linux

package listeners

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// receiver reads one datagram at a time, with what every system offers.
type receiver struct {
	conn packetConn
	buf  []byte // one byte longer than a packet, which shows what was longer
	n    int
}

func newReceiver(conn packetConn, _ syscall.RawConn) (*receiver, error) {
	return &receiver{conn: conn, buf: make([]byte, MaxPacket+1)}, nil
}

func (r *receiver) close() {}

// rest is a matter of receiving many at once.
func (r *receiver) rest(int, int64) {}

// receive waits for a datagram. It answers os.ErrDeadlineExceeded once the
// socket's read deadline has passed.
func (r *receiver) receive() (n int, err error) {
	r.n, err = r.conn.Read(r.buf)
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// receiveWaiting takes a datagram that is already there; 0 means that none is.
// A deadline in the past would make Read fail whatever is there, so it waits
// for a moment.
func (r *receiver) receiveWaiting() (n int, err error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
		return 0, err
	}
	n, err = r.receive()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil
	}
	return n, err
}

// datagram returns the packet that was received. It is valid until the
// next receive. truncated says that its end is missing.
func (r *receiver) datagram(int) (packet []byte, truncated bool) {
	return r.buf[:min(r.n, MaxPacket)], r.n > MaxPacket
}

// credentials are not told here.
func (r *receiver) credentials(int) credentials { return credentials{} }

// stopReceiving does nothing here: not every system keeps what is queued.
func stopReceiving(packetConn) {}

// setReceiveBuffer asks for a buffer. Not every system tells what it granted,
// so what it took without complaint is believed.
func setReceiveBuffer(conn packetConn, _ syscall.RawConn, bytes int) (granted int, err error) {
	return bytes, conn.SetReadBuffer(bytes)
}

// receiveBuffer does not know.
func receiveBuffer(syscall.RawConn) (bytes int, err error) { return 0, nil }

// kernelDrops does not know.
func kernelDrops(syscall.RawConn) (drops uint32, ok bool) { return 0, false }

// bindPrivate opens a Unix datagram socket whose file appears with mode.
func bindPrivate(network, path string, mode fs.FileMode) (conn *net.UnixConn, err error) {
	if runtime.GOOS == "windows" {
		return nil, errors.New("Windows has no Unix datagram sockets (use listen.udp)")
	}
	err = inPrivate(path, mode, func(inside string) (err error) {
		conn, err = net.ListenUnixgram(network, &net.UnixAddr{Net: network, Name: inside})
		return err
	})
	if err != nil && conn != nil {
		conn.Close()
	}
	return conn, err
}

// listenPrivate is bindPrivate for a stream socket.
func listenPrivate(network, path string, mode fs.FileMode) (l *net.UnixListener, err error) {
	err = inPrivate(path, mode, func(inside string) (err error) {
		if l, err = net.ListenUnix(network, &net.UnixAddr{Net: network, Name: inside}); err == nil {
			l.SetUnlinkOnClose(false)
		}
		return err
	})
	if err != nil && l != nil {
		l.Close()
	}
	return l, err
}

// inPrivate binds in a folder that only this user can enter and then moves the
// file to its path, so that its mode does not depend on the umask, which belongs to
// the whole process.
func inPrivate(path string, mode fs.FileMode, bind func(inside string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".sluice")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	inside := filepath.Join(dir, "s")
	if err := bind(inside); err != nil {
		return err
	}
	if err := os.Chmod(inside, mode); err != nil {
		return err
	}
	return os.Rename(inside, path)
}

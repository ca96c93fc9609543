package listeners

import (
	"context"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the connections that are open at once: each takes a descriptor, of
// which a process has 1,024 by default and the spool needs a few. Clients that keep
// connections have up to twice as many as requests under way. All loopback clients
// over TCP have one address and no user, so those are bounded together.
const (
	MaxConns       = 512
	MaxConnsOfPeer = 64 // of one user on a Unix socket, of one address beyond loopback
)

// How long a connection may keep the server waiting before it can be evicted. A
// client that means well sends its request at once when it has connected, and
// 10,000 connections that say nothing must be through in seconds; one that had
// an answer already is a client, and may be slow because the machine is.
const (
	patience       = 250 * time.Millisecond
	patienceServed = 2 * time.Second
)

// A ConnLimit bounds the connections of a server, over all its listeners. When
// there are too many, the one goes that has kept the server waiting longest, for
// a request's first byte or its last, and of those that never had an answer first:
// so thousands of connections that never say anything keep nobody out. While none
// has waited for long, new ones wait in the kernel's queue; those of a peer that
// has too many are closed.
//
//	waiting ──request──▶ working ──answer──▶ waiting
//	   └──────── evicted, closed ◀─────────────┘
type ConnLimit struct {
	most, mostOfPeer int

	mu      sync.Mutex // guards the fields below
	free    sync.Cond  // a connection was closed, or waits again
	conns   map[*conn]struct{}
	evicted uint64
}

// NewConnLimit makes a limit of most connections, and mostOfPeer from one peer
// where peers can be told apart.
func NewConnLimit(most, mostOfPeer int) *ConnLimit {
	l := &ConnLimit{most: most, mostOfPeer: mostOfPeer, conns: make(map[*conn]struct{})}
	l.free.L = &l.mu
	return l
}

// Listener makes connections that inner accepts count.
func (l *ConnLimit) Listener(inner net.Listener) net.Listener {
	return &limitedListener{Listener: inner, limit: l}
}

// ConnContext is for http.Server: it lets handlers tell when they wait.
func (l *ConnLimit) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// Wrap makes a connection count as being worked for while next has its request.
func (l *ConnLimit) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := connOf(r)
		if !c.work() {
			panic(http.ErrAbortHandler) // closed while the request came in: nothing of it may be taken
		}
		defer c.answered()
		next.ServeHTTP(w, r)
	})
}

// Stats returns how many connections are open, and how many were evicted.
func (l *ConnLimit) Stats() (open int, evicted uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns), l.evicted
}

// ListenUnixHTTP opens a Unix stream socket at path, with the rules that
// ListenUnixgram describes. Closing the listener removes its file.
func ListenUnixHTTP(path string, mode fs.FileMode, group string) (net.Listener, error) {
	l, file, err := bindUnix("unix", path, mode, group, listenPrivate)
	if err != nil {
		return nil, listenError("unix", path, "listen.http", err)
	}
	l.SetUnlinkOnClose(false) // the file may be another's by then
	return &unixListener{l, file}, nil
}

type unixListener struct {
	*net.UnixListener
	file *socketFile
}

func (l *unixListener) Close() error {
	l.file.remove()
	return l.UnixListener.Close()
}

type connKey struct{}

// connOf returns the connection of a request, or nil, which does nothing.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

type limitedListener struct {
	net.Listener
	limit  *ConnLimit
	closed bool // guarded by limit.mu
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.limit.admit(l, inner); c != nil {
			return c, nil
		}
		inner.Close()
	}
}

func (l *limitedListener) Close() error {
	l.limit.mu.Lock()
	l.closed = true
	l.limit.mu.Unlock()
	l.limit.free.Broadcast()
	return l.Listener.Close()
}

// admit makes room for a connection, or answers nil when it cannot be had.
func (l *ConnLimit) admit(from *limitedListener, inner net.Conn) *conn {
	c := &conn{Conn: inner, limit: l, peer: peerOf(inner), since: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.peer != "" {
		if ok, _ := l.evictLocked(l.mostOfPeer, c.peer); !ok {
			return nil // one peer must not keep the others waiting
		}
	}
	for {
		ok, wait := l.evictLocked(l.most, "")
		switch {
		case ok:
			c.since = time.Now()
			l.conns[c] = struct{}{}
			return c
		case from.closed:
			return nil
		}
		again := time.AfterFunc(wait, l.free.Broadcast)
		l.free.Wait()
		again.Stop()
	}
}

// evictLocked leaves less than most connections, of peer if one is named. When it
// cannot, it answers after how long to try again.
func (l *ConnLimit) evictLocked(most int, peer string) (ok bool, wait time.Duration) {
	n, now := 0, time.Now()
	var worst *conn
	wait = patience
	for c := range l.conns {
		if peer != "" && c.peer != peer {
			continue
		}
		if n++; c.working {
			continue
		}
		may := patience
		if c.served {
			may = patienceServed
		}
		if left := may - now.Sub(c.since); left > 0 {
			wait = min(wait, left)
		} else if worst == nil || worst.served && !c.served || worst.served == c.served && c.since.Before(worst.since) {
			worst = c
		}
	}
	switch {
	case n < most:
		return true, 0
	case worst == nil:
		return false, wait
	}
	delete(l.conns, worst)
	l.evicted++
	worst.Conn.Close()
	return true, 0
}

// A conn is a connection that counts.
type conn struct {
	net.Conn
	limit *ConnLimit
	peer  string // who is at the other end, as far as that is told; "" is not

	working bool      // guarded by limit.mu, as are the next two
	served  bool      // it had an answer
	since   time.Time // when it began to wait
}

// work says that there is something to do. It answers false when the connection
// was evicted before.
func (c *conn) work() bool {
	if c == nil {
		return true
	}
	c.limit.mu.Lock()
	defer c.limit.mu.Unlock()
	c.working = true
	_, ok := c.limit.conns[c]
	return ok
}

// wait says that the client is to send something.
func (c *conn) wait() {
	if c == nil {
		return
	}
	c.limit.mu.Lock()
	c.working, c.since = false, time.Now()
	c.limit.mu.Unlock()
	c.limit.free.Signal()
}

// answered says that a request is done with.
func (c *conn) answered() {
	if c == nil {
		return
	}
	c.limit.mu.Lock()
	c.served = true
	c.limit.mu.Unlock()
	c.wait()
}

func (c *conn) Close() error {
	c.limit.mu.Lock()
	delete(c.limit.conns, c)
	c.limit.mu.Unlock()
	c.limit.free.Signal()
	return c.Conn.Close()
}

// peerOf names who has opened a connection: the address beyond loopback, or the
// user of a Unix socket where the system tells it.
func peerOf(c net.Conn) string {
	switch c := c.(type) {
	case *net.TCPConn:
		addr, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || addr.Addr().IsLoopback() {
			return ""
		}
		return addr.Addr().String()
	case *net.UnixConn:
		return userOf(c)
	}
	return ""
}

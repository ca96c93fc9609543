package main

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestLimitListener: connections beyond the limit wait for one to be closed,
// however often that is done, and a closed listener keeps nobody.
func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimitListener(inner, 2)
	accepted := make(chan net.Conn)
	ended := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	conns = append(conns, <-accepted, <-accepted)
	select {
	case <-accepted:
		t.Fatal("a third connection was taken, want 2 at once")
	case <-time.After(50 * time.Millisecond):
	}
	conns[0].Close()
	conns[0].Close()
	select {
	case c := <-accepted:
		conns = append(conns, c)
	case <-time.After(patience):
		t.Fatal("no connection was taken after one was closed")
	}
	l.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
		}
	case <-time.After(patience):
		t.Error("Accept waits although the listener is closed")
	}
	for _, c := range conns {
		c.Close()
	}
}

package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSlowLoris: connections that begin a request and do not end it, opened as fast
// as the kernel takes them: 2,000, or 10,000 with SLUICE_LONG=1, if this process may
// have that many. All are closed, by themselves and soon, a program that means well is
// answered meanwhile, and not one datagram is lost.
func TestSlowLoris(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(2000, int(limit.Cur)-200)
	if os.Getenv("SLUICE_LONG") != "" {
		n = min(10_000, int(limit.Cur)-200)
	}
	d := start(t, setup{})
	addr := strings.TrimPrefix(d.http, "http://")
	var datagrams sync.WaitGroup
	stop := make(chan struct{})
	sent := uint64(0)
	udp := d.dial("udp")
	datagrams.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				if _, err := udp.Write([]byte("loris:1|c")); err == nil {
					sent++
				}
			}
		}
	})
	began := time.Now()
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for len(conns) < n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		io.WriteString(c, "POST /api/v1/metrics HTTP/1.1\r\nHost: localhost\r\nX-")
		conns = append(conns, c)
		if len(conns)%1000 == 0 {
			if status, answer := d.post("/api/v1/metrics", `{"name":"meanwhile","type":"counter"}`); status != http.StatusCreated {
				t.Errorf("with %d half-open connections a request is answered with %d: %s", len(conns), status, answer)
			}
		}
	}
	opened := time.Since(began)
	last := time.Now()
	for i, c := range conns {
		c.SetReadDeadline(last.Add(30 * time.Second))
		if _, err := bufio.NewReader(c).ReadByte(); err != nil && os.IsTimeout(err) {
			t.Fatalf("connection %d of %d is still open 30 s after the last one was opened", i, n)
		}
	}
	t.Logf("%d half-open connections, opened in %v, all closed %v after the last", n, opened.Round(time.Millisecond), time.Since(last).Round(time.Millisecond))
	close(stop)
	datagrams.Wait()
	d.taken(sent)
	s := d.status()
	for _, l := range s.Listeners {
		if l.KernelDropped > 0 {
			t.Errorf("%s: the kernel dropped %d datagrams", l.Name, l.KernelDropped)
		}
	}
	if got, want := s.Ledger.Counter.Accepted, sent+uint64(n/1000); got != want {
		t.Errorf("%d samples taken, want the %d sent", got, want)
	}
}

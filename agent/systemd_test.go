//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// opened opens the sockets that systemd would open, and gives their files.
func opened(t *testing.T, dir string) (udp, unix net.PacketConn, web, stream, local net.Listener, files []*os.File) {
	t.Helper()
	file := func(s interface{ File() (*os.File, error) }) {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	var err error
	if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if unix, err = net.ListenPacket("unixgram", filepath.Join(dir, "handed.sock")); err != nil {
		t.Fatal(err)
	}
	if web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if stream, err = net.Listen("unix", filepath.Join(dir, "stream.sock")); err != nil {
		t.Fatal(err)
	}
	if local, err = net.Listen("unix", filepath.Join(dir, "http.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); unix.Close(); web.Close(); stream.Close(); local.Close() })
	udp.(*net.UDPConn).SetReadBuffer(8 << 20)
	file(udp.(*net.UDPConn))
	file(unix.(*net.UnixConn))
	file(web.(*net.TCPListener))
	file(stream.(*net.UnixListener))
	file(local.(*net.UnixListener))
	return udp, unix, web, stream, local, files
}

// TestRestartsLoseNothing restarts the agent under load on sockets that somebody
// else keeps open: what is sent while no agent runs waits in them. Two of them are
// not in the configuration and served all the same, and so is one that a reload
// takes out.
func TestRestartsLoseNothing(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	udp, unix, web, stream, local, files := opened(t, s.Dir)
	s.Inherit = files
	s.Listen = fmt.Sprintf("  udp: [%q]\n  unixgram: []\n  unix: [%q]\n  http: %q\n", udp.LocalAddr(), stream.Addr(), web.Addr())

	stop := make(chan struct{})
	var sending sync.WaitGroup
	transports := []string{"udp", "unixgram", "unix"}
	sent := make([]float64, len(transports))
	for i, addr := range []net.Addr{udp.LocalAddr(), unix.LocalAddr(), stream.Addr()} {
		conn, err := net.Dial(transports[i], addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		packet := "handed." + transports[i] + ":1|c"
		if transports[i] == "unix" {
			packet = framed(packet)
		}
		sending.Go(func() {
			for ; ; time.Sleep(2 * time.Millisecond) {
				select {
				case <-stop:
					return
				default:
				}
				// A full queue makes a sender wait, real clients too.
				conn.SetWriteDeadline(time.Now().Add(patience))
				_, err := conn.Write([]byte(packet))
				if transports[i] == "unix" && errors.Is(err, syscall.EPIPE) { // an agent ends, and has not taken it
					if conn, err = net.Dial("unix", addr.String()); err == nil {
						t.Cleanup(func() { conn.Close() })
						continue
					}
				}
				if err != nil {
					t.Errorf("send over %s: %v", transports[i], err)
					return
				}
				sent[i]++
			}
		})
	}
	var d *daemon
	for range 4 {
		d = start(t, s)
		time.Sleep(500 * time.Millisecond)
		d.terminate()
	}
	d = start(t, s)
	besides := func(kind, addr string) bool {
		return slices.ContainsFunc(d.log.lines(), func(l line) bool {
			return strings.Contains(l.text("msg"), "not in the configuration") && l.text("kind") == kind && l.text("address") == addr
		})
	}
	if !besides("unixgram", unix.LocalAddr().String()) || !besides("http", "unix:"+local.Addr().String()) {
		t.Errorf("the log does not tell of both sockets beside the configuration:\n%s", d.log.tail(20))
	}
	close(stop)
	sending.Wait()
	var total uint64
	for _, n := range sent {
		total += uint64(n)
	}
	d.until("all is stored", func() bool { return d.status().Upstreams[0].Ledger.Counter.Windowed == total })
	d.delivered()
	d.balanced()
	for i, name := range transports {
		if got := flux.CounterTotal("handed." + name).Float; got != sent[i] {
			t.Errorf("%v of %v samples arrived over %s", got, sent[i], name)
		}
	}
	if _, err := os.Lstat(unix.LocalAddr().String()); err != nil {
		t.Errorf("the socket's file: %v", err)
	}
	t.Logf("%d samples sent over 4 restarts", total)

	overHTTP := func(path string) bool {
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
		answer, err := client.Get("http://localhost/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == 200
	}
	if !overHTTP(local.Addr().String()) {
		t.Error("the local HTTP socket does not speak HTTP")
	}
	s.Listen = strings.Replace(s.Listen, fmt.Sprintf("%q", stream.Addr()), "", 1)
	rewrite(t, filepath.Join(s.Dir, "sluice.yaml"), s.yaml())
	d.until("the log tells what the stream socket is now", func() bool {
		return besides("http", "unix:"+stream.Addr().String())
	})
	d.until("it is", func() bool { return overHTTP(stream.Addr().String()) })
}

// TestNotify listens in systemd's place to what the agent says of itself.
func TestNotify(t *testing.T) {
	s := setup{Dir: t.TempDir()}
	path := filepath.Join(s.Dir, "notify")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"}

	heard := make(chan string, 1000)
	go func() {
		defer close(heard)
		for buf := make([]byte, 4096); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	expect := func(what string) string {
		t.Helper()
		for timeout := time.After(patience); ; {
			select {
			case text := <-heard:
				if strings.Contains(text, what) {
					return text
				}
			case <-timeout:
				t.Fatalf("the agent has not said %s", what)
			}
		}
	}
	d := start(t, s)
	expect("READY=1")
	if text := expect("STATUS="); !strings.Contains(text, "samples/s") {
		t.Errorf("the status is %q", text)
	}
	for range 3 {
		expect("WATCHDOG=1")
	}
	d.signal(syscall.SIGHUP)
	if text := expect("RELOADING=1"); !strings.Contains(text, "MONOTONIC_USEC=") {
		t.Errorf("a reload is announced by %q", text)
	}
	expect("READY=1")
	d.terminate()
	expect("STOPPING=1")
}

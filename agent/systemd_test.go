//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// opened opens the sockets that systemd would open, and gives their files.
func opened(t *testing.T, dir string) (udp, unix net.PacketConn, web net.Listener, files []*os.File) {
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
	t.Cleanup(func() { udp.Close(); unix.Close(); web.Close() })
	udp.(*net.UDPConn).SetReadBuffer(8 << 20)
	file(udp.(*net.UDPConn))
	file(unix.(*net.UnixConn))
	file(web.(*net.TCPListener))
	return udp, unix, web, files
}

// TestRestartsLoseNothing restarts the agent under load on sockets that somebody
// else keeps open: what is sent while no agent runs waits in them. One of them is
// not in the configuration and served all the same.
func TestRestartsLoseNothing(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	udp, unix, web, files := opened(t, s.Dir)
	s.Inherit = files
	s.Listen = fmt.Sprintf("  udp: [%q]\n  unixgram: []\n  http: %q\n", udp.LocalAddr(), web.Addr())

	stop := make(chan struct{})
	var sending sync.WaitGroup
	transports := []string{"udp", "unixgram"}
	sent := make([]float64, len(transports))
	for i, addr := range []net.Addr{udp.LocalAddr(), unix.LocalAddr()} {
		conn, err := net.Dial(transports[i], addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		sending.Go(func() {
			for ; ; time.Sleep(2 * time.Millisecond) {
				select {
				case <-stop:
					return
				default:
				}
				// A full queue makes a sender wait, real clients too.
				conn.SetWriteDeadline(time.Now().Add(patience))
				if _, err := fmt.Fprintf(conn, "handed.%s:1|c", transports[i]); err != nil {
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
	if told, ok := d.log.find("not in the configuration"); !ok || told.text("address") != unix.LocalAddr().String() {
		t.Errorf("the log tells of a socket beside the configuration: %v, %v", told, ok)
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

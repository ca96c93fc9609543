//go:build linux

package listeners

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestAdoptedSocketsLoseNothing hands a socket from one reader to the next, as
// systemd does with a service that restarts: what is sent while nobody reads
// waits, senders are not refused, and the socket stays as it was.
func TestAdoptedSocketsLoseNothing(t *testing.T) {
	for network, addr := range map[string]string{"udp": "127.0.0.1:0", "unixgram": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			opened, err := net.ListenPacket(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			const buffer = 1 << 20 // more than the agent asks for below
			if err := opened.(packetConn).SetReadBuffer(buffer); err != nil {
				t.Fatal(err)
			}
			raw, err := opened.(packetConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			before, err := receiveBuffer(raw)
			if err != nil {
				t.Fatal(err)
			}
			client := dial(t, network, opened.LocalAddr().String())
			for _, round := range []string{"first", "second", "third"} {
				send(t, client, round+":1|c")
				p := adopt(t, opened, PacketOptions{ReceiveBuffer: 4096})
				if got := p.Stats().ReceiveBuffer; got != before {
					t.Errorf("%s: the receive buffer is %d bytes, was %d", round, got, before)
				}
				var c crowd
				stop := serve(t, p, &c)
				await(t, &c, 1)
				send(t, client, "told:1|c")
				await(t, &c, 2)
				stop()
				if network == "unixgram" {
					checkSender(t, round, p.Senders(), round != "first")
				}
			}
			if network == "unixgram" {
				if _, err := os.Lstat(addr); err != nil {
					t.Errorf("the socket's file is gone: %v", err)
				}
			}
		})
	}
}

// checkSender: an adopted socket tells who sends from then on, and, as it stays as it
// is, who has sent while nobody read it.
func checkSender(t *testing.T, round string, got []Sender, before bool) {
	t.Helper()
	want := uint64(1)
	if before {
		want = 2
	}
	if len(got) != 1 || got[0].PID != int32(os.Getpid()) || got[0].Samples != want {
		t.Errorf("%s: senders %+v, want this process with %d samples", round, got, want)
	}
}

// TestAdoptedStreamsLoseNothing is the same for a stream socket: who connects while
// nobody accepts waits, and is heard by the next one.
func TestAdoptedStreamsLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	opened, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	for _, round := range []string{"first", "second", "third"} {
		waiting := dial(t, "unix", path)
		send(t, waiting, frame(round+":1|c"))
		s := adoptStream(t, opened.(*net.UnixListener))
		var c crowd
		stop := serveUntil(t, s, &c)
		until(t, "the one that waited is heard", func() bool { return s.Stats().Samples == 1 })
		send(t, dial(t, "unix", path), frame("later:1|c"))
		send(t, waiting, frame("more:1|c"))
		until(t, "so are others", func() bool { return s.Stats().Samples == 3 })
		stop()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: the socket's file is gone: %v", round, err)
		}
	}
}

func adoptStream(t *testing.T, opened *net.UnixListener) *Stream {
	t.Helper()
	f, err := opened.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return AdoptStream(l.(*net.UnixListener), PacketOptions{Naming: normal})
}

func adopt(t *testing.T, opened net.PacketConn, o PacketOptions) *Packet {
	t.Helper()
	f, err := opened.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := AdoptPacket(conn, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAdoptRefusesOtherSockets(t *testing.T) {
	conn, err := net.ListenPacket("ip4:icmp", "127.0.0.1")
	if err != nil {
		t.Skip("raw sockets are for root:", err)
	}
	if _, err := AdoptPacket(conn, PacketOptions{}); err == nil {
		t.Error("a raw socket was adopted")
	}
}

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
				stop()
			}
			if network == "unixgram" {
				if _, err := os.Lstat(addr); err != nil {
					t.Errorf("the socket's file is gone: %v", err)
				}
			}
		})
	}
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

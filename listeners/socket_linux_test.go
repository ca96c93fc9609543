package listeners

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sluice/aggregator"
)

// TestKernelDropsAreExact floods a socket nobody reads yet: what was read and what
// the kernel says it dropped are together what was sent.
func TestKernelDropsAreExact(t *testing.T) {
	p, client := transports["udp"](t, PacketOptions{Naming: normal, ReceiveBuffer: 32 << 10})
	const sent = 3000
	for range sent {
		send(t, client, "a:1|c")
	}
	if got := p.Stats().KernelDropped; got == 0 || got >= sent {
		t.Errorf("before anything is read KernelDropped = %d of %d", got, sent)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var c crowd
	if err := p.Serve(ctx, c.open); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Packets+s.KernelDropped != sent || s.Packets == 0 || s.Samples != s.Packets {
		t.Errorf("%d packets were read and %d dropped of %d sent", s.Packets, s.KernelDropped, sent)
	}
}

// TestDropsAfterClose proves that what was dropped last is not forgotten.
func TestDropsAfterClose(t *testing.T) {
	p, client := transports["udp"](t, PacketOptions{ReceiveBuffer: 1})
	for range 100 {
		send(t, client, "a:1|c")
	}
	p.Close()
	if got := p.Stats().KernelDropped; got == 0 || got > 100 {
		t.Errorf("KernelDropped = %d of 100 packets that a full buffer met", got)
	}
}

// TestStoppingRefusesSenders holds a listener in the middle of its stop: a sender
// is told that it is not heard, and what was sent before is still added.
func TestStoppingRefusesSenders(t *testing.T) {
	p, client := transports["unixgram"](t, PacketOptions{Naming: normal})
	var c crowd
	busy, release := make(chan struct{}, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- p.Serve(ctx, func(s aggregator.Spelling) Sink { return slow{c.open(s), busy, release} })
	}()
	send(t, client, "a:1|c")
	<-busy // the reader is in Add and does not come back
	sent := uint64(1)
	cancel()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err = client.Write([]byte("a:1|c")); err == nil {
			sent++
		} else if !errors.Is(err, os.ErrDeadlineExceeded) { // the queue is full, and it has not stopped yet
			break
		}
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("sending to a listener that stops: %v, want %v", err, syscall.EPIPE)
	}
	if _, err := os.Lstat(p.Addr()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a listener that stops: %v, want that there is none", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := p.Stats().Samples; got != sent {
		t.Errorf("%d samples of %d that were sent without an error", got, sent)
	}
}

// slow is a sink that waits to be released.
type slow struct {
	Sink
	busy    chan<- struct{}
	release <-chan struct{}
}

func (s slow) Add(now int64, batch []aggregator.Sample) int {
	s.busy <- struct{}{}
	<-s.release
	return s.Sink.Add(now, batch)
}

// TestReceiveDoesNotAllocate goes from the socket to the sink's border.
func TestReceiveDoesNotAllocate(t *testing.T) {
	for network, open := range transports {
		p, client := open(t, PacketOptions{Naming: normal})
		in, err := newReceiver(p.conn, p.raw)
		if err != nil {
			t.Fatal(err)
		}
		r := reader{packet: p, in: in, feed: feed{parser: NewParser(&normal), sink: deaf{}}}
		packet := []byte("a.b:1|c|#k:v\nbad\nt:1:2:3|ms|@0.5|#a:b|#c:d\n")
		allocs := testing.AllocsPerRun(200, func() {
			for range 3 {
				client.Write(packet)
			}
			for left := 3; left > 0; { // a busy kernel may hand them over one by one
				n, err := in.receive()
				if err != nil || n < 1 || n > left {
					t.Fatalf("receive() = %d, %v, want 1 to %d packets", n, err, left)
				}
				r.takeAll(n)
				left -= n
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations per receive, want 0", network, allocs)
		}
		if s := p.Stats(); s.Packets != 3*201 || s.Samples != 4*s.Packets {
			t.Errorf("%s: %d packets and %d samples, want %d and 4 in each", network, s.Packets, s.Samples, 3*201)
		} else if got := s.Refused[aggregator.MalformedLine]; got != s.Packets {
			t.Errorf("%s: %d lines refused, want 1 in each of %d packets", network, got, s.Packets)
		}
		in.close()
		p.Close()
	}
}

// TestModeBeforeChmod holds the moment between bind and chmod still.
func TestModeBeforeChmod(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	conn, err := bindPrivate("unixgram", path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), fs.ModeSocket|0o600; got != want {
		t.Errorf("the file appears with mode %v, want %v", got, want)
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{64, 1432, 8192} {
		b.Run(fmt.Sprintf("udp/size=%d", size), func(b *testing.B) {
			p, err := ListenUDP("127.0.0.1:0", PacketOptions{Naming: normal})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			client, err := net.Dial("udp", p.Addr())
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			in, err := newReceiver(p.conn, p.raw)
			if err != nil {
				b.Fatal(err)
			}
			defer in.close()
			packet := make([]byte, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for left := 0; b.Loop(); left-- { // one datagram an iteration, 64 a call
				if left > 0 {
					continue
				}
				b.StopTimer()
				for range slots {
					client.Write(packet)
				}
				b.StartTimer()
				if left, err = in.receive(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

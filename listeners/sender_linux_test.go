package listeners

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of datagrams, too; and a program that sends descriptors along gets rid of them, for
// there is no room for them.
func TestDatagramSenders(t *testing.T) {
	p, client := transports["unixgram"](t, PacketOptions{Naming: normal})
	var c crowd
	stop := serve(t, p, &c)
	send(t, client, "a:1|c\nb:1|c")
	before := descriptors(t)
	raw, err := client.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rights := unix.UnixRights(int(os.Stdin.Fd()), int(os.Stdout.Fd()))
	sendmsg := func(packet string, oob []byte) {
		t.Helper()
		raw.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), []byte(packet), oob, nil, 0)
			return err != unix.EAGAIN // the queue is full: wait
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		sendmsg("c:1|c", rights)
	}
	sendmsg("", nil) // by Write, one of no bytes does not wait for room
	await(t, &c, 22)
	stop()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	want := Sender{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), Command: string(bytes.TrimSpace(comm)), Packets: 22, Samples: 22}
	if got := p.Senders(); len(got) != 1 || got[0] != want {
		t.Errorf("Senders() = %+v, want %+v", got, want)
	}
}

// A stop that finds no descriptor for the connections that wait says so.
func TestStreamStopWithoutDescriptors(t *testing.T) {
	var log bytes.Buffer
	s, err := ListenUnixStream(t.TempDir()+"/s", 0o600, "", PacketOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dial(t, "unix", s.Addr())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	served := 0
	serve := func(conn *net.UnixConn) { served++; conn.Close() }
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	s.serveWaiting(serve)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); served != 0 || !strings.Contains(text, "connections that waited at the stop are lost") || !strings.Contains(text, "too many open files") {
		t.Errorf("%d served without descriptors, and the log says %q", served, text)
	}
	log.Reset()
	if s.serveWaiting(serve); served != 1 || log.Len() > 0 {
		t.Errorf("%d served, want the one that waited; the log says %q", served, log.String())
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// What it costs to be told the sender: a datagram from here to the sink's border.
func BenchmarkUnixgram(b *testing.B) {
	for _, told := range []bool{false, true} {
		b.Run(map[bool]string{false: "anonymous", true: "told"}[told], func(b *testing.B) {
			p, err := ListenUnixgram(b.TempDir()+"/s", 0o600, "", PacketOptions{Naming: normal})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			in, err := newReceiver(p.conn, p.raw)
			if err != nil {
				b.Fatal(err)
			}
			defer in.close()
			if !told {
				p.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 0) })
				for i := range in.messages {
					in.messages[i].header.Control = nil
				}
				in.told = nil
				for i := range in.messages {
					in.messages[i].header.SetControllen(0)
				}
			}
			client, err := net.Dial("unixgram", p.Addr())
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			r := reader{packet: p, in: in, feed: feed{parser: NewParser(&normal), sink: deaf{}}}
			packet := []byte("a.b:1|c|#k:v\nt:1:2:3|ms|@0.5|#a:b|#c:d\n")
			b.ReportAllocs()
			for b.Loop() {
				for range 5 {
					client.Write(packet)
				}
				n, err := in.receive()
				if err != nil {
					b.Fatal(err)
				}
				r.takeAll(n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(5*b.N), "ns/datagram")
		})
	}
}

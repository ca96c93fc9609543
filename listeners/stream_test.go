package listeners

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/aggregator"
)

// frame puts the length in front of a packet.
func frame(packet string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(packet)))) + packet
}

// serveStream serves a stream socket until the test's end.
func serveStream(t *testing.T, c *crowd) (s *Stream, stop func()) {
	t.Helper()
	s, err := ListenUnixStream(filepath.Join(t.TempDir(), "s"), 0o600, "", PacketOptions{Naming: normal})
	if err != nil {
		t.Fatal(err)
	}
	return s, serveUntil(t, s, c)
}

// serveUntil serves a stream socket until it is told to stop, or the test ends.
func serveUntil(t *testing.T, s *Stream, c *crowd) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, c.open) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

// TestStreamFrames is "Streams": what one connection sends, in all the ways of cutting it up, and what it amounts to.
func TestStreamFrames(t *testing.T) {
	long := "long:" + strings.Repeat("1:", (MaxPacket-7)/2) + "1|c" // 65,536 bytes
	for len(long) < MaxPacket {
		long = "l" + long
	}
	values := strings.Count(long, "1")
	for name, test := range map[string]struct {
		sent    string
		samples uint64
		packets uint64
		refused map[aggregator.Reason]uint64
	}{
		"nothing":             {},
		"one frame":           {sent: frame("a:1|c\nb:1|g"), samples: 2, packets: 1},
		"two frames":          {sent: frame("a:1|c") + frame("b:1|c\n"), samples: 2, packets: 2},
		"empty frames":        {sent: frame("") + frame("a:1|c") + frame("") + frame(""), samples: 1, packets: 1},
		"event":               {sent: frame("_e{1,1}:a|b") + frame("_sc|x|0"), samples: 2, packets: 2},
		"longest frame":       {sent: frame(long) + frame("a:1|c"), samples: uint64(values) + 1, packets: 2},
		"too long a frame":    {sent: frame("a:1|c") + frame(long+"1") + frame("b:1|c"), samples: 1, packets: 1, refused: map[aggregator.Reason]uint64{aggregator.BadFrame: 1}},
		"4 GiB":               {sent: "\xff\xff\xff\xff" + frame("b:1|c"), refused: map[aggregator.Reason]uint64{aggregator.BadFrame: 1}},
		"cut in the length":   {sent: frame("a:1|c") + "\x05\x00", samples: 1, packets: 1, refused: map[aggregator.Reason]uint64{aggregator.Truncated: 1}},
		"cut in the frame":    {sent: frame("a:1|c") + frame("b:1|c")[:7], samples: 1, packets: 1, refused: map[aggregator.Reason]uint64{aggregator.Truncated: 1}},
		"only a cut length":   {sent: "\x05", refused: map[aggregator.Reason]uint64{aggregator.Truncated: 1}},
		"bad lines":           {sent: frame("a:x|c\nb:1|c") + frame("c:1|c"), samples: 2, packets: 2, refused: map[aggregator.Reason]uint64{aggregator.BadValue: 1}},
		"text":                {sent: "a:1|c\nb:1|c\n", samples: 2},
		"text without an end": {sent: "a:1|c\nb:1|c", samples: 2},
		"text of CR LF":       {sent: "\r\n\ta:1|c\r\nb:1|c\r\n", samples: 2},
		"short text":          {sent: "ab", refused: map[aggregator.Reason]uint64{aggregator.MalformedLine: 1}},
		"text of newlines":    {sent: "\n\n"},
		"text of a long line": {sent: "a:1|c\n" + strings.Repeat("x", 200_000) + "\nb:1|c\n", samples: 2, refused: map[aggregator.Reason]uint64{aggregator.Truncated: 1}},
		"text of a long end":  {sent: "a:1|c\n" + strings.Repeat("x", 200_000), samples: 1, refused: map[aggregator.Reason]uint64{aggregator.Truncated: 1}},
		"text of long lines":  {sent: strings.Repeat("x", 70_000) + "\n" + strings.Repeat("y", 70_000) + "\na:1|c\n", samples: 1, refused: map[aggregator.Reason]uint64{aggregator.Truncated: 2}},
		"text of 65,536":      {sent: long + "\na:1|c\n", samples: uint64(values) + 1},
	} {
		for _, chunk := range []int{1, 3, 4096, 1 << 20} {
			if chunk < 4096 && len(test.sent) > 1000 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", name, chunk), func(t *testing.T) {
				t.Parallel()
				var c crowd
				s, stop := serveStream(t, &c)
				conn := dial(t, "unix", s.Addr())
				for rest := test.sent; len(rest) > 0; {
					n := min(chunk, len(rest))
					if _, err := conn.Write([]byte(rest[:n])); err != nil {
						break // after a bad frame
					}
					rest = rest[n:]
					if chunk < 4096 && n%2 == 1 {
						runtime.Gosched()
					}
				}
				conn.Close()
				until(t, "the connection is gone", func() bool { return s.Stats().Connections == 0 && len(s.feeds) == cap(s.feeds) })
				if len(test.sent) > 0 {
					until(t, "it is counted", func() bool {
						stats := s.Stats()
						refused := uint64(0)
						for _, n := range test.refused {
							refused += n
						}
						for _, n := range stats.Refused {
							refused -= n
						}
						return stats.Samples == test.samples && refused == 0
					})
				}
				stop()
				stats := s.Stats()
				if stats.Samples != test.samples || test.packets > 0 && stats.Packets != test.packets {
					t.Errorf("%d samples in %d packets, want %d in %d", stats.Samples, stats.Packets, test.samples, test.packets)
				}
				for reason, n := range stats.Refused {
					if n != test.refused[aggregator.Reason(reason)] {
						t.Errorf("%d refused as %s, want %d", n, aggregator.Reason(reason), test.refused[aggregator.Reason(reason)])
					}
				}
			})
		}
	}
}

// 1,000 connections at once, bad ones among them, and every good one is heard in full.
func TestStreamManyConnections(t *testing.T) {
	const conns, frames = 1000, 20
	var c crowd
	s, stop := serveStream(t, &c)
	var sending sync.WaitGroup
	open := make([]net.Conn, conns)
	for i := range open {
		open[i] = dial(t, "unix", s.Addr())
	}
	until(t, "all are accepted", func() bool { return s.Stats().Connections == conns })
	for i, conn := range open {
		sending.Go(func() {
			for range frames {
				if i%10 == 9 { // bad: a length that no frame has, or silence in the midst of one
					conn.Write([]byte{1, 2, 3, byte(i)})
					return
				}
				if _, err := conn.Write([]byte(frame("a:1|c\nb:1|c"))); err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
		})
	}
	sending.Wait()
	const good = conns / 10 * 9
	until(t, "all is heard", func() bool {
		stats := s.Stats()
		return stats.Samples == good*frames*2 && stats.Refused[aggregator.BadFrame] == conns-good
	})
	if stats := s.Stats(); stats.Packets != good*frames || stats.Evicted != 0 {
		t.Errorf("%d packets, %d evicted; want %d packets, none evicted", stats.Packets, stats.Evicted, good*frames)
	}
	stop()
	if got := s.Stats().Connections; got != 0 {
		t.Errorf("%d connections after the stop", got)
	}
}

// With more connections than there may be, silent ones go, and who talks stays.
func TestStreamEvictsTheSilent(t *testing.T) {
	var c crowd
	s, _ := serveStream(t, &c)
	talker := dial(t, "unix", s.Addr())
	talk := func(n uint64) {
		t.Helper()
		send(t, talker, frame("a:1|c"))
		until(t, "the talker is heard", func() bool { return s.Stats().Samples == n })
	}
	for i := range MaxStreams + 50 {
		dial(t, "unix", s.Addr())
		if i%100 == 0 {
			until(t, "all are accepted", func() bool { stats := s.Stats(); return stats.Connections+int(stats.Evicted) == i+2 })
			talk(uint64(i/100) + 1)
		}
	}
	until(t, "the others are too many", func() bool { return s.Stats().Evicted == 51 })
	if got := s.Stats().Connections; got > MaxStreams {
		t.Errorf("%d connections, want at most %d", got, MaxStreams)
	}
	talk(12)
}

// What a connection had sent that has to go is taken all the same.
func TestStreamEvictionTakesWhatWasSent(t *testing.T) {
	s, err := ListenUnixStream(filepath.Join(t.TempDir(), "s"), 0o600, "", PacketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.feeds <- &feed{parser: NewParser(&normal), sink: deaf{}}
	client := dial(t, "unix", s.Addr())
	send(t, client, frame("a:1|c")+frame("b:1|c"))
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	c := s.add(conn)
	s.mu.Lock()
	s.evictLocked()
	s.mu.Unlock()
	if _, err := client.Write([]byte(frame("c:1|c"))); err == nil && runtime.GOOS == "linux" {
		t.Error("a frame was sent after the end")
	}
	c.run() // as it may come to run only now
	s.remove(c)
	if stats := s.Stats(); stats.Packets < 2 || stats.Evicted != 1 || stats.Connections != 0 {
		t.Errorf("%d frames, %d evicted, %d connections; want 2, 1, 0", stats.Packets, stats.Evicted, stats.Connections)
	}
}

// What clients had sent when the stop begins is taken, whether their connection had
// been accepted or not; afterwards a send fails. Nothing that was sent without an
// error is lost on Linux, where the kernel tells.
func TestStreamStopTakesWhatWasSent(t *testing.T) {
	var c crowd
	s, stop := serveStream(t, &c)
	var sent atomic.Int64
	var sending sync.WaitGroup
	packet := []byte(frame("a:1|c\nb:1|c\nc:1|c"))
	for range 8 {
		conn := dial(t, "unix", s.Addr())
		sending.Go(func() {
			for {
				if n, err := conn.Write(packet); err != nil {
					if n != 0 && n != len(packet) {
						t.Logf("a frame was cut after %d bytes: %v", n, err)
					}
					return
				}
				sent.Add(3)
			}
		})
	}
	until(t, "some is heard", func() bool { return s.Stats().Samples > 10_000 })
	for range 100 {
		send(t, dial(t, "unix", s.Addr()), frame("late:1|c"))
		sent.Add(1)
	}
	stop()
	sending.Wait()
	got := int64(s.Stats().Samples)
	if runtime.GOOS == "linux" && got != sent.Load() {
		t.Errorf("%d samples, want the %d that were sent without an error", got, sent.Load())
	}
	if _, err := os.Lstat(s.Addr()); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// A connection that stands still in the midst of a frame does not hold up the stop.
func TestStreamStopWithAHalfFrame(t *testing.T) {
	var c crowd
	s, stop := serveStream(t, &c)
	conn := dial(t, "unix", s.Addr())
	send(t, conn, frame("a:1|c")+frame("b:1|c")[:6])
	dial(t, "unix", s.Addr()) // says nothing
	until(t, "the first frame is heard", func() bool { return s.Stats().Samples == 1 })
	start := time.Now()
	stop()
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if got := s.Stats().Refused[aggregator.Truncated]; got != 1 {
		t.Errorf("%d truncated, want the half frame", got)
	}
}

// Each frame has its own time to come in; between frames there is no limit.
func TestStreamFrameDeadline(t *testing.T) {
	of := &Stream{feeds: make(chan *feed, 1)}
	of.feeds <- &feed{parser: NewParser(&normal), sink: deaf{}}
	c := &stream{of: of}
	now := time.Unix(1000, 0)
	for i, step := range []struct {
		bytes  string
		change bool
		at     int64 // seconds from the beginning; 0 is none
	}{
		{frame("a:1|c"), false, 0},                      // a whole one
		{"\x05\x00", true, 32},                          // the beginning of one
		{"\x00\x00a:", false, 0},                        // more of it: the limit stands
		{"1|c" + "\x05", true, 34},                      // the next one has begun in the same read
		{"\x00\x00\x00a:1|c", true, 0},                  // done: none any more
		{"", false, 0},                                  // and still none
		{frame("a:1|c") + frame("b:1|c")[:6], true, 37}, // one, and the beginning of another
		{frame("b:1|c")[6:] + frame("c:1|c"), true, 0},  // all there
		{strings.Repeat(frame("a:1|c"), 3), false, 0},   // whole ones
	} {
		now = now.Add(time.Second)
		c.makeRoom()
		c.buf = append(c.buf, step.bytes...)
		c.take(false)
		at, change := c.deadline(now)
		want := time.Time{}
		if step.at > 0 {
			want = time.Unix(1000+step.at, 0)
		}
		if change != step.change || change && !at.Equal(want) {
			t.Errorf("step %d: deadline %v, news %v; want %v, %v", i, at, change, want, step.change)
		}
	}
}

// The rules for the file are those of datagram sockets; what lives is left alone.
func TestStreamSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := ListenUnixStream(path, 0o620, "", PacketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o620 {
		t.Errorf("the file is %v, %v, want mode 0620", info, err)
	}
	want := "listen unix " + path + ": address already in use (another statsd agent? set listen.unix or stop it)"
	if _, err := ListenUnixStream(path, 0o600, "", PacketOptions{}); fmt.Sprint(err) != want {
		t.Errorf("a second one: %v, want %s", err, want)
	}
	s.Close()
	if err := s.Serve(t.Context(), (&crowd{}).open); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after Close there is still a file: %v", err)
	}
	os.Symlink(path+"x", path)
	if _, err := ListenUnixStream(path, 0o600, "", PacketOptions{}); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("at a symbolic link: %v", err)
	}
}

// Who sends is known by the kernel's word.
func TestStreamSenders(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("peer credentials are read on Linux only")
	}
	var c crowd
	s, _ := serveStream(t, &c)
	for range 3 {
		conn := dial(t, "unix", s.Addr())
		send(t, conn, frame("a:1|c\nb:1|c"))
	}
	until(t, "all is heard", func() bool { return s.Stats().Samples == 6 })
	comm, _ := os.ReadFile("/proc/self/comm")
	want := Sender{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), Command: string(bytes.TrimSpace(comm)), Packets: 3, Samples: 6}
	until(t, "it is counted", func() bool { return len(s.Senders()) == 1 && s.Senders()[0] == want })
}

// More programs than are counted apart: the sums stay right, and who has just been
// heard of is not pushed out, whoever comes.
func TestSendersAreBounded(t *testing.T) {
	var s senders
	program := func(i int) credentials { return credentials{known: true, pid: 1<<30 + int32(i), uid: 7} }
	now := int64(1000 * time.Second)
	first := s.of("unix:here", program(0), now)
	s.count(first, now, 1, 10)
	now += int64(senderRest) / 2
	for i := 1; i < MaxSenders; i++ {
		s.count(s.of("unix:here", program(i), now), now, 1, 2)
	}
	now += int64(senderRest)/2 - 1
	for i := range 5 {
		one := s.of("unix:here", program(MaxSenders+i), now)
		if one != &s.others || one.text != "unix:here" {
			t.Errorf("newcomer %d is %+v, want the others", i, one)
		}
		if s.count(one, now, 1, 2) {
			t.Errorf("newcomer %d is counted apart", i)
		}
	}
	now++ // the first one has been silent for senderRest
	for i := range 5 {
		one := s.of("unix:here", program(MaxSenders+i), now)
		if apart := s.count(one, now, 1, 2); apart != (i == 0) {
			t.Errorf("newcomer %d is counted apart: %v", i, apart)
		}
	}
	if s.count(first, now, 1, 5) {
		t.Error("who has been silent for longest is still counted apart")
	}
	if s.of("unix:here", credentials{}, now) != nil {
		t.Error("nobody is somebody")
	}
	list := s.list()
	if len(list) != MaxSenders+1 || !list[MaxSenders].Others {
		t.Fatalf("%d senders, want %d and the others", len(list), MaxSenders)
	}
	packets, samples := uint64(0), uint64(0)
	for _, one := range list {
		packets += one.Packets
		samples += one.Samples
	}
	if packets != MaxSenders-1+10+2 || samples != 2*(MaxSenders-1+10)+15 {
		t.Errorf("%d packets, %d samples in all", packets, samples)
	}
}

// Programs whose process cannot be seen are told apart by their user, by whom
// connections are evicted, too.
func TestSendersUnseen(t *testing.T) {
	var s senders
	for _, uid := range []uint32{0, 7, 7} {
		one := s.of("unix:here", credentials{known: true, uid: uid}, 1)
		if want := fmt.Sprintf("unix:here uid %d", uid); one == nil || one.text != want {
			t.Fatalf("user %d is %+v, want %s", uid, one, want)
		}
		s.count(one, 1, 1, 2)
	}
	want := []Sender{{UID: 7, Packets: 2, Samples: 4}, {UID: 0, Packets: 1, Samples: 2}}
	if got := s.list(); !slices.Equal(got, want) {
		t.Errorf("list() = %+v, want %+v", got, want)
	}

	of, err := ListenUnixStream(filepath.Join(t.TempDir(), "s"), 0o600, "", PacketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer of.Close()
	var all []*stream
	for i, uid := range []uint32{0, 7, 7} {
		dial(t, "unix", of.Addr())
		conn, err := of.listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		c := of.add(conn)
		defer of.remove(c)
		c.credentials = credentials{known: true, uid: uid}
		c.active.Store(int64(i))
		all = append(all, c)
	}
	of.mu.Lock()
	of.evictLocked()
	of.mu.Unlock()
	if all[0].ending.Load() || !all[1].ending.Load() {
		t.Error("the connection of root was evicted, of which there is one")
	}
}

// Half frames share what room there is for them; beyond, connections are closed, and
// all of it is given back.
func TestStreamRoom(t *testing.T) {
	const fit = MaxStreamRoom / (frameHead + MaxPacket - streamBuffer)
	const conns = fit + 30
	var c crowd
	s, stop := serveStream(t, &c)
	half := []byte(frame(strings.Repeat("a", MaxPacket))[:MaxPacket])
	for range conns {
		conn := dial(t, "unix", s.Addr())
		conn.SetWriteDeadline(time.Now().Add(time.Minute))
		conn.Write(half) // fails when there is no room
	}
	until(t, "those that do not fit are closed", func() bool {
		stats := s.Stats()
		return stats.Refused[aggregator.Truncated] >= conns-fit && stats.Connections <= fit
	})
	if left := streamRoom.left.Load(); left < 0 {
		t.Errorf("%d bytes of room are left", left)
	}
	small := dial(t, "unix", s.Addr()) // needs none
	send(t, small, frame("a:1|c"))
	until(t, "a small frame is heard", func() bool { return s.Stats().Samples == 1 })
	stop()
	if left := streamRoom.left.Load(); left != MaxStreamRoom {
		t.Errorf("at the end %d bytes of room are left, want %d", left, MaxStreamRoom)
	}
}

// A line whose end does not come is no line, and its connection ends.
func TestStreamLineDeadline(t *testing.T) {
	s, err := ListenUnixStream(filepath.Join(t.TempDir(), "s"), 0o600, "", PacketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.feeds <- &feed{parser: NewParser(&normal), sink: deaf{}}
	dial(t, "unix", s.Addr())
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	c := s.add(conn)
	defer s.remove(c)
	c.makeRoom()
	c.buf = append(c.buf, "a:1|c\nb:1|c"...)
	c.take(false)
	if at, change := c.deadline(time.Unix(1000, 0)); !change || !at.Equal(time.Unix(1000, 0).Add(frameTimeout)) {
		t.Errorf("deadline of the line: %v, news %v", at, change)
	}
	conn.SetReadDeadline(time.Unix(1, 0)) // as if it had passed
	c.run()
	if stats := s.Stats(); stats.Samples != 1 || stats.Refused[aggregator.Truncated] != 1 {
		t.Errorf("%d samples, %d truncated; want 1 and 1", stats.Samples, stats.Refused[aggregator.Truncated])
	}
}

// FuzzStream gives a connection any bytes in two pieces; text and frames amount to the
// same as the packets in them.
func FuzzStream(f *testing.F) {
	f.Add([]byte(frame("a:1|c")+frame("b:1|c\nc:x|c")), uint16(3))
	f.Add([]byte("a:1|c\nb:2|c\nc"), uint16(2))
	f.Add([]byte("\xff\xff\xff\xff"), uint16(1))
	f.Add([]byte("\x05\x00\x00\x00a:1"), uint16(5))
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		r := &recorder{spelling: &normal}
		of := &Stream{feeds: make(chan *feed, 1)}
		of.feeds <- &feed{parser: NewParser(&normal), sink: r}
		c := &stream{of: of}
		defer c.giveRoom()
		cut := min(int(at), len(data))
		good := true
		for _, piece := range [][]byte{data[:cut], data[cut:]} {
			for len(piece) > 0 && good {
				c.makeRoom()
				n := copy(c.buf[len(c.buf):cap(c.buf)], piece)
				c.buf, piece = c.buf[:len(c.buf)+n], piece[n:]
				good = c.take(false)
			}
		}
		if good {
			c.take(true)
		}
		want := whole(data)
		got := verdict{samples: r.samples, events: r.events, tagCut: of.counters.cut.Load()}
		for reason := range of.counters.refused {
			got.refused[reason] = of.counters.refused[reason].Load()
		}
		if got.String() != want.String() {
			t.Errorf("%q in pieces of %d\n got %s\nwant %s", data, cut, got, want)
		}
	})
}

// whole says what a connection amounts to that sends data and ends.
func whole(data []byte) (v verdict) {
	add := func(packet string) {
		one := oracle(&normal, packet, false)
		v.samples, v.events, v.tagCut = append(v.samples, one.samples...), append(v.events, one.events...), v.tagCut+one.tagCut
		for reason, n := range one.refused {
			v.refused[reason] += n
		}
	}
	printable := true
	for _, b := range data[:min(4, len(data))] {
		printable = printable && (b >= 0x20 && b <= 0x7e || b == '\n' || b == '\r' || b == '\t')
	}
	if printable {
		for line := range strings.SplitSeq(string(data), "\n") {
			if len(line) > MaxPacket {
				v.refused[aggregator.Truncated]++
			} else {
				add("\n" + line) // a byte order mark is none in the midst
			}
		}
		return v
	}
	for len(data) > 0 {
		if len(data) < 4 {
			v.refused[aggregator.Truncated]++
			return v
		}
		n := int(binary.LittleEndian.Uint32(data))
		switch {
		case n > MaxPacket:
			v.refused[aggregator.BadFrame]++
			return v
		case n > len(data)-4:
			v.refused[aggregator.Truncated]++
			return v
		}
		add(string(data[4 : 4+n]))
		data = data[4+n:]
	}
	return v
}

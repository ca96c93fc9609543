package listeners

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/aggregator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A crowd opens a recorder for each reader.
type crowd struct {
	mu      sync.Mutex // guards the field below
	sinks   []*recorder
	arrived atomic.Int64 // samples handed over
}

type member struct {
	*recorder
	crowd *crowd
}

func (m member) Add(now int64, batch []aggregator.Sample) int {
	// Of the wall clock, which may be set while the test runs.
	if age := time.Since(time.Unix(0, now)); age < -time.Minute || age > 10*time.Minute {
		panic(fmt.Sprintf("Add was given a time %v ago", age))
	}
	marked := m.recorder.Add(now, batch)
	m.crowd.arrived.Add(int64(len(batch)))
	return marked
}

func (c *crowd) open(s aggregator.Spelling) Sink {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &recorder{spelling: s}
	c.sinks = append(c.sinks, r)
	return member{r, c}
}

// String writes what the readers heard, in their order; Serve has returned.
func (c *crowd) String() string {
	var v verdict
	for _, r := range c.sinks {
		v.samples = append(v.samples, r.samples...)
	}
	return v.String()
}

// transports open a listener of each kind, with a client that is connected to it.
var transports = map[string]func(t *testing.T, o PacketOptions) (*Packet, net.Conn){
	"udp": func(t *testing.T, o PacketOptions) (*Packet, net.Conn) {
		p, err := ListenUDP("127.0.0.1:0", o)
		if err != nil {
			t.Fatal(err)
		}
		return p, dial(t, "udp", p.Addr())
	},
	"unixgram": func(t *testing.T, o PacketOptions) (*Packet, net.Conn) {
		if runtime.GOOS == "windows" {
			t.Skip("Windows has no Unix datagram sockets")
		}
		p, err := ListenUnixgram(filepath.Join(t.TempDir(), "s"), 0o600, "", o)
		if err != nil {
			t.Fatal(err)
		}
		return p, dial(t, "unixgram", p.Addr())
	},
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, packet string) {
	t.Helper()
	if _, err := conn.Write([]byte(packet)); err != nil {
		t.Fatalf("send %d bytes: %v", len(packet), err)
	}
}

// serve runs p until stop is called, which fails the test if Serve does not end.
func serve(t *testing.T, p *Packet, c *crowd) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, c.open) }()
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve() = %v, want nil", err)
			}
		case <-time.After(60 * time.Second):
			t.Fatal("Serve() has not returned 60 s after its context was done")
		}
	}
}

// await waits until n samples have been handed over.
func await(t *testing.T, c *crowd, n int64) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); c.arrived.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d samples have arrived after 60 s, want %d", c.arrived.Load(), n)
		}
	}
}

func TestPacketServes(t *testing.T) {
	for network, open := range transports {
		t.Run(network, func(t *testing.T) {
			p, client := open(t, PacketOptions{Naming: normal})
			var c crowd
			stop := serve(t, p, &c)
			for _, packet := range []string{"a:1|c\nb:x|g\n", "", "u:m|s|#k:" + strings.Repeat("v", 201), "a:1:2|c|#" + manyTags(101)} {
				send(t, client, packet)
			}
			await(t, &c, 4)
			if got, want := p.Name(), network+":"+p.Addr(); got != want {
				t.Errorf("Name() = %q, want %q", got, want)
			}
			stop()
			if got, want := c.String(), "a|counter 1; u{k:"+strings.Repeat("v", 200)+`}|set "m" cut`; got != want {
				t.Errorf("the sink took %s, want %s", got, want)
			}
			got := p.Stats()
			want := Stats{Name: p.Name(), Packets: 4, Bytes: uint64(12 + 0 + 210 + len("a:1:2|c|#"+manyTags(101))), Samples: 2, TagCut: 1, ReceiveBuffer: got.ReceiveBuffer}
			want.Refused[aggregator.BadValue] = 1
			want.Refused[aggregator.TooManyTags] = 1
			if got != want {
				t.Errorf("Stats() = %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestKnownDatagrams is what clients are known to do: probe with nothing and with a newline, send 12.5 KB at
// once (PHP batches 50 lines without a byte limit), and 11 datagrams before anybody
// reads, which is what a queue of 10 (net.unix.max_dgram_qlen) takes.
func TestKnownDatagrams(t *testing.T) {
	for network, open := range transports {
		t.Run(network, func(t *testing.T) {
			p, client := open(t, PacketOptions{Naming: normal})
			line := "php.requests:1|c|#" + strings.Repeat("k", 60) + ":" + strings.Repeat("v", 170)
			big := strings.Repeat(line+"\n", 50)
			if len(big) < 12_500 {
				t.Fatalf("a datagram of %d bytes is too short", len(big))
			}
			packets := []string{"", "\n", big}
			for i := range 8 {
				packets = append(packets, fmt.Sprintf("burst:%d|c", i))
			}
			for _, packet := range packets {
				send(t, client, packet)
			}
			var c crowd
			stop := serve(t, p, &c)
			await(t, &c, 50+8)
			stop()
			s := p.Stats()
			if s.Packets != uint64(len(packets)) || s.Samples != 58 || s.Refused != [aggregator.Reasons]uint64{} || s.KernelDropped != 0 {
				t.Errorf("%d packets, %d samples, refused %v, %d dropped; want %d, 58, none, none", s.Packets, s.Samples, s.Refused, s.KernelDropped, len(packets))
			}
		})
	}
}

// TestLongestPackets is the table of "Transports": it sends the longest datagram of each transport: not a byte is cut.
func TestLongestPackets(t *testing.T) {
	for network, size := range map[string]int{"udp": 65507, "unixgram": 65536} {
		t.Run(network, func(t *testing.T) {
			p, client := transports[network](t, PacketOptions{Naming: normal})
			var c crowd
			stop := serve(t, p, &c)
			const lines = 3 // several in a row: no slot reaches into the next one
			for i := range lines {
				head := fmt.Sprintf("n%d:", i)
				send(t, client, head+strings.Repeat("x", size-len(head)-2)+"|s")
			}
			await(t, &c, lines)
			stop()
			for i, h := range c.sinks[0].samples {
				if got, want := len(h.member), size-5; got != want || h.series.Name() != fmt.Sprintf("n%d", i) {
					t.Errorf("packet %d is %s with a member of %d bytes, want n%d with %d", i, h.series, got, i, want)
				}
			}
			if got, want := p.Stats().Bytes, uint64(lines*size); got != want {
				t.Errorf("Stats().Bytes = %d, want %d", got, want)
			}
		})
	}
}

// TestLongerPacketIsTruncated: of a datagram over 65,536 bytes the whole lines are taken.
func TestLongerPacketIsTruncated(t *testing.T) {
	p, client := transports["unixgram"](t, PacketOptions{Naming: normal})
	var c crowd
	stop := serve(t, p, &c)
	line := strings.Repeat("x", 9997) + ":1|c\n" // a name that is too long, in 10,002 bytes
	send(t, client, "a:1|c\n"+strings.Repeat(line, 7))
	await(t, &c, 7)
	stop()
	if got, want := c.String(), "a|counter 1"; got != want {
		t.Errorf("the sink took %s, want %s", got, want)
	}
	if got, want := (verdict{refused: p.Stats().Refused}).String(), "!name_too_long 6; !truncated"; got != want {
		t.Errorf("refused %s, want %s", got, want)
	}
}

// TestStopEmptiesTheQueue is "Stopping": it stops a listener before it has read anything: what the
// kernel holds is still added.
func TestStopEmptiesTheQueue(t *testing.T) {
	for network, packets := range map[string]int{"udp": 2000, "unixgram": 8} { // of 10, net.unix.max_dgram_qlen
		for _, readers := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/readers=%d", network, readers), func(t *testing.T) {
				p, client := transports[network](t, PacketOptions{Naming: normal, Readers: readers})
				if network == "udp" && runtime.GOOS == "linux" { // of 768 bytes each, in twice what was granted
					packets = min(packets, p.Stats().ReceiveBuffer/1024)
				}
				for range packets {
					send(t, client, "a:1|c\nb:1|c")
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				var c crowd
				if err := p.Serve(ctx, c.open); err != nil {
					t.Fatal(err)
				}
				s := p.Stats()
				if got, want := s.Samples+2*s.KernelDropped, uint64(2*packets); got != want {
					t.Errorf("%d samples, and the kernel dropped %d of %d packets", s.Samples, s.KernelDropped, packets)
				}
				if s.KernelDropped > 0 {
					t.Errorf("the kernel dropped %d packets with a buffer of %d bytes", s.KernelDropped, s.ReceiveBuffer)
				}
				if got, want := len(c.sinks), readers; got != want {
					t.Errorf("%d sinks were opened, want %d", got, want)
				}
			})
		}
	}
}

// TestStopUnderLoad stops a listener while clients send as fast as they can.
// Serve ends all the same. On a Unix socket what was sent without an error has
// been added, exactly.
func TestStopUnderLoad(t *testing.T) {
	for network := range transports {
		for _, readers := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/readers=%d", network, readers), func(t *testing.T) {
				p, _ := transports[network](t, PacketOptions{Naming: normal, Readers: readers})
				var c crowd
				stop := serve(t, p, &c)
				var sent atomic.Int64
				var senders sync.WaitGroup
				quit := make(chan struct{})
				for range 2 {
					client := dial(t, network, p.Addr())
					senders.Go(func() {
						for packet := []byte("a:1|c\nb:2:3|ms|#k:v"); ; {
							select {
							case <-quit:
								return
							default:
							}
							if _, err := client.Write(packet); err == nil {
								sent.Add(1)
							} else if network == "unixgram" {
								return
							}
						}
					})
				}
				await(t, &c, 1)
				for range 50 {
					time.Sleep(time.Millisecond)
					p.Stats() // at any time
				}
				stop()
				close(quit)
				senders.Wait()
				s := p.Stats()
				if got, want := s.Samples, 3*s.Packets; got != want || s.Packets == 0 {
					t.Errorf("%d samples of %d packets, want %d", got, s.Packets, want)
				}
				if got, want := int64(s.Packets), sent.Load(); network == "unixgram" && runtime.GOOS == "linux" && got != want || got > want {
					t.Errorf("%d packets were read, %d sent", got, want)
				}
			})
		}
	}
}

func TestServeAfterClose(t *testing.T) {
	p, _ := transports["udp"](t, PacketOptions{})
	p.Close()
	p.Close()
	var c crowd
	if err := p.Serve(t.Context(), c.open); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve() after Close() = %v, want net.ErrClosed", err)
	}
	if got, want := p.Stats().Name, p.Name(); got != want {
		t.Errorf("Stats() after Close() is of %q, want %q", got, want)
	}
}

func TestListenErrors(t *testing.T) {
	p, _ := transports["udp"](t, PacketOptions{})
	defer p.Close()
	for addr, want := range map[string]string{
		p.Addr():       "listen udp " + p.Addr() + ": address already in use (another statsd agent? set listen.udp or stop it)",
		"127.0.0.1:x":  "listen udp 127.0.0.1:x: ",
		"192.0.2.1:80": "listen udp 192.0.2.1:80: cannot assign requested address (no interface of this machine has it; set listen.udp)",
	} {
		if runtime.GOOS != "linux" {
			want, _, _ = strings.Cut(want, ": ") // the words are the system's own
		}
		q, err := ListenUDP(addr, PacketOptions{})
		if err == nil {
			q.Close()
			t.Errorf("ListenUDP(%q) succeeded", addr)
		} else if got := err.Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Errorf("ListenUDP(%q) = %q, want %q", addr, got, want)
		}
	}
}

// TestSmallReceiveBuffer proves that a buffer that was not granted is reported.
func TestSmallReceiveBuffer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what was granted is known on Linux only")
	}
	var log bytes.Buffer
	p, _ := transports["udp"](t, PacketOptions{ReceiveBuffer: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	p.Close()
	if got := p.Stats().ReceiveBuffer; got < 1024 || got > 16384 { // the kernel's own minimum
		t.Errorf("ReceiveBuffer = %d of 1 asked, want the kernel's minimum", got)
	}
	if log.Len() > 0 {
		t.Errorf("more than asked for was granted, and the log says %s", &log)
	}
	p, _ = transports["udp"](t, PacketOptions{ReceiveBuffer: 1 << 20})
	p.Close()
	if got := p.Stats().ReceiveBuffer; got <= 0 || got > 1<<20 {
		t.Errorf("ReceiveBuffer = %d, want at most the %d asked for", got, 1<<20)
	}
}

// TestSocketFile is "Socket files": what is at the path decides whether it is taken.
func TestSocketFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no Unix datagram sockets")
	}
	listen := func(path, group string) error {
		p, err := ListenUnixgram(path, 0o620, group, PacketOptions{})
		if err == nil {
			if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o620 {
				t.Errorf("the file is %v, %v, want mode 0620", info, err)
			}
			p.Close()
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("after Close() there is still a file: %v", err)
			}
		}
		return err
	}
	dead := func(network, path string) {
		t.Helper()
		if network == "unix" {
			l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: path})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
			return
		}
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Net: network, Name: path})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	type test struct {
		prepare func(path string)
		group   string
		want    string // of the error, behind the path; empty when there is none
		remains bool   // what stands at the path must be left alone
	}
	tests := map[string]test{
		"nothing":          {prepare: func(string) {}},
		"group by number":  {prepare: func(string) {}, group: fmt.Sprint(os.Getgid())},
		"unknown group":    {prepare: func(string) {}, group: "no such group", want: `there is no group "no such group" (use the name or the number of one)`},
		"negative group":   {prepare: func(string) {}, group: "-1", want: `there is no group "-1" (use the name or the number of one)`},
		"dead datagram":    {prepare: func(path string) { dead("unixgram", path) }},
		"dead stream":      {prepare: func(path string) { dead("unix", path) }},
		"file":             {prepare: func(path string) { os.WriteFile(path, []byte("x"), 0o644) }, want: "there is a file that is no socket (remove it or choose another path)", remains: true},
		"folder":           {prepare: func(path string) { os.Mkdir(path, 0o755) }, want: "there is a file that is no socket (remove it or choose another path)", remains: true},
		"dangling symlink": {prepare: func(path string) { os.Symlink(path+"x", path) }, want: "there is a symbolic link, which is not followed (remove it or give the path it leads to)", remains: true},
		"link to a dead socket": {prepare: func(path string) {
			dead("unixgram", path+"x")
			os.Symlink(path+"x", path)
		}, want: "there is a symbolic link, which is not followed (remove it or give the path it leads to)", remains: true},
	}
	if os.Geteuid() == 0 { // who may give files away
		tests["dead of another user"] = test{prepare: func(path string) {
			dead("unix", path)
			os.Lchown(path, 65534, -1)
		}, want: "there is a dead socket of another user (remove it or choose another path)", remains: true}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			test.prepare(path)
			before, _ := os.Lstat(path)
			err := listen(path, test.group)
			want := "listen unixgram " + path + ": " + test.want
			if test.want == "" {
				want = "<nil>"
			}
			if got := fmt.Sprint(err); got != want {
				t.Errorf("ListenUnixgram() = %s\nwant %s", got, want)
			}
			after, err := os.Lstat(path)
			if test.remains && (err != nil || !os.SameFile(before, after)) {
				t.Errorf("what stood at the path has become %v, %v", after, err)
			}
		})
	}

	t.Run("live", func(t *testing.T) {
		for _, network := range []string{"unixgram", "unix"} {
			path := filepath.Join(t.TempDir(), "s")
			if network == "unix" {
				l, err := net.Listen(network, path)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			} else {
				p, err := ListenUnixgram(path, 0o600, "", PacketOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
			}
			want := "listen unixgram " + path + ": address already in use (another statsd agent? set listen.unixgram or stop it)"
			if got := fmt.Sprint(listen(path, "")); got != want {
				t.Errorf("ListenUnixgram() = %s\nwant %s", got, want)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the live %s socket is gone: %v", network, err)
			}
		}
	})
	t.Run("paths", func(t *testing.T) {
		dir := t.TempDir()
		long := filepath.Join(dir, strings.Repeat("s", maxSocketPath-len(dir)-1))
		if err := listen(long, ""); err != nil && runtime.GOOS == "linux" {
			t.Errorf("a path of %d bytes: %v", len(long), err)
		}
		for path, want := range map[string]string{
			long + "s":                    "the path has 108 bytes, a socket's at most 107 (choose a shorter one)",
			"":                            "the path is empty",
			"@sluice":                     "abstract sockets have no mode that could protect them (use the path of a file)",
			filepath.Join(dir, "no", "s"): "no such file or directory (create the folder or set listen.unixgram)",
			filepath.Join(dir, "a\x00b"):  "abstract sockets have no mode that could protect them (use the path of a file)",
		} {
			if got, want := fmt.Sprint(listen(path, "")), "listen unixgram "+path+": "+want; got != want {
				t.Errorf("ListenUnixgram(%q) = %s\nwant %s", path, got, want)
			}
		}
	})
	t.Run("replaced", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		p, err := ListenUnixgram(path, 0o600, "", PacketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		other, err := ListenUnixgram(path, 0o600, "", PacketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("Close() removed a file that was no longer its own: %v", err)
		}
		other.Close()
	})
}

// deaf is a sink that takes everything and keeps nothing.
type deaf struct{}

func (deaf) Add(int64, []aggregator.Sample) int { return 0 }

func (deaf) From(string) {}

func (deaf) AddEvent(int64, *aggregator.Event) aggregator.Reason { return aggregator.Taken }

package listeners

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"sluice/aggregator"
)

// pathLine is line n of the usual mix: 40 % counters, 30 % timers, 20 % gauges,
// 10 % sets, 1,000 series with 3 tags.
func pathLine(n int, random *rand.Rand) string {
	const kinds = "cdcgcsdcgd"
	kind, value, typ := kinds[n%len(kinds)], "", ""
	switch kind {
	case 'c':
		value, typ = "1", "c"
	case 'g':
		value, typ = fmt.Sprint(random.IntN(1000)), "g"
	case 's':
		value, typ = fmt.Sprint("u", random.IntN(1000)), "s"
	case 'd':
		value, typ = fmt.Sprintf("%d.%02d", random.IntN(1000)*(1+random.IntN(20)), random.IntN(100)), "ms"
	}
	return fmt.Sprintf("shop.req.%c%04d:%s|%s|#env:prod,service:checkout,route:u_%04d", kind, n, value, typ, n)
}

// pathPackets are n lines of that mix, in packets of that many bytes.
func pathPackets(n, size int) (packets [][]byte) {
	random := rand.New(rand.NewPCG(1, 2))
	var packet []byte
	for range n {
		text := pathLine(random.IntN(1000), random)
		if len(packet) > 0 && len(packet)+1+len(text) > size {
			packets = append(packets, packet)
			packet = nil
		}
		if len(packet) > 0 {
			packet = append(packet, '\n')
		}
		packet = append(packet, text...)
	}
	return append(packets, packet)
}

func pathAggregator() *aggregator.Aggregator {
	return aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 100_000, MaxSeriesPerMetric: 10_000, MaxSetMembers: 10_000}, time.Unix(0, 0))
}

// From the socket to the table nothing is allocated, whatever a line is: each
// shape of the usual mix and its variations, alone and packed.
func TestPathDoesNotAllocate(t *testing.T) {
	shapes := map[string][]byte{
		"counter":        []byte("shop.req:1|c|#env:prod,service:checkout,route:u_0001"),
		"sampled":        []byte("shop.req:1|c|@0.1|#env:prod,service:checkout,route:u_0001"),
		"fraction":       []byte("shop.req:1.5|c|#env:prod,service:checkout,route:u_0001"),
		"gauge":          []byte("shop.level:17|g|#env:prod,service:checkout,route:u_0001"),
		"change":         []byte("shop.level:+1|g|#env:prod,service:checkout,route:u_0001"),
		"timer":          []byte("shop.time:145.25|ms|#env:prod,service:checkout,route:u_0001"),
		"sampled timer":  []byte("shop.time:145.25|ms|@0.25|#env:prod,service:checkout,route:u_0001"),
		"packed values":  []byte("shop.time:1:2.5:3:4.25:5|d|#env:prod,service:checkout,route:u_0001"),
		"set":            []byte("shop.users:u123|s|#env:prod,service:checkout,route:u_0001"),
		"no tags":        []byte("shop.req:1|c"),
		"tags in name":   []byte("shop.req,env=prod,service=checkout:1|c"),
		"tags in pieces": []byte("shop.req:1|c|#env:prod|#service:checkout"),
		"timed":          []byte(fmt.Sprintf("shop.req:1|c|#env:prod|T%d", time.Now().Unix()-60)),
		"refused":        []byte("shop.req:x|c|#env:prod"),
		"bad name":       []byte("sluice.req:1|c|#env:prod"),
		"packed mix":     bytes.Join(pathPackets(100, 8192), []byte("\n")),
	}
	p, err := ListenUDP("127.0.0.1:0", PacketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	in, err := newReceiver(p.conn, p.raw)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	conn, err := net.Dial("udp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := reader{packet: p, in: in, feed: feed{parser: NewParser(&p.options.Naming), sink: pathAggregator().Intake(&p.options.Naming)}}
	for name, packet := range shapes {
		round := func() {
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
			n, err := in.receive()
			if err != nil {
				t.Fatal(err)
			}
			r.takeAll(n)
		}
		for range 2000 { // distributions become sketches, and these grow
			round()
		}
		if got := testing.AllocsPerRun(500, round); got != 0 {
			t.Errorf("%s: %v allocations a packet, want 0", name, got)
		}
	}
}

// BenchmarkPath: parse and add the usual mix; ns/op is per sample.
func BenchmarkPath(b *testing.B) {
	for _, size := range []int{1, 1432, 8192} {
		b.Run(fmt.Sprintf("packets=%d", size), func(b *testing.B) {
			const lines = 20_000
			packets := pathPackets(lines, size)
			naming := new(Naming)
			a := pathAggregator()
			parser, in := NewParser(naming), a.Intake(naming)
			b.ReportAllocs()
			for n := 0; n < b.N; {
				for _, packet := range packets {
					parser.Start(packet, false)
					for more := true; more; {
						var batch []aggregator.Sample
						batch, more = parser.Next()
						in.Add(1, batch)
						n += len(batch)
					}
				}
			}
		})
	}
}

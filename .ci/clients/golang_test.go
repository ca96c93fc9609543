package clients

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cactus "github.com/cactus/go-statsd-client/v5/statsd"

	"github.com/DataDog/datadog-go/v5/statsd"
)

// TestDatadogGo runs one script through datadog-go in every mode that changes
// its bytes.
func TestDatadogGo(t *testing.T) {
	every := statsd.WithAggregationInterval(200 * time.Millisecond)
	modes := map[string][]statsd.Option{
		"plain":      {statsd.WithoutClientSideAggregation(), statsd.WithoutTelemetry(), statsd.WithoutOriginDetection()},
		"telemetry":  {statsd.WithoutClientSideAggregation()},
		"container":  {statsd.WithoutClientSideAggregation(), statsd.WithoutTelemetry(), statsd.WithContainerID(strings.Repeat("8f3b0d6c", 8))},
		"aggregated": {statsd.WithClientSideAggregation(), every},
		"extended":   {statsd.WithExtendedClientSideAggregation(), every, statsd.WithContainerID(strings.Repeat("8f3b0d6c", 8))},
		"channel":    {statsd.WithoutClientSideAggregation(), statsd.WithChannelMode(), statsd.WithChannelModeBufferSize(100_000)},
	}
	for _, network := range []string{"udp", "unixgram", "unix"} {
		for mode, options := range modes {
			t.Run(network+"/"+mode, func(t *testing.T) {
				t.Parallel()
				a := start(t)
				addr := map[string]string{"udp": a.udp, "unixgram": "unixgram://" + a.unixgram, "unix": "unixstream://" + a.unix}[network]
				// Global tags are what a client adds to real traffic.
				client, err := statsd.New(addr, slices.Concat(options, []statsd.Option{
					statsd.WithTags([]string{"env:test", "service:clients"}),
					statsd.WithMaxMessagesPerPayload(40), statsd.WithSenderQueueSize(20_000),
					statsd.WithWriteTimeout(patience),
				})...)
				if err != nil {
					t.Fatal(err)
				}
				want := datadogScript(t, client)
				if mode == "channel" { // closing the client drops what is still in its channel
					until(t, "the client has sent everything", func() bool { return a.intake().samples >= want.samples })
				}
				if err := client.Close(); err != nil {
					t.Errorf("close client: %v", err)
				}
				if n := client.GetTelemetry(); n.TotalPayloadsDropped > 0 {
					t.Fatalf("the client itself dropped %d payloads", n.TotalPayloadsDropped)
				}
				if mode == "aggregated" || mode == "extended" {
					want.samples = 0
				}
				a.compare(want)
			})
		}
	}
}

// datadogScript measures a few thousand things of every kind. Rates would make
// the client choose by chance, so they are 1.
func datadogScript(t *testing.T, c *statsd.Client) *totals {
	t.Helper()
	want := newTotals()
	global := []string{"env:test", "service:clients"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 {
		way := fmt.Sprintf("way:%d", i%7)
		must(c.Count("client.requests", int64(i%5), []string{way, "method:GET"}, 1))
		want.count("client.requests", float64(i%5), append(global, way, "method:GET")...)
		must(c.Incr("client.requests", []string{"method:GET", way}, 1))
		want.count("client.requests", 1, append(global, way, "method:GET")...)
		must(c.Gauge("client.queue", float64(i)-1000.5, nil, 1))
		want.gauge("client.queue", float64(i)-1000.5, global...)
		must(c.Distribution("client.size", float64(i)/2, []string{"part:body"}, 1))
		want.observe("client.size", float64(i)/2, 1, append(global, "part:body")...)
		must(c.Set("client.users", fmt.Sprintf("user:%d", i%61), nil, 1))
		want.member("client.users", fmt.Sprintf("user:%d", i%61), global...)
		if i%100 == 99 {
			must(c.Flush())
			time.Sleep(5 * time.Millisecond) // a Unix socket queues few datagrams, and the client drops what does not fit
		}
	}
	must(c.Decr("client.balance", []string{"a tag", "url:http://h:80/x"}, 1))
	want.count("client.balance", -1, append(global, "a tag:true", "url:http://h:80/x")...)
	must(c.Timing("client.time", 250*time.Millisecond, nil, 1))
	want.observe("client.time", 250, 1, global...)
	must(c.Histogram("client.histogram", -3, nil, 1))
	want.observe("client.histogram", -3, 1, global...)
	past := time.Now().Truncate(time.Second).Add(-time.Minute)
	must(c.CountWithTimestamp("client.past", 5, nil, 1, past))
	must(c.CountWithTimestamp("client.past", 6, nil, 1, past))
	want.count("client.past", 5, global...)
	want.count("client.past", 6, global...)
	must(c.GaugeWithTimestamp("client.past.gauge", -7, nil, 1, past))
	want.gauge("client.past.gauge", -7, global...)
	event := statsd.NewEvent("größer als | vorher", "line 1\nline 2 | 😀")
	event.AlertType, event.Priority, event.Hostname = statsd.Success, statsd.Low, "web-1"
	event.AggregationKey, event.SourceTypeName, event.Tags = "key 1", "nagios", []string{"a:b"}
	must(c.Event(event))
	want.happened("größer als | vorher", []string{
		"text=line%201%0Aline%202%20|%20😀", "alert_type=success", "priority=low", "aggregation_key=key%201", "source_type_name=nagios",
		"kind=event", "host=web-1", "environment=test", "service=clients",
	}, append(global, "a:b")...)
	must(c.SimpleServiceCheck("db.up", statsd.Critical))
	want.happened("db.up", []string{"value=2", "status=critical", "kind=service_check", "environment=test", "service=clients"}, global...)
	check := statsd.NewServiceCheck("cache.up", statsd.Warn)
	check.Message, check.Hostname = "slow\nm: 3 s", "web-2"
	must(c.ServiceCheck(check))
	want.happened("cache.up", []string{
		"value=1", "status=warning", "message=slow%0Am:%203%20s", "kind=service_check", "host=web-2", "environment=test", "service=clients",
	}, global...)
	must(c.Flush())
	return want
}

// TestDatadogGoTelemetry waits for what a client reports about itself every
// 10 s, which is counted and goes no further.
func TestDatadogGoTelemetry(t *testing.T) {
	t.Parallel()
	a := start(t)
	client, err := statsd.New(a.udp, statsd.WithExtendedClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	want := newTotals()
	want.telemetry = true
	if err := client.Incr("telemetry.mine", nil, 1); err != nil {
		t.Fatal(err)
	}
	want.count("telemetry.mine", 1)
	until(t, "telemetry was counted", func() bool { return a.intake().rejected["client_telemetry"] > 0 })
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	a.compare(want)
}

// TestCactus runs a script through cactus/go-statsd-client with each of its ways
// to write tags, alone and buffered.
func TestCactus(t *testing.T) {
	formats := map[string]cactus.TagFormat{
		"octothorpe": cactus.SuffixOctothorpe, // name:1|c|#k:v
		"comma":      cactus.InfixComma,       // name,k=v:1|c
		"semicolon":  cactus.InfixSemicolon,   // name;k=v:1|c
	}
	for name, format := range formats {
		for _, buffered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/buffered=%v", name, buffered), func(t *testing.T) {
				t.Parallel()
				a := start(t)
				client, err := cactus.NewClientWithConfig(&cactus.ClientConfig{
					Address: a.udp, Prefix: "shop", UseBuffered: buffered, TagFormat: format,
				})
				if err != nil {
					t.Fatal(err)
				}
				client.(*cactus.Client).SetSamplerFunc(func(float32) bool { return true }) // else chance decides
				want := cactusScript(t, client.(*cactus.Client))
				if err := client.Close(); err != nil {
					t.Fatal(err)
				}
				a.compare(want)
			})
		}
	}
}

func cactusScript(t *testing.T, c *cactus.Client) *totals {
	t.Helper()
	want := newTotals()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(500) {
		way := cactus.Tag{"way", fmt.Sprint(i % 7)}
		must(c.Inc("requests", i%5, 1, way, cactus.Tag{"method", "GET"}))
		want.count("shop.requests", float64(i%5), "way:"+way[1], "method:GET")
		must(c.Inc("sampled", 3, 0.25, way))
		want.count("shop.sampled", 12, "way:"+way[1])
		must(c.Dec("stock", 2, 1))
		want.count("shop.stock", -2)
		must(c.GaugeFloat("temperature", float64(i)-250.5, 1))
		want.gauge("shop.temperature", float64(i)-250.5)
		must(c.GaugeDelta("connections", 3-i%6, 1))
		want.change("shop.connections", float64(3-i%6))
		must(c.Timing("time", i, 0.5, way))
		want.observe("shop.time", float64(i), 2, "way:"+way[1])
		must(c.SetInt("users", i%61, 1))
		want.member("shop.users", fmt.Sprint(i%61))
		if i%50 == 49 {
			time.Sleep(2 * time.Millisecond) // the receive buffer of a loaded machine is short
		}
	}
	return want
}

// TestAlexcesaro runs a program that uses alexcesaro/statsd as Debian packages
// it: a library without go.mod, built as such.
func TestAlexcesaro(t *testing.T) {
	t.Parallel()
	gopath := filepath.Join(os.Getenv("SLUICE_UNPACKED"), "usr/share/gocode")
	need(t, nil, "ls", filepath.Join(gopath, "src/gopkg.in/alexcesaro/statsd.v1"))
	program := filepath.Join(t.TempDir(), "alexcesaro")
	run(t, append(os.Environ(), "GO111MODULE=off", "GOFLAGS=", "GOPATH="+gopath), "go", "build", "-o", program, "scripts/alexcesaro.go")
	a := start(t)
	want := newTotals()
	want.read(t, run(t, environment(a), program))
	a.compare(want)
}

// TestNetDial writes lines with nothing but the standard library; through a stream
// as text, without frames.
func TestNetDial(t *testing.T) {
	for _, network := range []string{"udp", "unixgram", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			a := start(t)
			addr := map[string]string{"udp": a.udp, "unixgram": a.unixgram, "unix": a.unix}[network]
			conn, err := net.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			want := newTotals()
			for i := range 1000 {
				if _, err := fmt.Fprintf(conn, "plain.count:%d|c|#way:%d\nplain.time:%d:%d|ms\n", i, i%3, i, i+1); err != nil {
					t.Fatal(err)
				}
				want.count("plain.count", float64(i), fmt.Sprintf("way:%d", i%3))
				want.observe("plain.time", float64(i), 1)
				want.observe("plain.time", float64(i+1), 1)
				if i%50 == 49 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			a.compare(want)
		})
	}
}

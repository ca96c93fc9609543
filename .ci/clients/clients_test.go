// Package clients drives the real agent with client libraries that its users
// have, and reads its metrics with the parser that reads them in production. It is a
// module of its own, so that none of these reaches the agent's go.mod.
package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/DataDog/datadog-go/v5/statsd"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"sluice/forwarder/fluxtest"
)

// patience bounds every wait; a test that passes waits a fraction of it.
const patience = 60 * time.Second

// agent is the daemon under test.
type agent struct {
	cmd             *exec.Cmd
	log             *output
	http, udp, unix string
}

type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sluice-clients-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sluice")
	build := exec.Command("go", "build", "-o", path, "./agent")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// start runs the agent with an upstream until the test's end.
func start(t *testing.T, flux *fluxtest.Server) *agent {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	config := fmt.Sprintf(`listen: {udp: ["127.0.0.1:0"], unixgram: [{path: %[1]s/statsd.sock}], http: "127.0.0.1:0"}
aggregate: {interval: 1s}
upstreams: [{name: flux, url: %[2]q, api_key: %[3]q, requests_per_minute: 60000}]
spool: {dir: %[1]s/spool}
log: {level: debug, format: json}
`, dir, flux.URL, fluxtest.Key)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &agent{log: new(output)}
	a.cmd = exec.Command(path, "run", "--config", file)
	a.cmd.Env = []string{"HOME=" + dir}
	a.cmd.Stderr = a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.cmd.Process.Signal(syscall.SIGTERM)
		if err := a.cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
		if t.Failed() {
			t.Log(a.log)
		}
	})
	until(t, "the agent is ready", func() bool {
		for l := range strings.Lines(a.log.String()) {
			var rec struct{ Msg, Listen string }
			if json.Unmarshal([]byte(l), &rec) != nil || !strings.HasSuffix(rec.Msg, "is ready") {
				continue
			}
			for at := range strings.FieldsSeq(rec.Listen) {
				kind, addr, _ := strings.Cut(at, ":")
				switch kind {
				case "udp":
					a.udp = addr
				case "unixgram":
					a.unix = "unix://" + addr // datagrams, in datadog-go's way of writing
				case "http":
					a.http = "http://" + addr
				}
			}
			return true
		}
		return false
	})
	return a
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (a *agent) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get(a.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v", path, resp.StatusCode, err)
	}
	return string(body)
}

// TestDatadogGo runs one script through datadog-go in every mode that changes
// its bytes, and compares totals at Flux with what was measured.
func TestDatadogGo(t *testing.T) {
	modes := map[string][]statsd.Option{
		"plain":      {statsd.WithoutClientSideAggregation()},
		"aggregated": {statsd.WithClientSideAggregation(), statsd.WithAggregationInterval(200 * time.Millisecond)},
		"extended":   {statsd.WithExtendedClientSideAggregation(), statsd.WithAggregationInterval(200 * time.Millisecond)},
		"channel":    {statsd.WithoutClientSideAggregation(), statsd.WithChannelMode(), statsd.WithChannelModeBufferSize(100_000)},
	}
	for _, network := range []string{"udp", "unixgram"} {
		for name, options := range modes {
			t.Run(network+"/"+name, func(t *testing.T) {
				flux := fluxtest.New(t, fluxtest.Options{RequestsPerMinute: -1, QueriesPerMinute: -1, MaxItems: 499})
				a := start(t, flux)
				addr := a.udp
				if network == "unixgram" {
					addr = a.unix
				}
				// Global tags and a container's id are what a client adds to real traffic.
				client, err := statsd.New(addr, slices.Concat(options, []statsd.Option{
					statsd.WithContainerID("8f3b0d6c2a1e4f5d9b7c6a5e4d3c2b1a8f3b0d6c2a1e4f5d9b7c6a5e4d3c2b1a"),
					statsd.WithTags([]string{"env:test", "service:clients"}),
					statsd.WithMaxMessagesPerPayload(40), statsd.WithSenderQueueSize(20_000),
					statsd.WithWriteTimeout(time.Second),
				})...)
				if err != nil {
					t.Fatal(err)
				}
				want := script(t, client)
				if err := client.Close(); err != nil {
					t.Errorf("close client: %v", err)
				}
				if n := client.GetTelemetry(); n.TotalPayloadsDropped > 0 || n.TotalMetrics == 0 {
					t.Fatalf("the client itself dropped %d payloads", n.TotalPayloadsDropped)
				}
				want.check(t, flux)
			})
		}
	}
}

// TestTelemetry: what a client reports about itself every 10 s is counted, and
// goes no further.
func TestTelemetry(t *testing.T) {
	flux := fluxtest.New(t, fluxtest.Options{RequestsPerMinute: -1, QueriesPerMinute: -1, MaxItems: 499})
	a := start(t, flux)
	client, err := statsd.New(a.udp, statsd.WithExtendedClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Incr("telemetry.mine", nil, 1); err != nil {
		t.Fatal(err)
	}
	until(t, "telemetry was counted", func() bool { return strings.Contains(a.get(t, "/metrics"), `reason="client_telemetry"`) })
	until(t, "the counter is upstream", func() bool { return flux.CounterTotal("telemetry.mine").Float == 1 })
	time.Sleep(1500 * time.Millisecond) // longer than the window that telemetry would be in
	for _, s := range flux.Series() {
		if strings.HasPrefix(s.Name, "datadog.") {
			t.Errorf("the client's telemetry went upstream: %s", s.Name)
		}
	}
}

// TestMetricsParse reads /metrics the way Prometheus does.
func TestMetricsParse(t *testing.T) {
	flux := fluxtest.New(t, fluxtest.Options{RequestsPerMinute: -1, QueriesPerMinute: -1})
	a := start(t, flux)
	client, err := statsd.New(a.udp, statsd.WithoutClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	client.Count("parse.count", 1, []string{"a:b"}, 1)
	client.Count("parse.bad name", 1, nil, 1)
	client.Gauge("sluice.reserved", 1, nil, 1)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the counter is upstream", func() bool { return flux.CounterTotal("parse.count").Float == 1 })
	text := a.get(t, "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(families) < 25 {
		t.Errorf("%d families, want all of them\n%s", len(families), text)
	}
	for name, f := range families {
		if f.GetHelp() == "" || f.Type == nil || len(f.Metric) == 0 || !strings.HasPrefix(name, "sluice_") {
			t.Errorf("family %s: help %q, type %v, %d metrics", name, f.GetHelp(), f.Type, len(f.Metric))
		}
	}
	if got := families["sluice_accepted_total"]; got == nil || got.Metric[0].GetCounter().GetValue() != 2 {
		t.Errorf("sluice_accepted_total = %v, want 2 counters", got)
	}
}

// totals are what a script amounts to, by series: name and the tag "way".
type totals struct {
	counters map[string]float64
	gauge    float64
	users    int
	count    float64
	sum      float64
}

// script measures a few thousand things of every kind. Values are whole or
// halves, so that sums are exact; rates would make the client choose by chance,
// so they are 1.
func script(t *testing.T, c *statsd.Client) totals {
	t.Helper()
	want := totals{counters: map[string]float64{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4000 {
		way := fmt.Sprintf("way:%d", i%7)
		must(c.Count("client.requests", int64(i%5), []string{way, "method:GET"}, 1))
		want.counters[way] += float64(i % 5)
		must(c.Incr("client.requests", []string{"method:GET", way}, 1))
		want.counters[way]++
		must(c.Gauge("client.queue", float64(i)-2000.5, nil, 1))
		want.gauge = float64(i) - 2000.5
		must(c.Distribution("client.size", float64(i)/2, []string{"part:body"}, 1))
		want.count++
		want.sum += float64(i) / 2
		must(c.Set("client.users", fmt.Sprintf("user:%d", i%61), nil, 1))
		if i%100 == 99 {
			must(c.Flush())
			time.Sleep(5 * time.Millisecond) // a Unix socket queues few datagrams, and the client drops what does not fit
		}
	}
	want.users = 61
	must(c.Timing("client.time", 250*time.Millisecond, nil, 1))
	must(c.Histogram("client.histogram", -3, nil, 1))
	must(c.Flush())
	return want
}

// check waits until the last part of the script is upstream and compares.
func (want *totals) check(t *testing.T, flux *fluxtest.Server) {
	t.Helper()
	until(t, "everything has arrived", func() bool {
		sum := 0.0
		for _, v := range want.counters {
			sum += v
		}
		return flux.CounterTotal("client.requests").Float >= sum && flux.CounterTotal("client.size.count").Float >= want.count &&
			flux.CounterTotal("client.time.count").Float >= 1 && flux.CounterTotal("client.histogram.count").Float >= 1 &&
			len(flux.SetMembers("client.users")) >= want.users
	})
	for way, v := range want.counters {
		if got := flux.CounterTotal("client.requests", way, "method:GET", "env:test", "service:clients").Float; got != v {
			t.Errorf("client.requests %s = %v, want %v", way, got, v)
		}
	}
	if got, ok := flux.GaugeLast("client.queue", "env:test"); !ok || got.Value != want.gauge {
		t.Errorf("client.queue = %v, want %v", got.Value, want.gauge)
	}
	for name, v := range map[string]float64{
		"client.size.count": want.count, "client.size.sum": want.sum, "client.time.sum": 250, "client.histogram.sum": -3,
	} {
		if got := flux.CounterTotal(name).Float; got != v {
			t.Errorf("%s = %v, want %v", name, got, v)
		}
	}
}

package listeners

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"sluice/aggregator"
)

// typical is a batch of n items the way SDKs write them: 40 % counters, 30 %
// distributions, 20 % gauges, 10 % sets, three tags each, of 100 series.
func typical(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"metrics":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		kind, value := "counter", "1"
		switch i % 10 {
		case 4, 5, 6:
			kind, value = "distribution", "145.2"
		case 7, 8:
			kind, value = "gauge", "234"
		case 9:
			kind, value = "set", fmt.Sprintf(`"user_%d"`, i)
		}
		fmt.Fprintf(&b, `{"name":"api.metric.%d","type":"%s","value":%s,"timestamp":null,"tags":{"endpoint":"/users/%d","method":"GET","status":"200"}}`, i%100, kind, value, i%100)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// intakes opens intakes of a real aggregator.
func intakes() func(aggregator.Spelling) Sink {
	home := aggregator.New(aggregator.Options{Interval: time.Hour, MaxLateness: time.Hour, MaxSeries: 100_000, MaxSeriesPerMetric: 10_000, MaxSetMembers: 10_000}, time.Now())
	return func(s aggregator.Spelling) Sink { return home.Intake(s) }
}

// TestBatchDoesNotAllocate: next to nothing, that is, for parsing 500 items and adding them to
// the aggregator, once their series are known.
func TestBatchDoesNotAllocate(t *testing.T) {
	api := NewAPI(APIOptions{})
	api.Routes(http.NewServeMux(), intakes())
	x := newExchange(api)
	body := typical(500)
	run := func() {
		x.json, x.answer, x.scratch = body, x.answer[:0], x.scratch[:0]
		if status, code := x.postMetrics(time.Now().UnixNano()); status != 201 || code != Accepted {
			t.Fatalf("status %d, %v: %s", status, code, x.answer)
		}
	}
	for range 300 { // distributions become sketches, and those find their size
		run()
	}
	if got := testing.AllocsPerRun(100, run); got > 5 {
		t.Errorf("%v allocations for a batch of 500 items, want at most 5", got)
	}
}

// BenchmarkBatch parses a batch of 500 items and adds it to the aggregator, without
// HTTP around it.
func BenchmarkBatch(b *testing.B) {
	api := NewAPI(APIOptions{})
	api.Routes(http.NewServeMux(), intakes())
	x := newExchange(api)
	body := typical(500)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		x.json, x.answer, x.scratch = body, x.answer[:0], x.scratch[:0]
		if status, code := x.postMetrics(time.Now().UnixNano()); status != 201 {
			b.Fatal(code)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/item")
}

// BenchmarkClients is 256 clients that post batches of 100 items over loopback, as
// fast as they are answered. The time is that of both sides.
func BenchmarkClients(b *testing.B) {
	api := NewAPI(APIOptions{})
	mux := http.NewServeMux()
	api.Routes(mux, intakes())
	s := httptest.NewServer(Guard{}.Wrap(mux))
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	body := typical(100)
	b.ReportAllocs()
	b.SetParallelism(128) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post(s.URL+"/api/v1/metrics/batch", "application/json", bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 201 {
				b.Errorf("status %d", resp.StatusCode)
			}
		}
	})
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "items/s")
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// floodMemory is what an agent with max_series 5,000 may take at most, in bytes:
// the bound that docs/reliability.md promises.
const floodMemory = 64 << 20

// TestFlood throws distinct values of one tag at the agent, among lines of
// series that it knows and of other tags of the same metric: those must come out
// exact, the culprit must be named, and memory must stay. With SLUICE_LONG=1 it is 10
// million values in a minute.
func TestFlood(t *testing.T) {
	values, during := 100_000, time.Duration(0)
	if os.Getenv("SLUICE_LONG") != "" {
		values, during = 10_000_000, time.Minute
	}
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Limits: "max_series: 5000, max_series_per_metric: 1000"})
	conn := d.dial("unixgram") // where a sender waits rather than that something is lost

	const known, routes, perPacket = 20, 5, 100
	var b bytes.Buffer
	began := time.Now()
	for n := 0; n < values; n += perPacket {
		b.Reset()
		for i := range known {
			fmt.Fprintf(&b, "known.calls:1|c|#route:r%d\nknown.time:%d|d|#route:r%d\n", i, i, i)
		}
		for i := range perPacket {
			fmt.Fprintf(&b, "flood.calls:1|c|#env:prod,route:r%d,user:%d\n", i%routes, n+i)
		}
		if _, err := conn.Write(b.Bytes()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(began.Add(during * time.Duration(n) / time.Duration(values))))
	}
	packets := values / perPacket
	d.taken(uint64(values + packets*2*known))

	s := d.status()
	if n := s.Series.Open; n > 5000 {
		t.Errorf("%d series are open, limit 5,000", n)
	}
	if f := s.Series.Folded; len(f) != 1 || f[0].Metric != "flood.calls" || f[0].Tag != "user" || len(f[0].Examples) == 0 {
		t.Errorf("folded: %+v, want flood.calls for its tag user", f)
	} else if want := fmt.Sprintf("[%d]", os.Getpid()); runtime.GOOS == "linux" && !strings.HasSuffix(f[0].Sender, want) {
		t.Errorf("folded since %q sent, want this program, %s", f[0].Sender, want)
	}
	_, metrics := d.get("/metrics")
	if want := `sluice_folded_metric_info{metric="flood.calls",kind="counter",tag="user",sender="` + s.Series.Folded[0].Sender + `"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("/metrics is without %s", want)
	}
	// Series that have been idle for 60 windows go, and the next ones are a flood anew.
	if n, most := d.log.count("too many series"), 1+int(time.Since(began)/(50*time.Second)); n > most {
		t.Errorf("the flood is told %d times in %v, want at most %d", n, time.Since(began), most)
	}
	peak := d.memory("VmHWM")
	t.Logf("%d values in %s, %d series open, at most %.1f MiB resident", values, time.Since(began).Round(time.Second), s.Series.Open, float64(peak)/(1<<20))
	if peak > floodMemory && !raceEnabled { // the race detector takes as much again
		t.Errorf("at most %d bytes resident, want %d", peak, floodMemory)
	}
	d.terminate()
	if l, ok := d.log.find("too many series"); !ok || l.text("metric") != "flood.calls" || l.text("tag") != "user" {
		t.Errorf("the culprit is not in the log: %v", l)
	}

	got := spooled(t, filepath.Join(dir, "spool"))
	for i := range known {
		route := aggregator.Tag{Key: "route", Value: "r" + strconv.Itoa(i)}
		if n := got[aggregator.NewSeries(aggregator.Counter, "known.calls", route)]; n != float64(packets) {
			t.Errorf("known.calls of %s: %v, want %d", route.Value, n, packets)
		}
		if n := got[aggregator.NewSeries(aggregator.Distribution, "known.time", route)]; n != float64(packets*i) {
			t.Errorf("known.time of %s: %v, want %d", route.Value, n, packets*i)
		}
	}
	byRoute := make(map[string]float64)
	for series, n := range got {
		if series.Name() == "flood.calls" {
			for k, v := range series.Tags() {
				if k == "route" {
					byRoute[v] += n
				}
			}
		}
	}
	for i := range routes {
		if n := byRoute["r"+strconv.Itoa(i)]; n != float64(values/routes) {
			t.Errorf("flood.calls of route r%d: %v, want %d", i, n, values/routes)
		}
	}
	if len(byRoute) != routes {
		t.Errorf("flood.calls has routes %v, want %d", byRoute, routes)
	}
}

// TestEveryLimit drives every limit of the aggregator at once: series of all
// kinds with long keys, sets of many members, distributions of values from 1e-300 to
// 1e300 and of as many as can be, spellings without end, values of other times. Memory,
// but for pages of files, which the kernel takes back when it needs them, must stay
// within what docs/reliability.md promises, and the books must balance. With SLUICE_LONG=1 it goes on for a minute, and again with the defaults.
func TestEveryLimit(t *testing.T) {
	during, limits := 2*time.Second, []int{5000}
	if os.Getenv("SLUICE_LONG") != "" {
		during, limits = time.Minute, []int{5000, 100_000}
	}
	for _, maxSeries := range limits {
		t.Run(strconv.Itoa(maxSeries), func(t *testing.T) {
			// Long windows are the worst case; they are closed early when memory says so.
			d := start(t, setup{Interval: "30s", Limits: fmt.Sprintf("max_series: %d", maxSeries)})
			conn := d.dial("unixgram")
			random := rand.New(rand.NewPCG(1, 2))
			sent, peak := uint64(0), 0
			var b bytes.Buffer
			long := strings.Repeat("v", 120)
			early := func() bool { return !strings.Contains(d.metric("sluice_early_windows_total"), " 0\n") }
			for end, last, n := time.Now().Add(during), time.Now().Add(patience), 0; ; n++ {
				// A slow machine needs longer until a window is closed early, without which
				// the load is too small to test anything.
				if now := time.Now(); now.After(end) && (n%1000 == 0 && early() || now.After(last)) {
					break
				}
				b.Reset()
				late := time.Now().Add(-time.Duration(random.IntN(3000)) * time.Second).Unix()
				for range 8 {
					id := random.IntN(2 * maxSeries)
					fmt.Fprintf(&b, "limit.count%d:1|c|#a:%s,id:%d\n", id%50, long, id)
					fmt.Fprintf(&b, "limit.level%d:%d|g|#a:%s,id:%d\n", id%50, n, long, id)
					fmt.Fprintf(&b, "limit.late%d:1|c|#id:%d|T%d\n", id%50, id, late)
					fmt.Fprintf(&b, "limit.wide%d:%g|d|#a:%s,id:%d\n", id%50, math.Exp(690*(2*random.Float64()-1)), long, id%(maxSeries/10))
					fmt.Fprintf(&b, "limit.time%d:%g:%g:%g:%g|d|#a:%s,id:%d\n", id%50, random.ExpFloat64(), random.ExpFloat64(), random.ExpFloat64(), random.ExpFloat64(), long, id)
					fmt.Fprintf(&b, "limit.users%d:user%d-%s|s|#id:%d\n", id%50, random.Uint64(), long, id%(maxSeries/10))
					fmt.Fprintf(&b, "limit.spelt:1|c|#x:%d,id:%d,x:1\n", random.Uint64(), id%10)
				}
				sent += 8 * 10
				if _, err := conn.Write(b.Bytes()); err != nil {
					t.Fatal(err)
				}
				if n%50 == 0 {
					peak = max(peak, d.memory("RssAnon"))
				}
			}
			d.until("all of it has been read", func() bool {
				s := d.status()
				refused := uint64(0)
				for _, n := range s.Listeners[1].Rejected {
					refused += n
				}
				return s.accepted()+refused == sent
			})
			d.balanced()
			s := d.status()
			bound := memoryOf(maxSeries)
			t.Logf("%d samples, refused %v, %d series open; at most %.1f MiB of %d, and with the pages of files %.1f", sent, s.Listeners[1].Rejected, s.Series.Open,
				float64(peak)/(1<<20), bound>>20, float64(d.memory("VmHWM"))/(1<<20))
			if int64(peak) > bound && !raceEnabled {
				t.Errorf("at most %d bytes, want %d", peak, bound)
			}
			if !early() {
				t.Error("no window was closed early: the load is too small to test anything")
			}
		})
	}
}

// spooled is what the windows in a spool amount to: the total of each counter,
// the sum of each distribution.
func spooled(t *testing.T, dir string) map[aggregator.Series]float64 {
	t.Helper()
	s := spool.New(spool.Options{Dir: dir})
	if err := s.Attach(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var windows []*aggregator.Reader
	for _, e := range s.Entries(spool.Range{To: math.MaxUint64}) {
		parts, err := s.Read(e.Seqs.From)
		if err != nil {
			t.Fatal(err)
		}
		r, err := aggregator.OpenReader(slices.Clone(parts)...)
		if err != nil {
			t.Fatal(err)
		}
		windows = append(windows, r)
	}
	all := make(map[aggregator.Series]float64)
	m := aggregator.Merge(10_000, nil, windows...)
	for series, v := range m.All() {
		switch series.Kind() {
		case aggregator.Counter:
			all[series] = v.Total()
		case aggregator.Distribution:
			all[series] = v.Sum()
		}
	}
	if err := m.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

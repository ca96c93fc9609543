package main

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/configs"
)

// tagged is the spelling of a sample with tags like a:b,c:d.
type tagged struct{}

func (tagged) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	for tag := range bytes.SplitSeq(s.Tags, []byte(",")) {
		if key, value, ok := bytes.Cut(tag, []byte(":")); ok {
			dst.Tag(key, value)
		}
	}
	return aggregator.Taken
}

// A showing is an agent's intake and what it shows, with a clock of its own.
type showing struct {
	t    *testing.T
	from *aggregator.Aggregator
	in   *aggregator.Intake
	now  time.Time
	exposed
}

func newShowing(t *testing.T, c configs.Expose) *showing {
	start := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	s := &showing{t: t, now: start, from: aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 1000, MaxSetMembers: 100}, start)}
	s.in = s.from.Intake(tagged{})
	s.configure(c, 1000)
	return s
}

// take adds a sample, which may have a time of its own.
func (s *showing) take(kind aggregator.Kind, name, tags string, value float64, times ...int64) {
	s.t.Helper()
	sample := aggregator.Sample{Kind: kind, Head: []byte(name), Tags: []byte(tags), Value: value}
	if kind == aggregator.Set {
		sample.Member = strconv.AppendFloat(nil, value, 'g', -1, 64)
	}
	if len(times) > 0 {
		sample.Time = times[0]
	}
	if batch := []aggregator.Sample{sample}; s.in.Add(s.now.UnixNano(), batch) != 0 {
		s.t.Fatalf("%s is refused: %v", name, batch[0].Refused)
	}
}

// window closes the open window.
func (s *showing) window() {
	s.now = s.now.Add(10 * time.Second)
	for _, w := range s.from.Rotate(s.now) {
		s.add(w, s.now)
		w.Release()
	}
}

// text is the answer without its first lines, which tell the time.
func (s *showing) text() string {
	s.t.Helper()
	list, _, ok := s.ask(s.now)
	if !ok {
		s.t.Fatal("nothing is shown")
	}
	var out []byte
	var before *shownFamily
	for i := range list { // one by one: where an answer is cut into pieces does not matter
		out = s.appendSeries(out, list[i:i+1], before)
		before = list[i].family
	}
	if whole := s.appendSeries(nil, list, nil); !bytes.Equal(out, whole) {
		s.t.Errorf("in pieces it is\n%s\nand at once\n%s", out, whole)
	}
	return string(out)
}

func (s *showing) wants(want string) {
	s.t.Helper()
	if got := s.text(); got != want {
		s.t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestExposed: what is shown of each kind, window by window.
func TestExposed(t *testing.T) {
	s := newShowing(t, configs.Expose{MaxSeries: 100, Buckets: []float64{1, 2.5}})
	s.take(aggregator.Counter, "before.anybody.asks", "", 5)
	s.window()
	s.wants("")
	s.take(aggregator.Counter, "orders.made", "shop:a", 2)
	s.take(aggregator.Counter, "orders.made", "shop:a", 3)
	s.take(aggregator.Counter, "orders.made", "", 1)
	s.take(aggregator.Gauge, "queue", "", 7)
	s.take(aggregator.Distribution, "took", "to:x", 1) // a bound is in its bucket
	s.take(aggregator.Distribution, "took", "to:x", 2)
	s.take(aggregator.Distribution, "took", "to:x", 9)
	s.take(aggregator.Set, "users", "", 1)
	s.take(aggregator.Set, "users", "", 2)
	s.window()
	s.wants(`# HELP orders_made Sum of the counter orders.made.
# TYPE orders_made counter
orders_made 1
orders_made{shop="a"} 5
# HELP queue Last value of the gauge queue.
# TYPE queue gauge
queue 7
# HELP took Values of the distribution took.
# TYPE took histogram
took_bucket{to="x",le="1"} 1
took_bucket{to="x",le="2.5"} 2
took_bucket{to="x",le="+Inf"} 3
took_sum{to="x"} 12
took_count{to="x"} 3
# HELP users_unique Members in the last window of the set users.
# TYPE users_unique gauge
users_unique 2
`)
	s.take(aggregator.Counter, "orders.made", "shop:a", 4)
	s.take(aggregator.Counter, "orders.made", "", -4)
	s.take(aggregator.Distribution, "took", "to:x", 0.5)
	earlier := s.now.Add(-5 * time.Minute).UnixNano() // adds to sums, and is no news otherwise
	s.take(aggregator.Counter, "orders.made", "shop:a", 10, earlier)
	s.take(aggregator.Gauge, "queue", "", 99, earlier)
	s.take(aggregator.Set, "users", "", 3, earlier)
	s.window()
	s.wants(`# HELP orders_made Sum of the counter orders.made.
# TYPE orders_made counter
orders_made 1
orders_made{shop="a"} 19
# HELP queue Last value of the gauge queue.
# TYPE queue gauge
queue 7
# HELP took Values of the distribution took.
# TYPE took histogram
took_bucket{to="x",le="1"} 2
took_bucket{to="x",le="2.5"} 3
took_bucket{to="x",le="+Inf"} 4
took_sum{to="x"} 12.5
took_count{to="x"} 4
# HELP users_unique Members in the last window of the set users.
# TYPE users_unique gauge
users_unique 0
`)
	if shown, left, skipped := s.stats(); shown != 5 || left != 0 || skipped != 1 {
		t.Errorf("%d series shown, %d left out, %d sums skipped, want 5, 0, 1", shown, left, skipped)
	}
}

// TestExposedGaugeTimes: of a gauge whose values have times of their own, the newest is
// shown, and never a 0 that nobody sent.
func TestExposedGaugeTimes(t *testing.T) {
	s := newShowing(t, configs.Expose{MaxSeries: 100})
	s.wants("")
	shows := func(want string) {
		t.Helper()
		s.window()
		s.wants("# HELP queue Last value of the gauge queue.\n# TYPE queue gauge\nqueue " + want + "\n")
	}
	began := s.now
	at := func(from time.Duration) int64 { return began.Add(from).UnixNano() }
	s.take(aggregator.Gauge, "queue", "", 5, at(-2*time.Second))
	shows("5")
	s.take(aggregator.Gauge, "queue", "", 6, at(8*time.Second)) // of the window before
	shows("6")
	s.take(aggregator.Gauge, "queue", "", 99, at(-time.Minute))
	shows("6")
	s.take(aggregator.Gauge, "queue", "", 7)
	s.take(aggregator.Gauge, "queue", "", 8, at(25*time.Second))
	shows("7")
}

// TestExposedNames: names and labels that Prometheus does not take, and those that
// several metrics and tags share.
func TestExposedNames(t *testing.T) {
	s := newShowing(t, configs.Expose{MaxSeries: 100})
	s.text()
	s.take(aggregator.Counter, "a.b", "", 1)
	s.take(aggregator.Counter, "a_b", "", 2) // the same series there
	s.take(aggregator.Gauge, "a-b", "", 3)
	s.take(aggregator.Distribution, "d", "", 4)
	s.take(aggregator.Counter, "d.count", "", 5) // the name of a histogram's line
	s.take(aggregator.Counter, "9lives", "", 6)
	s.take(aggregator.Counter, "größe:x", "", 7)
	s.take(aggregator.Gauge, "tags", "le:1,__name__:x,a.b:1,a-b:2,9:n,empty:,quote:a\"b\\c\xff", 8)
	s.take(aggregator.Counter, "sluice_series", "", 9)
	s.window()
	s.wants(`# HELP _9lives Sum of the counter 9lives.
# TYPE _9lives counter
_9lives 6
# HELP a_b Last value of the gauge a-b.
# TYPE a_b gauge
a_b 3
# HELP a_b_counter Sum of the counter a.b.
# TYPE a_b_counter counter
a_b_counter 3
# HELP d Values of the distribution d.
# TYPE d histogram
d_bucket{le="+Inf"} 1
d_sum 4
d_count 1
# HELP d_count_counter Sum of the counter d.count.
# TYPE d_count_counter counter
d_count_counter 5
# HELP gr____e_x Sum of the counter größe:x.
# TYPE gr____e_x counter
gr____e_x 7
# HELP sluice_series Sum of the counter sluice_series.
# TYPE sluice_series counter
sluice_series 9
# HELP tags Last value of the gauge tags.
# TYPE tags gauge
tags{_9="n",tag_name__="x",a_b="2;1",tag_le="1",quote="a\"b\\c` + "\uFFFD" + `"} 8
`)
}

// TestExposedBounds: no more series than there may be, and texts no longer; what is left
// out is told. What nothing comes for goes after an hour, and makes room; so does all of it when
// nobody asks.
func TestExposedBounds(t *testing.T) {
	s := newShowing(t, configs.Expose{MaxSeries: 5})
	s.text()
	for i := range 8 {
		s.take(aggregator.Counter, "many", fmt.Sprintf("n:%d", i), 1)
	}
	s.window()
	if shown, left, _ := s.stats(); shown != 5 || left != 3 {
		t.Errorf("%d series shown and %d left out, want 5 and 3", shown, left)
	}
	if _, about, _ := s.ask(s.now); !strings.Contains(string(about), "# Left out: 3 series of the last window") {
		t.Errorf("the answer does not tell of what is left out: %s", about)
	}
	before := s.text()
	s.take(aggregator.Counter, "many", "n:7", 1)
	s.window()
	if got := s.text(); got != before {
		t.Errorf("got\n%s\nwant\n%s", got, before)
	}
	for range 7 { // an hour and more, in which it is asked for
		s.now = s.now.Add(10 * time.Minute)
		s.text()
		s.take(aggregator.Counter, "others", "n:1", 1)
		s.window()
	}
	s.wants("# HELP others Sum of the counter others.\n# TYPE others counter\nothers{n=\"1\"} 2\n")
	if s.bytes != len("others{n=\"1\"")+len(onlySeries(s).Key()) || len(s.names) != 1 {
		t.Errorf("%d bytes and %d names are counted for one series", s.bytes, len(s.names))
	}

	s.take(aggregator.Counter, strings.Repeat("x", 250), "long:"+strings.Repeat("v", 200)+",b:"+strings.Repeat("v", 200), 1)
	s.take(aggregator.Counter, strings.Repeat("y", 250), "long:"+strings.Repeat("v", 200)+",b:"+strings.Repeat("v", 200), 1)
	s.window()
	if shown, left, _ := s.stats(); shown != 2 || left != 1 || s.bytes > 5*exposedBytes || len(s.names) != 2 {
		t.Errorf("%d series shown, %d left out, %d bytes, %d names, want 2, 1, at most %d, 2", shown, left, s.bytes, len(s.names), 5*exposedBytes)
	}

	s.now = s.now.Add(exposedFor)
	s.take(aggregator.Counter, "others", "n:1", 1)
	s.window()
	if s.series != nil || s.texts != nil || s.names != nil || s.bytes != 0 {
		t.Error("an hour after the last question something is kept")
	}
	s.wants("")
	s.configure(configs.Expose{}, 1000)
	if _, _, ok := s.ask(s.now); ok {
		t.Error("it is shown though max_series is 0")
	}
}

func onlySeries(s *showing) aggregator.Series {
	for series := range s.series {
		return series
	}
	return aggregator.Series{}
}

// promLine is a line of the text format 0.0.4 (prometheus.io, "Exposition formats").
var promLine = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*\})? (NaN|[-+]?(?:Inf|[0-9.e+-]+))$`)

// FuzzExposed: whatever names and tags are, lines are well-formed, none is there twice, each
// stands behind the type of its family, and families are not mixed.
func FuzzExposed(f *testing.F) {
	f.Add("a.b", "k:v,le:1", "a_b", "k:v,__x:\"\n\\", uint8(0x41))
	f.Add("d", "", "d.count", "a.b:1,a-b:2", uint8(0x42))
	f.Add("d_unique", "x:", "d", "\xff:\xff", uint8(0x03))
	f.Fuzz(func(t *testing.T, name1, tags1, name2, tags2 string, kinds uint8) {
		s := newShowing(t, configs.Expose{MaxSeries: 100, Buckets: []float64{1}})
		s.text()
		for i, from := range []struct{ name, tags string }{{name1, tags1}, {name2, tags2}, {name1, tags2}, {name2, tags1}} {
			kind := aggregator.Kind(kinds >> (2 * i) & 3)
			if from.name == "" || len(from.name) > aggregator.MaxName || strings.ContainsAny(from.name, "\n") {
				return // no parser hands such a name over
			}
			s.in.Add(s.now.UnixNano(), []aggregator.Sample{{Kind: kind, Head: []byte(from.name), Tags: []byte(from.tags), Value: 2, Member: []byte("m")}})
		}
		s.window()
		lines, families := map[string]bool{}, map[string]bool{}
		family := ""
		for line := range strings.Lines(s.text()) {
			line = strings.TrimSuffix(line, "\n")
			if head, ok := strings.CutPrefix(line, "# TYPE "); ok {
				family, _, _ = strings.Cut(head, " ")
				if families[family] {
					t.Errorf("the family %s is there twice", family)
				}
				families[family] = true
				continue
			}
			if strings.HasPrefix(line, "# HELP ") {
				continue
			}
			m := promLine.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%q is not a line of the format", line)
			}
			if lines[m[1]+m[2]] {
				t.Errorf("%s%s is there twice", m[1], m[2])
			}
			lines[m[1]+m[2]] = true
			if suffix, ok := strings.CutPrefix(m[1], family); !ok || suffix != "" && suffix != "_bucket" && suffix != "_sum" && suffix != "_count" {
				t.Errorf("%s stands in the family %s", m[1], family)
			}
		}
	})
}

// TestTakesText: who is answered, by the header Accept.
func TestTakesText(t *testing.T) {
	for accept, want := range map[string]bool{
		"*/*":                      true,
		"text/plain;version=0.0.4": true,
		"Text/Plain; q=0.3":        true,
		"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": true, // Prometheus
		"application/openmetrics-text; version=1.0.0":                                               false,
		"application/json":          false,
		"text/html, text/plain;q=0": false,
		"text/html, */*;q=0.0":      false,
	} {
		if got := takesText([]string{accept}); got != want {
			t.Errorf("takesText(%q) = %v, want %v", accept, got, want)
		}
	}
	if !takesText(nil) {
		t.Error("whoever asks for nothing is refused")
	}
}

// TestApplicationMetrics reads them from a running agent.
func TestApplicationMetrics(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	d.get("/metrics/application")
	conn := d.dial("udp")
	d.send(conn, "shown.count:2|c|#a:b\nshown.time:0.3|d|@0.5")
	want := []string{"\nshown_count{a=\"b\"} 2\n", "\nshown_time_bucket{le=\"0.25\"} 0\n", "\nshown_time_bucket{le=\"0.5\"} 2\n", "\nshown_time_count 2\n"}
	d.until("all of it is shown", func() bool {
		status, text := d.get("/metrics/application")
		for _, line := range want {
			if !strings.Contains(text, line) {
				return false
			}
		}
		return status == http.StatusOK
	})
	if got := d.metric("sluice_exposed_series"); got != "sluice_exposed_series 2\n" {
		t.Errorf("%s, want 2", got)
	}
	for accept, want := range map[string]int{"application/json": http.StatusNotAcceptable, "text/plain": http.StatusOK} {
		r, err := http.NewRequest(http.MethodGet, d.http+"/metrics/application", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("Accept: %s is answered with %d, want %d", accept, answer.StatusCode, want)
		}
	}
}

// TestExposedMemory tells what a series costs that is shown: docs/capacity.md has it.
func TestExposedMemory(t *testing.T) {
	const series, most = 10_000, 1 << 10 // twice as much as it is, at least
	for _, kind := range []aggregator.Kind{aggregator.Counter, aggregator.Distribution} {
		c := configs.Default().Expose
		s := newShowing(t, c)
		s.from = aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxSeries: 2 * series, MaxSetMembers: 1}, s.now)
		s.in = s.from.Intake(tagged{})
		s.configure(c, series)
		window := func() {
			for i := range series {
				s.take(kind, "shop.requests", fmt.Sprintf("env:production,service:checkout,route:/orders/number/%d", i), 1)
			}
			s.window()
		}
		window() // what the aggregator keeps of them is none of it
		window()
		before := heap()
		s.text()
		window()
		each := (heap() - before) / series
		if shown, _, _ := s.stats(); shown != series || each > most {
			t.Errorf("%d series of kind %v are shown and take %d bytes each, want %d and at most %d", shown, kind, each, series, most)
		}
		t.Logf("a series of kind %v takes %d bytes", kind, each)
	}
}

// heap is what is alive, without what pools keep through a collection or two.
func heap() int64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

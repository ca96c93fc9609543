package forwarder

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

func fluxOf(dialect string) *flux {
	return newFlux(testOptions(), &contact{agent: "00c0ffee00c0ffee", generation: "0123456789abcdef", dialect: dialect, names: names0()})
}

func newSheet(maxItems int) *Sheet {
	return &Sheet{maxItems: maxItems, maxBody: maxBody, head: fluxHead, events: fluxEvents}
}

// renderAll renders the open window of s.
func renderAll(t testing.TB, f *flux, sheet *Sheet, s *source) {
	t.Helper()
	at := s.agg.Ends().Add(-interval)
	m := aggregator.Merge(f.options.MaxSetMembers, nil, s.reader())
	for series, v := range m.All() {
		sheet.begin(v.Kind(), v.Samples())
		f.Render(sheet, &Bucket{At: at, Rung: rung{points: fewPoints}}, series, v)
	}
	if err := m.Err(); err != nil {
		t.Fatal(err)
	}
}

// text shows a sheet for comparison: per batch its lane, per item its kind, its
// samples and its JSON, short of what all have in common.
func text(sheet *Sheet) string {
	var b strings.Builder
	for _, batch := range sheet.batches {
		fmt.Fprintf(&b, "lane %d\n", batch.Lane)
		for _, i := range batch.Items {
			item := string(batch.Body[i.Off : i.Off+i.Len])
			item = strings.ReplaceAll(item, `,"timestamp":"2026-01-01T12:00:00.000Z"`, "")
			fmt.Fprintf(&b, "%d/%d %s\n", i.Kind, i.Samples, item)
		}
	}
	return b.String()
}

func wantText(t *testing.T, got, want string) {
	t.Helper()
	got, want = strings.TrimSpace(got), strings.TrimSpace(want)
	if got != want {
		t.Errorf("rendered\n%s\n\nwant\n%s", got, want)
	}
}

func TestRenderGolden(t *testing.T) {
	fill := func(t *testing.T) *source {
		s := newSource(t, t0)
		s.count(t0, "req", "route:/a,env:prod", 3)
		s.count(t0, "req", "route:/a,env:prod", 4)
		s.count(t0, "big", "", math.MaxInt64)
		s.count(t0, "big", "", 2)
		s.add(t0, aggregator.Sample{Kind: aggregator.Counter, Value: 0.1}, "part", "")
		s.gauge(t0, "temp", "", -0.5)
		s.gauge(t0, "zero", "", math.Copysign(0, -1))
		s.gauge(t0, "tiny", "", 5e-324)
		s.gauge(t0, "huge", "", math.MaxFloat64)
		s.measure(t0, "lat", "", 1, 2)
		s.measure(t0, "lat", "", 4, 2)
		s.member(t0, "user", "", "bob")
		s.member(t0, "user", "", "al")
		s.member(t0, "user", "", "bob")
		s.count(t0, `quo"te\`, "ke\"y:v\n\x01é\u2028</script>", 1)
		return s
	}
	const numbers = `
lane 1
1/2 {"name":"big","type":"counter","value":9223372036854775809,"tags":{}}
3/2 {"name":"lat","type":"distribution","value":1,"tags":{}}
3/0 {"name":"lat","type":"distribution","value":4,"tags":{}}
3/0 {"name":"lat.count","type":"counter","value":4,"tags":{}}
3/0 {"name":"lat.sum","type":"counter","value":10,"tags":{}}
3/0 {"name":"lat.min","type":"gauge","value":1,"tags":{}}
3/0 {"name":"lat.max","type":"gauge","value":4,"tags":{}}
3/0 {"name":"lat.p50","type":"gauge","value":1,"tags":{}}
3/0 {"name":"lat.p95","type":"gauge","value":4,"tags":{}}
3/0 {"name":"lat.p99","type":"gauge","value":4,"tags":{}}
1/2 {"name":"req","type":"counter","value":7,"tags":{"env":"prod","route":"/a"}}
2/1 {"name":"huge","type":"gauge","value":1.7976931348623157e+308,"tags":{}}
1/1 {"name":"part","type":"counter","value":0.1,"tags":{}}
2/1 {"name":"temp","type":"gauge","value":-0.5,"tags":{}}
2/1 {"name":"tiny","type":"gauge","value":5e-324,"tags":{}}
`
	const rest = `
2/1 {"name":"zero","type":"gauge","value":0,"tags":{}}
1/1 {"name":"quo\"te\\","type":"counter","value":1,"tags":{"ke\"y":"v\n\u0001é` + "\u2028" + `</script>"}}
`
	t.Run(Hosted, func(t *testing.T) {
		sheet := newSheet(498)
		renderAll(t, fluxOf(Hosted), sheet, fill(t))
		wantText(t, text(sheet), strings.TrimSpace(numbers)+strings.TrimRight(rest, "\n")+`
lane 2
4/3 {"name":"user","type":"set","value":"al","tags":{}}
4/0 {"name":"user","type":"set","value":"bob","tags":{}}`)
	})
	t.Run(SelfHosted, func(t *testing.T) {
		sheet := newSheet(498)
		renderAll(t, fluxOf(SelfHosted), sheet, fill(t))
		wantText(t, text(sheet), strings.TrimSpace(numbers)+
			"\n4/3 {\"name\":\"user.unique\",\"type\":\"gauge\",\"value\":2,\"tags\":{}}"+rest)
	})
}

func TestHelloAndMarkerGolden(t *testing.T) {
	f, sheet := fluxOf(""), newSheet(498)
	f.Hello(sheet, t0)
	b := sheet.batches[0]
	b.Seq, b.Sealed = 130, t0.Add(1500*time.Millisecond).In(time.FixedZone("east", 7200))
	f.Finish(b)
	want := `{"metrics":[` +
		`{"name":"sluice.up","type":"gauge","value":1,"timestamp":"2026-01-01T12:00:00.000Z","tags":{"agent":"00c0ffee00c0ffee"}},` +
		`{"name":"sluice.delivery","type":"gauge","value":130,"timestamp":"2026-01-01T12:00:01.500Z","tags":{"agent":"00c0ffee00c0ffee","slot":"2"}}]}`
	if got := string(b.Body); got != want {
		t.Errorf("body = %s\nwant %s", got, want)
	}
	req, err := f.Request(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := req.Header.Get("Sluice-Batch"), "00c0ffee00c0ffee-0123456789abcdef-130"; got != want {
		t.Errorf("Sluice-Batch = %q, want %q", got, want)
	}
	if req.GetBody != nil || req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != "" {
		t.Error("the request can be repeated by the HTTP library")
	}
	b.Dialect = Hosted
	look, err := f.Look(b)
	if err != nil {
		t.Fatal(err)
	}
	wantURL := "http://flux.test/api/v1/metrics/sluice.delivery/query?aggregation=max&from=2026-01-01T12%3A00%3A00.000Z&interval=1m" +
		"&tags%5Bagent%5D=00c0ffee00c0ffee&tags%5Bslot%5D=2&to=2026-01-01T12%3A01%3A00.000Z"
	if got := look.URL.String(); got != wantURL {
		t.Errorf("Look = %s\nwant   %s", got, wantURL)
	}
	f.options.RequestsPerMinute = 600
	if got, want := f.slot(b), "130"; got != want {
		t.Errorf("slot of batch 130 at 600 requests a minute = %s, want %s", got, want)
	}
}

// What nobody can be asked about is not asked about.
func TestLookWhereNothingCanBeConcluded(t *testing.T) {
	f := fluxOf(Hosted)
	for _, b := range []spool.Batch{
		{Seq: 1, URL: f.options.URL}, {Seq: 1, URL: "http://other.test", Dialect: Hosted}, {Seq: 1, URL: "http://other.test", Dialect: SelfHosted},
	} {
		if req, err := f.Look(&b); req != nil || err != nil {
			t.Errorf("Look(%+v) = %v, %v, want nothing", b, req, err)
		}
	}
}

// The self-hosted server tells the last point of a series. A later batch of the
// same slot hides an earlier one: then nothing can be concluded.
func TestFoundSelfHosted(t *testing.T) {
	f, b := fluxOf(SelfHosted), &spool.Batch{Seq: 130, Lane: spool.Metrics, Body: []byte(fluxHead + "{}"), Items: []spool.Item{{Len: 2}}}
	f.Finish(b)
	look, err := f.Look(b)
	want := "http://flux.test/api/v1/metrics/last?name=sluice.delivery&query=%7B%22agent%22%3A%2200c0ffee00c0ffee%22%2C%22slot%22%3A%22130%22%7D"
	if err != nil || look.URL.String() != want {
		t.Errorf("Look = %v, %v, want %s", look.URL, err, want)
	}
	for answer, want := range map[string]finding{
		`{"timestamp":"2026-01-01T12:00:00Z","value":130}`: present,
		`{"timestamp":"2026-01-01T12:00:00Z","value":66}`:  absent,
		`{"timestamp":null,"value":null}`:                  absent,
		`{"timestamp":"2026-01-01T12:00:00Z","value":194}`: unreadable,
		`{"timestamp":"2026-01-01T12:00:00Z"}`:             unreadable,
		`{"value":"130"}`:                                  unreadable,
		`{}`:                                               unreadable,
		`[]`:                                               unreadable,
		`<html>`:                                           unanswered,
	} {
		if got := f.Found(b, outcome{status: 200, body: []byte(answer)}); got != want {
			t.Errorf("Found(%s) = %s, want %s", answer, got, want)
		}
	}
	if got := f.Found(b, outcome{status: 404, body: []byte(`{}`)}); got != unreadable {
		t.Errorf("Found(status 404) = %s, want unreadable: the server has no such query", got)
	}
}

func TestFound(t *testing.T) {
	f, b := fluxOf(Hosted), &spool.Batch{Seq: 130, Dialect: Hosted}
	for answer, want := range map[string]finding{
		`{"data":{"series":[{"timestamp":"2026-01-01T12:00:00Z","value":130}]}}`: present,
		`{"data":{"series":[{"value":66},{"value":130}]}}`:                       present,
		`{"data":{"series":[{"value":66}]}}`:                                     absent,
		`{"data":{"series":[{"value":194}]}}`:                                    unreadable, // hidden
		`{"data":{"series":[{"value":194},{"value":130}]}}`:                      present,
		`{"data":{"series":[{"value":null}]}}`:                                   absent,
		`{"data":{"series":[]}}`:                                                 absent,
		`{"data":{}}`:                                                            unreadable,
		`{"data":[]}`:                                                            unreadable,
		`{}`:                                                                     unreadable,
		`[]`:                                                                     unreadable,
		``:                                                                       unanswered,
		`<html>`:                                                                 unanswered,
		`{"data":{"series":[{"value":130`:                                        unanswered,
	} {
		if got := f.Found(b, outcome{status: 200, body: []byte(answer)}); got != want {
			t.Errorf("Found(%s) = %s, want %s", answer, got, want)
		}
	}
	for status, want := range map[int]finding{
		301: unanswered, 302: unanswered, 400: unreadable, 401: unreadable, 403: unreadable, 404: undefined,
		408: unanswered, 410: unreadable, 429: unanswered, 500: unanswered, 503: unanswered, 530: unanswered,
	} {
		if got := f.Found(b, outcome{status: status, body: []byte(`{}`)}); got != want {
			t.Errorf("Found(status %d) = %s, want %s", status, got, want)
		}
		if want == undefined {
			want = unreadable // the list itself
		}
		if got := f.Listed(outcome{status: status, body: []byte(`{}`)}); got != want {
			t.Errorf("Listed(status %d) = %s, want %s", status, got, want)
		}
	}
	if got := f.Listed(outcome{status: 200, body: []byte(`{"data":[]}`)}); got != absent {
		t.Errorf("Listed(200) = %s, want absent", got)
	}
}

// A set over the limit of exact members is an estimate, upstream a gauge.
func TestRenderLargeSets(t *testing.T) {
	s := newSource(t, t0)
	for i := range 1200 {
		s.member(t0, "many", "", fmt.Sprint("m", i))
	}
	for i := range 10_001 {
		s.member(t0, "most", "", fmt.Sprint("m", i))
	}
	sheet := newSheet(498)
	renderAll(t, fluxOf(Hosted), sheet, s)
	members, samples := 0, uint64(0)
	for _, b := range sheet.batches {
		if b.Lane == spool.Sets {
			members += len(b.Items)
		} else if got := len(b.Items); got != 1 || !strings.Contains(string(b.Body), `"most.unique","type":"gauge"`) {
			t.Errorf("%d items in %s, want one gauge most.unique", got, b.Body)
		}
		for _, i := range b.Items {
			samples += i.Samples
		}
	}
	if members != 1200 || len(sheet.batches) != 4 || samples != 11_201 {
		t.Errorf("%d members in %d batches with %d samples, want 1200 in 3 and one more, with 11201", members, len(sheet.batches), samples)
	}
}

func TestNames(t *testing.T) {
	n := names{uses: make(map[string]use)}
	long := strings.Repeat("é", 127) + "x" // 255 bytes
	longSum := shorten(long, ".sum")
	for _, tt := range []struct {
		base, suffix string
		typ          aggregator.Kind
		kind         string
		want         string
	}{
		{"a", "", aggregator.Counter, "counter", "a"},
		{"a", "", aggregator.Counter, "counter", "a"},
		{"a", "", aggregator.Gauge, "gauge", "a.gauge"},
		{"a", "", aggregator.Distribution, "distribution", "a.distribution"},
		{"a", ".count", aggregator.Counter, "distribution", "a.count"},
		{"a", ".count", aggregator.Counter, "distribution", "a.count"},
		{"a.count", "", aggregator.Counter, "counter", "a.count.counter"}, // a client's own
		{"b.max", "", aggregator.Gauge, "gauge", "b.max"},
		{"b", ".max", aggregator.Gauge, "distribution", "b.distribution.max"},
		{"b", ".unique", aggregator.Gauge, "set", "b.unique"},
		{"c", "", aggregator.Counter, "counter", "c"},
		{"c.gauge", "", aggregator.Counter, "counter", "c.gauge"},
		{"c.gauge.gauge", "", aggregator.Counter, "counter", "c.gauge.gauge"},
		{"c", "", aggregator.Gauge, "gauge", "c.gauge.gauge.gauge"},
		{"c.gauge.gauge.gauge", "", aggregator.Counter, "counter", "c.gauge.gauge.gauge.counter"},
		{long, "", aggregator.Gauge, "gauge", long},
		{long, ".sum", aggregator.Counter, "distribution", longSum},
	} {
		if got := n.claim(tt.base, tt.suffix, tt.typ, tt.kind); got != tt.want {
			t.Errorf("claim(%q, %q, %s) = %q, want %q", tt.base, tt.suffix, tt.typ, got, tt.want)
		}
	}
	if len(longSum) > maxName || !utf8.ValidString(longSum) || !strings.HasSuffix(longSum, ".sum") {
		t.Errorf("shorten = %q, %d bytes", longSum, len(longSum))
	}
	if other := shorten(strings.Repeat("é", 127)+"y", ".sum"); other == longSum {
		t.Error("two long names became one")
	}
	n.keep()
	n.claim("d", "", aggregator.Gauge, "gauge")
	n.forget()
	if got := n.claim("d", "", aggregator.Counter, "counter"); got != "d" {
		t.Errorf("claim after forget = %q, want d", got)
	}
	if got := n.claim("a", "", aggregator.Gauge, "gauge"); got != "a.gauge" {
		t.Errorf("claim after keep = %q, want a.gauge", got)
	}
}

// Names that were claimed are known after a restart.
func TestNamesAreRemembered(t *testing.T) {
	simulateNames := func(t *testing.T, r *rig) {
		r.count(time.Now(), "x", "", 1)
		r.next()
		r.run(time.Minute)
		r.restart()
		r.gauge(time.Now(), "x", "", 5)
		r.measure(time.Now(), "x", "", 5, 1)
		r.next()
		r.run(time.Minute)
		r.settled()
		for name, want := range map[string]string{"x": "counter", "x.gauge": "gauge", "x.distribution": "distribution"} {
			rows := r.flux.RowsOf(name)
			if len(rows) != 1 || rows[0].Type != want {
				t.Errorf("rows of %s = %+v, want one %s", name, rows, want)
			}
		}
	}
	simulate(t, testOptions(), fluxtest.Options{}, simulateNames)
}

// A series that did not fit is taken back without a trace.
func TestSheetBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Sheet{maxItems: rapid.IntRange(1, 5).Draw(t, "items"), maxBody: rapid.IntRange(20, 200).Draw(t, "body"), head: "[", events: "["}
		put := func(label string) {
			s.begin(aggregator.Counter, 1)
			for range rapid.IntRange(0, 12).Draw(t, label) {
				item := strings.Repeat("x", rapid.IntRange(1, 60).Draw(t, "length"))
				s.Item(spool.Lane(rapid.IntRange(1, 3).Draw(t, "lane")), func(dst []byte) []byte { return append(dst, item...) })
			}
		}
		state := func() string {
			var b strings.Builder
			for i, batch := range s.batches {
				fmt.Fprintf(&b, "%d %d %q %v\n", i, batch.Lane, batch.Body, batch.Items)
			}
			for lane, batch := range s.open {
				fmt.Fprintf(&b, "%d %d\n", lane, slices.Index(s.batches, batch))
			}
			return b.String()
		}
		for range rapid.IntRange(0, 5).Draw(t, "series before") {
			put("before")
		}
		m, before := s.mark(), state()
		put("taken back")
		s.back(m)
		if got := state(); got != before {
			t.Fatalf("after back\n%s\nwant\n%s", got, before)
		}
		put("after")
		checkSheet(t, s)
	})
}

// checkSheet demands that the items are what the bodies consist of.
func checkSheet(t interface{ Errorf(string, ...any) }, s *Sheet) {
	for _, b := range s.batches {
		want := s.head
		for i, item := range b.Items {
			if i > 0 {
				want += ","
			}
			want += string(b.Body[item.Off : item.Off+item.Len])
		}
		if string(b.Body) != want {
			t.Errorf("body %q is not its items %q", b.Body, want)
		}
		if len(b.Items) > s.maxItems || len(b.Items) > 1 && len(b.Body) > s.maxBody {
			t.Errorf("%d items in %d bytes, want at most %d in %d", len(b.Items), len(b.Body), s.maxItems, s.maxBody)
		}
	}
}

// Whatever names, tags and values are: batches are valid JSON of finite
// numbers, short enough, and their items cut them up exactly and carry all samples.
func FuzzRender(f *testing.F) {
	f.Add("name", "k:v,l:w", "member", 1.5, uint8(9), uint16(50), true)
	f.Add("\x00\"\\\xff\u2028", "\n:\t,:x,\xc3:\xed\xa0\x80", "\x1b</", -1e308, uint8(255), uint16(700), false)
	f.Add("x", "", "", 5e-324, uint8(0), uint16(1), true)
	f.Fuzz(func(t *testing.T, name, tags, member string, value float64, kindBits uint8, n uint16, hosted bool) {
		if name == "" || len(name) > aggregator.MaxName || math.IsNaN(value) || math.IsInf(value, 0) {
			return
		}
		s := newSource(t, t0)
		want := uint64(0)
		put := func(sample aggregator.Sample) {
			sample.Head, sample.Tags = []byte(name), []byte(tags)
			s.intake.Add(t0.UnixNano(), []aggregator.Sample{sample})
			if sample.Refused == aggregator.Taken {
				want++
			}
		}
		for i := range int(n%1000) + 1 {
			v := value * float64(i%7)
			if math.IsInf(v, 0) {
				v = value
			}
			switch (int(kindBits) + i) % 5 {
			case 0:
				put(aggregator.Sample{Kind: aggregator.Counter, Value: v})
			case 1:
				put(aggregator.Sample{Kind: aggregator.Gauge, Value: v})
			case 2:
				put(aggregator.Sample{Kind: aggregator.Set, Member: fmt.Append([]byte(member), i)})
			default:
				put(aggregator.Sample{Kind: aggregator.Distribution, Value: v, Weight: 1 + float64(kindBits)})
			}
		}
		dialect := SelfHosted
		if hosted {
			dialect = Hosted
		}
		fl, sheet := fluxOf(dialect), newSheet(98)
		renderAll(t, fl, sheet, s)
		checkSheet(t, sheet)
		got := uint64(0)
		for i, b := range sheet.batches {
			b.Seq, b.Sealed = uint64(i+1), t0
			fl.Finish(b)
			got += checkBatch(t, b, hosted)
			if len(b.Items) > 99 {
				t.Errorf("%d items, want at most 99", len(b.Items))
			}
		}
		if got != want {
			t.Errorf("items carry %d samples, want %d", got, want)
		}
	})
}

// checkBatch demands that a finished batch is what the upstream takes, and
// answers the samples on it.
func checkBatch(t *testing.T, b *spool.Batch, hosted bool) (samples uint64) {
	t.Helper()
	var body struct{ Metrics []json.RawMessage }
	if err := json.Unmarshal(b.Body, &body); err != nil || !utf8.Valid(b.Body) {
		t.Fatalf("%v in %q", err, b.Body)
	}
	if len(body.Metrics) != len(b.Items) {
		t.Fatalf("%d metrics, %d items", len(body.Metrics), len(b.Items))
	}
	for i, item := range b.Items {
		samples += item.Samples
		if got, want := string(b.Body[item.Off:item.Off+item.Len]), string(body.Metrics[i]); got != want {
			t.Errorf("item %d is cut out as %q, is %q", i, got, want)
		}
		var m struct {
			Name, Type, Timestamp string
			Value                 any
			Tags                  map[string]string
		}
		if err := json.Unmarshal(body.Metrics[i], &m); err != nil {
			t.Fatalf("%v in %s", err, body.Metrics[i])
		}
		if _, number := m.Value.(float64); number == (m.Type == "set") {
			t.Errorf("%s with the value %v", m.Type, m.Value)
		}
		if m.Type == "set" && (!hosted || b.Lane != spool.Sets) {
			t.Errorf("a string in lane %d, hosted %v: %s", b.Lane, hosted, body.Metrics[i])
		}
		if m.Name == "" || m.Tags == nil || m.Timestamp != "2026-01-01T12:00:00.000Z" {
			t.Errorf("item %s", body.Metrics[i])
		}
	}
	return samples
}

// Parts of a batch have its items, and nothing else but their own marker.
func TestPart(t *testing.T) {
	s := newSource(t, t0)
	for i := range 9 {
		s.count(t0, fmt.Sprint("c", i), "", int64(i))
		s.gauge(t0, fmt.Sprint("g", i), "", float64(i))
	}
	f, sheet := fluxOf(Hosted), newSheet(498)
	renderAll(t, f, sheet, s)
	b := sheet.batches[0]
	b.Seq, b.Sealed = 1, t0
	f.Finish(b)
	gauges := part(f, b, func(_ int, i spool.Item) bool { return i.Kind == uint8(aggregator.Gauge) })
	gauges.Seq, gauges.Sealed = 2, t0
	f.Finish(gauges)
	if got := checkBatch(t, gauges, true); got != 9 || len(gauges.Items) != 10 {
		t.Errorf("part has %d samples on %d items, want 9 on 9 and a marker", got, len(gauges.Items))
	}
	if got := strings.Count(string(gauges.Body), fluxMarker); got != 1 {
		t.Errorf("part has %d markers, want 1", got)
	}
	if got := part(f, b, func(int, spool.Item) bool { return false }); got != nil {
		t.Errorf("part of nothing = %+v, want nil", got)
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		glob, name string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "a.b", true},
		{"a*", "a", true}, {"a*c", "abc", true}, {"a*c", "abcd", false}, {"a*b*c", "axxbyybzzc", true}, {"?", "a", true},
		{"?", "", false}, {"a.?", "a.b", true}, {"*.secret", "x.y.secret", true}, {"*.secret", "secret", false},
		{"**a", "bba", true}, {"a[b]", "a[b]", true}, {"a[b]", "ab", false}, {strings.Repeat("*a", 30), strings.Repeat("a", 29), false},
	} {
		if got := aggregator.Match(tt.glob, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.glob, tt.name, got, tt.want)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	for _, k := range []aggregator.Kind{aggregator.Counter, aggregator.Gauge, aggregator.Distribution, aggregator.Set} {
		s := newSource(b, t0)
		for i := range 200 {
			switch k {
			case aggregator.Counter:
				s.count(t0, "http.requests", "route:/api,method:get,status:200", int64(i))
			case aggregator.Gauge:
				s.gauge(t0, "http.requests", "route:/api,method:get,status:200", float64(i))
			case aggregator.Distribution:
				s.measure(t0, "http.requests", "route:/api,method:get,status:200", float64(i), 1)
			case aggregator.Set:
				s.member(t0, "http.requests", "route:/api,method:get,status:200", fmt.Sprint("user-", i))
			}
		}
		for series, v := range aggregator.Merge(1000, nil, s.reader()).All() {
			b.Run(k.String(), func(b *testing.B) {
				f, sheet := fluxOf(Hosted), newSheet(498)
				items := 0
				b.ReportAllocs()
				for b.Loop() {
					sheet.batches, sheet.open = sheet.batches[:0], [fills]*spool.Batch{}
					sheet.begin(k, 1)
					f.Render(sheet, &Bucket{At: t0, Rung: rung{points: fewPoints}}, series, v)
					items = sheet.items
				}
				b.ReportMetric(float64(items), "items/op")
			})
		}
	}
}

func BenchmarkFinish(b *testing.B) {
	f := fluxOf(Hosted)
	body := []byte(fluxHead + strings.Repeat("x", 80_000))
	batch := &spool.Batch{Sealed: t0, Seq: 1}
	b.ReportAllocs()
	for b.Loop() {
		batch.Body, batch.Items = body, batch.Items[:0]
		f.Finish(batch)
	}
}

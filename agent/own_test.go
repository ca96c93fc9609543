package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/forwarder"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// TestOwnMetrics: turned on, an agent's own figures reach the upstream, with its tag and
// those of the configuration, past rules, and the books balance; turned off, nothing does.
func TestOwnMetrics(t *testing.T) {
	t.Parallel() // it mostly waits
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	d := start(t, setup{Flux: flux.URL, Limits: `own_metrics: true, tags: {env: own}, rules: [{match: "*", drop_tags: ["agent", "upstream"], name: "renamed"}]`})
	d.until("the own metrics have arrived", func() bool { return len(flux.RowsOf("sluice.upstream.ok")) > 0 })
	for _, name := range []string{"sluice.upstream.ok", "sluice.uptime_seconds", "sluice.conservation_error"} {
		if rows := flux.RowsOf(name, "env:own"); len(rows) == 0 || len(rows[0].Tags["agent"]) != 16 {
			t.Errorf("%s: %+v, want one with the tag env:own, and the agent's identity", name, rows)
		}
	}
	if got := d.metric("sluice_own_metrics"); got == "sluice_own_metrics 0\n" {
		t.Errorf("%s", got)
	}
	d.delivered()
	d.balanced()

	quiet := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	d = start(t, setup{Flux: quiet.URL})
	d.send(d.dial("udp"), "own.other:1|c")
	d.taken(1)
	d.delivered()
	if n := len(quiet.RowsOf("sluice.uptime_seconds")); n != 0 || d.metric("sluice_own_metrics") != "sluice_own_metrics 0\n" {
		t.Errorf("%d own metrics upstream, and %s, without being asked for", n, d.metric("sluice_own_metrics"))
	}
}

// ownTold closes the open window, and gives what own figures it had.
func ownTold(t *testing.T, a *agent) map[string]float64 {
	t.Helper()
	figures := make(map[string]float64)
	for _, w := range a.aggregator.Rotate(time.Now()) {
		var parts [][]byte
		for p := range w.Parts() {
			parts = append(parts, append([]byte(nil), p...))
		}
		reader, err := aggregator.OpenReader(parts...)
		if err != nil {
			t.Fatal(err)
		}
		for series, v := range aggregator.Merge(1<<30, nil, reader).All() {
			name := series.Name()
			for k, v := range series.Tags() {
				if k == "reason" {
					name += " " + v
				}
			}
			if !strings.HasPrefix(name, "sluice.") {
				continue
			}
			if v.Kind() == aggregator.Counter {
				figures[name] += v.Total()
			} else {
				figures[name] += v.Last()
			}
		}
		w.Release()
	}
	return figures
}

// TestOwnMinutes: a minute has one report; counters are what was counted in it, and
// what had no room is not lost but comes with the next.
func TestOwnMinutes(t *testing.T) {
	s := setup{Dir: t.TempDir(), Limits: "own_metrics: true"}
	cfg, err := configs.Parse("test.yaml", []byte(s.yaml()), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent("", cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	a.commit(a.first) // sockets are read; nothing closes windows but this test
	defer func() { end(a.now().sockets) }()
	a.own.before = make(map[ownKey]uint64)
	conn, err := net.Dial("udp", a.now().sockets[0].packet.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(lines uint64, text string) {
		t.Helper()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			got := uint64(0)
			for _, l := range a.listenerStats() {
				got += l.Samples
				for _, n := range l.Rejected() {
					got += n
				}
			}
			if got >= lines {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d lines are counted, want %d", got, lines)
			}
		}
	}
	told := func() map[string]float64 { t.Helper(); return ownTold(t, a) }
	minute := time.Now().Truncate(time.Minute)
	a.tellOwn(minute)
	if got := told(); len(got) != 0 {
		t.Errorf("before there is a spool, so an identity: %v", got)
	}
	if err := a.spool.Attach(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	defer a.spool.Close()
	send(3, "own.a:1|c\nown.a:1|c\nbad\n")
	a.tellOwn(minute)
	got := told()
	if got["sluice.samples"] != 2 || got["sluice.rejected malformed_line"] != 1 || got["sluice.healthy"] != 1 || len(got) != 9 {
		t.Errorf("the first minute: %v, want 2 samples, 1 malformed line, and 7 gauges", got)
	}
	a.tellOwn(minute.Add(59 * time.Second))
	if got := told(); len(got) != 0 {
		t.Errorf("a second time in a minute: %v", got)
	}

	a.mu.Lock() // an upstream that takes little; it is not delivered to
	a.config.Upstreams = []configs.Upstream{{RequestsPerMinute: 1, ItemsPerRequest: 1}}
	a.mu.Unlock()
	tags := ""
	for i := range 101 {
		tags += fmt.Sprintf("t%d,", i)
	}
	send(19, "own.a:1|c\nbad\n:1|c\nsluice.x:1|c\na:1|x\na:x|c\na:inf|g\na:1|c|@0\na:1|c|Tx\n"+strings.Repeat("n", 300)+":1|c\n"+
		"a:1|c|#"+tags+"\ndatadog.dogstatsd.client.x:1|c\n_e{bad\n_sc|bad\na:1|c|T1\na:1|c|T9999999999\n")
	all := 0.0
	for i, want := range []int{ownLeast, 7 + 3} {
		a.tellOwn(minute.Add(time.Duration(i+1) * time.Minute))
		got := told()
		for name, n := range got {
			if strings.HasPrefix(name, "sluice.rejected") {
				all += n
			}
		}
		if left := a.own.left.Load(); len(got) != want || left != int64(3-3*i) {
			t.Errorf("minute %d has %d figures, %d left out, want %d, %d: %v", i+1, len(got), left, want, 3-3*i, got)
		}
	}
	if all != 15 {
		t.Errorf("%v rejected lines were told of, want all 15", all)
	}

	a.mu.Lock()
	a.config.Aggregate.OwnMetrics = false
	a.mu.Unlock()
	a.tellOwn(minute.Add(5 * time.Minute))
	send(20, "bad\n")
	a.mu.Lock()
	a.config.Aggregate.OwnMetrics = true
	a.mu.Unlock()
	a.tellOwn(minute.Add(6 * time.Minute))
	if got := told(); got["sluice.rejected malformed_line"] != 0 || len(got) != 7 {
		t.Errorf("turned on again: %v, want gauges alone", got)
	}
}

// TestOwnReload: what listeners and upstreams counted is told once, though some of them
// go and come again.
func TestOwnReload(t *testing.T) {
	s := setup{Dir: t.TempDir(), Limits: "own_metrics: true", Listen: "  udp: [\"127.0.0.1:0\", \"localhost:0\"]\n  http: \"127.0.0.1:0\"\n"}
	cfg, err := configs.Parse("test.yaml", []byte(s.yaml()), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent("", cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	a.commit(a.first)
	all := a.now().sockets
	defer end(all)
	if err := a.spool.Attach(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	defer a.spool.Close()
	a.own.before = make(map[ownKey]uint64)
	bad := func(s *socket, lines uint64) {
		t.Helper()
		conn, err := net.Dial("udp", s.packet.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		refused := func() uint64 { return s.packet.Stats().Refused[aggregator.MalformedLine] }
		before := refused()
		if _, err := conn.Write([]byte(strings.Repeat("bad\n", int(lines)))); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(patience); refused() < before+lines; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d lines are refused, want %d", refused(), before+lines)
			}
		}
	}
	web := func() { // a request that is refused
		a.routes.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/v1/metrics", strings.NewReader("{")))
	}
	box := a.spool.Outbox("up")
	drop := func(n uint64) {
		t.Helper()
		if err := box.Update(func(tx *spool.Tx) error { tx.Dropped("spool_full", [spool.Kinds]uint64{1: n}); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	upstream := func() *delivery { return newDelivery(forwarder.Options{Name: "up", Type: "flux"}, a.spool, nil) } // it does not run
	packets, http, up := ofKind(all, true), ofKind(all, false)[0], upstream()
	minute := time.Now().Truncate(time.Minute)
	for i, step := range []struct {
		name       string
		sockets    []*socket
		deliveries []*delivery
		first      int // lines refused by the first socket of those, if it reads packets
		web        bool
		dropped    uint64

		lines, requests, drops float64 // told
	}{
		{"the first", all, nil, 10, true, 40, 10, 1, 0},
		{"a listener, another", all, nil, 1, false, 0, 1, 0, 0},
		{"the one with most refusals is gone", []*socket{packets[1], http}, nil, 2, false, 0, 2, 0, 0},
		{"no HTTP", []*socket{packets[1]}, nil, 0, true, 0, 0, 1, 0},
		{"HTTP again, and an upstream that has dropped long ago", []*socket{packets[1], http}, []*delivery{up}, 3, false, 0, 3, 0, 0},
		{"it drops", []*socket{packets[1]}, []*delivery{up}, 0, false, 5, 0, 0, 5},
		{"it is gone", []*socket{packets[1]}, nil, 0, false, 6, 0, 0, 0},
		{"it is added again", []*socket{packets[1]}, []*delivery{upstream()}, 0, false, 0, 0, 0, 0},
	} {
		a.mu.Lock()
		a.sockets, a.deliveries = step.sockets, step.deliveries
		a.mu.Unlock()
		if step.first > 0 {
			bad(step.sockets[0], uint64(step.first))
		}
		if step.web {
			web()
		}
		if step.dropped > 0 {
			drop(step.dropped)
		}
		a.tellOwn(minute.Add(time.Duration(i) * time.Minute))
		got, requests := ownTold(t, a), 0.0
		for name, n := range got {
			if reason, ok := strings.CutPrefix(name, "sluice.rejected "); ok && reason != "malformed_line" {
				requests += n
			}
		}
		if lines, drops := got["sluice.rejected malformed_line"], got["sluice.upstream.dropped spool_full"]; lines != step.lines || requests != step.requests || drops != step.drops {
			t.Errorf("%s: told of %v lines, %v requests, %v dropped, want %v, %v, %v: %v", step.name, lines, requests, drops, step.lines, step.requests, step.drops, got)
		}
	}
	a.mu.Lock()
	a.deliveries = nil
	a.mu.Unlock()
}

// TestOwnRoom: the share is that of the smallest upstream.
func TestOwnRoom(t *testing.T) {
	flux := configs.Upstream{RequestsPerMinute: 10, ItemsPerRequest: 499}
	small := configs.Upstream{RequestsPerMinute: 1, ItemsPerRequest: 499}
	for _, c := range []struct {
		of   []configs.Upstream
		want int
	}{{[]configs.Upstream{flux}, 99}, {[]configs.Upstream{flux, small}, ownLeast}} {
		if got := ownRoom(c.of); got != c.want {
			t.Errorf("ownRoom(%v) = %d, want %d", c.of, got, c.want)
		}
	}
}

// TestOwnPage: docs/operations.md lists each of them and no other, with its kind.
func TestOwnPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("own.go")
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t+(gauge|counter)\("([a-z_.]+)"`).FindAllStringSubmatch(string(source), -1) {
		name := m[2]
		if !strings.HasPrefix(name, "sluice.") {
			name = "sluice.upstream." + name
		}
		sent[name] = m[1]
	}
	_, section, _ := strings.Cut(string(page), "## Own metrics upstream")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*) \| (gauge|counter) \|`).FindAllStringSubmatch(section, -1) {
		for _, m := range regexp.MustCompile("`(sluice[a-z_.]+)").FindAllStringSubmatch(row[1], -1) {
			listed[m[1]] = row[2]
		}
	}
	if len(sent) < 15 || !maps.Equal(sent, listed) {
		t.Errorf("docs/operations.md lists %v, and what is sent is %v", listed, sent)
	}
}

package main

import (
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// TestExactTotals sends 200,000 samples of known content the way clients write
// them, over UDP and a Unix socket, and compares what a strict Flux holds
// afterwards with what was sent: every counter, every set, every distribution's
// count and sum, the last value of every gauge, and every refusal by its reason.
func TestExactTotals(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	d := start(t, setup{Flux: flux.URL})

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorkload(seed)
	w.play(t, d, 200_000)

	d.taken(w.samples)
	d.delivered()
	d.balanced()
	s := d.status()
	w.checkIntake(t, &s)
	w.checkFlux(t, flux)
	if got, most := flux.MaxItems(), 499; got > most {
		t.Errorf("a request had %d items, want at most %d", got, most)
	}
	for _, u := range s.Upstreams {
		if got := u.Ledger.sum(func(k up) uint64 { return k.Delivered }); got != w.samples {
			t.Errorf("the ledger has %d samples delivered, want %d: %+v", got, w.samples, u.Ledger)
		}
	}
	t.Logf("%d samples in %d lines and %d datagrams, %d series, %d requests, at most %d items", w.samples, w.lines, w.datagrams,
		len(w.counters)+len(w.gauges)+len(w.dists)+len(w.sets), len(flux.Requests()), flux.MaxItems())
}

// TestRealLimits runs long enough for the upstream's real limits to bind: more
// series than 10 requests of 499 items can carry each second, for longer than a
// minute. In no 60 seconds may there be more than 10 requests, and what has
// arrived by then plus what waits is all there was.
func TestRealLimits(t *testing.T) {
	t.Parallel() // it mostly waits
	if os.Getenv("SLUICE_LONG") == "" {
		t.Skip("takes 75 s; set SLUICE_LONG=1")
	}
	flux := fluxtest.New(t, fluxtest.Options{MaxItems: 499, EnforceRate: true})
	d := start(t, setup{Flux: flux.URL, Rate: 10})
	conn := d.dial("unixgram")
	sent := uint64(0)
	for end := time.Now().Add(75 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for series := 0; series < 1000; series += 100 {
			var b strings.Builder
			for i := range 100 {
				fmt.Fprintf(&b, "limits.count:1|c|#series:%d\n", series+i)
				sent++
			}
			d.send(conn, b.String())
		}
	}
	d.taken(sent)
	d.until("all windows are stored", func() bool { return d.status().Upstreams[0].Ledger.Counter.Windowed == sent })
	d.balanced()
	u := d.status().Upstreams[0]
	if u.Ledger.Counter.Delivered == 0 || u.Pending.Windows+u.Pending.Batches == 0 {
		t.Errorf("%d samples delivered and %d windows waiting; the limits did not bind", u.Ledger.Counter.Delivered, u.Pending.Windows)
	}
	if got := uint64(flux.CounterTotal("limits.count").Float); got != u.Ledger.Counter.Delivered {
		t.Errorf("flux holds %d, the ledger says %d are delivered", got, u.Ledger.Counter.Delivered)
	}
	if got := flux.MaxRequestsIn(time.Minute); got > 10 {
		t.Errorf("%d requests within 60 s, want at most 10", got)
	}
	t.Logf("%d samples sent, %d delivered in %d requests, at most %d in any 60 s", sent, u.Ledger.Counter.Delivered,
		len(flux.Requests()), flux.MaxRequestsIn(time.Minute))
}

// A workload writes lines and remembers what they amount to. Values are small
// multiples of powers of two, so that every sum is exact.
type workload struct {
	random                    *rand.Rand
	samples, lines, datagrams uint64

	counters map[string]*big.Float
	gauges   map[string]float64
	dists    map[string]*summary
	sets     map[string]map[string]bool
	rejected map[string]uint64
	level    int // running value of the gauge that is only changed
}

type summary struct{ count, sum float64 }

func newWorkload(seed uint64) *workload {
	return &workload{
		random:   rand.New(rand.NewPCG(seed, 0)),
		counters: map[string]*big.Float{}, gauges: map[string]float64{}, dists: map[string]*summary{},
		sets: map[string]map[string]bool{}, rejected: map[string]uint64{},
	}
}

// key names a series: name and tags, which must be sorted.
func key(name string, tags map[string]string) string {
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		name += " " + k + ":" + tags[k]
	}
	return name
}

// spell writes a line of a metric in one of the forms that mean the same.
func (w *workload) spell(name, value, typ, section string, tags map[string]string) string {
	keys := slices.Sorted(maps.Keys(tags))
	w.random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	join := func(keys []string, colon, comma string) string {
		var pairs []string
		for _, k := range keys {
			pairs = append(pairs, k+colon+tags[k])
		}
		return strings.Join(pairs, comma)
	}
	switch form := w.random.IntN(6); {
	case len(keys) == 0:
		return name + ":" + value + "|" + typ + section
	case form == 0 && !strings.Contains(value, ":"):
		return name + "," + join(keys, "=", ",") + ":" + value + "|" + typ + section
	case form == 1 && !strings.Contains(value, ":"):
		return name + ";" + join(keys, "=", ";") + ":" + value + "|" + typ + section
	case form == 2:
		return name + ":" + value + "|" + typ + "|#" + join(keys, ":", ",") + section
	case form == 3: // spaces, an empty element, and a key that is corrected later
		return name + ":" + value + "|" + typ + section + "|#" + keys[0] + ":wrong, " + join(keys, ":", " ,") + ","
	case form == 4: // two sections of tags, and one nobody knows
		return name + ":" + value + "|" + typ + "|#" + join(keys[:1], ":", ",") + "|x:y" + section + "|#" + join(keys[1:], ":", ",")
	}
	return name + ":" + value + "|" + typ + section + "|c:ci-3f2a|#" + join(keys, ":", ",") + "|card:low"
}

// rates are written as clients do; each has a weight without a fraction.
var rates = []struct {
	section string
	weight  float64
}{{"", 1}, {"|@0.5", 2}, {"|@0.25", 4}, {"|@1", 1}, {"|@0.125000", 8}, {"|@1.0", 1}}

// line writes one line for a transport and returns it with its number of samples.
func (w *workload) line(via string, now time.Time) (text string, samples int) {
	n := w.random.IntN(100)
	pick := func(prefix string, n int) string { return prefix + strconv.Itoa(w.random.IntN(n)) }
	switch {
	case n < 40:
		return w.counter(via, pick("/r", 64), now)
	case n < 55:
		tags := map[string]string{"via": via, "queue": pick("q", 50)}
		v := float64(w.random.IntN(4000))/4 - 500
		w.gauges[key("e2e.queue", tags)] = v
		return w.spell("e2e.queue", strconv.FormatFloat(v, 'f', -1, 64), "g", "", tags), 1
	case n < 58: // changes: only on one transport, for the order matters
		if via != "udp" {
			return w.malformed()
		}
		by := w.random.IntN(21) - 10
		if w.level == 0 && len(w.gauges) == 0 || by == 0 {
			by = 1
		}
		if _, known := w.gauges["e2e.level"]; !known {
			by = max(by, -by) // a first minus would be a value
		}
		w.level += by
		w.gauges["e2e.level"] = float64(w.level)
		return fmt.Sprintf("e2e.level:%+d|g", by), 1
	case n < 82:
		return w.distribution(via, pick("b", 16))
	case n < 96:
		tags := map[string]string{"via": via, "page": pick("/p", 12)}
		member := "user:" + pick("", 40)
		at := key("e2e.users", tags)
		if w.sets[at] == nil {
			w.sets[at] = map[string]bool{}
		}
		w.sets[at][member] = true
		return w.spell("e2e.users", member, "s", "", tags), 1
	}
	return w.malformed()
}

func (w *workload) counter(via, route string, now time.Time) (string, int) {
	tags := map[string]string{"via": via, "route": route, "method": "GET"}
	rate := rates[w.random.IntN(len(rates))]
	section := rate.section
	switch w.random.IntN(20) {
	case 0:
		section += "|T" + strconv.FormatInt(now.Unix()-120, 10)
	case 1:
		section += "|T" + strconv.FormatInt(now.Unix(), 10)
	}
	values := []float64{float64(w.random.IntN(9) - 1)}
	if w.random.IntN(10) == 0 { // packed, with empty ones between
		values = append(values, 0.5, 3, -0.25)
	}
	at := key("e2e.requests", tags)
	if w.counters[at] == nil {
		w.counters[at] = new(big.Float).SetPrec(200)
	}
	var texts []string
	for _, v := range values {
		texts = append(texts, strconv.FormatFloat(v, 'f', -1, 64))
		w.counters[at].Add(w.counters[at], big.NewFloat(v*rate.weight))
	}
	typ := "c"
	if len(values) == 1 && w.random.IntN(20) == 0 {
		typ = "m"
	}
	return w.spell("e2e.requests", strings.Join(texts, ":"), typ, section, tags), len(values)
}

func (w *workload) distribution(via, bucket string) (string, int) {
	tags := map[string]string{"via": via, "bucket": bucket}
	rate := rates[w.random.IntN(len(rates))]
	at := key("e2e.time", tags)
	if w.dists[at] == nil {
		w.dists[at] = &summary{}
	}
	var texts []string
	for range 1 + w.random.IntN(3)*w.random.IntN(3) {
		v := float64(w.random.IntN(100_000)) / 8
		texts = append(texts, strconv.FormatFloat(v, 'f', -1, 64))
		w.dists[at].count += rate.weight
		w.dists[at].sum += v * rate.weight
	}
	typ := []string{"ms", "h", "d"}[w.random.IntN(3)]
	return w.spell("e2e.time", strings.Join(texts, ":"), typ, rate.section, tags), len(texts)
}

// malformed writes a line that must be refused, each for one reason.
func (w *workload) malformed() (string, int) {
	all := []struct{ line, reason string }{
		{"e2e.bad", "malformed_line"},
		{"e2e.bad|c", "malformed_line"},
		{":1|c", "bad_name"},
		{"e2e.bad:1|kv", "bad_type"},
		{"e2e.bad:1|C", "bad_type"},
		{"e2e.bad:0x10|c", "bad_value"},
		{"e2e.bad:1_000|c", "bad_value"},
		{"e2e.bad:|g", "bad_value"},
		{"e2e.bad:1:x:3|d", "bad_value"},
		{"e2e.bad:NaN|g", "non_finite"},
		{"e2e.bad:-Infinity|d", "non_finite"},
		{"e2e.bad:1|c|@0", "bad_rate"},
		{"e2e.bad:1|c|Tnow", "bad_timestamp"},
		{"sluice.bad:1|c", "reserved_name"},
		{strings.Repeat("n", 256) + ":1|c", "name_too_long"},
		{"datadog.dogstatsd.client.metrics:1|c", "client_telemetry"},
		{"e2e.bad:1|c|T1000000000", "late"},
		{"e2e.bad:1|c|T9000000000", "future"},
	}
	m := all[w.random.IntN(len(all))]
	w.rejected[m.reason]++
	return m.line, 0
}

// play sends at least n samples in datagrams of about 1,400 bytes, in turn over
// both sockets. It waits for the agent before there can be more than the kernel
// keeps for it: what the kernel drops is not this test's subject.
func (w *workload) play(t *testing.T, d *daemon, n uint64) {
	conns := map[string]net.Conn{"udp": d.dial("udp"), "unix": d.dial("unixgram")}
	for round := 1; w.samples < n; round++ {
		if round%20 == 0 {
			d.taken(w.samples)
		}
		for _, via := range []string{"udp", "unix"} {
			for range 25 {
				var packet strings.Builder
				for packet.Len() < 1400 {
					text, samples := w.line(via, time.Now())
					end := []string{"\n", "\n", "\r\n", "\n\n", " \n"}[w.random.IntN(5)]
					packet.WriteString(text + end)
					w.samples += uint64(samples)
					w.lines++
				}
				d.send(conns[via], packet.String())
				w.datagrams++
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// checkIntake compares the agent's own counts with the workload.
func (w *workload) checkIntake(t *testing.T, s *agentStatus) {
	t.Helper()
	rejected, packets, samples := map[string]uint64{}, uint64(0), uint64(0)
	for _, l := range s.Listeners {
		if l.KernelDropped > 0 {
			t.Errorf("the kernel dropped %d datagrams of %s", l.KernelDropped, l.Name)
		}
		packets += l.Packets
		samples += l.Samples
		for reason, n := range l.Rejected {
			rejected[reason] += n
		}
	}
	if packets != w.datagrams || samples != w.samples || s.accepted() != w.samples {
		t.Errorf("read %d packets with %d samples, accepted %d; sent %d with %d", packets, samples, s.accepted(), w.datagrams, w.samples)
	}
	if !maps.Equal(rejected, w.rejected) {
		t.Errorf("rejected %v\nwant     %v", rejected, w.rejected)
	}
}

// checkFlux compares what the fake Flux holds with the workload, series by
// series, and that there is nothing else.
func (w *workload) checkFlux(t *testing.T, flux *fluxtest.Server) {
	t.Helper()
	want := map[string]bool{}
	wantTotal := func(at string, total *big.Float) {
		want["counter "+at] = true
		name, tags := split(at)
		if got := flux.CounterTotal(name, tags...); got.Exact.Cmp(total) != 0 {
			t.Errorf("counter %s = %v, want %v", at, got.Exact, total)
		}
	}
	for at, total := range w.counters {
		wantTotal(at, total)
	}
	for at, s := range w.dists {
		name, tags, _ := strings.Cut(at, " ")
		wantTotal(name+".count "+tags, big.NewFloat(s.count))
		wantTotal(name+".sum "+tags, big.NewFloat(s.sum))
		for _, scalar := range []string{".min", ".max", ".p50", ".p95", ".p99"} {
			want["gauge "+name+scalar+" "+tags] = true
		}
		want["distribution "+at] = true
	}
	for at, v := range w.gauges {
		want["gauge "+at] = true
		name, tags := split(at)
		if got, ok := flux.GaugeLast(name, tags...); !ok || got.Value != v {
			t.Errorf("gauge %s = %v, want %v", at, got.Value, v)
		}
	}
	for at, members := range w.sets {
		want["set "+at] = true
		name, tags := split(at)
		if got, all := flux.SetMembers(name, tags...), slices.Sorted(maps.Keys(members)); !slices.Equal(got, all) {
			t.Errorf("set %s has %d members, want %d", at, len(got), len(all))
		}
	}
	got := map[string]bool{}
	for _, s := range flux.Series() {
		if !strings.HasPrefix(s.Name, "sluice.") {
			got[s.Type+" "+key(s.Name, s.Tags)] = true
		}
	}
	for at := range got {
		if !want[at] {
			t.Errorf("flux has the series %q, which nobody sent", at)
		}
	}
	for at := range want {
		if !got[at] {
			t.Errorf("flux lacks the series %q", at)
		}
	}
}

// split is the reverse of key, in the form that fluxtest takes.
func split(at string) (name string, tags []string) {
	parts := strings.Split(at, " ")
	return parts[0], parts[1:]
}

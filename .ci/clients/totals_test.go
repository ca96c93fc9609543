package clients

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/forwarder/fluxtest"
)

// A series is a metric's identity; tags are sorted, with commas between them.
type series struct{ kind, name, tags string }

func (s series) String() string { return fmt.Sprintf("%s %s{%s}", s.kind, s.name, s.tags) }

// An amount is what a series came to. Which fields count depends on its kind.
type amount struct {
	sum      float64 // counter and distribution; of a gauge the last value
	n        float64 // distribution: how many values
	min, max float64 // distribution
	members  string  // set: sorted, with spaces between them; event: its fields in that way
}

// totals are what a script measured, or what Flux holds. Scripts use values
// whose sums are exact in binary: whole numbers, halves and quarters.
type totals struct {
	of        map[series]*amount
	samples   uint64            // values sent; 0 when the client adds them up itself
	rejected  map[string]uint64 // lines that must be refused, by reason
	telemetry bool              // the client sends metrics about itself, however many
	rounded   bool              // sums are not exact in binary, so their last digits may differ
}

// scalars stand beside the points of a distribution, as the agent's defaults are.
var scalars = []string{"count", "sum", "min", "max", "p50", "p95", "p99"}

func newTotals() *totals {
	return &totals{of: map[series]*amount{}, rejected: map[string]uint64{}}
}

func (t *totals) at(kind, name string, tags []string) *amount {
	tags = slices.Sorted(slices.Values(tags))
	key := series{kind, name, strings.Join(tags, ",")}
	if t.of[key] == nil {
		t.of[key] = new(amount)
	}
	return t.of[key]
}

func (t *totals) count(name string, v float64, tags ...string) {
	t.samples++
	t.at("counter", name, tags).sum += v
}

func (t *totals) gauge(name string, v float64, tags ...string) {
	t.samples++
	t.at("gauge", name, tags).sum = v
}

func (t *totals) change(name string, by float64, tags ...string) {
	t.samples++
	t.at("gauge", name, tags).sum += by
}

// observe adds a value of a distribution, measured at a rate of 1/weight.
func (t *totals) observe(name string, v, weight float64, tags ...string) {
	t.samples++
	a := t.at("distribution", name, tags)
	if a.n == 0 {
		a.min, a.max = v, v
	}
	a.n += weight
	a.sum += v * weight
	a.min, a.max = min(a.min, v), max(a.max, v)
}

func (t *totals) member(name, member string, tags ...string) {
	t.samples++
	a := t.at("set", name, tags)
	all := strings.Fields(a.members)
	if i, found := slices.BinarySearch(all, member); !found {
		a.members = strings.Join(slices.Insert(all, i, member), " ")
	}
}

// happened adds an event or a service check.
func (t *totals) happened(name string, fields []string, tags ...string) {
	t.samples++
	t.at("event", name, tags).event(fields)
}

// read takes what a script has written about what it measured, a line each:
//
//	samples N
//	rejected REASON N
//	telemetry
//	rounded
//	counter NAME TAGS SUM
//	gauge NAME TAGS LAST
//	distribution NAME TAGS COUNT SUM MIN MAX
//	set NAME TAGS MEMBER...
//	event NAME TAGS FIELD=VALUE...
//
// TAGS are key:value with commas between them or a - for none. A space is %20, a newline in a field %0A.
func (t *totals) read(tb testing.TB, text string) {
	tb.Helper()
	for line := range strings.Lines(text) {
		if err := t.readLine(strings.Fields(line)); err != nil {
			tb.Fatalf("the script wrote %q: %v", line, err)
		}
	}
}

func (t *totals) readLine(f []string) error {
	var err error
	number := func(i int) (v float64) {
		if err == nil && i >= len(f) {
			err = fmt.Errorf("it has %d fields", len(f))
		}
		if err == nil {
			v, err = strconv.ParseFloat(f[i], 64)
		}
		return v
	}
	if len(f) == 0 {
		return nil
	}
	switch {
	case f[0] == "samples":
		t.samples += uint64(number(1))
		return err
	case f[0] == "telemetry":
		t.telemetry = true
		return nil
	case f[0] == "rounded":
		t.rounded = true
		return nil
	case len(f) < 3:
		return fmt.Errorf("it has %d fields", len(f))
	case f[0] == "rejected":
		t.rejected[f[1]] += uint64(number(2))
		return err
	}
	var tags []string
	if f[2] != "-" {
		tags = strings.Split(strings.ReplaceAll(f[2], "%20", " "), ",")
	}
	a := t.at(f[0], f[1], tags)
	switch f[0] {
	case "counter", "gauge":
		a.sum = number(3)
	case "distribution":
		a.n, a.sum, a.min, a.max = number(3), number(4), number(5), number(6)
	case "set":
		a.members = strings.Join(slices.Sorted(slices.Values(f[3:])), " ")
	case "event":
		a.event(f[3:])
	default:
		return fmt.Errorf("unknown kind")
	}
	return err
}

// event adds one event. Those of one name and tags are told apart by their fields.
func (a *amount) event(fields []string) {
	a.n++
	slices.Sort(fields)
	a.members = strings.TrimPrefix(a.members+"; "+strings.Join(fields, " "), "; ")
}

// spaces writes what separates fields as URLs do.
var spaces = strings.NewReplacer(" ", "%20", "\n", "%0A")

// fields are the parts of an event, but for its time.
func fields(e fluxtest.Event) []string {
	var all []string
	if e.Value != nil {
		all = append(all, fmt.Sprintf("value=%v", *e.Value))
	}
	for k, v := range e.Properties {
		all = append(all, spaces.Replace(fmt.Sprintf("%s=%v", k, v)))
	}
	for k, v := range e.Fields {
		all = append(all, spaces.Replace(k+"="+v))
	}
	return all
}

// upstream reads what Flux holds, except what the agent says about itself. A
// distribution is known by its points, which are called name.distribution where
// the name is another kind's, too; its scalars are exact, so those count.
func upstream(flux *fluxtest.Server) *totals {
	t := newTotals()
	rows := flux.Rows()
	points := map[[2]string]bool{}
	for _, r := range rows {
		if r.Type == "distribution" {
			points[[2]string{strings.TrimSuffix(r.Name, ".distribution"), tagText(r.Tags)}] = true
		}
	}
	for _, r := range rows {
		if strings.HasPrefix(r.Name, "sluice.") || r.Type == "distribution" {
			continue
		}
		tags := slices.Collect(pairs(r.Tags))
		base, scalar := cutLast(r.Name, ".")
		if slices.Contains(scalars, scalar) && points[[2]string{base, tagText(r.Tags)}] {
			t.scalar(base, scalar, r.Value, tags)
			continue
		}
		switch r.Type {
		case "counter":
			t.count(r.Name, r.Value, tags...)
		case "gauge":
			t.gauge(r.Name, r.Value, tags...)
		case "set":
			t.member(r.Name, r.Member, tags...)
		}
	}
	for _, e := range flux.Events() {
		t.at("event", e.Name, slices.Collect(pairs(e.Tags))).event(fields(e))
	}
	return t
}

// scalar adds one window's scalar of a distribution.
func (t *totals) scalar(name, scalar string, v float64, tags []string) {
	_, known := t.of[series{"distribution", name, strings.Join(slices.Sorted(slices.Values(tags)), ",")}]
	a := t.at("distribution", name, tags)
	if !known {
		a.min, a.max = math.Inf(1), math.Inf(-1)
	}
	switch scalar {
	case "count":
		a.n += v
	case "sum":
		a.sum += v
	case "min":
		a.min = min(a.min, v)
	case "max":
		a.max = max(a.max, v)
	}
}

func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}

func pairs(tags map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k, v := range tags {
			if !yield(k + ":" + v) {
				return
			}
		}
	}
}

func tagText(tags map[string]string) string {
	return strings.Join(slices.Sorted(pairs(tags)), ",")
}

// diff returns a line for each series in which the two are not equal. A name has
// one kind at Flux: the kind seen second is called name.kind there.
func (t *totals) diff(got *totals) []string {
	for key := range got.of {
		plain := series{key.kind, strings.TrimSuffix(key.name, "."+key.kind), key.tags}
		if t.of[key] == nil && t.of[plain] != nil && got.of[plain] == nil {
			got.of[plain] = got.of[key]
			delete(got.of, key)
		}
	}
	all := maps.Clone(t.of)
	maps.Copy(all, got.of)
	var lines []string
	for key := range all {
		w, g := t.of[key], got.of[key]
		switch {
		case w == nil:
			lines = append(lines, fmt.Sprintf("%v was never sent, but is there: %+v", key, *g))
		case g == nil:
			lines = append(lines, fmt.Sprintf("%v is missing: %+v", key, *w))
		case *w != *g && !(t.rounded && w.near(*g)):
			lines = append(lines, fmt.Sprintf("%v = %+v, want %+v", key, *g, *w))
		}
	}
	slices.Sort(lines)
	return lines
}

// near tells whether two amounts differ by no more than the order of additions
// can explain.
func (a amount) near(b amount) bool {
	if math.Abs(a.sum-b.sum) <= 1e-12*math.Abs(a.sum) {
		b.sum = a.sum
	}
	return a == b
}

// String sums totals up in a line.
func (t *totals) String() string {
	n := map[string]int{}
	var counted, values, events float64
	members := 0
	for key, a := range t.of {
		n[key.kind]++
		switch key.kind {
		case "counter":
			counted += a.sum
		case "distribution":
			values += a.n
		case "set":
			members += len(strings.Fields(a.members))
		case "event":
			events += a.n
		}
	}
	s := fmt.Sprintf("%d counters (sum %v), %d gauges, %d distributions (%v values), %d sets (%d members)",
		n["counter"], counted, n["gauge"], n["distribution"], values, n["set"], members)
	if events > 0 {
		s += fmt.Sprintf(", %v events", events)
	}
	for _, reason := range slices.Sorted(maps.Keys(t.rejected)) {
		s += fmt.Sprintf(", %d refused as %s", t.rejected[reason], reason)
	}
	return s
}

// TestDiff: a comparison that finds nothing must be able to find something.
func TestDiff(t *testing.T) {
	want := newTotals()
	want.read(t, "counter a - 3\ngauge b k:v,a:b -1.5\ndistribution c - 2 5 1 4\nset d - x y\nsamples 7\n\n")
	same := newTotals()
	same.count("a", 3)
	same.gauge("b.gauge", -1.5, "a:b", "k:v") // its name is another kind's, too
	same.observe("c", 1, 1)
	same.observe("c", 4, 1)
	same.member("d", "y")
	same.member("d", "x")
	same.member("d", "y")
	if diff := want.diff(same); diff != nil {
		t.Errorf("equal totals differ:\n%s", strings.Join(diff, "\n"))
	}
	other := newTotals()
	other.count("a", 3)
	other.gauge("b", -1.5, "a:b")
	other.observe("c", 1, 5)
	other.member("d", "x")
	for i, part := range []string{"distribution c{} = ", "gauge b{a:b,k:v} is missing", "gauge b{a:b} was never sent", "set d{} = "} {
		if diff := want.diff(other); len(diff) != 4 || !strings.HasPrefix(diff[i], part) {
			t.Errorf("diff = %q, want %q at %d", diff, part, i)
		}
	}
}

package fluxtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTotals(t *testing.T) {
	s := start(t, Options{InProcess: true})
	post(t, s, "/api/v1/metrics/batch", batch(
		row("c", "counter", "9007199254740993", "10:00:00", `{"h":"a","k":"1"}`), // 2^53 + 1
		row("c", "counter", "1", "10:00:00", `{"h":"b"}`),
		row("f", "counter", "0.1", "10:00:00", `{}`), row("f", "counter", "1e22", "10:00:10", `{}`), row("f", "counter", "-1e22", "10:00:20", `{}`),
		row("g", "gauge", "1", "10:00:10", `{"h":"a"}`), row("g", "gauge", "2", "10:00:20", `{"h":"b"}`), row("g", "gauge", "3", "10:00:00", `{"h":"a"}`),
		row("u", "set", `"x"`, "10:00:00", `{"h":"a"}`), row("u", "set", `"y"`, "10:00:00", `{"h":"b"}`), row("u", "set", `"x"`, "10:00:00", `{"h":"b"}`),
		row("d", "distribution", "3", "10:00:00", `{}`), row("d", "distribution", "1", "10:00:00", `{}`)))
	whole, ok := s.CounterTotal("c").Whole()
	if got, want := whole.String(), "9007199254740994"; got != want || !ok {
		t.Errorf("CounterTotal(c).Whole() = %s, %t, want %s", got, ok, want)
	}
	if got, want := s.CounterTotal("c", "h:a", "k:1").Rows, 1; got != want {
		t.Errorf("CounterTotal(c, h:a, k:1).Rows = %d, want %d", got, want)
	}
	f := s.CounterTotal("f") // float64 addition would give 0
	if _, ok := f.Whole(); f.Float != 0.1 || f.Rows != 3 || ok {
		t.Errorf("CounterTotal(f) = %v, want 0.1 from 3 rows, not whole", f)
	}
	if r, ok := s.GaugeLast("g"); !ok || r.Value != 2 {
		t.Errorf("GaugeLast(g) = %v, %t, want 2", r.Value, ok)
	}
	if r, ok := s.GaugeLast("g", "h:a"); !ok || r.Value != 1 {
		t.Errorf("GaugeLast(g, h:a) = %v, %t, want 1: later by timestamp, not by arrival", r.Value, ok)
	}
	if _, ok := s.GaugeLast("c"); ok {
		t.Error("GaugeLast of a counter found something")
	}
	if got, want := s.SetMembers("u"), []string{"x", "y"}; !slices.Equal(got, want) {
		t.Errorf("SetMembers(u) = %v, want %v", got, want)
	}
	if got, want := s.SetMembers("u", "h:a"), []string{"x"}; !slices.Equal(got, want) {
		t.Errorf("SetMembers(u, h:a) = %v, want %v", got, want)
	}
	if got, want := s.Points("d"), []float64{3, 1}; !slices.Equal(got, want) {
		t.Errorf("Points(d) = %v, want %v", got, want)
	}
	var names []string
	for _, sr := range s.Series() {
		names = append(names, strings.ReplaceAll(fmt.Sprintf("%s%v%d", sr.Name, sr.Tags, sr.Rows), "map", ""))
	}
	if got, want := strings.Join(names, " "), "c[h:a k:1]1 c[h:b]1 f[]3 d[]2 g[h:a]2 g[h:b]1 u[h:a]1 u[h:b]2"; got != want {
		t.Errorf("Series() = %s, want %s", got, want)
	}
	if got, want := s.MaxItems(), 13; got != want {
		t.Errorf("MaxItems() = %d, want %d", got, want)
	}
	if r := s.Rows()[1]; r.Request != 1 || r.Index != 1 || r.Literal != "1" {
		t.Errorf("second row %+v, want call 1, index 1, literal 1", r)
	}
}

func TestDuplicates(t *testing.T) {
	s := start(t, Options{InProcess: true})
	c := row("c", "counter", "1", "10:00:00", `{"h":"a"}`)
	post(t, s, "/api/v1/metrics/batch", batch(c, c)) // within one call: not a repetition
	post(t, s, "/api/v1/metrics/batch", batch(row("g", "gauge", "1", "10:00:00", `{}`), row("c", "counter", "1", "10:00:10", `{"h":"a"}`), row("c", "counter", "1", "10:00:00", `{"h":"b"}`)))
	post(t, s, "/api/v1/metrics/batch", batch(row("g", "gauge", "1", "10:00:00", `{}`)))
	if got := s.Duplicates(); len(got) > 0 {
		t.Fatalf("Duplicates() = %v, want none", got)
	}
	post(t, s, "/api/v1/metrics/batch", batch(c))
	ds := s.Duplicates()
	if len(ds) != 1 || ds[0].First.Request != 1 || ds[0].Again.Request != 4 {
		t.Errorf("Duplicates() = %v, want one of calls 1 and 4", ds)
	}
}

func TestKeepRows(t *testing.T) {
	s := start(t, Options{InProcess: true, KeepRows: 2, RequestsPerMinute: -1})
	for i := range 10 {
		post(t, s, "/api/v1/metrics/batch", batch(metric("a", "counter", fmt.Sprint(i)), metric("b", "counter", "1")))
	}
	if got, want := len(s.Rows()), 2; got != want {
		t.Errorf("%d rows kept, want %d", got, want)
	}
	if got, want := s.CounterTotal("a").Float, 45.0; got != want {
		t.Errorf("CounterTotal = %v, want %v", got, want)
	}
	if got := s.RowsOf("a"); len(got) != 1 || got[0].Value != 9 {
		t.Errorf("RowsOf(a) = %v, want the last one", got)
	}
}

// BenchmarkBatch is what a full batch costs the fake, and so how fast a simulation
// can be.
func BenchmarkBatch(b *testing.B) {
	s, err := Start("", Options{InProcess: true, RequestsPerMinute: -1, KeepRows: 1000})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	items := make([]string, 499)
	for i := range items {
		items[i] = metric(fmt.Sprint("m", i), "counter", "1")
	}
	body := batch(items...)
	c := client(s)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		r := newPost(s, body)
		resp, err := c.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sluice/aggregator"
)

func topMetrics() []metricDoc {
	return []metricDoc{
		{Name: "api.time", Kind: "distribution", Series: 10, Rate: 5, Values: 300},
		{Name: "api.requests", Kind: "counter", Series: 50, Rate: 900},
		{Name: "queue", Kind: "gauge", Series: 60, Rate: 6},
		{Name: "api.users", Kind: "set", Series: 1, Rate: 2, Values: 40},
	}
}

func topOf(by, filter string) *topView {
	x := newTopView(by)
	x.width, x.status = 10, new(statusPage)
	x.here().filter = filter
	x.take(topMetrics())
	return x
}

// TestTop: each order has its own first, growth is that since the first look, and a
// filter leaves the others out.
func TestTop(t *testing.T) {
	for by, want := range map[string]string{"items": "api.time", "samples": "api.requests", "series": "queue", "growth": "api.users"} {
		x := topOf(by, "")
		next := topMetrics()
		next[3].Series += 4
		x.take(next)
		if _, rows := x.table(); rows[0].to.name != want {
			t.Errorf("by %s: %s is first, want %s", by, rows[0].to.name, want)
		}
		if by != "growth" {
			continue
		}
		var b bytes.Buffer
		x.plain(context.Background(), nil, &screen{w: &b}, 2, true)
		want := "4 metrics by growth; one item stands for 10s\n" +
			" items/min  samples/s   series   growth  metric\n" +
			"        40        2.0        5       +4  api.users (set)\n" +
			"       300        900       50       +0  api.requests (counter)\n" +
			"and 2 more\n"
		if b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	}
	for filter, want := range map[string]int{"api.*": 3, "api": 3, "e": 4, "*e": 2, "none": 0} {
		if _, rows := topOf("items", filter).table(); len(rows) != want {
			t.Errorf("filter %q: %d metrics, want %d", filter, len(rows), want)
		}
	}
}

// TestTopPress: what keys do, one after another, and where one is then.
func TestTopPress(t *testing.T) {
	x := topOf("items", "")
	tags := &tagsDoc{metricDoc: metricDoc{Name: "api.requests", Kind: "counter", Series: 50, Rate: 9}, Tags: []tagDoc{
		{Key: "id", Values: 2, Without: 1, Top: []tagValueDoc{{Value: "a", Series: 1, Rate: 1}, {Value: "b", Series: 49, Rate: 8}}},
		{Key: "route", Values: 1, Without: 50, Top: []tagValueDoc{{Value: "/", Series: 50, Rate: 9}}},
	}}
	for _, step := range []struct {
		keys string // escape sequences, as a terminal sends them
		want string // the first line, and the row chosen
	}{
		{"", "4 metrics by items; one item stands for 10s|api.time"},
		{"\x1b[B\x1b[B", "4 metrics by items; one item stands for 10s|api.requests"},
		{"\x1b[B\x1b[B\x1b[B\x1b[B", "4 metrics by items; one item stands for 10s|api.users"},
		{"\x1b[A\x1b[5~\x1b[A\x1bOA", "4 metrics by items; one item stands for 10s|api.time"},
		{"o", "4 metrics by samples; one item stands for 10s|api.requests"},
		{"n", "4 metrics by series; one item stands for 10s|queue"},
		{"/api.r\x7f\x7f\x1b[Breq\r", "0 metrics by series; one item stands for 10s|"},
		{"/reqx\x7f\r", "1 metrics by series; one item stands for 10s|api.requests"},
		{"\x1b[99~\x1b[1;5CZ", "1 metrics by series; one item stands for 10s|api.requests"},
		{"\r", "api.requests (counter): 50 series, 9.0 samples/s, 300 items/min|id"},
		{"\x1b[C", "api.requests: the values of id|b"},
		{"jk\x1b[F", "api.requests: the values of id|a"},
		{"\r", "api.requests id:a (counter): 50 series, 9.0 samples/s, 300 items/min|id"},
		{"\r\x1b[F\r", "api.requests id:a (counter): 50 series, 9.0 samples/s, 300 items/min|id"},
		{"\x1b\x1b\x1b", "api.requests: the values of id|a"},
		{"\x1b[D\x1b[D\x1b[D", "1 metrics by series; one item stands for 10s|api.requests"},
		{"/\x1b", "4 metrics by series; one item stands for 10s|queue"},
	} {
		for b := []byte(step.keys); len(b) > 0; {
			key, n := nextKey(b, true)
			if _, quit := x.press(key); quit || n == 0 {
				t.Fatalf("keys %q: quit %v, %d bytes", step.keys, quit, n)
			}
			b = b[n:]
			if x.here().name != "" {
				x.tags = tags
			}
		}
		head, rows := x.table()
		got := head[0] + "|"
		if at := x.here().at; at < len(rows) {
			r := rows[at].to
			last := r.name
			if r.key != "" {
				last = r.key
			} else if x.here().key != "" {
				last = strings.TrimPrefix(r.with[len(r.with)-1], x.here().key+":")
			}
			got += last
		}
		if got != step.want {
			t.Errorf("after %q: %q, want %q", step.keys, got, step.want)
		}
	}
	if _, quit := x.press('q'); !quit {
		t.Error("q does not quit")
	}
}

// TestNextKey: keys that arrive in pieces are put together, and only silence makes
// escape of what could be the beginning of another.
func TestNextKey(t *testing.T) {
	for _, c := range []struct {
		in    string
		quiet bool
		key   rune
		n     int
	}{
		{"", true, 0, 0}, {"a", false, 'a', 1}, {"\x1b", false, 0, 0}, {"\x1b", true, keyEscape, 1}, {"\x1bx", false, keyEscape, 1},
		{"\x1b[", false, 0, 0}, {"\x1b[5", false, 0, 0}, {"\x1b[5~x", false, keyPageUp, 4}, {"\x1b[200~", false, keyUnknown, 6},
		{"\x1b[", true, keyUnknown, 2}, {"é", false, 'é', 2}, {"\xc3", false, 0, 0}, {"\xc3", true, '\uFFFD', 1},
	} {
		if key, n := nextKey([]byte(c.in), c.quiet); key != c.key || n != c.n {
			t.Errorf("nextKey(%q, %v) = %d, %d, want %d, %d", c.in, c.quiet, key, n, c.key, c.n)
		}
	}
}

// TestTopCommand asks a running agent, in a pipe.
func TestTopCommand(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	d.send(d.dial("udp"), "top.a:1|c|#x:1\ntop.a:1|c|#x:2\ntop.b:1|g")
	d.until("the window is closed", func() bool { _, body := d.get("/api/agent/metrics"); return strings.Contains(body, "top.a") })
	stdout, stderr, exit := runCommand(t, t.TempDir(), nil, "", "top", "top.*", "--addr", strings.TrimPrefix(d.http, "http://"))
	if want := "       120        2.0        2       +0  top.a (counter)\n        60        1.0        1       +0  top.b (gauge)\n"; exit != exitDone || stderr != "" || !strings.HasSuffix(stdout, want) {
		t.Errorf("sluice top: exit %d, %s\n%swant at its end\n%s", exit, stderr, stdout, want)
	}
}

// TestTags: a running agent counts the tags of one metric alone, of the series that
// have certain tags, and how many series would be left without a tag.
func TestTags(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	var b strings.Builder
	for i := range 6 {
		fmt.Fprintf(&b, "tags.a:1|c|#id:%d,route:%d\n", i, i%2)
	}
	d.send(d.dial("udp"), b.String()+"tags.a:5|g|#id:9\ntags.a:1|c\ntags.ab:1|c|#id:8\ntags.t:1:2:3|d|#x:y\ntags.a:1|c|#other:z")
	ask := func(query string) (doc tagsDoc) {
		t.Helper()
		d.json("/api/agent/metrics/tags?"+query, &doc)
		return doc
	}
	d.until("the window is stored", func() bool { code, _ := d.get("/api/agent/metrics/tags?name=tags.a&kind=counter"); return code == 200 })
	doc := ask("name=tags.a&kind=counter")
	var got []string
	for _, tag := range doc.Tags {
		got = append(got, fmt.Sprintf("%s %d %d %d", tag.Key, tag.Values, tag.Without, len(tag.Top)))
	}
	if want := []string{"id 6 4 6", "route 2 8 2", "other 1 8 1"}; doc.Series != 8 || doc.Rate != 8 || !slices.Equal(got, want) {
		t.Errorf("%d series, %v samples/s, tags %q, want 8, 8, %q", doc.Series, doc.Rate, got, want)
	}
	if doc = ask("name=tags.a&kind=counter&tag=route:1"); doc.Series != 3 || len(doc.Tags) != 2 || doc.Tags[0].Values != 3 {
		t.Errorf("with route:1: %+v, want 3 series with 3 ids", doc)
	}
	if doc = ask("name=tags.a&kind=counter&tag=route:1&tag=id:3&tag=route:1"); doc.Series != 1 {
		t.Errorf("with route:1, named twice, and id:3: %+v, want 1 series", doc)
	}
	if doc = ask("name=tags.t&kind=distribution"); doc.Series != 1 || doc.Values != 3 || doc.Tags[0].Top[0] != (tagValueDoc{"y", 1, 3, 3}) {
		t.Errorf("of a distribution: %+v, want its 3 values", doc)
	}
	if doc = ask("name=none&kind=counter"); doc.Series != 0 || len(doc.Tags) != 0 {
		t.Errorf("of no metric: %+v", doc)
	}
	for _, query := range []string{"", "name=tags.a", "kind=counter", "name=a&kind=event", "kind=set&name=" + strings.Repeat("x", aggregator.MaxName+1)} {
		if code, body := d.get("/api/agent/metrics/tags?" + query); code != 400 {
			t.Errorf("GET ?%s: status %d, %s, want 400", query, code, body)
		}
	}
}

// TestTagBounds: what is over the bounds of a count is told as such.
func TestTagBounds(t *testing.T) {
	c := tagCount{tags: make(map[string]*tagStats), pairs: maxTagPairs - 2, rests: maxTagRests - 2}
	for i := range 5 {
		c.add(aggregator.NewSeries(aggregator.Counter, "m", aggregator.Tag{Key: "k", Value: fmt.Sprint(i)}), new(aggregator.Value))
	}
	docs := c.list(5, 1)
	if len(docs) != 1 || docs[0].Values != 2 || docs[0].Beyond != 3 || docs[0].Without != 1 {
		t.Errorf("%+v, want 2 values counted, 3 series beyond", docs)
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestTop: each order has its own first, growth is that since the first look, and a
// glob leaves the others out.
func TestTop(t *testing.T) {
	first := func() []metricDoc {
		return []metricDoc{
			{Name: "api.time", Kind: "distribution", Series: 10, Rate: 5, Values: 300},
			{Name: "api.requests", Kind: "counter", Series: 50, Rate: 900},
			{Name: "queue", Kind: "gauge", Series: 60, Rate: 6},
			{Name: "api.users", Kind: "set", Series: 1, Rate: 2, Values: 40},
		}
	}
	for by, want := range map[string]string{"items": "api.time", "samples": "api.requests", "series": "queue", "growth": "api.users"} {
		x := &top{by: by, glob: "*", lines: 2, began: make(map[string]int), width: 10, status: new(statusPage)}
		x.take(first())
		next := first()
		next[3].Series += 4
		x.take(next)
		if got := x.metrics[0].Name; got != want {
			t.Errorf("by %s: %s is first, want %s", by, got, want)
		}
		if by != "growth" {
			continue
		}
		var b bytes.Buffer
		x.show(&screen{w: &b})
		want := "4 metrics by growth; one item stands for 10s\n" +
			" items/min  samples/s   series   growth  metric\n" +
			"        40        2.0        5       +4  api.users (set)\n" +
			"       300        900       50       +0  api.requests (counter)\n" +
			"and 2 more\n"
		if b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	}
	x := &top{by: "items", glob: "api.*", lines: 9, began: make(map[string]int), width: 60, status: new(statusPage)}
	if x.take(first()); len(x.metrics) != 3 {
		t.Errorf("%d metrics are api.*, want 3", len(x.metrics))
	}
}

// TestTopCommand asks a running agent.
func TestTopCommand(t *testing.T) {
	d := start(t, setup{})
	d.send(d.dial("udp"), "top.a:1|c|#x:1\ntop.a:1|c|#x:2\ntop.b:1|g")
	d.until("the window is closed", func() bool { _, body := d.get("/api/agent/metrics"); return strings.Contains(body, "top.a") })
	stdout, stderr, exit := runCommand(t, t.TempDir(), nil, "", "top", "top.*", "--addr", strings.TrimPrefix(d.http, "http://"))
	if want := "       120        2.0        2       +0  top.a (counter)\n        60        1.0        1       +0  top.b (gauge)\n"; exit != exitDone || stderr != "" || !strings.HasSuffix(stdout, want) {
		t.Errorf("sluice top: exit %d, %s\n%swant at its end\n%s", exit, stderr, stdout, want)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/configs"
	"sluice/forwarder"
)

// captured writes a capture of two minutes: a counter of 400 series by request id,
// a gauge, a distribution of 50 values a window, and a set of 30 members, every 10 s.
func captured(t *testing.T, file string) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	start := time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC)
	e.Encode(captureHead{Format: captureFormat, Version: version, Started: start})
	for w := range 12 {
		at := start.Add(time.Duration(w)*10*time.Second + 5*time.Second)
		packet := func(text string) { e.Encode(capturedPacket{At: at, From: "udp:x", Text: text}) }
		for i := range 400 {
			packet(fmt.Sprintf("plan.requests:1|c|#request_id:%d,route:/users", i))
		}
		packet("plan.queue:7|g\nnot a line\n")
		packet("plan.time:" + strings.TrimSuffix(strings.Repeat("1:", 50), ":") + "|d")
		for i := range 30 {
			packet(fmt.Sprintf("plan.users:u%d|s", i))
		}
	}
	e.Encode(captureEnd{Packets: 12 * 432})
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPlanItems: what plan counts is what the forwarder renders of the same traffic:
// a series is an item a window, a distribution its scalars and points, a set its
// members once a minute.
func TestPlanItems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "traffic.json")
	captured(t, file)
	tr, err := newTraffic(configs.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.readFile(file); err != nil {
		t.Fatal(err)
	}
	if tr.minutes() != 2 || len(tr.series) != 403 || tr.refused != 12 {
		t.Errorf("%v minutes, %d series, %d refused, want 2, 403, 12", tr.minutes(), len(tr.series), tr.refused)
	}
	const s = time.Second
	for _, c := range []struct {
		step forwarder.Step
		want float64
	}{
		{forwarder.Step{Width: 10 * s, Points: 100}, 401*6 + 6*(7+50) + 15},
		{forwarder.Step{Width: 10 * s, Points: 20}, 401*6 + 6*(7+20) + 15},
		{forwarder.Step{Width: 60 * s, Points: 20}, 401 + 27 + 15},
		{forwarder.Step{Width: 60 * s}, 401 + 7 + 15},
		{forwarder.Step{Width: 300 * s, Unique: true}, (401 + 7 + 1) / 5.0},
		{forwarder.Step{Width: 3600 * s, Unique: true, Few: true}, (401 + 2 + 1) / 60.0},
	} {
		if got := tr.total(c.step, 7); got < c.want-0.01 || got > c.want+0.01 {
			t.Errorf("%+v: %v items a minute, want %v", c.step, got, c.want)
		}
	}
}

// TestPlanCommand: of a file and of a running agent, what fits and what costs.
func TestPlanCommand(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	file := filepath.Join(dir, "traffic.json")
	captured(t, file)
	config := filepath.Join(dir, "sluice.yaml")
	os.WriteFile(config, []byte("upstreams: [{api_key: k, requests_per_minute: 2}]\nlisten: {http: \"127.0.0.1:1\"}\n"), 0o600)
	stdout, stderr, exit := runCommand(t, dir, nil, "", "plan", file, "--config", config)
	for _, want := range []string{
		"403 series", "12 lines were not taken", "UPSTREAM flux: 996 items a minute", "does not fit",
		"30s     20 points          871 items/min  fits: this is what is sent\n",
		"- plan.requests (counter): 800 items/min, 92 %; 400 series\n",
		"    without the tag request_id (400 values) it has 1 series: drop_tags: [request_id], or classes\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("sluice plan lacks %q", want)
		}
	}
	if exit != exitDone || stderr != "" || t.Failed() {
		t.Errorf("exit %d, stderr %q\n%s", exit, stderr, stdout)
	}
	d := start(t, setup{})
	output, wait := background(t, "plan", "--for", "15s", "--addr", strings.TrimPrefix(d.http, "http://"))
	d.watched(1)
	d.send(d.dial("udp"), "plan.live:1|c")
	if exit := wait(); exit != exitDone || !strings.Contains(output(), "- plan.live (counter): 6 items/min, 100 %; 1 series\n") {
		t.Errorf("sluice plan of live traffic: exit %d\n%s", exit, output())
	}
}

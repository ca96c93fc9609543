package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
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
	if len(tr.series) != 403 || tr.refused != 12 {
		t.Errorf("%d series, %d refused, want 403, 12", len(tr.series), tr.refused)
	}
	const s = time.Second
	for _, c := range []struct {
		step forwarder.Step
		want float64
	}{
		{forwarder.Step{Width: 10 * s, Points: 100}, 401*6 + 6*(7+50) + 30},
		{forwarder.Step{Width: 10 * s, Points: 20}, 401*6 + 6*(7+20) + 30},
		{forwarder.Step{Width: 60 * s, Points: 20}, 401 + 27 + 30},
		{forwarder.Step{Width: 60 * s}, 401 + 7 + 30},
		{forwarder.Step{Width: 300 * s, Unique: true}, (401 + 7 + 1) / 5.0},
		{forwarder.Step{Width: 3600 * s, Unique: true, Few: true}, (401 + 2 + 1) / 60.0},
	} {
		if got := tr.total(c.step, 7); got < c.want-0.01 || got > c.want+0.01 {
			t.Errorf("%+v: %v items a minute, want %v", c.step, got, c.want)
		}
	}
}

// TestPlanOfAnyMinute: what traffic costs depends neither on where in a minute it begins,
// nor on how much of it was seen.
func TestPlanOfAnyMinute(t *testing.T) {
	const second = time.Second
	steps := map[forwarder.Step][3]float64{ // items a minute of a counter, a distribution and a set
		{Width: 10 * second, Points: 100}:               {6, 6 * (7 + 10), 5},
		{Width: 30 * second, Points: 20}:                {2, 2 * (7 + 20), 5},
		{Width: 60 * second, Points: 20}:                {1, 7 + 20, 5},
		{Width: 60 * second, Points: 90}:                {1, 7 + 60, 5},
		{Width: 300 * second, Unique: true}:             {0.2, 1.4, 0.2},
		{Width: 3600 * second, Unique: true, Few: true}: {1 / 60.0, 2 / 60.0, 1 / 60.0},
	}
	for _, begins := range []time.Duration{0, 10 * second, 40 * second, 50 * second} {
		for _, takes := range []time.Duration{30 * second, 60 * second, 70 * second, 120 * second, 400 * second} {
			tr, err := newTraffic(configs.Default())
			if err != nil {
				t.Fatal(err)
			}
			start := time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC).Add(begins)
			for at := time.Duration(0); at < takes; at += second {
				tr.add(&capturedPacket{At: start.Add(at), From: "udp:x", Text: fmt.Sprintf("a:1|c\nb:1|d\nc:u%d|s", at/second%5)})
			}
			for step, want := range steps {
				for series, of := range tr.series {
					want := want[series.Name()[0]-'a']
					if got := tr.items(series, of, step, 7); math.Abs(got-want) > 1e-9 {
						t.Errorf("%s of traffic from :%02d on: %v at %+v: %v items a minute, want %v", takes, begins/second, series, step, got, want)
					}
				}
			}
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
		"30s     20 points          886 items/min  fits: this is what is sent\n",
		"- plan.requests (counter): 800 items/min, 90 %; 400 series\n",
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

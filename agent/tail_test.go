package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/aggregator"
)

// background runs a command of the binary until the test ends it or it ends.
func background(t *testing.T, args ...string) (output func() string, wait func() int) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var out logBuffer
	c := exec.Command(path, args...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceValue(func() int { c.Wait(); return c.ProcessState.ExitCode() })
	t.Cleanup(func() { c.Process.Kill(); ended() })
	return out.String, func() int {
		timer := time.AfterFunc(patience, func() { c.Process.Kill() })
		defer timer.Stop()
		return ended()
	}
}

// watched waits until n watch the agent.
func (d *daemon) watched(n int) {
	d.t.Helper()
	d.until(fmt.Sprintf("%d are watching", n), func() bool { return strings.Contains(d.metric("sluice_tails"), fmt.Sprintf(" %d\n", n)) })
}

// TestTail: what arrives is shown, over every transport, after rules, filtered,
// with what is refused; and nobody is left watching.
func TestTail(t *testing.T) {
	s := setup{Dir: t.TempDir()}
	s.Listen = everySocket(s.Dir)
	s.Text = strings.Replace(s.yaml(), "aggregate: {", `aggregate: {rules: [{match: "old.*", name: "tail.$1"}], `, 1)
	d := start(t, s)
	addr := strings.TrimPrefix(d.http, "http://")
	all, _ := background(t, "tail", "--addr", addr)
	some, waitSome := background(t, "tail", "tail.*", "-t", "route:/u*", "--kind", "counter", "-n", "2", "--addr", addr)
	bad, waitBad := background(t, "tail", "--refused", "-n", "1", "--addr", addr)
	raw, waitRaw := background(t, "tail", "--raw", "--transport", "unixgram", "-n", "1", "--addr", addr)
	events, waitEvents := background(t, "tail", "--kind", "event", "--transport", "udp", "-n", "2", "--addr", addr)
	streamed, waitStreamed := background(t, "tail", "--transport", "unix", "-n", "3", "--addr", addr)
	d.watched(6)
	udp, unix := d.dial("udp"), d.dial("unixgram")
	d.send(udp, "_e{6,4}:tail.e|text|#a:b\n_sc|tail.sc|1\nold.a:1|c|#route:/users\ntail.b:5|g\ntail.evil\x1b[2J:x|c\n")
	d.send(d.dial("unix"), framed("tail.s:1|c\n")+framed("_e{1,1}:s|x"))
	d.send(d.dial("unix"), "tail.text:2|c\n")
	d.send(unix, "tail.a:2:3|c|#route:/users\n")
	resp, err := http.Post(d.http+"/api/v1/metrics", "application/json", strings.NewReader(`{"name":"tail.web","type":"counter","value":1}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if status, answer := d.post("/api/v1/events", `{"name":"tail.web.e","value":2,"properties":{"x":1}}`); status != http.StatusCreated {
		t.Fatalf("event: status %d, %s", status, answer)
	}
	for _, w := range []struct {
		name   string
		output func() string
		wait   func() int
		want   []string
		not    string
	}{
		{"some", some, waitSome, []string{"udp       counter      tail.a 1 route:/users\n", "unixgram  counter      tail.a 2, 3 route:/users\n"}, "tail.b"},
		{"refused", bad, waitBad, []string{"udp       not taken: bad_value  tail.evil\uFFFD[2J:x|c\n"}, "tail.a"},
		{"events", events, waitEvents, []string{"udp       event        tail.e {\"text\":\"text\",\"alert_type\":\"info\",\"priority\":\"normal\",\"kind\":\"event\"} a:b\n", "udp       event        tail.sc 1 {"}, "tail.b"},
		{"stream", streamed, waitStreamed, []string{"unix      counter      tail.s 1\n", "unix      event        s {", "unix      counter      tail.text 2\n"}, "udp"},
		{"raw", raw, waitRaw, []string{" unixgram:" + d.unix + "  tail.a:2:3|c|#route:/users\n"}, "udp"},
	} {
		if exit := w.wait(); exit != exitDone {
			t.Errorf("%s: exit %d", w.name, exit)
		}
		for _, want := range w.want {
			if !strings.Contains(w.output(), want) {
				t.Errorf("%s lacks %q; it has\n%s", w.name, want, w.output())
			}
		}
		if strings.Contains(w.output(), w.not) {
			t.Errorf("%s has %q, which was not asked for\n%s", w.name, w.not, w.output())
		}
	}
	d.until("all of it is shown", func() bool {
		return strings.Contains(all(), "http      counter      tail.web 1\n") && strings.Contains(all(), "http      event        tail.web.e 2 {\"x\":1}\n")
	})
	d.watched(1)
	d.terminate()
	d.expected = true
	if !strings.Contains(all(), "has ended") {
		t.Errorf("the one that was still watching says\n%s", all())
	}
}

// TestTailTooMuch: what is over the rate is counted, what nobody could look into, too,
// and together with what is shown it is what was sent.
func TestTailTooMuch(t *testing.T) {
	d := start(t, setup{})
	addr := strings.TrimPrefix(d.http, "http://")
	output, _ := background(t, "tail", "--json", "--rate", "10", "--addr", addr)
	d.watched(1)
	conn := d.dial("udp")
	const packets, each = 2000, 50
	packet := strings.Repeat("much:1|c\n", each)
	for i := range packets {
		d.send(conn, packet)
		if i%100 == 99 {
			time.Sleep(time.Millisecond)
		}
	}
	d.taken(packets * each)
	d.until("all of it is accounted for", func() bool {
		shown, skipped, missed := 0, 0, 0
		for text := range strings.Lines(output()) {
			var l struct {
				Name           string
				Lines, Packets int
			}
			if json.Unmarshal([]byte(text), &l) != nil {
				return false
			}
			if l.Name != "" {
				shown++
			}
			skipped, missed = skipped+l.Lines, missed+l.Packets
		}
		return shown > 0 && skipped > 0 && shown+skipped+missed*each == packets*each
	})
}

// TestTailBounds: what comes over HTTP counts towards the bytes that may wait for a
// watcher, and makes room when it is received; of an event's properties only the
// beginning waits.
func TestTailBounds(t *testing.T) {
	var all tails
	w := all.watch()
	long := strings.Repeat("é", 2<<20)
	const each = 64 << 10
	for name, item := range map[string]tailLine{
		"name": {Name: long[:each]}, "value": {Value: long[:each]}, "tags": {Tags: map[string]string{"k": long[:each]}},
	} {
		for range tailQueue {
			all.showItem(0, &item, aggregator.Taken)
		}
		if n := len(w.seen); n > tailBytes/each+1 || w.missed.Swap(0) != uint64(tailQueue-n) {
			t.Errorf("%d items of %d bytes (%s) wait, want no more than %d bytes", n, each, name, tailBytes)
		}
		for len(w.seen) > 0 {
			w.took(<-w.seen)
		}
		if left := w.bytes.Load(); left != 0 {
			t.Errorf("nothing waits and %d bytes do", left)
		}
	}
	for _, properties := range []string{`{"a":"` + long + `"}`, `{"ab":"` + long + `"}`} {
		l := tailLineOfEvent(&aggregator.Event{Name: []byte("e"), Properties: []byte(properties)})
		text, marked := strings.CutSuffix(l.Value, "…")
		if !marked || !strings.HasPrefix(properties, text) || len(text) < tailValue-1 || len(text) > tailValue {
			t.Errorf("of %d bytes of properties %d are shown, %v, want the first %d", len(properties), len(text), marked, tailValue)
		}
	}
}

// TestCaptureReplay: what was captured comes again, to the byte, in the time that was
// asked for.
func TestCaptureReplay(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Listen: everySocket(dir)})
	addr := strings.TrimPrefix(d.http, "http://")
	file := filepath.Join(dir, "traffic.json")
	output, wait := background(t, "capture", file, "--for", "15s", "--addr", addr)
	d.watched(1)
	udp, unix := d.dial("udp"), d.dial("unixgram")
	stream := d.dial("unix")
	sent := []string{"cap:1|c\ncap:2|c\n", "cap.bytes\xff:1|c", "cap.stream:1|c", "not a metric", "cap:7|g|#a:b"}
	for i, packet := range sent {
		switch i {
		case 2:
			d.send(stream, framed(packet))
		case 1, 4:
			d.send(unix, packet)
		default:
			d.send(udp, packet)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if exit := wait(); exit != exitDone || output() != "captured 5 packets in "+file+"\n" {
		t.Fatalf("capture: exit %d\n%s", exit, output())
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the capture's mode: %v, %v, want 0600", info.Mode(), err)
	}
	if _, stderr, exit := runCommand(t, dir, nil, "", "capture", file, "--addr", addr); exit != exitFailed || !strings.Contains(stderr, "file exists") {
		t.Errorf("capture to a file that is there: exit %d, %s", exit, stderr)
	}

	to, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	began := time.Now()
	stdout, stderr, exit := runCommand(t, dir, nil, "", "replay", file, "--speed", "2x", "--addr", to.LocalAddr().String())
	took := time.Since(began)
	if exit != exitDone || !strings.HasPrefix(stdout, "sent 5 packets (") {
		t.Errorf("replay: exit %d, %s%s", exit, stdout, stderr)
	}
	if least := spanOf(t, file) / 2; took < least {
		t.Errorf("replay took %v, want at least %v", took, least)
	}
	var replayed []string
	for range sent {
		buf := make([]byte, 1<<16)
		to.SetReadDeadline(time.Now().Add(patience))
		n, _, err := to.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		replayed = append(replayed, string(buf[:n]))
	}
	slices.Sort(replayed) // of different sockets any may have been read first
	slices.Sort(sent)
	if !slices.Equal(replayed, sent) {
		t.Errorf("replayed %q, want %q", replayed, sent)
	}
	other := filepath.Join(dir, "other.json")
	os.WriteFile(other, []byte("{}\n"), 0o600)
	if _, stderr, exit := runCommand(t, dir, nil, "", "replay", other, "--addr", to.LocalAddr().String()); exit != exitFailed || !strings.Contains(stderr, "no capture") {
		t.Errorf("replay of another file: exit %d, %s", exit, stderr)
	}
}

// spanOf is the time from the first packet of a capture to the last.
func spanOf(t *testing.T, file string) time.Duration {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var first, last time.Time
	for text := range strings.Lines(string(data)) {
		var p capturedPacket
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		if p.From == "" { // head or end
			continue
		}
		if last = p.At; first.IsZero() {
			first = p.At
		}
	}
	return last.Sub(first)
}

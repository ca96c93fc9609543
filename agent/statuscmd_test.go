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
	"unicode/utf8"

	"sluice/forwarder/fluxtest"
)

// TestStatusScreen draws the answers in testdata/status as a person sees them, on
// no terminal, and on a wide and a narrow one. -update writes what comes out.
func TestStatusScreen(t *testing.T) {
	files, err := filepath.Glob("testdata/status/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var before, now statusPage
		for _, p := range []*statusPage{&before, &now} {
			if err := json.Unmarshal(data, p); err != nil {
				t.Fatal(err)
			}
			p.at = time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC)
		}
		before.at = now.at.Add(-2 * time.Second)
		before.Listeners[0].Samples -= 20
		before.Listeners[0].Packets -= 3
		for _, width := range []int{0, 80, 40} {
			var b bytes.Buffer
			s := &screen{w: &b, width: width}
			showStatus(s, &before, &now)
			for text := range strings.Lines(b.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(text, "\n")); width > 0 && n > width {
					t.Errorf("%s: a line of %d characters on %d columns: %s", file, n, width, text)
				}
			}
			if strings.ContainsRune(b.String(), '\x1b') {
				t.Errorf("%s: an escape character from outside, or a colour where there is none", file)
			}
			want := fmt.Sprintf("%s.%d.txt", strings.TrimSuffix(file, ".json"), width)
			if *update {
				if err := os.WriteFile(want, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if expected, _ := os.ReadFile(want); b.String() != string(expected) {
				t.Errorf("%s: got\n%s\nwant\n%s", want, b.String(), expected)
			}
		}
		var b bytes.Buffer
		showStatus(&screen{w: &b, width: 80, color: true}, &before, &now)
		if !strings.HasPrefix(b.String(), bold+"sluice") {
			t.Errorf("%s: no colour where there should be", file)
		}
	}
}

// TestStatusCommand asks a running agent, and one that is not there.
func TestStatusCommand(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	d := start(t, setup{Flux: flux.URL})
	d.send(d.dial("udp"), "status.cmd:1|c|#a:b\nstatus.cmd:1|c|#a:c\nbad\n")
	d.taken(2)
	d.delivered()
	addr := strings.TrimPrefix(d.http, "http://")
	stdout, stderr, exit := runCommand(t, t.TempDir(), nil, "", "status", "--addr", addr)
	for _, want := range []string{"taking samples, delivering to flux\n", "rejected since the start: 1 malformed_line\n", "- status.cmd (counter): 2 series, ", "UPSTREAM flux (flux hosted)\n", "the books balance\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("sluice status lacks %q", want)
		}
	}
	if exit != exitDone || stderr != "" || strings.Contains(stdout, "\x1b") {
		t.Errorf("sluice status: exit %d, stderr %q", exit, stderr)
	}
	if t.Failed() {
		t.Log(stdout)
	}
	stdout, _, exit = runCommand(t, t.TempDir(), nil, "", "status", "--json", "--addr", addr)
	if doc := new(statusDoc); json.Unmarshal([]byte(stdout), doc) != nil || doc.Version == "" || exit != exitDone {
		t.Errorf("sluice status --json: exit %d\n%s", exit, stdout)
	}
}

// TestStatusWatch: it draws again and again, and goes on while the agent is away.
func TestStatusWatch(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	output, _ := background(t, "status", "--watch", "--addr", strings.TrimPrefix(d.http, "http://"))
	d.until("two screens are there", func() bool { return strings.Count(output(), "the books balance") >= 2 })
	d.terminate()
	d.expected = true
	for end := time.Now().Add(patience); strings.Count(output(), "is sluice running?") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not say twice that the agent is away:\n%s", output())
		}
	}
}

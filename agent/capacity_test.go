package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCapacityPage holds the table of docs/capacity.md against the arithmetic that it
// stands for, and its first column against what sluice plan finds: as many series fit
// as stand there, and no more.
func TestCapacityPage(t *testing.T) {
	page, err := os.ReadFile("../docs/capacity.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ((?:counters|distributions)[^|]*) \|(.*)\|$`).FindAllStringSubmatch(string(page), -1) {
		for cell := range strings.SplitSeq(m[2], "|") {
			rows[m[1]] = append(rows[m[1]], strings.ReplaceAll(strings.TrimSpace(cell), ",", ""))
		}
	}
	widths := []int{10, 30, 60, 300, 900, 3600}
	for name, items := range map[string]int{"counters or gauges": 1, "distributions, 100 values each": 107,
		"distributions, 20 values each": 27, "distributions, scalars alone": 7} {
		cells := rows[name]
		if len(cells) != len(widths) {
			t.Fatalf("the row %q has %d cells, want %d", name, len(cells), len(widths))
		}
		for i, width := range widths {
			if want := strconv.Itoa(10 * 498 * width / 60 / items); cells[i] != "" && cells[i] != want {
				t.Errorf("%s in %d s: the page has %s, want %s", name, width, cells[i], want)
			}
		}
	}

	dir := t.TempDir()
	config := filepath.Join(dir, "sluice.yaml")
	text := fmt.Sprintf("upstreams: [{url: \"http://127.0.0.1:1\", api_key: k}]\nspool: {dir: %q}\n", filepath.Join(dir, "spool"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ row, value, step string }{
		{"counters or gauges", "1|c", "10s 100 points"},
		{"distributions, 100 values each", strings.Repeat("1.5:2.5:", 75) + "3|d", "10s 100 points"},
		{"distributions, 20 values each", strings.Repeat("1.5:2.5:", 75) + "3|d", "10s 20 points"},
	} {
		n, err := strconv.Atoi(rows[c.row][0])
		if err != nil {
			t.Fatal(err)
		}
		for series, want := range map[int]string{n: "fits", n + 1: "does not fit"} {
			capture := filepath.Join(dir, "traffic.json")
			writeCapture(t, capture, series, c.value)
			out, errs, code := runCommand(t, dir, nil, "", "plan", capture, "--config", config)
			if code != exitDone {
				t.Fatalf("sluice plan: status %d, %s", code, errs)
			}
			found := ""
			for line := range strings.Lines(out) {
				if fields := strings.Join(strings.Fields(line), " "); strings.HasPrefix(fields, c.step+" ") {
					found = fields
				}
			}
			_, verdict, _ := strings.Cut(found, "items/min ")
			if !strings.HasPrefix(verdict, want) {
				t.Errorf("%d of %s: plan says %q, want that it %s\n%s", series, c.row, found, want, out)
			}
		}
	}
}

// writeCapture makes a capture of series that are sent once in each of seven windows.
func writeCapture(t *testing.T, file string, series int, value string) {
	t.Helper()
	began := time.Date(2026, 11, 28, 7, 0, 0, 0, time.UTC)
	var b strings.Builder
	fmt.Fprintf(&b, "{\"sluice_capture\":1,\"version\":\"test\",\"started\":%q}\n", began.Format(time.RFC3339Nano))
	for window := range 7 {
		for i := range series {
			at := began.Add(time.Duration(window)*10*time.Second + time.Duration(i)*9*time.Second/time.Duration(series))
			packet, err := json.Marshal(map[string]string{"at": at.Format(time.RFC3339Nano), "from": "udp:127.0.0.1:8125", "text": fmt.Sprintf("m%d:%s", i, value)})
			if err != nil {
				t.Fatal(err)
			}
			b.Write(append(packet, '\n'))
		}
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

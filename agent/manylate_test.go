package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestManyLateWindows: lines with times of their own make thousands of windows at once,
// which are written together: each is in the spool, with its number, and the books balance.
func TestManyLateWindows(t *testing.T) {
	t.Parallel() // it mostly waits
	const windows = 1500
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Interval: "1s"})
	conn := d.dial("unixgram")
	began := time.Now().Unix() - 3000
	var packet strings.Builder
	for i := range windows {
		fmt.Fprintf(&packet, "late.many:%d|c|T%d\n", i, began+int64(i))
		if i%500 == 499 {
			d.send(conn, packet.String())
			packet.Reset()
		}
	}
	d.until("all windows are stored", func() bool { s := d.status(); return s.Spool.LastSeq >= windows })
	d.until("all windows are told of", func() bool { return d.log.count("window closed") >= windows })
	d.balanced()
	d.terminate()
	stdout, stderr, exit := runCommand(t, dir, nil, "", "spool", "export", "--config", d.file)
	if exit != exitDone {
		t.Fatalf("sluice spool export: exit %d, %s", exit, stderr)
	}
	at := map[time.Time]bool{}
	for line := range strings.Lines(stdout) {
		var w struct {
			Start time.Time
			Sum   int64
		}
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if w.Start.Unix() == began+w.Sum {
			at[w.Start] = true
		}
	}
	if len(at) != windows {
		t.Errorf("%d windows with their value are in the spool, want %d", len(at), windows)
	}
	if stdout, stderr, exit := runCommand(t, dir, nil, "", "spool", "verify", "--config", d.file); exit != exitDone {
		t.Errorf("sluice spool verify: exit %d, %s%s", exit, stdout, stderr)
	}
}

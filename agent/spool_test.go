package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/forwarder/fluxtest"
)

// TestSpoolCommands: the commands of sluice spool against a running agent, over
// HTTP, and against the same folder when it has stopped.
func TestSpoolCommands(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	var cured atomic.Bool
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Poison: func(r fluxtest.Row) int {
		if strings.HasPrefix(r.Name, "poison.") && !cured.Load() {
			return 422
		}
		return 0
	}}))
	s := setup{Dir: dir, Flux: flux.URL, Interval: "100ms", Upstream: "settle: 0s"}
	d := start(t, s)
	sluice := func(exit int, args ...string) string {
		t.Helper()
		stdout, stderr, got := runCommand(t, dir, []string{"HOME=" + dir}, "", append([]string{"spool"}, args...)...)
		if got != exit {
			t.Fatalf("sluice spool %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, exit, stdout, stderr)
		}
		return stdout + stderr
	}
	at := []string{"--addr", strings.TrimPrefix(d.http, "http://")}
	asked := func(args ...string) string { t.Helper(); return sluice(exitDone, append(args, at...)...) }

	conn := d.dial("udp")
	for _, text := range []string{"good.one:1|c", "poison.one:2|c\ngood.two:3|c", "poison.two:4|c"} {
		d.send(conn, text)
	}
	d.until("two items are dead letters", func() bool { return d.status().Upstreams[0].DeadLetters == 2 })
	d.until("the rest is delivered", func() bool { return flux.CounterTotal("good.two").Float == 3 })

	var ids []string
	for line := range strings.Lines(asked("dead")) {
		if f := strings.Fields(line); len(f) > 5 && f[0] == "flux" {
			ids = append(ids, f[1])
			if !strings.HasPrefix(f[2], "poison.") || f[3] != "counter" || f[4] != "1" || !strings.Contains(line, "422") {
				t.Errorf("sluice spool dead: %s", line)
			}
		}
	}
	if len(ids) != 2 {
		t.Fatalf("sluice spool dead lists %v", ids)
	}
	cured.Store(true)
	if out := asked("retry", ids[0]); !strings.Contains(out, "1 dead letters will be sent") {
		t.Errorf("retry: %s", out)
	}
	d.until("the dead letter that was retried is delivered", func() bool {
		return flux.CounterTotal("poison.one").Float+flux.CounterTotal("poison.two").Float > 0 && d.status().Upstreams[0].DeadLetters == 1
	})
	if out := asked("drop", "--all"); !strings.Contains(out, "1 dead letters are dropped") {
		t.Errorf("drop: %s", out)
	}
	if out := sluice(exitFailed, append([]string{"retry", ids[1]}, at...)...); !strings.Contains(out, "dead letter "+ids[1]+" of flux: not in the spool") {
		t.Errorf("retry of what was dropped: %s", out)
	}
	d.delivered()
	d.balanced()

	// The folder of a running agent leads to the agent that the configuration names.
	if out := sluice(exitFailed, "ls", "--dir", filepath.Join(dir, "spool")); !strings.Contains(out, "another process") {
		t.Errorf("ls of a folder in use: %s", out)
	}
	list, export := asked("ls"), asked("export")
	if out := asked("verify"); !strings.Contains(out, "all is as it was written") {
		t.Errorf("verify: %s", out)
	}
	d.terminate()

	config := []string{"--config", filepath.Join(dir, "sluice.yaml")}
	stopped := func(args ...string) string { t.Helper(); return sluice(exitDone, append(args, config...)...) }
	if out := stopped("verify"); !strings.Contains(out, "all is as it was written") || !strings.Contains(out, "ledgers of 1 upstreams") {
		t.Errorf("verify of a stopped agent: %s", out)
	}
	if out := stopped("ls"); !strings.Contains(out, "000001.seg") || !strings.Contains(list, "000001.seg") {
		t.Errorf("ls: %s\nand of the running agent: %s", out, list)
	}
	if out := stopped("dead"); out != "there are no dead letters\n" {
		t.Errorf("dead: %s", out)
	}
	sums := map[string]float64{}
	after := stopped("export")
	for line := range strings.Lines(after) {
		var doc struct {
			Name string
			Sum  json.Number
		}
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			t.Fatalf("export: %v: %s", err, line)
		}
		n, _ := strconv.ParseFloat(doc.Sum.String(), 64)
		sums[doc.Name] += n
	}
	if sums["good.one"] != 1 || sums["poison.one"] != 2 || sums["poison.two"] != 4 || !strings.HasPrefix(after, export) {
		t.Errorf("export of the running agent:\n%sand of the stopped one:\n%s", export, after)
	}
}

// TestSpoolPathsGuarded: the paths of these commands are behind the guard.
func TestSpoolPathsGuarded(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("sesame-sesame-sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := "  udp: [\"127.0.0.1:0\"]\n  http: \"127.0.0.1:0\"\n  http_token_file: " + strconv.Quote(token) + "\n"
	d := start(t, setup{Dir: dir, Listen: listen})
	for _, path := range []string{"", "/export", "/dead"} {
		if status, body := d.get(spoolPath + path); status != 401 {
			t.Errorf("GET %s without a token: status %d\n%s", spoolPath+path, status, body)
		}
	}
	d.until("the token of the configuration opens them", func() bool { // once the spool is open
		_, _, exit := runCommand(t, dir, nil, "", "spool", "ls", "--config", filepath.Join(dir, "sluice.yaml"), "--addr", strings.TrimPrefix(d.http, "http://"))
		return exit == exitDone
	})
}

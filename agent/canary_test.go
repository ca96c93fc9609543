package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"sluice/forwarder/fluxtest"
)

// TestCanary gives the agent a key, another one by reload, and a token, all with a
// known text, lets it fail in many ways at the level debug, asks it everything,
// runs every command, has it write its goroutines, and then looks for that text in all
// that came out, in its log and in the spool. A core dump would have the keys, as memory
// does: the agent must not be able to write one.
func TestCanary(t *testing.T) {
	t.Parallel() // it mostly waits
	const canary = "CANARYcanary"
	key, token := "sk_live_"+canary+"1", canary+"-token"
	answers := []fluxtest.Fault{fluxtest.Redirect(302), fluxtest.CloseUnread(), fluxtest.HTML(), fluxtest.Status(401)}
	var mu sync.Mutex
	n := 0
	flux := fluxtest.New(t, shared(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleKey},
		Fault: func(int, *http.Request) fluxtest.Fault {
			mu.Lock()
			defer mu.Unlock()
			n++
			return answers[n%len(answers)]
		}}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	tokenFile, keyFile := filepath.Join(s.Dir, "token"), filepath.Join(s.Dir, "key")
	rewrite(t, tokenFile, token+"\n")
	rewrite(t, keyFile, key)
	s.Text = strings.Replace(strings.Replace(s.yaml(), `api_key: "`+fluxtest.Key+`"`, `api_key: "${CANARY}", settle: 0s`, 1),
		"  http:", `  http_token_file: "`+tokenFile+"\"\n  http:", 1)
	s.Env = []string{"CANARY=" + key, "FLUX_API_KEY=" + key}
	d := start(t, s)
	file := filepath.Join(s.Dir, "sluice.yaml")
	d.send(d.dial("udp"), "canary:1|c\ncanary.time:1:2:3|d\ncanary.bad:x|c\n")
	var seen []string
	note := func(what, text string) { seen = append(seen, what+"\n"+text) }
	d.until("the upstream has failed in three ways", func() bool { mu.Lock(); defer mu.Unlock(); return n >= 3 })
	ask := func() {
		for _, path := range []string{"/", "/up", "/health", "/healthz", "/readyz", "/metrics", "/api/agent/status", "/api/agent/metrics", "/api/agent/metrics/tags?name=canary&kind=counter", "/api/agent/spool", "/api/agent/spool/export", "/api/agent/spool/dead", "/api/v1/metrics", "/debug/pprof/cmdline", "/debug/vars", "/nothing"} {
			for _, auth := range []string{"", "Bearer wrong", "Bearer " + token} {
				req, _ := http.NewRequest("GET", d.http+path, nil)
				req.Header.Set("Authorization", auth)
				resp, err := localClient.Do(req)
				if err != nil {
					t.Error(err)
					continue
				}
				var b strings.Builder
				resp.Write(&b)
				resp.Body.Close()
				note("GET "+path, b.String())
			}
		}
	}
	ask()
	for _, text := range []string{ // reloads: another key, and faults close to it
		strings.Replace(s.Text, `api_key: "${CANARY}"`, `api_key_file: "`+keyFile+`"`, 1),
		strings.Replace(s.Text, "${CANARY}", canary+" with spaces", 1),
		strings.Replace(s.Text, "${CANARY}", "${CANARY}\", api_key_file: \"/x", 1),
		strings.Replace(s.Text, flux.URL, "https://user:"+canary+"@flux.example/?key="+canary, 1),
	} {
		rewrite(t, file, text)
		before := strings.Count(d.log.String(), "configuration")
		d.signal(syscall.SIGHUP)
		d.until("the reload is answered", func() bool { return strings.Count(d.log.String(), "configuration") > before })
		stdout, stderr, _ := runCommand(t, s.Dir, s.Env, "", "check", "--config", file)
		note("sluice check", stdout+stderr)
		ask()
	}
	rewrite(t, file, s.Text)
	addr := strings.TrimPrefix(d.http, "http://")
	running := []string{"--config", file, "--addr", addr}
	with := func(more ...string) []string { return append(more, running...) }
	capture := filepath.Join(s.Dir, "capture")
	arguments := map[string][]string{
		"check": {"--config", file}, "send": {"counter", "x", "1", "--addr", d.udp}, "status": running, "doctor": running, "tail": with("--for", "300ms"),
		"capture": with(capture, "--for", "300ms"), "replay": {capture, "--addr", d.udp}, "top": running, "plan": with("--for", "300ms"), "query": with("canary"),
		"run": {"--config", filepath.Join(s.Dir, "none.yaml")}, "ls": running, "verify": running, "export": running, "dead": running, "retry": with("--all"), "drop": with("--all"),
	}
	var run func(c *cobra.Command, path ...string)
	run = func(c *cobra.Command, path ...string) {
		for _, args := range [][]string{arguments[c.Name()], {"--help"}} {
			stdout, stderr, _ := runCommand(t, s.Dir, s.Env, "", append(path, args...)...)
			note("sluice "+strings.Join(append(path, args...), " "), stdout+stderr)
		}
		for _, sub := range c.Commands() {
			run(sub, append(path, sub.Name())...)
		}
	}
	for _, c := range newRoot().Commands() {
		run(c, c.Name())
	}
	if runtime.GOOS == "linux" {
		limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", d.cmd.Process.Pid))
		if !regexp.MustCompile(`Max core file size +1 +1 `).Match(limits) {
			t.Errorf("the agent may dump its memory:\n%s", limits)
		}
	}
	d.signal(syscall.SIGABRT)
	d.wait()
	if !strings.Contains(d.log.String(), "SIGABRT") {
		t.Errorf("no goroutines in the log after SIGABRT")
	}
	note("the log", d.log.String())
	filepath.WalkDir(filepath.Join(s.Dir, "spool"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			data, _ := os.ReadFile(path)
			note(path, string(data))
		}
		return nil
	})
	if len(seen) < 100 {
		t.Errorf("only %d places were looked into", len(seen))
	}
	size := 0
	for _, text := range seen {
		size += len(text)
		if strings.Contains(text, canary) {
			at := strings.Index(text, canary)
			t.Errorf("the key is in: %s ... %s", strings.SplitN(text, "\n", 2)[0], text[max(0, at-200):min(len(text), at+100)])
		}
	}
	t.Logf("%d places, %d bytes: no key", len(seen), size)
}

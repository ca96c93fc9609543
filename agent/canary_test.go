package main

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sluice/forwarder/fluxtest"
)

// TestCanary gives the agent a key, another one by reload, and a token, all with a
// known text, lets it fail in many ways at the level debug, asks it everything,
// runs every command, and then looks for that text in all that came out, in its log
// and in the spool. (Memory has the keys, so a core dump has them: the unit file
// turns those off.)
func TestCanary(t *testing.T) {
	t.Parallel() // it mostly waits
	const canary = "CANARYcanary"
	key, token := "sk_live_"+canary+"1", canary+"-token"
	answers := []fluxtest.Fault{fluxtest.Redirect(302), fluxtest.CloseUnread(), fluxtest.HTML(), fluxtest.Status(401)}
	var mu sync.Mutex
	n := 0
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleKey},
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
		for _, path := range []string{"/", "/up", "/health", "/healthz", "/readyz", "/metrics", "/api/agent/status", "/api/agent/metrics", "/api/v1/metrics", "/debug/pprof/cmdline", "/debug/vars", "/nothing"} {
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
	commands := newRoot().Commands()
	for _, c := range commands {
		args := map[string][]string{
			"check": {"--config", file}, "send": {"counter", "x", "1", "--addr", d.udp}, "status": {"--config", file, "--addr", addr},
			"tail": {"--config", file, "--addr", addr, "--for", "300ms"}, "capture": {filepath.Join(s.Dir, "capture"), "--config", file, "--addr", addr, "--for", "300ms"},
			"replay": {filepath.Join(s.Dir, "capture"), "--addr", d.udp}, "doctor": {"--config", file, "--addr", addr}, "query": {"canary", "--config", file, "--addr", addr},
			"run": {"--config", filepath.Join(s.Dir, "none.yaml")}, "version": nil,
		}[c.Name()]
		for _, args := range [][]string{args, {"--help"}} {
			stdout, stderr, _ := runCommand(t, s.Dir, s.Env, "", append([]string{c.Name()}, args...)...)
			note("sluice "+c.Name()+" "+strings.Join(args, " "), stdout+stderr)
		}
	}
	d.terminate()
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

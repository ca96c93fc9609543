package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// sees runs the doctor and returns its findings; text of one is "is what: text".
func sees(t *testing.T, env []string, args ...string) (findings []string, exit int) {
	t.Helper()
	stdout, _, exit := runCommand(t, t.TempDir(), env, "", append([]string{"doctor", "--json"}, args...)...)
	var list []finding
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatalf("sluice doctor --json: %v\n%s", err, stdout)
	}
	for _, f := range list {
		findings = append(findings, f.Is+" "+f.What+": "+f.Text)
		if f.Is == failing && f.Remedy == "" && f.What != "configuration" && !strings.Contains(f.Text, "does not deliver") {
			t.Errorf("a failure without a remedy: %+v", f)
		}
	}
	return findings, exit
}

// has answers whether one of the findings has the text, and is that if it is named.
func has(findings []string, is, text string) bool {
	return slices.ContainsFunc(findings, func(f string) bool { return (is == "" || strings.HasPrefix(f, is+" ")) && strings.Contains(f, text) })
}

// TestDoctorHealthy: an agent that is well is found to be, the check costs no batch
// request, nothing is stored anywhere, and whatever the doctor says about the machine
// that tests run on is no failure; but a sync may take long there, for it is busy.
func TestDoctorHealthy(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	for _, dir := range []string{s.Dir, filepath.Dir(s.Dir)} { // as folders of sockets are
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, s)
	d.send(d.dial("udp"), "doctor.before:1|c")
	d.taken(1)
	d.delivered()
	requests := flux.Requests()
	findings, exit := sees(t, nil, "--config", filepath.Join(s.Dir, "sluice.yaml"), "--addr", strings.TrimPrefix(d.http, "http://"))
	for _, want := range []string{"configuration", "agent", "listener udp:", "listener unixgram:", "listener http:", "socket ", "takes the key, and lets", "that of upstream flux"} {
		if !has(findings, healthy, want) {
			t.Errorf("no finding that %q is well", want)
		}
	}
	for _, want := range []string{"are free", "a sync takes"} {
		if !has(findings, "", want) {
			t.Errorf("no finding that %q", want)
		}
	}
	slow := has(findings, failing, "a sync takes")
	if failed := slices.DeleteFunc(slices.Clone(findings), func(f string) bool {
		return !strings.HasPrefix(f, failing+" ") || strings.Contains(f, "a sync takes")
	}); len(failed) > 0 || (exit != exitDone) != slow {
		t.Errorf("exit %d, failures %q, want 0 and none", exit, failed)
	}
	if t.Failed() {
		t.Log(strings.Join(findings, "\n"))
	}
	d.delivered()
	if got := len(flux.Requests()) - len(requests); got > 1 {
		t.Errorf("%d requests were made by the doctor, want the one for the list", got)
	}
	if st := d.status(); st.accepted() != 1 {
		t.Errorf("%d samples were accepted, want the 1 that is not the doctor's", st.accepted())
	}
}

// TestDoctorFinds plants faults one by one; each is found, alone of its kind, and
// makes the exit status 1 if it is one that must be mended.
func TestDoctorFinds(t *testing.T) {
	t.Parallel() // it mostly waits
	refusing := func(code int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = nil
	t.Cleanup(secure.Close)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
	}))
	t.Cleanup(behind.Close)
	for _, c := range []struct {
		name  string
		plant func(t *testing.T, s *setup) (after func(d *daemon))
		is    string
		want  string
	}{
		{"a fault in the configuration", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) { rewrite(t, filepath.Join(s.Dir, "sluice.yaml"), "listenn: 1\n") }
		}, failing, "listenn: unknown key"},
		{"the agent refuses its file", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) {
				rewrite(t, filepath.Join(s.Dir, "sluice.yaml"), "listenn: 1\n")
				d.until("it is refused", func() bool { _, fault, _ := d.config(); return fault != "" })
			}
		}, failing, "agent: it refuses its configuration file"},
		{"the agent does not run", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) { d.terminate() }
		}, failing, "connection refused"},
		{"nobody is upstream", func(t *testing.T, s *setup) func(*daemon) {
			s.Flux = "http://127.0.0.1:" + freePort(t, "tcp")
			return nil
		}, failing, "upstream flux: it cannot be reached"},
		{"the key is wrong", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = refusing(401)
			return nil
		}, failing, "it does not know the key"},
		{"the key may not read", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = refusing(403)
			return nil
		}, warning, "cannot be read back"},
		{"the upstream has moved", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = refusing(302)
			return nil
		}, failing, "it redirects"},
		{"a certificate that is not trusted", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = secure.URL
			return nil
		}, failing, "certificate"},
		{"no TLS where it should be", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = strings.Replace(behind.URL, "http:", "https:", 1)
			return nil
		}, failing, "upstream flux: it cannot be reached"},
		{"the clock is wrong", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = behind.URL
			return nil
		}, failing, "behind that of upstream flux"},
		{"the socket file is gone", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) { os.Remove(d.unix) }
		}, failing, "listener unixgram:"},
		{"a folder above the socket is closed", func(_ *testing.T, s *setup) func(*daemon) {
			closed := filepath.Join(s.Dir, "closed")
			os.Mkdir(closed, 0o700)
			s.Listen = fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [{path: %q, mode: \"0666\"}]\n  http: \"127.0.0.1:0\"\n", filepath.Join(closed, "s.sock"))
			return nil
		}, failing, "does not let them in"},
		{"the spool is another agent's", func(t *testing.T, s *setup) func(*daemon) {
			s.Spool = filepath.Join(s.Dir, "spool")
			first := start(t, setup{Spool: s.Spool})
			first.until("the spool is attached", func() bool { return first.status().Spool.State == "ok" })
			return func(d *daemon) { d.trouble("used by another process") }
		}, failing, "another agent uses it"},
		{"the spool's folder cannot be used", func(_ *testing.T, s *setup) func(*daemon) {
			blocked := filepath.Join(s.Dir, "state")
			os.WriteFile(blocked, nil, 0o600)
			s.Spool = filepath.Join(blocked, "spool")
			return func(d *daemon) { d.trouble("not a directory") }
		}, failing, "disk of "},
		{"a spool that nobody uses", func(t *testing.T, s *setup) func(*daemon) {
			foreign := filepath.Join(s.Dir, ".local/state/sluice")
			os.MkdirAll(foreign, 0o700)
			os.WriteFile(filepath.Join(foreign, "outbox.db"), nil, 0o600)
			return nil
		}, warning, "there is a spool that this agent does not use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := setup{Dir: t.TempDir()}
			after := c.plant(t, &s)
			d := start(t, s)
			if after != nil {
				after(d)
			}
			findings, exit := sees(t, []string{"HOME=" + s.Dir}, "--config", filepath.Join(s.Dir, "sluice.yaml"), "--addr", strings.TrimPrefix(d.http, "http://"))
			if !has(findings, c.is, c.want) {
				t.Errorf("no finding %s: %s\n%s", c.is, c.want, strings.Join(findings, "\n"))
			}
			if c.is == failing && exit != exitFailed {
				t.Errorf("exit %d, want %d", exit, exitFailed)
			}
		})
	}
}

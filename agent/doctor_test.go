package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
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
	flux := fluxtest.New(t, shared(fluxtest.Options{MaxItems: 499}))
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

// TestDoctorFinds plants faults one by one, real ones; each is found, and makes the exit
// status 1 if it is one that must be mended. That a healthy agent has none of these
// findings is TestDoctorHealthy.
func TestDoctorFinds(t *testing.T) {
	t.Parallel() // it mostly waits
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	// A server that only answers reads in its own way; what is delivered is taken.
	upstream := func(o fluxtest.Options) *fluxtest.Server {
		o.MaxItems, o.Allow = 499, append(o.Allow, fluxtest.RuleKey)
		return fluxtest.New(t, shared(o))
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(secure.Close)
	behind := serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
	})
	root := runtime.GOOS == "linux" && os.Getuid() == 0
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
		// A label over 63 bytes is in no DNS (RFC 1035, 2.3.4), and asks no server.
		{"the upstream's name is in no DNS", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = "https://" + strings.Repeat("x", 64) + ".example"
			return nil
		}, failing, ".example cannot be looked up"},
		{"the key is wrong", func(t *testing.T, s *setup) func(*daemon) {
			s.Flux = upstream(fluxtest.Options{Key: "sk_live_another"}).URL
			return nil
		}, failing, "it does not know the key (401"},
		{"Pulse's key is wrong", func(t *testing.T, s *setup) func(*daemon) {
			s.Flux, s.Upstream = upstream(fluxtest.Options{Dialect: fluxtest.PulseHosted, Key: "sk_live_another"}).URL, "type: pulse"
			return nil
		}, failing, "it does not know the key (401"},
		{"DataCat's key is wrong", func(t *testing.T, s *setup) func(*daemon) {
			s.Flux, s.Upstream = upstream(fluxtest.Options{Dialect: fluxtest.DataCat, Key: "sk_live_another"}).URL, "type: datacat"
			return nil
		}, failing, "it does not know the key (401"},
		{"the key may not read", func(t *testing.T, s *setup) func(*daemon) {
			flux := upstream(fluxtest.Options{})
			for range 9 {
				flux.FaultReads(fluxtest.Status(403))
			}
			s.Flux = flux.URL
			return nil
		}, warning, "cannot be read back"},
		{"the upstream has moved", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) })
			return nil
		}, failing, "it redirects"},
		{"a certificate that is not trusted", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = secure.URL
			return nil
		}, failing, "certificate"},
		{"no TLS where it should be", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = strings.Replace(behind, "http:", "https:", 1)
			return nil
		}, failing, "upstream flux: it cannot be reached"},
		{"the clock is wrong", func(_ *testing.T, s *setup) func(*daemon) {
			s.Flux = behind
			return nil
		}, failing, "behind that of upstream flux"},
		{"the socket file is gone", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) { os.Remove(d.unix) }
		}, failing, "listener unixgram:"},
		{"somebody has changed a socket's mode", func(_ *testing.T, s *setup) func(*daemon) {
			return func(d *daemon) { os.Chmod(d.unix, 0o600) }
		}, failing, "its mode is 0600, and the configuration lets more users send: 0660"},
		{"a socket is its owner's alone", func(_ *testing.T, s *setup) func(*daemon) {
			s.Listen = fmt.Sprintf("  udp: []\n  unixgram: [{path: %q, mode: \"0600\"}]\n  http: \"127.0.0.1:0\"\n", filepath.Join(s.Dir, "s.sock"))
			return nil
		}, warning, "only the owner can send"},
		{"a folder above the socket is closed", func(_ *testing.T, s *setup) func(*daemon) {
			closed := filepath.Join(s.Dir, "closed")
			os.Mkdir(closed, 0o700)
			s.Listen = fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [{path: %q, mode: \"0666\"}]\n  http: \"127.0.0.1:0\"\n", filepath.Join(closed, "s.sock"))
			return nil
		}, failing, "does not let them in"},
		{"a small receive buffer", func(t *testing.T, s *setup) func(*daemon) {
			limit, _ := os.ReadFile("/proc/sys/net/core/rmem_max")
			if n, err := strconv.Atoi(strings.TrimSpace(string(limit))); err != nil || n >= 256<<20 {
				t.Skipf("net.core.rmem_max is %q here", limit)
			}
			if root { // who could go beyond it
				s.Under = []string{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"}
			}
			s.Listen = "  udp: [\"127.0.0.1:0\"]\n  http: \"127.0.0.1:0\"\n  receive_buffer: 256MiB\n"
			return nil
		}, warning, "the kernel granted "},
		{"a disk that is full", func(t *testing.T, s *setup) func(*daemon) {
			if !root {
				t.Skip("needs root on Linux to mount a small file system")
			}
			s.Spool = filepath.Join(s.Dir, "spool")
			os.Mkdir(s.Spool, 0o700)
			command(t, "mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs", s.Spool)
			t.Cleanup(func() { command(t, "umount", "-l", s.Spool) })
			return func(d *daemon) { os.WriteFile(filepath.Join(s.Spool, "filler"), make([]byte, 12<<20), 0o600) }
		}, failing, " are free"},
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

// TestDoctorSiblings: a Pulse and a DataCat that take the key are found to, which costs
// no batch request.
func TestDoctorSiblings(t *testing.T) {
	t.Parallel() // it mostly waits
	for typ, o := range map[string]fluxtest.Options{"pulse": {Dialect: fluxtest.PulseHosted}, "datacat": {Dialect: fluxtest.DataCat}} {
		o.MaxItems = 499
		server := fluxtest.New(t, shared(o))
		d := start(t, setup{Dir: t.TempDir(), Flux: server.URL, Upstream: "type: " + typ})
		findings, _ := sees(t, nil, "--config", d.file, "--addr", strings.TrimPrefix(d.http, "http://"))
		if !has(findings, healthy, "upstream flux: it takes the key") || has(findings, failing, "upstream") {
			t.Errorf("%s: %s", typ, strings.Join(findings, "\n"))
		}
		asked := slices.DeleteFunc(server.Requests(), func(r fluxtest.Request) bool { return r.Method != http.MethodGet })
		if len(asked) != 1 { // the agent's own first one, which finds out the dialect, is no read
			t.Errorf("%s: %d reads, want the doctor's one", typ, len(asked))
		}
	}
}

// TestDoctorSlowDisk delays each sync of the doctor's by the kernel's hand.
func TestDoctorSlowDisk(t *testing.T) {
	t.Parallel() // it mostly waits
	strace, err := exec.LookPath("strace")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("needs strace")
	}
	if out, err := exec.Command(strace, "-f", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace: %v: %s", err, out) // a machine may forbid it
	}
	d := start(t, setup{})
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command(strace, "-f", "--seccomp-bpf", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "trace=fsync", "-e", "inject=fsync:delay_exit=200000",
		path, "doctor", "--config", d.file, "--addr", strings.TrimPrefix(d.http, "http://")).CombinedOutput()
	if !regexp.MustCompile(`(?m)^(warn|fail)  disk of .*: a sync takes (2|[1-9][0-9]*)[0-9]{2}ms\n +-> `).Match(out) {
		t.Errorf("a sync that takes at least 200 ms is not found to be slow:\n%s", out)
	}
}

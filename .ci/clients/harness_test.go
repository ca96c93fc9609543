// Package clients drives the real agent with the client libraries and programs
// that its users have, each with a script of its own, and compares everything
// that a strict Flux holds afterwards with what the script measured: nothing may
// be missing and nothing may be there besides. It is a module of its own, so that
// none of these libraries reaches the agent's go.mod.
//
// A client that is not installed is skipped; with SLUICE_CLIENTS=all, which
// .ci/run sets when it could install everything, that is a failure.
package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// patience bounds every wait; a test that passes waits a fraction of it.
const patience = 2 * time.Minute

// An agent is the daemon under test, with the upstream that it sends to.
type agent struct {
	t    *testing.T
	flux *fluxtest.Server
	cmd  *exec.Cmd
	log  *output

	udp      string // host:port
	unixgram string // path
	unix     string // path of the stream socket
	http     string // base URL
}

type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sluice-clients-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sluice")
	build := exec.Command("go", "build", "-o", path, "./agent")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// start runs an agent with an upstream of its own until the test's end.
func start(t *testing.T) *agent {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{
		t: t, log: new(output),
		flux: fluxtest.New(t, fluxtest.Options{RequestsPerMinute: -1, QueriesPerMinute: -1, SinglesPerMinute: -1, MaxItems: 499}),
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	config := fmt.Sprintf(`listen: {udp: ["127.0.0.1:0"], unixgram: [{path: %[1]s/statsd.sock}], unix: [{path: %[1]s/stream.sock}], http: "127.0.0.1:0"}
aggregate: {interval: 1s}
upstreams: [{name: flux, url: %[2]q, api_key: %[3]q, requests_per_minute: 60000}]
spool: {dir: %[1]s/spool}
shutdown_timeout: 100s
log: {level: debug, format: json}
`, dir, a.flux.URL, fluxtest.Key)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	a.cmd = exec.Command(path, "run", "--config", file)
	a.cmd.Env = []string{"HOME=" + dir}
	a.cmd.Stderr = a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			lines := strings.Split(a.log.String(), "\n")
			t.Log("the end of the agent's log:\n" + strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	})
	until(t, "the agent is ready", a.ready)
	return a
}

// ready learns from the log where the agent listens.
func (a *agent) ready() bool {
	for l := range strings.Lines(a.log.String()) {
		var rec struct{ Msg, Listen string }
		if json.Unmarshal([]byte(l), &rec) != nil || !strings.HasSuffix(rec.Msg, "is ready") {
			continue
		}
		for at := range strings.FieldsSeq(rec.Listen) {
			kind, addr, _ := strings.Cut(at, ":")
			switch kind {
			case "udp":
				a.udp = addr
			case "unixgram":
				a.unixgram = addr
			case "unix":
				a.unix = addr
			case "http":
				a.http = "http://" + addr
			}
		}
		return true
	}
	return false
}

// stop ends the agent in the regular way, which delivers all it has taken.
func (a *agent) stop() {
	if a.cmd == nil {
		return
	}
	a.cmd.Process.Signal(syscall.SIGTERM)
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("the agent ended with %v", err)
	}
	a.cmd = nil
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (a *agent) get(path string) string {
	a.t.Helper()
	resp, err := http.Get(a.http + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		a.t.Fatalf("GET %s: status %d, %v", path, resp.StatusCode, err)
	}
	return string(body)
}

// intake is what the agent's listeners have counted.
type intake struct {
	packets, samples, dropped uint64
	rejected                  map[string]uint64
}

func (a *agent) intake() intake {
	a.t.Helper()
	var status struct {
		Listeners []struct {
			Packets       uint64
			Samples       uint64
			Rejected      map[string]uint64
			KernelDropped uint64 `json:"kernel_dropped"`
		}
	}
	if err := json.Unmarshal([]byte(a.get("/api/agent/status")), &status); err != nil {
		a.t.Fatal(err)
	}
	in := intake{rejected: map[string]uint64{}}
	for _, l := range status.Listeners {
		in.packets += l.Packets
		in.samples += l.Samples
		in.dropped += l.KernelDropped
		for reason, n := range l.Rejected {
			in.rejected[reason] += n
		}
	}
	maps.DeleteFunc(in.rejected, func(_ string, n uint64) bool { return n == 0 })
	return in
}

// compare waits until the agent has taken everything, stops it, and compares
// what Flux holds and what was refused with what was measured.
func (a *agent) compare(want *totals) {
	a.t.Helper()
	var in intake
	if want.samples > 0 {
		// What was sent is in the sockets' queues: soon nothing changes any more.
		for last := time.Now(); in.samples+in.dropped < want.samples && time.Since(last) < patience; time.Sleep(10 * time.Millisecond) {
			now := a.intake()
			if now.samples != in.samples {
				last = time.Now()
			}
			in = now
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // what comes last may be refused
		in = a.intake()
		refused := maps.Clone(in.rejected)
		delete(refused, "client_telemetry")
		if maps.Equal(refused, want.rejected) || time.Now().After(end) {
			break
		}
	}
	a.stop()
	if in.dropped > 0 {
		a.t.Errorf("the kernel dropped %d datagrams: the script is too fast for this machine", in.dropped)
	}
	if want.samples > 0 && in.samples != want.samples {
		a.t.Errorf("the agent took %d samples, want %d", in.samples, want.samples)
	}
	if n := in.rejected["client_telemetry"]; want.telemetry != (n > 0) {
		a.t.Errorf("%d lines of client telemetry were refused; the client sends some: %v", n, want.telemetry)
	} else if want.telemetry {
		want.rejected["client_telemetry"] = n
	}
	if !maps.Equal(in.rejected, want.rejected) {
		a.t.Errorf("rejected: %v, want %v", in.rejected, want.rejected)
	}
	got := upstream(a.flux)
	if diff := want.diff(got); len(diff) > 0 {
		a.t.Errorf("%d series are not what was measured:\n%s", len(diff), strings.Join(diff[:min(40, len(diff))], "\n"))
	}
	if !a.t.Failed() {
		a.t.Logf("client %s: %d samples in %d packets; the same at Flux: %s",
			strings.TrimPrefix(a.t.Name(), "Test"), in.samples, in.packets, want)
	}
}

// environment tells a script where Node's modules are and where an agent listens.
func environment(a *agent) []string {
	env := append(os.Environ(), "NODE_PATH="+os.Getenv("SLUICE_NODE_MODULES"))
	if a == nil {
		return env
	}
	host, port, err := net.SplitHostPort(a.udp)
	if err != nil {
		a.t.Fatal(err)
	}
	return append(env, "STATSD_HOST="+host, "STATSD_PORT="+port, "STATSD_UNIXGRAM="+a.unixgram, "STATSD_UNIX="+a.unix, "STATSD_HTTP="+a.http)
}

// run runs a command to its end and returns what it wrote to its standard output.
func run(t *testing.T, env []string, command ...string) string {
	t.Helper()
	out, err := execute(t, env, command...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return out
}

func execute(t *testing.T, env []string, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = env
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	return string(out), err
}

// need skips the test if a command that tells whether a client is there fails.
func need(t *testing.T, env []string, command ...string) {
	t.Helper()
	out, err := execute(t, env, command...)
	if err == nil {
		return
	}
	if os.Getenv("SLUICE_CLIENTS") == "all" {
		t.Fatalf("this client must be here: %s: %v\n%s", strings.Join(command, " "), err, out)
	}
	t.Skipf("not installed: %s: %v", strings.Join(command, " "), slices.Collect(strings.Lines(err.Error()))[0])
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// The end-to-end tests run the real binary: it is built once, started with a
// configuration of its own in a temporary folder, driven through its sockets,
// and watched through its log, its HTTP listener and a strict fake Flux. All
// traffic stays on loopback.

// patience bounds every wait for something that must happen. It is long, for a
// loaded machine is no reason to fail; no test waits that long when it passes.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if to := os.Getenv(senderVariable); to != "" {
		if err := sendLines(to); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

var binaryDir string // removed by TestMain

// binary builds the agent, once per run of the tests, and returns its path.
var binary = sync.OnceValues(func() (string, error) {
	var err error
	if binaryDir, err = os.MkdirTemp("", "sluice-test-"); err != nil {
		return "", err
	}
	path := filepath.Join(binaryDir, "sluice")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// setup is what a test wants of its agent. Zero values are fit for most tests.
type setup struct {
	Dir      string // of configuration, socket and spool; "" is a new one
	Flux     string // URL; "" is no upstream
	Interval string // of windows; "" is 1s
	Rate     int    // requests a minute; 0 is 60,000, which is no limit
	Upstream string // further members of the upstream, in YAML's flow form: "settle: 0s"
	Listen   string // instead of a UDP, a Unix datagram and an HTTP listener: lines of YAML
	Spool    string // folder of the spool; "" is Dir/spool
	Shutdown string // shutdown_timeout; "" is 10s
	Text     string // the whole configuration, instead of what the fields above come to
	Config   string // an existing file of that configuration
	Limits   string // further members of aggregate, in YAML's flow form: "max_series: 50"
	Env      []string
	Under    []string   // a command that the agent runs under, and that leaves it its process ID
	Inherit  []*os.File // sockets handed over the way systemd does
}

func (s *setup) yaml() string {
	def := func(v *string, to string) {
		if *v == "" {
			*v = to
		}
	}
	def(&s.Interval, "1s")
	def(&s.Spool, filepath.Join(s.Dir, "spool"))
	def(&s.Shutdown, "10s")
	def(&s.Listen, fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [{path: %q}]\n  http: \"127.0.0.1:0\"\n", filepath.Join(s.Dir, "statsd.sock")))
	if s.Rate == 0 {
		s.Rate = 60_000
	}
	if s.Limits != "" {
		s.Limits = ", " + s.Limits
	}
	upstreams := "[]"
	if s.Flux != "" {
		if s.Upstream != "" {
			s.Upstream = ", " + s.Upstream
		}
		upstreams = fmt.Sprintf("\n  - {name: flux, url: %q, api_key: %q, requests_per_minute: %d%s}", s.Flux, fluxtest.Key, s.Rate, s.Upstream)
	}
	return fmt.Sprintf("listen:\n%saggregate: {interval: %s%s}\nupstreams: %s\nspool: {dir: %q}\nlog: {level: debug, format: json}\nshutdown_timeout: %s\n",
		s.Listen, s.Interval, s.Limits, upstreams, s.Spool, s.Shutdown)
}

// A daemon is one running agent.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *logBuffer
	http string // base URL of its API; "" if it has none
	udp  string // host:port; "" if it has none
	unix string // path of the Unix datagram socket; "" if it has none
	file string // of the configuration
	flow string // path of the Unix stream socket; "" if it has none

	exited   chan struct{} // closed when the process is gone
	expected bool          // this test ended it
}

// start runs an agent until the test's end and waits until it is ready.
func start(t *testing.T, s setup) *daemon {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	file := s.Config
	if file == "" {
		file = filepath.Join(s.Dir, "sluice.yaml")
		if s.Text == "" {
			s.Text = s.yaml()
		}
		if err := os.WriteFile(file, []byte(s.Text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{t: t, log: new(logBuffer), file: file, exited: make(chan struct{})}
	command := append(s.Under[:len(s.Under):len(s.Under)], path, "run", "--config", file)
	d.cmd = exec.Command(command[0], command[1:]...)
	if len(s.Inherit) > 0 {
		// LISTEN_PID is the agent's own, which nobody knows before it runs.
		d.cmd = exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=$0 exec "$@"`, fmt.Sprint(len(s.Inherit)), path, "run", "--config", file)
		d.cmd.ExtraFiles = s.Inherit
	}
	d.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir}, s.Env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = patience
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait() // its result is in ProcessState
		close(d.exited)
	}()
	t.Cleanup(d.cleanUp)

	var ready line
	d.until("the agent is ready", func() bool {
		var ok bool
		ready, ok = d.log.find("is ready")
		return ok
	})
	for at := range strings.FieldsSeq(ready.text("listen")) {
		kind, addr, _ := strings.Cut(at, ":")
		switch {
		case kind == "udp" && d.udp == "":
			d.udp = addr
		case kind == "unixgram":
			d.unix = addr
		case kind == "unix":
			d.flow = addr
		case kind == "http" && d.http == "" && !strings.HasPrefix(addr, "unix:"):
			d.http = "http://" + addr
		}
	}
	if d.http != "" {
		d.until("/healthz answers", func() bool { status, _ := d.get("/healthz"); return status == http.StatusOK })
	}
	return d
}

// cleanUp ends a daemon that the test left running. One that has ended by
// itself fails the test, and so does one that does not end well.
func (d *daemon) cleanUp() {
	select {
	case <-d.exited:
		if !d.expected {
			d.t.Errorf("the agent exited by itself: %v", d.cmd.ProcessState)
		}
	default:
		d.terminate()
	}
	if d.t.Failed() {
		d.t.Logf("the end of the agent's log (pid %d):\n%s", d.cmd.Process.Pid, d.log.tail(40))
		if odd := d.log.odd(); odd != "" { // a panic, or a report of the race detector
			d.t.Logf("what it wrote beside its log:\n%s", odd)
		}
	}
}

// until waits for a condition, and fails the test if the agent exits first.
func (d *daemon) until(what string, ok func() bool) {
	d.t.Helper()
	d.untilStuck(what, func() uint64 { return 0 }, ok)
}

// untilStuck waits for a condition as until does, and for as long as progress
// changes; ten times patience is the most.
func (d *daemon) untilStuck(what string, progress func() uint64, ok func() bool) {
	d.t.Helper()
	began := time.Now()
	changed, last := began, uint64(0)
	for !ok() {
		select {
		case <-d.exited:
			d.t.Fatalf("the agent exited (%v) before: %s\n%s", d.cmd.ProcessState, what, d.log.tail(20))
		case <-time.After(10 * time.Millisecond):
		}
		if n := progress(); n != last {
			changed, last = time.Now(), n
		}
		if time.Since(changed) > patience || time.Since(began) > 10*patience {
			d.t.Fatalf("not within %v: %s\n%s", time.Since(began).Round(time.Second), what, d.log.tail(20))
		}
	}
}

// terminate asks the agent to stop and returns how long that took.
func (d *daemon) terminate() time.Duration {
	d.t.Helper()
	began := time.Now()
	d.signal(syscall.SIGTERM)
	d.wait()
	if code := d.cmd.ProcessState.ExitCode(); code != exitDone {
		d.t.Errorf("after SIGTERM: %v, want exit status 0", d.cmd.ProcessState)
	}
	return time.Since(began)
}

// kill ends the agent the hard way.
func (d *daemon) kill() {
	d.t.Helper()
	d.signal(syscall.SIGKILL)
	d.wait()
}

func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if s != syscall.SIGHUP {
		d.expected = true
	}
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Errorf("signal %v: %v", s, err)
	}
}

// memory is a field of the process's status, in bytes: RssAnon is the memory that
// is its own, VmHWM the most that was resident, with the pages of files.
func (d *daemon) memory(field string) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Skip("needs /proc to read the memory of a process")
	}
	for text := range strings.Lines(string(b)) {
		if f := strings.Fields(text); f[0] == field+":" {
			kib, _ := strconv.Atoi(f[1])
			return kib << 10
		}
	}
	d.t.Fatal("no " + field + " in /proc/PID/status")
	return 0
}

// wait waits for the process's end; should it not come, it makes it come.
func (d *daemon) wait() {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.cmd.Process.Kill()
		<-d.exited
		d.t.Errorf("the agent was still running %v after it was told to stop", patience)
	}
}

// localClient makes a connection per request: a test that counts file
// descriptors is not to count those of its own.
var localClient = &http.Client{
	Timeout:   patience,
	Transport: &http.Transport{DisableKeepAlives: true},
}

// get reads a page of the agent's API; status 0 means that there was no answer.
func (d *daemon) get(path string) (status int, body string) {
	req, err := http.NewRequest(http.MethodGet, d.http+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	return call(req)
}

// call makes one request; status 0 means that there was no answer.
func call(req *http.Request) (status int, body string) {
	resp, err := localClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// The types below are what the tests read of GET /api/agent/status. They are
// written anew here, so that a member that is renamed is noticed.
type agentStatus struct {
	Ready struct {
		OK     bool   `json:"ok"`
		Detail string `json:"detail"`
	} `json:"ready"`
	Listeners []struct {
		Name          string            `json:"name"`
		Packets       uint64            `json:"packets"`
		Samples       uint64            `json:"samples"`
		Rejected      map[string]uint64 `json:"rejected"`
		KernelDropped uint64            `json:"kernel_dropped"`
	} `json:"listeners"`
	Series struct {
		Open   int `json:"open"`
		Folded []struct {
			Metric, Kind, Tag, Sender string
			Examples                  []string
		} `json:"folded"`
	} `json:"series"`
	Spool struct {
		State    string `json:"state"`
		Detail   string `json:"detail"`
		LastSeq  uint64 `json:"last_seq"`
		InMemory int    `json:"windows_in_memory"`
	} `json:"spool"`
	Upstreams []struct {
		State     string `json:"state"`
		Dialect   string `json:"dialect"`
		LastError string `json:"last_error"`
		Pending   struct {
			Windows int `json:"windows"`
			Batches int `json:"batches"`
		} `json:"pending"`
		DeadLetters int         `json:"dead_letters"`
		Ledger      booksOf[up] `json:"ledger"`
	} `json:"upstreams"`
	Ledger booksOf[intake] `json:"ledger"`
}

type intake struct {
	Accepted, Windowed, Open, Lost uint64
	Dropped                        map[string]uint64
}

type up struct {
	Windowed, Delivered, Pending, Held uint64
	InDoubt                            uint64 `json:"in_doubt"`
	Dead, Filtered                     uint64
	Dropped                            map[string]uint64
}

// booksOf is a ledger: a member per kind, and conservation_error.
type booksOf[T any] struct {
	Counter, Gauge, Distribution, Set, Event T
	ConservationError                        *int64 `json:"conservation_error"`
}

func (b *booksOf[T]) all() []T { return []T{b.Counter, b.Gauge, b.Distribution, b.Set, b.Event} }

// sum adds up one column over all kinds.
func (b *booksOf[T]) sum(column func(T) uint64) (n uint64) {
	for _, k := range b.all() {
		n += column(k)
	}
	return n
}

func (d *daemon) status() agentStatus {
	d.t.Helper()
	var s agentStatus
	d.json("/api/agent/status", &s)
	return s
}

// json reads a page of the API into v.
func (d *daemon) json(path string, v any) {
	d.t.Helper()
	code, body := d.get(path)
	if err := json.Unmarshal([]byte(body), v); code != http.StatusOK || err != nil {
		d.t.Fatalf("GET %s: status %d, %v\n%s", path, code, err, body)
	}
}

// accepted is how many samples the agent has taken since its start.
func (s *agentStatus) accepted() uint64 {
	return s.Ledger.sum(func(k intake) uint64 { return k.Accepted })
}

// balanced fails the test if a ledger does not add up.
func (d *daemon) balanced() {
	d.t.Helper()
	s := d.status()
	if e := s.Ledger.ConservationError; e == nil || *e != 0 {
		d.t.Errorf("ledger.conservation_error = %v, want 0: %+v", value(e), s.Ledger)
	}
	for _, u := range s.Upstreams {
		if e := u.Ledger.ConservationError; e == nil || *e != 0 {
			d.t.Errorf("upstream's ledger.conservation_error = %v, want 0: %+v", value(e), u.Ledger)
		}
	}
}

func value(p *int64) any {
	if p == nil {
		return "missing"
	}
	return *p
}

// taken waits until the agent has accepted n samples.
func (d *daemon) taken(n uint64) {
	d.t.Helper()
	d.until(fmt.Sprintf("%d samples are accepted", n), func() bool { s := d.status(); return s.accepted() >= n })
}

// delivered waits until nothing is open, pending or in doubt any more. A window
// is closed first and stored then; the log tells of it when it is stored. However
// much there is to deliver, it waits as long as something comes of it.
func (d *daemon) delivered() {
	d.t.Helper()
	d.untilStuck("everything is delivered", d.settled, func() bool {
		s := d.status()
		closed := s.Ledger.sum(func(k intake) uint64 { return k.Windowed })
		if s.Spool.State != "ok" || s.Spool.InMemory > 0 || s.Ledger.sum(func(k intake) uint64 { return k.Open }) > 0 || d.log.stored() < closed {
			return false
		}
		s = d.status() // what was stored is in the books by now
		for _, u := range s.Upstreams {
			waiting := u.Ledger.sum(func(k up) uint64 { return k.Pending + k.Held + k.InDoubt })
			if u.Pending.Windows+u.Pending.Batches > 0 || waiting > 0 {
				return false
			}
		}
		return true
	})
}

// settled counts the samples with which upstreams are done.
func (d *daemon) settled() (n uint64) {
	for _, u := range d.status().Upstreams {
		n += u.Ledger.sum(func(k up) uint64 {
			done := k.Delivered + k.Dead
			for _, dropped := range k.Dropped {
				done += dropped
			}
			return done
		})
	}
	return n
}

// A logBuffer collects a process's output.
type logBuffer struct {
	mu sync.Mutex // guards the fields below
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// odd returns what is no record of the log.
func (l *logBuffer) odd() string {
	var b strings.Builder
	for _, rec := range l.lines() {
		b.WriteString(rec.text("raw"))
	}
	return b.String()
}

// A line is one record of the agent's log.
type line map[string]any

func (l line) text(key string) string { s, _ := l[key].(string); return s }
func (l line) number(key string) uint64 {
	f, _ := l[key].(float64) // counts and sequences in tests are far below 2^53
	return uint64(f)
}

// lines returns what was logged so far. A line that is no JSON, such as one
// cut off by a kill or a report of the race detector, has the key "raw" alone.
func (l *logBuffer) lines() []line {
	var all []line
	for text := range strings.Lines(l.String()) {
		var rec line
		if json.Unmarshal([]byte(text), &rec) != nil {
			rec = line{"raw": text}
		}
		all = append(all, rec)
	}
	return all
}

// find returns the first record whose message contains text.
func (l *logBuffer) find(text string) (line, bool) {
	for _, rec := range l.lines() {
		if strings.Contains(rec.text("msg"), text) {
			return rec, true
		}
	}
	return nil, false
}

// stored returns how many samples there are in the windows that were stored.
func (l *logBuffer) stored() (n uint64) {
	for _, rec := range l.lines() {
		if strings.HasSuffix(rec.text("msg"), "window closed") {
			n += rec.number("counter") + rec.number("gauge") + rec.number("distribution") + rec.number("set") + rec.number("event")
		}
	}
	return n
}

// count returns how many records have a message that contains text.
func (l *logBuffer) count(text string) (n int) {
	for _, rec := range l.lines() {
		if strings.Contains(rec.text("msg"), text) {
			n++
		}
	}
	return n
}

// everySocket is a Listen with a socket of each kind.
func everySocket(dir string) string {
	return fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [{path: %q}]\n  unix: [{path: %q}]\n  http: \"127.0.0.1:0\"\n",
		filepath.Join(dir, "statsd.sock"), filepath.Join(dir, "stream.sock"))
}

// framed is a packet as a stream socket takes it: behind its length, little endian.
func framed(packet string) string {
	n := len(packet)
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) + packet
}

// dial opens a socket to the agent: udp, unixgram or unix.
func (d *daemon) dial(network string) net.Conn {
	d.t.Helper()
	addr := map[string]string{"udp": d.udp, "unixgram": d.unix, "unix": d.flow}[network]
	conn, err := net.Dial(network, addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

// send writes one datagram.
func (d *daemon) send(conn net.Conn, text string) {
	d.t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		d.t.Fatalf("send %.80q: %v", text, err)
	}
}

// unlimited is a fake Flux whose budgets are not what a test is about.
func unlimited(o fluxtest.Options) fluxtest.Options {
	o.RequestsPerMinute, o.QueriesPerMinute, o.SinglesPerMinute = -1, -1, -1
	return o
}

// shared lets an upstream be asked by two at a time: the agent promises that its own
// deliveries come one by one, not that a program whose call it passes on, or a
// command beside it, waits for them.
func shared(o fluxtest.Options) fluxtest.Options {
	o.Allow = append(o.Allow, fluxtest.RuleConcurrent)
	return unlimited(o)
}

// runCommand runs one command of the binary to its end.
func runCommand(t *testing.T, dir string, env []string, stdin string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, path, args...)
	c.Dir, c.Env, c.Stdin, c.Stdout, c.Stderr = dir, env, strings.NewReader(stdin), &out, &errs
	if err := c.Run(); c.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("sluice %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

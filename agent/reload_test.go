package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// rewrite replaces a file the way editors do: under another name, then renamed.
func rewrite(t *testing.T, file, text string) {
	t.Helper()
	next := file + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
}

// config is the part of the status about the configuration.
func (d *daemon) config() (loaded, fault, restart string) {
	d.t.Helper()
	var s struct {
		Config struct {
			Loaded, Error string
			Restart       []string
		}
	}
	d.json("/api/agent/status", &s)
	return s.Config.Loaded, s.Config.Error, strings.Join(s.Config.Restart, " ")
}

// TestReload: a changed file is noticed and put into effect by difference; the log
// names the keys, and sockets that are the same stay.
func TestReload(t *testing.T) {
	t.Parallel() // it mostly waits
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	d := start(t, s)
	file := filepath.Join(s.Dir, "sluice.yaml")
	conn := d.dial("udp") // connected: it would notice if the socket were closed
	d.send(conn, "reload.a:1|c")
	d.taken(1)

	more := filepath.Join(s.Dir, "more.sock")
	text := strings.NewReplacer(
		"aggregate: {interval: 1s}", "aggregate: {interval: 2s, tags: {env: test}, max_series: 77}",
		"level: debug", "level: info",
		"unixgram: [", fmt.Sprintf("unixgram: [{path: %q}, ", more),
	).Replace(s.yaml())
	rewrite(t, file, text)
	d.until("the change is in effect", func() bool { return d.log.count("the configuration has changed and is in effect") == 1 })
	rec, _ := d.log.find("the configuration has changed")
	if got, want := rec.text("changed"), "listen.unixgram aggregate.interval aggregate.max_series aggregate.tags log.level"; got != want {
		t.Errorf("changed = %q, want %q", got, want)
	}
	d.send(conn, "reload.a:1|c")
	d.taken(2)
	extra, err := net.Dial("unixgram", more)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	d.send(extra, "reload.b:1|c")
	d.taken(3)
	d.until("the tag is upstream", func() bool { return flux.CounterTotal("reload.a", "env:test").Float == 1 })
	if got := d.metric("sluice_series_limit"); !strings.Contains(got, " 77") {
		t.Errorf("sluice_series_limit: %q, want 77", got)
	}

	rewrite(t, file, s.yaml()) // and back
	d.until("the change is undone", func() bool { _, err := net.Dial("unixgram", more); return err != nil })
	d.send(conn, "reload.a:1|c")
	d.taken(4)
	for _, l := range d.status().Listeners {
		if strings.HasPrefix(l.Name, "udp:") && l.Samples != 3 {
			t.Errorf("%s took %d samples since the start, want 3: it was opened again", l.Name, l.Samples)
		}
	}
	d.until("everything arrived", func() bool {
		return flux.CounterTotal("reload.a").Float == 3 && flux.CounterTotal("reload.b").Float == 1
	})
	d.balanced()
}

// TestReloadOfASocketsKind: a path may become one of another kind of Unix socket.
func TestReloadOfASocketsKind(t *testing.T) {
	t.Parallel() // it mostly waits
	s := setup{Dir: t.TempDir()}
	path := filepath.Join(s.Dir, "turned.sock")
	listen := "  udp: [\"127.0.0.1:0\"]\n  http: \"127.0.0.1:0\"\n"
	s.Listen = listen + fmt.Sprintf("  unixgram: [%q]\n  unix: []\n", path)
	d := start(t, s)
	for i, kind := range []string{"unix", "unixgram"} {
		s.Listen = listen + fmt.Sprintf("  unixgram: []\n  unix: []\n  %s: [%q]\n", kind, path)
		s.Listen = strings.Replace(s.Listen, "  "+kind+": []\n", "", 1)
		rewrite(t, filepath.Join(s.Dir, "sluice.yaml"), s.yaml())
		d.until("the change is in effect", func() bool {
			return d.log.count("the configuration has changed and is in effect") == i+1 || d.log.count("the configuration is refused") > 0
		})
		conn, err := net.Dial(kind, path)
		if err != nil {
			t.Fatalf("as %s: %v\n%s", kind, err, d.log.tail(5))
		}
		packet := "turned:1|c"
		if kind == "unix" {
			packet = framed(packet)
		}
		d.send(conn, packet)
		d.taken(uint64(i) + 1)
		conn.Close()
	}
	for _, c := range []struct {
		o, e endpoint
		want bool
	}{
		{endpoint{kind: "http", addr: "unix:/s"}, endpoint{kind: "unix", addr: "/s"}, true},
		{endpoint{kind: "unixgram", addr: "/s"}, endpoint{kind: "http", addr: "unix:/s"}, true},
		{endpoint{kind: "http", addr: "unix:/s"}, endpoint{kind: "unix", addr: "/t"}, false},
		{endpoint{kind: "udp", addr: "127.0.0.1:1"}, endpoint{kind: "http", addr: "127.0.0.1:1"}, false},
		{endpoint{kind: "udp", addr: "0.0.0.0:1"}, endpoint{kind: "udp", addr: "127.0.0.1:1"}, true},
	} {
		if got := c.o.inTheWayOf(c.e); got != c.want {
			t.Errorf("%+v in the way of %+v: %v, want %v", c.o, c.e, got, c.want)
		}
	}
}

// TestReloadRefused: a file that is at fault changes nothing, and every place tells of
// all its faults; so does one that is good but cannot be had.
func TestReloadRefused(t *testing.T) {
	t.Parallel() // it mostly waits
	s := setup{Dir: t.TempDir()}
	d := start(t, s)
	file := filepath.Join(s.Dir, "sluice.yaml")
	loaded, _, _ := d.config()
	taken := freePort(t, "udp")
	hold(t, "udp", "127.0.0.1:"+taken)
	for _, c := range []struct{ old, new, fault, other string }{
		{"interval: 1s", "intervall: 1s, max_series: 0", "aggregate.intervall: unknown key", "aggregate.max_series: 0 is under"},
		{"udp: [", `udp: ["127.0.0.1:` + taken + `", `, "address already in use", ""},
	} {
		rewrite(t, file, strings.Replace(s.yaml(), c.old, c.new, 1))
		for _, want := range []string{c.fault, c.other} {
			d.until("status tells of "+want, func() bool { _, fault, _ := d.config(); return strings.Contains(fault, want) })
			d.until("the log tells of "+want, func() bool { return strings.Contains(d.log.String(), want) })
			if status, body := d.get("/readyz"); status != 200 || !strings.Contains(body, want) || !strings.Contains(body, `"ok": true`) {
				t.Errorf("GET /readyz: status %d, %s, want ok and %q in it", status, body, want)
			}
		}
		if got, _, _ := d.config(); got != loaded {
			t.Errorf("config.loaded moved from %s to %s", loaded, got)
		}
		d.send(d.dial("udp"), "reload.refused:1|c")
	}
	d.taken(2)
	lines := d.log.count("the configuration is refused")
	for range 3 { // asked again it says so again, and otherwise not
		d.signal(syscall.SIGHUP)
		lines++
		d.until("the refusal is in the log", func() bool { return d.log.count("the configuration is refused") == lines })
	}
	rewrite(t, file, s.yaml())
	d.until("all is well again", func() bool { _, fault, _ := d.config(); return fault == "" })
	d.until("the log tells of it", func() bool { return d.log.count("the configuration is as it was") > 0 })
	if got := d.log.count("the configuration is as it was"); got != 1 {
		t.Errorf("%d lines that the configuration is as it was, want 1", got)
	}
}

// TestReloadRestart: what cannot change live says so, and the rest changes.
func TestReloadRestart(t *testing.T) {
	t.Parallel() // it mostly waits
	s := setup{Dir: t.TempDir()}
	d := start(t, s)
	text := strings.NewReplacer("interval: 1s", "interval: 1s, tags: {a: b}", "/spool\"", "/elsewhere\"", "format: json", "format: text").Replace(s.yaml())
	rewrite(t, filepath.Join(s.Dir, "sluice.yaml"), text)
	d.until("status tells of it", func() bool { _, _, restart := d.config(); return restart == "spool.dir log.format" })
	if _, body := d.get("/readyz"); !strings.Contains(body, "restart to apply spool.dir, log.format") {
		t.Errorf("GET /readyz: %s", body)
	}
	if s := d.status(); s.Spool.State != "ok" {
		t.Errorf("spool: %+v", s.Spool)
	}
	d.signal(syscall.SIGHUP) // it is known already, and not another change
	d.until("SIGHUP is answered", func() bool { return d.log.count("the configuration is as it was") == 1 })
	if got := d.log.count("the configuration has changed"); got != 1 {
		t.Errorf("%d changes were logged, want 1", got)
	}
}

// TestReloadConfigMap: Kubernetes swaps a symbolic link beside the one that was
// named; the file's own name never shows in an event.
func TestReloadConfigMap(t *testing.T) {
	t.Parallel() // it mostly waits
	s := setup{Dir: t.TempDir()}
	volume := t.TempDir()
	put := func(stamp, text string) {
		dir := filepath.Join(volume, ".."+stamp)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "sluice.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(volume, "..data_tmp")
		if err := os.Symlink(".."+stamp, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(volume, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("1", s.yaml())
	if err := os.Symlink("..data/sluice.yaml", filepath.Join(volume, "sluice.yaml")); err != nil {
		t.Fatal(err)
	}
	s.Config = filepath.Join(volume, "sluice.yaml")
	d := start(t, s)
	for n := 2; n < 5; n++ {
		put(strconv.Itoa(n), strings.Replace(s.yaml(), "interval: 1s", fmt.Sprintf("interval: 1s, max_series: %d", n), 1))
		os.RemoveAll(filepath.Join(volume, fmt.Sprintf("..%d", n-1)))
		d.until("the swap is noticed", func() bool { return strings.Contains(d.metric("sluice_series_limit"), fmt.Sprintf(" %d\n", n)) })
	}
}

// TestReloadUpstreams adds, changes and removes upstreams of a running agent, and
// rotates a key in its file. Nothing that was accepted is lost or comes twice.
func TestReloadUpstreams(t *testing.T) {
	t.Parallel()                                                                                                   // it mostly waits
	first := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleKey}})) // the first key is wrong on purpose
	second := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: first.URL}
	key := filepath.Join(s.Dir, "key")
	rewrite(t, key, "sk_live_wrong")
	one := strings.Replace(s.yaml(), fmt.Sprintf("api_key: %q", fluxtest.Key), fmt.Sprintf("api_key_file: %q", key), 1)
	s.Text = one
	d := start(t, s)
	conn := d.dial("udp")
	d.send(conn, "reload.up:1|c")
	d.until("the upstream refuses the key", func() bool { u := d.status().Upstreams; return len(u) == 1 && u[0].State == "held" })
	rewrite(t, key, fluxtest.Key+"\n")
	d.until("the rotated key is used", func() bool { return first.CounterTotal("reload.up").Float == 1 })

	two := strings.Replace(one, "upstreams: \n", fmt.Sprintf("upstreams: \n  - {name: second, url: %q, api_key: %q, requests_per_minute: 60000}\n", second.URL, fluxtest.Key), 1)
	file := filepath.Join(s.Dir, "sluice.yaml")
	rewrite(t, file, two)
	d.until("the second upstream is there", func() bool { return len(d.status().Upstreams) == 2 })
	d.send(conn, "reload.up:1|c")
	d.until("both got it", func() bool {
		return first.CounterTotal("reload.up").Float == 2 && second.CounterTotal("reload.up").Float == 1
	})
	rewrite(t, file, strings.Replace(two, "requests_per_minute: 60000}", "requests_per_minute: 59999, points: 5}", 1))
	d.until("the change is noticed", func() bool { return strings.Contains(d.metric("sluice_upstream_budget_requests_allowed"), "59999") })
	d.send(conn, "reload.up:1|c")
	d.until("both got it", func() bool {
		return first.CounterTotal("reload.up").Float == 3 && second.CounterTotal("reload.up").Float == 2
	})
	rewrite(t, file, one)
	d.until("the second upstream is gone", func() bool { return len(d.status().Upstreams) == 1 })
	d.send(conn, "reload.up:1|c")
	d.until("the first got it", func() bool { return first.CounterTotal("reload.up").Float == 4 })
	d.delivered()
	d.balanced()
	if got := second.CounterTotal("reload.up").Float; got != 2 {
		t.Errorf("the second upstream has %v, want what there was while it was configured: 2", got)
	}
	for _, f := range []*fluxtest.Server{first, second} {
		for _, dup := range f.Duplicates() {
			t.Errorf("sent twice: %+v and %+v", dup.First, dup.Again)
		}
	}
}

// TestReloadUnderLoad reloads again and again, half of the files broken, while
// clients send as fast as they may: every sample arrives, once, and neither
// descriptors nor goroutines are left over. SLUICE_LONG=1 makes it 1,000 reloads.
func TestReloadUnderLoad(t *testing.T) {
	reloads := 60
	if os.Getenv("SLUICE_LONG") != "" {
		reloads = 1000
	}
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	other := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	d := start(t, s)
	file := filepath.Join(s.Dir, "sluice.yaml")
	good := func(n int) string {
		pick := rand.New(rand.NewPCG(uint64(n), 1))
		aggregate := fmt.Sprintf("aggregate: {interval: 1s, tags: {round: %q}, max_series: %d}", strconv.Itoa(n), 1000+n)
		more := ""
		if pick.IntN(2) == 0 {
			more = fmt.Sprintf("{path: %q}, ", filepath.Join(s.Dir, "more.sock"))
		}
		upstreams := "upstreams: \n"
		if pick.IntN(2) == 0 {
			upstreams += fmt.Sprintf("  - {name: other, url: %q, api_key: %q, requests_per_minute: %d}\n", other.URL, fluxtest.Key, 50_000+pick.IntN(2))
		}
		udp := `udp: ["127.0.0.1:0"`
		if pick.IntN(2) == 0 {
			udp += `, "127.0.0.1:0"`
		}
		return strings.NewReplacer("aggregate: {interval: 1s}", aggregate, "unixgram: [", "unixgram: ["+more, "upstreams: \n", upstreams,
			`udp: ["127.0.0.1:0"`, udp, "requests_per_minute: 60000", fmt.Sprintf("requests_per_minute: %d", 60_000+pick.IntN(3))).Replace(s.yaml())
	}
	rewrite(t, file, good(-1))
	d.signal(syscall.SIGHUP)
	d.until("the first reload is done", func() bool { return d.log.count("the configuration has changed") == 1 })
	d.send(d.dial("udp"), "reload.first:1|c")
	d.taken(1)
	d.delivered() // the spool's files are open from here on
	files := settled(func() int { return len(d.descriptors()) })
	goroutines, intakes := settled(d.goroutines), settled(d.intakes)

	var sent atomic.Uint64
	var sending sync.WaitGroup
	stop := make(chan struct{})
	for _, network := range []string{"udp", "unixgram"} {
		conn := d.dial(network)
		sending.Go(func() {
			packet := []byte(strings.Repeat("reload.load:1|c\n", 50))
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				if _, err := conn.Write(packet); err != nil {
					t.Errorf("a socket that no reload concerns refused a packet: %v", err)
					return
				}
				sent.Add(50)
			}
		})
	}
	done, refused := 0, 0
	for n := range reloads {
		text := good(n)
		if n%2 == 1 {
			text = strings.Replace(text, "max_series", "max_serious", 1)
		}
		rewrite(t, file, text)
		d.signal(syscall.SIGHUP)
		if n%2 == 1 {
			refused++
		} else {
			done++
		}
		d.until("the reload is done", func() bool {
			var m struct {
				Applied, Refused float64
			}
			fmt.Sscanf(d.metric("sluice_config_reloads_total"), "sluice_config_reloads_total %g", &m.Applied)
			fmt.Sscanf(d.metric("sluice_config_refused_total"), "sluice_config_refused_total %g", &m.Refused)
			return int(m.Applied) >= done && int(m.Refused) >= refused
		})
	}
	close(stop)
	sending.Wait()
	rewrite(t, file, good(-1))
	d.signal(syscall.SIGHUP)
	d.taken(sent.Load() + 1)
	d.delivered()
	d.balanced()
	st := d.status()
	for _, l := range st.Listeners {
		if l.KernelDropped > 0 {
			t.Errorf("the kernel dropped %d packets of %s: this machine is too slow for the load, the figures mean nothing", l.KernelDropped, l.Name)
		}
	}
	if got := flux.CounterTotal("reload.load").Float; got != float64(sent.Load()) {
		t.Errorf("%v of %d samples arrived", got, sent.Load())
	}
	if n := len(flux.Duplicates()); n > 0 {
		t.Errorf("%d items were sent twice", n)
	}
	atMost(t, "descriptors", func() int { return len(d.descriptors()) }, files)
	atMost(t, "goroutines", d.goroutines, goroutines)
	atMost(t, "intakes", d.intakes, intakes)
	t.Logf("%d reloads, half of them refused: %d samples sent, %v arrived; %d descriptors before, %d after; %d goroutines before, %d after",
		reloads, sent.Load(), flux.CounterTotal("reload.load").Float, files, settled(func() int { return len(d.descriptors()) }), goroutines, settled(d.goroutines))
}

func (d *daemon) descriptors() []string {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	if err != nil {
		d.t.Skipf("needs /proc to count open files: %v", err)
	}
	var names []string
	for _, e := range entries {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", d.cmd.Process.Pid, e.Name()))
		names = append(names, to)
	}
	return names
}

func (d *daemon) intakes() (n int) {
	d.t.Helper()
	fmt.Sscanf(d.metric("sluice_intakes"), "sluice_intakes %d", &n)
	return n
}

func (d *daemon) goroutines() (n int) {
	d.t.Helper()
	fmt.Sscanf(d.metric("sluice_goroutines"), "sluice_goroutines %d", &n)
	return n
}

// TestReloadPolled: where the system has no watch to give, a changed file is found all
// the same, within lookAgain. SLUICE_LONG=1 runs it.
func TestReloadPolled(t *testing.T) {
	if os.Getenv("SLUICE_LONG") == "" {
		t.Skip("takes half a minute; SLUICE_LONG=1 runs it")
	}
	t.Parallel() // it mostly waits
	strace, err := exec.LookPath("strace")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("needs strace")
	}
	s := setup{Dir: t.TempDir()}
	s.Under = []string{strace, "-D", "-f", "--seccomp-bpf", "-o", filepath.Join(s.Dir, "trace"), "-e", "trace=inotify_init1", "-e", "inject=inotify_init1:error=EMFILE"}
	d := start(t, s)
	d.until("it says that there is no watch", func() bool { return d.log.count("are not watched for, only looked for from time to time") == 1 })
	rewrite(t, d.file, strings.Replace(s.yaml(), "interval: 1s", "interval: 1s, max_series: 78", 1))
	d.until("the change is in effect", func() bool { return d.log.count("the configuration has changed and is in effect") == 1 })
	if got := d.metric("sluice_series_limit"); !strings.Contains(got, " 78") {
		t.Errorf("sluice_series_limit: %q, want 78", got)
	}
}

package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/aggregator"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata/cli expect by what the binary does")

// TestCommandLine runs the scripts in testdata/cli: text in, text out. A script is
//
//	# what it shows
//	with udp-taken
//	env NAME=value
//	$ sluice check --config bad.yaml
//	exit 1
//	-- stdout --
//	-- stderr --
//	-- bad.yaml --
//	...
//
// It is run in an empty folder that has the files which follow stderr. In
// commands, variables and files, $WORK stands for that folder, $UDP, $HTTP and $OTHER for
// ports nobody listens on. "with" names things to prepare, see fixtures.
// Every message of the daemon that ends it, and of every command, is here.
func TestCommandLine(t *testing.T) {
	scripts, err := filepath.Glob("testdata/cli/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := readScript(t, path)
			if got := s.run(t); !maps.Equal(got.files, s.files) || got.exit != s.exit {
				if *update {
					got.write(t, path)
					return
				}
				t.Errorf("%s: %s\n$ sluice %s\ngot exit %d, want %d", path, s.title(), strings.Join(s.args, " "), got.exit, s.exit)
				for _, stream := range []string{"stdout", "stderr"} {
					if got.files[stream] != s.files[stream] {
						t.Errorf("got %s\n%swant\n%s", stream, got.files[stream], s.files[stream])
					}
				}
			}
		})
	}
}

// A script is one file of testdata/cli.
type script struct {
	head  []string // the lines before the first file
	args  []string
	env   []string
	with  []string
	exit  int
	order []string // names of the files
	files map[string]string
}

func readScript(t *testing.T, path string) script {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := script{files: map[string]string{"stdout": "", "stderr": ""}}
	name := ""
	for text := range strings.Lines(string(data)) {
		if mark, ok := strings.CutPrefix(text, "-- "); ok && strings.HasSuffix(mark, " --\n") {
			name = strings.TrimSuffix(mark, " --\n")
			s.order = append(s.order, name)
			s.files[name] = ""
			continue
		}
		if name != "" {
			s.files[name] += text
			continue
		}
		s.head = append(s.head, text)
		word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		switch word {
		case "#", "":
		case "with":
			s.with = append(s.with, rest)
		case "env":
			s.env = append(s.env, rest)
		case "exit":
			if s.exit, err = strconv.Atoi(rest); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		case "$":
			s.args = words(strings.TrimPrefix(rest, "sluice"))
		default:
			t.Fatalf("%s: unknown line %q", path, text)
		}
	}
	return s
}

// words splits a command line at spaces; quotes keep a word together.
func words(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1]+m[2])
	}
	return all
}

func (s *script) title() string { return strings.TrimSpace(strings.TrimPrefix(s.head[0], "#")) }

// run does what the script says and returns it with what came out.
func (s *script) run(t *testing.T) script {
	t.Helper()
	work := t.TempDir()
	vars := []string{"$WORK", work, "$UDP", freePort(t, "udp"), "$HTTP", freePort(t, "tcp"), "$OTHER", freePort(t, "udp")}
	fill := strings.NewReplacer(vars...).Replace
	for name, text := range s.files {
		if name == "stdout" || name == "stderr" {
			continue
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte(fill(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range s.with {
		prepare, ok := fixtures[name]
		if !ok {
			t.Fatalf("no fixture %q", name)
		}
		prepare(t, work, fill)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + work, "STATE_DIRECTORY=" + filepath.Join(work, "state")}
	for _, e := range s.env {
		env = append(env, fill(e))
	}
	args := make([]string, len(s.args))
	for i, a := range s.args {
		args[i] = fill(a)
	}
	got := *s
	got.files = maps.Clone(s.files)
	got.files["stdout"], got.files["stderr"], got.exit = runCommand(t, work, env, "", args...)
	for _, stream := range []string{"stdout", "stderr"} {
		got.files[stream] = unfill(got.files[stream], vars)
	}
	return got
}

var logTime = regexp.MustCompile(`(?m)^time=\S+`)

// unfill puts what differs from machine to machine and run to run back into
// its variable.
func unfill(text string, vars []string) string {
	for i := 0; i < len(vars); i += 2 {
		text = strings.ReplaceAll(text, vars[i+1], vars[i])
	}
	text = logTime.ReplaceAllString(text, "time=$$TIME")
	text = strings.ReplaceAll(text, fmt.Sprintf("(%s, %s/%s)", runtime.Version(), runtime.GOOS, runtime.GOARCH), "($GO)")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "[no newline at the end]\n"
	}
	return text
}

func (s *script) write(t *testing.T, path string) {
	t.Helper()
	var b strings.Builder
	for _, text := range s.head {
		if strings.HasPrefix(text, "exit ") {
			text = fmt.Sprintf("exit %d\n", s.exit)
		}
		b.WriteString(text)
	}
	for _, name := range []string{"stdout", "stderr"} {
		if !slices.Contains(s.order, name) {
			s.order = append(s.order, name)
		}
	}
	for _, name := range s.order {
		b.WriteString("-- " + name + " --\n" + s.files[name])
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fixtures are what a script can ask for: they prepare the folder work or
// hold a socket until the test ends.
var fixtures = map[string]func(t *testing.T, work string, fill func(string) string){
	"udp-taken": func(t *testing.T, _ string, fill func(string) string) {
		hold(t, "udp", fill("127.0.0.1:$UDP"))
	},
	"http-taken": func(t *testing.T, _ string, fill func(string) string) {
		hold(t, "tcp", fill("127.0.0.1:$HTTP"))
	},
	"key-folder": func(t *testing.T, work string, _ func(string) string) { // unreadable also for root
		if err := os.Mkdir(filepath.Join(work, "key"), 0o700); err != nil {
			t.Fatal(err)
		}
	},
	"file-at-socket": func(t *testing.T, work string, _ func(string) string) {
		if err := os.WriteFile(filepath.Join(work, "statsd.sock"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	},
	"old-spool": func(t *testing.T, work string, _ func(string) string) {
		unpack(t, oldSpool, filepath.Join(work, "state"))
	},
	"damaged-spool": func(t *testing.T, work string, _ func(string) string) {
		dir := filepath.Join(work, "state")
		unpack(t, oldSpool, dir)
		damage(t, filepath.Join(dir, "000001.seg"))
	},
	"listener": func(t *testing.T, _ string, fill func(string) string) {
		hold(t, "udp", fill("127.0.0.1:$OTHER"))
	},
}

// damage turns a bit of the middle of a frame in a segment.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(b, []byte("SLWF"))
	if at < 0 {
		t.Fatalf("%s has no frame", path)
	}
	b[at+300] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// hold listens on an address until the test ends.
func hold(t *testing.T, network, addr string) {
	t.Helper()
	var c interface{ Close() error }
	var err error
	if network == "udp" {
		c, err = net.ListenPacket(network, addr)
	} else {
		c, err = net.Listen(network, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// nextPort is where freePort looks on. Linux gives ports from 32768 on to whoever
// asks for any, as other tests do all the time, so it is below; another run of the
// tests begins elsewhere.
var nextPort = func() (n atomic.Int32) { n.Store(15_000 + rand.Int32N(15_000)); return }()

// freePort returns a port that nobody had a moment ago, each once.
func freePort(t *testing.T, network string) string {
	t.Helper()
	for {
		port := nextPort.Add(1)
		if port > 32_700 {
			t.Fatal("no port is free")
		}
		if port%10 == 0 || port == 16384 { // numbers that are in messages, too
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		var c io.Closer
		var err error
		if network == "udp" {
			c, err = net.ListenPacket(network, addr)
		} else {
			c, err = net.Listen(network, addr)
		}
		if err == nil {
			c.Close()
			return strconv.Itoa(int(port))
		}
	}
}

// TestHelpFits: the help of every command fits a screen of 40 lines, goes to
// standard output, has an example, and names every flag that the command has.
func TestHelpFits(t *testing.T) {
	root := newRoot()
	commands := [][]string{{}}
	for _, c := range root.Commands() {
		if !c.Hidden {
			commands = append(commands, []string{c.Name()})
		}
	}
	for _, args := range commands {
		stdout, stderr, exit := runCommand(t, t.TempDir(), nil, "", append(args, "--help")...)
		if lines := strings.Count(stdout, "\n"); lines > 40 || lines < 5 || stderr != "" || exit != exitDone {
			t.Errorf("sluice %s --help: %d lines, want 5 to 40; stderr %q; exit %d", strings.Join(args, " "), lines, stderr, exit)
		}
		for text := range strings.Lines(stdout) {
			if width := len([]rune(strings.TrimRight(text, "\n"))); width > 100 {
				t.Errorf("sluice %s --help: a line of %d characters: %s", strings.Join(args, " "), width, text)
			}
		}
	}
}

// TestSend: what sluice send writes is what the agent takes, over UDP and over a
// Unix socket, with the address from the configuration or from --addr.
func TestSend(t *testing.T) {
	dir := t.TempDir()
	d := start(t, setup{Dir: dir})
	env := []string{"HOME=" + dir}
	for i, args := range [][]string{
		{"send", "counter", "cli.requests", "2", "-t", "route:/users", "-t", "method:GET", "--addr", d.udp},
		{"send", "gauge", "cli.queue", "--addr", d.unix, "--", "-5"},
		{"send", "distribution", "cli.time", "145.2", "--addr", "unixgram:" + d.unix},
		{"send", "set", "cli.users", "user:42", "--addr", "udp:" + d.udp},
		{"send", "counter", "cli.requests", "1", "--addr", "unix:" + d.unix},
	} {
		stdout, stderr, exit := runCommand(t, dir, env, "", args...)
		if exit != exitDone || stderr != "" || !strings.HasPrefix(stdout, "sent to ") {
			t.Errorf("sluice %s: exit %d, stdout %q, stderr %q", strings.Join(args, " "), exit, stdout, stderr)
		}
		d.taken(uint64(i + 1))
	}
	s := d.status()
	if l := s.Ledger; l.Counter.Accepted != 2 || l.Gauge.Accepted != 1 || l.Distribution.Accepted != 1 || l.Set.Accepted != 1 {
		t.Errorf("accepted %+v, want two counters and one of each other kind", l)
	}
	// What the agent would not take is not sent.
	tags := []string{"send", "counter", "cli.requests", "1", "--addr", d.udp}
	for i := range aggregator.MaxTags + 1 {
		tags = append(tags, "-t", fmt.Sprint("k", i))
	}
	for why, args := range map[string][]string{
		"bad_name":      {"send", "counter", " ", "1", "--addr", d.udp},
		"name_too_long": {"send", "counter", strings.Repeat("\xff", 100), "1", "--addr", d.udp},
		"too_many_tags": tags,
	} {
		stdout, stderr, exit := runCommand(t, dir, env, "", args...)
		if exit != exitUsage || stdout != "" || !strings.Contains(stderr, "not taken: "+why) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", why, exit, stdout, stderr)
		}
	}
}

// TestIPv6Beside: with a fixed port on 127.0.0.1 the agent is on ::1 as well, for
// that is what localhost can mean to a client.
func TestIPv6Beside(t *testing.T) {
	probe, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no ::1: %v", err)
	}
	probe.Close()
	port := freePort(t, "udp")
	d := start(t, setup{Listen: fmt.Sprintf("  udp: [\"127.0.0.1:%s\"]\n  http: \"127.0.0.1:0\"\n", port)})
	for i, addr := range []string{"127.0.0.1:" + port, "[::1]:" + port} {
		conn, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		d.send(conn, "cli.ip:1|c")
		conn.Close()
		d.taken(uint64(i + 1))
	}
}

// TestUnusableSpool: a folder that cannot be used does not stop the agent. It
// says so in one line of the log and in /readyz, keeps windows in memory, and
// stores them when the folder can be used again.
func TestUnusableSpool(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	blocked := filepath.Join(dir, "state")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // root may write everywhere, but not below a file
		t.Fatal(err)
	}
	d := start(t, setup{Dir: dir, Spool: filepath.Join(blocked, "spool"), Interval: "100ms"})
	d.trouble("not a directory")
	conn := d.dial("udp")
	d.send(conn, "spool.none:1|c")
	d.until("a window waits in memory", func() bool { return strings.Contains(d.metric("sluice_spool_memory_windows"), " 1") })
	time.Sleep(2 * spoolRetry) // long enough for a line per attempt
	if n := d.log.count("windows are kept in memory"); n != 1 {
		t.Errorf("%d log lines about one cause, want 1\n%s", n, d.log)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	d.until("the spool is in order", func() bool { s := d.status(); return s.Spool.State == "ok" && s.Spool.LastSeq == 1 })
	if _, body := d.get("/readyz"); !strings.Contains(body, `"detail": ""`) {
		t.Errorf("GET /readyz: %s, want no detail any more", body)
	}
	d.balanced()
}

// TestLockedSpool: of two agents on one spool the second takes samples as well,
// keeps them in memory, and takes over when the first is gone.
func TestLockedSpool(t *testing.T) {
	t.Parallel() // it mostly waits
	spool := filepath.Join(t.TempDir(), "spool")
	first := start(t, setup{Spool: spool})
	first.until("the spool is attached", func() bool { return first.status().Spool.State == "ok" })
	second := start(t, setup{Spool: spool, Interval: "100ms"})
	second.trouble("used by another process")
	second.send(second.dial("udp"), "spool.second:1|c")
	second.taken(1)
	first.terminate()
	second.until("the spool is taken over", func() bool { s := second.status(); return s.Spool.State == "ok" && s.Spool.LastSeq == 1 })
}

// trouble waits until the agent reports trouble with its spool, and checks that
// it is ready all the same.
func (d *daemon) trouble(why string) {
	d.t.Helper()
	d.until("the log tells of "+why, func() bool { return strings.Contains(d.log.String(), why) })
	d.until("/readyz tells of "+why, func() bool {
		status, body := d.get("/readyz")
		return status == 200 && strings.Contains(body, `"ok": true`) && strings.Contains(body, why)
	})
	if s := d.status(); s.Spool.State != "memory" || !strings.Contains(s.Spool.Detail, why) {
		d.t.Errorf("status.spool = %+v, want state memory because of %s", s.Spool, why)
	}
}

// metric returns the lines of one family of /metrics, without its HELP and TYPE.
func (d *daemon) metric(name string) string {
	d.t.Helper()
	_, body := d.get("/metrics")
	var found []string
	for text := range strings.Lines(body) {
		if strings.HasPrefix(text, name+" ") || strings.HasPrefix(text, name+"{") {
			found = append(found, text)
		}
	}
	return strings.Join(found, "")
}

package clients

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A tap stands between a program and the agent: it hands on each datagram as it
// is and adds up by itself, with a parser that knows no more than these programs
// need, what the program has sent. So the test knows even what a program measures
// by the clock.
type tap struct {
	t    *testing.T
	in   *net.UDPConn
	out  net.Conn
	port string
	done chan struct{}

	mu    sync.Mutex         // guards the fields below
	want  *totals            // what was sent
	last  map[string]float64 // the last value of each name, as it was written
	signs map[string]bool    // gauges that have received a +
	odd   []string           // lines that the tap does not understand
}

func newTap(t *testing.T, a *agent) *tap {
	t.Helper()
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp", a.udp)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(in.LocalAddr().String())
	p := &tap{t: t, in: in, out: out, port: port, done: make(chan struct{}), want: newTotals(), last: map[string]float64{}, signs: map[string]bool{}}
	p.want.rounded = true
	go p.serve()
	t.Cleanup(func() { in.Close(); out.Close() })
	return p
}

// ending is a datagram that no program sends.
const ending = "\x00end"

func (p *tap) serve() {
	defer close(p.done)
	b := make([]byte, 65536)
	for {
		n, err := p.in.Read(b)
		if err != nil || string(b[:n]) == ending {
			return
		}
		p.mu.Lock()
		for line := range strings.Lines(string(b[:n])) {
			if !p.add(strings.TrimSpace(line)) {
				p.odd = append(p.odd, line)
			}
		}
		p.mu.Unlock()
		p.out.Write(b[:n])
	}
}

// add counts name:value|type[|@rate][|#tags].
func (p *tap) add(line string) bool {
	head, rest, _ := strings.Cut(line, "|")
	name, text, _ := strings.Cut(head, ":")
	v, err := strconv.ParseFloat(text, 64)
	sections := strings.Split(rest, "|")
	var tags []string
	weight := 1.0
	for _, s := range sections[1:] {
		switch {
		case strings.HasPrefix(s, "#"):
			tags = strings.Split(s[1:], ",")
		case strings.HasPrefix(s, "@"):
			rate, bad := strconv.ParseFloat(s[1:], 64)
			if bad != nil {
				return false
			}
			weight = 1 / rate
		}
	}
	p.last[name+"|"+sections[0]] = v
	switch sections[0] {
	case "c":
		p.want.count(name, v*weight, tags...)
	case "ms":
		p.want.observe(name, v, weight, tags...)
	case "g":
		p.signs[name] = p.signs[name] || strings.HasPrefix(text, "+")
		if p.signs[name] && strings.ContainsAny(text[:1], "+-") {
			p.want.change(name, v, tags...)
		} else {
			p.want.gauge(name, v, tags...)
		}
	default:
		return false
	}
	return err == nil
}

// finish waits until all is read: the program has ended, so what it sent is in the
// socket's buffer, in front of the last datagram.
func (p *tap) finish() *totals {
	p.t.Helper()
	if _, err := p.in.WriteTo([]byte(ending), p.in.LocalAddr()); err != nil {
		p.t.Fatal(err)
	}
	p.in.SetReadDeadline(time.Now().Add(patience))
	<-p.done
	if len(p.odd) > 0 {
		p.t.Errorf("lines that this test does not know: %q", p.odd)
	}
	return p.want
}

// latest is the last value that was sent for a name and a type.
func (p *tap) latest(name string) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[name]
}

// sum is what a counter has come to.
func (p *tap) sum(name string, tags ...string) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.want.of[series{"counter", name, strings.Join(tags, ",")}]; a != nil {
		return a.sum
	}
	return 0
}

// program runs a command until it is told to end, or the test does.
func program(t *testing.T, env []string, command ...string) (log *output, end func()) {
	t.Helper()
	log = new(output)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, log, log, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGINT)
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait() // how it ended is its own affair
		kill.Stop()
		if t.Failed() {
			t.Logf("%s:\n%s", command[0], log)
		}
	})
	t.Cleanup(end)
	return log, end
}

// over makes HTTP requests through a Unix socket.
func over(socket string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

const application = `
def application(environ, start):
    status = "404 Not Found" if environ["PATH_INFO"] == "/missing" else "200 OK"
    start(status, [("Content-Type", "text/plain")])
    return [b"hello"]
`

// ask makes requests, a quarter of which find nothing.
func ask(t *testing.T, c *http.Client, n int) {
	t.Helper()
	for i := range n {
		path := "/"
		if i%4 == 0 {
			path = "/missing"
		}
		resp, err := c.Get("http://program" + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body) // a server that cannot finish its answer does not measure it
		resp.Body.Close()
	}
}

func serves(c *http.Client) func() bool {
	return func() bool {
		resp, err := c.Get("http://program/")
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err == nil
	}
}

// TestGunicorn: a Python web server that measures its requests.
func TestGunicorn(t *testing.T) {
	t.Parallel()
	need(t, nil, "gunicorn", "--version")
	a := start(t)
	p := newTap(t, a)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(application), 0o600); err != nil {
		t.Fatal(err)
	}
	_, end := program(t, os.Environ(), "gunicorn", "--chdir", dir, "--bind", "unix:"+dir+"/http.sock", "--workers", "2", "--worker-tmp-dir", dir,
		"--statsd-host", "127.0.0.1:"+p.port, "--statsd-prefix", "shop", "--dogstatsd-tags", "env:test", "app:application")
	client := over(dir + "/http.sock")
	until(t, "gunicorn serves", serves(client))
	const n = 200
	ask(t, client, n)
	until(t, "all requests are measured", func() bool { return p.sum("shop.gunicorn.requests", "env:test") >= n+1 })
	end()
	want := p.finish()
	for name, v := range map[string]float64{"requests": n + 1, "request.status.404": n / 4, "request.status.200": n - n/4 + 1} {
		if got := p.sum("shop.gunicorn."+name, "env:test"); got != v {
			t.Errorf("gunicorn sent %v %s, want %v", got, name, v)
		}
	}
	if got := p.latest("shop.gunicorn.workers|g"); got != 2 {
		t.Errorf("gunicorn sent %v workers, want 2", got)
	}
	a.compare(want)
}

// TestUWSGI: an application server that pushes all its metrics every second. It
// sends running totals as counters, which every server of the protocol adds up.
func TestUWSGI(t *testing.T) {
	t.Parallel()
	need(t, nil, "uwsgi-core", "--plugin", "stats_pusher_statsd,python3", "--version")
	a := start(t)
	p := newTap(t, a)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(application), 0o600); err != nil {
		t.Fatal(err)
	}
	_, end := program(t, os.Environ(), "uwsgi-core", "--plugin", "stats_pusher_statsd,python3", "--master", "--processes", "2", "--die-on-term",
		"--http-socket", dir+"/http.sock", "--chdir", dir, "--wsgi-file", "app.py", "--disable-logging",
		"--enable-metrics", "--stats-pusher-default-freq", "1", "--stats-push", "statsd:127.0.0.1:"+p.port+",shop")
	client := over(dir + "/http.sock")
	until(t, "uWSGI serves", serves(client))
	const n = 100
	ask(t, client, n)
	until(t, "the requests are pushed", func() bool { return p.latest("shop.worker.0.requests|c") >= n+1 })
	end()
	want := p.finish()
	if got := p.latest("shop.worker.0.requests|c"); got != n+1 {
		t.Errorf("uWSGI sent %v requests, want %v", got, n+1)
	}
	a.compare(want)
}

// TestProFTPD: an FTP server that sends one name as counter, gauge and timer, and
// counts connections with +1 and -1.
func TestProFTPD(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs(os.Getenv("SLUICE_UNPACKED"))
	if err != nil {
		t.Fatal(err)
	}
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-*"))
	env := append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	server := filepath.Join(root, "usr/sbin/proftpd")
	need(t, env, server, "-v")
	need(t, nil, "ls", filepath.Join(root, "usr/lib/proftpd/mod_statsd.so"))
	a := start(t)
	p := newTap(t, a)
	port, end := startProFTPD(t, env, server, root, p.port)

	const n, failures = 20, 5
	for i := range n + failures {
		password := "secret"
		if i >= n {
			password = "wrong"
		}
		login(t, port, password)
	}
	until(t, "all connections are measured", func() bool { return p.sum("shop.command.EXIT.-") >= n+failures })
	end()
	want := p.finish()
	for name, v := range map[string]float64{
		"command.PASS.230": n, "command.PASS.530": failures, "command.USER.331": n + failures, "ftp.connection": n, "command.NOOP.200": n,
	} {
		if got := p.sum("shop." + name); got != v {
			t.Errorf("ProFTPD sent %v %s, want %v", got, name, v)
		}
	}
	if got := want.at("gauge", "shop.connection", nil).sum; got != 0 {
		t.Errorf("%v connections are open at the end", got)
	}
	a.compare(want)
}

func startProFTPD(t *testing.T, env []string, server, root, statsd string) (port string, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	name, group := "nobody", "nogroup"
	if me, err := user.Current(); err == nil && me.Uid != "0" {
		name, group = me.Username, me.Username
	}
	dir := t.TempDir()
	// The password is "secret", hashed by crypt(3) with SHA-512.
	const hash = "$6$sluice$53YcBYZ8GvbkQaDUAHJ59xbxm6.eVHc3R5SbbwC4BAKEyM.pWKS2Gt3flYWw1Jgp/c1BqS8r/PCtbuUtIUzOz0"
	write := func(file, text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", fmt.Sprintf("anna:%s:65534:65534::/:/bin/false\n", hash))
	write("conf", fmt.Sprintf(`ServerType standalone
DefaultAddress 127.0.0.1
Port %s
User %s
Group %s
ModulePath %s
LoadModule mod_statsd.c
UseIPv6 off
UseReverseDNS off
DelayEngine off
WtmpLog off
RequireValidShell off
MaxLoginAttempts 1
ScoreboardFile %[5]s/scoreboard
PidFile %[5]s/pid
AuthOrder mod_auth_file.c
AuthUserFile %[5]s/passwd
StatsdEngine on
StatsdServer udp://127.0.0.1:%[6]s shop
`, port, name, group, filepath.Join(root, "usr/lib/proftpd"), dir, statsd))
	log, end := program(t, env, server, "-n", "-c", filepath.Join(dir, "conf"))
	until(t, "ProFTPD serves", func() bool {
		return strings.Contains(log.String(), "STARTUP") // a connection would be measured
	})
	return port, end
}

// login runs one FTP session, without a transfer.
func login(t *testing.T, port, password string) {
	t.Helper()
	c, err := textproto.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(want int, command string) {
		t.Helper()
		if command != "" {
			if err := c.PrintfLine("%s", command); err != nil {
				t.Fatal(err)
			}
		}
		if _, text, err := c.ReadResponse(want); err != nil {
			t.Fatalf("%s: %v %s", command, err, text)
		}
	}
	say(220, "")
	say(331, "USER anna")
	if password != "secret" {
		say(530, "PASS "+password)
		return
	}
	say(230, "PASS "+password)
	say(200, "NOOP")
	say(221, "QUIT")
}

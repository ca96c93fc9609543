package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/listeners"
)

// statusShape is what docs/operations.md promises of GET /api/agent/status: all
// of these members are there, with these types; others may be, too. A member
// "ledger.*" stands for each kind.
var statusShape = map[string]string{
	"version": "string", "started": "string", "ready.ok": "bool", "ready.detail": "string",
	"config.file": "string", "config.loaded": "string", "config.error": "string",
	"listeners[].name": "string", "listeners[].packets": "number", "listeners[].samples": "number", "listeners[].rejected": "object",
	"listeners[].kernel_dropped": "number", "listeners[].receive_buffer": "number", "listeners[].connections": "number", "listeners[].senders": "array",
	"series.open": "number", "series.limit": "number", "series.folded": "array",
	"series.folded[].metric": "string", "series.folded[].tag": "string", "series.folded[].examples": "array", "series.folded[].sender": "string",
	"spool.dir": "string", "spool.state": "string", "spool.segments": "number", "spool.bytes": "number", "spool.oldest": "string",
	"spool.last_seq": "number", "spool.quarantined": "number",
	"upstreams[].name": "string", "upstreams[].type": "string", "upstreams[].dialect": "string", "upstreams[].state": "string",
	"upstreams[].width": "number", "upstreams[].budget.requests_used": "number", "upstreams[].budget.requests_allowed": "number",
	"upstreams[].budget.items_used": "number", "upstreams[].pending.windows": "number", "upstreams[].pending.batches": "number",
	"upstreams[].pending.oldest": "null", "upstreams[].catch_up": "number", "upstreams[].last_delivery": "string",
	"upstreams[].last_error": "string", "upstreams[].dead_letters": "number",
	"upstreams[].ledger.*.windowed": "number", "upstreams[].ledger.*.delivered": "number", "upstreams[].ledger.*.pending": "number",
	"upstreams[].ledger.*.held": "number", "upstreams[].ledger.*.in_doubt": "number", "upstreams[].ledger.*.dead": "number",
	"upstreams[].ledger.*.filtered": "number", "upstreams[].ledger.*.dropped": "object", "upstreams[].ledger.conservation_error": "number",
	"ledger.*.accepted": "number", "ledger.*.windowed": "number", "ledger.*.open": "number", "ledger.*.dropped": "object",
	"ledger.*.lost": "number", "ledger.conservation_error": "number",
}

// TestStatusShape compares the status of an agent that has seen something of
// everything with statusShape.
func TestStatusShape(t *testing.T) {
	d, _ := busy(t)
	_, body := d.get("/api/agent/status")
	var doc any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	got := map[string]string{}
	flatten("", doc, got)
	for path, typ := range statusShape {
		paths := []string{path}
		if before, after, ok := strings.Cut(path, "*"); ok {
			paths = nil
			for _, kind := range []string{"counter", "gauge", "distribution", "set"} {
				paths = append(paths, before+kind+after)
			}
		}
		for _, p := range paths {
			if got[p] != typ {
				t.Errorf("%s is of type %q, want %s", p, got[p], typ)
			}
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

// flatten lists the members of a JSON value with their types; the elements of
// an array share one path.
func flatten(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case nil:
		into[path] = "null"
	case bool:
		into[path] = "bool"
	case float64:
		into[path] = "number"
	case string:
		into[path] = "string"
	case []any:
		into[path] = "array"
		for _, e := range v {
			flatten(path+"[]", e, into)
		}
	case map[string]any:
		into[path] = "object"
		for k, e := range v {
			flatten(strings.TrimPrefix(path+"."+k, "."), e, into)
		}
	}
}

// busy starts an agent that has delivered samples of all kinds, refused a few
// lines and folded a metric, and a Flux that has them.
func busy(t *testing.T) (*daemon, *fluxtest.Server) {
	t.Helper()
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Flux: flux.URL,
		Listen: fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [%q]\n  http: \"127.0.0.1:0\"\n", filepath.Join(dir, "statsd.sock")),
		// One more line at the top level: keys of aggregate cannot be given twice.
		Interval: "1s, max_series_per_metric: 20"})
	conn := d.dial("udp")
	d.send(conn, "status.count:2|c|#route:/users\nstatus.gauge:7|g\nstatus.time:1:2:3|d\nstatus.users:a|s\nstatus.users:b|s\n")
	d.send(conn, "no line\nstatus.bad:x|c\nstatus.bad:y|c\nsluice.mine:1|c\n")
	for i := range 25 {
		d.send(d.dial("unixgram"), fmt.Sprintf("status.many:1|c|#id:%d", i))
	}
	d.taken(32)
	d.delivered()
	return d, flux
}

// TestNumbersAgree: what the status, /metrics and Flux say about the same
// samples is the same, and what was sent.
func TestNumbersAgree(t *testing.T) {
	d, flux := busy(t)
	d.balanced()
	s := d.status()
	for kind, k := range map[string]struct {
		intake intake
		up     up
		want   uint64
	}{
		"counter":      {s.Ledger.Counter, s.Upstreams[0].Ledger.Counter, 26},
		"gauge":        {s.Ledger.Gauge, s.Upstreams[0].Ledger.Gauge, 1},
		"distribution": {s.Ledger.Distribution, s.Upstreams[0].Ledger.Distribution, 3},
		"set":          {s.Ledger.Set, s.Upstreams[0].Ledger.Set, 2},
	} {
		if k.intake.Accepted != k.want || k.intake.Windowed != k.want || k.intake.Open != 0 || k.intake.Lost != 0 {
			t.Errorf("ledger of %s: %+v, want %d accepted and windowed", kind, k.intake, k.want)
		}
		if k.up.Windowed != k.want || k.up.Delivered != k.want {
			t.Errorf("upstream's ledger of %s: %+v, want %d windowed and delivered", kind, k.up, k.want)
		}
		for _, line := range []string{
			fmt.Sprintf(`sluice_accepted_total{kind="%s"} %d`, kind, k.want),
			fmt.Sprintf(`sluice_windowed_total{kind="%s"} %d`, kind, k.want),
			fmt.Sprintf(`sluice_upstream_samples{upstream="flux",kind="%s",column="delivered"} %d`, kind, k.want),
		} {
			if name, _, _ := strings.Cut(line, "{"); !strings.Contains(d.metric(name), line+"\n") {
				t.Errorf("/metrics lacks %s; it has\n%s", line, d.metric(name))
			}
		}
	}
	udp := s.Listeners[0]
	if want := map[string]uint64{"malformed_line": 1, "bad_value": 2, "reserved_name": 1}; !maps.Equal(udp.Rejected, want) || udp.Packets != 2 || udp.Samples != 7 {
		t.Errorf("the UDP listener has %+v, want 2 packets, 7 samples, rejected %v", udp, want)
	}
	if want := fmt.Sprintf(`sluice_rejected_total{listener="%s",reason="bad_value"} 2`, udp.Name); !strings.Contains(d.metric("sluice_rejected_total"), want) {
		t.Errorf("/metrics lacks %s; it has\n%s", want, d.metric("sluice_rejected_total"))
	}
	if got := flux.CounterTotal("status.many").Float; got != 25 { // folding merges, it drops nothing
		t.Errorf("the folded counter's total is %v, want 25", got)
	}
	if status, body := d.get("/readyz"); status != http.StatusOK || !strings.Contains(body, `"ok": true`) || !strings.Contains(body, `"detail": ""`) {
		t.Errorf("GET /readyz: %d %s, want 200, ok and no detail", status, body)
	}
}

var (
	helpLine   = regexp.MustCompile(`^# HELP (sluice_[a-z0-9_]+) (\S.*)$`)
	typeLine   = regexp.MustCompile(`^# TYPE (sluice_[a-z0-9_]+) (counter|gauge)$`)
	sampleLine = regexp.MustCompile(`^(sluice_[a-z0-9_]+)(?:\{[a-z_]+="(?:[^"\\]|\\.)*"(?:,[a-z_]+="(?:[^"\\]|\\.)*")*\})? (\S+)$`)
)

// families reads an exposition strictly and returns the types by family. (The
// module in .ci/clients reads it once more with Prometheus' own parser.)
func families(t *testing.T, text string) map[string]string {
	t.Helper()
	found, seen, help, current := map[string]string{}, map[string]bool{}, "", ""
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		switch help1, typ, sample := helpLine.FindStringSubmatch(l), typeLine.FindStringSubmatch(l), sampleLine.FindStringSubmatch(l); {
		case help1 != nil && found[help1[1]] == "":
			help = help1[1]
		case typ != nil && typ[1] == help:
			current, found[help] = help, typ[2]
		case sample != nil && sample[1] == current:
			series, _, _ := strings.Cut(l, " ")
			if v, err := strconv.ParseFloat(sample[2], 64); err != nil || v < 0 || seen[series] {
				t.Errorf("/metrics: %q: %v, negative, or there twice", l, err)
			}
			seen[series] = true
		default:
			t.Errorf("/metrics: unexpected line %q", l)
		}
	}
	for name, typ := range found {
		if (typ == "counter") != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s: counters, and only they, end in _total", name, typ)
		}
	}
	return found
}

// TestOperationsPage: docs/operations.md lists every metric and no other, with
// its type, and quotes every log line of the program.
func TestOperationsPage(t *testing.T) {
	data, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	d, _ := busy(t)
	_, text := d.get("/metrics")
	exported := families(t, text)
	listed := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(sluice_[a-z0-9_]+)(?:\\{[^}]*\\})?` \\| (\\w+) \\| .+ \\| .+ \\|$").FindAllStringSubmatch(page, -1) {
		listed[m[1]] = m[2]
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if listed[name] != exported[name] {
			t.Errorf("docs/operations.md has %s as a %q, /metrics as a %s", name, listed[name], exported[name])
		}
	}
	for name := range listed {
		if exported[name] == "" {
			t.Errorf("docs/operations.md has %s, /metrics has not", name)
		}
	}
	messages := logMessages(t)
	if len(messages) < 30 {
		t.Errorf("found only %d log lines in the source", len(messages))
	}
	for _, text := range messages {
		if !strings.Contains(page, "`"+text+"`") {
			t.Errorf("docs/operations.md does not have the log line `%s`", text)
		}
	}
	for reason := aggregator.Taken + 1; reason < aggregator.Reasons; reason++ {
		if !strings.Contains(page, "`"+reason.String()+"`") {
			t.Errorf("docs/operations.md does not have the reason %q", reason)
		}
	}
	for code := listeners.Accepted + 1; code < listeners.Codes; code++ {
		if !strings.Contains(page, "`"+code.String()+"`") {
			t.Errorf("docs/operations.md does not have the code %q", code)
		}
	}
	for path := range statusShape {
		member := path[strings.LastIndexAny(path, ".]*")+1:]
		if !strings.Contains(page, `"`+member+`"`) {
			t.Errorf("docs/operations.md does not have the status member %q of %s", member, path)
		}
	}
}

// logMessages returns the constant messages of all calls of slog's methods in
// the program.
func logMessages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{".", "../listeners", "../aggregator", "../spool", "../forwarder", "../configs"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
					return true
				}
				if lit, ok := call.Args[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					text, _ := strconv.Unquote(lit.Value)
					all = append(all, text)
				}
				return true
			})
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestGuard: pages of other sites, names that lead here and strangers without
// the token get nothing; probes and programs of this host do.
func TestGuard(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("canary-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := start(t, setup{})
	closed := start(t, setup{Listen: fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  http: \"127.0.0.1:0\"\n  http_token_file: %q\n  allowed_hosts: [\"metrics.internal\"]\n", token)})
	for _, c := range []struct {
		name, method, path, host, header, value string
		to                                      *daemon
		status                                  int
		code                                    string
		allow                                   string // of a wrong method; "" is GET
	}{
		{name: "plain", path: "/api/agent/status", to: open, status: 200},
		{name: "localhost", path: "/metrics", host: "localhost:1", to: open, status: 200},
		{name: "IPv6 loopback", path: "/metrics", host: "[::1]:8127", to: open, status: 200},
		{name: "rebinding", path: "/metrics", host: "evil.example", to: open, status: 421, code: "wrong_host"},
		{name: "rebinding, with port", path: "/api/agent/status", host: "evil.example:8127", to: open, status: 421, code: "wrong_host"},
		{name: "address of another host", path: "/metrics", host: "192.0.2.1", to: open, status: 421, code: "wrong_host"},
		{name: "cross-site read", path: "/api/agent/status", header: "Sec-Fetch-Site", value: "cross-site", to: open, status: 403, code: "cross_origin"},
		{name: "same-site read", path: "/metrics", header: "Sec-Fetch-Site", value: "same-site", to: open, status: 403, code: "cross_origin"},
		{name: "typed into the browser", path: "/metrics", header: "Sec-Fetch-Site", value: "none", to: open, status: 200},
		{name: "cross-site write", method: "POST", path: "/metrics", header: "Origin", value: "https://evil.example", to: open, status: 403, code: "cross_origin"},
		{name: "null origin", method: "POST", path: "/metrics", header: "Origin", value: "null", to: open, status: 403, code: "cross_origin"},
		{name: "probe of any name", path: "/up", host: "evil.example", to: open, status: 200},
		{name: "readiness tells details", path: "/readyz", host: "evil.example", to: open, status: 421, code: "wrong_host"},
		{name: "unknown path", path: "/nowhere", to: open, status: 404, code: "not_found"},
		{name: "root", path: "/", to: open, status: 404, code: "not_found"},
		{name: "wrong method", method: "POST", path: "/metrics", to: open, status: 405, code: "method_not_allowed"},
		{name: "wrong method of the write API", method: "DELETE", path: "/api/v1/metrics/batch", to: open, status: 405, code: "method_not_allowed", allow: "POST"},
		{name: "wrong method of a prefix", method: "PUT", path: "/pulse/api/v1/metrics/batch", to: open, status: 405, code: "method_not_allowed", allow: "POST"},
		{name: "wrong method of a probe", method: "POST", path: "/up", to: open, status: 405, code: "method_not_allowed"},
		{name: "prefix without a path", path: "/flux/api/v1/nowhere", to: open, status: 404, code: "not_found"},
		{name: "head", method: "HEAD", path: "/metrics", to: open, status: 200},
		{name: "no token", path: "/metrics", to: closed, status: 401, code: "unauthorized"},
		{name: "wrong token", path: "/api/agent/status", header: "Authorization", value: "Bearer wrong", to: closed, status: 401, code: "unauthorized"},
		{name: "token without Bearer", path: "/metrics", header: "Authorization", value: "canary-token", to: closed, status: 401, code: "unauthorized"},
		{name: "token", path: "/metrics", header: "Authorization", value: "Bearer canary-token", to: closed, status: 200},
		{name: "token does not help a stranger", path: "/metrics", host: "evil.example", header: "Authorization", value: "Bearer canary-token", to: closed, status: 421, code: "wrong_host"},
		{name: "allowed host", path: "/metrics", host: "metrics.internal", header: "Authorization", value: "Bearer canary-token", to: closed, status: 200},
		{name: "probe without a token", path: "/readyz", to: closed, status: 200},
		{name: "probe without a token", path: "/up", to: closed, status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodGet
			}
			req, err := http.NewRequest(c.method, c.to.http+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.host != "" {
				req.Host = c.host
			}
			if c.header != "" {
				req.Header.Set(c.header, c.value)
			}
			resp, err := localClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var answer struct{ Error, Code string }
			if c.code != "" {
				if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error == "" {
					t.Errorf("the error is not in the API's form: %+v, %v", answer, err)
				}
			}
			if resp.StatusCode != c.status || answer.Code != c.code {
				t.Errorf("%s %s: status %d, code %q; want %d, %q", c.method, c.path, resp.StatusCode, answer.Code, c.status, c.code)
			}
			if want := cmp.Or(c.allow, "GET"); c.status == http.StatusMethodNotAllowed && !strings.Contains(resp.Header.Get("Allow"), want) {
				t.Errorf("Allow: %q, want %s among them", resp.Header.Get("Allow"), want)
			}
		})
	}
	if strings.Contains(closed.log.String(), "canary-token") {
		t.Error("the token is in the log")
	}
}

// TestKeyIsNowhere: the key leaves the process in a request header and in no
// other way.
func TestKeyIsNowhere(t *testing.T) {
	t.Parallel() // it mostly waits
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleKey}}))
	flux.Fault(fluxtest.Fault{}, fluxtest.Status(503), fluxtest.CommitThenClose(), fluxtest.HTML())
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Flux: flux.URL, Upstream: "settle: 0s"})
	conn := d.dial("udp")
	d.until("the faults are over", func() bool {
		d.send(conn, "key:1|c") // each window is another batch to go wrong
		return d.log.count("looked for a batch in doubt") >= 2
	})
	pages := d.log.String()
	for _, path := range []string{"/metrics", "/api/agent/status", "/readyz", "/healthz"} {
		_, body := d.get(path)
		pages += body
	}
	if strings.Contains(pages, fluxtest.Key) {
		t.Errorf("the key is in the log or on a page:\n%s", pages)
	}
	d.terminate()
	err := filepath.WalkDir(filepath.Join(dir, "spool"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), fluxtest.Key) {
			t.Errorf("the key is in %s", path)
		}
		if info, err := e.Info(); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v, want 0600", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestServerLimits holds what docs/protocols.md says of connections against the server.
func TestServerLimits(t *testing.T) {
	page, err := os.ReadFile("../docs/protocols.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	s := (&agent{log: slog.New(slog.DiscardHandler), conns: listeners.NewConnLimit(1, 1)}).server()
	for _, want := range []string{
		fmt.Sprintf("A header has %.0f s, a whole request %.0f s, an idle connection stays %.0f s.", s.ReadHeaderTimeout.Seconds(), s.ReadTimeout.Seconds(), s.IdleTimeout.Seconds()),
		fmt.Sprintf("Over all HTTP sockets %d, of which %d from one address", listeners.MaxConns, listeners.MaxConnsOfPeer),
		fmt.Sprintf("A body has at most %d MiB", listeners.MaxBody>>20),
		fmt.Sprintf("A length above %d,%03d ends the connection", listeners.MaxPacket/1000, listeners.MaxPacket%1000),
		fmt.Sprintf("At most %d,%03d connections of a socket are open at once.", listeners.MaxStreams/1000, listeners.MaxStreams%1000),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/protocols.md does not say %q", want)
		}
	}
}

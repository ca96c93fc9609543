package configs

import (
	"errors"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the faults that were found into testdata/faults.txt, for a look at the difference")

// TestFaults compares whole messages: they are what a user has to work with.
func TestFaults(t *testing.T) {
	const file = "testdata/faults.txt"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(data), "=== ")
	lookup := env("PORT", "8125x", "TOKEN", "hunter2", "EMPTY", "", "NEWLINE", "a\nb")
	out := head
	for c := range strings.SplitSeq(rest, "=== ") {
		name, c, _ := strings.Cut(c, "\n")
		input, want, ok := strings.Cut(c, "----\n")
		if !ok {
			t.Fatalf("%s: case %q has no line of dashes", file, name)
		}
		var got string
		t.Run(name, func(t *testing.T) {
			_, err := Parse("sluice.yaml", []byte(input), lookup)
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Fatalf("Parse() = %v, want Errors", err)
			}
			got = err.Error() + "\n"
			if got != want && !*update {
				t.Errorf("Parse() =\n%swant\n%s", got, want)
			}
			for _, secret := range []string{"hunter2", "8125x", "sk_live", "secret@", "key=secret"} {
				if strings.Contains(got, secret) {
					t.Errorf("the message shows %q:\n%s", secret, got)
				}
			}
		})
		out += "=== " + name + "\n" + input + "----\n" + got
	}
	if *update {
		if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// goodFile uses every form that a value can have.
const goodFile = `
# a comment
listen:
  udp: []
  unixgram: [/run/a.sock, {path: /run/b.sock, mode: "0622", group: "33"}]
  unix: ["/run/${DIR}/c.sock"]
  http: ""
  allow_remote: ${YES}
  allowed_hosts: [Metrics.Example.com]
  receive_buffer: 100kB
  readers: "${TWO}"
aggregate:
  interval: ${TWO}s
  max_lateness: 0s
  max_series:
  max_series_per_metric: ~
  tags: {version: 1.10, on: yes, date: 2020-01-01, "a b": 'c ${DIR}', price: "5$", e: "", literal: "$${x}"}
  hostname: auto
upstreams:
  - api_key: "${KEY}"
    url: http://localhost:3000/
    scalars: []
    points: 0
  - {name: b, type: flux, api_key_file: /k, url: "HTTPS://flux.example.com:8443/base//", only: ["a.*", "b?", "$${x}"], except: ["*"]}
  - {name: c, url: "http://10.0.0.1", insecure: true, api_key: "p$$w$${x}", scalars: null}
spool: {dir: /s, max_bytes: 1TiB, retention: 1h30m}
log:
shutdown_timeout: 0s
`

var goodEnv = env("DIR", "x: y #", "YES", "true", "TWO", "2", "KEY", " sk_1\r\n")

func TestParse(t *testing.T) {
	got, err := Parse("f.yaml", []byte(goodFile), goodEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.File = "f.yaml"
	want.Listen = Listen{
		Unixgram:      []Socket{{"/run/a.sock", 0o660, ""}, {"/run/b.sock", 0o622, "33"}},
		Unix:          []Socket{{"/run/x: y #/c.sock", 0o660, ""}},
		AllowRemote:   true,
		AllowedHosts:  []string{"metrics.example.com"},
		ReceiveBuffer: 100_000,
		Readers:       2,
	}
	want.Aggregate.Interval, want.Aggregate.MaxLateness = 2*time.Second, 0
	want.Aggregate.Hostname = HostnameAuto
	want.Aggregate.Tags = map[string]string{"version": "1.10", "on": "yes", "date": "2020-01-01", "a b": "c x: y #", "price": "5$", "e": "", "literal": "${x}"}
	a, b, c := DefaultUpstream(Flux), DefaultUpstream(Flux), DefaultUpstream(Flux)
	a.APIKey, a.Key, a.URL, a.Scalars, a.Points = "sk_1", "sk_1", "http://localhost:3000", nil, 0
	b.Name, b.APIKeyFile, b.URL, b.Only, b.Except = "b", "/k", "HTTPS://flux.example.com:8443/base", []string{"a.*", "b?", "${x}"}, []string{"*"}
	c.Name, c.URL, c.Insecure, c.APIKey, c.Key = "c", "http://10.0.0.1", true, "p$$w${x}", "p$$w${x}"
	want.Upstreams = []Upstream{a, b, c}
	want.Spool = Spool{"/s", 1 << 40, 90 * time.Minute}
	want.ShutdownTimeout = 0
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Parse() = %#v\nwant %#v", got, want)
	}
	roundTrip(t, got)
}

// roundTrip checks that a configuration is printed as a file that reads back
// as the same, in an empty environment.
func roundTrip(t *testing.T, c Config) {
	t.Helper()
	out := Redacted(c)
	back, err := Parse(c.File, out, env())
	if err != nil {
		t.Fatalf("Parse(Redacted()) = %v\n%s", err, out)
	}
	if got, want := masked(back), masked(c); !reflect.DeepEqual(got, want) {
		t.Errorf("Parse(Redacted()) = %#v\nwant %#v\n%s", got, want, out)
	}
}

func TestParseEmpty(t *testing.T) {
	for _, file := range []string{"", "\n", "# nothing\n", "---\n", "{}", "~", "listen:\naggregate: {}\n", "\ufefflog: {}"} {
		got, err := Parse("", []byte(file), env())
		if want := Default(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v, want the defaults", file, got, err)
		}
	}
}

// Addresses that are taken without allow_remote, and with it.
func TestAddresses(t *testing.T) {
	for addr, local := range map[string]bool{
		"127.0.0.1:8125": true, "127.9.9.9:1": true, "localhost:8125": true, "LOCALHOST:8125": true, "[::1]:8125": true,
		"[::ffff:127.0.0.1]:8125": true, "127.0.0.1:0": true,
		":8125": false, "0.0.0.0:8125": false, "[::]:8125": false, "[::ffff:10.0.0.1]:8125": false, "localhost.example.com:8125": false, "[fe80::1%eth0]:8125": false,
	} {
		for _, remote := range []bool{false, true} {
			c := Default()
			c.Listen.UDP, c.Listen.AllowRemote = []string{addr}, remote
			if err := Validate(&c); (err == nil) != (local || remote) {
				t.Errorf("Validate(listen.udp: %s, allow_remote: %t) = %v", addr, remote, err)
			}
		}
	}
}

// A file of the wrong kind is refused without a flood, and quickly.
func TestParseBounds(t *testing.T) {
	start := time.Now()
	for name, file := range map[string]string{
		"over the limit": strings.Repeat("#", maxFile+1),
		"faults":         strings.Repeat("x: 1\n", maxFile/5),
		"depth":          strings.Repeat("[", 5000),
		"entries":        "listen: {udp: [" + strings.Repeat("a,", 10_000) + "]}",
		"tags":           "aggregate: {tags: {" + strings.Repeat("a: b, ", 10_000) + "}}",
		"variables":      "listen:\n  udp:\n" + strings.Repeat("  - ${BIG}\n", 1000),
	} {
		_, err := Parse("f", []byte(file), env("BIG", strings.Repeat("x", 100_000)))
		if err == nil {
			t.Errorf("%s: Parse() took it", name)
		} else if n := strings.Count(err.Error(), "\n"); n > maxShown || len(err.Error()) > 100_000 {
			t.Errorf("%s: Parse() has a message of %d lines and %d bytes", name, n+1, len(err.Error()))
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("Parse() of the files above took %v", d)
	}
}

// Variables can repeat a large value; the sum is bounded, not only each value.
func TestExpansionBound(t *testing.T) {
	file := "listen:\n  allowed_hosts:\n" + strings.Repeat("  - ${BIG}\n", 3)
	_, err := Parse("f", []byte(file), env("BIG", strings.Repeat("x", maxFile/2)))
	faults, _ := errors.AsType[Errors](err)
	if len(faults) != 3 {
		t.Fatalf("Parse() = %v, want a fault for each line", err)
	}
	if got, want := faults[2].String(), `f:5:5: listen.allowed_hosts[2]: "${BIG}" brings the values from variables over the limit of 1048576 bytes together; shorten them`; got != want {
		t.Errorf("Parse() has the fault %s, want %s", got, want)
	}
}

// Too many entries are one fault with the number, the limit and the key.
func TestManyEntries(t *testing.T) {
	c := Default()
	c.Upstreams = make([]Upstream, maxUpstreams+1)
	for i := range c.Upstreams {
		u := DefaultUpstream(Flux)
		u.Name, u.APIKey = string(rune('a'+i)), "k"
		c.Upstreams[i] = u
	}
	err := Validate(&c)
	if got, want := err.Error(), "upstreams: has 17 entries, over the limit of 16; take some out"; got != want {
		t.Errorf("Validate() = %s, want %s", got, want)
	}
	c.Upstreams = c.Upstreams[:maxUpstreams]
	if err := Validate(&c); err != nil {
		t.Errorf("Validate() of %d upstreams = %v", maxUpstreams, err)
	}
}

func TestExpand(t *testing.T) {
	lookup := env("A", "1", "B", "${A}", "_x9", "$")
	for in, want := range map[string]string{
		"": "", "a": "a", "$": "$", "$$": "$$", "$A": "$A", "a$": "a$", "{A}": "{A}",
		"${A}": "1", "x${A}y${A}": "x1y1", "${B}": "${A}", "${_x9}{A}": "${A}",
		"$${A}": "${A}", "$$${A}": "$${A}", "$${": "${", "$${A}${A}": "${A}1", "$ ${A}": "$ 1",
		"${": "error", "${A": "error", "${}": "error", "${A-B}": "error", "${ A}": "error", "${C}": "error", "${9}": "error",
	} {
		got, _, err := expand(in, lookup)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
		if back, _, err := expand(escape(in), lookup); err != nil || back != in {
			t.Errorf("expand(escape(%q)) = %q, %v", in, back, err)
		}
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[Size]string{0: "0B", 1: "1B", 1000: "1kB", 1024: "1KiB", 1 << 30: "1GiB", 1536 << 20: "1536MiB", 3e9: "3GB", 1e12 + 1: "1000000000001B"} {
		if got := s.String(); got != want {
			t.Errorf("Size(%d).String() = %s, want %s", s, got, want)
		}
		if got, err := parseSize(want); got != s || err != nil {
			t.Errorf("parseSize(%s) = %d, %v, want %d", want, got, err, s)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 6 * time.Hour: "6h", 90 * time.Minute: "1h30m", time.Minute: "1m", 100 * time.Millisecond: "100ms", time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m"} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%d) = %s, want %s", d, got, want)
		}
		if got, err := parseDuration(want); got != d || err != nil {
			t.Errorf("parseDuration(%s) = %d, %v, want %d", want, got, err, d)
		}
	}
}

// FuzzParse: no panic; every fault has a position; what is accepted is printed
// as a file that reads back as the same configuration.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Template))
	f.Add([]byte(strings.ReplaceAll(commentedKey.ReplaceAllString(Template, "$1$2"), "FLUX_API_KEY", "KEY")))
	f.Add([]byte(goodFile))
	data, err := os.ReadFile("testdata/faults.txt")
	if err != nil {
		f.Fatal(err)
	}
	for c := range strings.SplitSeq(string(data), "=== ") {
		_, c, _ = strings.Cut(c, "\n")
		input, _, _ := strings.Cut(c, "----\n")
		f.Add([]byte(input))
	}
	f.Add([]byte("aggregate: {tags: {a: \"$${x}\", \"null\": \"null\", \"\\u2028\": '\\u0085', \"é\": \"😀 \"}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, goodEnv)
		if err != nil {
			for _, fault := range err.(Errors) {
				if fault.Line < 1 || fault.Col < 1 || fault.File != "f" || strings.ContainsAny(fault.String(), "\n\r") {
					t.Errorf("fault %+v has no position or more than one line", fault)
				}
			}
			return
		}
		roundTrip(t, c)
	})
}

// masked is c with its secrets as Redacted prints them.
func masked(c Config) Config {
	c.Upstreams = slices.Clone(c.Upstreams)
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		u.APIKey, u.Key = Secret(u.APIKey.String()), Secret(u.Key.String())
	}
	c.Warnings = nil
	return c
}

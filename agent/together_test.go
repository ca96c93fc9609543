package main

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// TestUpstreamsTogether runs five upstreams side by side: a Flux that wants some of
// the metrics, a Pulse, a DataCat, a Flux that answers nothing, and one that is not
// there. Those that work get everything while the other two have nothing.
func TestUpstreamsTogether(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	pulse := fluxtest.New(t, unlimited(fluxtest.Options{Dialect: fluxtest.PulseOpen, MaxItems: 999}))
	datacat := fluxtest.New(t, unlimited(fluxtest.Options{Dialect: fluxtest.DataCat}))
	slow := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Fault: func(int, *http.Request) fluxtest.Fault { return fluxtest.Hang() }}))
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()

	dir := t.TempDir()
	var upstreams strings.Builder
	for _, u := range []struct{ name, typ, url, more string }{
		{"slow", "flux", slow.URL, ""},
		{"flux", "flux", flux.URL, `, only: ["orders.*"], except: ["*.debug"]`},
		{"pulse", "pulse", pulse.URL, ""},
		{"away", "flux", "http://" + nobody.Addr().String(), ""},
		{"datacat", "datacat", datacat.URL, ""},
	} {
		fmt.Fprintf(&upstreams, "\n  - {name: %s, type: %s, url: %q, api_key: %q, requests_per_minute: 60000%s}", u.name, u.typ, u.url, fluxtest.Key, u.more)
	}
	d := start(t, setup{Dir: dir, Text: fmt.Sprintf("listen:\n  unixgram: [{path: %q}]\n  udp: []\n  http: \"127.0.0.1:0\"\naggregate: {interval: 1s}\nupstreams:%s\nspool: {dir: %q}\nlog: {level: debug, format: json}\nshutdown_timeout: 1s\n",
		filepath.Join(dir, "statsd.sock"), upstreams.String(), filepath.Join(dir, "spool"))})
	conn := d.dial("unixgram")
	const rounds = 30
	for range rounds {
		d.send(conn, "orders.paid:2|c|#shop:a\norders.debug:1|c\nlogins:1|c\nusers:u1|s\ntook:5:7|ms\nqueue:3|g")
		time.Sleep(100 * time.Millisecond)
	}
	d.taken(7 * rounds)
	d.until("those that work have everything", func() bool {
		return flux.CounterTotal("orders.paid").Float == 2*rounds && pulse.CounterTotal("took.count").Float == 2*rounds &&
			pulse.CounterTotal("orders.paid").Float == 2*rounds && datacat.Grown("took.count") == 2*rounds && datacat.Grown("orders.paid", "shop:a") == 2*rounds &&
			datacat.Grown("logins") == rounds
	})
	d.until("and their books say so", func() bool {
		s := d.status()
		for _, i := range []int{1, 2, 4} {
			if s.Upstreams[i].Ledger.sum(func(k up) uint64 { return k.Delivered + k.Filtered }) != 7*rounds {
				return false
			}
		}
		return true
	})
	d.balanced()
	s := d.status()
	for _, i := range []int{0, 3} {
		if got := s.Upstreams[i].Ledger.sum(func(k up) uint64 { return k.Pending + k.InDoubt }); got != 7*rounds {
			t.Errorf("upstream %d has %d samples waiting, want all %d: %+v", i, got, 7*rounds, s.Upstreams[i])
		}
	}
	if got, want := s.Upstreams[1].Ledger.sum(func(k up) uint64 { return k.Filtered }), uint64(6*rounds); got != want {
		t.Errorf("flux has %d samples filtered, want %d", got, want)
	}
	if got := s.Upstreams[3].State; got != "retrying" {
		t.Errorf("the upstream that is away is %q, want retrying", got)
	}
	for name, fake := range map[string]*fluxtest.Server{"pulse": pulse, "datacat": datacat} {
		if got, ok := fake.GaugeLast("users.unique"); !ok || got.Value != 1 {
			t.Errorf("%s has users.unique = %v, want 1", name, got.Value)
		}
		if got := len(fake.Points("took")); got != 2*rounds {
			t.Errorf("%s has %d points of took, want %d", name, got, 2*rounds)
		}
	}
	if got := len(slow.Rows()) + len(flux.RowsOf("orders.debug")) + len(flux.RowsOf("logins")); got != 0 {
		t.Errorf("%d rows arrived where none should", got)
	}
}

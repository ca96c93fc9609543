package main

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// TestStopUnderLoad stops the agent while the kernel holds datagrams it has not
// read: everything that was accepted before the signal arrives upstream, from
// this process or from the next.
func TestStopUnderLoad(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	var sent float64
	for round := range 5 {
		d := start(t, s)
		conn := d.dial("udp")
		packet := strings.Repeat("stop.udp:1|c\n", 100)
		// 1,000 datagrams of 1.3 KB are 2.3 MB of the kernel's memory, well inside
		// the receive buffer of 4 MiB should the agent not read a single one.
		for range 1000 {
			d.send(conn, packet)
			sent += 100
		}
		d.terminate()
		if dropped, ok := d.log.find("kernel"); ok {
			t.Fatalf("round %d: this machine grants too small a receive buffer for this test: %v", round, dropped)
		}
	}
	d := start(t, s)
	d.delivered()
	d.balanced()
	if got := flux.CounterTotal("stop.udp").Float; got != sent {
		t.Errorf("%v of %v samples arrived", got, sent)
	}
}

// TestStopUnderUnixLoad stops the agent while clients go on writing to its Unix
// socket: every write that succeeded counts, the others fail.
func TestStopUnderUnixLoad(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL}
	d := start(t, s)
	const clients = 4
	var written [clients]int
	var writing sync.WaitGroup
	for i := range clients {
		conn := d.dial("unixgram")
		writing.Go(func() {
			line := fmt.Appendf(nil, "stop.unix:1|c|#client:%d", i)
			for end := time.Now().Add(patience); time.Now().Before(end); written[i]++ {
				if _, err := conn.Write(line); err != nil {
					return
				}
			}
			t.Errorf("client %d could write for %v after the agent was told to stop", i, patience)
		})
	}
	time.Sleep(1500 * time.Millisecond)
	d.terminate()
	writing.Wait()
	if _, err := net.Dial("unixgram", d.unix); err == nil {
		t.Error("the socket file is still there after a clean stop")
	}
	d = start(t, s)
	d.delivered()
	d.balanced()
	for i, n := range written {
		if got := flux.CounterTotal("stop.unix", fmt.Sprintf("client:%d", i)).Float; got != float64(n) {
			t.Errorf("client %d wrote %d samples, %v arrived", i, n, got)
		}
	}
	t.Logf("written %v", written)
}

// TestStopWhileUpstreamHangs: an upstream that takes a batch and never answers
// holds the agent up for no longer than shutdown_timeout; the next process looks
// the batch up, and nothing is lost or doubled. Once it had stored the batch,
// and once it had not.
func TestStopWhileUpstreamHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, c := range []struct {
		name    string
		dialect fluxtest.Dialect
		fault   fluxtest.Fault
	}{
		{"stored", fluxtest.Hosted, fluxtest.CommitThenHang()},
		{"not stored", fluxtest.Hosted, fluxtest.Hang()},
		{"self-hosted, stored", fluxtest.SelfHosted, fluxtest.CommitThenHang()},
		{"self-hosted, not stored", fluxtest.SelfHosted, fluxtest.Hang()},
	} {
		t.Run(c.name, func(t *testing.T) {
			flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Dialect: c.dialect}))
			flux.Fault(fluxtest.Fault{}, c.fault) // the first call asks for the dialect
			s := setup{Dir: t.TempDir(), Flux: flux.URL, Shutdown: "2s", Upstream: "settle: 1s"}
			d := start(t, s)
			conn := d.dial("udp")
			const n = 1000
			for i := range n / 10 {
				d.send(conn, strings.Repeat(fmt.Sprintf("stop.hang:1|c|#series:%d\n", i), 10))
			}
			d.taken(n)
			d.until("the request hangs", func() bool { return len(flux.Requests()) == 2 })
			d.send(conn, "stop.after:1|c") // waits behind the one that hangs
			d.taken(n + 1)
			if took := d.terminate(); took > 60*time.Second { // it would hang for the 2 minutes of a request
				t.Errorf("stopping took %v with a shutdown_timeout of 2s", took)
			}
			d = start(t, s)
			d.delivered()
			d.balanced()
			if got := flux.CounterTotal("stop.hang").Float; got != n {
				t.Errorf("%v samples arrived, want %d", got, n)
			}
			if got := flux.CounterTotal("stop.after").Float; got != 1 {
				t.Errorf("%v samples behind them arrived, want 1", got)
			}
			// What hangs at a self-hosted server is a definition: a counter of 0 by itself,
			// which carries no sample and no marker. It is sent again, and the value follows.
			for _, v := range flux.TakeViolations() {
				call := flux.Requests()[v.Request-1]
				if c.dialect != fluxtest.SelfHosted || v.Rule != fluxtest.RuleTwice || call.Path != "/api/v1/metrics" || call.Items != 1 {
					t.Error(v)
				}
			}
			for _, dup := range flux.Duplicates() {
				if c.dialect == fluxtest.SelfHosted && dup.First.Type == "counter" && dup.First.Value == 0 {
					continue
				}
				t.Errorf("sent twice: %+v and %+v", dup.First, dup.Again)
			}
		})
	}
}

// TestStopWithoutUpstream: with nobody to deliver to a stop takes no time,
// and the next start finds the spool as it was left.
func TestStopWithoutUpstream(t *testing.T) {
	s := setup{Dir: t.TempDir(), Shutdown: "100s"}
	last := uint64(0)
	for range 3 {
		d := start(t, s)
		d.until("the spool is attached", func() bool { return d.status().Spool.State == "ok" })
		if got := d.status().Spool.LastSeq; got != last {
			t.Errorf("last_seq = %d after a restart, want %d", got, last)
		}
		d.send(d.dial("udp"), "stop.alone:1|c") // not before: the window may end at any time
		d.taken(1)
		if took := d.terminate(); took > 60*time.Second {
			t.Errorf("stopping took %v", took)
		}
		last++ // the open window was stored, on the way out unless it had ended
		if rec, ok := d.log.find("quarantine"); ok {
			t.Errorf("after a clean stop: %v", rec)
		}
	}
}

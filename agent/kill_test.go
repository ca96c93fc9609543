package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// killInterval is the width of the windows that the kill test makes: the
// shortest there is, for the most appends, seals and requests to be hit.
const killInterval = 100 * time.Millisecond

// TestKill kills the agent, again and again, while it takes samples, stores
// windows and delivers to a Flux that now and then stores and does not answer,
// or neither. killsPerSpool cycles share one spool and one Flux; each has a tag of its own.
//
// The agent logs a window once it is stored. What it must do is:
//
//   - each logged window reaches Flux, whole and exactly once: of every counter
//     there is one row with its start as the timestamp, and its value is the
//     number of samples that was logged;
//   - what is lost is the end of what was sent in a cycle, never a part before
//     something that arrived, and no longer than the window that was open;
//   - nothing is dropped, and the ledgers balance.
//
// SLUICE_KILL_CYCLES sets the number of cycles; each takes about a second.
func TestKill(t *testing.T) {
	t.Parallel() // it mostly waits
	cycles := 12
	if text := os.Getenv("SLUICE_KILL_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil {
			t.Fatalf("SLUICE_KILL_CYCLES: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)

	var f figures
	for f.cycles < cycles && !t.Failed() {
		f.kills(t, min(killsPerSpool, cycles-f.cycles), random)
		if f.cycles%100 == 0 {
			t.Logf("%d cycles", f.cycles)
		}
	}
	if f.caught == 0 {
		t.Error("no batch was under way at any of the kills")
	}
	t.Logf("%d kill -9 cycles, %d with a batch under way: %d windows stored with %d samples; %d closed windows lost, %d rows doubled; "+
		"in doubt: %d found upstream, %d looks found nothing; %d open samples lost, the longest stretch %v",
		f.cycles, f.caught, f.windows, f.samples, f.lost, f.doubled, f.verified, f.absent, f.open, f.stretch.Round(time.Millisecond))
}

// killsPerSpool is how many kills one spool goes through: of more, most would hit an agent
// that waits, for the limit of looks for what is in doubt is kept over kills.
const killsPerSpool = 25

// kills is so many cycles with a spool and a Flux of their own.
func (f *figures) kills(t *testing.T, cycles int, random *rand.Rand) {
	t.Helper()
	faults := &faults{seed: random.Uint64()}
	// A killed client's last call can still be in the fake's hands when the next
	// process makes its first.
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Fault: faults.pick, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL, Interval: killInterval.String(), Upstream: "settle: 0s"}

	var done []cycle
	for i := range cycles {
		done = append(done, killCycle(t, s, i, random, faults))
		if t.Failed() {
			return
		}
	}
	faults.stop()
	d := start(t, s)
	d.delivered()
	d.balanced()

	before := f.samples
	f.cycles += len(done)
	for i := range done {
		f.check(t, flux, &done[i])
	}
	books := d.status().Upstreams[0]
	var windowed, delivered uint64
	for _, k := range books.Ledger.all() {
		windowed += k.Windowed
		delivered += k.Delivered
		for reason, n := range k.Dropped {
			t.Errorf("the ledger has %d samples dropped as %s", n, reason)
		}
	}
	if stored := f.samples - before; windowed != delivered || windowed < stored {
		t.Errorf("windowed %d samples, delivered %d, logged as stored %d; want all delivered", windowed, delivered, stored)
	}
	if dups := flux.Duplicates(); len(dups) > 0 {
		f.doubled += len(dups)
		t.Errorf("%d counter rows came twice, the first of them %+v and %+v", len(dups), dups[0].First, dups[0].Again)
	}
	for _, rec := range d.log.lines() {
		f.note(rec)
	}
	d.terminate()
}

// figures are what a run of kills amounts to.
type figures struct {
	cycles, caught   int // all, and those that hit a request
	windows          int
	samples          uint64 // in them
	lost, doubled    int    // closed windows, rows
	verified, absent int    // batches that had been in doubt
	open             uint64 // samples sent and not stored
	stretch          time.Duration
}

// A cycle is what happened between a start and a kill.
type cycle struct {
	n      int
	sent   []time.Time // when each datagram was sent
	killed time.Time
	caught bool // killed while a batch was under way
	log    []line
}

// killCycle starts the agent, sends for a while, and kills it: in one of three
// cycles where it happens to be, in one while it waits for the answer to a batch
// that Flux has stored, and in one to a batch that it has not. Each datagram
// has one sample of every kind.
func killCycle(t *testing.T, s setup, n int, random *rand.Rand, faults *faults) cycle {
	t.Helper()
	c := cycle{n: n}
	d := start(t, s)
	conn := d.dial("udp")
	send := func() {
		seq := len(c.sent)
		c.sent = append(c.sent, time.Now())
		d.send(conn, fmt.Sprintf("kill.count:1|c|#cycle:%d\nkill.time:%d|d|#cycle:%d\nkill.who:m%d|s|#cycle:%d\nkill.seq:%d|g|#cycle:%d\n",
			n, seq, n, seq%50, n, seq+1, n))
		time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
	}
	for end := time.Now().Add(time.Duration(20+random.IntN(480)) * time.Millisecond); time.Now().Before(end); {
		send()
	}
	if n%3 != 0 {
		trap := fluxtest.CommitThenHang()
		if n%3 == 1 {
			trap = fluxtest.Hang()
		}
		caught := faults.set(trap)
		for end := time.Now().Add(5 * time.Second); !c.caught && time.Now().Before(end); send() { // a retry can be that far away
			select {
			case <-caught:
				c.caught = true
			default:
			}
		}
		faults.unset()
		time.Sleep(10 * time.Millisecond) // what Flux stores it has stored by then
	}
	c.killed = time.Now()
	d.kill()
	c.log = d.log.lines()
	return c
}

// check compares what Flux holds of a cycle with what was logged and sent.
func (f *figures) check(t *testing.T, flux *fluxtest.Server, c *cycle) {
	t.Helper()
	tag := "cycle:" + strconv.Itoa(c.n)
	if c.caught {
		f.caught++
	}
	stored := map[string]uint64{} // start → samples, of each kind
	for _, rec := range c.log {
		f.note(rec)
		if msg := rec.text("msg"); msg != "window closed" && msg != "first window closed" || rec.number("sequence") == 0 {
			continue
		}
		n := rec.number("counter")
		if rec.number("distribution") != n || rec.number("gauge") != n || rec.number("set") != n {
			t.Errorf("%s: a datagram was torn apart: %v", tag, rec)
		}
		stored[rec.text("start")] = n
		f.windows++
		f.samples += 4 * n
	}
	arrived := rowsByStart(flux, "kill.count", tag)
	counts := rowsByStart(flux, "kill.time.count", tag)
	for at, n := range stored {
		rows := arrived[at]
		switch {
		case len(rows) == 0:
			f.lost++
			t.Errorf("%s: the window of %s with %d samples was stored and never arrived", tag, at, n)
		case len(rows) > 1 || rows[0].Value != float64(n):
			f.doubled++
			t.Errorf("%s: the window of %s has %d samples, but arrived as %+v", tag, at, n, rows)
		}
		if len(counts[at]) != 1 || counts[at][0].Value != float64(n) {
			t.Errorf("%s: the distribution of %s has %d samples, but its count arrived as %+v", tag, at, n, counts[at])
		}
	}
	// What arrived must be the first so many samples: a gauge that counts them
	// ends where their sum does.
	total := uint64(flux.CounterTotal("kill.count", tag).Float)
	last, _ := flux.GaugeLast("kill.seq", tag)
	if last.Value != float64(total) {
		t.Errorf("%s: %d samples arrived, but the last of them was number %v: something is missing in between", tag, total, last.Value)
	}
	if total > uint64(len(c.sent)) {
		f.doubled++
		t.Errorf("%s: %d samples arrived, %d were sent", tag, total, len(c.sent))
		return
	}
	if got, want := len(flux.SetMembers("kill.who", tag)), int(min(total, 50)); got != want {
		t.Errorf("%s: the set has %d members, want %d", tag, got, want)
	}
	f.open += 4 * (uint64(len(c.sent)) - total)
	if total < uint64(len(c.sent)) {
		lost := c.killed.Sub(c.sent[total])
		f.stretch = max(f.stretch, lost)
		// A window that has ended is stored with one fsync; a loaded disk may take its
		// time, and so may the agent to read what was sent.
		if most := killInterval + 10*time.Second; lost > most {
			t.Errorf("%s: lost the last %v, want at most the open window", tag, lost)
		}
	}
}

// note counts what the agent did about batches in doubt.
func (f *figures) note(rec line) {
	if rec.text("msg") != "looked for a batch in doubt" {
		return
	}
	switch rec.text("found") {
	case "present":
		f.verified++
	case "absent":
		f.absent++
	}
}

// rowsByStart returns the rows of a counter by their timestamps, as the agent's
// log writes them.
func rowsByStart(flux *fluxtest.Server, name, tag string) map[string][]fluxtest.Row {
	rows := map[string][]fluxtest.Row{}
	for _, r := range flux.RowsOf(name, tag) {
		at := r.Time.UTC().Format(time.RFC3339Nano)
		rows[at] = append(rows[at], r)
	}
	return rows
}

// faults is a Flux that is not well: a third of its answers are late, some
// never come, and some of what they are about was stored and some was not.
type faults struct {
	seed uint64

	mu      sync.Mutex // guards the fields below
	stopped bool
	trap    fluxtest.Fault
	caught  chan struct{} // closed when a batch meets the trap; nil when none is set
}

func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
}

// set has the next batch meet a fault; caught is closed when it does.
func (f *faults) set(trap fluxtest.Fault) (caught <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trap, f.caught = trap, make(chan struct{})
	return f.caught
}

// unset takes away a trap that nothing has met.
func (f *faults) unset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caught = nil
}

func (f *faults) pick(n int, r *http.Request) fluxtest.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopped || r.Method != http.MethodPost:
		return fluxtest.Fault{}
	case f.caught != nil:
		close(f.caught)
		f.caught = nil
		return f.trap
	}
	// By the call's number, so that a seed gives the same faults whatever the timing.
	switch random := rand.New(rand.NewPCG(f.seed, uint64(n))); random.IntN(30) {
	case 0, 1:
		return fluxtest.CommitThenClose()
	case 2:
		return fluxtest.ResetAfterRead()
	case 3:
		return fluxtest.CommitThen(502)
	case 4:
		return fluxtest.Status(503)
	case 5, 6, 7, 8, 9, 10, 11, 12, 13, 14:
		return fluxtest.Delay(time.Duration(random.IntN(60)) * time.Millisecond)
	}
	return fluxtest.Fault{}
}

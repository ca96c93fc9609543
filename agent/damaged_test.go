package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// upWithin is how soon an agent must be up, whatever it finds on its disk.
const upWithin = 12 * time.Second

// TestDamagedSpools starts the agent on a spool that is damaged, each time in
// another way. It must be up within 12 s, and what it delivers must be right: of
// the windows that are there, each counter's sum, once.
//
// SLUICE_DAMAGED_SPOOLS sets how many.
func TestDamagedSpools(t *testing.T) {
	t.Parallel()
	spools := 12
	if n, err := strconv.Atoi(os.Getenv("SLUICE_DAMAGED_SPOOLS")); err == nil {
		spools = n
	}
	seed := uint64(time.Now().UnixNano())
	from := damageable(t)
	other := damageable(t)
	f := &damagedFigures{longest: make(chan time.Duration, spools), windows: make(chan int, spools)}
	slots := make(chan struct{}, 3)
	t.Run("each", func(t *testing.T) {
		for n := range spools {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				f.start(t, from, other, rand.New(rand.NewPCG(seed, uint64(n))))
			})
		}
	})
	close(f.longest)
	close(f.windows)
	longest, windows := time.Duration(0), 0
	for d := range f.longest {
		longest = max(longest, d)
	}
	for n := range f.windows {
		windows += n
	}
	t.Logf("%d damaged spools, seed %d: up after at most %v, %d of %d windows delivered, 0 wrong values", spools, seed, longest.Round(time.Millisecond), windows, spools*damagedWindows)
}

// damagedWindows are in each spool, in several segments; in window n the counter
// damage.n is n+1, twice, by two tags.
const damagedWindows = 24

type damagedFigures struct {
	longest chan time.Duration
	windows chan int
}

// damageable makes a spool of windows that nothing was delivered of, by killing
// an agent whose upstream is away, now and then: each start has a segment of its own.
func damageable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for n := range damagedWindows {
		if n%8 != 0 {
			continue
		}
		d := start(t, setup{Dir: dir, Flux: "http://127.0.0.1:9", Interval: "100ms", Upstream: "dialect: hosted"}) // nobody listens
		conn := d.dial("udp")
		for i := n; i < n+8; i++ {
			d.send(conn, fmt.Sprintf("damage.%d:%d|c|#k:a\ndamage.%d:%d|c|#k:b\ndamage.time:%d|d", i, i+1, i, i+1, i))
			d.until("the window is stored", func() bool { return d.log.count("window closed") >= i-n+1 })
		}
		d.kill()
	}
	return filepath.Join(dir, "spool")
}

// damages are ways to damage a file; the same as of another folder, its
// outbox or a segment, is a copy that is in the wrong place.
var damages = []func(r *rand.Rand, b []byte) []byte{
	func(r *rand.Rand, b []byte) []byte { b[r.IntN(len(b))] ^= 1 << r.IntN(8); return b },
	func(r *rand.Rand, b []byte) []byte {
		for range 20 {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		return b
	},
	func(r *rand.Rand, b []byte) []byte { // where bodies are
		if at := bytes.LastIndex(b, []byte("SLWF")); at >= 0 {
			b[at+44+r.IntN(300)] ^= 1 << r.IntN(8)
		}
		return b
	},
	func(r *rand.Rand, b []byte) []byte {
		at := r.IntN(len(b)/4096) * 4096
		clear(b[at : at+4096])
		return b
	},
	func(r *rand.Rand, b []byte) []byte {
		at := r.IntN(len(b)/4096) * 4096
		for i := range 4096 {
			b[at+i] = byte(r.Uint32())
		}
		return b
	},
	func(r *rand.Rand, b []byte) []byte {
		x, y := r.IntN(len(b)/4096)*4096, r.IntN(len(b)/4096)*4096
		old := bytes.Clone(b[x : x+4096])
		copy(b[x:], b[y:y+4096])
		copy(b[y:], old)
		return b
	},
	func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
	func(r *rand.Rand, b []byte) []byte { return nil },
}

// start damages a copy and runs an agent on it.
func (f *damagedFigures) start(t *testing.T, from, other string, r *rand.Rand) {
	dir := t.TempDir()
	spool := filepath.Join(dir, "spool")
	if err := os.CopyFS(spool, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(spool, "*.seg"))
	files = append(files, filepath.Join(spool, "outbox.db"))
	file := files[r.IntN(len(files))]
	way := r.IntN(len(damages) + 2)
	source := file
	switch way {
	case len(damages): // a file of another agent
		source = filepath.Join(other, filepath.Base(file))
	case len(damages) + 1: // another segment under its name
		source = files[r.IntN(len(files)-1)]
	}
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if way < len(damages) {
		b = damages[way](r, b)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	what := fmt.Sprintf("%s, way %d", filepath.Base(file), way)

	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
	began := time.Now()
	d := start(t, setup{Dir: dir, Flux: flux.URL, Interval: "100ms", Upstream: "settle: 0s"})
	d.until("the spool is open", func() bool { return d.status().Spool.State == "ok" })
	took := time.Since(began)
	f.longest <- took
	if took > upWithin {
		t.Errorf("%s: up after %v, want at most %v", what, took, upWithin)
	}
	conn := d.dial("udp")
	d.send(conn, "damage.after:1|c")
	if _, lost := d.log.find("outbox was lost"); lost {
		// With it went the times of its requests, so none is made for a minute; and what was
		// pending may have been sent, see TestOutboxLost.
		d.taken(1)
		d.balanced()
		f.windows <- 0
		return
	}
	d.until("what comes now is delivered", func() bool { return flux.CounterTotal("damage.after").Float == 1 })
	d.delivered()
	d.balanced()
	windows := 0
	for i := range damagedWindows {
		name := fmt.Sprintf("damage.%d", i)
		rows := flux.RowsOf(name)
		for _, row := range rows {
			if row.Value != float64(i+1) {
				t.Errorf("%s: %s arrived as %v, want %d", what, name, row.Value, i+1)
			}
		}
		if len(rows) > 2 {
			t.Errorf("%s: %s arrived %d times, want at most once for each of two tags", what, name, len(rows))
		}
		if len(rows) > 0 {
			windows++
		}
	}
	f.windows <- windows
}

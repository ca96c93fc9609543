package spool

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCrashStates records with strace what a process does to a folder while it
// creates it, appends, seals, starts new segments and rolls segments up; makes states of the
// folder that a crash at some moment may leave; and attaches each of them.
// Every record and batch that was committed before that moment must be there.
//
// A state has, of each file, all that was synced, and of what was written to it
// since a random subset, in units of 512 bytes: later writes may have arrived
// and earlier ones not. Of what was done to names since the folder was synced
// last it has a random first part, because a journal keeps their order.
//
// The same states without what syncs say must lose something, or the test would
// prove nothing. SPOOL_CRASH_STATES sets how many states there are.
func TestCrashStates(t *testing.T) {
	states := 60
	if n, err := strconv.Atoi(os.Getenv("SPOOL_CRASH_STATES")); err == nil {
		states = n
	}
	ops, opt := recorded(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	base := t.TempDir()
	bad := 0
	each := func(n int, syncs bool, moment func(n int) int, look func(n, at int, missing string)) {
		moments := make([]int, n)
		for i := range moments {
			moments[i] = moment(i)
		}
		slices.Sort(moments)
		w := newWorld(syncs)
		for i, at := range moments {
			for ; w.done < at; w.done++ {
				w.follow(ops[w.done])
			}
			dir := filepath.Join(base, strconv.Itoa(i))
			w.crash(t, random, dir)
			look(i, at, w.look(opt, dir))
			os.RemoveAll(dir)
		}
	}
	each(states, true, func(n int) int { // half of them among the first, when everything is created
		if n%2 == 0 {
			return random.IntN(min(len(ops), 200) + 1)
		}
		return random.IntN(len(ops) + 1)
	}, func(n, at int, missing string) {
		if missing != "" {
			t.Fatalf("seed %d, state %d of %d, after %d of %d calls: %s", seed, n, states, at, len(ops), missing)
		}
	})
	each(20, false, func(int) int { return random.IntN(len(ops) + 1) }, func(_, _ int, missing string) {
		if missing != "" {
			bad++
		}
	})
	if bad == 0 {
		t.Error("without syncs nothing is lost: this test cannot find what it looks for")
	}
	t.Logf("%d crash states of %d calls: 0 lost; without syncs %d of 20 lose something (seed %d)", states, len(ops), bad, seed)
}

// An op is one call of the process that is of interest.
type op struct {
	call string // write, truncate, sync, create, rename, remove, mkdir, syncdir, said
	path string // relative to the folder
	to   string // of a rename
	at   int64
	data []byte
	text string // of said: a line that tells what is committed
}

// recorded runs the writer under strace.
func recorded(t *testing.T) ([]op, Options) {
	if raceEnabled {
		t.Skip("strace and the race detector together are too slow")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	dir := filepath.Join(t.TempDir(), "spool")
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-y", "-xx", "-s", "1000000", "-o", trace,
		"-e", "trace=openat,write,pwrite64,ftruncate,fsync,fdatasync,renameat,renameat2,unlinkat,mkdirat,mkdir", os.Args[0], dir)
	cmd.Env = append(os.Environ(), "SPOOL_TEST_CHILD=trace", "GOMAXPROCS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("strace: %v: %.300s", err, out) // a machine may forbid it
	}
	return parseTrace(t, trace, dir), traceOptions(dir)
}

func traceOptions(dir string) Options {
	return Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 4 << 20, Coarsen: coarsenIDs}
}

// childTrace does a little of everything and ends.
func childTrace(dir string) {
	s := New(traceOptions(dir))
	o := s.Outbox("flux")
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	if err := s.Attach(context.Background(), t0); err != nil {
		say("error %v", err)
		os.Exit(1)
	}
	now := t0
	for id := uint64(1); id <= 150; id++ {
		now = now.Add(10 * time.Second)
		s.opt.transaction = int64(id%2) * 20_000 // every other one in two transactions
		seq, err := s.Append(now, Meta{ID: id, Start: now, Width: 10 * time.Second, Samples: [Kinds]uint64{1: id}}, slices.Values(idRecord(24_000, id)))
		if err != nil || seq == 0 {
			say("error %d %v", seq, err)
			os.Exit(1)
		}
		say("record %d", id)
		if id%20 == 0 {
			e := s.Entries(Range{0, Open})
			last := e[len(e)-1]
			b := batchOf(last.Samples[1], 3)
			err = o.Update(func(tx *Tx) error {
				p, _ := tx.Pending().Without(last.Seqs)
				tx.Progress(p, nil)
				tx.Seal(&b)
				return nil
			})
			if err != nil {
				say("error %v", err)
				os.Exit(1)
			}
			say("batch %d", b.Seq)
		}
		if err := s.Maintain(now); err != nil {
			say("error %v", err)
			os.Exit(1)
		}
		for done := true; done; {
			if done, err = s.RollUp(context.Background(), now); err != nil {
				say("error %v", err)
				os.Exit(1)
			}
		}
	}
	if s.Stats().RolledUp == 0 || s.Stats().Evicted > 0 {
		say("error %+v", s.Stats())
		os.Exit(1)
	}
	os.Exit(0) // no clean stop
}

var (
	traceLine = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$`)
	traceFD   = regexp.MustCompile(`^\d+<([^>]*)>(?:\(deleted\))?(?:, )?(.*)$`)
)

// parseTrace reads what strace wrote. A call that another thread interrupts
// stands in two lines; it counts where it ends.
func parseTrace(t *testing.T, file, dir string) (ops []op) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begun := map[string]string{} // by thread
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		text := lines.Text()
		thread, rest, _ := strings.Cut(text, " ")
		rest = strings.TrimSpace(rest)
		if head, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			begun[thread] = head
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			_, tail, _ := strings.Cut(rest, " resumed>")
			text = thread + " " + begun[thread] + tail
		}
		if o, ok := parseCall(t, text, dir); ok {
			ops = append(ops, o)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(ops) < 500 {
		t.Fatalf("the trace has %d calls", len(ops))
	}
	return ops
}

func parseCall(t *testing.T, text, dir string) (o op, ok bool) {
	m := traceLine.FindStringSubmatch(text)
	if m == nil {
		return o, false // failed, or a signal
	}
	call, args, opened := m[1], m[2], unescape(t, m[4])
	inside := func(path string) (string, bool) {
		rel, err := filepath.Rel(dir, path)
		return rel, err == nil && !strings.HasPrefix(rel, "..")
	}
	fd := traceFD.FindStringSubmatch(args)
	path, rest := "", ""
	if fd != nil {
		path, rest = unescape(t, fd[1]), fd[2]
	}
	words := regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(rest, -1)
	switch call {
	case "write":
		data := unescape(t, words[0][1])
		if strings.HasPrefix(args, "1<") {
			if strings.HasPrefix(data, "error") {
				t.Fatal(data)
			}
			return op{call: "said", text: strings.TrimSpace(data)}, true
		}
		rel, in := inside(path)
		return op{call: "append", path: rel, data: []byte(data)}, in
	case "pwrite64":
		rel, in := inside(path)
		at, err := strconv.ParseInt(rest[strings.LastIndex(rest, ", ")+2:], 10, 64)
		if err != nil {
			t.Fatalf("pwrite64: %v: %.80s", err, rest)
		}
		return op{call: "write", path: rel, data: []byte(unescape(t, words[0][1])), at: at}, in
	case "ftruncate":
		rel, in := inside(path)
		at, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			t.Fatalf("ftruncate: %v: %s", err, rest)
		}
		return op{call: "truncate", path: rel, at: at}, in
	case "fsync", "fdatasync":
		rel, in := inside(path)
		if rel == "." {
			return op{call: "syncdir"}, in
		}
		return op{call: "sync", path: rel}, in
	case "openat":
		rel, in := inside(opened)
		call := "create" // if it is not there yet
		if strings.Contains(args, "O_TRUNC") {
			call = "recreate"
		}
		return op{call: call, path: rel}, in && strings.Contains(args, "O_CREAT")
	case "renameat", "renameat2":
		from, in := inside(filepath.Join(path, unescape(t, words[0][1])))
		to, _ := inside(filepath.Join(path, unescape(t, words[1][1])))
		return op{call: "rename", path: from, to: to}, in
	case "unlinkat":
		rel, in := inside(filepath.Join(path, unescape(t, words[0][1])))
		return op{call: "remove", path: rel}, in
	}
	return o, false
}

// unescape undoes -xx.
func unescape(t *testing.T, text string) string {
	if !strings.HasPrefix(text, `\x`) {
		return text
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, `\x`, ""))
	if err != nil {
		t.Fatalf("trace: %v: %.80s", err, text)
	}
	return string(b)
}

// A world is the folder as a process sees it, and what of it is sure to outlive
// a crash.
type world struct {
	syncs   bool               // else it takes no notice of those
	done    int                // calls
	names   map[string]*traced // as they are
	durable map[string]*traced // as they were when the folder was synced
	moves   []func(map[string]*traced)
	records []uint64
	batches []uint64
}

type traced struct {
	synced []byte
	since  []op
	now    []byte
}

func (f *traced) apply(b []byte, o op) []byte {
	switch {
	case o.call == "truncate" && o.at <= int64(len(b)):
		return b[:o.at]
	case o.call == "truncate":
		return append(b, make([]byte, o.at-int64(len(b)))...)
	}
	if need := o.at + int64(len(o.data)) - int64(len(b)); need > 0 {
		b = append(b, make([]byte, need)...)
	}
	copy(b[o.at:], o.data)
	return b
}

func newWorld(syncs bool) *world {
	return &world{syncs: syncs, names: map[string]*traced{}, durable: map[string]*traced{}}
}

// follow does what a call did.
func (w *world) follow(o op) {
	move := func(fn func(map[string]*traced)) {
		fn(w.names)
		w.moves = append(w.moves, fn)
	}
	f := w.names[o.path]
	switch o.call {
	case "create", "recreate":
		if f == nil {
			fresh := &traced{}
			move(func(n map[string]*traced) { n[o.path] = fresh })
		} else if o.call == "recreate" {
			f.since, f.now = append(f.since, op{call: "truncate"}), nil
		}
	case "append":
		o.call, o.at = "write", int64(len(f.now))
		f.since, f.now = append(f.since, o), f.apply(f.now, o)
	case "write", "truncate":
		f.since, f.now = append(f.since, o), f.apply(f.now, o)
	case "sync":
		if f != nil && w.syncs {
			for _, o := range f.since {
				f.synced = f.apply(f.synced, o)
			}
			f.since = nil
		}
	case "syncdir":
		if w.syncs {
			w.durable, w.moves = maps.Clone(w.names), nil
		}
	case "rename":
		move(func(n map[string]*traced) {
			if n[o.path] != nil {
				n[o.to] = n[o.path]
				delete(n, o.path)
			}
		})
	case "remove":
		move(func(n map[string]*traced) { delete(n, o.path) })
	case "said":
		var n uint64
		if _, err := fmt.Sscanf(o.text, "record %d", &n); err == nil {
			w.records = append(w.records, n)
		} else if _, err := fmt.Sscanf(o.text, "batch %d", &n); err == nil {
			w.batches = append(w.batches, n)
		}
	}
}

// crash writes a state of the folder.
func (w *world) crash(t *testing.T, random *rand.Rand, dir string) {
	t.Helper()
	names := maps.Clone(w.durable)
	for _, fn := range w.moves[:random.IntN(len(w.moves)+1)] {
		fn(names)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, f := range names {
		b := slices.Clone(f.synced)
		for _, o := range f.since {
			if o.call == "truncate" {
				if random.IntN(2) == 0 {
					b = f.apply(b, o)
				}
				continue
			}
			for i := 0; i < len(o.data); i += 512 {
				if random.IntN(2) == 0 {
					b = f.apply(b, op{call: "write", at: o.at + int64(i), data: o.data[i:min(i+512, len(o.data))]})
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// look attaches a state and tells what is missing, or "".
func (w *world) look(opt Options, dir string) string {
	opt.Dir = dir
	s := New(opt)
	o := s.Outbox("flux")
	if err := s.Attach(context.Background(), t0); err != nil {
		return fmt.Sprintf("Attach: %v", err)
	}
	defer s.Close()
	have := map[uint64]bool{}
	for _, e := range s.Entries(Range{0, Open}) {
		parts, err := s.Read(e.Seqs.From)
		if err != nil {
			return fmt.Sprintf("Read(%v): %v", e.Seqs, err)
		}
		ids, err := recordIDs(parts)
		if err != nil {
			return err.Error()
		}
		for _, id := range ids {
			if have[id] {
				return fmt.Sprintf("window %d is there twice", id)
			}
			have[id] = true
		}
	}
	for _, id := range w.records {
		if !have[id] {
			return fmt.Sprintf("window %d was committed and is not there", id)
		}
	}
	for _, seq := range w.batches {
		if _, err := o.Load(seq); err != nil {
			return fmt.Sprintf("Load(%d): %v", seq, err)
		}
	}
	if l := o.Ledger(); l.ConservationError != 0 {
		return fmt.Sprintf("the ledger is off by %d", l.ConservationError)
	}
	if n := s.Stats().DamagedRecords; n != 0 {
		return fmt.Sprintf("%d records count as damaged", n)
	}
	return ""
}

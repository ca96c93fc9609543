package spool

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// t0 is when the tests' windows begin; their time is passed in, never read.
var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// TestMain runs this binary as a child when a test asks for it: a writer that
// is to be killed, or a process that holds the lock.
func TestMain(m *testing.M) {
	switch os.Getenv("SPOOL_TEST_CHILD") {
	case "write":
		childWrite(os.Args[len(os.Args)-1], false)
	case "write-unsynced":
		childWrite(os.Args[len(os.Args)-1], true)
	case "trace":
		childTrace(os.Args[len(os.Args)-1])
	case "hold":
		childHold(os.Args[len(os.Args)-1])
	default:
		// Some seconds; -rapid.checks=10000 on the command line still counts.
		flag.Set("rapid.checks", "15")
		os.Exit(m.Run())
	}
}

func child(t *testing.T, mode, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), "SPOOL_TEST_CHILD="+mode)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

func childHold(dir string) {
	s := New(Options{Dir: dir})
	if err := s.Attach(context.Background(), t0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("attached")
	io.Copy(io.Discard, os.Stdin)
	time.Sleep(time.Minute) // the parent kills us long before
}

// childWrite appends and seals for ever, and prints what was committed after
// it was.
func childWrite(dir string, unsynced bool) {
	s := New(Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 24 << 20, unsynced: unsynced, transaction: 1500}) // two parts or three are too many for one
	o := s.Outbox("flux")
	if err := s.Attach(context.Background(), t0); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for i := 0; i < 100_000; i++ {
		id := binary.BigEndian.Uint64([]byte(s.Identity())[:8]) + s.Next()
		meta := func(id uint64) Meta {
			return Meta{ID: id, Start: t0, Width: 10 * time.Second, Samples: [Kinds]uint64{1: 5}}
		}
		n := uint64(1)
		if i%5 == 4 { // small ones, in one transaction
			for n = 0; n < 3; n++ {
				if err := s.Remember(t0, meta(id+n), slices.Values(content(id+n, 1, 900))); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
			}
		}
		var seq uint64
		var err error
		if n == 1 {
			seq, err = s.Append(t0, meta(id), slices.Values(content(id, 1+i%3, 900)))
		} else {
			seq = s.Flush(t0)
		}
		if err != nil || seq == 0 {
			fmt.Println("error", seq, err)
			os.Exit(1)
		}
		for k := range n {
			fmt.Println("record", seq-n+1+k, id+k)
		}
		if i%4 != 3 {
			continue
		}
		var b Batch
		err = o.Update(func(tx *Tx) error {
			r := Range{o.Pending()[0].From, seq + 1}
			b = batchOf(uint64(5*len(s.Entries(r))), 3)
			p, _ := o.Pending().Without(r)
			tx.Progress(p, nil)
			tx.Seal(&b)
			return nil
		})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("batch", b.Seq, o.Generation())
	}
}

// content makes parts that tell which record and part they are.
func content(id uint64, parts, size int) [][]byte {
	out := make([][]byte, parts)
	for p := range out {
		out[p] = make([]byte, size)
		x := id*31 + uint64(p)
		for i := range out[p] {
			x = x*6364136223846793005 + 1442695040888963407
			out[p][i] = byte(x >> 56)
		}
	}
	return out
}

// batchOf makes a batch of n counter items that carry samples, and a marker.
func batchOf(samples uint64, n int) Batch {
	b := Batch{Lane: Metrics, Type: "flux", Dialect: "hosted", URL: "https://example.test", Sealed: t0}
	for i := range n + 1 {
		text := fmt.Sprintf(`{"name":"a%d"}`, i)
		it := Item{Off: uint32(len(b.Body)), Len: uint32(len(text)), Kind: 1}
		switch i {
		case n:
			it.Kind = 0
		case 0:
			it.Samples = samples
		}
		b.Items = append(b.Items, it)
		b.Body = append(b.Body, text...)
	}
	return b
}

// copyDir is what a crash leaves: the files as they are, the lock free.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// attach gives a spool on dir that is closed, and whose files are checked, at
// the end of the test.
func attach(t testing.TB, opt Options, upstreams ...string) *Spool {
	t.Helper()
	s := New(opt)
	for _, u := range upstreams {
		s.Outbox(u)
	}
	if err := s.Attach(context.Background(), t0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		checkAll(t, opt.Dir)
	})
	return s
}

func checkAll(t testing.TB, dir string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if _, err := os.Stat(filepath.Join(dir, outboxName)); err == nil {
		files = append(files, filepath.Join(dir, outboxName))
	}
	for _, f := range files {
		if err := CheckFile(f); err != nil {
			t.Errorf("CheckFile: %v", err)
		}
	}
}

func mustAppend(t testing.TB, s *Spool, id uint64, at time.Time, parts [][]byte) uint64 {
	t.Helper()
	seq, err := s.Append(at, Meta{ID: id, Start: at, Width: 10 * time.Second, Samples: [Kinds]uint64{1: id, 3: 2}}, slices.Values(parts))
	if err != nil || seq == 0 {
		t.Fatalf("Append(%d) = %d, %v (%s)", id, seq, err, s.Stats().Detail)
	}
	return seq
}

func mustBalance(t testing.TB, s *Spool) {
	t.Helper()
	for _, name := range s.Outboxes() {
		s.mu.RLock()
		o := s.outboxes[name]
		s.mu.RUnlock()
		if l := o.Ledger(); l.ConservationError != 0 {
			t.Fatalf("ledger of %s is off by %d: %+v", name, l.ConservationError, l)
		}
	}
}

func sameParts(a, b [][]byte) bool {
	return slices.EqualFunc(a, b, func(a, b []byte) bool { return string(a) == string(b) })
}

// TestKill kills a writing process and looks for every record and batch that it
// said was committed.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	records, batches := map[uint64]uint64{}, map[string]bool{}
	cycles := 20
	if testing.Short() {
		cycles = 3
	}
	for cycle := range cycles {
		cmd, lines := child(t, "write", dir)
		// Every other one may be killed before it has written anything, on a busy machine.
		after := time.Duration(60+cycle*7) * time.Millisecond
		kill := func() { cmd.Process.Signal(syscall.SIGKILL) }
		stop := time.AfterFunc(after, kill)
		if cycle%2 == 0 {
			stop.Stop()
		}
		for first := true; lines.Scan(); first = false {
			if first && cycle%2 == 0 {
				stop.Reset(after / 2)
			}
			var seq, id uint64
			switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
			case "record":
				fmt.Sscan(rest, &seq, &id)
				records[seq] = id
			case "batch":
				batches[rest] = true
			default:
				t.Fatalf("cycle %d: child says %q", cycle, lines.Text())
			}
		}
		stop.Stop()
		cmd.Wait()
	}
	if len(records) < cycles/2 {
		t.Fatalf("%d cycles wrote %d records", cycles, len(records))
	}
	s := attach(t, Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 64 << 20}, "flux")
	for seq, id := range records {
		parts, err := s.Read(seq)
		if err != nil || !sameParts(parts, content(id, len(parts), 900)) {
			t.Fatalf("Read(%d): %v", seq, err)
		}
	}
	o := s.Outbox("flux")
	for _, b := range o.Batches() {
		if _, err := o.Load(b.Seq); err != nil {
			t.Fatal(err)
		}
		delete(batches, fmt.Sprintf("%d %s", b.Seq, o.Generation()))
	}
	if len(batches) != 0 {
		t.Errorf("batches that were committed are not there: %v", batches)
	}
	if n := s.Stats(); n.Quarantined != 0 || n.DamagedRecords != 0 {
		t.Errorf("after kills: %+v", n)
	}
	mustBalance(t, s)
	t.Logf("%d cycles, %d records, %d batches", cycles, len(records), len(o.Batches()))
}

func TestLockedByAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	cmd, lines := child(t, "hold", dir)
	if !lines.Scan() || lines.Text() != "attached" {
		t.Fatalf("child says %q", lines.Text())
	}
	s := New(Options{Dir: dir})
	if err := s.Attach(t.Context(), t0); !errors.Is(err, ErrLocked) {
		t.Errorf("Attach = %v, want ErrLocked", err)
	}
	if seq, err := s.Append(t0, Meta{}, slices.Values(content(1, 1, 10))); seq != 0 || err != nil {
		t.Errorf("Append while locked = %d, %v, want 0 and nil", seq, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	if parts, err := s.Read(1); err != nil || !sameParts(parts, content(1, 1, 10)) {
		t.Errorf("Read(1) = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

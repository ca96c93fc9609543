package spool

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// filled makes a folder with 40 records in several segments and a few batches.
func filled(t testing.TB) (dir string, opt Options) {
	dir = filepath.Join(t.TempDir(), "spool")
	opt = Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 64 << 20}
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	for id := uint64(1); id <= 40; id++ {
		mustAppend(t, s, id, t0.Add(time.Duration(id)*10*time.Second), content(id, 2, 20_000))
		if id%10 != 0 {
			continue
		}
		b := batchOf(id+id-1, 3)
		b.Items[1].Kind, b.Items[1].Samples = 3, 4
		if err := o.Update(func(tx *Tx) error {
			p, _ := tx.Pending().Without(Range{id - 1, id + 1})
			tx.Progress(p, nil)
			tx.Seal(&b)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, opt
}

// TestDamage damages one file of a folder in one way, attaches, and demands
// that every record and batch is the right one or not there: never a wrong
// byte, and the ledger balances.
func TestDamage(t *testing.T) {
	from, opt := filled(t)
	files := []string{outboxName}
	list, _ := filepath.Glob(filepath.Join(from, "*.seg"))
	for _, f := range list {
		files = append(files, filepath.Base(f))
	}
	ways := map[string]func(r *rand.Rand, b []byte) []byte{
		"one bit": func(r *rand.Rand, b []byte) []byte { b[r.IntN(len(b))] ^= 1 << r.IntN(8); return b },
		"20 bits": func(r *rand.Rand, b []byte) []byte {
			for range 20 {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			return b
		},
		"head bits": func(r *rand.Rand, b []byte) []byte {
			for range 3 { // where the page heads and element tables are
				b[r.IntN(len(b)/4096)*4096+r.IntN(64)] ^= 1 << r.IntN(8)
			}
			return b
		},
		"zeroed page": func(r *rand.Rand, b []byte) []byte { clear(page(r, b)); return b },
		"random page": func(r *rand.Rand, b []byte) []byte {
			for p := page(r, b); len(p) > 0; p = p[1:] {
				p[0] = byte(r.Uint32())
			}
			return b
		},
		"swapped pages": func(r *rand.Rand, b []byte) []byte {
			x, y := page(r, b), page(r, b)
			old := slices.Clone(x)
			copy(x, y)
			copy(y, old)
			return b
		},
		"cut off": func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
		"empty":   func(r *rand.Rand, b []byte) []byte { return nil },
		"text":    func(r *rand.Rand, b []byte) []byte { return []byte("not a database\n") },
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rounds := 12
	if testing.Short() {
		rounds = 2
	}
	kept, cases := 0, 0
	for way, damage := range ways {
		for n := range rounds {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			name := files[r.IntN(len(files))]
			dir := filepath.Join(t.TempDir(), "spool")
			copyDir(t, from, dir)
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(r, b), 0o600); err != nil {
				t.Fatal(err)
			}
			kept += survive(t, way+" "+name, dir, opt)
			cases++
			os.RemoveAll(dir)
		}
	}
	t.Logf("%d damaged folders, %.1f of 40 records kept", cases, float64(kept)/float64(cases))
}

func page(r *rand.Rand, b []byte) []byte {
	n := r.IntN(len(b)/4096) * 4096
	return b[n : n+4096]
}

func survive(t *testing.T, what, dir string, opt Options) (kept int) {
	t.Helper()
	opt.Dir = dir
	s := New(opt)
	o := s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for seq := uint64(1); seq <= 40; seq++ {
		parts, err := s.Read(seq)
		switch {
		case err == nil && sameParts(parts, content(seq, 2, 20_000)):
			kept++
		case err == nil:
			t.Fatalf("%s: Read(%d) gives wrong bytes", what, seq)
		case !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrGone):
			t.Fatalf("%s: Read(%d): %v", what, seq, err)
		}
	}
	for _, b := range o.Batches() {
		full, err := o.Load(b.Seq)
		if want := batchOf(0, 3); err == nil && string(full.Body) != string(want.Body) || err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: Load(%d) = %q, %v", what, b.Seq, full.Body, err)
		}
	}
	mustBalance(t, s)
	mustAppend(t, s, 99, t0.Add(time.Hour), content(99, 1, 10)) // and it goes on
	mustBalance(t, s)
	if err := s.Close(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	checkAll(t, dir)
	return kept
}

// TestDamageWhileRunning damages a segment under an attached spool: only the
// checksum of the frame is left to find it.
func TestDamageWhileRunning(t *testing.T) {
	dir, opt := filled(t)
	s := New(opt)
	s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, segmentName(1))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := content(1, 2, 20_000)[1][5000:5100]
	i := indexOf(b, want)
	if i < 0 {
		t.Fatal("record 1 is not in the first segment")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{b[i] ^ 1}, int64(i))
	f.Close()
	if _, err := s.Read(1); !errors.Is(err, ErrDamaged) {
		t.Errorf("Read(1) of a damaged record = %v, want ErrDamaged", err)
	}
	if _, err := s.Read(2); err != nil {
		t.Errorf("Read(2) beside a damaged record = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := CheckFile(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("CheckFile = %v, want ErrDamaged", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil { // filled checks all files at the end
		t.Fatal(err)
	}
}

func indexOf(b, part []byte) int {
	for i := range len(b) - len(part) {
		if string(b[i:i+len(part)]) == string(part) {
			return i
		}
	}
	return -1
}

// TestOutboxLost resumes from the ranges in the newest record.
func TestOutboxLost(t *testing.T) {
	dir, opt := filled(t)
	before := attachRead(t, opt)
	if err := os.Remove(filepath.Join(dir, outboxName)); err != nil {
		t.Fatal(err)
	}
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	// Record 40 was appended before 39 and 40 were sealed.
	if got, want := o.Pending(), (Pending{{1, 9}, {11, 19}, {21, 29}, {31, Open}}); !slices.Equal(got, want) {
		t.Errorf("Pending() = %v, want %v", got, want)
	}
	if o.Doubtful() != 41 || o.Generation() == before {
		t.Errorf("Doubtful() = %d, want 41; generation %s, before %s", o.Doubtful(), o.Generation(), before)
	}
	mustBalance(t, s)
}

func attachRead(t *testing.T, opt Options) string {
	s := New(opt)
	o := s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return o.Generation()
}

// TestSegmentLost books what was pending of a quarantined segment as damaged.
func TestSegmentLost(t *testing.T) {
	dir, opt := filled(t)
	if err := os.Truncate(filepath.Join(dir, segmentName(1)), 5000); err != nil {
		t.Fatal(err)
	}
	s := attach(t, opt, "flux")
	l := s.Outbox("flux").Ledger()
	if l.ConservationError != 0 || l.Dropped["damaged"][1].Samples == 0 {
		t.Errorf("ledger %+v", l)
	}
	if st := s.Stats(); st.Quarantined != 1 {
		t.Errorf("Quarantined = %d, want 1", st.Quarantined)
	}
}

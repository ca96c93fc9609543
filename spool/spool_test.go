package spool

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func small(t testing.TB) Options {
	return Options{Dir: filepath.Join(t.TempDir(), "spool"), SegmentBytes: 256 << 10, MaxBytes: 4 << 20}
}

func TestRecordComesBackWhole(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	m := Meta{
		ID: 7, Start: t0, Width: time.Minute, Flags: 3, Absent: 9,
		Samples: [Kinds]uint64{1: 1, 5: 2}, Series: [Kinds]uint64{2: 3}, Accepted: [Kinds]uint64{3: 1 << 60}, Dropped: [Kinds]uint64{4: 5},
	}
	buf := make([]byte, 4)
	parts := func(yield func([]byte) bool) { // the same buffer for every part
		for i := range 3 {
			for j := range buf {
				buf[j] = byte(i)
			}
			if !yield(buf) {
				return
			}
		}
	}
	seq, err := s.Append(t0, m, parts)
	if err != nil || seq != 1 {
		t.Fatalf("Append = %d, %v, want 1", seq, err)
	}
	id := s.Identity()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	got := s.Entries(Range{0, Open})
	if want := (Entry{Range{1, 2}, 12, m}); len(got) != 1 || got[0] != want {
		t.Errorf("Entries = %+v, want %+v", got, want)
	}
	back, err := s.Read(1)
	if want := [][]byte{{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}}; err != nil || !sameParts(back, want) {
		t.Errorf("Read(1) = %v, %v, want %v", back, err, want)
	}
	if _, err := s.Read(2); !errors.Is(err, ErrGone) {
		t.Errorf("Read(2) = %v, want ErrGone", err)
	}
	if s.Identity() != id || len(id) != 16 {
		t.Errorf("Identity() = %q, was %q", s.Identity(), id)
	}
	if _, err := s.Append(t0, m, slices.Values([][]byte{})); err == nil {
		t.Error("a record without parts was taken")
	}
}

// TestRecordOverSegments appends one record that is larger than a segment, and
// cuts off its last file.
func TestRecordOverSegments(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	big := content(1, 9, 90_000)
	mustAppend(t, s, 1, t0, big)
	mustAppend(t, s, 2, t0, content(2, 1, 300_000)) // a part larger than a segment
	for seq, want := range [][][]byte{1: big, 2: content(2, 1, 300_000)} {
		if seq == 0 {
			continue
		}
		if got, err := s.Read(uint64(seq)); err != nil || !sameParts(got, want) {
			t.Errorf("Read(%d) = %v", seq, err)
		}
	}
	if n := s.Stats().Segments; n < 4 {
		t.Errorf("Segments = %d, want 4 or more", n)
	}
	dir := filepath.Join(t.TempDir(), "cut")
	copyDir(t, opt.Dir, dir)
	os.Remove(filepath.Join(dir, segmentName(2)))
	opt.Dir = dir
	cut := attach(t, opt, "flux")
	if st := cut.Stats(); st.Records != 1 || st.DamagedRecords != 1 {
		t.Errorf("with a missing file: %+v, want 1 record and 1 damaged", st)
	}
	if got := cut.Next(); got != 3 {
		t.Errorf("Next() = %d, want 3", got)
	}
}

func TestMemoryLog(t *testing.T) {
	opt := small(t)
	opt.MemoryBytes = 1000
	s := New(opt)
	o := s.Outbox("flux")
	if err := o.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrDetached) {
		t.Errorf("Update = %v, want ErrDetached", err)
	}
	for id := uint64(1); id <= 5; id++ {
		seq, err := s.Append(t0, Meta{ID: id, Start: t0, Samples: [Kinds]uint64{1: id}}, slices.Values(content(id, 1, 300)))
		if seq != 0 || err != nil {
			t.Fatalf("Append = %d, %v, want 0 and nil", seq, err)
		}
	}
	st := s.Stats()
	if st.State != "memory" || st.MemoryRecords != 3 || st.MemoryDropped[1] != 1+2 || st.MemoryBytes != 900 {
		t.Errorf("Stats() = %+v, want 3 records in memory, samples 1+2 dropped", st)
	}
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, 6, t0, content(6, 1, 300))
	var ids []uint64
	for _, e := range s.Entries(Range{0, Open}) {
		ids = append(ids, e.ID)
	}
	if want := []uint64{3, 4, 5, 6}; !slices.Equal(ids, want) {
		t.Errorf("records %v, want %v", ids, want)
	}
	if st := s.Stats(); st.State != "ok" || st.MemoryRecords != 0 || st.LastSeq != 4 {
		t.Errorf("Stats() = %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAttachRefused(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	os.WriteFile(file, nil, 0o600)
	for name, dir := range map[string]string{"a file": file, "below a file": filepath.Join(file, "x")} {
		s := New(Options{Dir: dir})
		if err := s.Attach(t.Context(), t0); err == nil || s.Attached() {
			t.Errorf("%s: Attach = %v", name, err)
		}
		if seq, err := s.Append(t0, Meta{}, slices.Values(content(1, 1, 1))); seq != 0 || err != nil {
			t.Errorf("%s: Append = %d, %v", name, seq, err)
		}
		if st := s.Stats(); st.State != "memory" || st.Detail == "" {
			t.Errorf("%s: Stats() = %+v", name, st)
		}
		if err := s.Close(); err == nil {
			t.Errorf("%s: Close() said nothing of the record in memory", name)
		}
	}
}

// mount gives a folder on a file system of its own.
func mount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux to mount a tmpfs")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	return dir
}

func TestReadOnlyFolder(t *testing.T) {
	dir := mount(t, "size=8m")
	opt := Options{Dir: filepath.Join(dir, "spool"), MaxBytes: 4 << 20}
	s := New(opt)
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, 1, t0, content(1, 1, 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	remount := func(how string) {
		if out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
			t.Fatalf("remount: %v: %s", err, out)
		}
	}
	remount("ro")
	s = New(opt)
	if err := s.Attach(t.Context(), t0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Attach = %v, want EROFS", err)
	}
	s.Append(t0, Meta{ID: 2, Start: t0}, slices.Values(content(2, 1, 100)))
	remount("rw")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	if got := s.Next(); got != 3 {
		t.Errorf("Next() = %d, want 3", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestDiskFull fills the file system beside the spool.
func TestDiskFull(t *testing.T) {
	dir := mount(t, "size=6m")
	opt := Options{Dir: filepath.Join(dir, "spool"), MaxBytes: 64 << 20, SegmentBytes: 512 << 10}
	s := New(opt)
	o := s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for id := uint64(1); id <= 10; id++ {
		sum += id
		mustAppend(t, s, id, t0, content(id, 1, 50_000))
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	inMemory := 0
	for id := uint64(11); id <= 30; id++ {
		sum += id
		seq, err := s.Append(t0, Meta{ID: id, Start: t0, Samples: [Kinds]uint64{1: id, 3: 2}}, slices.Values(content(id, 1, 50_000)))
		if err != nil {
			t.Fatal(err)
		}
		if seq == 0 {
			inMemory++
		}
		s.Maintain(t0)
	}
	if st := s.Stats(); inMemory == 0 || st.State != "full" {
		t.Fatalf("%d records in memory, %+v: the disk is not full", inMemory, st)
	}
	// A batch can still be settled: its pages are there. Sealing a small one
	// uses what was reserved.
	b := batchOf(1+2, 3)
	b.Items[1].Kind, b.Items[1].Samples = 3, 4
	if err := o.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, 3})
		tx.Progress(p, nil)
		tx.Seal(&b)
		return nil
	}); err != nil {
		t.Fatalf("seal on a full disk: %v", err)
	}
	for range 20 {
		if err := o.Update(func(tx *Tx) error { tx.State(b.Seq, Sending, t0, t0, 1); return nil }); err != nil {
			t.Fatalf("state on a full disk: %v", err)
		}
	}
	if err := o.Update(func(tx *Tx) error { tx.Settle(b.Seq, Settlement{To: Delivered}); return nil }); err != nil {
		t.Fatalf("settle on a full disk: %v", err)
	}
	os.Remove(filler)
	if err := s.Maintain(t0); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.State != "ok" || st.MemoryRecords != 0 || s.Next() != 31 {
		t.Errorf("Stats() = %+v, Next() = %d, want 31", st, s.Next())
	}
	if l := o.Ledger(); l.ConservationError != 0 || l.Windowed[1].Samples != sum {
		t.Errorf("ledger %+v, want %d windowed", l, sum)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	checkAll(t, opt.Dir)
}

// TestDiskFullOfHistory has a disk that is smaller than what may be kept, and filled by
// what was delivered: that goes, file by file, so records get to the disk for ever.
func TestDiskFullOfHistory(t *testing.T) {
	dir := mount(t, "size=6m")
	s := attach(t, Options{Dir: filepath.Join(dir, "spool"), MaxBytes: 64 << 20, SegmentBytes: 512 << 10}, "flux")
	o := s.Outbox("flux")
	for id := uint64(1); id <= 300; id++ { // 15 MB
		now := t0.Add(time.Duration(id) * time.Second)
		if _, err := s.Append(now, Meta{ID: id, Start: now, Samples: [Kinds]uint64{1: id}}, slices.Values(content(id, 1, 50_000))); err != nil {
			t.Fatal(err)
		}
		for tries := 0; s.Stats().MemoryRecords > 0; tries++ {
			if err := s.Maintain(now); tries == 20 {
				t.Fatalf("record %d is not on disk after %d times Maintain: %v, %+v", id, tries, err, s.Stats())
			}
		}
		if err := o.Update(func(tx *Tx) error {
			p, _ := tx.Pending().Without(Range{s.Next() - 1, s.Next()})
			tx.Progress(p, nil)
			tx.Dropped("unwanted", [Kinds]uint64{1: id})
			return nil
		}); err != nil {
			t.Fatalf("record %d: %v", id, err)
		}
	}
	st := s.Stats()
	if st.Evicted == 0 || st.MemoryDropped != [Kinds]uint64{} || st.LastSeq != 300 {
		t.Errorf("Stats() = %+v, want 300 records, some of them evicted, none dropped in memory", st)
	}
	mustBalance(t, s)
}

func TestRetention(t *testing.T) {
	opt := small(t)
	opt.Retention = time.Hour
	opt.SegmentAge = 10 * time.Minute
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	at := t0
	for id := uint64(1); id <= 12; id++ {
		mustAppend(t, s, id, at, content(id, 1, 100))
		at = at.Add(10 * time.Minute)
	}
	if err := s.Maintain(at.Add(24 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats().Records; got != 12 {
		t.Fatalf("%d records while all are pending, want 12", got)
	}
	if err := o.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, 12})
		tx.Progress(p, nil)
		tx.Dropped("unwanted", [Kinds]uint64{1: 66, 3: 22})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(at); err != nil {
		t.Fatal(err)
	}
	left := s.Entries(Range{0, Open})
	if n := len(left); n != 6 || left[0].Seqs.From != 7 {
		t.Errorf("%d records from %v, want 6 from 7", n, left[0].Seqs)
	}
	mustBalance(t, s)
}

func TestEvictionOrder(t *testing.T) {
	opt := small(t)
	old := attach(t, opt, "flux", "gone")
	id := uint64(0)
	add := func(s *Spool, n int) {
		for range n {
			id++
			mustAppend(t, s, id, t0, content(id, 1, 100_000))
		}
	}
	add(old, 4) // two segments, owed to both
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(opt.Dir, quarantineDir), 0o700)
	os.WriteFile(filepath.Join(opt.Dir, quarantineDir, "000099.seg"), make([]byte, 100_000), 0o600)
	s := attach(t, opt, "flux")
	add(s, 8)
	flux := s.Outbox("flux")
	settle := func(o *Outbox, r Range) {
		t.Helper()
		if err := o.Update(func(tx *Tx) error {
			p, ok := tx.Pending().Without(r)
			if !ok {
				t.Errorf("Without(%v) of %v", r, tx.Pending())
			}
			n := tx.o.s.index.pending(Pending{r}, Open)
			tx.Progress(p, nil)
			tx.Dropped("unwanted", n)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if s.Stats().Quarantined != 1 {
		t.Fatal("no quarantined file")
	}
	settle(flux, Range{3, 9})               // "gone" is owed them still,
	settle(s.outboxes["gone"], Range{5, 7}) // but for these
	steps := ""
	for range 9 {
		st, first := s.Stats(), s.Entries(Range{0, Open})[0].Seqs.From
		gone := s.outboxes["gone"]
		lost := gone.Ledger().Dropped[reasonFull][1].Samples
		if ok, err := s.evictLocked(true); err != nil || !ok {
			t.Fatalf("evict = %v, %v", ok, err)
		}
		mustBalance(t, s)
		switch now := s.Stats(); {
		case now.Quarantined < st.Quarantined:
			steps += "quarantine "
		case s.Entries(Range{0, Open})[0].Seqs.From > first:
			steps += "pending "
		case gone.Ledger().Dropped[reasonFull][1].Samples > lost:
			steps += "unconfigured "
		default:
			steps += "history "
		}
		if strings.Contains(steps, "pending") {
			break
		}
	}
	if want := "quarantine history unconfigured unconfigured pending "; steps != want {
		t.Errorf("eviction went %q, want %q", steps, want)
	}
	if l := flux.Ledger(); l.Dropped[reasonFull] == (Amounts{}) {
		t.Errorf("flux lost nothing: %+v", l)
	}
}

// TestEvictGroup evicts records that are partly sealed: only what was not
// sealed is dropped, and the turn that was under way is refused.
func TestEvictGroup(t *testing.T) {
	s := attach(t, small(t), "flux")
	o := s.Outbox("flux")
	for id := uint64(1); id <= 6; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	before := o.Pending()
	g := &Group{Seqs: Range{1, 4}, Width: time.Minute, K: 20, After: []byte("m"), Sealed: [Kinds]uint64{1: 5}}
	b := batchOf(5, 2)
	if err := o.Update(func(tx *Tx) error { tx.Progress(nil, g); tx.Seal(&b); return nil }); err != nil {
		t.Fatal(err)
	}
	mustBalance(t, s)
	if got, ok := o.Group(); !ok || got.Seqs != g.Seqs || got.Sealed != g.Sealed || string(got.After) != "m" {
		t.Errorf("Group() = %+v, %v", got, ok)
	}
	if _, err := s.evictLocked(true); err != nil {
		t.Fatal(err)
	}
	l := o.Ledger()
	if got, want := l.Dropped[reasonFull][1].Samples, uint64(1+2+3-5); l.ConservationError != 0 || got != want {
		t.Errorf("dropped %d, want %d; %+v", got, want, l)
	}
	if _, ok := o.Group(); ok {
		t.Error("the group is still open")
	}
	err := o.Update(func(tx *Tx) error { tx.Progress(before, nil); return nil })
	if !errors.Is(err, ErrStale) {
		t.Errorf("progress to ranges from before = %v, want ErrStale", err)
	}
	if err := o.Update(func(tx *Tx) error { tx.Progress(nil, g); return nil }); !errors.Is(err, ErrStale) {
		t.Errorf("group from before = %v, want ErrStale", err)
	}
	mustBalance(t, s)
}

func TestRemovedUpstream(t *testing.T) {
	opt := small(t)
	opt.Retention = time.Hour
	s := attach(t, opt, "gone")
	mustAppend(t, s, 1, t0, content(1, 1, 10))
	b := batchOf(0, 1)
	if err := s.Outbox("gone").Update(func(tx *Tx) error { tx.Seal(&b); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = attach(t, opt, "flux")
	if got, want := s.Outboxes(), []string{"flux", "gone"}; !slices.Equal(got, want) {
		t.Errorf("Outboxes() = %v, want %v", got, want)
	}
	if err := s.Maintain(t0.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	o := s.outboxes["gone"]
	if l := o.Ledger(); l.Dropped[reasonRemoved][1] != (Amount{1, 1}) || l.ConservationError != 0 || len(o.Batches()) != 0 {
		t.Errorf("ledger %+v", l)
	}
	if s.Stats().Records != 0 {
		t.Error("the removed upstream pins a record")
	}
}

func TestNewUpstream(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "a")
	mustAppend(t, s, 1, t0, content(1, 1, 10))
	s.Outbox("b")
	mustAppend(t, s, 2, t0, content(2, 1, 10))
	s.Close()
	s = attach(t, opt, "a", "b")
	b := s.Outbox("b")
	if got, want := b.Pending(), (Pending{{2, Open}}); !slices.Equal(got, want) {
		t.Errorf("Pending() = %v, want %v", got, want)
	}
	if l := b.Ledger(); l.Windowed[1].Samples != 2 || l.ConservationError != 0 {
		t.Errorf("ledger %+v", l)
	}
}

func TestFilesAndModes(t *testing.T) {
	opt := small(t)
	os.MkdirAll(opt.Dir, 0o755)
	os.WriteFile(filepath.Join(opt.Dir, "000007.seg.tmp"), []byte("half"), 0o600)
	target := filepath.Join(t.TempDir(), "target")
	os.WriteFile(target, []byte("untouched"), 0o644)
	for name, to := range map[string]string{"000001.seg": target, "000002.seg": "000003.seg"} {
		if err := os.Symlink(to, filepath.Join(opt.Dir, name)); err != nil {
			t.Skip("no symlinks here: ", err)
		}
	}
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 1, 10))
	if n := s.Stats().Quarantined; n != 2 {
		t.Errorf("Quarantined = %d, want the 2 symlinks", n)
	}
	if b, _ := os.ReadFile(target); string(b) != "untouched" {
		t.Errorf("the symlink's target is now %q", b)
	}
	filepath.WalkDir(opt.Dir, func(path string, d fs.DirEntry, err error) error {
		info, _ := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if runtime.GOOS != "windows" && d.Type()&fs.ModeSymlink == 0 && info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		if strings.HasSuffix(path, tempSuffix) {
			t.Errorf("%s is left", path)
		}
		return nil
	})
}

// TestCheck: after a clean stop nothing is checked; after an unclean one what
// was written to.
func TestCheck(t *testing.T) {
	opt := small(t)
	var checked []string
	opt.checking = func(path string) { checked = append(checked, filepath.Base(path)) }
	s := attach(t, opt, "flux")
	for id := uint64(1); id <= 5; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 100_000))
	}
	unclean := filepath.Join(t.TempDir(), "unclean")
	exec.Command("cp", "-a", opt.Dir, unclean).Run() // keeps the times of change
	s.Close()
	attach(t, opt, "flux")
	if len(checked) != 0 {
		t.Errorf("after a clean stop %v are checked", checked)
	}
	opt.Dir = unclean
	s = attach(t, opt, "flux")
	if want := []string{"000003.seg", outboxName}; !slices.Equal(checked, want) {
		t.Errorf("after an unclean stop %v are checked, want %v", checked, want)
	}
	if st := s.Stats(); st.Records != 5 || st.Quarantined != 0 {
		t.Errorf("Stats() = %+v", st)
	}
}

func TestDeadLetters(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	mustAppend(t, s, 10, t0, content(1, 1, 10))
	one, two := batchOf(10, 4), batchOf(0, 2)
	one.Items[1].Kind, one.Items[1].Samples = 3, 2
	if err := o.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, 2})
		tx.Progress(p, nil)
		tx.Seal(&one)
		tx.Seal(&two)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.Update(func(tx *Tx) error {
		tx.Settle(one.Seq, Settlement{To: Delivered, Dead: []int{1, 0}, Rejected: 1, Reason: "poison", Answer: bytes.Repeat([]byte("x"), 9999), At: t0})
		tx.Settle(two.Seq, Settlement{To: Dead, Reason: "refused", At: t0})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mustBalance(t, s)
	s.Close()
	s = attach(t, opt, "flux")
	o = s.Outbox("flux")
	dead := o.Dead()
	if len(dead) != 4 || string(dead[0].Item) != `{"name":"a0"}` || dead[0].Samples != 10 || len(dead[0].Answer) != answerMax || dead[3].Reason != "refused" {
		t.Fatalf("Dead() = %+v", dead)
	}
	l := o.Ledger()
	if l.Dead[1] != (Amount{10, 3}) || l.Dead[3] != (Amount{2, 1}) || l.Dropped["rejected"][1].Items != 1 || l.ConservationError != 0 {
		t.Errorf("ledger %+v", l)
	}
	again := batchOf(10, 1)
	again.Items = again.Items[:1]
	if err := o.Update(func(tx *Tx) error { tx.Exhume(dead[0].ID); tx.Seal(&again); return nil }); err != nil {
		t.Fatal(err)
	}
	if l := o.Ledger(); l.Dead[1] != (Amount{0, 2}) || l.Queued[1] != (Amount{10, 1}) || l.ConservationError != 0 {
		t.Errorf("ledger %+v", l)
	}
}

func TestSplit(t *testing.T) {
	s := attach(t, small(t), "flux")
	o := s.Outbox("flux")
	mustAppend(t, s, 8, t0, content(1, 1, 10))
	parent := batchOf(8, 4)
	parent.Items[1].Kind, parent.Items[1].Samples = 3, 2
	if err := o.Update(func(tx *Tx) error {
		p, _ := tx.Pending().Without(Range{1, 2})
		tx.Progress(p, nil)
		tx.Seal(&parent)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	left, right := batchOf(8, 2), batchOf(0, 2)
	left.Items[1].Kind, left.Items[1].Samples = 3, 2
	if err := o.Update(func(tx *Tx) error {
		tx.Settle(parent.Seq, Settlement{To: Replaced})
		tx.Seal(&left)
		tx.Seal(&right)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mustBalance(t, s)
	if left.Seq != 2 || right.Seq != 3 {
		t.Errorf("sequences %d and %d, want 2 and 3", left.Seq, right.Seq)
	}
}

func TestDueOrder(t *testing.T) {
	s := attach(t, small(t), "flux")
	o := s.Outbox("flux")
	for _, b := range []Batch{{Lane: Sets}, {Lane: Metrics, Due: t0.Add(time.Hour)}, {Lane: Events}, {Lane: Sets}} {
		if err := o.Update(func(tx *Tx) error { tx.Seal(&b); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	want := []uint64{1, 4, 3}
	for _, seq := range want {
		b, ok := o.Due(t0)
		if !ok || b.Seq != seq {
			t.Fatalf("Due = %+v, %v, want batch %d", b, ok, seq)
		}
		if err := o.Update(func(tx *Tx) error { tx.State(seq, Sending, t0, t0, 1); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if b, ok := o.Due(t0); ok {
		t.Errorf("Due = %+v before its time", b)
	}
	if b, ok := o.Due(t0.Add(time.Hour)); !ok || b.Seq != 2 {
		t.Errorf("Due an hour later = %+v, %v, want batch 2", b, ok)
	}
}

// TestFailedCommit closes the file under the outbox: the Update fails, nothing
// has happened, and the next one works again.
func TestFailedCommit(t *testing.T) {
	s := attach(t, small(t), "flux")
	o := s.Outbox("flux")
	s.box.db.Close()
	if err := o.Update(func(tx *Tx) error { b := batchOf(0, 1); tx.Seal(&b); return nil }); err == nil {
		t.Fatal("Update on a closed file succeeded")
	}
	if n := len(o.Batches()); n != 0 {
		t.Errorf("%d batches after a failed commit", n)
	}
	b := batchOf(0, 1)
	if err := o.Update(func(tx *Tx) error { tx.Seal(&b); return nil }); err != nil || b.Seq != 1 {
		t.Errorf("Update = %v, batch %d", err, b.Seq)
	}
}

func TestUpdateRefuses(t *testing.T) {
	s := attach(t, small(t), "flux")
	o := s.Outbox("flux")
	for name, fn := range map[string]func(*Tx){
		"unknown batch":  func(tx *Tx) { tx.Settle(9, Settlement{To: Delivered}) },
		"unknown state":  func(tx *Tx) { tx.State(9, 4, t0, t0, 0) },
		"unknown letter": func(tx *Tx) { tx.Exhume(1) },
		"closed ranges":  func(tx *Tx) { tx.Progress(Pending{{1, 5}}, nil) },
		"future ranges":  func(tx *Tx) { tx.Progress(Pending{{5, Open}}, nil) },
		"no lane":        func(tx *Tx) { tx.Seal(&Batch{}) },
		"item outside":   func(tx *Tx) { tx.Seal(&Batch{Lane: Metrics, Items: []Item{{Off: 1, Len: 1}}, Body: []byte("x")}) },
	} {
		if err := o.Update(func(tx *Tx) error { fn(tx); tx.Put("t", "k", []byte("v")); return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if o.Get("t", "k") != nil {
		t.Error("a refused Update has left something")
	}
}

func TestCompact(t *testing.T) {
	opt := small(t)
	opt.MaxBytes = 256 << 20
	s := attach(t, opt, "flux")
	o := s.Outbox("flux")
	path := filepath.Join(opt.Dir, outboxName)
	fresh, _ := os.Stat(path)
	big := Batch{Lane: Metrics}
	for _, p := range content(1, 5, 1<<20) {
		big.Body = append(big.Body, p...)
	}
	if err := o.Update(func(tx *Tx) error { tx.Seal(&big); tx.Put("t", "k", []byte("v")); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := o.Update(func(tx *Tx) error { tx.Settle(1, Settlement{To: Delivered}); return nil }); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	s.Close()
	s = attach(t, opt, "flux")
	after, _ := os.Stat(path)
	if before.Size() < 3*fresh.Size() || after.Size() > fresh.Size()+allocSize || string(s.Outbox("flux").Get("t", "k")) != "v" {
		t.Errorf("outbox.db had %d bytes when new, then %d, has %d", fresh.Size(), before.Size(), after.Size())
	}
}

func TestPending(t *testing.T) {
	p := Pending{{5, Open}}
	p, _ = p.Without(Range{5, 7})
	p, _ = p.Without(Range{9, 12})
	if want := (Pending{{7, 9}, {12, Open}}); !slices.Equal(p, want) {
		t.Fatalf("%v, want %v", p, want)
	}
	for seq, want := range map[uint64]bool{6: false, 7: true, 8: true, 9: false, 11: false, 12: true, 1 << 40: true} {
		if p.Contains(seq) != want {
			t.Errorf("Contains(%d) = %v", seq, !want)
		}
	}
	for i := uint64(1); len(p) < RangesMax; i++ {
		p, _ = p.Without(Range{12 + 2*i, 13 + 2*i})
	}
	if q, ok := p.Without(Range{1 << 30, 1<<30 + 1}); ok || !slices.Equal(p, q) {
		t.Error("a 65th range was made")
	}
	if q, ok := p.Without(Range{7, 9}); !ok || len(q) != RangesMax-1 || q.Valid() != nil {
		t.Error("the oldest range could not be drained at the bound")
	}
	if _, ok := p.Without(Range{7, Open}); ok {
		t.Error("the open end was taken away")
	}
}

func TestPendingExisting(t *testing.T) {
	at := func(ranges ...Range) (list []Entry) {
		for _, r := range ranges {
			list = append(list, Entry{Seqs: r})
		}
		return list
	}
	p := Pending{{1, 4}, {6, 12}, {20, Open}}
	for _, c := range []struct {
		name    string
		entries []Entry
		next    uint64
		want    Pending
	}{
		{"all are there", at(Range{1, 2}, Range{2, 3}, Range{3, 4}, Range{6, 12}, Range{20, 21}), 21, p},
		{"none is", nil, 30, Pending{{30, Open}}},
		{"none is, nor was beyond", nil, 15, Pending{{20, Open}}},
		{"the ends are gone", at(Range{2, 3}, Range{8, 9}, Range{10, 11}, Range{22, 23}), 24, Pending{{2, 3}, {8, 11}, {22, Open}}},
		{"a whole range is gone", at(Range{1, 4}, Range{20, 25}), 25, Pending{{1, 4}, {20, Open}}},
		{"of the last those that were", at(Range{6, 7}), 24, Pending{{6, 7}, {24, Open}}},
	} {
		got := p.Existing(c.entries, c.next)
		if !slices.Equal(got, c.want) || got.Valid() != nil {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestShare(t *testing.T) {
	a := Amounts{0: {0, 1}, 1: {100, 300}, 3: {1 << 62, 198}}
	for n := uint64(0); n <= 600; n++ {
		part := share(a, n)
		var items uint64
		for k := range part {
			items += part[k].Items
			if part[k].Items > a[k].Items || part[k].Samples > a[k].Samples {
				t.Fatalf("share(%d) = %v, more than there is", n, part)
			}
		}
		if want := min(n, 499); items != want {
			t.Fatalf("share(%d) has %d items, want %d", n, items, want)
		}
	}
	if got, want := share(a, 499), a; got != want {
		t.Errorf("share of all = %v, want %v", got, want)
	}
}

package spool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPowerCut cuts the power under a writing process: its folder is on an ext4
// image that is mounted with a loop device and flushes nothing by itself
// (commit=1000). The process is killed, and the image is copied while it is
// still mounted: what was not synced is not in the copy. The copy is mounted,
// which replays its journal, and every record and batch that the process had
// said was committed must be there. The next cycle goes on with the copy.
//
// Beside it runs the same without syncs, which must lose something, or the test
// would prove nothing.
//
// SPOOL_POWER_CUTS sets the number of cycles.
func TestPowerCut(t *testing.T) {
	cycles := 4
	if n, err := strconv.Atoi(os.Getenv("SPOOL_POWER_CUTS")); err == nil {
		cycles = n
	}
	p := &powerCuts{t: t, dir: t.TempDir()}
	p.make()
	for cycle := range cycles {
		if p.cycle(cycle, "write"); p.lost > 0 {
			t.Fatalf("cycle %d: %d of what was committed is lost, the first: %s", cycle, p.lost, p.first)
		}
	}
	t.Logf("%d power cuts on ext4: %d records and batches committed, %d lost", cycles, p.committed, p.lost)

	broken := &powerCuts{t: t, dir: t.TempDir()}
	broken.make()
	for cycle := 0; cycle < 10 && broken.lost == 0; cycle++ {
		broken.cycle(cycle, "write-unsynced")
	}
	if broken.lost == 0 {
		t.Error("without syncs nothing was lost: this test cannot find what it looks for")
	}
	t.Logf("without syncs %d of %d are lost in the first cut that loses any", broken.lost, broken.committed)
}

type powerCuts struct {
	t         *testing.T
	dir       string
	records   map[uint64]uint64 // sequence to id
	batches   map[string]bool
	committed int
	lost      int
	first     string
}

func (p *powerCuts) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (p *powerCuts) path(name string) string { return filepath.Join(p.dir, name) }

// make formats the image. A machine that cannot mount it skips.
func (p *powerCuts) make() {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		p.t.Skip("needs root on Linux to mount an image")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		p.t.Skip("needs mkfs.ext4 (e2fsprogs)")
	}
	p.records, p.batches = map[uint64]uint64{}, map[string]bool{}
	image, err := os.Create(p.path("image"))
	if err == nil {
		err = image.Truncate(48 << 20)
		image.Close()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.run("mkfs.ext4", "-q", "-F", p.path("image"))
	if err := os.Mkdir(p.path("mnt"), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop,commit=1000", p.path("image"), p.path("mnt")).CombinedOutput(); err != nil {
		p.t.Skipf("mount -o loop: %v: %s", err, out)
	}
	p.run("umount", p.path("mnt"))
}

// cycle writes, cuts the power, and looks for what was committed.
func (p *powerCuts) cycle(n int, mode string) {
	t := p.t
	t.Helper()
	p.run("mount", "-o", "loop,commit=1000", p.path("image"), p.path("mnt"))
	mounted := true
	defer func() {
		if mounted {
			exec.Command("umount", "-l", p.path("mnt")).Run()
		}
	}()
	spool := filepath.Join(p.path("mnt"), "spool")
	cmd, lines := child(t, mode, spool)
	timer := time.AfterFunc(time.Hour, func() { cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	for first := true; lines.Scan(); first = false {
		if first { // however long a busy machine took to get there
			timer.Reset(time.Duration(200+n*37%400) * time.Millisecond)
		}
		var seq, id uint64
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "record":
			fmt.Sscan(rest, &seq, &id)
			p.records[seq] = id
		case "batch":
			p.batches[rest] = true
		default:
			t.Fatalf("cycle %d: child says %q", n, lines.Text())
		}
		p.committed++
	}
	cmd.Wait()
	p.run("cp", "--sparse=always", p.path("image"), p.path("cut"))
	p.run("umount", p.path("mnt"))
	mounted = false
	if err := os.Rename(p.path("cut"), p.path("image")); err != nil {
		t.Fatal(err)
	}
	p.run("mount", "-o", "loop,commit=1000", p.path("image"), p.path("mnt"))
	mounted = true
	p.look(spool)
	p.run("umount", p.path("mnt"))
	mounted = false
}

// look counts what is missing in the folder.
func (p *powerCuts) look(dir string) {
	t := p.t
	t.Helper()
	missing := func(format string, args ...any) {
		if p.lost++; p.lost == 1 {
			p.first = fmt.Sprintf(format, args...)
		}
	}
	s := New(Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 24 << 20})
	o := s.Outbox("flux")
	if err := s.Attach(t.Context(), t0); err != nil {
		missing("Attach: %v", err)
		return
	}
	defer s.Close()
	oldest := uint64(0) // what is before was evicted
	if e := s.Entries(Range{0, Open}); len(e) > 0 {
		oldest = e[0].Seqs.From
	}
	for seq, id := range p.records {
		parts, err := s.Read(seq)
		if seq >= oldest && (err != nil || !sameParts(parts, content(id, len(parts), 900))) {
			missing("record %d: %v", seq, err)
		}
	}
	have := map[string]bool{}
	for _, b := range o.Batches() {
		if _, err := o.Load(b.Seq); err == nil {
			have[fmt.Sprintf("%d %s", b.Seq, o.Generation())] = true
		}
	}
	for b := range p.batches {
		if !have[b] {
			missing("batch %s", b)
		}
	}
	if l := o.Ledger(); l.ConservationError != 0 {
		missing("the ledger is off by %d", l.ConservationError)
	}
	if st := s.Stats(); st.Quarantined > 0 || st.DamagedRecords > 0 {
		missing("%d files quarantined, %d records damaged", st.Quarantined, st.DamagedRecords)
	}
}

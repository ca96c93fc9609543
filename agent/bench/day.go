//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/forwarder/fluxtest"
)

// warmUp is how long W9 runs before it measures: the first minute has the start in
// it, and the first plan.
const warmUp = 2 * time.Minute

// day measures two daemons side by side, with the usual configuration: one has an
// upstream that takes what comes, the other one to which nothing connects. What each
// uses in a while is told as of a day. The second's spool fills meanwhile, but what
// a window costs does not depend on how many wait.
func day(w *workload, dir string) error {
	flux, err := fluxtest.Start("", fluxtest.Options{KeepRows: 1})
	if err != nil {
		return err
	}
	defer flux.Close()
	nobody, err := freeTCPPort()
	if err != nil {
		return err
	}
	ends := make(chan error, 2)
	states := []struct{ name, url string }{{"upstream takes all", flux.URL}, {"upstream away", "http://" + nobody}}
	fmt.Printf("%s: %d series, %d samples/s, windows of 10 s, %s after %s\n", w.name, w.series, w.rate, *during, warmUp)
	for _, s := range states {
		go func() { ends <- w.dayOf(s.name, s.url, dir) }()
	}
	for range states {
		err = errors.Join(err, <-ends)
	}
	requests, items := flux.Requests(), 0
	for _, r := range requests {
		items += r.Stored
	}
	fmt.Printf("  the upstream had %d requests with %d items in all\n", len(requests), items)
	for _, v := range flux.Violations() {
		err = errors.Join(err, fmt.Errorf("the upstream found: %v", v))
	}
	return err
}

// dayOf measures one daemon.
func (w *workload) dayOf(name, url, dir string) (err error) {
	disk, err := newDisk(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.close()) }()
	upstream := fmt.Sprintf("upstreams: [{name: flux, type: flux, url: %q, api_key: %s}]", url, fluxtest.Key)
	p, err := startDaemon(name, *daemon, w.network, disk.at, "interval: 10s", upstream)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, p.stop()); err == nil && p.dropped == 0 {
			err = p.contents()
		}
	}()
	if p.sender, err = dial(w.network, p.addr, render(w)); err != nil {
		return err
	}
	if err := p.sender.run(w.rate, warmUp, 0); err != nil {
		return err
	}
	p.resetPeak()
	begin, cpu, written, windows := time.Now(), p.cpu(), disk.written(), p.closed()
	if err := p.sender.run(w.rate, *during, 0); err != nil {
		return err
	}
	p.drain()
	took := time.Since(begin)
	cpu, written, windows = p.cpu()-cpu, disk.written()-written, p.closed()-windows
	perDay := float64(24*time.Hour) / float64(took)
	now, peak := p.memory()
	fmt.Printf("  %-18s %.0f s of CPU (%.2f %% of one), %.1f MiB resident, %.1f at most, %.1f by share (Pss); %.0f MB written, %.1f KB a window; %d windows\n",
		name, cpu.Seconds()*perDay, 100*cpu.Seconds()/took.Seconds(), float64(now)/(1<<20), float64(peak)/(1<<20), float64(p.share())/(1<<20),
		float64(written)/1e6*perDay, float64(written)/1e3/float64(max(windows, 1)), windows)
	return p.books()
}

// share is the memory of the process in which pages that others use as well count in
// part (proc(5), smaps_rollup), in bytes.
func (p *program) share() uint64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.command.Process.Pid))
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
			kib, _ := strconv.ParseUint(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// A disk is a file system that nobody else uses, ext4 in a file, so that what is
// written to it is known as a disk sees it: data, journal and all. What the kernel
// counts for the process (proc(5), io, write_bytes) are pages that it changed, by
// folios: on Linux 6.18 several times as much as is written.
type disk struct {
	at    string
	stats string // of its device; "" where only root could make one
}

// newDisk makes one in dir, as root; for others it is a folder there.
func newDisk(dir string) (d disk, err error) {
	if d.at, err = os.MkdirTemp(dir, "disk-"); err != nil || os.Geteuid() != 0 {
		return d, err
	}
	image := d.at + ".img"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return d, err
	}
	if err := os.Truncate(image, 1<<30); err != nil {
		return d, err
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image}, // later it would be written
		{"mount", "-o", "loop", image, d.at},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return d, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	var stat unix.Stat_t
	if err := unix.Stat(d.at, &stat); err != nil {
		return d, errors.Join(err, d.close())
	}
	d.stats = fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	return d, nil
}

func (d *disk) close() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return unix.Unmount(d.at, 0)
}

// written is how many bytes the disk was told to write: the kernel counts sectors
// of 512 (its Documentation/block/stat.rst).
func (d *disk) written() uint64 {
	b, _ := os.ReadFile(d.stats)
	f := strings.Fields(string(b))
	if len(f) < 7 {
		return 0
	}
	n, _ := strconv.ParseUint(f[6], 10, 64)
	return n * 512
}

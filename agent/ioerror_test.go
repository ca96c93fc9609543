package main

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

	"sluice/forwarder/fluxtest"
)

// diskCalls are the system calls by which the agent changes its spool, and how
// many of each are made to fail, one per run: the first so many.
var diskCalls = []struct {
	name  string
	first int
}{
	{"pwrite64", 40}, {"fdatasync", 25}, {"fsync", 14}, {"ftruncate", 8}, {"renameat", 6}, {"mkdirat", 1}, {"unlinkat", 3}, {"flock", 3},
}

// TestDiskErrors has one call of the agent to its disk fail in each run, with EIO
// and with ENOSPC, by strace. The agent must go on, and every sample must reach
// Flux once. A thread counts its own calls, so a run can have more than one
// failure; GOMAXPROCS=1 keeps the threads few.
//
// SLUICE_DISK_ERRORS=1 runs them all, 9 every ninth; without it every 25th is run. With it
// there are also runs in which the disk dies, and comes back.
func TestDiskErrors(t *testing.T) {
	t.Parallel()
	strace := straceOrSkip(t)
	step := 25
	if n, err := strconv.Atoi(os.Getenv("SLUICE_DISK_ERRORS")); err == nil && n > 0 {
		step = n
	}
	runs, n := 0, 0
	slots := make(chan struct{}, 3)
	for _, errno := range []string{"EIO", "ENOSPC"} {
		for _, call := range diskCalls {
			for when := 1; when <= call.first; when++ {
				if n++; n%step != 0 {
					continue
				}
				runs++
				t.Run(fmt.Sprintf("%s/%s/%d", errno, call.name, when), func(t *testing.T) {
					t.Parallel()
					slots <- struct{}{}
					defer func() { <-slots }()
					diskError(t, strace, call.name, errno, when)
				})
			}
		}
	}
	for _, errno := range []string{"EIO", "EROFS"} {
		if step <= 9 {
			t.Run(errno+"/from then on", func(t *testing.T) {
				t.Parallel()
				diskDies(t, strace, errno)
			})
		}
	}
	t.Cleanup(func() {
		if !t.Failed() {
			t.Logf("%d runs with a failed call: 0 exits, 0 samples lost, 0 doubled", runs)
		}
	})
}

// diskDies has every call that changes the disk fail from some moment on, those of
// outbox.db, too. What comes is delivered from memory. When the disk is back, which is
// when strace has gone, what waited for it follows, and all is upstream once.
func diskDies(t *testing.T, strace, errno string) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
	dir := t.TempDir()
	calls := "pwrite64,fdatasync,fsync,ftruncate,renameat,unlinkat,mkdirat"
	d := start(t, setup{
		Dir: dir, Flux: flux.URL, Interval: "100ms", Upstream: "settle: 0s", Env: []string{"GOMAXPROCS=1"},
		// -I 2: it ends when it is told to. Without --seccomp-bpf, whose filter would stay.
		Under: []string{strace, "-D", "-f", "-I", "2", "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=" + calls + ":error=" + errno + ":when=40+"},
	})
	conn := d.dial("udp")
	sent := map[string]int{}
	send := func(name string) {
		sent[name]++
		d.send(conn, name+":1|c")
	}
	d.until("the disk dies", func() bool {
		send("dies.early")
		return d.status().Spool.State == "memory" && d.log.count("record is kept in memory") > 0
	})
	d.until("what comes is delivered from memory", func() bool {
		send("dies.meanwhile")
		return flux.CounterTotal("dies.meanwhile").Float > 0 && d.log.count("windows are delivered from memory") > 0
	})
	d.balanced()
	d.untraced()
	send("dies.after")
	d.delivered()
	d.balanced()
	for name, n := range sent {
		if got := flux.CounterTotal(name).Float; got != float64(n) {
			t.Errorf("%v samples of %s arrived, %d were sent", got, name, n)
		}
	}
	if got := flux.Duplicates(); len(got) > 0 {
		t.Errorf("%d counters were stored twice, the first %+v", len(got), got[0])
	}
}

// untraced ends the strace that the daemon is under: nothing fails any more.
func (d *daemon) untraced() {
	d.t.Helper()
	tracer := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
		if err != nil {
			d.t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(b), "TracerPid:")
		var pid int
		fmt.Sscan(text, &pid)
		return pid
	}
	pid := tracer()
	if pid == 0 {
		d.t.Fatal("nobody traces the agent")
	}
	strace, err := os.FindProcess(pid)
	if err == nil {
		err = strace.Signal(syscall.SIGTERM) // it lets go of what it traces
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.until("strace has gone", func() bool { return tracer() == 0 })
}

func straceOrSkip(t *testing.T) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("needs strace")
	}
	if out, err := exec.Command(strace, "-f", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace: %v: %s", err, out) // a machine may forbid it
	}
	if raceEnabled {
		t.Skip("strace and the race detector together are too slow")
	}
	return strace
}

func diskError(t *testing.T, strace, call, errno string, when int) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
	dir := t.TempDir()
	trace := filepath.Join(dir, "strace")
	d := start(t, setup{
		Dir: dir, Flux: flux.URL, Interval: "100ms", Upstream: "settle: 0s", Env: []string{"GOMAXPROCS=1"},
		// -D: strace is the grandchild, so that signals go to the agent.
		Under: []string{strace, "-D", "-f", "--seccomp-bpf", "-o", trace, "-e", "trace=" + call, "-e", "inject=" + call + ":error=" + errno + ":when=" + strconv.Itoa(when)},
	})
	conn := d.dial("udp")
	sent := 0
	for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		d.send(conn, "disk.count:1|c\ndisk.time:5|d")
		sent++
	}
	d.taken(uint64(2 * sent))
	d.delivered()
	d.balanced()
	if got := flux.CounterTotal("disk.count").Float; got != float64(sent) {
		t.Errorf("%v samples arrived, %d were sent", got, sent)
	}
	if got := flux.CounterTotal("disk.time.count").Float; got != float64(sent) {
		t.Errorf("%v values arrived, %d were sent", got, sent)
	}
	for _, k := range d.status().Upstreams[0].Ledger.all() {
		if len(k.Dropped) > 0 {
			t.Errorf("dropped: %v", k.Dropped)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sluice/forwarder/fluxtest"
)

// TestDiskTrouble takes the disk away from a running agent in every way there
// is, and gives it back. Meanwhile the agent stays up, takes samples, and says in
// /readyz, in its status and in its log what is the matter; afterwards every
// sample is delivered once and the books balance.
func TestDiskTrouble(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux to mount small file systems")
	}
	tmpfs := func(options string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { command(t, "mount", "-t", "tmpfs", "-o", options, "tmpfs", dir) }
	}
	ext4 := func(t *testing.T, dir string) {
		makeExt4(t, dir+".image")
		command(t, "mount", "-o", "loop", dir+".image", dir)
	}
	fill := func(t *testing.T, dir string, _ *daemon) {
		f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		f.Close()
	}
	unfill := func(t *testing.T, dir string, _ *daemon) { os.Remove(filepath.Join(dir, "filler")) }
	for _, c := range []struct {
		name  string
		mount func(*testing.T, string)
		take  func(*testing.T, string, *daemon)
		back  func(*testing.T, string, *daemon)
		says  string // in /readyz; "" if the agent may find a way
		state string
	}{
		{name: "full tmpfs", mount: tmpfs("size=12m"), take: fill, back: unfill, says: "no space left", state: "full"},
		{name: "full ext4", mount: ext4, take: fill, back: unfill, says: "no space left", state: "full"},
		{name: "no inodes", mount: tmpfs("size=32m,nr_inodes=40"), take: func(t *testing.T, dir string, _ *daemon) {
			var err error
			for n := 0; err == nil; n++ {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprint("inode", n)), nil, 0o600)
			}
		}, back: func(t *testing.T, dir string, _ *daemon) {
			list, _ := filepath.Glob(filepath.Join(dir, "inode*"))
			for _, name := range list {
				os.Remove(name)
			}
		}},
		{name: "largest file", mount: tmpfs("size=32m"), take: func(t *testing.T, _ string, d *daemon) { // RLIMIT_FSIZE, with its signal
			command(t, "prlimit", "--fsize=20000:unlimited", "--pid", fmt.Sprint(d.cmd.Process.Pid))
		}, back: func(t *testing.T, _ string, d *daemon) {
			command(t, "prlimit", "--fsize=unlimited:unlimited", "--pid", fmt.Sprint(d.cmd.Process.Pid))
		}, says: "file too large", state: "memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "disk")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.mount(t, dir)
			t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
			flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
			d := start(t, setup{Flux: flux.URL, Spool: filepath.Join(dir, "spool"), Interval: "100ms", Upstream: "settle: 0s"})
			d.until("the spool is open", func() bool { return d.status().Spool.State == "ok" })
			conn := d.dial("udp")
			sent := 0
			send := func() {
				sent++
				d.send(conn, fmt.Sprintf("trouble.count:1|c|#n:%d", sent)+"\n"+"trouble.pad:"+strings.Repeat("x", 2000)+fmt.Sprint(sent)+"|s")
			}
			send()
			d.until("the first sample is delivered", func() bool { return flux.CounterTotal("trouble.count").Float == 1 })
			c.take(t, dir, d)
			if c.says != "" {
				d.until("the agent says what is the matter", func() bool {
					send()
					s := d.status()
					return s.Spool.State == c.state && strings.Contains(s.Spool.Detail, c.says) && s.Ready.OK && strings.Contains(s.Ready.Detail, c.says)
				})
				d.until("what comes meanwhile is delivered from memory", func() bool {
					send()
					d.send(conn, "trouble.meanwhile:1|c")
					if c.state == "full" {
						c.take(t, dir, d) // ext4 finds some room again once it has written what it had promised room for
					}
					return flux.CounterTotal("trouble.meanwhile").Float > 0 && d.status().Spool.State == c.state
				})
				if !strings.Contains(d.log.String(), c.says) {
					t.Errorf("the log does not tell of %q", c.says)
				}
			}
			for range 20 {
				send()
			}
			d.taken(uint64(2 * sent))
			c.back(t, dir, d)
			d.delivered()
			d.balanced()
			if got := flux.CounterTotal("trouble.count").Float; got != float64(sent) {
				t.Errorf("%v samples arrived, %d were sent", got, sent)
			}
		})
	}
}

// TestDiskGone has the kernel abort a file system, as it does after errors of the
// disk: from then on it can be read and not written. The agent goes on from memory.
// Then it ends, by force or not, and another one starts on the repaired disk: what
// the first has sent is not sent again, and no more is missing than the window that
// was being written and those that were in memory at the end.
func TestDiskGone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux to mount small file systems")
	}
	for _, how := range []string{"killed", "stopped"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := mountExt4(t)
			flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
			s := setup{Dir: t.TempDir(), Flux: flux.URL, Spool: filepath.Join(dir, "spool"), Interval: "100ms", Upstream: "settle: 0s"}
			d := start(t, s)
			d.until("the spool is open", func() bool { return d.status().Spool.State == "ok" })
			conn := d.dial("udp")
			sent := 0
			send := func(name string) {
				sent++
				d.send(conn, fmt.Sprintf("%s:1|c|#n:%d", name, sent))
			}
			arrived := func(name string) int { return len(flux.RowsOf(name)) }
			send("gone.before")
			d.until("the first sample is delivered", func() bool { return arrived("gone.before") == 1 })

			command(t, "mount", "-o", "remount,abort", dir)
			d.until("the agent says what is the matter", func() bool {
				send("gone.early")
				s := d.status()
				return s.Spool.State == "memory" && s.Ready.OK && strings.Contains(s.Ready.Detail, "spool memory")
			})
			d.until("what comes is delivered from memory", func() bool { send("gone.meanwhile"); return arrived("gone.meanwhile") > 0 })
			d.balanced()
			meanwhile := arrived("gone.meanwhile")
			if how == "killed" {
				d.kill()
			} else {
				d.signal(syscall.SIGTERM)
				d.wait()
				if code := d.cmd.ProcessState.ExitCode(); code != exitFailed { // a window is lost, and it says so
					t.Errorf("after SIGTERM: %v, want exit status 1", d.cmd.ProcessState)
				}
			}
			command(t, "umount", dir)
			command(t, "mount", "-o", "loop", dir+".image", dir)

			d = start(t, s)
			conn = d.dial("udp")
			send("gone.after")
			d.until("what comes afterwards is delivered", func() bool { return arrived("gone.after") == 1 })
			d.delivered()
			d.balanced()
			if got := flux.Duplicates(); len(got) > 0 {
				t.Errorf("%d counters were stored twice, the first %+v", len(got), got[0])
			}
			for _, name := range []string{"gone.before", "gone.early", "gone.meanwhile", "gone.after"} {
				seen := map[string]bool{}
				for _, row := range flux.RowsOf(name) {
					if key := fmt.Sprint(row.Tags); seen[key] || row.Value != 1 {
						t.Errorf("%s %v = %v arrived, want each once, as 1", name, row.Tags, row.Value)
					} else {
						seen[key] = true
					}
				}
			}
			t.Logf("%d samples sent, %d and then %d from memory delivered", sent, meanwhile, arrived("gone.meanwhile"))
		})
	}
}

// TestDiskHangs freezes the file system under the agent: whatever it writes does not
// come back. It goes on taking samples, closes windows on time, and says what is the
// matter. When the disk answers again everything is delivered once. One that is stopped
// meanwhile says what that loses. An agent that is
// killed meanwhile cannot end, and the one that follows goes on beside it; this, and one
// that is started on a disk that hangs, run when SLUICE_DISK_ERRORS is set.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux to freeze a file system")
	}
	if _, err := exec.LookPath("fsfreeze"); err != nil {
		t.Skip("needs fsfreeze (util-linux)")
	}
	ways := []string{"thawed", "stopped"}
	if os.Getenv("SLUICE_DISK_ERRORS") != "" {
		ways = append(ways, "killed")
		t.Run("started", func(t *testing.T) {
			t.Parallel()
			hangsAtStart(t)
		})
	}
	for _, how := range ways {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := mountExt4(t)
			flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
			s := setup{Dir: t.TempDir(), Flux: flux.URL, Spool: filepath.Join(dir, "spool"), Interval: "100ms", Upstream: "settle: 0s", Shutdown: "1s",
				Listen: "  udp: [\"127.0.0.1:0\"]\n  http: \"127.0.0.1:0\"\n"}
			first := start(t, s)
			thaw := func() { exec.Command("fsfreeze", "--unfreeze", dir).Run() }
			t.Cleanup(thaw) // before the agent is asked to end
			first.until("the spool is open", func() bool { return first.status().Spool.State == "ok" })
			conn := first.dial("udp")
			sent := map[string]int{}
			send := func(d *daemon, name string) {
				sent[name]++
				d.send(conn, name+":1|c")
			}
			arrived := func(name string) int { return int(flux.CounterTotal(name).Float) }
			send(first, "hang.before")
			first.until("the first sample is delivered", func() bool { return arrived("hang.before") == 1 })

			command(t, "fsfreeze", "--freeze", dir)
			first.until("the agent says what is the matter", func() bool {
				send(first, "hang.first")
				s := first.status()
				return s.Spool.State == "memory" && strings.Contains(s.Spool.Detail, "has not answered since") &&
					s.Ready.OK && strings.Contains(s.Ready.Detail, "has not answered since")
			})
			first.until("the log tells of it", func() bool { return first.log.count("records are kept in memory") > 0 }) // its pipe may be behind
			if n := first.log.count("records are kept in memory"); n != 1 {
				t.Errorf("the log tells of it %d times, want once", n)
			}
			waiting := first.status().Spool.InMemory
			first.until("windows are closed meanwhile", func() bool { send(first, "hang.first"); return first.status().Spool.InMemory >= waiting+5 })
			first.taken(uint64(sent["hang.before"] + sent["hang.first"]))

			if how == "stopped" {
				first.lostWithDisk(s, thaw, flux, sent)
				return
			}
			d := first
			other := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
			if how == "thawed" { // a reload does not wait for the disk either, whatever it asks for
				with := s
				text := strings.Replace(with.yaml(), "\nspool:", fmt.Sprintf("\n  - {name: other, url: %q, api_key: %q}\nspool:", other.URL, fluxtest.Key), 1)
				text = strings.Replace(text, "spool: {", "spool: {max_bytes: 128MiB, ", 1)
				if err := os.WriteFile(first.file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				first.signal(syscall.SIGHUP)
				first.until("the reload is over", func() bool { return first.log.count("the configuration has changed and is in effect") == 1 })
				waiting := first.status().Spool.InMemory
				first.until("windows are closed after it", func() bool { send(first, "hang.first"); return first.status().Spool.InMemory >= waiting+5 })
				first.refuses()
			}
			if how == "killed" {
				first.signal(syscall.SIGKILL)
				d = start(t, s)
				t.Cleanup(thaw)
				conn = d.dial("udp")
				for range 20 {
					send(d, "hang.second")
				}
				d.taken(20)
				d.until("it says what is the matter, too", func() bool {
					s := d.status().Spool // it waits for the lock, or for the disk already
					return s.State == "memory" && (strings.Contains(s.Detail, "has not answered since") || strings.Contains(s.Detail, "used by another process"))
				})
			}
			thaw()
			if how == "killed" {
				first.wait()
			}
			send(d, "hang.after")
			d.delivered()
			d.balanced()
			if how == "thawed" {
				for _, path := range readPaths {
					d.until(path+" is answered again", func() bool { code, _ := d.get(path); return code == http.StatusOK })
				}
			}
			if how == "thawed" && other.CounterTotal("hang.after").Float != 1 {
				t.Error("what came after the thaw did not arrive at the upstream that was added")
			}
			if how == "killed" { // what was in memory only is gone
				if n := arrived("hang.first"); n > sent["hang.first"] {
					t.Errorf("%d samples of the first arrived, %d were sent", n, sent["hang.first"])
				}
				delete(sent, "hang.first")
			}
			for name, n := range sent {
				if got := arrived(name); got != n {
					t.Errorf("%d samples of %s arrived, %d were sent", got, name, n)
				}
			}
			if got := flux.Duplicates(); len(got) > 0 {
				t.Errorf("%d counters were stored twice, the first %+v", len(got), got[0])
			}
			t.Logf("%d windows waited for the disk, %d KiB of memory", waiting, d.memory("RssAnon")>>10)
		})
	}
}

// readPaths are questions that need the disk.
var readPaths = []string{"/api/agent/spool", "/api/agent/spool/export", "/api/agent/metrics/tags?kind=counter&name=hang.first"}

// refuses demands that questions which need the disk are answered with 503 and why, however
// many are asked at once.
func (d *daemon) refuses() {
	d.t.Helper()
	var asking sync.WaitGroup
	for range 2 * maxReads {
		for _, path := range readPaths {
			asking.Go(func() {
				code, body := d.get(path)
				said := strings.Contains(body, "has not answered since") || strings.Contains(body, "are still being answered") // those that wait for their turn
				if code != http.StatusServiceUnavailable || !said {
					d.t.Errorf("GET %s: status %d, want 503 and why\n%.300s", path, code, body)
				}
			})
		}
	}
	asking.Wait()
}

// lostWithDisk stops an agent whose disk hangs. It says what it takes with it, and that is
// what does not arrive.
func (d *daemon) lostWithDisk(s setup, thaw func(), flux *fluxtest.Server, sent map[string]int) {
	t := d.t
	t.Helper()
	d.signal(syscall.SIGTERM)
	const text = "the stop does not wait for it"
	d.until("the stop gives up", func() bool { return d.log.count(text) == 1 && d.log.count("stopped") == 1 })
	said, _ := d.log.find(text)
	lost, windows := int(said["samples"].(float64)), said["windows"].(float64)
	thaw() // a process does not end while the kernel holds one of its threads
	d.wait()
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("after SIGTERM: %v, want exit status 1", d.cmd.ProcessState)
	}
	if lost == 0 || windows == 0 {
		t.Errorf("%v windows with %d samples are lost, want some", windows, lost)
	}
	next := start(t, s)
	t.Cleanup(thaw)
	next.delivered()
	next.balanced()
	all, got := 0, 0
	for name, n := range sent {
		all += n
		got += int(flux.CounterTotal(name).Float)
	}
	// The window that was being written may have come through, as the log says.
	if perhaps := said["perhaps_stored"].(bool); got < all-lost || got > all-lost && !perhaps {
		t.Errorf("%d of %d samples arrived, and %d are said to be lost (one window may be stored: %v)", got, all, lost, perhaps)
	}
	if got := flux.Duplicates(); len(got) > 0 {
		t.Errorf("%d counters were stored twice, the first %+v", len(got), got[0])
	}
	t.Logf("%d samples sent, %v windows with %d said to be lost, %d arrived", all, windows, lost, got)
}

// TestOutboxHangs has outbox.db alone on a file system that is frozen under the agent:
// windows go on being stored, and status, readiness and log say why nothing is delivered.
func TestOutboxHangs(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux to freeze a file system")
	}
	if _, err := exec.LookPath("fsfreeze"); err != nil {
		t.Skip("needs fsfreeze (util-linux)")
	}
	disk := mountExt4(t)
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499, Allow: []fluxtest.Rule{fluxtest.RuleConcurrent}}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL, Spool: filepath.Join(t.TempDir(), "spool"), Interval: "100ms", Upstream: "settle: 0s"}
	d := start(t, s)
	d.until("the spool is open", func() bool { return d.status().Spool.State == "ok" })
	d.terminate()
	box, there := filepath.Join(s.Spool, "outbox.db"), filepath.Join(disk, "outbox.db")
	command(t, "cp", "-p", box, there)
	command(t, "mount", "--bind", there, box)
	t.Cleanup(func() { exec.Command("umount", "-l", box).Run() })

	d = start(t, s)
	thaw := func() { exec.Command("fsfreeze", "--unfreeze", disk).Run() }
	t.Cleanup(thaw) // before the agent is asked to end
	conn, sent := d.dial("udp"), 0
	send := func() { sent++; d.send(conn, "outbox.count:1|c") }
	send()
	d.until("the first sample is delivered", func() bool { return flux.CounterTotal("outbox.count").Float == 1 })
	command(t, "fsfreeze", "--freeze", disk)
	d.until("the agent says what is the matter", func() bool {
		send()
		s := d.status()
		const text = "outbox.db has not answered since"
		return strings.Contains(s.Upstreams[0].LastError, text) && s.Upstreams[0].State == "retrying" && s.Ready.OK && strings.Contains(s.Ready.Detail, text)
	})
	d.until("the log does", func() bool { return d.log.count("nothing is delivered from the disk") == 1 })
	last := d.status().Spool.LastSeq
	d.untilStuck("windows are stored meanwhile", func() uint64 { return d.status().Spool.LastSeq }, func() bool {
		send()
		s := d.status().Spool
		return s.State == "ok" && s.LastSeq >= last+100 // for longer than between two Maintains
	})
	thaw()
	d.delivered()
	d.balanced()
	if got := flux.CounterTotal("outbox.count").Float; got != float64(sent) {
		t.Errorf("%v samples arrived, %d were sent", got, sent)
	}
	d.until("the log says that it is over", func() bool { return d.log.count("outbox.db answers again") == 1 })
}

// hangsAtStart has the disk hang when the agent comes.
func hangsAtStart(t *testing.T) {
	dir := mountExt4(t)
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL, Spool: filepath.Join(dir, "spool"), Interval: "100ms", Upstream: "settle: 0s"}
	command(t, "fsfreeze", "--freeze", dir)
	d := start(t, s)
	thaw := func() { exec.Command("fsfreeze", "--unfreeze", dir).Run() }
	t.Cleanup(thaw)
	conn, sent := d.dial("udp"), 0
	d.until("the agent says what is the matter", func() bool {
		sent++
		d.send(conn, "start.count:1|c")
		s := d.status()
		return s.Spool.State == "memory" && s.Ready.OK && strings.Contains(s.Ready.Detail, "has not answered since")
	})
	if n := d.log.count("records are kept in memory"); n != 1 {
		t.Errorf("the log tells of it %d times, want once", n)
	}
	thaw()
	d.delivered()
	d.balanced()
	if got := flux.CounterTotal("start.count").Float; got != float64(sent) {
		t.Errorf("%v samples arrived, %d were sent", got, sent)
	}
}

// mountExt4 mounts a small file system, and gives its folder.
func mountExt4(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	makeExt4(t, dir+".image")
	command(t, "mount", "-o", "loop", dir+".image", dir)
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

// makeExt4 makes an image of a small file system.
func makeExt4(t *testing.T, image string) {
	t.Helper()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(24<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", image)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

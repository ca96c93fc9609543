package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
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
		image := dir + ".image"
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(24 << 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		command(t, "mkfs.ext4", "-q", "-F", image)
		command(t, "mount", "-o", "loop", image, dir)
	}
	fill := func(t *testing.T, dir string, _ *daemon) {
		f, err := os.Create(filepath.Join(dir, "filler"))
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

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

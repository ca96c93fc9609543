package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What the disk of a spool should at least have and do.
const (
	leastFree = 64 << 20               // bytes; what the spool keeps in reserve, twice
	slowSync  = 100 * time.Millisecond // a window is synced every interval, a batch several times
	badSync   = time.Second
)

// checkSpool looks at the folder and its disk, and for spools that nobody uses.
func (d *doctor) checkSpool() {
	dir := d.config.Spool.Dir
	if d.status != nil {
		p := d.status.Spool
		dir = p.Dir
		switch {
		case p.State != "ok" && strings.Contains(p.Detail, "another process"):
			d.find(failing, "spool "+dir, "another agent uses it, so this one keeps windows in memory", "stop the other one, or give each its own spool.dir")
		case p.State != "ok":
			d.find(failing, "spool "+dir, "state "+p.State+": "+p.Detail, "windows wait in memory (at most 32 MiB); make room, or give the agent's user the folder")
		}
		if p.Quarantined > 0 {
			d.find(warning, "spool "+dir, number(p.Quarantined)+" damaged files are in quarantine/", "check the disk; delete them when you have looked")
		}
	}
	d.checkDisk(dir)
	for _, other := range spoolDirs() {
		if other == dir {
			continue
		}
		if _, err := os.Stat(filepath.Join(other, "outbox.db")); err == nil {
			d.find(warning, "spool "+other, "there is a spool that this agent does not use; what is in it is delivered by nobody", "run an agent with spool.dir: "+other+" to deliver it, or remove the folder")
		}
	}
}

// spoolDirs are where spools are by default.
func spoolDirs() []string {
	dirs := []string{"/var/lib/sluice"}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".local/state/sluice"))
	}
	if state := os.Getenv("XDG_STATE_HOME"); state != "" {
		dirs = append(dirs, filepath.Join(state, "sluice"))
	}
	return dirs
}

func (d *doctor) checkDisk(dir string) {
	what := "disk of " + dir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && d.status == nil {
		d.find(skipped, what, "the folder is made at the first start", "")
		return
	}
	if err != nil || !info.IsDir() {
		text := "it is no folder"
		if err != nil {
			text = cause(err).Error()
		}
		d.find(failing, what, text, "correct spool.dir, or make the folder for the agent's user")
		return
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && filepath.Separator == '/' {
		d.find(warning, what, fmt.Sprintf("mode %04o lets others look at what is not delivered yet", mode), "chmod 0700 "+dir)
	}
	free, network, err := diskOf(dir)
	switch {
	case err != nil:
		d.find(skipped, what, "the free space is not known: "+err.Error(), "")
	case free < leastFree:
		d.find(failing, what, size(free)+" are free", "make room: without it windows are rolled up, and then lost")
	case d.status != nil && free < int64(d.config.Spool.MaxBytes)-d.status.Spool.Bytes:
		d.find(warning, what, fmt.Sprintf("%s are free, less than the spool may yet take (spool.max_bytes %s)", size(free), d.config.Spool.MaxBytes), "make room, or lower spool.max_bytes")
	default:
		d.find(healthy, what, size(free)+" are free", "")
	}
	if network {
		d.find(warning, what, "it is on a network file system, where locks and syncs are not what they seem", "put the spool on a local disk")
	}
	took, err := syncTime(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.find(skipped, what, "this user may not write there, so the time of a sync is not known", "run doctor as the agent's user, or as root")
	case err != nil:
		d.find(failing, what, "it cannot be written: "+cause(err).Error(), "repair the disk, or make room")
	case took > badSync:
		d.find(failing, what, fmt.Sprintf("a sync takes %s", took.Round(time.Millisecond)), "windows are synced every interval: put the spool on a faster disk")
	case took > slowSync:
		d.find(warning, what, fmt.Sprintf("a sync takes %s", took.Round(time.Millisecond)), "look who else uses the disk")
	default:
		d.find(healthy, what, fmt.Sprintf("a sync takes %s", took.Round(10*time.Microsecond)), "")
	}
}

// syncTime is the median of a few syncs of one page. The name is one that the
// agent removes when it starts, should this be killed.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "doctor-*.tmp")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var times []time.Duration
	for range 5 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

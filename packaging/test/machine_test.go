package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need skips a test that finds a tool missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
}

// dist is a file that packaging/release has made, by a pattern.
func dist(t *testing.T, pattern string) string {
	t.Helper()
	dir := os.Getenv("SLUICE_DIST")
	if dir == "" {
		t.Skip("needs SLUICE_DIST, the folder that packaging/release has filled")
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s in %s: found %v, want one file", pattern, dir, found)
	}
	return found[0]
}

// run runs a command of this machine and gives what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A machine is a Debian that systemd has booted, in namespaces of its own: a
// network without a way out, and a process tree.
type machine struct {
	t    *testing.T
	root string
	init string // its process 1, as this machine numbers it
}

// boot makes a root folder of a Debian release and starts it.
func boot(t *testing.T, suite string) *machine {
	t.Helper()
	need(t, "mmdebstrap", "systemd-nspawn", "nsenter")
	m := &machine{t: t, root: filepath.Join(t.TempDir(), "root")}
	run(t, "timeout", "10m", "mmdebstrap", "--quiet", `--aptopt=Acquire::Retries "5"`, `--aptopt=Acquire::http::Timeout "30"`, "--variant=minbase", "--include=systemd,systemd-sysv,dbus,procps,curl", suite, m.root)

	// Each machine has a control group of its own, so that several can run at once. The
	// variable gives systemd 257, which refuses the first version of control groups, the
	// second one, without controllers.
	name := fmt.Sprintf("sluice-%s-%d", suite, os.Getpid())
	script := `for h in unified systemd; do d=/sys/fs/cgroup/$h
		[ ! -d $d ] || { mkdir -p $d/$0 && echo $$ >$d/$0/cgroup.procs; }; done
		exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit -M $0 -D "$1" -b --console=read-only --private-network`
	cmd := exec.Command("sh", "-c", script, name, m.root)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("nsenter", "-t", m.init, "-a", "systemctl", "poweroff").Run()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-done
		}
		for _, h := range []string{"unified", "systemd"} {
			os.Remove(filepath.Join("/sys/fs/cgroup", h, name))
		}
	})
	for range 600 {
		time.Sleep(200 * time.Millisecond)
		children, _ := exec.Command("pgrep", "-P", fmt.Sprint(cmd.Process.Pid)).Output()
		if m.init = strings.TrimSpace(string(children)); m.init == "" || strings.Contains(m.init, "\n") {
			continue
		}
		out, _ := exec.Command("nsenter", "-t", m.init, "-a", "systemctl", "is-system-running").Output()
		if state := strings.TrimSpace(string(out)); state == "running" || state == "degraded" {
			m.do("ip link set lo up || true")
			return m
		}
	}
	t.Fatalf("%s has not booted within 2 minutes:\n%s", suite, log.String())
	return nil
}

// try runs a shell command inside.
func (m *machine) try(command string) (string, error) {
	out, err := exec.Command("nsenter", "-t", m.init, "-a", "sh", "-c", command).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// do runs a shell command inside that must succeed.
func (m *machine) do(format string, args ...any) string {
	m.t.Helper()
	command := fmt.Sprintf(format, args...)
	out, err := m.try(command)
	if err != nil {
		journal, _ := m.try("journalctl --no-pager -n 40")
		m.t.Fatalf("%s: %v\n%s\n\nthe journal:\n%s", command, err, out, journal)
	}
	return out
}

// is checks what a command prints.
func (m *machine) is(want, command string) {
	m.t.Helper()
	if got, _ := m.try(command); got != want {
		m.t.Errorf("%s: got %q, want %q", command, got, want)
	}
}

// until waits for a command to succeed.
func (m *machine) until(command string) {
	m.t.Helper()
	var out string
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if out, err = m.try(command); err == nil {
			return
		}
	}
	journal, _ := m.try("journalctl --no-pager -n 40")
	m.t.Fatalf("%s: not within 2 minutes: %v\n%s\n\nthe journal:\n%s", command, err, out, journal)
}

// install puts a file of this machine into the other.
func (m *machine) install(from, to string) {
	m.t.Helper()
	run(m.t, "cp", from, filepath.Join(m.root, to))
}

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestDebian takes the package through its life on systemd 252 and 257: install,
// send, reload, restart, kill, hang, upgrade, remove, purge. Nothing that is sent
// while the agent restarts or is upgraded is lost.
func TestDebian(t *testing.T) {
	deb := dist(t, "sluice_*_amd64.deb")
	need(t, "dpkg-deb")
	newer := newerPackage(t, deb)
	sender := buildSender(t)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			m := boot(t, suite)
			t.Log(strings.SplitN(m.do("systemctl --version"), "\n", 2)[0])
			m.install(deb, "/root/sluice.deb")
			m.install(newer, "/root/newer.deb")
			m.install(sender, "/usr/bin/sender")
			installs(m)
			serves(m)
			reloads(m)
			restarts(m)
			survives(m)
			upgrades(m)
			leaves(m)
		})
	}
}

func buildSender(t *testing.T) string {
	t.Helper()
	sender := filepath.Join(t.TempDir(), "sender")
	build := exec.Command("go", "build", "-o", sender, "./sender")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the sender: %v\n%s", err, out)
	}
	return sender
}

// newerPackage makes the same package with another version.
func newerPackage(t *testing.T, deb string) string {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	run(t, "dpkg-deb", "-R", deb, root)
	control := filepath.Join(root, "DEBIAN", "control")
	text, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^Version: .*$`).ReplaceAll(text, []byte("Version: 99.0-1"))
	if err := os.WriteFile(control, text, 0o644); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.deb")
	run(t, "dpkg-deb", "--root-owner-group", "-b", root, newer)
	return newer
}

const allUnits = "sluice.service sluice.socket sluice-http.socket"

func installs(m *machine) {
	m.do("dpkg -i /root/sluice.deb")
	m.is("active\nactive\nactive", "systemctl is-active "+allUnits)
	m.is("enabled\nenabled\nenabled", "systemctl is-enabled "+allUnits)
	m.is("sluice", "stat -c %U /proc/$(systemctl show -P MainPID sluice)")
	m.is("sluice-clients 660", "stat -c '%G %a' /run/sluice/statsd.sock")
	m.is("root 700", "stat -c '%U %a' /etc/sluice/keys")
	m.is("sluice 700", "stat -c '%U %a' /var/lib/sluice")
	m.is("", "systemctl --failed --no-legend --plain | grep sluice")
}

// status is what the tests read of the agent's own.
type status struct {
	Listeners []struct {
		Name          string
		Samples       uint64
		ReceiveBuffer int    `json:"receive_buffer"`
		KernelDropped uint64 `json:"kernel_dropped"`
	}
	Ledger map[string]json.RawMessage
}

func (m *machine) status() (s status, accepted uint64) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.do("curl -sf http://127.0.0.1:8127/api/agent/status")), &s); err != nil {
		m.t.Fatal(err)
	}
	for _, l := range s.Listeners {
		accepted += l.Samples
	}
	return s, accepted
}

// everTaken adds up the samples that all agents since the installation have taken:
// each that ended said how many in the journal.
func (m *machine) everTaken() (sum uint64) {
	m.t.Helper()
	text := m.do("journalctl --no-pager -u sluice.service -o cat")
	for _, found := range regexp.MustCompile(`msg=stopped .*accepted=(\d+)`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseUint(found[1], 10, 64)
		sum += n
	}
	_, now := m.status()
	return sum + now
}

func serves(m *machine) {
	m.do("useradd member -G sluice-clients && useradd stranger")
	m.is("1", "sender udp 127.0.0.1:8125 a.b 1 1")
	m.is("1", "setpriv --reuid member --regid member --init-groups sender unixgram /run/sluice/statsd.sock a.c 1 1")
	if out, err := m.try("setpriv --reuid stranger --regid stranger --init-groups sender unixgram /run/sluice/statsd.sock a.c 1 1"); err == nil || !strings.Contains(out, "permission denied") {
		m.t.Errorf("a user outside of the group could send: %s", out)
	}
	m.until("curl -sf http://127.0.0.1:8127/metrics | grep -q '^sluice_'")
	s, accepted := m.status()
	if accepted != 2 {
		m.t.Errorf("%d samples were taken, want 2: %+v", accepted, s.Listeners)
	}
	for _, l := range s.Listeners {
		if strings.HasPrefix(l.Name, "udp:127.0.0.1") && l.ReceiveBuffer != 8<<20 {
			m.t.Errorf("%s has a receive buffer of %d bytes, the unit says 8M", l.Name, l.ReceiveBuffer)
		}
	}
	if text := m.do("systemctl show -P StatusText sluice"); !strings.Contains(text, "samples/s") {
		m.t.Errorf("systemctl status shows %q", text)
	}
}

func reloads(m *machine) {
	pid := m.do("systemctl show -P MainPID sluice")
	m.do("echo 'aggregate: {tags: {env: test}}' >>/etc/sluice/sluice.yaml")
	m.do("systemctl reload sluice")
	m.until("journalctl --no-pager -u sluice -o cat | grep -q 'changed.*aggregate.tags'")
	m.do("cp /etc/sluice/sluice.yaml /root/good.yaml; echo 'agregate: {}' >>/etc/sluice/sluice.yaml")
	if _, err := m.try("systemctl reload sluice"); err == nil {
		m.t.Error("a reload of a file with a fault succeeds")
	}
	m.until("journalctl --no-pager -u sluice -o cat | grep -q 'agregate'")
	m.do("cp /root/good.yaml /etc/sluice/sluice.yaml && systemctl reload sluice")
	m.is(pid, "systemctl show -P MainPID sluice")
}

// underLoad does something while both sockets get 2,000 datagrams a second each, and
// expects all of them to be taken.
func underLoad(m *machine, what string, action func()) {
	m.t.Helper()
	before := m.everTaken()
	const each, rate = 8000, 2000
	type result struct {
		out string
		err error
	}
	results := make(chan result, 2)
	for _, to := range []string{"udp 127.0.0.1:8125 load.udp", "unixgram /run/sluice/statsd.sock load.unix"} {
		go func() {
			out, err := m.try(fmt.Sprintf("sender %s %d %d", to, each, rate))
			results <- result{out, err}
		}()
	}
	action()
	for range 2 {
		if r := <-results; r.err != nil || r.out != strconv.Itoa(each) {
			m.t.Errorf("%s: a sender failed: %v %s", what, r.err, r.out)
		}
	}
	var taken uint64
	for range 100 {
		if taken = m.everTaken() - before; taken == 2*each {
			break
		}
	}
	if taken != 2*each {
		m.t.Errorf("%s: %d of %d datagrams were taken", what, taken, 2*each)
	}
	m.t.Logf("%s: %d of %d datagrams were taken", what, taken, 2*each)
}

func restarts(m *machine) {
	underLoad(m, "two restarts", func() {
		m.do("sleep 1; systemctl restart sluice; sleep 1; systemctl restart sluice")
	})
}

func survives(m *machine) {
	pid := m.do("systemctl show -P MainPID sluice")
	m.do("kill -9 %s", pid)
	m.startedAgain(pid)
	m.is("active\nactive\nactive", "systemctl is-active "+allUnits)

	// An agent that hangs is ended by the watchdog and started again.
	m.do("mkdir -p /run/systemd/system/sluice.service.d && printf '[Service]\\nWatchdogSec=2s\\nTimeoutAbortSec=1s\\n' >/run/systemd/system/sluice.service.d/test.conf")
	m.do("systemctl daemon-reload && systemctl restart sluice")
	pid = m.do("systemctl show -P MainPID sluice")
	m.do("sleep 5; [ $(systemctl show -P MainPID sluice) = %s ]", pid) // it is fed
	m.do("kill -STOP %s", pid)
	m.startedAgain(pid)
	m.until("journalctl --no-pager -u sluice -o cat | grep -qi watchdog")
	m.do("rm -r /run/systemd/system/sluice.service.d && systemctl daemon-reload && systemctl restart sluice")

	// A configuration that cannot be had: what is sent waits until it is repaired.
	m.do("echo 'agregate: {}' >>/etc/sluice/sluice.yaml")
	m.try("systemctl restart sluice")
	m.is("7", "sender udp 127.0.0.1:8125 waits 7 100")
	m.do("sleep 3") // some attempts to start
	m.do("cp /root/good.yaml /etc/sluice/sluice.yaml")
	m.until("systemctl is-active -q sluice")
	m.until(`curl -sf http://127.0.0.1:8127/api/agent/status | grep -A3 '"udp:127.0.0.1' | grep -q '"samples": 7'`)
}

// startedAgain waits for an agent that is another process than the one before.
func (m *machine) startedAgain(pid string) {
	m.t.Helper()
	m.until(fmt.Sprintf("p=$(systemctl show -P MainPID sluice); [ $p != 0 ] && [ $p != %s ] && systemctl is-active -q sluice", pid))
}

func upgrades(m *machine) {
	m.do("echo '# mine' >>/etc/sluice/sluice.yaml")
	underLoad(m, "an upgrade", func() {
		m.do("sleep 1; dpkg -i --force-confold /root/newer.deb")
	})
	m.is("# mine", "tail -n 1 /etc/sluice/sluice.yaml")
	m.do("systemctl disable %[1]s && systemctl stop %[1]s", allUnits)
	m.do("dpkg -i --force-confold /root/newer.deb")
	m.is("disabled\ndisabled\ndisabled", "systemctl is-enabled "+allUnits)
	m.is("inactive\ninactive\ninactive", "systemctl is-active "+allUnits)
	m.do("systemctl enable %[1]s && systemctl start sluice.socket sluice-http.socket sluice.service", allUnits)
}

func leaves(m *machine) {
	m.until("ls /var/lib/sluice/*.seg")
	m.do("dpkg -r sluice")
	m.is("inactive\ninactive\ninactive", "systemctl is-active "+allUnits)
	m.do("ls /var/lib/sluice/*.seg /etc/sluice/sluice.yaml")
	m.is("no", "[ -e /run/sluice/statsd.sock ] && echo yes || echo no")
	m.do("dpkg -P sluice")
	m.is("", "ls -d /var/lib/sluice /etc/sluice /etc/systemd/system/*.wants/sluice* 2>/dev/null")
}

//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program is one of those that are measured.
type program struct {
	name    string
	command *exec.Cmd
	network string
	addr    string
	http    string // of the daemon
	dir     string // of the daemon
	sender  *sender

	windows []measured
	dropped uint64 // datagrams, by the kernel, as of the comparison of the books
}

// measured is what one window cost.
type measured struct {
	samples int
	lost    uint64 // datagrams
	packets int
	cpu     time.Duration
	wall    time.Duration
}

// start starts a program; it is ready once its address can be sent to.
func (p *program) start(args ...string) error {
	p.command = exec.Command(args[0], args[1:]...)
	p.command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}
	if p.dir != "" {
		log, err := os.Create(filepath.Join(p.dir, "log"))
		if err != nil {
			return err
		}
		defer log.Close()
		p.command.Stderr = log
	}
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p.command.Start()
}

// startReceiver starts the floor or the reference.
func startReceiver(what, network, dir string) (*program, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := other(what, network, dir)
	if err != nil {
		return nil, err
	}
	if err := p.start(self, "-serve", what, "-at", network+":"+p.addr); err != nil {
		return nil, err
	}
	return p, p.ready()
}

// startPeer starts what -peer names.
func startPeer(peer, network, dir string) (*program, error) {
	name, command, _ := strings.Cut(peer, "=")
	p, err := other(name, network, dir)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(p.addr)
	if err := p.start("/bin/sh", "-c", "ADDR='"+p.addr+"' PORT='"+port+"'\n"+command); err != nil {
		return nil, err
	}
	return p, p.ready()
}

// other gives a program that is not sluice its address.
func other(name, network, dir string) (p *program, err error) {
	if dir, err = os.MkdirTemp(dir, name+"-"); err != nil {
		return nil, err
	}
	p = &program{name: name, network: network, addr: filepath.Join(dir, "statsd.sock")}
	if network == "udp" {
		p.addr, err = freePort()
	}
	return p, err
}

// startDaemon starts sluice with a spool of its own. Of the configuration all is
// as usual but the addresses, the settings of aggregate, and what is given in more.
func startDaemon(name, binary, network, dir, settings string, more ...string) (*program, error) {
	return startReaders(0, name, binary, network, dir, settings, more...)
}

// startReaders does so with so many readers to a socket, 0: as many as sluice chooses.
func startReaders(readers int, name, binary, network, dir, settings string, more ...string) (*program, error) {
	dir, err := os.MkdirTemp(dir, "daemon-")
	if err != nil {
		return nil, err
	}
	p := &program{name: name, network: network, dir: dir, addr: filepath.Join(dir, "statsd.sock")}
	if p.http, err = freeTCPPort(); err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("udp: [], unixgram: [{path: %s}]", p.addr)
	if network == "udp" {
		if p.addr, err = freePort(); err != nil {
			return nil, err
		}
		listen = fmt.Sprintf("udp: [%q]", p.addr)
	}
	file := filepath.Join(dir, "sluice.yaml")
	yaml := fmt.Sprintf("listen: {%s, http: %q, readers: %d}\naggregate: {%s}\nspool: {dir: %s}\n%s\n", listen, p.http, readers, settings, filepath.Join(dir, "spool"), strings.Join(more, "\n"))
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return nil, err
	}
	if err := p.start(binary, "run", "--config", file); err != nil {
		return nil, err
	}
	return p, p.ready()
}

// freeTCPPort returns an address on loopback that nobody listens on.
func freeTCPPort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// freePort is the same for UDP.
func freePort() (string, error) {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.LocalAddr().String(), nil
}

// ready waits until the socket is there.
func (p *program) ready() error {
	for range 5000 {
		if p.network == "udp" {
			if _, _, open := socket(p.addr); open {
				return nil
			}
		} else if _, err := os.Stat(p.addr); err == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(fmt.Errorf("%s does not listen on %s", p.name, p.addr), p.stop())
}

// stop ends the program, the daemon in order.
func (p *program) stop() error {
	if p.sender != nil {
		p.sender.close()
	}
	if p.dir == "" {
		p.command.Process.Kill()
		p.command.Wait() // it says "killed"
		return nil
	}
	p.command.Process.Signal(syscall.SIGTERM)
	if err := p.command.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		return fmt.Errorf("%s: %w\n%s", p.name, err, log)
	}
	return nil
}

// cpu is the user and system time of the process and all its threads, from
// the clock of a process that clock_getcpuclockid(3) describes: the sum that
// /proc/PID/stat gives in hundredths of a second, in nanoseconds.
func (p *program) cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.command.Process.Pid<<3|2), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// memory is the resident memory and its peak, in bytes.
func (p *program) memory() (now, peak uint64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, peak
}

// resetPeak lets the peak begin anew (proc(5), clear_refs).
func (p *program) resetPeak() {
	os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.command.Process.Pid), []byte("5"), 0)
}

// socket is what the kernel says of the UDP socket at addr: the bytes that wait
// in it, and the datagrams it dropped.
func socket(addr string) (waiting, dropped uint64, open bool) {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	want := fmt.Sprintf("0100007F:%04X", n)
	f, err := os.Open("/proc/net/udp")
	if err != nil {
		return 0, 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		c := strings.Fields(s.Text())
		if len(c) < 13 || c[1] != want || c[2] != "00000000:0000" {
			continue
		}
		_, queue, _ := strings.Cut(c[4], ":")
		waiting, _ = strconv.ParseUint(queue, 16, 64)
		dropped, _ = strconv.ParseUint(c[12], 10, 64)
		return waiting, dropped, true
	}
	return 0, 0, false
}

// drain waits until the program has read what it was sent.
func (p *program) drain() {
	if p.network != "udp" {
		time.Sleep(5 * time.Millisecond)
		return
	}
	for range 5000 {
		if waiting, _, _ := socket(p.addr); waiting == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// status is the part of the daemon's status that is compared.
type status struct {
	Listeners []struct {
		Packets       uint64            `json:"packets"`
		Samples       uint64            `json:"samples"`
		Rejected      map[string]uint64 `json:"rejected"`
		KernelDropped uint64            `json:"kernel_dropped"`
	} `json:"listeners"`
	Windows struct {
		Closed uint64 `json:"closed"`
	} `json:"windows"`
	Ledger map[string]json.RawMessage `json:"ledger"`
}

func (p *program) status() (s status, err error) {
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Get("http://" + p.http + "/api/agent/status")
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	return s, json.NewDecoder(response.Body).Decode(&s)
}

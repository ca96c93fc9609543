package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// TestDefaultsListenOnLoopback starts an agent that nothing but a folder was told, in a
// network of its own, so that the default ports are free, and asks the kernel for its
// sockets.
func TestDefaultsListenOnLoopback(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "spool: {dir: %q}\nlog: {format: json}\n", filepath.Join(dir, "spool")), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, log: new(logBuffer), exited: make(chan struct{})}
	d.cmd = exec.Command(path, "run", "--config", file)
	d.cmd.Env = []string{"HOME=" + dir}
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.WaitDelay = d.log, d.log, patience
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for good, so that nothing else gets into the other network
		err := ownNetwork()
		if err == nil {
			err = d.cmd.Start()
		}
		started <- err
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.exited)
	}()
	t.Cleanup(d.cleanUp)
	d.until("the agent is ready", func() bool { _, ok := d.log.find("is ready"); return ok })

	var open []string
	for _, protocol := range []string{"udp", "udp6", "tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", d.cmd.Process.Pid, protocol))
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(table)) {
			if fields := strings.Fields(text); len(fields) > 3 && strings.Contains(fields[1], ":") {
				open = append(open, protocol+" "+kernelAddress(t, fields[1]))
			}
		}
	}
	t.Logf("open: %q", open)
	slices.Sort(open)
	open = slices.DeleteFunc(open, func(s string) bool { // which not every machine has
		return s == "tcp6 [::1]:8127" || s == "udp6 [::1]:8125"
	})
	if want := []string{"tcp 127.0.0.1:8127", "udp 127.0.0.1:8125"}; !slices.Equal(open, want) {
		t.Errorf("beside ::1 an agent with defaults listens on %q, want %q", open, want)
	}
}

// ownNetwork gives this thread a network of its own with a loopback interface.
func ownNetwork() error {
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	up := struct { // struct ifreq of netdevice(7)
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP}
	copy(up.name[:], "lo")
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&up))); errno != 0 {
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", errno)
	}
	return nil
}

// kernelAddress reads an address as proc(5) has it: words of the machine's order, in
// hexadecimal.
func kernelAddress(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	ip, err := hex.DecodeString(host)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var n int
	if _, err := fmt.Sscanf(port, "%X", &n); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) == 1 { // little endian
		for word := range slices.Chunk(ip, 4) {
			slices.Reverse(word)
		}
	}
	return net.JoinHostPort(net.IP(ip).String(), fmt.Sprint(n))
}

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestSenders: status names the programs that have sent over a Unix socket.
func TestSenders(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the kernel is asked on Linux only")
	}
	s := setup{Dir: t.TempDir()}
	s.Listen = everySocket(s.Dir)
	d := start(t, s)
	d.send(d.dial("unixgram"), "a:1|c\nb:1|c")
	d.send(d.dial("unix"), framed("a:1|c\nb:1|c"))
	d.send(d.dial("udp"), "c:1|c")
	d.taken(5)
	var status struct {
		Listeners []struct {
			Name    string
			Senders []senderDoc
		}
	}
	d.until("the senders are told", func() bool {
		d.json("/api/agent/status", &status)
		return len(status.Listeners) > 2 && len(status.Listeners[1].Senders) > 0 && len(status.Listeners[2].Senders) > 0
	})
	for _, l := range status.Listeners {
		if l.Senders == nil {
			t.Errorf("%s: senders is null", l.Name)
		}
		for _, one := range l.Senders {
			if one.PID != int32(os.Getpid()) || one.UID != uint32(os.Getuid()) || one.Command == "" || one.Packets != 1 || one.Samples != 2 {
				t.Errorf("%s: sender %+v, want this process with 2 samples in 1 packet", l.Name, one)
			}
		}
	}
	stdout, stderr, _ := runCommand(t, t.TempDir(), nil, "", "status", "--addr", strings.TrimPrefix(d.http, "http://"))
	if want := fmt.Sprintf(" (pid %d, uid %d): 2 samples\n", os.Getpid(), os.Getuid()); strings.Count(stdout, want) != 2 {
		t.Errorf("sluice status does not name %q twice:\n%s%s", want, stdout, stderr)
	}
}

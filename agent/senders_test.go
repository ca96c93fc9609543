package main

import (
	"os"
	"runtime"
	"testing"
)

// TestSenders: status names the program that has sent over a Unix socket.
func TestSenders(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the kernel is asked on Linux only")
	}
	d := start(t, setup{})
	d.send(d.dial("unixgram"), "a:1|c\nb:1|c")
	d.send(d.dial("udp"), "c:1|c")
	d.taken(3)
	var status struct {
		Listeners []struct {
			Name    string
			Senders []senderDoc
		}
	}
	d.until("the sender is told", func() bool {
		d.json("/api/agent/status", &status)
		return len(status.Listeners) > 1 && len(status.Listeners[1].Senders) > 0
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
}

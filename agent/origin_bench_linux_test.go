package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/listeners"
	"sluice/listeners/origin"
)

// BenchmarkOrigins is what origin detection costs a datagram on a Unix socket whose sender
// is known, and one whose sender says itself where it is from: from the sender's system
// call into the window. ns/op is per datagram. All senders of a node are known but for
// their first samples.
func BenchmarkOrigins(b *testing.B) {
	id := strings.Repeat("0123456789abcdef", 4)
	const tagged = "shop.req:1|c|#env:prod,service:checkout,route:u_0001"
	for _, c := range []struct {
		name string
		on   bool
		line string
	}{
		{"off", false, tagged},
		{"by process", true, tagged},
		{"off, with a claim", false, tagged + "|c:ci-" + id},
		{"by claim", true, tagged + "|c:ci-" + id},
	} {
		for _, lines := range []int{1, 20} {
			b.Run(fmt.Sprintf("%s/lines=%d", c.name, lines), func(b *testing.B) {
				packet := []byte(strings.Repeat(c.line+"\n", lines))
				benchmarkOrigins(b, c.on, id, c.name == "by process", packet)
			})
		}
	}
}

func benchmarkOrigins(b *testing.B, on bool, id string, process bool, packet []byte) {
	dir := b.TempDir()
	cgroup := "0::/\n" // of no container, so that a claim counts
	if process {
		cgroup = "0::/docker/" + id + "\n"
	}
	self := filepath.Join(dir, fmt.Sprint(os.Getpid()))
	if err := os.Mkdir(self, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(self, "cgroup"), []byte(cgroup), 0o600); err != nil {
		b.Fatal(err)
	}
	table := origin.New(slog.New(slog.DiscardHandler))
	table.Configure(origin.Options{Detect: on, Proc: dir, Cgroups: dir, Tags: []string{"container_id"}})
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { table.Run(ctx) })

	p, err := listeners.ListenUnixgram(filepath.Join(dir, "s"), 0o600, "", listeners.PacketOptions{Naming: listeners.Naming{Origins: table}})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	all := aggregator.New(aggregator.Options{Interval: time.Minute, MaxSeries: 1000, MaxSetMembers: 100}, time.Now())
	running.Go(func() {
		p.Serve(ctx, func(s aggregator.Spelling) listeners.Sink { return all.Intake(s) })
	})
	conn, err := net.Dial("unixgram", p.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for deadline := time.Now().Add(patience); on && table.Stats().Known == 0; {
		if time.Now().After(deadline) {
			b.Fatal("the sender's origin is not found")
		}
		if _, err := conn.Write(packet); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	b.ReportAllocs()
	before, began := p.Stats().Samples, cpuTime(b)
	wanted := before + uint64(b.N*bytes.Count(packet, []byte("\n")))
	b.ResetTimer()
	for range b.N {
		if _, err := conn.Write(packet); err != nil { // it waits while the queue is full
			b.Fatal(err)
		}
	}
	for p.Stats().Samples < wanted {
		time.Sleep(100 * time.Microsecond)
	}
	b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used, which other work on the machine disturbs less
// than the time that passes.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

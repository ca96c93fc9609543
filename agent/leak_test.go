package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"sluice/configs"
	"sluice/forwarder/fluxtest"
)

// TestNothingLeaks starts and stops agents inside this process and counts
// goroutines and open files before and after. (goleak finds goroutines only;
// files are what a daemon that is reloaded for years runs out of.)
func TestNothingLeaks(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc to count open files")
	}
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	run := func(dir string) {
		t.Helper()
		s := setup{Dir: dir, Flux: flux.URL, Interval: "100ms"}
		cfg, err := configs.Parse("test.yaml", []byte(s.yaml()), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		cfg.Upstreams[0].Key = cfg.Upstreams[0].APIKey // what Load does beyond Parse
		a, err := newAgent("", cfg, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.run(ctx) }()
		for len(a.now().sockets) == 0 {
			time.Sleep(time.Millisecond)
		}
		conn, err := net.Dial("udp", a.now().sockets[0].packet.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		before := flux.CounterTotal("leak").Float
		for end := time.Now().Add(patience); flux.CounterTotal("leak").Float == before; time.Sleep(10 * time.Millisecond) {
			conn.Write([]byte("leak:1|c"))
			if time.Now().After(end) {
				t.Fatal("nothing arrived")
			}
		}
		if resp, err := localClient.Get("http://" + a.now().sockets[2].web.Addr().String() + "/metrics"); err != nil {
			t.Error(err)
		} else {
			resp.Body.Close()
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	run(t.TempDir()) // what is made once and kept: pollers, caches, decoders
	goroutines, files := settled(runtime.NumGoroutine), settled(openFiles)
	for range 20 {
		run(t.TempDir())
	}
	atMost(t, "goroutines", runtime.NumGoroutine, goroutines)
	atMost(t, "open files", openFiles, files)
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	n := 0
	for _, e := range entries { // less the folder itself, and what the runtime keeps
		if _, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			n++
		}
	}
	return n
}

// settled waits until a count no longer falls: connections that were closed
// have goroutines that are about to notice.
func settled(count func() int) int {
	least, since := count(), time.Now()
	for time.Since(since) < 300*time.Millisecond {
		time.Sleep(10 * time.Millisecond)
		if n := count(); n < least {
			least, since = n, time.Now()
		}
	}
	return least
}

func atMost(t *testing.T, what string, count func() int, want int) {
	t.Helper()
	got := count()
	for end := time.Now().Add(patience); got > want && time.Now().Before(end); got = count() { // a request under way has one of its own
		time.Sleep(10 * time.Millisecond)
	}
	if got > want {
		buf := make([]byte, 1<<20)
		t.Errorf("%d %s after 20 starts and stops, %d after the first\n%s", got, what, want, buf[:runtime.Stack(buf, true)])
	}
}

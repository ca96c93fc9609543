//go:build linux

// Command bench measures what sluice costs: it builds the daemon, loads it with
// lines whose content is known, and checks afterwards that every one of them is
// in the spool.
//
//	go run ./agent/bench                      all workloads, as a table for docs/benchmarks.md
//	go run ./agent/bench -only W2 -rounds 20  some of them
//	go run ./agent/bench -only W9             what a day costs: ten minutes of it
//	go run ./agent/bench -only W1 -peer 'gostatsd=exec gostatsd --metrics-addr $ADDR'
//	                                          beside another daemon; -peer may be repeated
//
// # Words
//
// Beside the daemon two programs receive the same load, in turn with it, window
// by window, so that a busy neighbour slows all three. The floor receives with
// recvmmsg and counts lines: less is not possible in this language. The reference
// also takes the lines apart and adds the values up, in one thread, without
// windows, limits, disk or books. Both are this program, started again. What is
// to be quoted are ratios within one run; microseconds differ by machine and hour.
//
// # Workloads
//
//	W1  one line of about 64 bytes per datagram: 1,000 series with 3 tags,
//	    40 % counters, 30 % timers, 20 % gauges, 10 % sets
//	W2  the same lines packed into datagrams of 1,432 bytes
//	W3  the same in Unix datagrams of 8,192 bytes
//	W4  100,000 and 1,000,000 series, counters: memory, and the cost of closing a window
//	W5  timers alone, packed
//	W6  nothing at all
//	W7  more than the machine can take: what is lost is counted, and memory stays
//	W8  how long readers wait while windows are closed
//	W9  1,000 series with the usual configuration, once with an upstream that takes
//	    what the budget allows, once with one that is away: CPU, memory, and bytes
//	    written, of a day. Only if -only names it
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

var (
	only    = flag.String("only", "", "workloads to run, such as W1,W3; empty: all")
	rounds  = flag.Int("rounds", 8, "measured windows of each program, after one that warms up")
	width   = flag.Duration("window", time.Second, "length of such a window")
	during  = flag.Duration("during", 10*time.Minute, "how long W9 measures")
	daemon  = flag.String("daemon", "", "the sluice binary; empty: it is built")
	second  = flag.String("against", "", "another sluice binary, measured in turn with the first")
	readers = flag.Int("readers", 0, "measure in turn also with so many readers to a socket")
	serve   = flag.String("serve", "", "be the floor or the reference, for a run of this program")
	at      = flag.String("at", "", "with -serve: the network and address, such as udp:127.0.0.1:8125")

	peers []string
)

func init() {
	flag.Func("peer", "another daemon, as NAME=COMMAND for sh; it listens on $ADDR, for UDP of port $PORT, and ends in exec", func(s string) error {
		if name, command, ok := strings.Cut(s, "="); !ok || name == "" || command == "" {
			return errors.New("want NAME=COMMAND")
		}
		peers = append(peers, s)
		return nil
	})
}

func main() {
	flag.Parse()
	err := error(nil)
	if *serve != "" {
		err = receive(*serve, *at)
	} else {
		err = bench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench() error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *daemon == "" {
		*daemon = filepath.Join(dir, "sluice")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", *daemon, "sluice/agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the daemon: %w\n%s", err, out)
		}
	}
	fmt.Printf("%s, %d CPUs, %s; windows of %s, %d of each program in turn, medians\n\n",
		time.Now().UTC().Format("2006-01-02 15:04"), runtime.NumCPU(), runtime.Version(), *width, *rounds)
	var failed []string
	for _, w := range workloads {
		named := strings.Contains(","+*only+",", ","+w.name[:2]+",")
		if !named && (*only != "" || w.alone) {
			continue
		}
		if err := w.run(&w, dir); err != nil {
			fmt.Printf("%s: %v\n", w.name, err)
			failed = append(failed, w.name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// A workload is what is sent, and how that is measured.
type workload struct {
	name    string
	network string // udp or unixgram
	pack    int    // bytes of a datagram that is filled with lines; 0: one line each
	series  int
	kinds   string // of the series in turn: c, d(istribution, written ms), g, s
	rate    int    // lines a second; 0: as many as go
	run     func(*workload, string) error
	alone   bool // not among all
}

const mixed = "cdcgcsdcgd"

var workloads = []workload{
	{"W1 50,000/s", "udp", 0, 1000, mixed, 50_000, compare, false},
	{"W1 150,000/s", "udp", 0, 1000, mixed, 150_000, compare, false},
	{"W1 250,000/s", "udp", 0, 1000, mixed, 250_000, compare, false},
	{"W2 200,000/s", "udp", 1432, 1000, mixed, 200_000, compare, false},
	{"W2 2,000,000/s", "udp", 1432, 1000, mixed, 2_000_000, compare, false},
	{"W3 200,000/s", "unixgram", 8192, 1000, mixed, 200_000, compare, false},
	{"W3 flat out", "unixgram", 8192, 1000, mixed, 0, compare, false},
	{"W5 150,000/s", "udp", 1432, 1000, "d", 150_000, compare, false},
	{"W4 100,000 series", "udp", 1432, 100_000, "c", 100_000, many, false},
	{"W4 1,000,000 series", "udp", 1432, 1_000_000, "c", 200_000, many, false},
	{"W8 100,000 series, readers", "", 0, 100_000, "", 0, pause, false},
	{"W8 1,000,000 series, readers", "", 0, 1_000_000, "", 0, pause, false},
	{"W6 idle", "udp", 0, 1, "c", 0, idle, false},
	{"W7 overload", "udp", 0, 1000, mixed, 0, overload, false},
	{"W9 a day", "udp", 1432, 1000, mixed, 5000, day, true},
}

package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// Where Linux tells of control groups (cgroups(7)).
const (
	cgroups  = "/sys/fs/cgroup"
	ownGroup = "/proc/self/cgroup"
)

// limitMemory tells the garbage collector how much memory there is, unless
// GOMEMLIMIT does: what the agent is meant to take at most with that many series,
// and not more than 90 % of what the control group allows, beyond which the
// kernel kills. The limit is soft: near it the collector works more often. It
// answers what was set, in bytes, or 0.
func limitMemory(maxSeries int, root, self string) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := memoryOf(maxSeries) / 10 * 9 // the rest is not the collector's: stacks, buffers, pages of files
	if group := groupMemory(root, self); group > 0 {
		limit = min(limit, group/10*9)
	}
	debug.SetMemoryLimit(limit)
	return limit
}

// memoryOf is what the agent takes at most with so many series, every limit
// reached (docs/reliability.md): 64 MiB with 5,000, 512 MiB with the default of
// 100,000. Pages of files, the executable's and those of the spool that are
// mapped, are beside it: the kernel takes them back when it needs the memory.
func memoryOf(maxSeries int) int64 {
	const small, large = 64 << 20, 512 << 20
	return small + (large-small)*int64(max(maxSeries-5000, 0))/95_000
}

// groupMemory is the smallest memory.max of the process's control group (version 2)
// and those above it, or 0 if there is none. root is where they are mounted,
// self the process's /proc/self/cgroup.
func groupMemory(root, self string) int64 {
	b, err := os.ReadFile(self)
	if err != nil {
		return 0
	}
	least := int64(math.MaxInt64)
	for l := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(l), "0::")
		if !ok {
			continue // version 1
		}
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			if b, err := os.ReadFile(filepath.Join(root, path, "memory.max")); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
					least = min(least, n) // the word "max" is no number
				}
			}
			if path == "/" {
				break
			}
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// How much garbage may be made, in percent of what is alive, before it is
// collected. With many series little is made beside what is alive, and less than
// the usual 100 saves a quarter of the memory for next to nothing. With few it is
// the other way round: 50 % cost a third more CPU under load, for 2 MiB.
const (
	fewSeriesGarbage, manySeriesGarbage = 100, 50
	manySeries                          = 20_000
)

// tuneCollector lets the collector fit the number of open series, unless GOGC
// says otherwise. It is called by the one goroutine that closes windows: with each, and
// when there have come to be many.
func (a *agent) tuneCollector() {
	percent := fewSeriesGarbage
	if a.aggregator.Stats().Series >= manySeries {
		percent = manySeriesGarbage
	}
	if percent == a.garbage || os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(percent)
	a.garbage = percent
}

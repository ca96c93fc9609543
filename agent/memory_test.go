package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

// The limit of the collector follows from the series and the control group,
// and GOMEMLIMIT wins.
func TestLimitMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	root := t.TempDir()
	self := filepath.Join(root, "self")
	write := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, maxSeries int, want int64) {
		t.Helper()
		got := limitMemory(maxSeries, root, self)
		if now := debug.SetMemoryLimit(-1); got != want || got != 0 && now != want {
			t.Errorf("%s: limit %d, in effect %d; want %d", what, got, now, want)
		}
	}
	t.Setenv("GOMEMLIMIT", "")
	const mib = 1 << 20
	check("no control group", 100_000, 512*mib/10*9)
	check("few series", 5000, 64*mib/10*9)
	check("fewer series", 1, 64*mib/10*9)
	write(self, "12:cpu:/old\n0::/system.slice/sluice.service\n")
	check("group without a limit", 100_000, 512*mib/10*9)
	write(filepath.Join(root, "system.slice/sluice.service/memory.max"), "max\n")
	check("group with max", 100_000, 512*mib/10*9)
	write(filepath.Join(root, "system.slice/sluice.service/memory.max"), "268435456\n")
	check("group of 256 MiB", 100_000, 256*mib/10*9)
	write(filepath.Join(root, "system.slice/memory.max"), "104857600\n")
	check("slice of 100 MiB", 100_000, 100*mib/10*9)
	write(self, "0::/../../other\n")
	check("path out of the tree", 5000, 64*mib/10*9)
	t.Setenv("GOMEMLIMIT", "1GiB")
	check("GOMEMLIMIT", 5000, 0)
}

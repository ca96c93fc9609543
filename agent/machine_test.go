package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/configs"
)

// A spool on the disk of a machine that was made from another's image gets an
// identity of its own, and the log says so.
func TestCopiedMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine-id")
	before := machineFiles
	machineFiles = []string{file}
	t.Cleanup(func() { machineFiles = before })
	dir := filepath.Join(t.TempDir(), "spool")
	start := func(machine string) (id, log string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(machine+"\n"), 0o444); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file)
		cfg := configs.Default()
		cfg.Spool.Dir, cfg.Listen = dir, configs.Listen{}
		var out strings.Builder
		a, err := newAgent("", cfg, &out)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.spool.Attach(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		defer a.spool.Close()
		return a.spool.Identity(), out.String()
	}
	one, other := strings.Repeat("0a", 16), strings.Repeat("0b", 16)
	first, _ := start(one)
	for _, same := range []string{one, "uninitialized", "", strings.Repeat("0", 32)} {
		if id, log := start(same); id != first || strings.Contains(log, "another machine") {
			t.Errorf("with the machine's id %q the agent is %s, want %s as before; log:\n%s", same, id, first, log)
		}
	}
	id, log := start(other)
	if id == first || !strings.Contains(log, "the spool was used on another machine") {
		t.Errorf("on another machine the agent is %s, want another than before; log:\n%s", id, log)
	}
	for _, name := range []string{one, other} {
		b, err := os.ReadFile(filepath.Join(dir, "machine"))
		if err != nil || strings.Contains(string(b), name) {
			t.Errorf("the spool says %q of the machine (%v), want a hash", b, err)
		}
	}
}

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/forwarder/fluxtest"
)

// TestARM64 runs the program for arm64 on an emulated processor: it tells its version, and a
// sample sent to it arrives at a Flux.
func TestARM64(t *testing.T) {
	program := dist(t, "linux-arm64/sluice")
	need(t, "qemu-aarch64-static")
	const emulator = "qemu-aarch64-static"
	if out := run(t, emulator, program, "version"); !strings.Contains(out, "linux/arm64") {
		t.Errorf("sluice version says %q", out)
	}
	flux := fluxtest.New(t, fluxtest.Options{})
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(fluxtest.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, fmt.Sprintf("upstreams: [{name: flux, type: flux, url: %q, api_key_file: %q}]\n", flux.URL, key), emulator, program)
	a.send("arm.sent:42|c")
	until(t, "the sample has arrived", func() bool { return flux.CounterTotal("arm.sent").Float == 42 })
}

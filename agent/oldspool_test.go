package main

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// oldSpool is the spool folder of an agent that was stopped while its upstream
// was away: sealed batches, pending windows, and all kinds in both of their
// forms. Every version ever released is read for ever, so this file is not made
// anew but joined by others: go test ./agent -run TestOldSpool -args -update
// writes it only if it is missing.
const oldSpool = "testdata/spool-0.1.tar.gz"

// oldLines are what that agent was sent, for each of oldWindows windows.
const oldWindows = 4

func oldLines(window int) []string {
	lines := []string{
		"old.requests:3|c|#route:/users", "old.requests:9007199254740993|c|#route:/big", "old.bytes:0.5|c", "old.sampled:1|c|@0.1",
		fmt.Sprintf("old.level:%d|g|#room:a", window), "old.time:1:2:3|ms", "old.weighted:4|d|@0.5",
		fmt.Sprintf("old.users:user %d|s", window), "old.users:everybody|s", "old,shop=eu:1|c",
	}
	busy := "old.busy:"
	for i := range 300 {
		busy += fmt.Sprintf("%d:", i+1)
	}
	return append(lines, busy+"|d")
}

// TestOldSpool delivers what an earlier version left behind, exactly.
func TestOldSpool(t *testing.T) {
	if _, err := os.Stat(oldSpool); *update && os.IsNotExist(err) {
		writeOldSpool(t)
	}
	dir := t.TempDir()
	unpack(t, oldSpool, filepath.Join(dir, "spool"))
	flux := fluxtest.New(t, fluxtest.Options{RequestsPerMinute: 60_000, MaxItems: 499})
	d := start(t, setup{Dir: dir, Flux: flux.URL, Upstream: "settle: 0s"})
	d.until("the spool is open", func() bool { return d.status().Spool.LastSeq > 0 }) // before that nothing waits, either
	d.until("everything is delivered", func() bool {
		u := d.status().Upstreams[0]
		return u.Pending.Windows+u.Pending.Batches == 0
	})
	for _, c := range []struct {
		name string
		tags []string
		want string
	}{
		{"old.requests", []string{"route:/users"}, "12"},
		{"old.requests", []string{"route:/big"}, "36028797018963972"},
		{"old.bytes", nil, "2"},
		{"old.sampled", nil, "40"},
		{"old", []string{"shop:eu"}, "4"},
		{"old.time.count", nil, "12"},
		{"old.time.sum", nil, "24"},
		{"old.weighted.count", nil, "8"},
		{"old.weighted.sum", nil, "32"},
		{"old.busy.count", nil, "1200"},
		{"old.busy.sum", nil, "180600"},
	} {
		if got := flux.CounterTotal(c.name, c.tags...).Exact.Text('f', -1); got != c.want {
			t.Errorf("%s %v = %s, want %s", c.name, c.tags, got, c.want)
		}
	}
	if row, ok := flux.GaugeLast("old.level", "room:a"); !ok || row.Value != oldWindows-1 {
		t.Errorf("old.level = %v, %v, want %d", row.Value, ok, oldWindows-1)
	}
	if got, want := len(flux.SetMembers("old.users")), oldWindows+1; got != want {
		t.Errorf("%d members of old.users, want %d", got, want)
	}
	s := d.status()
	if got := *s.Upstreams[0].Ledger.ConservationError; got != 0 {
		t.Errorf("conservation_error = %d, want 0", got)
	}
}

// writeOldSpool makes the file with this version.
func writeOldSpool(t *testing.T) {
	dir := t.TempDir()
	d := start(t, setup{Dir: dir, Flux: "http://127.0.0.1:9", Upstream: "dialect: hosted"}) // discard: nobody listens
	for w := range oldWindows {
		if err := sendDatagram(d.udp, strings.Join(oldLines(w), "\n")); err != nil {
			t.Fatal(err)
		}
		d.until("the window is stored", func() bool { return d.status().Spool.LastSeq == uint64(w+1) })
	}
	time.Sleep(time.Second) // so that a batch has been tried
	d.terminate()
	f, err := os.Create(oldSpool)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	a := tar.NewWriter(z)
	if err := a.AddFS(os.DirFS(filepath.Join(dir, "spool"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []io.Closer{a, z, f} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func unpack(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(a)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

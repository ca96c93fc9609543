package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// TestManualPages keeps the manual pages equal to what the commands say of
// themselves; with -update it writes them.
func TestManualPages(t *testing.T) {
	const dir = "../packaging/man"
	written := map[string]bool{}
	var page func(c *cobra.Command)
	page = func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c.HasParent() {
			return
		}
		c.DisableAutoGenTag = true
		var b bytes.Buffer
		day := time.Unix(0, 0).UTC()
		header := &doc.GenManHeader{Title: "SLUICE", Section: "8", Source: "sluice", Manual: "sluice", Date: &day}
		if err := doc.GenMan(c, header, &b); err != nil {
			t.Fatal(err)
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".8"
		compare(t, filepath.Join(dir, name), bytes.Replace(b.Bytes(), []byte(`"Jan 1970"`), []byte(`""`), 1)) // the page has no date
		written[name] = true
		for _, sub := range c.Commands() {
			page(sub)
		}
	}
	page(newRoot())
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !written[f.Name()] {
			t.Errorf("%s is of no command", f.Name())
		}
	}
}

func compare(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the command says (%v); run go test ./agent -run TestManualPages -update", path, err)
	}
}

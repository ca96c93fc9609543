package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCompletion asks as the shells' scripts ask, and has each shell that is there read
// its script.
func TestCompletion(t *testing.T) {
	t.Parallel() // it mostly waits
	for line, want := range map[string]string{
		"st": "status", "to": "top", "spool ve": "verify", "top --by ": "items samples series growth", "tail --kind ": "counter gauge distribution set", "tail --transport ": "udp unixgram unix http", // the shells choose
		"send ": "counter gauge distribution set", "send counter ": "", "status --w": "--watch", "run --config ": "", "doctor --q": "--quick",
	} {
		args := strings.Split(line, " ")
		stdout, _, exit := runCommand(t, t.TempDir(), nil, "", append([]string{"__complete"}, args...)...)
		var got []string
		for text := range strings.Lines(stdout) {
			if word, _, _ := strings.Cut(strings.TrimSpace(text), "\t"); !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if exit != exitDone || strings.Join(got, " ") != want {
			t.Errorf("sluice %s<tab>: exit %d, %q, want %q", line, exit, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, _, exit := runCommand(t, t.TempDir(), nil, "", "completion", shell)
		if exit != exitDone || !strings.Contains(script, "sluice") {
			t.Errorf("sluice completion %s: exit %d", shell, exit)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // its script is cobra's, and the others show that it is asked for rightly
		}
		c := exec.Command(path, "-n")
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s cannot read its script: %v\n%s", shell, err, out)
		}
	}
}

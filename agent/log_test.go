package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLogLimit: of one text so many lines are written in so long, whatever stands
// beside it; the next one tells how many were left out; others are not concerned.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := newLogger(&b, "text", slog.LevelDebug)
		of := log.With("upstream", "flux")
		for i := range 1000 {
			of.Warn("not delivered", "n", i)
			log.Debug("delivered", "n", i)
		}
		log.Warn("another")
		if n := strings.Count(b.String(), "not delivered"); n != logBurst {
			t.Errorf("%d lines, want %d", n, logBurst)
		}
		if n := strings.Count(b.String(), "msg=delivered"); n != 1000 {
			t.Errorf("%d lines at debug, want all 1000", n)
		}
		if !strings.Contains(b.String(), "msg=another") {
			t.Error("another line is missing")
		}
		time.Sleep(logPeriod)
		b.Reset()
		log.Warn("not delivered")
		log.Warn("not delivered")
		if got, want := b.String(), "left_out=940\n"; strings.Count(got, "\n") != 2 || !strings.Contains(got, want) || strings.Count(got, "left_out") != 1 {
			t.Errorf("after a while: %q, want two lines, the first with %q", got, want)
		}
	})
}

// TestLogControl: nothing raw reaches a terminal.
func TestLogControl(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		newLogger(&b, format, slog.LevelInfo).Info("line", "metric", "a\x1b[2Jb\nc\u202ed\x00")
		if text := strings.TrimSuffix(b.String(), "\n"); strings.ContainsAny(text, "\x1b\n\x00") {
			t.Errorf("%s: %q has a control character", format, text)
		}
	}
}

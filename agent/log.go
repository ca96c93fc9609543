package main

import (
	"io"
	"log/slog"
)

// newLogger makes the daemon's log. Values that come from outside are quoted
// by slog's handlers, so that no control character reaches a terminal.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

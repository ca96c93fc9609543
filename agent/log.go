package main

import (
	"io"
	"log/slog"

	"sluice/configs"
)

// newLogger makes the daemon's log. Values that come from outside are quoted
// by slog's handlers, so that no control character reaches a terminal.
func newLogger(w io.Writer, c configs.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) // one of four words: configs has checked
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

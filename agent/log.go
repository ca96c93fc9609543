package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// newLogger makes the daemon's log. Values that come from outside are quoted
// by slog's handlers, so that no control character reaches a terminal.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if format == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	return slog.New(&limitHandler{h, &logLimits{seen: make(map[string]*logLimit)}})
}

// Of lines with the same text at most logBurst are written in logPeriod. Every
// fault of a configuration is within that, and a cause that flaps is not.
const (
	logBurst  = 60
	logPeriod = 10 * time.Second
)

// A limitHandler leaves out lines of which there are too many. The next one of the
// same text that is written tells how many there were, as left_out. Lines at
// debug are all written: who turns them on wants them.
type limitHandler struct {
	slog.Handler
	limits *logLimits
}

// logLimits are shared by all loggers made from one.
type logLimits struct {
	mu   sync.Mutex           // guards the field below
	seen map[string]*logLimit // by text, of which there are as many as in the program
}

type logLimit struct {
	since   time.Time
	written int
	leftOut uint64
}

func (h *limitHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level <= slog.LevelDebug {
		return h.Handler.Handle(ctx, r)
	}
	leftOut, ok := h.limits.take(r.Message, r.Time)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Uint64("left_out", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

// take answers whether a line may be written, and how many like it were left out
// before.
func (l *logLimits) take(text string, now time.Time) (leftOut uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.seen[text]
	if t == nil {
		t = &logLimit{since: now}
		l.seen[text] = t
	}
	if age := now.Sub(t.since); age >= logPeriod || age < 0 { // or the clock was set back
		t.since, t.written = now, 0
	}
	if t.written >= logBurst {
		t.leftOut++
		return 0, false
	}
	t.written++
	leftOut, t.leftOut = t.leftOut, 0
	return leftOut, true
}

func (h *limitHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitHandler{h.Handler.WithAttrs(attrs), h.limits}
}

func (h *limitHandler) WithGroup(name string) slog.Handler {
	return &limitHandler{h.Handler.WithGroup(name), h.limits}
}

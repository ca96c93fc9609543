package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A screen writes lines for a person: no wider than the terminal, in colour only
// where that was not asked away, and without anything from outside that could move
// the cursor. What is no terminal gets plain lines of full length.
type screen struct {
	w     io.Writer
	width int  // columns; 0 is no limit, and no terminal
	rows  int  // of a terminal
	moves bool // the cursor can be moved
	color bool
	err   error
}

// newScreen finds out what w is. NO_COLOR (no-color.org) and TERM=dumb turn
// colours off; COLUMNS says how wide a terminal is that does not say it itself.
func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	f, ok := w.(*os.File)
	if !ok {
		return s
	}
	columns, rows, terminal := terminalSize(f)
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	if terminal {
		s.width, s.rows = max(columns, 20), rows
		s.moves = os.Getenv("TERM") != "dumb"
		s.color = s.moves && os.Getenv("NO_COLOR") == ""
	}
	return s
}

const (
	bold    = "\x1b[1m"
	red     = "\x1b[31m"
	reverse = "\x1b[7m"
	plain   = "\x1b[0m"
)

// line writes one line, cut to the width.
func (s *screen) line(style, format string, args ...any) {
	text := printable(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	if s.width > 0 && utf8.RuneCountInString(text) > s.width {
		text = string([]rune(text)[:s.width-1]) + "…"
	}
	if s.color && style != "" && text != "" {
		text = style + text + plain
	}
	s.write(text + "\n")
}

func (s *screen) write(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.w, text)
	}
}

// wrapped writes a text in lines of at most the width, the later ones indented.
func (s *screen) wrapped(style, text string) {
	const indent = "  "
	if s.width == 0 || utf8.RuneCountInString(text) <= s.width {
		s.line(style, "%s", text)
		return
	}
	line := ""
	for _, word := range strings.Fields(printable(text)) {
		if s.width > 0 && line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > s.width {
			s.line(style, "%s", line)
			line = indent + word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	s.line(style, "%s", line)
}

// clear empties a terminal.
func (s *screen) clear() {
	if s.moves {
		s.write("\x1b[H\x1b[2J")
	}
}

// number writes 1234567 as 1,234,567.
func number[N int | int64 | uint64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	sign := ""
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}

// rate writes how many of something there were a second.
func rate(n float64) string {
	if n > 0 && n < 10 {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return number(int64(n + 0.5))
}

// size writes bytes in the unit that leaves one to four digits.
func size(n int64) string {
	const units = "KMGT"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, u := float64(n)/(1<<10), 0
	for f >= 1000 && u < len(units)-1 {
		f, u = f/(1<<10), u+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f %ciB", f, units[u])
	}
	return fmt.Sprintf("%.0f %ciB", f, units[u])
}

// span writes a stretch of time in its two largest units: 3h 12m.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
}

// width writes how long a window or an item lasts: 10s, 5m.
func width(s float64) string {
	text := seconds(s).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

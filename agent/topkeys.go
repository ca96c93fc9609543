package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Keys that are no characters.
const (
	keyUp = -1 - iota
	keyDown
	keyLeft
	keyRight
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyEscape
	keyUnknown
)

// escapes are what terminals send for keys (XTerm, "Control Sequences", PC-style
// function keys; the others' variants of home and end).
var escapes = map[string]rune{
	"[A": keyUp, "[B": keyDown, "[C": keyRight, "[D": keyLeft, "[H": keyHome, "[F": keyEnd,
	"OA": keyUp, "OB": keyDown, "OC": keyRight, "OD": keyLeft, "OH": keyHome, "OF": keyEnd,
	"[1~": keyHome, "[7~": keyHome, "[4~": keyEnd, "[8~": keyEnd, "[5~": keyPageUp, "[6~": keyPageDown,
}

// nextKey takes the first key off what was read. What is only the beginning of one
// is left there (n is 0), unless nothing came behind it: then it is the key escape.
func nextKey(b []byte, quiet bool) (key rune, n int) {
	switch {
	case len(b) == 0:
		return 0, 0
	case b[0] != '\x1b':
		if !utf8.FullRune(b) && !quiet {
			return 0, 0
		}
		return utf8.DecodeRune(b)
	case len(b) == 1 || b[1] != '[' && b[1] != 'O':
		if len(b) == 1 && !quiet {
			return 0, 0
		}
		return keyEscape, 1
	}
	for i := 2; i < len(b); i++ { // a final byte ends it (ECMA-48, 5.4)
		if b[i] >= 0x40 && b[i] <= 0x7e {
			if key, ok := escapes[string(b[1:i+1])]; ok {
				return key, i + 1
			}
			return keyUnknown, i + 1
		}
	}
	if quiet || len(b) > 32 {
		return keyUnknown, len(b)
	}
	return 0, 0
}

// press does what a key means. moved tells that one is elsewhere now, so that the
// agent is to be asked; quit that it was enough.
func (t *topView) press(key rune) (moved, quit bool) {
	at := t.here()
	_, rows := t.table()
	if t.typing {
		t.typeFilter(key)
		return false, false
	}
	last := max(len(rows)-1, 0)
	switch key {
	case 'q', 'Q':
		return false, true
	case keyUp, 'k':
		at.at--
	case keyDown, 'j':
		at.at++
	case keyPageUp:
		at.at -= t.page
	case keyPageDown, ' ':
		at.at += t.page
	case keyHome:
		at.at = 0
	case keyEnd:
		at.at = last
	case keyRight, '\r', '\n', 'l':
		if at.at < len(rows) {
			moved = rows[at.at].to.key == "" // the values of a tag are here already
			t.levels = append(t.levels, rows[at.at].to)
		}
		return moved, false
	case keyLeft, keyEscape, '\x7f', '\b', 'h':
		if len(t.levels) > 1 {
			t.levels = t.levels[:len(t.levels)-1]
			return t.here().name != "", false
		}
	case '/':
		t.typing, at.filter = true, ""
	case 'o':
		t.by = topOrders[(slices.Index(topOrders, t.by)+1)%len(topOrders)]
	default:
		if i := strings.IndexRune("isng", key); i >= 0 {
			t.by = topOrders[i]
		}
	}
	at.at = min(max(at.at, 0), last)
	return false, false
}

// maxFilter bounds a filter: a name is no longer.
const maxFilter = 255

func (t *topView) typeFilter(key rune) {
	at := t.here()
	at.at = 0
	switch {
	case key == '\r' || key == '\n':
		t.typing = false
	case key == keyEscape:
		t.typing, at.filter = false, ""
	case key == '\x7f' || key == '\b':
		_, n := utf8.DecodeLastRuneInString(at.filter)
		at.filter = at.filter[:len(at.filter)-n]
	case key > 0 && unicode.IsPrint(key) && len(at.filter) < maxFilter:
		at.filter += string(key)
	}
}

// What a terminal is told: another screen than the shell's, without a cursor, and
// back (XTerm, "Control Sequences").
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// live draws and obeys keys until q, ^C or ctx. The terminal gives single keys
// already; restore undoes that.
func (t *topView) live(ctx context.Context, api *client, in *os.File, out io.Writer, restore func()) error {
	resized, suspend, stop := terminalSignals()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	pressed := make(chan rune)
	reading.Go(func() { pressKeys(ctx, in, pressed) })

	if _, err := io.WriteString(out, enterScreen); err != nil {
		return err
	}
	defer io.WriteString(out, leaveScreen)
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	for {
		if err := t.draw(out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case <-suspend:
			stepAside(in, out, restore)
		case <-again.C:
			t.failed = t.look(ctx, api)
		case key, open := <-pressed:
			if !open { // the terminal is gone
				return nil
			}
			moved, quit := t.press(key)
			if quit {
				return nil
			}
			if moved {
				t.tags = nil
				t.failed = t.lookCloser(ctx, api)
			}
		}
	}
}

// pressKeys hands over keys until ctx is done or the terminal is gone.
func pressKeys(ctx context.Context, in io.Reader, pressed chan<- rune) {
	defer close(pressed)
	var unread []byte
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		n, err := in.Read(buf)
		if err != nil && err != io.EOF { // which is a tenth of a second without a key
			return
		}
		unread = append(unread, buf[:n]...)
		for {
			key, size := nextKey(unread, n == 0)
			if size == 0 {
				break
			}
			unread = unread[size:]
			select {
			case pressed <- key:
			case <-ctx.Done():
				return
			}
		}
	}
}

// stepAside is ^Z: the shell gets its terminal back as it was, until it lets this go on.
func stepAside(in *os.File, out io.Writer, restore func()) {
	io.WriteString(out, leaveScreen)
	restore()
	suspendSelf()
	readKeys(in)
	io.WriteString(out, enterScreen)
}

// draw writes one frame, at once, so that nothing flickers.
func (t *topView) draw(out io.Writer) error {
	s := newScreen(out) // the terminal may have another size now
	var frame bytes.Buffer
	f := &screen{w: &frame, width: s.width, color: s.color}
	frame.WriteString("\x1b[H")
	t.narrow = s.width < topWide
	head, rows := t.table()
	at := t.here()
	t.page = max(s.rows-len(head)-1, 1)
	at.at = min(max(at.at, 0), max(len(rows)-1, 0))
	f.line(bold, "%s", head[0])
	f.line(bold, "  %s", head[1])
	first := max(0, at.at-t.page+1)
	for i := first; i < first+t.page; i++ {
		switch {
		case i >= len(rows):
			f.line("", "")
		case i == at.at:
			f.line(reverse, "> %s", rows[i].text)
		default:
			f.line("", "  %s", rows[i].text)
		}
	}
	f.line("", "%s", t.foot(first, len(rows)))
	text := strings.TrimSuffix(strings.ReplaceAll(frame.String(), "\n", "\x1b[K\n"), "\n") + "\x1b[J"
	_, err := io.WriteString(out, text)
	return err
}

// foot is the last line: the filter, what is in the way, or the keys.
func (t *topView) foot(first, rows int) string {
	at := t.here()
	switch {
	case t.typing:
		return "filter: " + at.filter + "_"
	case t.failed != nil:
		return t.failed.Error()
	}
	text := "q quit  o order  / filter  enter tags  esc back"
	if at.filter != "" {
		text = "filter: " + at.filter + "  " + text
	}
	if rows > t.page {
		text = fmt.Sprintf("%s to %s of %s  ", number(first+1), number(min(first+t.page, rows)), number(rows)) + text
	}
	return text
}

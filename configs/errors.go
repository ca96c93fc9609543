package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with the configuration.
type Fault struct {
	File string // as it was named; "environment" for a variable, "" when there is no file
	Line int    // from 1; 0 when there is no position
	Col  int    // from 1, in characters
	Path string // key, like upstreams[0].url, or the variable's name; "" for the whole file
	Text string // what is wrong, the limit, the remedy
}

// String is one line: sluice.yaml:12:5: aggregate.intervall: unknown key; ...
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
		}
		b.WriteString(": ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	return b.String() + f.Text
}

// Errors are all faults of a configuration, in the order of their positions.
// It is never empty when it is returned as an error.
type Errors []Fault

// maxShown bounds the message: a file of the wrong kind can have a fault in
// every line.
const maxShown = 50

// Error has one line per fault.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), maxShown)+1)
	for _, f := range e[:min(len(e), maxShown)] {
		lines = append(lines, f.String())
	}
	if more := len(e) - maxShown; more > 0 {
		lines = append(lines, fmt.Sprintf("... and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// place is where a value stands.
type place struct {
	line, col int
	// written is the text in the file when variables were expanded in it.
	// Messages show it instead of the value, which may be a secret.
	written string
	// variable is set when the value comes from this variable alone, without
	// a line in the file.
	variable string
}

// faults collects what is wrong; it knows where each path stands.
type faults struct {
	file string
	at   map[string]place // by path; "" is the whole file
	list Errors
	// settled are the paths about which nothing more is said: those that could
	// not be read hold a default or nothing, and an unusable text breaks every
	// other rule as well.
	settled map[string]bool
}

// addAt reports what could not be read, at its place in the file.
func (f *faults) addAt(line, col int, path, format string, args ...any) {
	f.list = append(f.list, Fault{f.file, line, col, path, fmt.Sprintf(format, args...)})
	f.settle(path)
}

func (f *faults) settle(path string) {
	if f.settled == nil {
		f.settled = map[string]bool{}
	}
	f.settled[path] = true
}

// add reports what was read and is wrong.
func (f *faults) add(path, format string, args ...any) {
	for p := path; p != ""; p = parent(p) {
		if f.settled[p] {
			return
		}
	}
	p := f.find(path)
	if p.variable != "" {
		f.list = append(f.list, Fault{File: "environment", Path: p.variable, Text: fmt.Sprintf(format, args...)})
		return
	}
	f.list = append(f.list, Fault{f.file, p.line, p.col, path, fmt.Sprintf(format, args...)})
}

// find gives the place of a path, or of the nearest one around it: a key that
// is missing has no place of its own.
func (f *faults) find(path string) place {
	for {
		if p, ok := f.at[path]; ok || path == "" {
			return p
		}
		path = parent(path)
	}
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// show quotes a value for a message.
func (f *faults) show(path, value string) string {
	if w := f.at[path].written; w != "" {
		value = w
	}
	return quote(value)
}

// quote bounds what a message repeats of the file.
func quote(s string) string {
	const most = 80 // bytes; a terminal line
	if len(s) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	slices.SortStableFunc(f.list, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return f.list
}

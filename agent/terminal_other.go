//go:build !linux && !darwin

package main

import (
	"errors"
	"os"
)

// terminalSize takes a character device for a terminal of 80 columns.
func terminalSize(f *os.File) (columns, rows int, terminal bool) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return 0, 0, false
	}
	return 80, 24, true
}

// readKeys is not built for this system: what is live is drawn, and obeys ^C alone.
func readKeys(*os.File) (restore func(), err error) { return nil, errors.ErrUnsupported }

func terminalSignals() (resized, suspend chan os.Signal, stop func()) { return nil, nil, func() {} }

func suspendSelf() {}

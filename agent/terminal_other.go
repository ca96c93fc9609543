//go:build !linux && !darwin

package main

import "os"

// terminalWidth takes a character device for a terminal of 80 columns.
func terminalWidth(f *os.File) (columns int, terminal bool) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return 0, false
	}
	return 80, true
}

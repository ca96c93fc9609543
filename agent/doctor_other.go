//go:build !linux

package main

import (
	"errors"
	"io/fs"
)

// diskOf does not know.
func diskOf(string) (free int64, network bool, err error) {
	return 0, false, errors.New("not on this system")
}

// clockSynced does not know.
func clockSynced() (synced, known bool) { return false, false }

// ownerOf does not know.
func ownerOf(fs.FileInfo) string { return "unknown" }

// connectAs is not built for this system.
func connectAs(uintptr, string, string) error { return errors.ErrUnsupported }

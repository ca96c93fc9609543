package configs

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// DefaultSpoolDir is the folder that stands for spool.dir "": the one systemd
// made ($STATE_DIRECTORY), else the system's place for root and the user's own
// for everybody else. It makes no folder.
func DefaultSpoolDir(lookup Lookup) (string, error) {
	return spoolDir(runtime.GOOS, os.Geteuid() == 0, lookup)
}

func spoolDir(goos string, root bool, lookup Lookup) (string, error) {
	env := func(name string) string {
		v, _ := lookup(name)
		return v
	}
	// systemd separates several folders by colons (systemd.exec(5)).
	if dir, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":"); dir != "" && goos != "windows" {
		return dir, nil
	}
	home := env("HOME")
	switch {
	case goos == "windows" && env("LOCALAPPDATA") != "":
		return filepath.Join(env("LOCALAPPDATA"), "sluice"), nil
	case goos == "windows":
		return "", errors.New("has no default without %LOCALAPPDATA%; set spool.dir to a folder")
	case goos == "darwin" && root:
		return "/Library/Application Support/sluice", nil
	case root:
		return "/var/lib/sluice", nil
	case goos == "darwin" && home != "":
		return filepath.Join(home, "Library", "Application Support", "sluice"), nil
	// The XDG base directory specification: a relative path is to be ignored.
	case goos != "darwin" && strings.HasPrefix(env("XDG_STATE_HOME"), "/"):
		return filepath.Join(env("XDG_STATE_HOME"), "sluice"), nil
	case goos != "darwin" && home != "":
		return filepath.Join(home, ".local", "state", "sluice"), nil
	}
	return "", errors.New("has no default without $HOME; set spool.dir to a folder")
}

//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPrepareDir(t *testing.T) {
	dir := t.TempDir()
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 65532, 65532 // only root can give something away
	}
	made := filepath.Join(dir, "made")
	for range 2 { // an init container runs again after a restart
		if err := prepareDir(made, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(made)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != uid || int(s.Gid) != gid || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder belongs to %d:%d with mode %v, want %d:%d and 0755", s.Uid, s.Gid, info.Mode(), uid, gid)
	}

	link := filepath.Join(dir, "link")
	if err := os.Symlink(made, link); err != nil {
		t.Fatal(err)
	}
	if err := prepareDir(link, uid, gid); err == nil {
		t.Error("a symbolic link was given away")
	}
}

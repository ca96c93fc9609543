package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// diskOf tells how much is free for users who are not root, and whether the
// file system is one of the network: NFS, SMB, CIFS (statfs(2)).
func diskOf(dir string) (free int64, network bool, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false, err
	}
	switch uint32(s.Type) {
	case 0x6969, 0x517B, 0xFF534D42, 0xFE534D42:
		network = true
	}
	return int64(s.Bavail) * int64(s.Bsize), network, nil
}

// clockSynced tells whether the kernel's clock is kept right (adjtimex(2)).
func clockSynced() (synced, known bool) {
	const unsync = 0x40 // STA_UNSYNC
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unsync == 0, true
}

// ownerOf names owner and group of a file.
func ownerOf(info fs.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "unknown"
	}
	owner, group := strconv.Itoa(int(s.Uid)), strconv.Itoa(int(s.Gid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf("%s:%s", owner, group)
}

// connectAs tries to connect to a socket as another user who is in no group but his
// own: setfsuid(2) and its relatives are about one thread alone, which ends with this.
// It needs root.
func connectAs(id uintptr, network, path string) error {
	if os.Geteuid() != 0 {
		return errors.ErrUnsupported
	}
	tried := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nothing else runs as him
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			tried <- errors.ErrUnsupported
			return
		}
		syscall.RawSyscall(syscall.SYS_SETFSGID, id, 0, 0)
		syscall.RawSyscall(syscall.SYS_SETFSUID, id, 0, 0)
		if is, _, _ := syscall.RawSyscall(syscall.SYS_SETFSUID, ^uintptr(0), 0, 0); is != id { // which is no user, and changes nothing
			tried <- errors.ErrUnsupported
			return
		}
		conn, err := net.Dial(network, path)
		if err == nil {
			conn.Close()
		}
		tried <- err
	}()
	return <-tried
}

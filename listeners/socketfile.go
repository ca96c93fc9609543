package listeners

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// maxSocketPath is in bytes: sun_path holds 108 with the final zero (unix(7)).
const maxSocketPath = 107

// A socketFile is the file of a Unix socket that is bound to it. A nil one
// is no file.
type socketFile struct {
	path string
	info fs.FileInfo // says which file it is; its inode is taken while the socket is open
	once sync.Once   // a second remove might hit the file of whoever came next
}

// bindUnix opens a Unix socket of the given network at path, with the rules that
// ListenUnixgram describes: bind does it, for a file of no more than a mode.
func bindUnix[S io.Closer](network, path string, mode fs.FileMode, group string, bind func(network, path string, mode fs.FileMode) (S, error)) (S, *socketFile, error) {
	var none S
	switch {
	case len(path) == 0:
		return none, nil, errors.New("the path is empty")
	case len(path) > maxSocketPath:
		return none, nil, fmt.Errorf("the path has %d bytes, a socket's at most %d (choose a shorter one)", len(path), maxSocketPath)
	case strings.HasPrefix(path, "@") || strings.ContainsRune(path, 0):
		return none, nil, errors.New("abstract sockets have no mode that could protect them (use the path of a file)")
	case mode&^fs.ModePerm != 0:
		return none, nil, fmt.Errorf("mode %v is more than permissions", mode)
	}
	gid, err := lookupGroup(group)
	if err != nil {
		return none, nil, err
	}
	if err := removeStale(network, path); err != nil {
		return none, nil, err
	}
	// Until its group is right the file is for its owner alone.
	conn, err := bind(network, path, mode&0o600)
	if err != nil {
		return none, nil, err
	}
	file := &socketFile{path: path}
	if file.info, err = os.Lstat(path); err == nil && gid >= 0 {
		err = os.Lchown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		file.remove()
		conn.Close()
		return none, nil, err
	}
	return conn, file, nil
}

// lookupGroup returns the number of a group, or -1 for the empty name.
func lookupGroup(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	text := group
	if g, err := user.LookupGroup(group); err == nil {
		text = g.Gid
	}
	gid, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("there is no group %q (use the name or the number of one)", group)
	}
	return int(gid), nil
}

// removeStale removes the socket that a program of this user left at path when it
// died. It is an error when there is anything else.
func removeStale(network, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() == fs.ModeSymlink:
		return errors.New("there is a symbolic link, which is not followed (remove it or give the path it leads to)")
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket (remove it or choose another path)")
	}
	conn, err := net.DialUnix(network, nil, &net.UnixAddr{Net: network, Name: path})
	switch {
	case err == nil:
		conn.Close()
		return syscall.EADDRINUSE
	case errors.Is(err, syscall.EPROTOTYPE): // somebody listens with another type of socket
		return syscall.EADDRINUSE
	case errors.Is(err, syscall.ECONNREFUSED) && !isOurs(info):
		return errors.New("there is a dead socket of another user (remove it or choose another path)")
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("there is a socket, and whether it is in use cannot be told: %w", err)
}

// remove removes the file if it still is the one that was bound. It must be called
// before the socket is closed, and only the first call has an effect.
func (f *socketFile) remove() {
	if f == nil {
		return
	}
	f.once.Do(func() {
		if now, err := os.Lstat(f.path); err == nil && f.info != nil && os.SameFile(f.info, now) {
			os.Remove(f.path)
		}
	})
}

package spool

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// ERROR_SHARING_VIOLATION, winerror.h.
const errSharing = syscall.Errno(32)

// lockFile takes the folder for this process by opening a file that is shared
// with nobody. ErrLocked when another has it.
func lockFile(root *os.Root, name string) (*os.File, error) {
	path := filepath.Join(root.Name(), name)
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(p, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharing) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// syncDir does nothing: Windows has no sync of a folder, NTFS journals names.
func syncDir(*os.Root) error { return nil }

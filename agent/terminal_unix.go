//go:build linux || darwin

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

func ioctl(f *os.File, request uintptr, p unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// terminalSize asks a terminal for its columns and rows (tty_ioctl(4), TIOCGWINSZ);
// 80 and 24 for one that does not know.
func terminalSize(f *os.File) (columns, rows int, terminal bool) {
	var size struct{ rows, columns, x, y uint16 }
	if ioctl(f, syscall.TIOCGWINSZ, unsafe.Pointer(&size)) != nil {
		return 0, 0, false
	}
	columns, rows = int(size.columns), int(size.rows)
	if columns == 0 {
		columns = 80
	}
	if rows == 0 {
		rows = 24
	}
	return columns, rows, true
}

// readKeys makes a terminal hand over each key as it is pressed, without showing it
// (termios(3): neither ICANON nor ECHO). A read returns after a tenth of a second,
// empty if nothing was pressed. ISIG stays, so that ^C and ^Z are what they always
// are. restore puts back what was before.
func readKeys(f *os.File) (restore func(), err error) {
	var before syscall.Termios
	if err := ioctl(f, getTermios, unsafe.Pointer(&before)); err != nil {
		return nil, fmt.Errorf("ask the terminal for its settings: %w", err)
	}
	keys := before
	keys.Lflag &^= syscall.ICANON | syscall.ECHO
	keys.Cc[syscall.VMIN], keys.Cc[syscall.VTIME] = 0, 1
	if err := ioctl(f, setTermios, unsafe.Pointer(&keys)); err != nil {
		return nil, fmt.Errorf("set the terminal to single keys: %w", err)
	}
	return func() { ioctl(f, setTermios, unsafe.Pointer(&before)) }, nil
}

// terminalSignals tells of a changed size and of ^Z, until stop is called.
func terminalSignals() (resized, suspend chan os.Signal, stop func()) {
	resized, suspend = make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	signal.Notify(suspend, syscall.SIGTSTP)
	return resized, suspend, func() { signal.Stop(resized); signal.Stop(suspend) }
}

// suspendSelf stops this process until it is told to go on. Which thread is the
// first to stop is the kernel's choice: so it waits for the signal to go on, too.
func suspendSelf() {
	goOn := make(chan os.Signal, 1)
	signal.Notify(goOn, syscall.SIGCONT)
	defer signal.Stop(goOn)
	if syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) == nil {
		<-goOn
	}
}

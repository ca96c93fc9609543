//go:build linux || darwin

package main

import "syscall"

// forbidCore keeps this process from ever writing its memory, which has the keys, to a
// disk: not even to a program that takes dumps, which Linux asks to from a limit of 0,
// but not from one of 1 (core(5), and coredump.c of the kernel). It cannot fail but where
// the limit is smaller already.
func forbidCore() {
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: 1, Max: 1})
}

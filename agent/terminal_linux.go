package main

import "syscall"

// Requests about the settings of a terminal (tty_ioctl(4)).
const (
	getTermios = syscall.TCGETS
	setTermios = syscall.TCSETS
)

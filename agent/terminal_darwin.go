package main

import "syscall"

// Requests about the settings of a terminal (tty(4)).
const (
	getTermios = syscall.TIOCGETA
	setTermios = syscall.TIOCSETA
)

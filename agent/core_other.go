//go:build !linux && !darwin

package main

// forbidCore does nothing: this system writes no dump unless it is set up to.
func forbidCore() {}

//go:build !linux

// Command bench measures what sluice costs, on Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: it reads /proc and sends with sendmmsg, so it runs on Linux only")
	os.Exit(1)
}

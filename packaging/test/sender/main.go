// Command sender sends a number of counters, one a datagram, at a steady rate, and
// prints how many the kernel took. A full Unix socket makes it wait.
//
//	sender udp|unixgram ADDRESS NAME COUNT RATE
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: sender udp|unixgram ADDRESS NAME COUNT RATE")
		os.Exit(2)
	}
	count, errCount := strconv.Atoi(os.Args[4])
	rate, errRate := strconv.Atoi(os.Args[5])
	conn, err := net.Dial(os.Args[1], os.Args[2])
	if err != nil || errCount != nil || errRate != nil || rate < 1 {
		fmt.Fprintln(os.Stderr, err, errCount, errRate)
		os.Exit(1)
	}
	line := []byte(os.Args[3] + ":1|c")
	start := time.Now()
	for sent := range count {
		if wait := time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		if _, err := conn.Write(line); err != nil {
			fmt.Fprintln(os.Stderr, err)
			fmt.Println(sent)
			os.Exit(1)
		}
	}
	fmt.Println(count)
}

package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// A sender is an application: it sends counters of 1, one in each datagram or frame, at a
// steady rate.
type sender struct {
	network, address string
	line             []byte
	pause            time.Duration // between two samples
	conn             net.Conn
	taken, failed    int // writes that the kernel took, and that it refused
}

// send sends until it is told to end, by -count or a signal; it then goes on for -after, as an
// application does whose last requests end, and says how many were sent: on
// standard output, and where Kubernetes looks for a container's last words.
func send(args []string) error {
	f := flag.NewFlagSet("send", flag.ExitOnError)
	to := f.String("to", "", "udp:HOST:PORT, unixgram:PATH or unix:PATH")
	name := f.String("name", "", "of the counter")
	tags := f.String("tags", "", "KEY:VALUE,...")
	count := f.Int("count", 0, "samples; 0 is until a signal")
	rate := f.Int("rate", 100, "samples a second")
	after := f.Duration("after", 0, "how long to go on after a signal")
	stay := f.Bool("stay", false, "wait for a signal when all are sent")
	f.Parse(args)
	s := &sender{pause: time.Second / time.Duration(*rate), line: []byte(*name + ":1|c")}
	s.network, s.address, _ = strings.Cut(*to, ":")
	if *tags != "" {
		s.line = append(s.line, "|#"+*tags...)
	}
	if s.network == "unix" { // a frame
		s.line = append(binary.LittleEndian.AppendUint32(nil, uint32(len(s.line))), s.line...)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	s.until(stop, *count)
	if *stay {
		fmt.Println("sent", s.taken)
		<-stop
		*count = 0
	}
	if *after > 0 {
		end := make(chan os.Signal)
		time.AfterFunc(*after, func() { close(end) })
		s.until(end, 0)
	}
	text := fmt.Sprintf("sent %d failed %d\n", s.taken, s.failed)
	os.WriteFile("/dev/termination-log", []byte(text), 0o644)
	fmt.Print(text)
	return nil
}

// until sends count samples (0: any number), or until the channel speaks. One that could not
// be sent is sent again.
func (s *sender) until(stop <-chan os.Signal, count int) {
	tick := time.NewTicker(s.pause)
	defer tick.Stop()
	for first := s.taken; count == 0 || s.taken-first < count; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if s.write() {
			s.taken++
		} else {
			s.failed++
		}
	}
}

func (s *sender) write() bool {
	if s.conn == nil {
		conn, err := net.Dial(s.network, s.address)
		if err != nil {
			return false
		}
		s.conn = conn
	}
	s.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := s.conn.Write(s.line); err != nil {
		fmt.Fprintln(os.Stderr, err)
		s.conn.Close()
		s.conn = nil
		return false
	}
	return true
}

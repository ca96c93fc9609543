package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// senderVariable makes this test's binary a program that sends: network:address.
const senderVariable = "SLUICE_TEST_SENDER"

// sendLines sends each line of the standard input, and answers with a line of its
// own. It connects when the first one comes: by then its process is where the test
// wants it.
func sendLines(to string) error {
	network, addr, _ := strings.Cut(to, ":")
	lines := bufio.NewScanner(os.Stdin)
	var conn net.Conn
	for lines.Scan() {
		if conn == nil {
			var err error
			if conn, err = net.Dial(network, addr); err != nil {
				return err
			}
		}
		packet := lines.Bytes()
		if network == "unix" { // a frame of at most 255 bytes: its length, little endian
			packet = append([]byte{byte(len(packet)), 0, 0, 0}, packet...)
		}
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		fmt.Println("sent")
	}
	return lines.Err()
}

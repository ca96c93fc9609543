package main

import (
	"os"
	"strings"
)

// machineFiles have the machine's id where there is one: systemd's (machine-id(5)),
// which is made at a machine's first boot, and the one D-Bus keeps.
var machineFiles = []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}

// machineID tells this machine from others, also from copies of its disk that were
// made for that; "" if that is not known. It is 32 hexadecimal digits, before the
// first boot is over another text.
func machineID() string {
	for _, name := range machineFiles {
		b, _ := os.ReadFile(name)
		if id := strings.TrimSpace(string(b)); len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" && strings.Trim(id, "0") != "" {
			return id
		}
	}
	return ""
}

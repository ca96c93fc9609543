package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReplayOfLongPackets: what came in a frame and is too long for a datagram does not
// end a replay.
func TestReplayOfLongPackets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "traffic.json")
	text := ""
	long := strings.Repeat("a", 65_530) + ":1|c"
	for _, v := range []any{captureHead{Format: captureFormat},
		capturedPacket{At: time.Unix(1, 0), From: "unix:/s", Text: long},
		capturedPacket{At: time.Unix(1, 0), From: "unix:/s", Text: "a:1|c"},
		capturedPacket{At: time.Unix(1, 0), From: "unix:/s", Text: long},
		capturedPacket{At: time.Unix(1, 0), From: "unix:/s", Text: "b:1|c"},
		captureEnd{Packets: 4}} {
		line, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text += string(line) + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	stdout, stderr, exit := runCommand(t, dir, nil, "", "replay", file, "--speed", "max", "--addr", to.LocalAddr().String())
	if exit != exitFailed || !strings.HasPrefix(stdout, "sent 2 packets (10 B") || !strings.Contains(stderr, "2 packets are longer than a datagram may be and were not sent") {
		t.Errorf("replay: exit %d, %s%s", exit, stdout, stderr)
	}
}

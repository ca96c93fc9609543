package listeners

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// At no moment is a socket file open to more than was asked: another thread looks
// all the time while sockets are made, under a umask that would allow everything.
func TestSocketFileIsNeverWider(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	rounds := 10_000
	if testing.Short() {
		rounds = 1000
	}
	path := filepath.Join(t.TempDir(), "s")
	const mode = fs.FileMode(0o620)
	var done atomic.Bool
	var looked, seen int
	var looking sync.WaitGroup
	looking.Go(func() {
		for !done.Load() {
			info, err := os.Lstat(path)
			if looked++; err != nil {
				continue
			}
			if seen++; info.Mode().Perm()&^mode != 0 {
				t.Errorf("the file has mode %v, want at most %v", info.Mode().Perm(), mode)
				return
			}
		}
	})
	for i := range rounds {
		var closer interface{ Close() }
		var err error
		if i%2 == 0 {
			closer, err = ListenUnixStream(path, mode, "", PacketOptions{})
		} else {
			closer, err = ListenUnixgram(path, mode, "", PacketOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		closer.Close()
	}
	done.Store(true)
	looking.Wait()
	t.Logf("looked %d times, the file was there %d times", looked, seen)
	if seen == 0 {
		t.Error("the file was never seen")
	}
}

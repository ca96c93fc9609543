package listeners

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
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
	group := strconv.Itoa(os.Getgid())
	var done atomic.Bool
	var looked int
	var saw atomic.Int64
	var looking sync.WaitGroup
	looking.Go(func() {
		for !done.Load() {
			info, err := os.Lstat(path)
			if looked++; err != nil {
				continue
			}
			if saw.Add(1); info.Mode().Perm()&^mode != 0 {
				t.Errorf("the file has mode %v, want at most %v", info.Mode().Perm(), mode)
				return
			}
		}
	})
	// At one processor the other may not get to look for long.
	for i, end := 0, time.Now().Add(time.Minute); i < rounds || saw.Load() == 0 && time.Now().Before(end); i++ {
		var closer interface{ Close() }
		var err error
		if i%2 == 0 {
			closer, err = ListenUnixStream(path, mode, group, PacketOptions{})
		} else {
			closer, err = ListenUnixgram(path, mode, group, PacketOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		closer.Close()
	}
	done.Store(true)
	looking.Wait()
	t.Logf("looked %d times, the file was there %d times", looked, saw.Load())
	if saw.Load() == 0 {
		t.Error("the file was never seen")
	}
}

// Whoever may not write the file cannot send: the kernel refuses it, on either kind
// of socket.
func TestOtherUsersCannotSend(t *testing.T) {
	if paths := os.Getenv("SLUICE_TEST_SEND_TO"); paths != "" { // as that other user
		for _, path := range filepath.SplitList(paths) {
			network, path, _ := strings.Cut(path, "=")
			conn, err := net.Dial(network, path)
			if err == nil {
				_, err = conn.Write([]byte("a:1|c\n"))
				conn.Close()
			}
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v, want that it is not permitted", network, err)
			}
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can send as another user")
	}
	dir, err := os.MkdirTemp("", "sluice-users-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	test := filepath.Join(dir, "test") // where the other user can run it
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(test, text, 0o755), os.Chmod(test, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	gram, err := ListenUnixgram(filepath.Join(dir, "gram"), 0o660, "", PacketOptions{Naming: normal})
	if err != nil {
		t.Fatal(err)
	}
	flow, err := ListenUnixStream(filepath.Join(dir, "stream"), 0o660, "", PacketOptions{Naming: normal})
	if err != nil {
		t.Fatal(err)
	}
	var c crowd
	stop := serve(t, gram, &c)
	stopFlow := serveUntil(t, flow, &c)
	other := exec.Command(test, "-test.run", "^TestOtherUsersCannotSend$")
	other.Dir = dir
	other.Env = append(os.Environ(), fmt.Sprintf("SLUICE_TEST_SEND_TO=unixgram=%s:unix=%s", gram.Addr(), flow.Addr()), "HOME="+dir)
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("the other user: %v\n%s", err, out)
	}
	stop()
	stopFlow()
	if n := gram.Stats().Packets + flow.Stats().Packets; n != 0 {
		t.Errorf("%d packets arrived", n)
	}
}

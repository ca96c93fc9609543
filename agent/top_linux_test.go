package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"
)

// A terminal is a pseudoterminal (pty(7)) with a program on it. What the program
// writes is collected; what is typed goes to it.
type terminal struct {
	t            *testing.T
	master, line *os.File
	out          logBuffer
	cmd          *exec.Cmd
	exited       chan struct{}
}

// onTerminal runs the binary on a terminal of so many columns and rows.
func onTerminal(t *testing.T, columns, rows int, env []string, args ...string) *terminal {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, exited: make(chan struct{})}
	if x.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Skipf("this machine has no pseudoterminals: %v", err)
	}
	t.Cleanup(func() { x.master.Close() })
	var number, unlocked uint32
	if err := errors.Join(ioctl(x.master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked)), ioctl(x.master, syscall.TIOCGPTN, unsafe.Pointer(&number))); err != nil {
		t.Fatal(err)
	}
	if x.line, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.line.Close() })
	x.resize(columns, rows)
	x.cmd = exec.Command(path, args...)
	x.cmd.Env = append([]string{"TERM=xterm", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = x.line, x.line, x.line
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		x.cmd.Wait()
		close(x.exited)
	}()
	t.Cleanup(func() { x.cmd.Process.Kill(); <-x.exited })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := x.master.Read(buf)
			if err != nil {
				return
			}
			x.out.Write(buf[:n])
		}
	}()
	return x
}

func (x *terminal) resize(columns, rows int) {
	x.t.Helper()
	size := struct{ rows, columns, x, y uint16 }{rows: uint16(rows), columns: uint16(columns)}
	if err := ioctl(x.master, syscall.TIOCSWINSZ, unsafe.Pointer(&size)); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) settings() (s syscall.Termios) {
	x.t.Helper()
	if err := ioctl(x.line, getTermios, unsafe.Pointer(&s)); err != nil {
		x.t.Fatal(err)
	}
	return s
}

// frame is what was drawn last, as lines, without the marks of the cursor.
func (x *terminal) frame() []string {
	text := x.out.String()
	end := strings.LastIndex(text, "\x1b[J")
	begin := strings.LastIndex(text[:max(end, 0)], "\x1b[H")
	if begin < 0 {
		return nil
	}
	return strings.Split(strings.ReplaceAll(text[begin+len("\x1b[H"):end], "\x1b[K", ""), "\r\n")
}

// shows waits until a frame has all of these texts, and is no larger than the
// terminal.
func (x *terminal) shows(columns, rows int, want ...string) {
	x.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		lines := x.frame()
		all, widest := strings.Join(lines, "\n"), 0
		good := len(lines) == rows
		for _, w := range want {
			good = good && strings.Contains(all, w)
		}
		for _, l := range lines {
			l = strings.NewReplacer(bold, "", reverse, "", red, "", plain, "").Replace(l)
			widest = max(widest, utf8.RuneCountInString(l))
		}
		if good && widest <= columns {
			return
		}
		select {
		case <-x.exited:
			x.t.Fatalf("it ended (%v) before it showed %q:\n%q", x.cmd.ProcessState, want, x.out.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("no frame of %d by %d with %q; the last has %d lines of up to %d:\n%s", columns, rows, want, len(lines), widest, all)
		}
	}
}

func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) wait() int {
	x.t.Helper()
	select {
	case <-x.exited:
	case <-time.After(patience):
		x.t.Fatalf("it goes on:\n%q", x.out.String())
	}
	return x.cmd.ProcessState.ExitCode()
}

// TestTopTerminal drives top by its keys on a real terminal: orders, a filter, tags,
// values, another size of the terminal; and whichever way it ends, the terminal is as
// it was.
func TestTopTerminal(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	var b strings.Builder
	for i := range 12 {
		fmt.Fprintf(&b, "top.many:1|c|#id:%d,route:/users\n", i)
	}
	for i := range 30 {
		fmt.Fprintf(&b, "top.filler_%d:1|g\n", i)
	}
	d.send(d.dial("udp"), b.String()+"top.busy:1|c\ntop.busy:1|c\ntop.evil\x1b[2Jname:1|c\n"+strings.Repeat("top.busy:1|c\n", 50))
	d.until("the window is stored", func() bool {
		code, _ := d.get("/api/agent/metrics/tags?name=top.many&kind=counter")
		return code == 200
	})
	addr := strings.TrimPrefix(d.http, "http://")
	run := func(env ...string) (*terminal, syscall.Termios) {
		x := onTerminal(t, 70, 12, env, "top", "--addr", addr)
		return x, x.settings()
	}

	x, _ := run()
	x.shows(70, 12, "33 metrics by items", reverse+">", "top.many (counter)", "1 to 9 of 33", "q quit")
	within := x.settings()
	x.types("o")
	x.shows(70, 12, "metrics by samples", "top.busy (counter)")
	x.types("/man")
	x.shows(70, 12, "filter: man_", "1 metrics")
	x.types("\r")
	x.shows(70, 12, "filter: man  q quit")
	x.types("\r")
	x.shows(70, 12, "top.many (counter): 12 series", ">        12           1  id")
	x.resize(30, 8)
	x.shows(30, 8, "top.many (counter): 12 series…")
	x.types("\x1b[C")
	x.shows(30, 8, "the values of id", "samples/s  value", ">       1.0  0")
	x.types("\x1b[B\r")
	x.shows(30, 8, "top.many id:1 (counter): 1 se…")
	x.resize(70, 12)
	x.types("\x1b[D\x1b[D\x1b[D/evil\r")
	x.shows(70, 12, "top.evil_[2Jname (counter)")
	if within.Lflag&(syscall.ICANON|syscall.ECHO) != 0 {
		t.Error("keys are not read one by one while it runs")
	}
	x.types("q")
	if exit := x.wait(); exit != exitDone {
		t.Errorf("after q: exit %d", exit)
	}

	for name, end := range map[string]func(x *terminal){
		"q":       func(x *terminal) { x.types("q") },
		"^C":      func(x *terminal) { x.types("\x03") },
		"SIGTERM": func(x *terminal) { x.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		x, _ := run("NO_COLOR=1")
		x.shows(70, 12, "33 metrics by items", "> ")
		before := x.settings()
		before.Lflag |= syscall.ICANON | syscall.ECHO // as every new terminal has it
		before.Cc[syscall.VMIN], before.Cc[syscall.VTIME] = 1, 0
		end(x)
		if exit := x.wait(); exit != exitDone {
			t.Errorf("after %s: exit %d", name, exit)
		}
		if after := x.settings(); after != before {
			t.Errorf("after %s the terminal is %+v, want %+v", name, after, before)
		}
		deadline := time.Now().Add(patience)
		for !strings.HasSuffix(x.out.String(), leaveScreen) {
			if time.Sleep(10 * time.Millisecond); time.Now().After(deadline) {
				t.Fatalf("after %s it does not leave its screen: %q", name, x.out.String())
			}
		}
		for _, code := range []string{bold, reverse, red} {
			if strings.Contains(x.out.String(), code) {
				t.Errorf("%s: %q in spite of NO_COLOR", name, code)
			}
		}
	}
}

// TestTopSuspended: ^Z gives the terminal back as it was, and afterwards it goes on.
func TestTopSuspended(t *testing.T) {
	d := start(t, setup{})
	x := onTerminal(t, 60, 10, nil, "top", "--addr", strings.TrimPrefix(d.http, "http://"))
	x.shows(60, 10, "0 metrics by items")
	x.cmd.Process.Signal(syscall.SIGTSTP)
	state := func() string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", x.cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(data), ") ")
		return rest[:min(len(rest), 1)]
	}
	d.until("it is stopped", func() bool { return state() == "T" })
	if s := x.settings(); s.Lflag&(syscall.ICANON|syscall.ECHO) != syscall.ICANON|syscall.ECHO {
		t.Error("the terminal still gives single keys")
	}
	d.until("the screen is left", func() bool { return strings.HasSuffix(x.out.String(), leaveScreen) })
	x.cmd.Process.Signal(syscall.SIGCONT)
	d.until("it draws again", func() bool { return strings.Contains(x.out.String(), leaveScreen+enterScreen+"\x1b[H") })
	x.types("o")
	x.shows(60, 10, "0 metrics by samples")
	x.types("q")
	if exit := x.wait(); exit != exitDone {
		t.Errorf("exit %d", exit)
	}
}

// TestTopDumb: a terminal that cannot move its cursor gets plain tables, and one
// without keys is drawn on all the same.
func TestTopDumb(t *testing.T) {
	t.Parallel() // it mostly waits
	d := start(t, setup{})
	x := onTerminal(t, 60, 10, []string{"TERM=dumb"}, "top", "--addr", strings.TrimPrefix(d.http, "http://"))
	d.until("two tables are there", func() bool { return strings.Count(x.out.String(), "0 metrics by items") >= 2 })
	if strings.Contains(x.out.String(), "\x1b") {
		t.Errorf("escapes on a dumb terminal: %q", x.out.String())
	}
	x.types("\x03")
	if exit := x.wait(); exit != exitDone {
		t.Errorf("after ^C: exit %d", exit)
	}
}

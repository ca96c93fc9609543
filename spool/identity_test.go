package spool

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMachine: a folder that is used on another machine gets another identity, once;
// where the machine is not known, or nobody noted it, it keeps what it has.
func TestMachine(t *testing.T) {
	opt := small(t)
	id := func(machine string, guest bool) string {
		t.Helper()
		opt.Machine, opt.Guest = machine, guest
		s := attach(t, opt)
		defer s.Close()
		return s.Identity()
	}
	first := id("", false)
	for _, machine := range []string{"a", "a", "", "a"} {
		if got := id(machine, false); got != first {
			t.Errorf("on machine %q the identity is %s, want %s as before", machine, got, first)
		}
	}
	if got := id("b", true); got != first {
		t.Errorf("a guest on another machine made the identity %s of %s", got, first)
	}
	second := id("b", false)
	if second == first || len(second) != 16 {
		t.Errorf("on another machine the identity is %q, want another than %s", second, first)
	}
	if got := id("b", false); got != second {
		t.Errorf("started again there it is %s, want %s", got, second)
	}
	// It comes back: what it was called there is not known any more.
	if got := id("a", false); got == second || got == first {
		t.Errorf("back again it is %s, want a third", got)
	}
	path := filepath.Join(opt.Dir, identityName)
	if err := os.WriteFile(path, []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := id("a", false)
	if b, err := os.ReadFile(path); err != nil || string(b) != third || len(third) != 16 {
		t.Errorf("in place of a spoilt identity there is %q (%v), want %s", b, err, third)
	}
}

// TestGuestMakesNothing: who only looks into a folder leaves no file in it that its
// owner's process might not be able to open.
func TestGuestMakesNothing(t *testing.T) {
	opt := small(t)
	s := attach(t, opt, "flux")
	mustAppend(t, s, 1, t0, content(1, 2, 100))
	s.Close()
	for _, name := range []string{outboxName, identityName} {
		if err := os.Remove(filepath.Join(opt.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadDir(opt.Dir)
	if err != nil {
		t.Fatal(err)
	}
	opt.Guest = true
	s = attach(t, opt)
	if parts, err := s.Read(1); err != nil || !sameParts(parts, content(1, 2, 100)) {
		t.Errorf("Read(1) = %v, want the record", err)
	}
	mustBalance(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadDir(opt.Dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("there were %v, then %v (%v)", before, after, err)
	}
}

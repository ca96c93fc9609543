package listeners

import "sync/atomic"

// A Tap lets somebody see the packets of listeners as they come in. One is shared
// by all of them. While nobody looks it costs a reader one load per system call.
type Tap struct {
	to atomic.Pointer[func(listener string, at int64, packet []byte)]
}

// Set hands each packet from now on to f, in the goroutine of its reader: f must
// not wait, and must copy what it keeps. nil ends it; f may be called for a
// moment longer.
func (t *Tap) Set(f func(listener string, at int64, packet []byte)) {
	if f == nil {
		t.to.Store(nil)
		return
	}
	t.to.Store(&f)
}

// get returns where packets go; nil is nowhere.
func (t *Tap) get() func(listener string, at int64, packet []byte) {
	if t == nil {
		return nil
	}
	if f := t.to.Load(); f != nil {
		return *f
	}
	return nil
}

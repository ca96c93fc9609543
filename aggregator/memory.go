package aggregator

import "sync/atomic"

// The memory of values has one bound for all series together, for they grow:
// a distribution takes from 200 bytes to 600 KiB, a set up to 2 MiB. Beyond half
// of it the open window is to be closed early, which costs nothing but another
// record; what was closed is in memory until it has been released. Only when
// that does not help in time are values refused, TooMuchMemory, and only those
// that need memory: of distributions and sets.
const (
	valueBytesPerSeries = 1 << 10
	minValueBytes       = 8 << 20
)

// keptBytes bounds the memory of values that is kept for windows to come.
const keptBytes = 1 << 20

// A memory counts the bytes of values; each is an estimate, from what the
// allocator gives.
type memory struct {
	limit      atomic.Int64
	open, lent atomic.Int64  // in open windows; in closed ones that were not released yet
	pressed    chan struct{} // holds one, when the open ones are beyond half of the limit
}

func (m *memory) configure(o *Options) {
	m.limit.Store(max(minValueBytes, int64(o.MaxSeries)*valueBytesPerSeries))
}

func (m *memory) add(n int) {
	if m.open.Add(int64(n)) < m.limit.Load()/2 {
		return
	}
	select {
	case m.pressed <- struct{}{}:
	default:
	}
}

func (m *memory) full() bool { return m.open.Load()+m.lent.Load() >= m.limit.Load() }

// lend says that values of so many bytes are in a closed window now.
func (m *memory) lend(n int) {
	m.open.Add(-int64(n))
	m.lent.Add(int64(n))
}

// Pressed returns a channel that has something when the open window is to be
// closed before its time, because values take too much memory.
func (a *Aggregator) Pressed() <-chan struct{} { return a.memory.pressed }

package main

import (
	"iter"
	"sync/atomic"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// answerWithin is how long a window waits for the disk before those that follow are
// kept in memory. A busy disk may take seconds for one append.
const answerWithin = 5 * time.Second

// store appends a window to the spool and releases it, or remembers it while the disk hangs.
func (a *agent) store(now time.Time, m spool.Meta, w *aggregator.Window) {
	if a.hangs() {
		_, err := a.remember(now, m, w)
		a.tellStored(w, 0, err)
		w.Release()
		return
	}
	a.write(func(progress func()) {
		seq, err := a.spool.Append(now, m, func(yield func([]byte) bool) {
			for p := range a.partsOf(w) {
				progress()
				if !yield(p) {
					return
				}
			}
		})
		a.tellStored(w, seq, err)
		w.Release()
	})
}

// waitingBytes is how much of slight windows waits to be written together.
const waitingBytes = 1 << 20

// slight tells whether a window is to be written together with others: programs that write
// times into their lines make hundreds of late windows at once, of a few series each, and a
// transaction takes as long for one of them as for all. What is larger is not gathered in
// memory but written as it is encoded.
func slight(w *aggregator.Window) bool {
	return w.Late && w.Len() <= 100 && w.Samples[aggregator.Distribution]+w.Samples[aggregator.Set] <= 1000
}

// remember puts a window into the memory log, to be written by flush or with what is
// stored next. It answers how many bytes that takes.
func (a *agent) remember(now time.Time, m spool.Meta, w *aggregator.Window) (bytes int, err error) {
	err = a.spool.Remember(now, m, func(yield func([]byte) bool) {
		for p := range a.partsOf(w) {
			if bytes += len(p); !yield(p) {
				return
			}
		}
	})
	return bytes, err
}

// flush writes the windows remembered last, unless the disk hangs, and releases them.
func (a *agent) flush(now time.Time, windows []*aggregator.Window) {
	tell := func(last uint64) {
		for i, w := range windows {
			seq := uint64(0)
			if last > 0 {
				seq = last - uint64(len(windows)-1-i)
			}
			a.tellStored(w, seq, nil)
			w.Release()
		}
	}
	if a.hangs() {
		tell(0)
		return
	}
	a.write(func(func()) { tell(a.spool.Flush(now)) })
}

// hangs answers whether the disk has not answered to a write yet. There is one attempt,
// until that is over.
func (a *agent) hangs() bool {
	if a.unanswered == nil {
		return false
	}
	select {
	case <-a.unanswered:
		a.unanswered = nil
		return false
	default:
		return true
	}
}

// write waits for what writes windows, which tells of its progress. A disk that hangs
// holds up neither the windows that follow nor the samples in them: what is being written
// waits for it, and what follows is in the memory log.
func (a *agent) write(windows func(progress func())) {
	began, done := time.Now(), make(chan struct{})
	var asked atomic.Int64 // when there was progress, since began
	go func() {
		windows(func() { asked.Store(int64(time.Since(began))) })
		close(done)
		if time.Since(began) > answerWithin {
			a.wakeDeliveries()
		}
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(answerWithin):
		}
		if time.Since(began)-time.Duration(asked.Load()) > answerWithin { // else a large one is under way
			a.unanswered = done
			a.spool.Unanswered(began)
			return
		}
	}
}

// partsOf are the parts of a window, each of which is a sign of life, see await.
func (a *agent) partsOf(w *aggregator.Window) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for p := range w.Parts() {
			if a.parts.Add(1); !yield(p) {
				return
			}
		}
	}
}

//go:build linux

package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"sluice/aggregator"
)

// tagged is the spelling of pause: the tags of a sample are the value of one.
type tagged struct{}

func (tagged) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	dst.Tag([]byte("route"), s.Tags)
	dst.Tag([]byte("env"), []byte("prod"))
	dst.Tag([]byte("service"), []byte("checkout"))
	return aggregator.Taken
}

// pause measures, in this process, how long a reader waits for the aggregator:
// it adds packets of 20 counters all the time, while windows of so many series
// are closed and written beside it. What the reader waits for is a lock, but
// where other programs use the CPUs also these, so the same is measured while
// nothing is closed.
func pause(w *workload, _ string) error {
	o := aggregator.Options{Interval: 10 * time.Second, MaxSeries: 2 * w.series, MaxSetMembers: 10_000}
	now := time.Now()
	a := aggregator.New(o, now)
	filler, reader := a.Intake(tagged{}), a.Intake(tagged{})
	fill := func() {
		var batch []aggregator.Sample
		for i := range w.series {
			batch = append(batch, aggregator.Sample{Kind: aggregator.Counter, Head: []byte("shop.requests"), Tags: fmt.Appendf(nil, "users_%07d", i), Flags: aggregator.Whole, Whole: 1})
			if len(batch) == 500 || i == w.series-1 {
				filler.Add(now.UnixNano(), batch)
				batch = batch[:0]
			}
		}
	}
	packet := make([]aggregator.Sample, 20)
	for i := range packet {
		packet[i] = aggregator.Sample{Kind: aggregator.Counter, Head: fmt.Appendf(nil, "busy%d", i), Flags: aggregator.Whole, Whole: 1}
	}
	var closing, stop atomic.Bool
	var waits [2][]time.Duration // while nothing is closed, while something is
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for n := 0; !stop.Load(); n++ {
			packet[n%len(packet)].Tags = fmt.Appendf(nil, "new%d", n%2000) // some it has not met in this window
			which, began := closing.Load(), time.Now()
			reader.Add(now.UnixNano(), packet)
			took := time.Since(began)
			if which {
				waits[1] = append(waits[1], took)
			} else {
				waits[0] = append(waits[0], took)
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	var rotate, write time.Duration
	const times = 5
	for range times {
		fill()
		began := time.Now()
		closing.Store(true)
		windows := a.Rotate(now)
		rotate += time.Since(began)
		began = time.Now()
		for _, window := range windows {
			for range window.Parts() {
			}
			window.Release()
		}
		write += time.Since(began)
		closing.Store(false)
	}
	stop.Store(true)
	<-done
	fmt.Printf("%s\n  Rotate %.0f ms, writing the window %.0f ms; a reader's Add of 20 samples meanwhile: %s; otherwise: %s\n", w.name,
		rotate.Seconds()*1e3/times, write.Seconds()*1e3/times, quantiles(waits[1]), quantiles(waits[0]))
	return nil
}

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	return fmt.Sprintf("99 %% %s, longest %s of %d", d[len(d)*99/100].Round(time.Microsecond), d[len(d)-1].Round(time.Microsecond), len(d))
}

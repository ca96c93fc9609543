package main

import (
	"errors"
	"fmt"
	"time"
)

// diskGrace is how long a stop waits without a sign of life from the disk, beyond
// shutdown_timeout. With the default of that it ends before systemd ends it
// (TimeoutStopSec in packaging/systemd).
const diskGrace = 15 * time.Second

// await waits for a stop, which waits for upstreams no longer than timeout. It gives up when,
// beyond that, there is no sign of life for diskGrace: the disk has done nothing, and no
// window was encoded for it.
func (a *agent) await(ended <-chan error, timeout time.Duration) error {
	life := func() uint64 { return a.spool.Steps() + a.parts.Load() }
	last, steps := time.Now().Add(timeout), life()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case now := <-tick.C:
			if n := life(); n != steps {
				steps = n
				if now.After(last) {
					last = now
				}
			}
			if now.Sub(last) >= diskGrace {
				return a.abandon()
			}
		}
	}
}

// errLeft: a stop has left something behind.
var errLeft = errors.New("the disk does not answer")

// abandon ends without the disk, and says what is lost by that. Nothing in it waits.
func (a *agent) abandon() error {
	left := a.spool.Left()
	var samples uint64
	for k, open := range a.aggregator.Stats().Open { // of a stop that did not even come to close its windows
		samples += open + left.Samples[k]
	}
	a.log.Error("the disk does not answer, so the stop does not wait for it: what is in memory only is lost",
		"windows", left.Records, "samples", samples, "perhaps_stored", left.Writing)
	a.sayGoodbye(a.waiting())
	if samples == 0 && left.Records == 0 {
		return nil
	}
	return fmt.Errorf("stop: %w: %d windows with %d samples were in memory only and are lost", errLeft, left.Records, samples)
}

package main

import (
	"errors"
	"fmt"
	"time"
)

// diskGrace is how long a stop waits for a disk that gives no sign of life, beyond
// shutdown_timeout. With the default of that it ends before systemd ends it
// (TimeoutStopSec in packaging/systemd).
const diskGrace = 15 * time.Second

// await waits for the steps of a stop, of which the last come from the disk, and
// from an upstream for timeout. It gives up when the disk does not answer.
func (a *agent) await(ended <-chan error, timeout time.Duration) error {
	last, steps := time.Now().Add(timeout), a.spool.Steps()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case now := <-tick.C:
			if n := a.spool.Steps(); n != steps {
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

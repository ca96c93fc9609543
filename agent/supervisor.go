package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A supervisor is systemd, which is told how the agent is doing (sd_notify(3)).
// Where there is none, its methods do nothing.
type supervisor struct{}

func (supervisor) tell(state ...string) {
	sd.SdNotify(false, strings.Join(state, "\n")) // whoever does not listen cannot be helped
}

// ready says that all sockets are open and served, at the start and after a reload.
func (s supervisor) ready() { s.tell(sd.SdNotifyReady) }

// reloading begins a reload, which ready ends.
func (s supervisor) reloading() { s.tell(sd.SdNotifyReloading, sd.SdNotifyMonotonicUsec()) }

func (s supervisor) stopping() { s.tell(sd.SdNotifyStopping, "STATUS=stopping") }

// tellEvery is how often the supervisor hears of the agent when it has not asked
// for a sign of life more often.
const tellEvery = 10 * time.Second

// stuckAfter is how long a window may be overdue before the agent counts as
// stuck. A disk may take that long for one append.
const stuckAfter = time.Minute

// keepSupervisor tells the supervisor that the agent is ready, and from then on how
// it is doing, until ctx is done. The sign of life comes only while there is
// progress: the aggregator answers, which takes the lock of every reader, and
// windows are closed on time.
func (a *agent) keepSupervisor(ctx context.Context) {
	every := tellEvery
	if watchdog, err := sd.SdWatchdogEnabled(false); err == nil && watchdog > 0 {
		every = min(every, watchdog/3)
	}
	a.supervisor.ready()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last uint64
	hung := false
	for {
		hung = a.tellOutbox(hung)
		s := a.aggregator.Stats()
		var accepted uint64
		for _, n := range s.Accepted {
			accepted += n
		}
		state := []string{"STATUS=" + a.line(accepted-last, every, s.Series)}
		if overdue := time.Since(a.aggregator.Ends()); overdue < stuckAfter {
			state = append(state, sd.SdNotifyWatchdog)
		}
		a.supervisor.tell(state...)
		last = accepted
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellOutbox logs when outbox.db begins to hang, or answers again; it waits for no disk.
func (a *agent) tellOutbox(hung bool) bool {
	text := outboxHangs(a.spool, time.Now())
	switch {
	case text != "" && !hung:
		a.log.Error("nothing is delivered from the disk", "error", text)
	case text == "" && hung:
		a.log.Info("outbox.db answers again")
	}
	return text != ""
}

// line is what systemctl status shows.
func (a *agent) line(samples uint64, in time.Duration, series int) string {
	text := fmt.Sprintf("%.0f samples/s, %d series", float64(samples)/in.Seconds(), series)
	for _, d := range a.now().deliveries {
		s := d.stats(time.Now())
		text += fmt.Sprintf("; %s %s", s.Name, s.State)
		if s.Behind > 0 {
			text += fmt.Sprintf(", %d windows behind", s.Behind)
		}
		if !s.LastDelivery.IsZero() {
			text += ", last delivery " + s.LastDelivery.UTC().Format("15:04:05Z")
		}
	}
	return text
}

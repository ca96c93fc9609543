package main

import (
	"context"
	"time"
)

// spoolRetry is how often an unusable spool is tried again, and a usable one
// tidied up.
const spoolRetry = 5 * time.Second

// keepSpool opens the spool, as soon as it can be opened, and keeps it in
// order until ctx is done. Until then windows wait in memory.
func (a *agent) keepSpool(ctx context.Context) {
	last, told, checked := "", map[string]int64{}, time.Now()
	for {
		var err error
		if time.Since(checked) >= time.Minute {
			a.checkBooks(told)
			checked = time.Now()
		}
		wanted := a.now().config.Spool
		a.spool.SetLimits(int64(wanted.MaxBytes), max(wanted.Retention, 1)) // 0 would be its default; if the disk is busy, the next time
		if a.spool.Attached() {
			waiting := a.spool.Stats().MemoryRecords > 0
			if err = a.spool.Maintain(time.Now()); waiting {
				a.wakeDeliveries() // they are on disk now, or it is tried again
			}
		} else if err = a.attach(ctx); err == nil {
			a.wakeDeliveries()
			a.own.wakeUp()
		}
		last = a.tellSpool(err, last)
		for ctx.Err() == nil {
			if done, _ := a.spool.RollUp(ctx, time.Now()); !done { // an error is in the log
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(spoolRetry):
		}
	}
}

// openWithin is how long the spool may take to open before that counts as a disk that
// hangs: a full one with damaged files takes less.
const openWithin = 15 * time.Second

// attach opens the spool.
func (a *agent) attach(ctx context.Context) error {
	began := time.Now()
	late := time.AfterFunc(openWithin, func() { a.spool.Unanswered(began) })
	defer late.Stop()
	return a.spool.Attach(ctx, began)
}

// tellSpool logs a change of the spool's health and returns the new one.
func (a *agent) tellSpool(err error, last string) string {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == last:
	case text == "":
		a.log.Info("the spool is in order again", "dir", a.now().config.Spool.Dir)
	default:
		a.log.Error("windows are kept in memory until the spool can be written (see spool.dir)", "dir", a.now().config.Spool.Dir, "error", text)
	}
	return text
}

// storeLast makes one more attempt to get windows out of memory onto disk.
// What cannot be written is in the error of the spool's Close. A window that waits for
// the disk comes first: it may be in no memory but its own.
func (a *agent) storeLast() {
	if a.unanswered != nil {
		<-a.unanswered
	}
	if a.spool.Attached() {
		a.spool.Maintain(time.Now())
	} else {
		a.spool.Attach(context.Background(), time.Now())
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"sluice/listeners"
)

// readWithin is how long whoever asks over HTTP for something on the disk waits for a
// sign of life from there. It is shorter than the patience of our own commands.
const readWithin = 8 * time.Second

// maxReads is how many such questions are under way. Of a disk that hangs so many
// goroutines wait, and no more, until it answers.
const maxReads = 4

// diskReads are the questions under way. What asks for none waits as long as the disk does.
type diskReads chan struct{}

// errNoAnswer: the disk has not answered.
var errNoAnswer = errors.New("the disk has not answered")

// ask has do read the disk. It is abandoned, with errNoAnswer, when it has not called
// step or returned for readWithin; its context is done then.
func ask[T any](ctx context.Context, reads diskReads, do func(ctx context.Context, step func()) (T, error)) (nothing T, err error) {
	if reads == nil {
		return do(ctx, func() {})
	}
	began := time.Now()
	noAnswer := func(since time.Time) (T, error) {
		return nothing, fmt.Errorf("%w since %s", errNoAnswer, since.UTC().Format(time.TimeOnly+"Z"))
	}
	late := time.NewTimer(readWithin)
	defer late.Stop()
	select {
	case reads <- struct{}{}:
	case <-ctx.Done():
		return nothing, ctx.Err()
	case <-late.C:
		return noAnswer(began)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	var last atomic.Int64 // when there was a sign of life, since began
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-reads }()
		var a answer
		a.value, a.err = do(ctx, func() { last.Store(int64(time.Since(began))) })
		answers <- a
	}()
	for {
		select {
		case a := <-answers:
			return a.value, a.err
		case <-ctx.Done():
			return nothing, ctx.Err()
		case <-late.C:
		}
		alive := began.Add(time.Duration(last.Load()))
		left := time.Until(alive.Add(readWithin))
		if left <= 0 {
			return noAnswer(alive)
		}
		late.Reset(left)
	}
}

// spoolError answers that something of the spool could not be had.
func spoolError(w http.ResponseWriter, err error) {
	if errors.Is(err, errNoAnswer) {
		listeners.HTTPError(w, http.StatusServiceUnavailable, "disk", err.Error())
		return
	}
	listeners.HTTPError(w, http.StatusConflict, "spool", err.Error())
}

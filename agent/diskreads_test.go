package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A disk that hangs holds as many goroutines as there may be questions, and nobody who
// asks. One that is slow, and shows it, is waited for.
func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, answer := make(diskReads, maxReads), make(chan bool)
		var running atomic.Int64
		hang := func(context.Context, func()) (int, error) { running.Add(1); <-answer; return 1, nil }
		for range 3 * maxReads {
			began := time.Now()
			if n, err := ask(t.Context(), reads, hang); n != 0 || !errors.Is(err, errNoAnswer) {
				t.Fatalf("ask() = %d, %v, want no answer", n, err)
			}
			if took := time.Since(began); took != readWithin {
				t.Errorf("whoever asked was told after %v, want %v", took, readWithin)
			}
		}
		if n := running.Load(); n != maxReads {
			t.Errorf("%d questions wait for the disk, want %d", n, maxReads)
		}
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		if _, err := ask(gone, reads, hang); !errors.Is(err, context.Canceled) {
			t.Errorf("ask() = %v for one who has gone, want that", err)
		}
		close(answer)
		synctest.Wait()
		slow := func(_ context.Context, step func()) (int, error) {
			for range 10 {
				time.Sleep(readWithin - time.Second)
				step()
			}
			return 2, nil
		}
		if n, err := ask(t.Context(), reads, slow); n != 2 || err != nil {
			t.Errorf("ask() = %d, %v, want 2", n, err)
		}
		told := make(chan error, 1)
		_, err := ask(t.Context(), reads, func(ctx context.Context, _ func()) (int, error) { <-ctx.Done(); told <- ctx.Err(); return 0, nil })
		if !errors.Is(err, errNoAnswer) {
			t.Errorf("ask() = %v, want no answer", err)
		}
		if err := <-told; err == nil {
			t.Error("what was abandoned was not told")
		}
		synctest.Wait()
		if len(reads) != 0 {
			t.Errorf("%d questions are still under way", len(reads))
		}
	})
}

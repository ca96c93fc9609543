package origin

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// sweepEvery is how often what is idle is looked for.
const sweepEvery = time.Minute

// Run looks up what readers ask for until ctx is done.
func (t *Table) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { t.keepSources(ctx) })
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			t.sweep(time.Now().UnixNano())
			continue
		case q := <-t.questions:
			t.look(t.batch(q))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookPause):
		}
	}
}

// batch is a question and those that wait behind it, each once.
func (t *Table) batch(q question) []question {
	seen := map[question]bool{q: true}
	all := []question{q}
	for len(all) < lookBatch {
		select {
		case q = <-t.questions:
			if !seen[q] {
				seen[q] = true
				all = append(all, q)
			}
			continue
		default:
		}
		break
	}
	return all
}

// look answers questions, and has the sources asked if they may know more.
func (t *Table) look(all []question) {
	t.mu.Lock()
	o := t.options
	t.mu.Unlock()
	if !o.Detect {
		return
	}
	refs := make([]ref, len(all))
	gone := make([]bool, len(all))
	for i, q := range all {
		if q.pid == 0 {
			refs[i] = claimRef(q.claim)
			continue
		}
		refs[i], gone[i] = processRef(o.Proc, q.pid)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now().UnixNano()
	missing := false
	for i, q := range all {
		r := t.recordLocked(q)
		t.stats.Looked++
		if !gone[i] || r.answer == nil { // what is still queued of one that has ended is its own
			r.ref = refs[i]
		}
		missing = !t.answerLocked(r, now) || missing
	}
	t.publishLocked()
	if missing {
		select {
		case t.need <- struct{}{}:
		default:
		}
	}
}

// recordLocked returns the record of what is asked for, making one and room for it.
func (t *Table) recordLocked(q question) *record {
	r := t.book.processes[q.pid]
	if q.pid == 0 {
		r = t.book.claims[q.claim]
	}
	if r != nil {
		return r
	}
	r = new(record)
	if q.pid == 0 {
		t.stats.Evicted += uint64(crowd(t.book.claims))
		t.book.claims[q.claim] = r
	} else {
		t.stats.Evicted += uint64(crowd(t.book.processes))
		t.book.processes[q.pid] = r
	}
	return r
}

// answerLocked makes a record's answer from what the sources say, and tells whether
// that is all there may be to say.
func (t *Table) answerLocked(r *record, now int64) (complete bool) {
	tags, complete := t.sources.tags(r.ref, &t.options)
	r.note(t.book.number(tags, now), now)
	return complete
}

func (t *Table) sweep(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.book.sweep(now)
	t.publishLocked()
}

// maxCgroup bounds /proc/PID/cgroup: a dozen lines, of which each has a path of at most
// 4 KiB.
const maxCgroup = 64 << 10

// processRef asks in which container a process is. gone says that there is none.
func processRef(proc string, pid int32) (r ref, gone bool) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(int(pid)), "cgroup"))
	if err != nil {
		return ref{}, errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	file, err := io.ReadAll(io.LimitReader(f, maxCgroup))
	if err != nil { // ESRCH: it ended just now
		return ref{}, true
	}
	return cgroupRef(file), false
}

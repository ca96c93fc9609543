package forwarder

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// spoil damages the content of a batch on disk, under the running spool.
func (r *rig) spoil(seq uint64) {
	r.t.Helper()
	path := filepath.Join(r.storage.Dir, "outbox.db")
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	key := append(binary.BigEndian.AppendUint64(nil, seq), 1, 0, 0, 0) // and what the value begins with
	found := 0
	for at := 0; ; at += len(key) {
		n := bytes.Index(b[at:], key)
		if n < 0 {
			break
		}
		at += n
		if _, err := f.WriteAt([]byte{^b[at+len(key)+8]}, int64(at+len(key)+8)); err != nil {
			r.t.Fatal(err)
		}
		found++
	}
	if found == 0 {
		r.t.Fatalf("batch %d is nowhere in %s", seq, path)
	}
}

// A batch in doubt that cannot be read any more is given up, and what comes after it
// is delivered.
func TestDoubtDamaged(t *testing.T) {
	simulate(t, testOptions(), fluxtest.Options{Dialect: fluxtest.Hosted}, func(t *testing.T, r *rig) {
		r.loseAnswer()
		r.count(time.Now(), "a", "", 1)
		r.next()
		r.run(10 * time.Second)
		if l := r.ledger(); l.InDoubt[1].Samples != 1 {
			t.Fatalf("ledger: %+v, want a sample in doubt", l)
		}
		r.spoil(r.f.outbox.Batches()[0].Seq)
		r.run(5 * time.Minute)
		r.count(time.Now(), "b", "", 1)
		r.next()
		r.run(5 * time.Minute)
		if got, _ := r.flux.CounterTotal("b").Whole(); got == nil || got.Int64() != 1 {
			t.Errorf("total of what came later = %v, want 1", got)
		}
		if l := r.settled(); l.Dropped["damaged"] != (spool.Amounts{0: {Items: 1}, 1: {Samples: 1, Items: 1}}) {
			t.Errorf("dropped: %v, want the batch, as damaged", l.Dropped)
		}
	})
}

// What waits in a trial and cannot be read any more is given up, and the trial ends.
func TestTrialDamaged(t *testing.T) {
	simulate(t, testOptions(), poison(fluxtest.Hosted, 400, "m.bad"), func(t *testing.T, r *rig) {
		r.run(time.Minute)
		r.crowd(300, "m.bad")
		for start := time.Now(); len(r.f.trials) == 0 || r.f.trials[0].wait == 0; {
			if time.Since(start) > time.Hour {
				t.Fatal("there is no trial")
			}
			time.Sleep(max(0, r.f.turn(t.Context())))
		}
		r.spoil(r.f.trials[0].wait)
		r.run(time.Minute)
		r.count(time.Now(), "tick", "", 1)
		r.next()
		r.run(30 * time.Minute)
		if got := r.total("tick"); got != 1 {
			t.Errorf("total of what came later = %d, want 1", got)
		}
		if n := len(r.f.trials); n != 0 {
			t.Errorf("%d trials are still there", n)
		}
		if l := r.settled(); l.Dropped["damaged"][aggregator.Counter].Samples == 0 {
			t.Errorf("dropped: %v, want what was damaged", l.Dropped)
		}
	})
}

package forwarder

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// withoutDisk starts anew on a folder that cannot be made. disk lets it be made.
func (r *rig) withoutDisk() (disk func()) {
	r.t.Helper()
	r.spool.Close()
	file := filepath.Join(r.t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.storage.Dir = filepath.Join(file, "spool")
	r.spool = spool.New(r.storage)
	o := r.options
	o.Transport = r
	r.f = New(o, r.spool)
	return func() {
		if err := os.Remove(file); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Mkdir(file, 0o700); err != nil {
			r.t.Fatal(err)
		}
	}
}

// While nothing can be written, windows go out from memory, once, whatever happens to
// their requests, and within the budget. When the disk is back the books are on it.
func TestStandIn(t *testing.T) {
	eachServer(t, func(t *testing.T, r *rig, verified bool) {
		disk := r.withoutDisk()
		if err := r.spool.Attach(t.Context(), time.Now()); err == nil {
			t.Fatal("Attach succeeded without a disk")
		}
		sent := 0
		count := func(windows int) {
			for range windows {
				sent++
				r.count(time.Now(), "c", "", 1)
				r.gauge(time.Now(), "g", "", float64(sent))
				r.next()
			}
		}
		count(15)
		if verified {
			r.flux.Fault(fluxtest.CommitThenClose())
		}
		count(15)
		r.flux.Pause()
		count(12)
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		count(60)
		r.run(5 * time.Minute)
		if got := r.counted("c"); got != float64(sent) {
			t.Errorf("without a disk upstream's total of c = %v, want %d", got, sent)
		}
		if s := r.spool.Stats(); s.State != "memory" || s.LastSeq != 0 {
			t.Errorf("Stats() = %+v, want memory and no record on disk", s)
		}
		if l := r.settled(); l.Windowed[1].Samples != uint64(sent) || l.Delivered[1].Samples != uint64(sent) {
			t.Errorf("ledger has %d counters windowed and %d delivered, want %d", l.Windowed[1].Samples, l.Delivered[1].Samples, sent)
		}

		disk()
		if err := r.spool.Attach(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		count(30)
		if err := r.spool.Maintain(time.Now()); err != nil {
			t.Fatal(err)
		}
		if r.spool.StandIn() != nil {
			t.Error("windows still go out from memory")
		}
		r.restart()
		r.run(5 * time.Minute)
		if got := r.counted("c"); got != float64(sent) {
			t.Errorf("with the disk back upstream's total of c = %v, want %d", got, sent)
		}
		if l := r.settled(); l.Windowed[1].Samples != uint64(sent) || l.Delivered[1].Samples != uint64(sent) {
			t.Errorf("ledger on disk has %d counters windowed and %d delivered, want %d", l.Windowed[1].Samples, l.Delivered[1].Samples, sent)
		}
	})
}

// The budget is the upstream's, whoever sends: neither the disk's coming back nor
// its going starts a new one. The fake fails the test for an 11th request in 60 s.
func TestStandInRate(t *testing.T) {
	o := testOptions()
	o.ItemsPerRequest = 21
	simulate(t, o, fluxtest.Options{}, func(t *testing.T, r *rig) {
		sent := 0
		count := func(windows int) {
			for range windows {
				for i := range 60 {
					r.count(time.Now(), "c", "id:"+string(rune('A'+i)), 1)
					sent++
				}
				r.next()
			}
		}
		count(12)
		disk := r.withoutDisk()
		_ = r.spool.Attach(t.Context(), time.Now()) // it fails
		count(25)
		o := r.options // as a reload does: another forwarder takes over
		o.Transport = r
		r.f = New(o, r.spool)
		count(25)
		disk()
		if err := r.spool.Attach(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		count(40)
		r.run(time.Hour)
		r.settled()
		// What waited on the disk that went away is not looked at.
		if got := r.counted("c"); got < float64(sent-12*60) || got > float64(sent) {
			t.Errorf("upstream's total of c = %v, want %d to %d", got, sent-12*60, sent)
		}
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("at most %d requests in 60 s, want 10: the law must be met at its limit", got)
		}
	})
}

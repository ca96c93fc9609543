package forwarder

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// skip uses up sequences of batches.
func (r *rig) skip(n int) {
	r.t.Helper()
	if err := r.f.outbox.Update(func(tx *spool.Tx) error {
		for range n {
			b := &spool.Batch{Lane: spool.Metrics}
			tx.Seal(b)
			tx.Settle(b.Seq, spool.Settlement{To: spool.Dropped, Reason: "test"})
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// Two agents that have the same identity, because the disk of one is a copy of the
// other's, put their markers into the same series. One whose answer was lost, and that
// finds a later marker of the other in its slot, knows nothing: it must not take its
// batch for absent and send it twice.
func TestMarkerOfACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions()
		a := newRig(t, o, fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleRate}})
		b := &rig{source: newSource(t, time.Now()), flux: a.flux, options: o}
		dir := filepath.Join(t.TempDir(), "spool")
		id, err := os.ReadFile(filepath.Join(a.storage.Dir, "agent-id"))
		if err != nil || os.MkdirAll(dir, 0o700) != nil || os.WriteFile(filepath.Join(dir, "agent-id"), id, 0o600) != nil {
			t.Fatal(err)
		}
		b.open(dir)
		t.Cleanup(func() { b.spool.Close() })
		b.skip(64) // it has run for longer
		lost := a.loseAnswer()
		a.count(time.Now(), "a", "", 1)
		b.count(time.Now(), "b", "", 1)
		a.next()
		b.close()
		for range 20 * 60 {
			a.f.turn(t.Context())
			b.f.turn(t.Context())
			time.Sleep(time.Second)
		}
		if *lost != 1 {
			t.Fatalf("%d answers were lost, want 1", *lost)
		}
		if got, _ := a.flux.CounterTotal("a").Whole(); got.Int64() != 1 {
			t.Errorf("total = %v, want 1", got)
		}
		l := a.settled()
		if l.Delivered[1].Samples+l.Dropped["unverified"][1].Samples != 1 {
			t.Errorf("ledger: %+v", l)
		}
	})
}

// How many slots there are follows from the limit of requests. A batch is looked for
// in the slot that it was sealed with, also when a reload has changed the limit since.
func TestMarkerAfterReload(t *testing.T) {
	o := testOptions()
	o.Dialect = Hosted
	simulate(t, o, fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleRate}}, func(t *testing.T, r *rig) {
		r.skip(100)
		lost := r.loseAnswer()
		r.count(time.Now(), "a", "", 1)
		r.next()
		r.run(10 * time.Second)
		if *lost != 1 {
			t.Fatalf("%d answers were lost, want 1", *lost)
		}
		r.options.RequestsPerMinute = 100
		r.restart()
		r.run(10 * time.Minute)
		if got, _ := r.flux.CounterTotal("a").Whole(); got.Int64() != 1 {
			t.Errorf("total = %v, want 1", got)
		}
		if l := r.settled(); l.Delivered[1].Samples != 1 {
			t.Errorf("ledger: %+v, want the sample delivered", l)
		}
	})
}

// A copy of a disk that is started on another machine is another agent: it does not
// take the marker of the one it was copied from for its own.
func TestMarkerOfAnotherMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, testOptions(), fluxtest.Options{Allow: []fluxtest.Rule{fluxtest.RuleRate}})
		a.storage.Machine = "one"
		a.restart()
		a.count(time.Now(), "before", "", 1)
		a.next()
		a.run(5 * time.Minute)
		b := &rig{source: newSource(t, time.Now()), flux: a.flux, options: a.options}
		b.storage.Machine = "another"
		b.open(a.image())
		t.Cleanup(func() { b.spool.Close() })
		lost := 0
		a.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost && lost == 0 {
				lost++
				httptrace.ContextClientTrace(req.Context()).WroteHeaders()
				return nil, errors.New("cut before it was read")
			}
			return fluxtest.Transport(a.flux.Handler()).RoundTrip(req)
		})
		a.count(time.Now(), "a", "", 1)
		b.count(time.Now(), "b", "", 1)
		a.next()
		b.close()
		for range 20 * 60 {
			a.f.turn(t.Context())
			b.f.turn(t.Context())
			time.Sleep(time.Second)
		}
		for _, name := range []string{"a", "b"} {
			if got, _ := a.flux.CounterTotal(name).Whole(); got.Int64() != 1 {
				t.Errorf("total of %s = %v, want 1", name, got)
			}
		}
		a.settled()
		b.settled()
	})
}

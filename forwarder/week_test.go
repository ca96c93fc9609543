package forwarder

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// An outage for which the spool is too small: what waits in it is rolled up on
// disk, and then, while new windows keep coming, delivered in less time than a
// seventh of the outage, or two hours. Nothing may be lost, and every counter, count
// and sum is exact upstream.
//
// SLUICE_DRAIN_HOURS, SLUICE_DRAIN_SERIES and SLUICE_DRAIN_MIB set how long, how
// many series (of a hundred 80 counters, 10 gauges, 8 distributions with 30
// values a window, 2 sets) and within how much; 168, 2000 and 256 are the week. The budget is that of 10
// requests of 499 items for 2,000 series, and as much of it for fewer.
func TestDrainWeek(t *testing.T) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	hours, series, mib := number("SLUICE_DRAIN_HOURS", 4), number("SLUICE_DRAIN_SERIES", 100), number("SLUICE_DRAIN_MIB", 2)
	began := time.Now()
	o := testOptions()
	o.ItemsPerRequest = max(499*series/2000, 20)
	simulate(t, o, fluxtest.Options{MaxItems: o.ItemsPerRequest, KeepRows: 20_000, Reject: newer(t)}, func(t *testing.T, r *rig) {
		r.storage.MaxBytes = int64(mib) << 20
		r.storage.Coarsen = func(windows [][][]byte) ([][]byte, [spool.Kinds]uint64, [spool.Kinds]uint64, error) {
			return aggregator.Coarsen(10_000, windows)
		}
		r.spool.Close()
		r.open(filepath.Join(t.TempDir(), "spool")) // a new one, of that size
		d := newDrain(r, load{counters: series * 80 / 100, gauges: series * 10 / 100, distributions: series * 8 / 100, sets: series * 2 / 100})
		// So few members that sets stay sets on every rung, see Forwarder.largeSet.
		d.users, d.mute, d.most = series/10, true, 24*time.Hour
		w := watch{drain: d}
		d.each = w.look
		d.steps(18)
		limit := max(2*time.Hour, time.Duration(hours)*time.Hour/7)
		took := d.outage(hours*360, limit, nil)
		if took > limit {
			t.Errorf("drained after %v, want at most %v", took, limit)
		}
		w.exact()
		if w.disk > r.storage.MaxBytes {
			t.Errorf("%d bytes on disk, want at most %d", w.disk, r.storage.MaxBytes)
		}
		if w.rolled == 0 && os.Getenv("SLUICE_DRAIN_HOURS") == "" {
			t.Error("nothing was rolled up on disk: the outage is too short for this spool")
		}
		mb := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
		t.Logf("%d h at %d series drained in %v, at a width of at most %v; %d requests, at most %d in any 60 s; every counter, count, sum and member exact, nothing dropped",
			hours, series, took, w.widest, len(r.flux.Requests()), r.flux.MaxRequestsIn(minute))
		t.Logf("%d windows, %d of them in others that are wider; on disk at most %s of %d; heap at most %s in the outage, %s in the drain (with the fake's)",
			d.windows, w.rolled, mb(w.disk), mib, mb(w.heap[0]), mb(w.heap[1]))
	})
	t.Logf("it took %v", time.Since(began).Round(time.Second))
}

// newer gives a function that takes every row of an upstream, and sees that none
// of a gauge stands in front of one that came before it.
func newer(t *testing.T) func(fluxtest.Row) bool {
	last := make(map[string]fluxtest.Row)
	return func(row fluxtest.Row) bool {
		if row.Name != "g" {
			return false
		}
		before := last[row.Tags["id"]]
		if row.Time.Before(before.Time) && row.Value > before.Value || row.Time.After(before.Time) && row.Value < before.Value {
			t.Errorf("gauge %v at %v is %v, and was %v at %v", row.Tags, row.Time, row.Value, before.Value, before.Time)
		}
		last[row.Tags["id"]] = row
		return false
	}
}

// A watch does what the agent does beside the forwarder, and looks at what the
// drain takes.
type watch struct {
	*drain
	disk   int64
	heap   [2]int64 // in the outage, after it
	widest time.Duration
	rolled uint64
}

func (w *watch) look() {
	w.t.Helper()
	now := time.Now()
	if err := w.spool.Maintain(now); err != nil {
		w.t.Fatal(err)
	}
	for done := true; done; {
		var err error
		if done, err = w.spool.RollUp(w.t.Context(), now); err != nil {
			w.t.Fatal(err)
		}
	}
	w.rolled = w.spool.Stats().RolledUp
	w.widest = max(w.widest, w.f.Stats(now).BacklogWidth)
	w.disk = max(w.disk, w.used())
	if w.windows%50 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		i := 1
		if w.away {
			i = 0
		}
		w.heap[i] = max(w.heap[i], int64(m.HeapInuse))
	}
}

// used is the size of all files in the spool's folder.
func (w *watch) used() (n int64) {
	w.t.Helper()
	err := filepath.WalkDir(w.storage.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// exact demands that all has arrived, once.
func (w *watch) exact() {
	w.t.Helper()
	books := w.settled()
	for kind := range books.Windowed {
		if got, want := books.Delivered[kind].Samples, books.Windowed[kind].Samples; got != want {
			w.t.Errorf("%d samples of %s are delivered, want all %d; dropped %v", got, aggregator.Kind(kind), want, books.Dropped)
		}
	}
	for i, want := range w.counted {
		if got, _ := w.flux.CounterTotal("c", fmt.Sprintf("id:%d", i)).Whole(); got.Int64() != want {
			w.t.Fatalf("upstream's total of counter %d = %v, want %d", i, got, want)
		}
	}
	for i := range w.distributions {
		id := fmt.Sprintf("id:%d", i)
		if got, want := w.flux.CounterTotal("d.count", id).Float, float64(30*w.windows); got != want {
			w.t.Errorf("upstream's count of distribution %d = %v, want %v", i, got, want)
		}
		if got, want := w.flux.CounterTotal("d.sum", id).Float, float64(29*30/2*w.windows); got != want {
			w.t.Errorf("upstream's sum of distribution %d = %v, want %v", i, got, want)
		}
	}
	for i := range w.gauges {
		if got, _ := w.flux.GaugeLast("g", fmt.Sprintf("id:%d", i)); got.Value != float64(w.windows-1) {
			w.t.Errorf("upstream's gauge %d is %v in the end, want %d", i, got.Value, w.windows-1)
		}
	}
	for i := range w.sets {
		if got := len(w.flux.SetMembers("s", fmt.Sprintf("id:%d", i))); got != w.members {
			w.t.Errorf("upstream has %d members of set %d, want %d", got, i, w.members)
		}
	}
}

package forwarder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/aggregator"
	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

func TestMain(m *testing.M) {
	// The tests commit some ten thousand transactions; that they survive a power
	// cut is for the spool's tests to show. In memory the syncs cost nothing.
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	if err := warm(); err != nil {
		fmt.Fprintln(os.Stderr, "warm up:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// warm has the compression library make its channels, which it does when it is
// first used: one that is made inside a synctest bubble is of no use outside.
func warm() error {
	dir, err := os.MkdirTemp("", "sluice-forwarder")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	now := time.Now()
	s := spool.New(spool.Options{Dir: dir})
	o := s.Outbox("warm")
	if err := s.Attach(context.Background(), now); err != nil {
		return err
	}
	b := &spool.Batch{Lane: spool.Metrics, Sealed: now, Due: now, Items: []spool.Item{{Len: 2}}, Body: []byte("{}")}
	if err := o.Update(func(tx *spool.Tx) error { tx.Seal(b); return nil }); err != nil {
		return err
	}
	if _, ok := o.Due(now); !ok {
		return errors.New("the batch that was sealed is not there")
	}
	agg := aggregator.New(aggregator.Options{Interval: interval, MaxSeries: 1, MaxSetMembers: 1}, now)
	agg.Intake(plain{}).Add(now.UnixNano(), []aggregator.Sample{{Head: []byte("warm"), Kind: aggregator.Counter, Value: 1}})
	for _, w := range agg.Rotate(now) {
		var parts [][]byte
		for p := range w.Parts() {
			parts = append(parts, bytes.Clone(p))
		}
		r, err := aggregator.OpenReader(parts...)
		if err != nil {
			return err
		}
		for range aggregator.Merge(1, nil, r).All() {
		}
	}
	return s.Close()
}

// interval is the width of the windows of tests.
const interval = 10 * time.Second

// allScalars are those of the default configuration.
var allScalars = []string{"count", "sum", "min", "max", "p50", "p95", "p99"}

// plain is the spelling of tests: Head is the name, Tags are k:v,k:v.
type plain struct{}

func (plain) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	for tag := range bytes.SplitSeq(s.Tags, []byte(",")) {
		k, v, _ := bytes.Cut(tag, []byte(":"))
		dst.Tag(k, v)
	}
	return aggregator.Taken
}

// A source makes windows out of samples.
type source struct {
	t      testing.TB
	agg    *aggregator.Aggregator
	intake *aggregator.Intake
}

func newSource(t testing.TB, now time.Time) *source {
	agg := aggregator.New(aggregator.Options{
		Interval: interval, MaxLateness: time.Hour, MaxSeries: 100_000, MaxSetMembers: 10_000,
	}, now)
	return &source{t, agg, agg.Intake(plain{})}
}

func (s *source) add(now time.Time, sample aggregator.Sample, name, tags string) {
	s.t.Helper()
	sample.Head, sample.Tags = []byte(name), []byte(tags)
	if marked := s.intake.Add(now.UnixNano(), []aggregator.Sample{sample}); marked != 0 {
		s.t.Fatalf("Add(%s) marked %d samples, want 0", name, marked)
	}
}

func (s *source) count(now time.Time, name, tags string, n int64) {
	s.t.Helper()
	s.add(now, aggregator.Sample{Kind: aggregator.Counter, Flags: aggregator.Whole, Whole: n}, name, tags)
}

func (s *source) gauge(now time.Time, name, tags string, v float64) {
	s.t.Helper()
	s.add(now, aggregator.Sample{Kind: aggregator.Gauge, Value: v}, name, tags)
}

func (s *source) measure(now time.Time, name, tags string, v, weight float64) {
	s.t.Helper()
	s.add(now, aggregator.Sample{Kind: aggregator.Distribution, Value: v, Weight: weight}, name, tags)
}

func (s *source) member(now time.Time, name, tags, m string) {
	s.t.Helper()
	s.add(now, aggregator.Sample{Kind: aggregator.Set, Member: []byte(m)}, name, tags)
}

// A rig is a source, a spool in a folder, a forwarder and the upstream it
// delivers to. It drives the forwarder turn by turn, so inside a synctest bubble
// all that happens is in one order.
type rig struct {
	*source
	flux    *fluxtest.Server
	options Options
	storage spool.Options
	hook    http.RoundTripper // in place of the way to flux, if set
	spool   *spool.Spool
	f       *Forwarder
}

func testOptions() Options {
	return Options{
		Interval: interval, CatchUp: 15 * time.Minute,
		Name: "flux", Type: Flux, URL: "http://flux.test", Key: fluxtest.Key, Version: "test",
		RequestsPerMinute: 10, ItemsPerRequest: 499, Timeout: 120 * time.Second,
		Verify: true, Settle: time.Minute, Points: fewPoints, Scalars: allScalars, MaxSetMembers: 10_000,
	}
}

// newRig makes a rig whose forwarder has not done anything yet.
func newRig(t *testing.T, o Options, f fluxtest.Options) *rig {
	t.Helper()
	f.InProcess = true
	if f.MaxItems == 0 {
		f.MaxItems = 499
	}
	r := &rig{source: newSource(t, time.Now()), flux: fluxtest.New(t, f), options: o}
	r.open(filepath.Join(t.TempDir(), "spool"))
	t.Cleanup(func() { r.spool.Close() })
	return r
}

// RoundTrip lets the forwarder reach the upstream, or a test stand in between.
func (r *rig) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.hook != nil {
		return r.hook.RoundTrip(req)
	}
	return fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// loseAnswer lets the answer to the first batch that is sent in a known dialect get
// lost, once the upstream has stored it. It gives how many were lost.
func (r *rig) loseAnswer() (lost *int) {
	lost = new(int)
	r.hook = roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := fluxtest.Transport(r.flux.Handler()).RoundTrip(req)
		if req.Method == http.MethodPost && r.f.contact.dialect != "" && *lost == 0 {
			*lost++
			return nil, errors.New("the answer is lost")
		}
		return resp, err
	})
	return lost
}

// open makes spool and forwarder on a folder, as a start of the agent does.
func (r *rig) open(dir string) {
	r.t.Helper()
	r.storage.Dir = dir
	r.spool = spool.New(r.storage)
	o := r.options
	o.Transport = r
	r.f = New(o, r.spool)
	if err := r.spool.Attach(r.t.Context(), time.Now()); err != nil {
		r.t.Fatalf("Attach: %v", err)
	}
}

// image copies the spool's folder as it stands on disk at this moment.
func (r *rig) image() string {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "spool")
	if err := os.CopyFS(dir, os.DirFS(r.storage.Dir)); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// crash starts anew from what is on disk, or from an image made before. Nothing
// of the old process gets to say a last word in it.
func (r *rig) crash(dir ...string) {
	r.t.Helper()
	if len(dir) > 0 {
		r.spool.Close()
		r.open(dir[0])
		return
	}
	image, old := r.image(), r.storage.Dir
	r.spool.Close()
	r.open(image)
	if err := os.RemoveAll(old); err != nil { // a test of days has thousands
		r.t.Error(err)
	}
}

// restart stops and starts cleanly.
func (r *rig) restart() {
	r.t.Helper()
	if err := r.spool.Close(); err != nil {
		r.t.Fatalf("Close: %v", err)
	}
	r.open(r.storage.Dir)
}

// run lets the forwarder work for d.
func (r *rig) run(d time.Duration) {
	r.t.Helper()
	end := time.Now().Add(d)
	for turns := 0; time.Now().Before(end); turns++ {
		if turns > 100_000 {
			r.t.Fatalf("%d turns and only %v of %v are over: the forwarder does not wait", turns, d-time.Until(end), d)
		}
		if wait := r.f.turn(r.t.Context()); wait > 0 {
			time.Sleep(min(wait, time.Until(end)))
		}
	}
}

// close ends the open window and appends it.
func (r *rig) close() {
	r.t.Helper()
	now := time.Now()
	for _, w := range r.agg.Rotate(now) {
		m := spool.Meta{ID: w.ID, Start: w.Start, Width: w.Width, Absent: w.Absent, Flags: w.Flags(),
			Samples: w.Samples, Series: w.Series, Accepted: r.agg.Stats().Accepted}
		if _, err := r.spool.Append(now, m, w.Parts()); err != nil {
			r.t.Fatalf("Append: %v", err)
		}
		w.Release()
	}
}

// next lets the forwarder work up to the end of the open window, and closes that.
func (r *rig) next() {
	r.t.Helper()
	r.run(time.Until(r.agg.Ends()))
	r.close()
}

// ledger demands that the books balance.
func (r *rig) ledger() spool.Ledger {
	r.t.Helper()
	l := r.f.outbox.Ledger()
	if l.ConservationError != 0 {
		r.t.Errorf("ledger does not balance by %d: %+v", l.ConservationError, l)
	}
	return l
}

// settled demands that nothing waits any more.
func (r *rig) settled() spool.Ledger {
	r.t.Helper()
	l := r.ledger()
	for _, b := range r.f.outbox.Batches() {
		r.t.Errorf("batch %d is still there: state %d, due %v, %d attempts; %s", b.Seq, b.State, b.Due, b.Attempts, r.f.Stats(time.Now()).LastError)
	}
	for k, n := range l.Pending {
		if n.Samples != 0 {
			r.t.Errorf("%d samples of %s are still pending", n.Samples, aggregator.Kind(k))
		}
	}
	return l
}

// A tally knows what was put into windows, to compare with what the upstream has.
type tally struct {
	windows []time.Time // starts
	counted int64
	values  float64
	sum     float64
	members []string
}

// traffic puts some of every kind into the open window.
func (r *rig) traffic(w *tally) {
	now := time.Now()
	i := len(w.windows)
	for tag := range 3 {
		n := int64(1 + i*3 + tag)
		r.count(now, "req", fmt.Sprintf("route:r%d", tag), n)
		w.counted += n
	}
	r.gauge(now, "temp", "room:a", float64(i)-2.5)
	for v := range 5 {
		r.measure(now, "lat", "", float64(v+i), 2)
		w.values += 2
		w.sum += 2 * float64(v+i)
	}
	for v := range 300 {
		r.measure(now, "busy", "", float64(v+1), 1)
	}
	for _, m := range []string{fmt.Sprint("u", i), fmt.Sprint("u", i+1)} {
		r.member(now, "users", "", m)
		w.members = append(w.members, m)
	}
	slices.Sort(w.members)
	w.members = slices.Compact(w.members)
	w.windows = append(w.windows, r.agg.Ends().Add(-interval))
}

// An effect is what became of data at the upstream, per kind, in windows'
// worth: of a window's counters all or nothing arrives, as they are in one batch.
type effect struct{ lost, doubled int }

func (e effect) String() string { return fmt.Sprintf("%d lost, %d doubled", e.lost, e.doubled) }

// exact demands that the upstream has everything, once.
func (r *rig) exact(w *tally) {
	r.t.Helper()
	l := r.settled()
	total := r.flux.CounterTotal("req")
	if got, ok := total.Whole(); !ok || got.Int64() != w.counted {
		r.t.Errorf("upstream's total of req = %v, want %d", total.Exact, w.counted)
	}
	if got := r.flux.CounterTotal("lat.count").Float; got != w.values {
		r.t.Errorf("upstream's total of lat.count = %v, want %v", got, w.values)
	}
	if got := r.flux.CounterTotal("lat.sum").Float; got != w.sum {
		r.t.Errorf("upstream's total of lat.sum = %v, want %v", got, w.sum)
	}
	if got, want := len(r.flux.Points("lat")), 5*len(w.windows); got != want {
		r.t.Errorf("upstream has %d points of lat, want %d", got, want)
	}
	if got, want := len(r.flux.Points("busy")), fewPoints*len(w.windows); got != want {
		r.t.Errorf("upstream has %d points of busy, want %d", got, want)
	}
	if got := r.flux.CounterTotal("busy.count").Float; got != float64(300*len(w.windows)) {
		r.t.Errorf("upstream's total of busy.count = %v, want %d", got, 300*len(w.windows))
	}
	last, _ := r.flux.GaugeLast("temp", "room:a")
	if want := float64(len(w.windows)-1) - 2.5; last.Value != want || !last.Time.Equal(w.windows[len(w.windows)-1]) {
		r.t.Errorf("upstream's last temp = %v at %v, want %v at %v", last.Value, last.Time, want, w.windows[len(w.windows)-1])
	}
	if r.f.contact.dialect == Hosted {
		if got := r.flux.SetMembers("users"); !slices.Equal(got, w.members) {
			r.t.Errorf("upstream has members %v, want %v", got, w.members)
		}
	} else if got := len(r.flux.RowsOf("users.unique")); got != len(w.windows) {
		r.t.Errorf("upstream has %d rows of users.unique, want %d", got, len(w.windows))
	}
	if got := r.flux.Duplicates(); len(got) > 0 {
		r.t.Errorf("%d counters were stored twice, the first %+v", len(got), got[0])
	}
	for k := range l.Windowed {
		if got, want := l.Delivered[k].Samples, l.Windowed[k].Samples; got != want {
			r.t.Errorf("ledger has %d samples of %s delivered, want all %d", got, aggregator.Kind(k), want)
		}
	}
}

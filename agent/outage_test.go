package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// nameOnly is the spelling of samples whose head is their name.
type nameOnly struct{}

func (nameOnly) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	return aggregator.Taken
}

// TestOutageOnDisk has an upstream that takes nothing for as long as it lasts,
// in simulated time, on the real aggregator and spool: the spool must stay
// within max_bytes by making pending windows coarser, drop nothing, and what is
// read back in the end must be every counter's exact total.
//
// SLUICE_OUTAGE_HOURS, SLUICE_OUTAGE_SERIES and SLUICE_OUTAGE_MIB set how long, how many series
// and within how much; without them it is a small outage in a small spool.
func TestOutageOnDisk(t *testing.T) {
	t.Parallel()
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	hours, series, mib := number("SLUICE_OUTAGE_HOURS", 5), number("SLUICE_OUTAGE_SERIES", 300), number("SLUICE_OUTAGE_MIB", 2)
	options := spool.Options{
		Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: int64(mib) << 20,
		Coarsen: func(windows [][][]byte) ([][]byte, [spool.Kinds]uint64, [spool.Kinds]uint64, error) {
			return aggregator.Coarsen(10_000, windows)
		},
	}
	s := spool.New(options)
	box := s.Outbox("flux")
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Attach(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 100_000, MaxSetMembers: 10_000}, now)
	load := newLoad(a.Intake(nameOnly{}), series)

	var most int64
	var heap uint64
	windows := 0
	for end := now.Add(time.Duration(hours) * time.Hour); now.Before(end); {
		load.send(t, now)
		now = now.Add(10 * time.Second)
		for _, w := range a.Rotate(now) {
			m := spool.Meta{ID: w.ID, Start: w.Start, Width: w.Width, Flags: w.Flags(), Absent: w.Absent, Samples: w.Samples, Series: w.Series}
			if seq, err := s.Append(now, m, w.Parts()); seq == 0 || err != nil {
				t.Fatalf("Append = %d, %v: %+v", seq, err, s.Stats())
			}
			w.Release()
			windows++
		}
		if err := s.Maintain(now); err != nil {
			t.Fatal(err)
		}
		for {
			done, err := s.RollUp(t.Context(), now)
			if err != nil {
				t.Fatal(err)
			}
			if !done {
				break
			}
		}
		most = max(most, s.Stats().Bytes)
		if windows%1000 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = max(heap, m.HeapInuse)
		}
	}

	st := s.Stats()
	books := box.Ledger()
	if most > options.MaxBytes || st.Evicted > 0 || len(books.Dropped) > 0 || books.ConservationError != 0 {
		t.Errorf("%d bytes at most of %d, %d segments evicted, dropped %v, error %d", most, options.MaxBytes, st.Evicted, books.Dropped, books.ConservationError)
	}
	load.check(t, s, box)
	t.Logf("%d h at %d series: %d windows in %d records, %.1f MiB on disk, at most %.1f of %d; at most %d MiB of heap; every counter exact",
		hours, series, windows, st.Records, float64(st.Bytes)/(1<<20), float64(most)/(1<<20), mib, heap>>20)
}

// A load sends the same series for every window: of a hundred 80 counters, 10
// gauges, 8 distributions with 20 values each, and 2 sets.
type load struct {
	in       *aggregator.Intake
	samples  []aggregator.Sample
	rounds   int
	counters map[string]int64 // what was counted, by name
	taken    [aggregator.Kinds]uint64
}

func newLoad(in *aggregator.Intake, series int) *load {
	l := &load{in: in, counters: map[string]int64{}}
	for i := range series {
		sample := aggregator.Sample{Kind: aggregator.Counter, Head: fmt.Appendf(nil, "service.%d.requests.by.route", i), Flags: aggregator.Whole}
		n := 1
		switch r := i % 100; {
		case r >= 98:
			sample.Kind = aggregator.Set
		case r >= 90:
			sample.Kind, n = aggregator.Distribution, 20
		case r >= 80:
			sample.Kind = aggregator.Gauge
		}
		for range n {
			l.samples = append(l.samples, sample)
		}
	}
	return l
}

func (l *load) send(t *testing.T, now time.Time) {
	l.rounds++
	for i := range l.samples {
		s := &l.samples[i]
		x := uint64(i*7919+l.rounds*104729) * 0x9E3779B97F4A7C15 >> 40 // 24 bits
		switch s.Kind {
		case aggregator.Counter:
			s.Whole = int64(x % 1000)
			l.counters[string(s.Head)] += s.Whole
		case aggregator.Gauge:
			s.Value = float64(x % 100)
		case aggregator.Distribution:
			s.Value = math.Exp(float64(x)/(1<<24)*4) * 10
		case aggregator.Set:
			s.Member = fmt.Appendf(nil, "user-%d", x%500)
		}
		l.taken[s.Kind]++
	}
	if refused := l.in.Add(now.UnixNano(), l.samples); refused != 0 {
		t.Fatalf("%d samples were refused", refused)
	}
}

// check reads all that is owed, as a forwarder would.
func (l *load) check(t *testing.T, s *spool.Spool, box *spool.Outbox) {
	got := map[string]int64{}
	var taken [aggregator.Kinds]uint64
	for _, r := range box.Pending() {
		for _, e := range s.Entries(r) {
			parts, err := s.Read(e.Seqs.From)
			if err != nil {
				t.Fatal(err)
			}
			reader, err := aggregator.OpenReader(parts...)
			if err != nil {
				t.Fatal(err)
			}
			m := aggregator.Merge(10_000, nil, reader)
			for series, v := range m.All() {
				taken[series.Kind()] += v.Samples()
				if series.Kind() == aggregator.Counter {
					n, err := strconv.ParseInt(string(v.AppendTotal(nil)), 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					got[series.Name()] += n
				}
			}
			if m.Err() != nil {
				t.Fatal(m.Err())
			}
		}
	}
	if taken != l.taken {
		t.Errorf("%v samples are in the spool, %v were sent", taken, l.taken)
	}
	var wrong bytes.Buffer
	for name, want := range l.counters {
		if got[name] != want {
			fmt.Fprintf(&wrong, "%s is %d, want %d; ", name, got[name], want)
		}
	}
	if wrong.Len() > 0 {
		t.Errorf("%.500s", wrong.String())
	}
}

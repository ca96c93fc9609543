//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// books compares what was sent with what the running daemon says it has read
// and what the kernel says it dropped: nothing may be unaccounted for.
func (p *program) books() error {
	s, err := p.status()
	if err != nil {
		return err
	}
	l := s.Listeners[0]
	dropped := uint64(0)
	if p.network == "udp" {
		_, dropped, _ = socket(p.addr)
	}
	p.dropped = dropped
	if l.KernelDropped != dropped {
		return fmt.Errorf("the kernel dropped %d datagrams, the daemon says %d", dropped, l.KernelDropped)
	}
	if l.Packets+dropped != uint64(p.sender.packets) {
		return fmt.Errorf("%d datagrams sent, but %d read and %d dropped", p.sender.packets, l.Packets, dropped)
	}
	if len(l.Rejected) > 0 || dropped == 0 && l.Samples != uint64(p.sender.samples) {
		return fmt.Errorf("%d samples sent, %d taken, rejected %v", p.sender.samples, l.Samples, l.Rejected)
	}
	if wrong := string(s.Ledger["conservation_error"]); wrong != "0" {
		return fmt.Errorf("conservation error %s", wrong)
	}
	return nil
}

// contents compares, after the daemon has stopped, all windows in its spool with
// what was sent, series by series, to the last digit.
func (p *program) contents() error {
	s := spool.New(spool.Options{Dir: filepath.Join(p.dir, "spool")})
	if err := s.Attach(context.Background(), time.Now()); err != nil {
		return err
	}
	defer s.Close()
	var windows []*aggregator.Reader
	for _, e := range s.Entries(spool.Range{From: 0, To: math.MaxUint64}) {
		parts, err := s.Read(e.Seqs.From)
		if err != nil {
			return err
		}
		r, err := aggregator.OpenReader(parts...)
		if err != nil {
			return err
		}
		windows = append(windows, r)
	}
	c := p.sender.corpus
	want := make(map[aggregator.Series]truth, len(c.series))
	for i, t := range c.truths(p.sender.times, p.sender.next) {
		if t.samples > 0 {
			want[c.series[i]] = t
		}
	}
	m := aggregator.Merge(10*maxMember, nil, windows...)
	for series, value := range m.All() {
		t, ok := want[series]
		if !ok {
			return fmt.Errorf("%s: nobody sent it", series)
		}
		delete(want, series)
		if err := t.compare(value); err != nil {
			return fmt.Errorf("%s: %w", series, err)
		}
	}
	if err := m.Err(); err != nil {
		return err
	}
	for series := range want {
		return fmt.Errorf("%d series are missing, such as %s", len(want), series)
	}
	return nil
}

func (t *truth) compare(v *aggregator.Value) error {
	if v.Samples() != t.samples {
		return fmt.Errorf("%d samples, %d were sent", v.Samples(), t.samples)
	}
	sum := float64(t.sum) / 100
	switch v.Kind() {
	case aggregator.Counter:
		if v.Total() != sum {
			return fmt.Errorf("total %v, sent %v", v.Total(), sum)
		}
	case aggregator.Gauge:
		if last := float64(t.last) / 100; v.Last() != last {
			return fmt.Errorf("last %v, sent %v", v.Last(), last)
		}
	case aggregator.Distribution:
		// A sum of hundredths is exact to within the last places.
		if v.Count() != float64(t.samples) || math.Abs(v.Sum()-sum) > 1e-9*sum {
			return fmt.Errorf("count %v, sum %v, sent %d, %v", v.Count(), v.Sum(), t.samples, sum)
		}
	case aggregator.Set:
		if n, exact := v.Unique(); !exact || n != uint64(len(t.members)) {
			return fmt.Errorf("%d members, sent %d", n, len(t.members))
		}
	}
	return nil
}

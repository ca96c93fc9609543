package fluxtest

import (
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
)

// A ledger is what the server holds. Its owner's mutex guards it.
type ledger struct {
	keep   int // rows kept; 0 is all
	rows   []*Row
	byName map[string][]*Row // the same rows, for the read API
	series map[string]*Series
	events []Event
	defs   map[string]*definition
}

// A definition is what GET /api/v1/metrics lists.
type definition struct {
	Name, Type  string
	Tags        map[string]bool
	First, Last time.Time
	Points      int
}

func newLedger(keep int) ledger {
	return ledger{keep: keep, byName: map[string][]*Row{}, series: map[string]*Series{}, defs: map[string]*definition{}}
}

// A Series is what is known of one type, name and tag set, exact also for rows that
// are no longer kept.
type Series struct {
	Name string
	Type string
	Tags map[string]string
	Rows int
	Last Row // the one with the latest timestamp, of equals the one stored last

	sum     *big.Float
	members map[string]bool
}

// sumPrec holds any sum of float64 values exactly: exponents from -1074 to 1023, and
// 2^64 of them (IEEE 754 binary64).
const sumPrec = 1074 + 1024 + 64

// add stores rows. define says whether the call creates definitions.
func (l *ledger) add(rows []Row, now time.Time, define bool) {
	for i := range rows {
		r := &rows[i]
		r.committed = now
		key := r.key()
		s := l.series[key]
		if s == nil {
			s = &Series{Name: r.Name, Type: r.Type, Tags: r.Tags, members: map[string]bool{}, sum: new(big.Float).SetPrec(sumPrec)}
			l.series[key] = s
		}
		r.Tags = s.Tags // one map per series
		s.Rows++
		if s.Rows == 1 || !r.Time.Before(s.Last.Time) {
			s.Last = *r
		}
		if r.Type == "set" {
			s.members[r.Member] = true
		} else {
			s.sum.Add(s.sum, exact(r.Literal, r.Value))
		}
		l.define(r, now, define)
		l.rows = append(l.rows, r)
		l.byName[r.Name] = append(l.byName[r.Name], r)
	}
	for l.keep > 0 && len(l.rows) > l.keep {
		oldest := l.rows[0]
		l.rows = l.rows[1:]
		// Both lists are in order of storing, so the oldest row is first in both.
		l.byName[oldest.Name] = l.byName[oldest.Name][1:]
	}
}

func (l *ledger) define(r *Row, now time.Time, create bool) {
	d := l.defs[r.Name]
	if d == nil {
		if !create {
			return
		}
		d = &definition{Name: r.Name, Type: r.Type, Tags: map[string]bool{}, First: now}
		l.defs[r.Name] = d
	}
	d.Last = now
	d.Points++
	for k := range r.Tags {
		d.Tags[k] = true
	}
}

// exact returns the number as written where that is whole, so that counters past
// 2^53 stay exact, and the float64 otherwise, so that 0.1 is what the client had.
func exact(literal string, v float64) *big.Float {
	if !strings.ContainsAny(literal, ".eE") {
		if n, ok := new(big.Int).SetString(literal, 10); ok {
			return new(big.Float).SetPrec(sumPrec).SetInt(n)
		}
	}
	return new(big.Float).SetPrec(sumPrec).SetFloat64(v)
}

// A Total is an exact sum.
type Total struct {
	Float float64    // nearest to Exact
	Exact *big.Float // whole literals as written, others as float64
	Rows  int
}

// Whole returns the sum as an integer, and whether it is one.
func (t Total) Whole() (*big.Int, bool) {
	n, acc := t.Exact.Int(nil)
	return n, acc == big.Exact
}

// CounterTotal sums the counters of a name over all series that have the tags, given
// as "key:value".
func (s *Server) CounterTotal(name string, tags ...string) Total {
	t := Total{Exact: new(big.Float).SetPrec(sumPrec)}
	for _, sr := range s.seriesOf(name, "counter", tags) {
		t.Exact.Add(t.Exact, sr.sum)
		t.Rows += sr.Rows
	}
	t.Float, _ = t.Exact.Float64()
	return t
}

// GaugeLast returns the row with the latest timestamp among the gauges of a name that
// have the tags; of equal timestamps the one stored last.
func (s *Server) GaugeLast(name string, tags ...string) (Row, bool) {
	var last Row
	found := false
	for _, sr := range s.seriesOf(name, "gauge", tags) {
		later := sr.Last.Time.Compare(last.Time)
		if !found || later > 0 || later == 0 && sr.Last.Request > last.Request ||
			later == 0 && sr.Last.Request == last.Request && sr.Last.Index > last.Index {
			last, found = sr.Last, true
		}
	}
	return last, found
}

// SetMembers returns the distinct members of the sets of a name that have the tags,
// sorted.
func (s *Server) SetMembers(name string, tags ...string) []string {
	all := map[string]bool{}
	for _, sr := range s.seriesOf(name, "set", tags) {
		maps.Copy(all, sr.members)
	}
	return slices.Sorted(maps.Keys(all))
}

// Points returns the values of the distributions (histograms) of a name that have the tags, in
// the order of storing.
func (s *Server) Points(name string, tags ...string) []float64 {
	var vs []float64
	for _, r := range s.RowsOf(name, tags...) {
		if r.Type == "distribution" || r.Type == "histogram" {
			vs = append(vs, r.Value)
		}
	}
	return vs
}

// Rows returns the stored rows in the order of storing.
func (s *Server) Rows() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	rows := make([]Row, len(s.ledger.rows))
	for i, r := range s.ledger.rows {
		rows[i] = *r
	}
	return rows
}

// RowsOf returns the rows of a name that have the tags, in the order of storing.
func (s *Server) RowsOf(name string, tags ...string) []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	var rows []Row
	for _, r := range s.ledger.byName[name] {
		if r.Has(tags...) {
			rows = append(rows, *r)
		}
	}
	return rows
}

// Events returns the stored events in the order of storing.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	return slices.Clone(s.ledger.events)
}

// Series returns every series, sorted by type, name and tags.
func (s *Server) Series() []Series {
	return s.seriesWhere(func(*Series) bool { return true })
}

func (s *Server) seriesOf(name, typ string, tags []string) []Series {
	return s.seriesWhere(func(sr *Series) bool {
		return sr.Name == name && sr.Type == typ && hasTags(sr.Tags, tags)
	})
}

// seriesWhere copies what it returns, so that a sum does not change under its reader.
func (s *Server) seriesWhere(want func(*Series) bool) []Series {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	var keys []string
	for key, sr := range s.ledger.series {
		if want(sr) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var out []Series
	for _, key := range keys {
		sr := *s.ledger.series[key]
		sr.sum = new(big.Float).Copy(sr.sum)
		sr.members = maps.Clone(sr.members)
		out = append(out, sr)
	}
	return out
}

// Undefined returns the names of rows without a definition, sorted. On a self-hosted
// server they show in no list of metrics.
func (s *Server) Undefined() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	var names []string
	for name := range s.ledger.byName {
		if s.ledger.defs[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// A Duplicate is a counter row that was stored again by another call.
type Duplicate struct{ First, Again Row }

// Duplicates returns the counter rows whose name, tags and timestamp equal those of a
// row that another call stored. It is not a violation: a late window may rightly add
// to a bucket. Whether it may is for the test to know.
func (s *Server) Duplicates() []Duplicate {
	type id struct {
		key string
		at  int64
	}
	first := map[id]Row{}
	var ds []Duplicate
	for _, r := range s.Rows() {
		if r.Type != "counter" {
			continue
		}
		k := id{r.key(), r.Time.UnixNano()}
		if f, ok := first[k]; !ok {
			first[k] = r
		} else if f.Request != r.Request {
			ds = append(ds, Duplicate{f, r})
		}
	}
	return ds
}

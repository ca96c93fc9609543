package aggregator

import (
	"bytes"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

// t0 is when tests begin: at a full minute, so windows of any interval are aligned.
var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// plain is the spelling of tests: Head is the name, Tags are k:v,k:v. A head
// that begins with ! is refused.
type plain struct{}

func (plain) Name(dst *Key, s *Sample) Reason {
	if bytes.HasPrefix(s.Head, []byte("!")) {
		return BadName
	}
	dst.SetName(s.Head)
	for tag := range bytes.SplitSeq(s.Tags, []byte(",")) {
		k, v, _ := bytes.Cut(tag, []byte(":"))
		if !dst.Tag(k, v) {
			return TooManyTags
		}
	}
	return Taken
}

func defaults() Options {
	return Options{Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 1000, MaxSetMembers: 100}
}

// sample makes one from name,k:v,k:v.
func sample(kind Kind, spelled string, value float64) Sample {
	head, tags, _ := strings.Cut(spelled, ",")
	return Sample{Kind: kind, Head: []byte(head), Tags: []byte(tags), Value: value}
}

func member(spelled, m string) Sample {
	s := sample(Set, spelled, 0)
	s.Member = []byte(m)
	return s
}

// put adds samples one by one and demands that all are taken.
func put(t testing.TB, in *Intake, now time.Time, samples ...Sample) {
	t.Helper()
	if got := in.Add(now.UnixNano(), samples); got != 0 {
		t.Fatalf("Add(%v) marked %d samples, want 0", samples, got)
	}
}

func clone(parts iter.Seq[[]byte]) (all [][]byte) {
	for p := range parts {
		all = append(all, bytes.Clone(p))
	}
	return all
}

func reader(t testing.TB, parts ...[]byte) *Reader {
	t.Helper()
	r, err := OpenReader(parts...)
	if err != nil {
		t.Fatalf("OpenReader: %v", err)
	}
	return r
}

func readWindow(t testing.TB, w *Window) *Reader {
	t.Helper()
	r := reader(t, clone(w.Parts())...)
	if got, want := r.Len(), w.Len(); got != want {
		t.Fatalf("Reader.Len() = %d, Window.Len() = %d", got, want)
	}
	return r
}

// fixed is a value on its own, with its series.
type fixed struct {
	series Series
	value  Value
}

// append lets a value that was read be written again.
func (v *Value) append(dst []byte) []byte {
	switch v.kind {
	case Counter:
		return v.counter.append(dst)
	case Gauge:
		return v.gauge.append(dst)
	case Distribution:
		return v.dist.append(dst)
	}
	return v.set.append(dst)
}

func encodeAll(values []fixed) [][]byte {
	return clone(encode(func(yield func(Series, appender) bool) {
		for i := range values {
			if !yield(values[i].series, &values[i].value) {
				return
			}
		}
	}, eventList{}.all()))
}

// mergeAll reads everything that is in the readers together. Decoding makes
// new memory for every value, so copies of it stay.
func mergeAll(t testing.TB, maxSetMembers int, after []byte, in ...*Reader) (all []fixed) {
	t.Helper()
	m := Merge(maxSetMembers, after, in...)
	for s, v := range m.All() {
		all = append(all, fixed{s, *v})
	}
	if err := m.Err(); err != nil {
		t.Fatalf("merge of %d windows: %v", len(in), err)
	}
	return all
}

// only is the one value of a series in windows together.
func only(t testing.TB, s Series, windows ...*Window) Value {
	t.Helper()
	var in []*Reader
	for _, w := range windows {
		in = append(in, readWindow(t, w))
	}
	all := mergeAll(t, 100, nil, in...)
	i := slices.IndexFunc(all, func(f fixed) bool { return f.series == s })
	if i < 0 {
		t.Fatalf("%s is not in the windows", s)
	}
	return all[i].value
}

func total(v Value) string { return string(v.AppendTotal(nil)) }

// samplesOf adds up what windows say they hold.
func samplesOf(windows []*Window) (n [Kinds]uint64) {
	for _, w := range windows {
		for k := range Kinds {
			n[k] += w.Samples[k]
		}
	}
	return n
}

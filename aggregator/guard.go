package aggregator

import (
	"slices"
	"strings"

	"github.com/axiomhq/hyperloglog"
	"github.com/cespare/xxhash/v2"
)

// FoldedValue stands in for what does not fit into max_series any more: as the
// value of the tag that explodes, and as the name of metrics for which even
// that is too much.
const FoldedValue = "__other__"

// Bounds of what the guard itself makes: series beside max_series, so that a
// flood of names or of tag keys does not defeat the limit (the greater of
// minExtra and a tenth of max_series), and of one metric per tag that is folded.
const (
	minExtra    = 1000
	extraPerTag = 100
	maxTagsFold = 3 // tags of a metric that are folded one after another; then all are
)

// A metric with fewer series than max_series divided by smallMetric is not what
// fills the registry: while that is full it may still grow, a little.
const smallMetric = 1000

// What is told of the metrics that are folded.
const (
	maxExamples = 3
	maxFolded   = 100
)

// Folded tells of a metric whose new series are folded. The one called FoldedValue tells
// of metrics: new ones of its kind are too many, and are folded into it, or all of their
// tags are.
type Folded struct {
	Metric   string
	Kind     Kind
	Tag      string   // key of the tag with the most values; several, separated by commas, when one did not suffice; empty: all
	Examples []string // of values that were folded first; without Tag, of series; of FoldedValue, of names
	Sender   string   // of the first sample that was folded, see Intake.From
}

// A guard is what is known of a metric that has reached a limit. There is none
// for any other.
type guard struct {
	keys   []string // of the tags that are folded, in the order in which they were found
	extra  int      // series beside the limits
	series int      // when it was made
	folded Folded
}

// fold finds the series that stands in for the one in k, whose key is in r.buf:
// the same one but for the tag that explodes. Where that does not help, for
// other tags explode as well, or keys, it is the one with all values folded,
// and for a flood of names the kind's one series called FoldedValue. Totals stay
// whole either way. Series that are known are never folded.
func (r *registry) fold(k *Key, sender string) *entry {
	m, first := r.metric(k)
	if first != nil {
		m = r.join(first)
	}
	if m == nil { // names may be the flood: next to nothing is remembered of them
		if len(k.tags) > 0 {
			r.tell(k, sender)
		}
		return r.foldAll(k, sender)
	}
	g := m.guard
	if g == nil {
		g = &guard{series: len(m.members), folded: Folded{Metric: string(k.name), Kind: k.Kind, Sender: sender}}
		g.find(m)
		m.guard = g
		if len(r.guarded) < maxFolded {
			r.guarded = append(r.guarded, m)
		}
	}
	g.example(k, r.buf)
	for len(g.keys) > 0 {
		for _, key := range g.keys {
			k.fold(key)
		}
		if e := r.lookup(k); e != nil {
			return e
		}
		if len(r.buf) > bytesPerSeries || r.extra >= r.maxExtra()/2 {
			break
		}
		if g.extra < extraPerTag*len(g.keys) {
			return r.addExtra(k)
		}
		if !g.find(m) {
			break
		}
	}
	return r.foldAll(k, sender)
}

func (r *registry) foldAll(k *Key, sender string) *entry {
	for i := range k.tags {
		k.foldAt(i)
	}
	if e := r.lookup(k); e != nil {
		return e
	}
	if r.extra >= r.maxExtra() || len(r.buf) > bytesPerSeries {
		r.tell(k, sender)
		k.SetName([]byte(FoldedValue))
		k.tags = k.tags[:0]
		if e := r.lookup(k); e != nil {
			return e
		}
	}
	return r.addExtra(k) // at most maxExtra and one per kind
}

// tell notes that the metric in k, with its tags or by name, is folded because metrics are
// too many.
func (r *registry) tell(k *Key, sender string) {
	f := r.names[k.Kind]
	if f == nil {
		f = &Folded{Metric: FoldedValue, Kind: k.Kind, Sender: sender}
		r.names[k.Kind] = f
	}
	if len(f.Examples) < maxExamples && !slices.Contains(f.Examples, string(k.name)) {
		f.Examples = append(f.Examples, string(k.name))
	}
}

// fold replaces the value of a tag, if there is one of that key.
func (k *Key) fold(key string) {
	for i, t := range k.tags {
		if string(k.text[t.key:t.mid]) == key {
			k.foldAt(i)
		}
	}
}

func (k *Key) foldAt(i int) {
	t := k.tags[i]
	mid := len(k.text) + t.mid - t.key
	k.text = append(append(k.text, k.text[t.key:t.mid]...), FoldedValue...)
	k.tags[i] = span{key: mid - (t.mid - t.key), mid: mid, end: len(k.text)}
}

func (r *registry) maxExtra() int { return max(minExtra, r.limit/10) }

func (r *registry) addExtra(k *Key) *entry {
	m, first := r.metric(k)
	e := r.add(k, m, first)
	e.extra = true
	r.extra++
	if m, _ := r.metric(k); m != nil && m.guard != nil {
		m.guard.extra++
	}
	return e
}

// find adds the tag that explodes to those that are folded: the one with the
// most values in the metric's series, or, after the first, in those made by
// folding it. It answers false when there is none that would help.
func (g *guard) find(m *metric) bool {
	if len(g.keys) == maxTagsFold {
		return false
	}
	key := mostValues(m.members, len(g.keys) > 0, g.keys)
	if key == "" {
		return false
	}
	g.keys = append(g.keys, key)
	g.folded.Tag = strings.Join(g.keys, ",")
	return true
}

// maxKeysCounted bounds the memory of mostValues where keys are the flood.
const maxKeysCounted = 64

// mostValues returns the tag key that has the most values in the entries, at
// least two, leaving some out. The estimate is exact for few values, and within
// 1 % for many; of equal ones the first in order is taken.
func mostValues(entries []*entry, extra bool, without []string) string {
	values := make(map[string]*hyperloglog.Sketch)
	for _, e := range entries {
		if e.extra != extra {
			continue
		}
		for key, value := range e.series.Tags() {
			s := values[key]
			if s == nil {
				if len(values) == maxKeysCounted || slices.Contains(without, key) {
					continue
				}
				s = hyperloglog.New14()
				values[key] = s
			}
			s.InsertHash(xxhash.Sum64String(value))
		}
	}
	most, found := uint64(1), ""
	for key, s := range values {
		if n := s.Estimate(); n > most || n == most && found != "" && key < found {
			most, found = n, key
		}
	}
	return strings.Clone(found) // it must not keep a series' key
}

// example notes what is folded first. key is that of the series in k.
func (g *guard) example(k *Key, key []byte) {
	f := &g.folded
	if len(f.Examples) == maxExamples {
		return
	}
	text := ""
	if len(g.keys) == 0 {
		text = Series{string(key)}.String()
	} else if i := k.find([]byte(g.keys[0])); i >= 0 {
		text = string(k.text[k.tags[i].mid:k.tags[i].end])
	}
	if text != "" && !slices.Contains(f.Examples, text) {
		f.Examples = append(f.Examples, text)
	}
}

// relax forgets the guard of a metric that has lost half of its series, or all.
func (r *registry) relax(m *metric) {
	if m.guard == nil || len(m.members) > m.guard.series/2 {
		return
	}
	m.guard = nil
	r.guarded = slices.DeleteFunc(r.guarded, func(o *metric) bool { return o == m })
}

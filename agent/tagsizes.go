package main

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"sluice/aggregator"
	"sluice/listeners"
	"sluice/spool"
)

// Bounds of what is told about the tags of one metric. What is beyond is counted.
const (
	maxTagKeys   = 100       // told
	maxTagValues = 200       // told of each key, those with the most series
	maxTagPairs  = 100_000   // keys with their values that are counted
	maxTagRests  = 1_000_000 // series that are looked at without one of their tags
)

// A tagsDoc is the answer about the tags of one metric in the last window.
type tagsDoc struct {
	metricDoc
	Tags []tagDoc `json:"tags"` // those first without which the fewest series would be left
}

type tagDoc struct {
	Key     string        `json:"key"`
	Values  int           `json:"values"`            // different ones
	Without int           `json:"without,omitempty"` // series that would be left without the tag, at most; 0 if there were too many to look
	Top     []tagValueDoc `json:"top"`
	Beyond  int           `json:"beyond,omitempty"` // series with values that were too many to count
}

type tagValueDoc struct {
	Value  string  `json:"value"`
	Series int     `json:"series"`
	Rate   float64 `json:"samples_per_second"`
	Values int     `json:"values"` // as of a metric
}

// serveTags answers which tags the series of a metric have: name, kind, and any
// number of tag=KEY:VALUE that they must have. One question is answered at a time.
func (a *agent) serveTags(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	kind, ok := kindOf(q.Get("kind"))
	if name := q.Get("name"); !ok || name == "" || len(name) > aggregator.MaxName {
		listeners.HTTPError(w, http.StatusBadRequest, "bad_question", "name and kind say which metric is meant; kind is counter, gauge, distribution or set")
		return
	}
	select { // with the window in hand, of which there may be megabytes
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-r.Context().Done():
		return
	case <-time.After(readWithin):
		listeners.HTTPError(w, http.StatusServiceUnavailable, "busy", "questions asked before are still being answered")
		return
	}
	window, err := ask(r.Context(), a.reads, func(context.Context, func()) (storedWindow, error) { return a.lastWindow() })
	if err != nil {
		spoolError(w, err)
		return
	}
	with := slices.Compact(slices.Sorted(slices.Values(q["tag"])))
	doc, err := window.tags(aggregator.NewSeries(kind, q.Get("name")), with)
	if err != nil {
		listeners.HTTPError(w, http.StatusConflict, "spool", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, doc)
}

func kindOf(text string) (aggregator.Kind, bool) {
	for _, k := range kinds {
		if k.String() == text && k != aggregator.Events {
			return k, true
		}
	}
	return 0, false
}

// storedWindow is a window that was read back.
type storedWindow struct {
	reader  *aggregator.Reader
	seconds float64
}

// lastWindow reads the live window that was stored last.
func (a *agent) lastWindow() (storedWindow, error) {
	for _, e := range slices.Backward(a.spool.Entries(spool.Range{To: spool.Open})) {
		if e.Flags&aggregator.FlagLate != 0 {
			continue
		}
		parts, err := a.spool.Read(e.Seqs.From)
		if err != nil {
			return storedWindow{}, err
		}
		reader, err := aggregator.OpenReader(parts...)
		return storedWindow{reader, e.Width.Seconds()}, err
	}
	return storedWindow{}, fmt.Errorf("no window is stored yet")
}

// tags counts the tags of the series of a metric that have all the given ones.
// bare is the metric's series without any; with has each tag once.
func (w storedWindow) tags(bare aggregator.Series, with []string) (tagsDoc, error) {
	c := tagCount{tags: make(map[string]*tagStats)}
	doc := tagsDoc{metricDoc: metricDoc{Name: bare.Name(), Kind: bare.Kind().String(), Width: w.seconds}, Tags: []tagDoc{}}
	samples := uint64(0)
	key := bare.Key()
	m := aggregator.Merge(1<<30, []byte(key[:len(key)-1]), w.reader) // before the first of that name
	for s, v := range m.All() {
		if !strings.HasPrefix(s.Key(), key) {
			if s.Key() > key {
				break
			}
			continue // of the same name, and another kind
		}
		if !hasTags(s, with) {
			continue
		}
		doc.Series++
		doc.Values += valuesOf(v)
		samples += v.Samples()
		c.add(s, v)
	}
	doc.Rate = float64(samples) / w.seconds
	doc.Tags = c.list(doc.Series, w.seconds)
	return doc, m.Err()
}

// valuesOf is how many items of its own a series is at most, beside scalars: as
// aggregator.MetricSize has them.
func valuesOf(v *aggregator.Value) int {
	switch v.Kind() {
	case aggregator.Distribution:
		return int(min(v.Samples(), 100))
	case aggregator.Set:
		if n, exact := v.Unique(); exact {
			return int(max(n, 1))
		}
		return 1
	}
	return 0
}

func hasTags(s aggregator.Series, with []string) bool {
	found := 0
	for k, v := range s.Tags() {
		if slices.Contains(with, k+":"+v) {
			found++
		}
	}
	return found == len(with)
}

var tagSeed = maphash.MakeSeed()

// tagCount counts the tags of series.
type tagCount struct {
	tags  map[string]*tagStats
	pairs int
	rests int
}

type tagStats struct {
	values  map[string]*tagValueStats
	rests   map[uint64]struct{} // hashes of the other tags of the series that have this one
	series  int
	counted int // of series, by value
}

type tagValueStats struct {
	series, values int
	samples        uint64
}

func (c *tagCount) add(s aggregator.Series, v *aggregator.Value) {
	all := uint64(0) // tags are in order, but a sum lets each be taken out
	for key, value := range s.Tags() {
		all += hashTag(key, value)
	}
	for key, value := range s.Tags() {
		t := c.tags[key]
		if t == nil {
			if c.pairs >= maxTagPairs {
				continue
			}
			t = &tagStats{values: make(map[string]*tagValueStats), rests: make(map[uint64]struct{})}
			c.tags[key] = t
		}
		t.series++
		rest := all - hashTag(key, value)
		if _, ok := t.rests[rest]; !ok && c.rests < maxTagRests {
			c.rests++
			t.rests[rest] = struct{}{}
		}
		of := t.values[value]
		if of == nil {
			if c.pairs >= maxTagPairs {
				continue
			}
			c.pairs++
			of = new(tagValueStats)
			t.values[value] = of
		}
		t.counted++
		of.series++
		of.values += valuesOf(v)
		of.samples += v.Samples()
	}
}

func hashTag(key, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(tagSeed)
	h.WriteString(key)
	h.WriteByte(0)
	h.WriteString(value)
	return h.Sum64()
}

// list is the answer of what was counted of so many series.
func (c *tagCount) list(series int, seconds float64) []tagDoc {
	docs := []tagDoc{}
	for key, t := range c.tags {
		d := tagDoc{Key: key, Values: len(t.values), Beyond: t.series - t.counted, Top: []tagValueDoc{}}
		if c.rests < maxTagRests {
			d.Without = len(t.rests) + series - t.series // those that have no such tag stay
		}
		for _, value := range slices.SortedFunc(maps.Keys(t.values), func(x, y string) int {
			return cmp.Or(cmp.Compare(t.values[y].series, t.values[x].series), cmp.Compare(t.values[y].samples, t.values[x].samples), cmp.Compare(x, y))
		}) {
			if len(d.Top) == maxTagValues {
				break
			}
			of := t.values[value]
			d.Top = append(d.Top, tagValueDoc{value, of.series, float64(of.samples) / seconds, of.values})
		}
		docs = append(docs, d)
	}
	slices.SortFunc(docs, func(x, y tagDoc) int {
		return cmp.Or(cmp.Compare(x.Without, y.Without), cmp.Compare(y.Values, x.Values), cmp.Compare(x.Key, y.Key))
	})
	return docs[:min(len(docs), maxTagKeys)]
}

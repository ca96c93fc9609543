package main

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/aggregator"
	"sluice/configs"
)

// What programs sent can be read by Prometheus: counters that only grow, gauges, and
// distributions as histograms. All of it is made of closed windows, beside the way of
// samples, and only while somebody asks.
const (
	// exposedFor is how long a series is shown after its last sample, and all of them
	// after the last question.
	exposedFor = time.Hour
	// exposedBytes is what the texts of a series may take, of all series together; as
	// the registry of series has it.
	exposedBytes = 512
	// exposedChunk is how many series are written while windows wait.
	exposedChunk = 256
)

// exposed is what is shown. The zero value shows nothing until configure.
type exposed struct {
	asked   atomic.Int64 // when it was last, nanoseconds since 1970; 0: nobody asks, and nothing is kept
	skipped atomic.Uint64

	mu      sync.Mutex // guards the fields below
	limit   int        // of series
	buckets []float64
	since   time.Time // when counting began
	window  time.Time // start of the last live window
	swept   time.Time
	series  map[aggregator.Series]*shownSeries
	texts   map[string]*shownSeries // the same by family and labels: two series can look alike
	names   map[string]*shownFamily // those taken, a histogram's of its lines included
	bytes   int
	left    int // series of the last live window that are not shown
}

// A shownFamily is all that is shown under one name. But for the number of its series it
// never changes.
type shownFamily struct {
	name    string
	metric  string // as programs call it
	kind    aggregator.Kind
	buckets []float64 // of a distribution
	series  int
}

// A shownSeries is one series as it is shown. Its first two fields never change.
type shownSeries struct {
	family *shownFamily
	labels string // without braces
	value  float64
	count  float64   // of a distribution, whose sum is value
	counts []float64 // of its buckets
	at     int64     // of a gauge: when value was measured, nanoseconds since 1970
	seen   time.Time
	window time.Time // of a set: the live window that value is of
}

// configure sets the limits. Others than before forget everything: counters begin at 0,
// which Prometheus knows from restarts.
func (x *exposed) configure(c configs.Expose, maxSeries int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	limit := min(c.MaxSeries, maxSeries)
	if limit != x.limit || !slices.Equal(c.Buckets, x.buckets) {
		x.limit, x.buckets = limit, c.Buckets
		x.forgetLocked()
	}
}

func (x *exposed) forgetLocked() {
	x.asked.Store(0)
	x.series, x.texts, x.names, x.bytes, x.left = nil, nil, nil, 0, 0
}

// add counts a closed window in.
func (x *exposed) add(w *aggregator.Window, now time.Time) {
	if x.asked.Load() == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch asked := x.asked.Load(); {
	case asked == 0:
		return
	case now.Sub(time.Unix(0, asked)) > exposedFor:
		x.forgetLocked()
		return
	}
	if now.Sub(x.swept) >= time.Minute {
		x.sweepLocked(now)
	}
	if !w.Late {
		x.window, x.left = w.Start, 0
	}
	for s, v := range w.Values() {
		if strings.HasPrefix(s.Name(), "sluice.") {
			continue // they are at /metrics
		}
		switch to := x.findLocked(s); {
		case to != nil:
			to.seen = now
			x.takeLocked(to, v, w)
		case !w.Late:
			x.left++
		}
	}
}

// takeLocked adds what a window knows of a series. Values of another time than the
// window's before it are no part of how many members there are now, and news of a gauge
// only where none is known that is newer: many clients write a time beside each gauge, which
// often is of the window that has just been closed.
func (x *exposed) takeLocked(to *shownSeries, v *aggregator.Value, w *aggregator.Window) {
	switch v.Kind() {
	case aggregator.Counter:
		if v.Total() < 0 {
			x.skipped.Add(1) // a Prometheus counter that goes down has been restarted
			return
		}
		to.value += v.Total()
	case aggregator.Gauge:
		if !w.Late || v.LastTime() >= to.at {
			to.value, to.at = v.Last(), v.LastTime()
		}
	case aggregator.Set:
		if n, _ := v.Unique(); !w.Late {
			to.value, to.window = float64(n), w.Start
		}
	case aggregator.Distribution:
		to.value += v.Sum()
		to.count += v.Count()
		at := 0
		for _, bin := range v.Bins() { // ascending, as buckets are
			for at < len(to.counts) && bin.Value > to.family.buckets[at] {
				at++
			}
			if at == len(to.counts) {
				break
			}
			to.counts[at] += bin.Weight
		}
	}
}

// findLocked answers where a series is shown, and gives a new one its place. It
// answers nil where there is none left.
func (x *exposed) findLocked(s aggregator.Series) *shownSeries {
	if to := x.series[s]; to != nil {
		return to
	}
	if len(x.series) >= x.limit {
		return nil
	}
	f := x.familyLocked(s)
	if f == nil {
		return nil
	}
	text := appendLabels(append([]byte(f.name), '{'), s)
	size := len(s.Key()) + len(text)
	if x.bytes+size > exposedBytes*x.limit {
		x.leaveLocked(f)
		return nil
	}
	to := x.texts[string(text)]
	if to == nil {
		to = &shownSeries{family: f, labels: string(text[len(f.name)+1:])}
		if f.kind == aggregator.Distribution {
			to.counts = make([]float64, len(f.buckets))
		}
		x.texts[string(text)] = to
		f.series++
	}
	x.bytes += size
	x.series[s] = to
	return to
}

// familyLocked answers the family that a series belongs into: that of its name, or, where
// that or the name of one of its lines is taken by another kind, of name and kind. It
// answers nil where both are.
func (x *exposed) familyLocked(s aggregator.Series) *shownFamily {
	name, kind := promName(s.Name()), s.Kind()
	for _, name := range []string{name, name + "_" + kind.String()} {
		if kind == aggregator.Set {
			name += "_unique"
		}
		if f := x.names[name]; f != nil {
			if f.name == name && f.kind == kind {
				return f
			}
			continue
		}
		lines := familyLines(name, kind)
		if slices.ContainsFunc(lines, func(line string) bool { return x.names[line] != nil }) {
			continue
		}
		f := &shownFamily{name: name, metric: s.Name(), kind: kind, buckets: x.buckets}
		for _, line := range lines {
			x.names[line] = f
		}
		return f
	}
	return nil
}

// familyLines are the names that a family's lines have, and its own.
func familyLines(name string, kind aggregator.Kind) []string {
	if kind == aggregator.Distribution {
		return []string{name, name + "_bucket", name + "_sum", name + "_count"}
	}
	return []string{name}
}

// leaveLocked gives the names of a family back that has no series.
func (x *exposed) leaveLocked(f *shownFamily) {
	if f.series == 0 {
		for _, line := range familyLines(f.name, f.kind) {
			delete(x.names, line)
		}
	}
}

// sweepLocked takes series away that no sample has come for.
func (x *exposed) sweepLocked(now time.Time) {
	x.swept = now
	gone := func(to *shownSeries) bool { return now.Sub(to.seen) > exposedFor }
	maps.DeleteFunc(x.series, func(s aggregator.Series, to *shownSeries) bool {
		if !gone(to) {
			return false
		}
		x.bytes -= len(s.Key()) + len(to.family.name) + 1 + len(to.labels)
		return true
	})
	maps.DeleteFunc(x.texts, func(_ string, to *shownSeries) bool {
		if !gone(to) {
			return false
		}
		to.family.series--
		x.leaveLocked(to.family)
		return true
	})
}

// ask notes that somebody asks, and answers what there is to be written, in its order,
// with a line or two about it.
func (x *exposed) ask(now time.Time) (list []*shownSeries, about []byte, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.limit == 0 {
		return nil, nil, false
	}
	if x.asked.Swap(now.UnixNano()) == 0 {
		x.since, x.swept = now, now
		x.series, x.texts, x.names = make(map[aggregator.Series]*shownSeries), make(map[string]*shownSeries), make(map[string]*shownFamily)
	}
	about = now.AppendFormat([]byte("# Asked at "), time.RFC3339)
	about = x.since.AppendFormat(append(about, "; windows are counted that were closed since "...), time.RFC3339)
	about = append(about, '\n')
	if x.left > 0 {
		about = append(strconv.AppendInt(append(about, "# Left out: "...), int64(x.left), 10), " series of the last window (see expose.max_series).\n"...)
	}
	list = slices.SortedFunc(maps.Values(x.texts), func(a, b *shownSeries) int {
		return cmp.Or(cmp.Compare(a.family.name, b.family.name), cmp.Compare(a.labels, b.labels))
	})
	return list, about, true
}

// stats tells how many series are shown, and how many of the last window are not.
func (x *exposed) stats() (shown, left int, skipped uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.texts), x.left, x.skipped.Load()
}

// appendSeries writes the lines of some series, which follow those of before: nil at the
// beginning.
func (x *exposed) appendSeries(dst []byte, list []*shownSeries, before *shownFamily) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range list {
		if f := s.family; f != before {
			dst = f.appendHead(dst)
			before = f
		}
		dst = s.append(dst, x.window)
	}
	return dst
}

var promTypes = [aggregator.Kinds]string{aggregator.Counter: "counter", aggregator.Gauge: "gauge", aggregator.Set: "gauge", aggregator.Distribution: "histogram"}

var promHelp = [aggregator.Kinds]string{aggregator.Counter: "Sum of the counter ", aggregator.Gauge: "Last value of the gauge ",
	aggregator.Set: "Members in the last window of the set ", aggregator.Distribution: "Values of the distribution "}

func (f *shownFamily) appendHead(dst []byte) []byte {
	dst = append(append(append(dst, "# HELP "...), f.name...), ' ')
	dst = append(append(dst, promHelp[f.kind]...), helpEscapes.Replace(f.metric)...)
	dst = append(append(append(dst, ".\n# TYPE "...), f.name...), ' ')
	return append(append(dst, promTypes[f.kind]...), '\n')
}

func (s *shownSeries) append(dst []byte, window time.Time) []byte {
	switch {
	case s.family.kind == aggregator.Set && !s.window.Equal(window):
		return s.appendLine(dst, "", "", 0) // the last window had none
	case s.family.kind != aggregator.Distribution:
		return s.appendLine(dst, "", "", s.value)
	}
	below := 0.0
	for i, bound := range s.family.buckets {
		below = min(below+s.counts[i], s.count) // which is exact where the sum of parts may not be
		dst = s.appendLine(dst, "_bucket", strconv.FormatFloat(bound, 'g', -1, 64), below)
	}
	dst = s.appendLine(dst, "_bucket", "+Inf", s.count)
	dst = s.appendLine(dst, "_sum", "", s.value)
	return s.appendLine(dst, "_count", "", s.count)
}

// appendLine writes one line; le is the bound of a bucket.
func (s *shownSeries) appendLine(dst []byte, suffix, le string, value float64) []byte {
	dst = append(append(dst, s.family.name...), suffix...)
	if s.labels != "" || le != "" {
		dst = append(append(dst, '{'), s.labels...)
		if le != "" {
			if s.labels != "" {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, `le="`...), le...), '"')
		}
		dst = append(dst, '}')
	}
	dst = strconv.AppendFloat(append(dst, ' '), value, 'g', -1, 64)
	return append(dst, '\n')
}

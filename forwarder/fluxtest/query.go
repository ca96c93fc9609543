package fluxtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// query answers a GET below /api/v1.
func (s *Server) query(c *call, r *http.Request, path string) answer {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		s.violate(RulePath, c.n, -1, "query %q: %v", r.URL.RawQuery, err)
		return fail(400, "", "Bad request")
	}
	selfHosted := s.opts.Dialect == SelfHosted && !s.opts.DocumentedReads
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	if s.opts.Dialect.isPulse() {
		return s.pulseQuery(c, path, q)
	}
	rest, ok := strings.CutPrefix(path, "metrics/")
	switch {
	case path == "metrics" && selfHosted:
		return s.selfHostedList()
	case path == "metrics":
		return s.list()
	case ok && rest == "last" && selfHosted:
		return s.selfHostedLast(q)
	case ok && rest == "query" && selfHosted:
		return s.selfHostedSignal(q)
	case ok && strings.HasSuffix(rest, "/query") && selfHosted:
		return s.selfHostedQuery(strings.TrimSuffix(rest, "/query"), q)
	case ok && strings.HasSuffix(rest, "/query"):
		return s.hostedQuery(c, strings.TrimSuffix(rest, "/query"), q)
	case ok && rest != "" && !strings.Contains(rest, "/"):
		return s.show(rest, selfHosted)
	}
	s.violateLocked(RulePath, c.n, -1, "GET %s", path)
	return fail(404, "", "Not found")
}

// describe is a definition as the published page shows it.
func describe(d *definition) map[string]any {
	return map[string]any{"name": d.Name, "type": d.Type, "tags": slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Keys(d.Tags)))),
		"first_seen": stamp(d.First), "last_seen": stamp(d.Last)}
}

func describeSelfHosted(d *definition) map[string]any {
	return map[string]any{"name": d.Name, "display_name": nil, "type": d.Type, "unit": nil, "description": nil}
}

func (s *Server) list() answer {
	ds := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.ledger.defs)) {
		ds = append(ds, describe(s.ledger.defs[name]))
	}
	return answer{status: 200, body: map[string]any{"data": ds}}
}

func (s *Server) selfHostedList() answer {
	ds := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.ledger.defs)) {
		ds = append(ds, describeSelfHosted(s.ledger.defs[name]))
	}
	return answer{status: 200, body: map[string]any{"metrics": ds}}
}

func (s *Server) show(name string, selfHosted bool) answer {
	d := s.ledger.defs[name]
	if d == nil {
		return fail(404, "", "Metric not found")
	}
	if !selfHosted {
		data := describe(d)
		data["data_points"] = d.Points
		return answer{status: 200, body: map[string]any{"data": data}}
	}
	since := s.opts.Now().Add(-24 * time.Hour)
	rows := s.visible(name, func(r *Row) bool { return !r.Time.Before(since) })
	stats := map[string]any{}
	for _, agg := range []string{"count", "avg", "min", "max", "sum"} {
		stats[agg] = aggregate(agg, rows, 0)
	}
	return answer{status: 200, body: map[string]any{"metric": describeSelfHosted(d), "stats": stats, "since": stamp(since)}}
}

// visible returns the rows of a name that queries may see by now.
func (s *Server) visible(name string, want func(*Row) bool) []*Row {
	until := s.opts.Now().Add(-s.opts.ReadLag)
	var rows []*Row
	for _, r := range s.ledger.byName[name] {
		if !r.committed.After(until) && want(r) {
			rows = append(rows, r)
		}
	}
	return rows
}

// tagFilter collects the tags[key]=value parameters.
func tagFilter(q url.Values) map[string]string {
	tags := map[string]string{}
	for k := range q {
		if key, ok := strings.CutPrefix(k, "tags["); ok && strings.HasSuffix(key, "]") {
			tags[strings.TrimSuffix(key, "]")] = q.Get(k)
		}
	}
	return tags
}

func matches(r *Row, tags map[string]string) bool {
	for k, v := range tags {
		if got, ok := r.Tags[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// intervals are the published buckets.
var intervals = map[string]time.Duration{"1m": time.Minute, "5m": 5 * time.Minute, "1h": time.Hour, "1d": 24 * time.Hour}

// aggregations are the published ones by type; the first is taken when none is asked
// for, which the page leaves open.
var aggregations = map[string][]string{
	"gauge":        {"last", "avg", "min", "max"},
	"counter":      {"sum", "rate"},
	"distribution": {"avg", "sum", "min", "max", "p50", "p90", "p95", "p99", "count"},
	"set":          {"count"},
}

// hostedQuery answers the published query. from and to are inclusive and may be
// missing; interval is 1m when missing. The page leaves all three open.
func (s *Server) hostedQuery(c *call, name string, q url.Values) answer {
	d := s.ledger.defs[name]
	if d == nil {
		return fail(404, "", "Metric not found")
	}
	bad := func(param string) answer {
		s.violateLocked(RulePath, c.n, -1, "query of %s %q: %s=%q", d.Type, name, param, q.Get(param))
		return fail(400, "invalid_"+param, "Invalid %s", param)
	}
	bound := map[string]time.Time{}
	for _, p := range []string{"from", "to"} {
		if q.Has(p) {
			t, err := time.Parse(time.RFC3339Nano, q.Get(p))
			if err != nil {
				return bad(p)
			}
			bound[p] = t
		}
	}
	interval := "1m"
	if q.Has("interval") {
		interval = q.Get("interval")
	}
	width, ok := intervals[interval]
	if !ok {
		return bad("interval")
	}
	aggs := aggregations[d.Type][:1]
	if q.Has("aggregation") {
		aggs = strings.Split(strings.Join(q["aggregation"], ","), ",")
	}
	for _, agg := range aggs {
		if !slices.Contains(aggregations[d.Type], agg) {
			return bad("aggregation")
		}
	}
	tags := tagFilter(q)
	rows := s.visible(name, func(r *Row) bool {
		from, isFrom := bound["from"]
		to, isTo := bound["to"]
		return matches(r, tags) && !(isFrom && r.Time.Before(from)) && !(isTo && r.Time.After(to))
	})
	if by := q.Get("group_by"); by != "" {
		key, ok := strings.CutPrefix(by, "tags.")
		if !ok {
			return bad("group_by")
		}
		split := map[string][]*Row{}
		for _, r := range rows {
			split[r.Tags[key]] = append(split[r.Tags[key]], r)
		}
		groups := map[string]any{}
		for value, rows := range split {
			groups[value] = timeSeries(rows, aggs, width)
		}
		return answer{status: 200, body: map[string]any{"data": map[string]any{"groups": groups}}}
	}
	data := map[string]any{"name": name, "interval": interval, "series": timeSeries(rows, aggs, width)}
	if len(aggs) == 1 {
		data["aggregation"] = aggs[0]
	}
	return answer{status: 200, body: map[string]any{"data": data}}
}

// timeSeries aggregates rows by bucket, oldest first.
func timeSeries(rows []*Row, aggs []string, width time.Duration) []any {
	buckets := map[time.Time][]*Row{}
	for _, r := range rows {
		at := r.Time.Truncate(width)
		buckets[at] = append(buckets[at], r)
	}
	series := []any{}
	for _, at := range slices.SortedFunc(maps.Keys(buckets), time.Time.Compare) {
		point := map[string]any{"timestamp": stamp(at)}
		for _, agg := range aggs {
			label := agg
			if len(aggs) == 1 {
				label = "value"
			}
			point[label] = aggregate(agg, buckets[at], width)
		}
		series = append(series, point)
	}
	return series
}

// aggregate gives one value for the rows of a bucket: a number, or nil without rows.
// Percentiles are interpolated as PostgreSQL's percentile_cont does.
func aggregate(agg string, rows []*Row, width time.Duration) any {
	members := map[string]bool{}
	values := make([]float64, 0, len(rows))
	sum := 0.0
	var last *Row
	for _, r := range rows {
		if r.Type == "set" {
			members[r.Member] = true
			continue
		}
		values = append(values, r.Value)
		sum += r.Value
		if last == nil || !r.Time.Before(last.Time) {
			last = r
		}
	}
	if agg == "count" {
		return len(values) + len(members)
	}
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	result := 0.0
	switch agg {
	case "sum":
		result = sum
	case "rate":
		result = sum / width.Seconds()
	case "avg":
		result = sum / float64(len(values))
	case "min":
		result = values[0]
	case "max":
		result = values[len(values)-1]
	case "last":
		result = last.Value
	default: // p50 and the like
		p, _ := strconv.ParseFloat(strings.TrimPrefix(agg, "p"), 64)
		at := p / 100 * float64(len(values)-1)
		lo, hi := values[int(math.Floor(at))], values[int(math.Ceil(at))]
		result = lo + (hi-lo)*(at-math.Floor(at))
	}
	if math.IsInf(result, 0) || math.IsNaN(result) {
		return nil // a sum beyond float64, which JSON cannot say
	}
	return result
}

// selfHostedQuery imitates MetricsController#query of brainz-lab/flux: since and
// bucket are understood, from, to and interval are not, and the value is the average
// whatever aggregation was asked for.
func (s *Server) selfHostedQuery(name string, q url.Values) answer {
	since := s.opts.Now().Add(-ago(q.Get("since"), 24*time.Hour))
	bucket := "1 hour"
	if q.Has("bucket") {
		bucket = q.Get("bucket")
	}
	width, err := sqlInterval(bucket)
	if err != nil {
		return fail(500, "", "Internal Server Error") // the database's error
	}
	agg := "avg"
	if q.Has("aggregation") {
		agg = q.Get("aggregation")
	}
	tags := tagFilter(q)
	rows := s.visible(name, func(r *Row) bool { return !r.Time.Before(since) && matches(r, tags) })
	data := []any{}
	for _, p := range timeSeries(rows, []string{"avg", "count"}, width) {
		p := p.(map[string]any)
		data = append(data, map[string]any{"time": p["timestamp"], "value": p["avg"], "count": p["count"]})
	}
	return answer{status: 200, body: map[string]any{"metric": name, "aggregation": agg, "data": data,
		"since": stamp(since), "bucket": bucket}}
}

// selfHostedLast imitates MetricsController#last: the point with the latest time.
func (s *Server) selfHostedLast(q url.Values) answer {
	tags, err := jsonFilter(q)
	if err != nil {
		return fail(500, "", "Internal Server Error")
	}
	rows := s.visible(q.Get("name"), func(r *Row) bool { return matches(r, tags) })
	if len(rows) == 0 {
		return answer{status: 200, body: map[string]any{"timestamp": nil, "value": nil}}
	}
	last := slices.MaxFunc(rows, func(a, b *Row) int { return a.Time.Compare(b.Time) })
	var v any = last.Value
	if last.Type == "set" {
		v = nil
	}
	return answer{status: 200, body: map[string]any{"timestamp": last.Time.UTC().Format(time.RFC3339), "value": v}}
}

// selfHostedSignal imitates MetricsController#signal_query: one value over a window
// that ends now.
func (s *Server) selfHostedSignal(q url.Values) answer {
	tags, err := jsonFilter(q)
	if err != nil {
		return fail(500, "", "Internal Server Error")
	}
	since := s.opts.Now().Add(-ago(q.Get("window"), 5*time.Minute))
	rows := s.visible(q.Get("name"), func(r *Row) bool { return !r.Time.Before(since) && matches(r, tags) })
	agg := q.Get("aggregation")
	if !slices.Contains([]string{"sum", "count", "min", "max", "p95"}, agg) {
		agg = "avg"
	}
	return answer{status: 200, body: map[string]any{"value": aggregate(agg, rows, 0), "name": q.Get("name"), "window": q.Get("window")}}
}

// jsonFilter reads the query parameter, a JSON object of tags.
func jsonFilter(q url.Values) (map[string]string, error) {
	tags := map[string]string{}
	if !q.Has("query") {
		return tags, nil
	}
	return tags, json.Unmarshal([]byte(q.Get("query")), &tags)
}

// ago reads a span such as 30m, 24h, 7d or 2w.
func ago(s string, otherwise time.Duration) time.Duration {
	unit := map[byte]time.Duration{'m': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil || n < 0 || unit[s[len(s)-1]] == 0 {
		return otherwise
	}
	return time.Duration(n) * unit[s[len(s)-1]]
}

// sqlInterval reads what the fake understands of SQL's intervals: "1 minute",
// "5 minutes", "1 hour" and so on.
func sqlInterval(s string) (time.Duration, error) {
	var n int
	var unit string
	if _, err := fmt.Sscanf(s, "%d %s", &n, &unit); err != nil || n <= 0 {
		return 0, fmt.Errorf("interval %q: want a number and a unit", s)
	}
	d, ok := map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}[strings.TrimSuffix(unit, "s")]
	if !ok {
		return 0, fmt.Errorf("interval %q: unknown unit", s)
	}
	return time.Duration(n) * d, nil
}

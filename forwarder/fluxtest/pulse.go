package fluxtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// pulseTags is how many tags a metric may have (published).
const pulseTags = 10

var pulseMembers = []string{"name", "type", "kind", "value", "timestamp", "tags"}

func (d Dialect) isPulse() bool { return d == PulseHosted || d == PulseOpen }

// parsePulse reads a metric as both Pulse servers have to understand it.
func parsePulse(raw []byte, now time.Time) item {
	var it item
	m, ok := it.open(raw, pulseMembers)
	if !ok {
		return it
	}
	it.row.Name = it.name(m["name"])
	typ, _ := str(m["type"])
	kind, _ := str(m["kind"])
	it.row.Type = typ
	if !slices.Contains([]string{"gauge", "counter", "histogram"}, typ) || typ != kind {
		it.bad(RuleType, "type %s and kind %s", show(m["type"]), show(m["kind"]))
		it.reject("invalid_type")
	}
	it.value(m["value"])
	it.row.Time = it.timestamp(m["timestamp"], now)
	it.row.Tags = it.tags(m["tags"])
	if len(it.row.Tags) > pulseTags {
		it.bad(RuleTags, "%d tags, limit %d", len(it.row.Tags), pulseTags)
		it.reject("too_many_tags")
	}
	return it
}

// pulseBatch takes the valid items and counts the others (hosted), or stores item by
// item at the time of its own clock until one fails (open).
func (s *Server) pulseBatch(metrics []item, now time.Time) answer {
	if s.opts.Dialect == PulseHosted {
		return s.hostedBatch("metrics/batch", metrics, nil)
	}
	a := answer{status: 201, define: true}
	for _, it := range metrics {
		if it.code == "invalid_item" || it.row.Name == "" {
			a.status, a.body = 422, map[string]any{"error": "Validation failed: Name can't be blank"}
			return a // with what came before
		}
		r := it.row
		r.Time = now
		a.rows = append(a.rows, r)
	}
	a.count = func(n, _ int) any { return map[string]any{"processed": n} }
	a.body = a.count(len(a.rows), 0)
	return a
}

// pulseSingle judges POST /api/v1/metrics, the only call whose time the open server
// honours.
func (s *Server) pulseSingle(c *call, it item) answer {
	s.note(c, func(q *Request) { q.Items = 1 })
	s.record(c, []item{it})
	if status := s.poisoned([]item{it}, nil); status != 0 {
		return fail(status, "", "Metric refused")
	}
	if it.code != "" {
		return fail(400, it.code, "%s", messages[it.code])
	}
	a := answer{status: 201, rows: []Row{it.row}, define: true}
	id := fmt.Sprintf("metric_%d", c.n)
	a.body = map[string]any{"metric_id": id}
	if s.opts.Dialect == PulseHosted {
		a.body = map[string]any{"data": map[string]any{"id": id, "name": it.row.Name, "value": it.row.Value,
			"type": it.row.Type, "timestamp": stamp(it.row.Time)}}
	}
	return a
}

// pulseQuery answers GET metrics and GET metrics/:name/stats. It is called with the
// lock held.
func (s *Server) pulseQuery(c *call, path string, q url.Values) answer {
	name, ok := strings.CutPrefix(path, "metrics/")
	name, isStats := strings.CutSuffix(name, "/stats")
	open := s.opts.Dialect == PulseOpen
	switch {
	case path == "metrics":
		list := []any{}
		for _, name := range slices.Sorted(maps.Keys(s.ledger.defs)) {
			list = append(list, map[string]any{"name": name})
		}
		if open {
			return answer{status: 200, body: map[string]any{"metrics": list}}
		}
		return answer{status: 200, body: map[string]any{"data": list}}
	case !ok || !isStats || strings.Contains(name, "/"):
		s.violateLocked(RulePath, c.n, -1, "GET %s", path)
		return fail(404, "", "Not found")
	case open && strings.Contains(name, "."): // its route takes no dot
		s.violateLocked(RulePath, c.n, -1, "GET %s: the open server has no route for a name with a dot", path)
		return fail(404, "", "Not found")
	case s.ledger.defs[name] == nil:
		return fail(404, "", "Metric not found")
	}
	since, err := pulseSince(open, q.Get("since"), s.opts.Now())
	if err != nil {
		s.violateLocked(RulePath, c.n, -1, "since %q: %v", q.Get("since"), err)
		return fail(400, "", "Bad request")
	}
	rows := s.visible(name, func(r *Row) bool { return !r.Time.Before(since) }) // whatever tags were asked for
	if !open {
		return answer{status: 200, body: map[string]any{"data": map[string]any{"name": name, "stats": map[string]any{
			"min": aggregate("min", rows, 0), "max": aggregate("max", rows, 0), "avg": aggregate("avg", rows, 0)}, "series": []any{}}}}
	}
	byMinute := map[time.Time][]*Row{}
	for _, r := range rows {
		byMinute[r.Time.Truncate(time.Minute)] = append(byMinute[r.Time.Truncate(time.Minute)], r)
	}
	buckets := []any{}
	for _, at := range slices.SortedFunc(maps.Keys(byMinute), time.Time.Compare) {
		buckets = append(buckets, map[string]any{"bucket": stamp(at), "count": len(byMinute[at]), "max": aggregate("max", byMinute[at], 0)})
	}
	return answer{status: 200, body: map[string]any{"stats": buckets}}
}

// pulseSince reads since: a range on the hosted server, a time on the open one, an
// hour when it is missing.
func pulseSince(open bool, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now.Add(-time.Hour), nil
	}
	if open {
		return time.Parse(time.RFC3339Nano, text)
	}
	d, ok := map[string]time.Duration{"1h": time.Hour, "24h": 24 * time.Hour, "7d": 7 * 24 * time.Hour}[text]
	if !ok {
		return now, fmt.Errorf("not 1h, 24h or 7d")
	}
	return now.Add(-d), nil
}

// pulseWrite judges a POST to a Pulse.
func (s *Server) pulseWrite(c *call, path string, body []byte, now time.Time) answer {
	switch path {
	case "metrics":
		return s.pulseSingle(c, parsePulse(body, now))
	case "metrics/batch":
	default:
		s.violate(RulePath, c.n, -1, "POST %s", path)
		return fail(404, "", "Not found")
	}
	lists, err := s.lists(c, path, body)
	if err != nil {
		s.violate(RuleJSON, c.n, -1, "body %s: %v", show(body), err)
		return fail(400, "", "Invalid JSON")
	}
	return s.pulseItems(c, lists["metrics"], now)
}

func (s *Server) pulseItems(c *call, list []json.RawMessage, now time.Time) answer {
	items := make([]item, len(list))
	for i, raw := range list {
		items[i] = parsePulse(raw, now)
		items[i].row.Index = i
	}
	s.note(c, func(q *Request) { q.Items = len(items) })
	s.record(c, items)
	if len(items) == 0 {
		s.violate(RuleEmpty, c.n, -1, "no items")
	}
	if s.opts.MaxItems >= 0 && len(items) > s.opts.MaxItems {
		s.violate(RuleItems, c.n, -1, "%d items, limit %d", len(items), s.opts.MaxItems)
	}
	if limit := s.opts.TooLarge; limit > 0 && len(items) > limit {
		return fail(400, "batch_too_large", "Batch exceeds %d metrics", limit)
	}
	for i, it := range items {
		status := s.poisoned([]item{it}, nil)
		if status == 0 {
			continue
		}
		a := fail(status, "", "Batch refused")
		if s.opts.Dialect == PulseOpen { // with what came before it
			b := s.pulseBatch(items[:i], now)
			a.rows, a.define = b.rows, true
		}
		return a
	}
	return s.pulseBatch(items, now)
}

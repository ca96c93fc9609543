package fluxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// messages are the published texts of the error codes, and our own for those that
// the page has no text for.
var messages = map[string]string{
	"missing_name":      "Metric name is required",
	"invalid_type":      "Type must be gauge/counter/distribution/set",
	"invalid_value":     "Value must be numeric (string for sets)",
	"name_too_long":     "Name exceeds 255 bytes",
	"invalid_timestamp": "Timestamp must be ISO8601",
	"invalid_tags":      "Tags must be an object of strings",
	"invalid_item":      "Item must be an object",
}

// write judges a POST below /api/v1.
func (s *Server) write(c *call, path string, body []byte) answer {
	now := s.opts.Now()
	if !utf8.Valid(body) {
		s.violate(RuleJSON, c.n, -1, "body is not UTF-8")
	}
	if err := valid(body); err != nil {
		s.violate(RuleJSON, c.n, -1, "body %s: %v", show(body), err)
		return fail(400, "", "Invalid JSON")
	}
	if s.opts.Dialect.isPulse() {
		return s.pulseWrite(c, path, body, now)
	}
	switch path {
	case "metrics":
		return s.single(c, parseMetric(body, now))
	case "events":
		return s.singleEvent(c, parseEvent(body, now))
	case "metrics/batch", "events/batch", "flux/batch":
		return s.batch(c, path, body, now)
	}
	s.violate(RulePath, c.n, -1, "POST %s", path)
	return fail(404, "", "Not found")
}

// valid reports why body is not exactly one JSON value.
func valid(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

// batch judges the three batch calls.
func (s *Server) batch(c *call, path string, body []byte, now time.Time) answer {
	lists, err := s.lists(c, path, body)
	if err != nil {
		s.violate(RuleJSON, c.n, -1, "body %s: %v", show(body), err)
		return fail(400, "", "Invalid JSON")
	}
	metrics := make([]item, len(lists["metrics"]))
	for i, raw := range lists["metrics"] {
		metrics[i] = parseMetric(raw, now)
		metrics[i].row.Index = i
	}
	events := make([]item, len(lists["events"]))
	for i, raw := range lists["events"] {
		events[i] = parseEvent(raw, now)
		events[i].event.Index = i
	}
	n := len(metrics) + len(events)
	s.note(c, func(q *Request) { q.Items = n })
	s.record(c, append(metrics[:len(metrics):len(metrics)], events...))
	switch {
	case len(metrics) > 0 && len(events) > 0:
		s.violate(RuleMixed, c.n, -1, "%d metrics and %d events in one call", len(metrics), len(events))
	case n == 0:
		s.violate(RuleEmpty, c.n, -1, "no items")
	}
	if s.opts.MaxItems >= 0 && n > s.opts.MaxItems {
		s.violate(RuleItems, c.n, -1, "%d items, limit %d", n, s.opts.MaxItems)
	}
	if limit := s.opts.TooLarge; limit > 0 && max(len(metrics), len(events)) > limit {
		return fail(413, "batch_too_large", "Batch exceeds %d metrics", limit)
	}
	if n == 0 && path == "metrics/batch" {
		return fail(400, "no_metrics", "No metrics provided")
	}
	if n == 0 && path == "events/batch" {
		return fail(400, "no_events", "No events provided")
	}
	if status := s.poisoned(metrics, events); status != 0 {
		return fail(status, "", "Batch refused")
	}
	if s.opts.Dialect == SelfHosted {
		return s.selfHostedBatch(c, path, metrics, events)
	}
	return s.hostedBatch(path, metrics, events)
}

// lists takes the items out of the body.
func (s *Server) lists(c *call, path string, body []byte) (map[string][]json.RawMessage, error) {
	name := path[:len(path)-len("/batch")]
	var bare []json.RawMessage
	if name != "flux" && json.Unmarshal(body, &bare) == nil && bytes.TrimSpace(body)[0] == '[' {
		s.violate(RuleMember, c.n, -1, "a bare array; the published body is an object")
		return map[string][]json.RawMessage{name: bare}, nil
	}
	m, again, err := members(body)
	if err != nil {
		return nil, err
	}
	for _, k := range again {
		s.violate(RuleMember, c.n, -1, "member %q twice", k)
	}
	lists := map[string][]json.RawMessage{}
	for k, raw := range m {
		if k != name && (name != "flux" || k != "metrics" && k != "events") {
			s.violate(RuleMember, c.n, -1, "unknown member %q", k)
			continue
		}
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		lists[k] = list
	}
	return lists, nil
}

// record turns what is wrong with items into violations, and notices a name that
// comes with a second type.
func (s *Server) record(c *call, items []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, it := range items {
		for _, p := range it.problems {
			s.violateLocked(p.rule, c.n, i, "%s", p.detail)
		}
		name, typ := it.row.Name, it.row.Type
		if name == "" || typ == "" || it.code == "invalid_type" {
			continue
		}
		if was, ok := s.types[name]; !ok {
			s.types[name] = typ
		} else if was != typ && s.types[name+"\x00"+typ] == "" {
			s.types[name+"\x00"+typ] = "reported" // once a pair; no valid name holds NUL
			s.violateLocked(RuleTwoTypes, c.n, i, "%q is a %s, was a %s", name, typ, was)
		}
	}
}

func (s *Server) poisoned(metrics, events []item) int {
	for _, it := range metrics {
		if s.opts.Poison == nil || it.code != "" {
			continue
		}
		if status := s.opts.Poison(it.row); status != 0 {
			return status
		}
	}
	for _, it := range events {
		if s.opts.PoisonEvent == nil || it.code != "" {
			continue
		}
		if status := s.opts.PoisonEvent(it.event); status != 0 {
			return status
		}
	}
	return 0
}

// hostedBatch takes the valid items and counts the others.
func (s *Server) hostedBatch(path string, metrics, events []item) answer {
	a := answer{status: 201, define: true}
	for _, it := range metrics {
		if it.code == "" && (s.opts.Reject == nil || !s.opts.Reject(it.row)) {
			a.rows = append(a.rows, it.row)
		}
	}
	for _, it := range events {
		if it.code == "" && (s.opts.RejectEvent == nil || !s.opts.RejectEvent(it.event)) {
			a.events = append(a.events, it.event)
		}
	}
	counts := func(accepted, rejected int) any {
		return map[string]any{"accepted": accepted, "rejected": rejected}
	}
	a.count = func(accepted, rejected int) any {
		return map[string]any{"data": counts(accepted, rejected)}
	}
	lost := len(metrics) + len(events) - len(a.rows) - len(a.events)
	a.body = a.count(len(a.rows)+len(a.events), lost)
	if path == "flux/batch" {
		a.body = map[string]any{"data": map[string]any{
			"events":  counts(len(a.events), len(events)-len(a.events)),
			"metrics": counts(len(a.rows), len(metrics)-len(a.rows)),
		}}
	}
	return a
}

// selfHostedBatch takes everything in one INSERT a list, which fails as a whole.
func (s *Server) selfHostedBatch(c *call, path string, metrics, events []item) answer {
	a := answer{status: 201}
	broken := false
	for _, it := range events {
		a.events = append(a.events, it.event)
		broken = broken || it.sql
	}
	if broken {
		return fail(500, "", "Internal Server Error")
	}
	for i, it := range metrics {
		if it.text {
			s.violate(RuleStringBatch, c.n, i, "%q has the value %q", it.row.Name, it.row.Member)
		}
		a.rows = append(a.rows, it.row)
		broken = broken || it.sql
	}
	if broken {
		// The events' INSERT has been committed by then: why no call may carry both.
		b := fail(500, "", "Internal Server Error")
		b.events = a.events
		return b
	}
	a.count = func(n, _ int) any { return map[string]any{"ingested": n} }
	a.body = a.count(len(metrics)+len(events), 0)
	if path == "flux/batch" {
		a.body = map[string]any{"events_ingested": len(events), "metrics_ingested": len(metrics),
			"total": len(events) + len(metrics)}
	}
	return a
}

// single judges POST /api/v1/metrics.
func (s *Server) single(c *call, it item) answer {
	s.note(c, func(q *Request) { q.Items = 1 })
	s.record(c, []item{it})
	if status := s.poisoned([]item{it}, nil); status != 0 {
		return fail(status, "", "Metric refused")
	}
	r := it.row
	if s.opts.Dialect == Hosted {
		if it.code != "" {
			return fail(400, it.code, "%s", messages[it.code])
		}
		var v any = r.Value
		if r.Type == "set" {
			v = r.Member
		}
		return answer{status: 201, rows: []Row{r}, define: true, body: map[string]any{"data": map[string]any{
			"name": r.Name, "type": r.Type, "value": v, "timestamp": stamp(r.Time)}}}
	}
	switch {
	case it.code == "invalid_item" || it.code == "invalid_timestamp":
		return fail(400, "", "Bad request")
	case it.code == "invalid_type" || r.Type == "":
		return fail(400, "", "Invalid metric type. Use: gauge, counter, distribution, or set")
	case r.Name == "":
		return fail(422, "", "Validation failed: Metric name can't be blank")
	}
	if r.Type != "set" && it.text {
		r.Literal, r.Member = "0", "" // Rails casts what is no number to 0
	}
	return answer{status: 201, rows: []Row{r}, define: true,
		body: map[string]any{"success": true, "metric": r.Name, "type": r.Type}}
}

// singleEvent judges POST /api/v1/events.
func (s *Server) singleEvent(c *call, it item) answer {
	s.note(c, func(q *Request) { q.Items = 1 })
	s.record(c, []item{it})
	if status := s.poisoned(nil, []item{it}); status != 0 {
		return fail(status, "", "Event refused")
	}
	e := it.event
	if it.code != "" {
		if s.opts.Dialect == SelfHosted {
			return fail(400, "", "Name can't be blank")
		}
		return fail(400, it.code, "%s", messages[it.code])
	}
	id := fmt.Sprintf("evt_%d", c.n)
	a := answer{status: 201, events: []Event{e}, body: map[string]any{"id": id, "name": e.Name}}
	if s.opts.Dialect == Hosted {
		a.body = map[string]any{"data": map[string]any{"id": id, "name": e.Name,
			"timestamp": stamp(e.Time), "user_id": e.Fields["user_id"], "value": e.Value}}
	}
	return a
}

// stamp writes a time as the published examples do, with milliseconds where there are any.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999Z07:00") }

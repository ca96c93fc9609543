package fluxtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

var (
	dataCatMembers = []string{"name", "type", "value", "timestamp", "tags"}
	sessionMembers = []string{"product", "version", "hostname"}
)

// plain is a DataCat's error, which is text.
func plain(status int, text string) answer {
	return answer{status: status, text: text + "\n"}
}

// dataCat answers a call to a DataCat: sessions are made by POST /api/sessions, and
// metrics belong to one, POST /api/sessions/{id}/metrics.
func (s *Server) dataCat(c *call, r *http.Request, path string, body []byte) answer {
	if r.Method != http.MethodPost {
		s.violate(RulePath, c.n, -1, "%s %s", r.Method, r.URL.Path)
		return plain(405, "Method not allowed")
	}
	if err := valid(body); err != nil {
		s.violate(RuleJSON, c.n, -1, "body %s: %v", show(body), err)
		return plain(400, "Invalid request body")
	}
	if path == "" {
		return s.dataCatSession(c, body)
	}
	id, operation, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if operation != "metrics" {
		s.violate(RulePath, c.n, -1, "POST %s", r.URL.Path)
		return plain(404, "Not found")
	}
	s.mu.Lock()
	known := s.sessions[id]
	s.mu.Unlock()
	it := parseDataCat(body, s.opts.Now())
	s.note(c, func(q *Request) { q.Items = 1 })
	s.record(c, []item{it})
	if it.code != "" {
		return plain(400, "Invalid request body")
	}
	if status := s.poisoned([]item{it}, nil); status != 0 {
		return plain(status, "Invalid request body")
	}
	if !known {
		return plain(404, "session not found")
	}
	it.row.Session = id
	a := answer{status: 200, rows: []Row{it.row}, define: true, body: map[string]any{"status": "ok"}}
	if c.n%2 == 0 { // the documentation's answer; the line above has the server's
		a.body = map[string]any{"success": true}
	}
	return a
}

// dataCatShow answers GET /api/sessions/{id}.
func (s *Server) dataCatShow(c *call, id string) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == "" || strings.Contains(id, "/") {
		s.violateLocked(RulePath, c.n, -1, "GET %s", id)
		return plain(404, "Not found")
	}
	if !s.sessions[id] {
		return plain(404, "Session not found")
	}
	return answer{status: 200, body: map[string]any{"id": id}}
}

func (s *Server) dataCatSession(c *call, body []byte) answer {
	var it item
	m, _ := it.open(body, sessionMembers)
	s.record(c, []item{it})
	product, _ := str(m["product"])
	version, _ := str(m["version"])
	if product == "" || version == "" {
		return plain(400, "Product and version are required fields")
	}
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", c.n)
	return answer{status: 200, session: id, body: map[string]any{"session_id": id}}
}

func parseDataCat(raw []byte, now time.Time) item {
	var it item
	m, ok := it.open(raw, dataCatMembers)
	if !ok {
		return it
	}
	it.row.Name = it.name(m["name"])
	it.row.Type, _ = str(m["type"])
	if !slices.Contains([]string{"gauge", "counter", "histogram"}, it.row.Type) {
		it.bad(RuleType, "type %s", show(m["type"]))
	}
	it.value(m["value"])
	it.row.Time = it.timestamp(m["timestamp"], now)
	it.row.Tags = map[string]string{}
	var tags []string
	if json.Unmarshal(m["tags"], &tags) != nil {
		it.bad(RuleTags, "tags %s are not a list of strings", show(m["tags"]))
		it.reject("invalid_tags")
	}
	for _, tag := range tags {
		k, v, _ := strings.Cut(tag, ":")
		it.row.Tags[k] = v
	}
	return it
}

// EndSessions makes a DataCat forget all sessions, as its retention does. What they
// hold stays in the ledger.
func (s *Server) EndSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Sessions returns how many sessions have been made.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionsMade
}

// checkTotalLocked demands that a running total never becomes smaller in its session:
// who reads it would take that for a restart.
func (s *Server) checkTotalLocked(r *Row) {
	if r.Type != "counter" {
		return
	}
	key := r.Session + "\x00" + r.key()
	if have, ok := s.totals[key]; ok && r.Value < have {
		s.violateLocked(RuleTotal, r.Request, r.Index, "%q is %v in session %s, was %v", r.Name, r.Value, r.Session, have)
	}
	s.totals[key] = max(s.totals[key], r.Value)
}

// Grown returns by how much the counters of a name that have the tags have grown at a
// DataCat: the sum over sessions and series of the greatest total.
func (s *Server) Grown(name string, tags ...string) (sum float64) {
	greatest := map[string]float64{}
	for _, r := range s.RowsOf(name, tags...) {
		if r.Type == "counter" {
			key := r.Session + "\x00" + r.key()
			greatest[key] = max(greatest[key], r.Value)
		}
	}
	for _, v := range greatest {
		sum += v
	}
	return sum
}

// StoreError answers as a DataCat does that has taken an item and could not store it:
// a 404 of its own. Stored, so that a test sees what it does to send it again.
func StoreError() Fault {
	return Fault{name: "store error", store: true, status: 404, body: "failed to marshal session: out of memory\n"}.
		With("Content-Type", "text/plain; charset=utf-8")
}

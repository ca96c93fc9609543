package fluxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An answer is what the server would say to a call, and what it would store.
type answer struct {
	status int
	header http.Header
	body   any // to JSON; nil is an empty body
	rows   []Row
	events []Event
	define bool                                 // storing creates definitions
	count  func(accepted, rejected int) (b any) // the body for other counts; nil when there are none

	text    string // the body of an answer that is not JSON
	session string // that is made by storing
}

// sessionsPath is where a DataCat takes everything.
const sessionsPath = "/api/sessions"

func fail(status int, code, format string, args ...any) answer {
	body := map[string]any{"error": fmt.Sprintf(format, args...)}
	if code != "" {
		body["code"] = code
	}
	return answer{status: status, body: body}
}

// serve takes one call through arrival, fault, judgement, storing and answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if (handler{s}).refusing() {
		cut(w, true) // the last of the backlog, or a server over net.Pipe
		return
	}
	c := s.arrive(r)
	defer s.leave(c)
	f := s.pick(c, r)
	s.note(c, func(q *Request) { q.Fault = f.name })
	if f.unread {
		s.leave(c)
		if f.refuse > 0 {
			s.refuse(f.refuse, c.n)
		}
		cut(w, false)
		return
	}
	body, err := s.read(c, r)
	if err != nil {
		// The client left, or died, in the midst of its request. That breaks no rule,
		// and no fault applies: what came is not a request.
		s.abandon(c)
		cut(w, false)
		return
	}
	s.checkAlone(c)
	a := s.judge(c, r, body)
	if f.name == "" {
		s.commit(c, a)
		s.reply(w, r, c, a)
		return
	}
	s.spoil(w, r, c, f, a)
}

// read returns the body, at most MaxBody and one byte of it, and reads the rest away:
// net/http notices that a client has left only when its body has been read.
func (s *Server) read(c *call, r *http.Request) ([]byte, error) {
	limit := s.opts.MaxBody
	src := io.Reader(r.Body)
	if limit >= 0 {
		src = io.LimitReader(r.Body, int64(limit)+1)
	}
	body, err := io.ReadAll(src)
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	s.note(c, func(q *Request) { q.Bytes = len(body) })
	if err == nil && limit >= 0 && len(body) > limit {
		s.violate(RuleBody, c.n, -1, "body over %d bytes", limit)
	}
	return body, err
}

// judge checks the headers and gives the right answer.
func (s *Server) judge(c *call, r *http.Request, body []byte) answer {
	path, isAPI := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if s.opts.Dialect == DataCat {
		path, isAPI = strings.CutPrefix(r.URL.Path, sessionsPath)
	}
	if !isAPI {
		return s.outside(c, r)
	}
	if got := r.Header.Get("Authorization"); got != "Bearer "+s.opts.Key {
		s.violate(RuleKey, c.n, -1, "Authorization is not the bearer key (%d bytes)", len(got))
		return fail(401, "", "Invalid API key")
	}
	if got := r.Header.Get("Accept"); got != "application/json" {
		s.violate(RuleHeader, c.n, -1, "Accept is %q, want application/json", got)
	}
	if got := r.Header.Get("User-Agent"); !strings.HasPrefix(got, s.opts.UserAgent) {
		s.violate(RuleHeader, c.n, -1, "User-Agent is %q, want %s...", got, s.opts.UserAgent)
	}
	if r.Method == http.MethodGet && s.opts.Dialect == DataCat {
		return s.dataCatShow(c, strings.TrimPrefix(path, "/"))
	}
	if r.Method == http.MethodGet {
		return s.query(c, r, path)
	}
	if r.Method != http.MethodPost {
		s.violate(RulePath, c.n, -1, "method %s", r.Method)
		return fail(405, "", "Method not allowed")
	}
	if got := r.Header.Get("Content-Type"); !isJSON(got) {
		s.violate(RuleHeader, c.n, -1, "Content-Type is %q, want application/json", got)
	}
	if got := r.Header.Get("Content-Encoding"); got != "" {
		s.violate(RuleBody, c.n, -1, "Content-Encoding is %q; the API documents none", got)
	}
	if s.opts.MaxBody >= 0 && len(body) > s.opts.MaxBody {
		return fail(413, "", "Request entity too large")
	}
	if s.opts.Dialect != DataCat { // there a total is made anew for each request
		s.identify(c, r, body)
	}
	if s.opts.EnforceRate && kindOf(r) == CallBatch {
		if wait := s.admit(c); wait > 0 {
			a := fail(429, "", "Rate limit exceeded")
			a.header = http.Header{"Retry-After": {strconv.Itoa(int((wait + time.Second - 1) / time.Second))}}
			return a
		}
	}
	if s.opts.Dialect == DataCat {
		return s.dataCat(c, r, path, body)
	}
	return s.write(c, path, body)
}

func isJSON(contentType string) bool {
	kind, params, err := mime.ParseMediaType(contentType)
	charset, set := params["charset"]
	return err == nil && kind == "application/json" && (!set || strings.EqualFold(charset, "utf-8"))
}

// outside answers what is not the API.
func (s *Server) outside(c *call, r *http.Request) answer {
	switch {
	case r.URL.Path == redirectPath:
		s.violate(RuleRedirect, c.n, -1, "%s %s, key sent: %t", r.Method, r.URL.Path, r.Header.Get("Authorization") != "")
		return answer{status: 200, body: map[string]any{}}
	case r.URL.Path == "/up" && r.Method == http.MethodGet:
		return answer{status: 200, body: map[string]any{"status": "ok"}}
	}
	s.violate(RulePath, c.n, -1, "%s %s", r.Method, r.URL.Path)
	return fail(404, "", "Not found")
}

var contentSeed = maphash.MakeSeed()

// identify checks that one Sluice-Batch value always stands for the same bytes.
func (s *Server) identify(c *call, r *http.Request, body []byte) {
	id := r.Header.Get("Sluice-Batch")
	if id == "" {
		return
	}
	sum := maphash.Bytes(contentSeed, append([]byte(r.URL.Path+"\n"), body...))
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.contents[id]; ok && was != sum {
		s.violateLocked(RuleChangedBatch, c.n, -1, "batch %s was sent before with another path or body", id)
	}
	s.contents[id] = sum
}

// admit counts a batch call as served, or says how long until it could be.
func (s *Server) admit(c *call) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.requests[c.n-1].Time
	for len(s.accepted) > 0 && now.Sub(s.accepted[0]) >= time.Minute {
		s.accepted = s.accepted[1:]
	}
	if limit := s.opts.RequestsPerMinute; limit >= 0 && len(s.accepted) >= limit {
		return time.Minute - now.Sub(s.accepted[0])
	}
	s.accepted = append(s.accepted, now)
	return 0
}

// delayed is what a CommitLater has still to store.
type delayed struct {
	due time.Time
	c   *call
	a   answer
}

// catchUpLocked stores what has fallen due. Everything that looks at the ledger
// calls it first, so that no timer is needed.
func (s *Server) catchUpLocked() {
	if len(s.later) == 0 {
		return
	}
	now := s.opts.Now()
	rest := s.later[:0]
	for _, d := range s.later {
		if d.due.After(now) {
			rest = append(rest, d)
		} else {
			s.commitLocked(d.c, d.a, d.due)
		}
	}
	s.later = rest
}

func (s *Server) commit(c *call, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	s.commitLocked(c, a, s.opts.Now())
}

// commitLocked stores what the answer carries.
func (s *Server) commitLocked(c *call, a answer, now time.Time) {
	if a.session != "" {
		s.sessions[a.session] = true
		s.sessionsMade++
	}
	if len(a.rows)+len(a.events) == 0 {
		return
	}
	q := &s.requests[c.n-1]
	q.Stored = len(a.rows) + len(a.events)
	again := s.opts.Dialect == DataCat && a.rows[0].Type != "histogram" // a total or a gauge counts once all the same
	if q.BatchID != "" && !again {
		if first, ok := s.committed[q.BatchID]; ok {
			s.violateLocked(RuleTwice, c.n, -1, "batch %s was stored before, by call %d", q.BatchID, first)
		} else {
			s.committed[q.BatchID] = c.n
		}
	}
	for i := range a.rows {
		a.rows[i].Request = c.n
		if s.opts.Dialect == DataCat {
			s.checkTotalLocked(&a.rows[i])
		}
	}
	for i := range a.events {
		a.events[i].Request = c.n
	}
	s.ledger.add(a.rows, now, a.define)
	s.ledger.events = append(s.ledger.events, a.events...)
}

// reply gives the right answer.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, c *call, a answer) {
	var body []byte
	if a.body != nil {
		body, _ = json.Marshal(a.body) // strings, maps and finite numbers: cannot fail
	}
	if a.text != "" {
		a.header, body = http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, []byte(a.text)
	}
	s.send(w, r, c, a.status, a.header, body, 0)
}

// send writes an answer, pace between any two of its bytes (0: all at once).
func (s *Server) send(w http.ResponseWriter, r *http.Request, c *call, status int, header http.Header, body []byte, pace time.Duration) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	for k, v := range header {
		h[k] = v
	}
	s.note(c, func(q *Request) { q.Status = status })
	if pace == 0 {
		s.leave(c)
		w.WriteHeader(status)
		w.Write(body)
		return
	}
	w.WriteHeader(status)
	for i := range body {
		http.NewResponseController(w).Flush()
		if !sleep(r, pace) {
			s.abandon(c)
			cut(w, false) // a return would end the answer as if it were whole
			return
		}
		if i == len(body)-1 {
			s.leave(c)
		}
		if _, err := w.Write(body[i : i+1]); err != nil {
			s.abandon(c)
			return
		}
	}
}

// spoil stores what the fault says and answers as it says.
func (s *Server) spoil(w http.ResponseWriter, r *http.Request, c *call, f Fault, a answer) {
	if f.reject > 0 && a.count != nil && a.status < 300 {
		n := len(a.rows) + len(a.events)
		cutRows := min(f.reject, len(a.rows))
		cutEvents := min(f.reject-cutRows, len(a.events))
		a.rows = a.rows[:len(a.rows)-cutRows]
		a.events = a.events[:len(a.events)-cutEvents]
		kept := len(a.rows) + len(a.events)
		a.body = map[string]any{"data": map[string]any{"accepted": kept, "rejected": n - kept}}
	}
	if f.miss != 0 && a.count != nil && a.status < 300 {
		a.body = a.count(max(0, len(a.rows)+len(a.events)+f.miss), 0)
	}
	if f.first > 0 {
		a.rows = a.rows[:min(f.first, len(a.rows))]
	}
	switch {
	case f.store && f.later > 0:
		s.mu.Lock()
		s.later = append(s.later, delayed{s.opts.Now().Add(f.later), c, a})
		s.mu.Unlock()
	case f.store:
		s.commit(c, a)
	}
	switch {
	case f.hang:
		<-r.Context().Done()
		s.abandon(c)
		cut(w, false)
	case f.cut:
		s.leave(c)
		cut(w, f.reset)
	case f.right:
		if f.delay > 0 {
			if !sleep(r, f.delay) {
				s.abandon(c)
				cut(w, false)
				return
			}
		}
		body, _ := json.Marshal(a.body)
		header := a.header.Clone()
		for k, v := range f.header {
			if header == nil {
				header = http.Header{}
			}
			header[k] = v
		}
		s.send(w, r, c, a.status, header, body, f.pace)
	case f.size > 0:
		s.flood(w, r, c, f)
	default:
		s.send(w, r, c, f.status, f.header, []byte(f.body), 0)
	}
}

// flood writes the body of a HugeBody until it ends or the client has enough.
func (s *Server) flood(w http.ResponseWriter, r *http.Request, c *call, f Fault) {
	s.note(c, func(q *Request) { q.Status = f.status })
	for k, v := range f.header {
		w.Header()[k] = v
	}
	w.WriteHeader(f.status)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for left := f.size; left > 0; {
		if r.Context().Err() != nil {
			s.abandon(c)
			cut(w, false)
			return
		}
		n := min(left, int64(len(chunk)))
		left -= n
		if left == 0 {
			s.leave(c)
		}
		if _, err := w.Write(chunk[:n]); err != nil {
			s.abandon(c)
			return
		}
	}
}

// sleep waits for d, or reports false when the client leaves before.
func sleep(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// A cutter is a ResponseWriter that can end its call without an answer itself, as
// Transport's can.
type cutter interface{ cut(reset bool) }

// cut closes the connection without an answer.
func cut(w http.ResponseWriter, reset bool) {
	if c, ok := w.(cutter); ok {
		c.cut(reset)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection, too, but cannot reset it
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0) // unsent data is discarded and RST is sent
	}
	conn.Close()
}

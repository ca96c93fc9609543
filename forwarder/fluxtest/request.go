package fluxtest

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Call is what a request is for.
type Call string

// The kinds of calls.
const (
	CallBatch  Call = "batch"  // POST .../batch, or to a DataCat: those that the budget is about
	CallSingle Call = "single" // any other POST
	CallQuery  Call = "query"  // GET below /api/v1
	CallOther  Call = "other"  // GET /up and unknown paths
)

// A Request is one call that arrived.
type Request struct {
	N       int       // from 1, in order of arrival
	Time    time.Time // of arrival, by the server's clock
	Call    Call
	Method  string
	Path    string
	Query   string // raw
	BatchID string // the Sluice-Batch header
	Bytes   int    // of the body as read
	Items   int    // metrics and events in the body
	Stored  int    // of them, those stored; a CommitLater counts when it is stored
	Status  int    // as answered; 0 when the call was cut or is under way
	Fault   string // of the fault applied; "" for none
}

// Requests returns every call in order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	return slices.Clone(s.requests)
}

// MaxRequestsIn is MaxCallsIn of batch calls.
func (s *Server) MaxRequestsIn(d time.Duration) int { return s.MaxCallsIn(CallBatch, d) }

// MaxCallsIn returns the greatest number of calls of a kind that arrived in any
// half-open span of d: two calls exactly d apart are not in one span.
func (s *Server) MaxCallsIn(kind Call, d time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var times []time.Time
	most := 0
	for _, r := range s.requests {
		if r.Call != kind {
			continue
		}
		times = append(times, r.Time)
		for r.Time.Sub(times[0]) >= d {
			times = times[1:]
		}
		most = max(most, len(times))
	}
	return most
}

// MaxItems returns the number of items of the greatest batch call.
func (s *Server) MaxItems() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := 0
	for _, r := range s.requests {
		if r.Call == CallBatch {
			most = max(most, r.Items)
		}
	}
	return most
}

// A call is a Request while it is being served.
type call struct {
	n    int
	ctx  context.Context // of the request; ends when the client leaves
	done chan struct{}   // closed by leave
	left bool            // guarded by Server.mu: the client left without its whole answer

	beside int // number of a call that was in flight when this one arrived; 0 is none
}

// leaveGrace is how long a client's leaving may take to be noticed before its next
// call counts as concurrent. Loopback needs microseconds; a machine that is busy with
// other things may need seconds. Of calls that end before, it is known how.
const leaveGrace = 30 * time.Second

// arrive numbers and records a call, and checks what can be told from its arrival
// alone: the rates and that it is the only one.
func (s *Server) arrive(r *http.Request) *call {
	now := s.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUpLocked()
	c := &call{n: len(s.requests) + 1, done: make(chan struct{}), ctx: r.Context()}
	s.requests = append(s.requests, Request{
		N: c.n, Time: now, Call: kindOf(r), Method: r.Method, Path: r.URL.Path,
		Query: r.URL.RawQuery, BatchID: r.Header.Get("Sluice-Batch"),
	})
	s.checkRateLocked(c.n)
	if kindOf(r) != CallOther {
		c.beside = s.besideLocked()
	}
	s.live[c] = true
	return c
}

// leave ends a call. It comes before the last byte of the answer, so that a client
// that has its answer is never found to be still in flight.
func (s *Server) leave(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[c] {
		c.left = c.left || c.ctx.Err() != nil
		delete(s.live, c)
		close(c.done)
	}
}

// abandon ends a call whose client has left.
func (s *Server) abandon(c *call) {
	s.mu.Lock()
	c.left = true
	s.mu.Unlock()
	s.leave(c)
}

// note changes the record of a call.
func (s *Server) note(c *call, change func(*Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.requests[c.n-1])
}

func kindOf(r *http.Request) Call {
	switch {
	case strings.HasPrefix(r.URL.Path, sessionsPath) && r.Method == http.MethodPost:
		return CallBatch
	case !strings.HasPrefix(r.URL.Path, "/api/v1/"):
		return CallOther
	case r.Method == http.MethodGet:
		return CallQuery
	case r.Method != http.MethodPost:
		return CallOther
	case strings.HasSuffix(r.URL.Path, "/batch"):
		return CallBatch
	}
	return CallSingle
}

// checkRateLocked compares the newest call with the limit of its kind.
func (s *Server) checkRateLocked(n int) {
	req := s.requests[n-1]
	limit, rule := s.opts.RequestsPerMinute, RuleRate
	switch req.Call {
	case CallOther:
		return
	case CallQuery:
		limit, rule = s.opts.QueriesPerMinute, RuleQueryRate
	case CallSingle:
		limit, rule = s.opts.SinglesPerMinute, RuleSingleRate
	}
	if limit < 0 {
		return
	}
	count := 0
	for _, r := range slices.Backward(s.requests) {
		if req.Time.Sub(r.Time) >= time.Minute {
			break
		}
		if r.Call == req.Call {
			count++
		}
	}
	if count > limit {
		s.violateLocked(rule, n, -1, "%d %s calls within 60 s, limit %d", count, req.Call, limit)
	}
}

// besideLocked looks for a call in flight and returns its number, or 0. A client may
// have left that one and gone on, which is its right; so it is given time to end, or
// its leaving to be noticed, with the lock released.
func (s *Server) besideLocked() int {
	if slices.Contains(s.opts.Allow, RuleConcurrent) {
		return 0 // and do not wait
	}
	for other := range s.live {
		s.mu.Unlock()
		grace := time.NewTimer(s.grace)
		select {
		case <-other.ctx.Done():
		case <-other.done:
		case <-grace.C:
		}
		grace.Stop()
		s.mu.Lock()
		// Where it has ended, its context has, too: ask how it ended.
		if gone := other.left || s.live[other] && other.ctx.Err() != nil; !gone {
			return other.n
		}
	}
	return 0
}

// checkAlone convicts a call that arrived beside another one, once it has been read.
// A busy machine may serve two calls in another order than they were made in: then
// the client of this one has left, and that is noticed at once.
func (s *Server) checkAlone(c *call) {
	if c.beside == 0 {
		return
	}
	grace := time.NewTimer(min(s.grace, 5*time.Second))
	defer grace.Stop()
	select {
	case <-c.ctx.Done():
	case <-grace.C:
		s.violate(RuleConcurrent, c.n, -1, "call %d was still in flight", c.beside)
	}
}

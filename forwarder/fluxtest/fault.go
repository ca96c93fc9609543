package fluxtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Fault is one way of answering wrongly. The zero Fault is none. Faults are
// values: With and Committed return changed copies. On a GET nothing is ever
// stored, the rest holds.
//
// A fault that stores does so only with what the server would have taken: it never
// lets an invalid batch in.
type Fault struct {
	name   string
	unread bool          // cut before the body is read
	cut    bool          // cut in place of an answer
	reset  bool          // cut with RST rather than FIN
	hang   bool          // wait until the client leaves
	refuse time.Duration // close the listener for so long
	store  bool
	later  time.Duration // store so long after the answer
	right  bool          // the answer is the right one ...
	delay  time.Duration // ... after so long
	pace   time.Duration // ... one byte every so long
	miss   int           // ... its count changed by so much
	reject int           // ... with the last so many items rejected
	first  int           // store so many items only
	status int
	header http.Header
	body   string
	size   int64 // bytes of filler sent as the body
}

// String names the fault as it stands in Request.Fault; "" for none.
func (f Fault) String() string { return f.name }

// Stored reports whether the fault stores the data.
func (f Fault) Stored() bool { return f.store }

// Committed returns f with the data stored first.
func (f Fault) Committed() Fault {
	if !f.store && !f.unread {
		f.store = true
		f.name = "commit then " + f.name
	}
	return f
}

// With returns f with a header added to its answer.
func (f Fault) With(key, value string) Fault {
	f.header = f.header.Clone()
	if f.header == nil {
		f.header = http.Header{}
	}
	f.header.Set(key, value)
	return f
}

// Refuse cuts the connection before reading, closes the listener and all other
// connections, and opens it again on the same port after d. Until then dials are
// refused. Not stored.
func Refuse(d time.Duration) Fault {
	return Fault{name: "refuse", unread: true, refuse: max(d, 1)}
}

// CloseUnread closes the connection without reading the body. Not stored. The
// client may see a reset, because the kernel throws unread bytes away.
func CloseUnread() Fault { return Fault{name: "close unread", unread: true} }

// ResetAfterRead reads the whole request, then resets the connection. Not stored.
func ResetAfterRead() Fault { return Fault{name: "reset after read", cut: true, reset: true} }

// CommitThenClose stores, then closes the connection without an answer.
func CommitThenClose() Fault { return Fault{name: "commit then close", cut: true, store: true} }

// Hang reads the request and answers nothing until the client leaves. Not stored.
func Hang() Fault { return Fault{name: "hang", hang: true} }

// CommitThenHang stores, then answers nothing until the client leaves.
func CommitThenHang() Fault { return Fault{name: "commit then hang", hang: true, store: true} }

// Status answers the status with a JSON error body. Not stored. It serves for 400,
// 401, 403, 404, 408, 413, 422, 429, 5xx and 520 to 530 alike.
func Status(code int) Fault {
	text := http.StatusText(code)
	if text == "" {
		text = "Status " + strconv.Itoa(code)
	}
	return Fault{name: "status " + strconv.Itoa(code), status: code, body: fmt.Sprintf("{\"error\":%q}", text)}
}

// CommitThen stores, then answers the status with a JSON error body.
func CommitThen(code int) Fault { return Status(code).Committed() }

// PartThen stores the first n items, then answers the status with a JSON error body, as
// a server does that stores a batch item by item.
func PartThen(n, code int) Fault {
	f := Status(code).Committed()
	f.name, f.first = fmt.Sprintf("%d items then status %d", n, code), n
	return f
}

// CommitLater answers the status at once and stores d later, by the server's clock:
// a proxy that gave up on a server that did not.
func CommitLater(d time.Duration, code int) Fault {
	f := Status(code)
	f.name += " then commit"
	f.store, f.later = true, max(d, 1)
	return f
}

// RetryAfter answers 429 with Retry-After in whole seconds. Not stored.
func RetryAfter(d time.Duration) Fault {
	return Status(429).With("Retry-After", strconv.Itoa(int(d/time.Second)))
}

// RetryAt answers 429 with Retry-After as an HTTP date (RFC 9110, 10.2.3). Not stored.
func RetryAt(t time.Time) Fault {
	return Status(429).With("Retry-After", t.UTC().Format(http.TimeFormat))
}

// RetryAbsurd answers 429 with a Retry-After of some 31 million years, which fits
// neither a time.Duration nor patience. Not stored.
func RetryAbsurd() Fault { return Status(429).With("Retry-After", "999999999999999") }

// Slow stores and gives the right answer, its body one byte every pace.
func Slow(pace time.Duration) Fault {
	return Fault{name: "slow", right: true, pace: max(pace, 1), store: true}
}

// Delay stores at once and gives the right answer, headers included, after d.
func Delay(d time.Duration) Fault {
	return Fault{name: "delay", right: true, delay: max(d, 1), store: true}
}

// HTML answers 200 with a login page, as a captive portal does. Not stored.
func HTML() Fault {
	return Fault{name: "html 200", status: 200, body: "<!DOCTYPE html><title>Log in</title><p>Please log in to the network."}.
		With("Content-Type", "text/html; charset=utf-8")
}

// EmptyOK answers 200 without a body. Not stored.
func EmptyOK() Fault { return Fault{name: "empty 200", status: 200} }

// GarbageJSON answers 201 with JSON that breaks off. Not stored.
func GarbageJSON() Fault {
	return Fault{name: "garbage json", status: 201, body: `{"data":{"accepted":4`}
}

// Redirect answers the status (301, 302, 303, 307 or 308) with a Location on this
// server, where any call is a violation. Not stored.
func Redirect(code int) Fault {
	return Fault{name: "redirect " + strconv.Itoa(code), status: code}.With("Location", redirectPath)
}

// redirectPath is where Redirect points. Nobody may ever ask for it.
const redirectPath = "/redirected"

// HugeBody answers the status with a body of size bytes, without a length. Not
// stored. The filler is one byte repeated and never held in memory as a whole.
func HugeBody(code int, size int64) Fault {
	return Fault{name: "huge body", status: code, size: size}.With("Content-Type", "text/plain")
}

// WrongCount stores and gives the right answer, but with its count of accepted (or
// ingested) items changed by delta.
func WrongCount(delta int) Fault {
	return Fault{name: "wrong count", right: true, miss: delta, store: true}
}

// Rejected stores all but the last n items, which the answer counts as rejected. On
// a self-hosted server, which rejects nothing, the answer has the hosted shape.
func Rejected(n int) Fault { return Fault{name: "rejected", right: true, reject: n, store: true} }

// Fault queues faults for the coming POST calls, one each, in order. A zero Fault
// lets one call pass.
func (s *Server) Fault(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeFaults = append(s.writeFaults, faults...)
}

// FaultReads queues faults for the coming GET calls below /api/v1, as Fault does.
func (s *Server) FaultReads(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readFaults = append(s.readFaults, faults...)
}

// pick returns the fault of a call: the queue first, then the function.
func (s *Server) pick(c *call, r *http.Request) Fault {
	queue := &s.writeFaults
	if r.Method == http.MethodGet {
		queue = &s.readFaults
	}
	s.mu.Lock()
	if len(*queue) > 0 && (strings.HasPrefix(r.URL.Path, "/api/v1/") || strings.HasPrefix(r.URL.Path, sessionsPath)) {
		f := (*queue)[0]
		*queue = (*queue)[1:]
		s.mu.Unlock()
		return f
	}
	s.mu.Unlock()
	if s.opts.Fault == nil {
		return Fault{}
	}
	return s.opts.Fault(c.n, r)
}

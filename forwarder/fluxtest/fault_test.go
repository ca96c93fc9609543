package fluxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestFaults makes one call with each fault, over a socket and in the process, and
// compares what the client sees and what is stored with what the fault promises.
func TestFaults(t *testing.T) {
	body := batch(metric("a", "counter", "1"), metric("b", "counter", "2"), metric("c", "counter", "3"))
	cutEOF := func(err error) bool { return errors.Is(err, io.EOF) }
	cutRST := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	cutAny := func(err error) bool { return cutEOF(err) || cutRST(err) || errors.Is(err, syscall.EPIPE) }
	left := func(err error) bool { return errors.Is(err, context.Canceled) }
	type test struct {
		fault  Fault
		stored int
		status int
		err    func(error) bool // nil: there is an answer
		body   string           // a part of it
		header string           // Retry-After or Location
	}
	tests := []test{
		{fault: Fault{}, stored: 3, status: 201, body: `"accepted":3`},
		{fault: CloseUnread(), err: cutAny},
		{fault: Refuse(time.Millisecond), err: cutAny},
		{fault: ResetAfterRead(), err: cutRST},
		{fault: CommitThenClose(), stored: 3, err: cutEOF},
		{fault: Hang(), err: left},
		{fault: CommitThenHang(), stored: 3, err: left},
		{fault: CommitThen(500), stored: 3, status: 500, body: "Internal Server Error"},
		{fault: CommitLater(time.Hour, 504), status: 504, body: "Gateway Timeout"},
		{fault: RetryAfter(90 * time.Second), status: 429, header: "90"},
		{fault: RetryAt(time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC)), status: 429, header: "Mon, 15 Jan 2024 10:30:00 GMT"},
		{fault: RetryAbsurd(), status: 429, header: "999999999999999"},
		{fault: Status(503).With("Retry-After", "5"), status: 503, header: "5"},
		{fault: Slow(time.Microsecond), stored: 3, status: 201, body: `{"data":{"accepted":3,"rejected":0}}`},
		{fault: Slow(time.Hour), stored: 3, err: left},
		{fault: Delay(time.Millisecond), stored: 3, status: 201, body: `"accepted":3`},
		{fault: Delay(time.Hour), stored: 3, err: left},
		{fault: HTML(), status: 200, body: "<!DOCTYPE html>"},
		{fault: HTML().Committed(), stored: 3, status: 200, body: "<!DOCTYPE html>"},
		{fault: EmptyOK(), status: 200},
		{fault: GarbageJSON(), status: 201, body: `{"data":`},
		{fault: WrongCount(-1), stored: 3, status: 201, body: `"accepted":2`},
		{fault: WrongCount(1), stored: 3, status: 201, body: `"accepted":4`},
		{fault: Rejected(2), stored: 1, status: 201, body: `{"data":{"accepted":1,"rejected":2}}`},
		{fault: HugeBody(500, 1<<20+1), status: 500, body: strings.Repeat("x", 1<<20+1)},
	}
	for _, code := range []int{400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530} {
		tests = append(tests, test{fault: Status(code), status: code, body: `"error"`})
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		tests = append(tests, test{fault: Redirect(code), status: code, header: redirectPath})
	}
	for _, inProcess := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/inprocess=%t", tt.fault.name, inProcess), func(t *testing.T) {
				s := start(t, Options{InProcess: inProcess})
				s.Fault(tt.fault)
				r := request(t, s, "/api/v1/metrics/batch", body)
				if tt.err != nil && tt.err(context.Canceled) {
					ctx, cancel := context.WithCancel(t.Context())
					var leaving sync.WaitGroup
					defer leaving.Wait()
					leaving.Go(func() { // once the fault has struck
						for calls := 0; calls == 0 || len(s.Rows()) < tt.stored; time.Sleep(time.Millisecond) {
							calls = len(s.Requests())
						}
						time.Sleep(30 * time.Millisecond) // for an answer that must not come
						cancel()
					})
					r = r.WithContext(ctx)
				}
				status, answer, header, err := do(s, r)
				if tt.err != nil && !tt.err(err) {
					t.Errorf("error %v is not the promised one", err)
				}
				if tt.err == nil && err != nil {
					t.Errorf("error %v, want an answer", err)
				}
				if tt.status != 0 && status != tt.status {
					t.Errorf("status %d, want %d", status, tt.status)
				}
				if !strings.Contains(answer, tt.body) {
					t.Errorf("body %.200q, want %.200q in it", answer, tt.body)
				}
				if got := header.Get("Retry-After") + header.Get("Location"); got != tt.header {
					t.Errorf("header %q, want %q", got, tt.header)
				}
				if got := len(s.Rows()); got != tt.stored {
					t.Errorf("%d rows stored, want %d", got, tt.stored)
				}
				if got, want := tt.fault.Stored(), tt.stored > 0 || tt.fault.later > 0; got != want && tt.fault.name != "" {
					t.Errorf("Stored() = %t, want %t", got, want)
				}
				q := s.Requests()[0]
				if q.Fault != tt.fault.String() || q.Stored != tt.stored || tt.err == nil && q.Status != tt.status {
					t.Errorf("recorded as %+v", q)
				}
				if got := s.Violations(); len(got) > 0 {
					t.Errorf("violations: %v", got)
				}
			})
		}
	}
}

// TestRedirectFollowed: a client that follows is caught, wherever it comes out.
func TestRedirectFollowed(t *testing.T) {
	for _, code := range []int{302, 307} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			s := start(t, Options{})
			s.Fault(Redirect(code))
			c := client(s)
			c.CheckRedirect = nil
			resp, err := c.Do(request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			vs := s.Violations()
			if len(vs) != 1 || vs[0].Rule != RuleRedirect || !strings.Contains(vs[0].Detail, "key sent: true") {
				t.Errorf("violations %v, want one of %s with the key", vs, RuleRedirect)
			}
		})
	}
}

// TestHugeBodyIsCheap: nothing of a body that the client does not want is made.
func TestHugeBodyIsCheap(t *testing.T) {
	s := start(t, Options{})
	s.Fault(HugeBody(500, 1<<30))
	resp, err := client(s).Do(request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
	if n != 64<<10 {
		t.Errorf("read %d bytes, want %d", n, 64<<10)
	}
	began := time.Now()
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1")))
	if took := time.Since(began); took > leaveGrace/2 {
		t.Errorf("the next call took %v: the first was still being served", took)
	}
	if got := s.Violations(); len(got) > 0 {
		t.Errorf("violations: %v", got)
	}
}

// TestRefuse: dials are refused for a while, then the same port answers.
func TestRefuse(t *testing.T) {
	s := start(t, Options{})
	for refusal := 100 * time.Millisecond; ; refusal *= 4 {
		s.Fault(Refuse(refusal))
		began := time.Now()
		do(s, request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
		_, _, _, err := do(s, request(t, s, "/up", ""))
		late := time.Since(began) >= refusal // then it may be over already
		if !late && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("within the refusal: %v, want ECONNREFUSED", err)
		}
		deadline := time.Now().Add(refusal + 60*time.Second)
		for {
			if status, _, _, _ := do(s, request(t, s, "/up", "")); status == 200 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("not back 60 s after the refusal")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !late {
			break
		}
	}
}

func TestRefuseInProcess(t *testing.T) {
	c := newClock()
	s := start(t, Options{InProcess: true, Now: c.read})
	s.Fault(Refuse(time.Minute))
	do(s, request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
	c.now = c.now.Add(time.Minute - 1)
	_, _, _, err := do(s, request(t, s, "/up", ""))
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("within the refusal: %v, want a refused dial", err)
	}
	c.now = c.now.Add(1)
	get(t, s, "/up")
}

func TestCommitLater(t *testing.T) {
	c := newClock()
	s := start(t, Options{InProcess: true, Now: c.read})
	s.Fault(CommitLater(20*time.Second, 504))
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "counter", "1")))
	c.now = c.now.Add(20*time.Second - 1)
	if got := s.CounterTotal("a").Rows; got != 0 {
		t.Errorf("%d rows before the time, want 0", got)
	}
	if status, _ := get(t, s, "/api/v1/metrics/a/query"); status != 404 {
		t.Errorf("query before the time answered %d, want 404", status)
	}
	c.now = c.now.Add(1)
	if got := s.CounterTotal("a").Rows; got != 1 {
		t.Errorf("%d rows after the time, want 1", got)
	}
	if got := s.Requests()[0].Stored; got != 1 {
		t.Errorf("Stored = %d after the time, want 1", got)
	}
}

// TestFaultsStoreNothingInvalid: what the server would refuse, no fault lets in.
func TestFaultsStoreNothingInvalid(t *testing.T) {
	s := start(t, Options{InProcess: true, Dialect: SelfHosted})
	s.Fault(CommitThen(500))
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "counter", "1"), metric("s", "set", `"u"`)))
	if got := len(s.Rows()); got != 0 {
		t.Errorf("%d rows, want 0", got)
	}
}

// TestFaultOrder: the queue comes before the function, reads have their own, and a
// zero Fault lets a call pass.
func TestFaultOrder(t *testing.T) {
	var asked []int
	s := start(t, Options{InProcess: true, Fault: func(n int, r *http.Request) Fault {
		asked = append(asked, n)
		return Status(503)
	}})
	s.Fault(Fault{}, Status(400))
	s.FaultReads(Status(404))
	var got []int
	for _, call := range []struct{ path, body string }{
		{"/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))},
		{"/api/v1/metrics", ""},
		{"/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))},
		{"/api/v1/metrics", ""},
		{"/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))},
	} {
		status, _ := post(t, s, call.path, call.body)
		got = append(got, status)
	}
	if want := "[201 404 400 503 503]"; fmt.Sprint(got) != want {
		t.Errorf("statuses %v, want %s", got, want)
	}
	if want := "[4 5]"; fmt.Sprint(asked) != want {
		t.Errorf("Options.Fault was asked for calls %v, want %s", asked, want)
	}
}

func TestPoisonAndReject(t *testing.T) {
	s := start(t, Options{InProcess: true,
		Poison: func(r Row) int {
			if r.Name == "bad" {
				return 422
			}
			return 0
		},
		Reject: func(r Row) bool { return r.Name == "no" },
		PoisonEvent: func(e Event) int {
			if e.Name == "bad" {
				return 400
			}
			return 0
		},
		RejectEvent: func(e Event) bool { return e.Name == "no" },
	})
	event := func(name string) string {
		return `{"events":[{"name":"a","timestamp":"` + at + `","tags":{}},{"name":"` + name + `","timestamp":"` + at + `","tags":{}}]}`
	}
	if status, _ := post(t, s, "/api/v1/events/batch", event("bad")); status != 400 || len(s.Events()) != 0 {
		t.Errorf("a poisoned batch of events answered %d and stored %d, want 400 and none", status, len(s.Events()))
	}
	_, counts := post(t, s, "/api/v1/events/batch", event("no"))
	sameJSON(t, "events", counts, `{"data":{"accepted":1,"rejected":1}}`)
	if status, _ := post(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"), metric("bad", "gauge", "1"))); status != 422 {
		t.Errorf("a poisoned batch answered %d, want 422", status)
	}
	if status, _ := post(t, s, "/api/v1/metrics", metric("bad", "gauge", "1")); status != 422 {
		t.Errorf("a poisoned single call answered %d, want 422", status)
	}
	if got := len(s.Rows()); got != 0 {
		t.Errorf("%d rows of a poisoned batch stored, want 0", got)
	}
	_, answer := post(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"), metric("no", "gauge", "1")))
	sameJSON(t, "batch", answer, `{"data":{"accepted":1,"rejected":1}}`)
	if got := len(s.Rows()); got != 1 {
		t.Errorf("%d rows stored, want 1", got)
	}
}

func TestPauseResume(t *testing.T) {
	s := start(t, Options{})
	url := s.URL
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "counter", "1")))
	s.Pause()
	s.Pause()
	if _, _, _, err := do(s, request(t, s, "/up", "")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("paused: %v, want ECONNREFUSED", err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "counter", "1")))
	if s.URL != url || s.CounterTotal("a").Float != 2 {
		t.Errorf("after Resume: URL %s (was %s), total %v, want 2", s.URL, url, s.CounterTotal("a").Float)
	}
	s.Close()
	if err := s.Resume(); err == nil {
		t.Error("Resume of a closed server succeeded")
	}
	again, err := Start(strings.TrimPrefix(url, "http://"), Options{})
	if err != nil {
		t.Fatalf("Start on the same port: %v", err)
	}
	again.Close()
	if _, err := Start("0.0.0.0:0", Options{}); err == nil {
		t.Error("Start on all interfaces succeeded")
	}
}

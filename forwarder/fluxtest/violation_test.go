package fluxtest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRules breaks every rule once and demands that it, and no other, is recorded.
func TestRules(t *testing.T) {
	good := metric("a", "counter", "1")
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	ts := func(s string) string { return with(`"`+at+`"`, s) }
	long := strings.Repeat("n", 256)
	tests := []struct {
		name string
		want Rule // "" for none
		path string
		body string
		opts Options
		edit func(*http.Request)
	}{
		{name: "good", body: batch(good)},
		{name: "good single", path: "/api/v1/metrics", body: good},
		{name: "good events", path: "/api/v1/events/batch", body: `{"events":[{"name":"e","timestamp":"` + at + `","tags":{},"value":null}]}`},
		{name: "name of 255 bytes", body: batch(metric(long[:255], "gauge", "1"))},
		{name: "500 items", body: batch(slices.Repeat([]string{good}, 500)...)},
		{name: "charset", body: batch(good), edit: func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-8") }},
		{name: "hosted set", body: batch(metric("s", "set", `"u1"`))},

		{name: "501 items", want: RuleItems, body: batch(slices.Repeat([]string{good}, 501)...)},
		{name: "500 of 499 items", want: RuleItems, body: batch(slices.Repeat([]string{good}, 500)...), opts: Options{MaxItems: 499}},
		{name: "no items", want: RuleEmpty, body: batch()},
		{name: "body over the limit", want: RuleBody, body: batch(good), opts: Options{MaxBody: 20}},
		{name: "body over 4 MiB", want: RuleBody, body: batch(good) + strings.Repeat(" ", 4<<20)},
		{name: "encoded", want: RuleBody, body: batch(good), edit: func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }},
		{name: "not json", want: RuleJSON, body: "{"},
		{name: "NaN", want: RuleJSON, body: batch(metric("a", "gauge", "NaN"))},
		{name: "two values", want: RuleJSON, body: batch(good) + batch(good)},
		{name: "not utf-8", want: RuleJSON, body: batch(with(`"host":"a"`, "\"host\":\"\xff\""))},
		{name: "item is no object", want: RuleJSON, body: batch("1")},
		{name: "list is no list", want: RuleJSON, body: `{"metrics":{}}`},
		{name: "bare array", want: RuleMember, body: "[" + good + "]"},
		{name: "unknown member", want: RuleMember, body: batch(with(`"name"`, `"weight":2,"name"`))},
		{name: "unknown member beside the list", want: RuleMember, body: `{"id":1,"metrics":[` + good + `]}`},
		{name: "member twice", want: RuleMember, body: batch(with(`"name"`, `"value":2,"name"`))},
		{name: "empty name", want: RuleName, body: batch(metric("", "gauge", "1"))},
		{name: "no name", want: RuleName, body: batch(with(`"name":"a",`, ``))},
		{name: "long name", want: RuleName, body: batch(metric(long, "gauge", "1"))},
		{name: "name with NUL", want: RuleName, body: batch(with(`"a"`, `"a\u0000b"`))},
		{name: "event without name", want: RuleName, path: "/api/v1/events", body: `{"timestamp":"` + at + `","tags":{}}`},
		{name: "histogram", want: RuleType, body: batch(metric("a", "histogram", "1"))},
		{name: "no type", want: RuleType, body: batch(with(`"type":"counter",`, ``))},
		{name: "two types", want: RuleTwoTypes, body: batch(good, metric("a", "gauge", "1"))},
		{name: "no value", want: RuleValue, body: batch(with(`"value":1,`, ``))},
		{name: "null", want: RuleValue, body: batch(metric("a", "gauge", "null"))},
		{name: "1e400", want: RuleValue, body: batch(metric("a", "gauge", "1e400"))},
		{name: "number as string", want: RuleValue, body: batch(metric("a", "gauge", `"1"`))},
		{name: "true", want: RuleValue, body: batch(metric("a", "gauge", "true"))},
		{name: "number in a set", want: RuleValue, body: batch(metric("a", "set", "1"))},
		{name: "empty member", want: RuleValue, body: batch(metric("a", "set", `""`))},
		{name: "event property with NUL", want: RuleValue, path: "/api/v1/events", body: `{"name":"e","timestamp":"` + at + `","tags":{},"properties":{"a":["\\\\\u0000"]}}`},
		{name: "event property with a backslash", path: "/api/v1/events", body: `{"name":"e","timestamp":"` + at + `","tags":{},"properties":{"a":"\\\\u0000"}}`},
		{name: "event host with NUL", want: RuleValue, path: "/api/v1/events", body: `{"name":"e","timestamp":"` + at + `","tags":{},"host":"\u0000"}`},
		{name: "event value", want: RuleValue, path: "/api/v1/events", body: `{"name":"e","value":"x","timestamp":"` + at + `","tags":{}}`},
		{name: "no timestamp", want: RuleTimestamp, body: batch(with(`"timestamp":"`+at+`",`, ``))},
		{name: "timestamp without milliseconds", want: RuleTimestamp, body: batch(ts(`"2024-01-15T10:30:00Z"`))},
		{name: "timestamp in microseconds", want: RuleTimestamp, body: batch(ts(`"2024-01-15T10:30:00.000000Z"`))},
		{name: "timestamp with offset", want: RuleTimestamp, body: batch(ts(`"2024-01-15T10:30:00.000+00:00"`))},
		{name: "numeric timestamp", want: RuleTimestamp, body: batch(ts(`1705314600`))},
		{name: "no such day", want: RuleTimestamp, body: batch(ts(`"2024-02-30T10:30:00.000Z"`))},
		{name: "no tags", want: RuleTags, body: batch(with(`,"tags":{"host":"a"}`, ``))},
		{name: "tag array", want: RuleTags, body: batch(with(`{"host":"a"}`, `["host:a"]`))},
		{name: "tag number", want: RuleTags, body: batch(with(`"host":"a"`, `"host":1`))},
		{name: "tag twice", want: RuleTags, body: batch(with(`"host":"a"`, `"host":"a","host":"b"`))},
		{name: "tag with NUL", want: RuleTags, body: batch(with(`"host":"a"`, `"host":"\u0000"`))},
		{name: "string in a self-hosted batch", want: RuleStringBatch, body: batch(metric("s", "set", `"u1"`)), opts: Options{Dialect: SelfHosted}},
		{name: "mixed", want: RuleMixed, path: "/api/v1/flux/batch", body: `{"metrics":[` + good + `],"events":[{"name":"e","timestamp":"` + at + `","tags":{}}]}`},
		{name: "content type", want: RuleHeader, body: batch(good), edit: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }},
		{name: "accept", want: RuleHeader, body: batch(good), edit: func(r *http.Request) { r.Header.Del("Accept") }},
		{name: "user agent", want: RuleHeader, body: batch(good), edit: func(r *http.Request) { r.Header.Set("User-Agent", "curl/8") }},
		{name: "wrong key", want: RuleKey, body: batch(good), edit: func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }},
		{name: "no key", want: RuleKey, path: "/api/v1/metrics/a/query", edit: func(r *http.Request) { r.Header.Del("Authorization") }},
		{name: "redirect target", want: RuleRedirect, path: redirectPath},
		{name: "unknown path", want: RulePath, path: "/api/v2/metrics", body: batch(good)},
		{name: "unknown post", want: RulePath, path: "/api/v1/traces", body: "{}"},
		{name: "unknown get", want: RulePath, path: "/api/v1/nothing"},
		{name: "method", want: RulePath, body: batch(good), edit: func(r *http.Request) { r.Method = http.MethodPut }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.InProcess = true
			s := start(t, tt.opts)
			path := tt.path
			if path == "" {
				path = "/api/v1/metrics/batch"
			}
			r := request(t, s, path, tt.body)
			if tt.edit != nil {
				tt.edit(r)
			}
			if _, _, _, err := do(s, r); err != nil {
				t.Fatal(err)
			}
			var want []Rule
			if tt.want != "" {
				want = []Rule{tt.want}
			}
			if got := rulesOf(s); !slices.Equal(got, want) {
				t.Errorf("rules broken: %v, want %v; %v", got, want, s.Violations())
			}
			s2 := start(t, Options{InProcess: true, Dialect: tt.opts.Dialect, MaxItems: tt.opts.MaxItems, MaxBody: tt.opts.MaxBody, Allow: want})
			r2 := r.Clone(t.Context())
			r2.Body, _ = r.GetBody()
			if _, _, _, err := do(s2, r2); err != nil {
				t.Fatal(err)
			}
			if got := s2.Violations(); len(got) > 0 {
				t.Errorf("with Allow %v: %v", want, got)
			}
		})
	}
}

func TestRates(t *testing.T) {
	for _, tt := range []struct {
		rule       Rule
		limit      int
		path, body string
	}{
		{RuleRate, 10, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))},
		{RuleSingleRate, 60, "/api/v1/metrics", metric("a", "gauge", "1")},
		{RuleQueryRate, 60, "/api/v1/metrics", ""},
	} {
		t.Run(string(tt.rule), func(t *testing.T) {
			c := newClock()
			s := start(t, Options{InProcess: true, Now: c.read})
			for range tt.limit {
				post(t, s, tt.path, tt.body)
			}
			c.now = c.now.Add(time.Minute)
			for range tt.limit { // exactly 60 s later the first ones are out of the window
				post(t, s, tt.path, tt.body)
			}
			if got := s.Violations(); len(got) > 0 {
				t.Fatalf("at the limit: %v", got)
			}
			c.now = c.now.Add(time.Minute - 1)
			post(t, s, tt.path, tt.body)
			if got, want := rulesOf(s), []Rule{tt.rule}; !slices.Equal(got, want) {
				t.Errorf("one more within 60 s broke %v, want %v", got, want)
			}
			if tt.rule == RuleRate {
				if got, want := s.MaxRequestsIn(time.Minute), 11; got != want {
					t.Errorf("MaxRequestsIn(60s) = %d, want %d", got, want)
				}
			}
		})
	}
}

// TestRateCountsCutCalls: an attempt counts whatever became of it.
func TestRateCountsCutCalls(t *testing.T) {
	s := start(t, Options{InProcess: true, RequestsPerMinute: 1, Fault: func(int, *http.Request) Fault { return CloseUnread() }})
	for range 2 {
		do(s, request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
	}
	if got, want := rulesOf(s), []Rule{RuleRate}; !slices.Equal(got, want) {
		t.Errorf("rules broken: %v, want %v", got, want)
	}
}

func TestEnforceRate(t *testing.T) {
	c := newClock()
	s := start(t, Options{InProcess: true, Now: c.read, EnforceRate: true, Allow: []Rule{RuleRate}})
	body := batch(metric("a", "counter", "1"))
	for i := range 10 {
		if status, _ := post(t, s, "/api/v1/metrics/batch", body); status != 201 {
			t.Fatalf("call %d answered %d, want 201", i, status)
		}
	}
	c.now = c.now.Add(20 * time.Second)
	status, _, header, err := do(s, request(t, s, "/api/v1/metrics/batch", body))
	if err != nil || status != 429 || header.Get("Retry-After") != "40" {
		t.Errorf("11th call answered %d, Retry-After %q, %v; want 429, 40", status, header.Get("Retry-After"), err)
	}
	c.now = c.now.Add(40 * time.Second)
	if status, _ := post(t, s, "/api/v1/metrics/batch", body); status != 201 {
		t.Errorf("after Retry-After the call answered %d, want 201", status)
	}
	if got, want := s.CounterTotal("a").Float, 11.0; got != want {
		t.Errorf("CounterTotal = %v, want %v: the refused call must not be stored", got, want)
	}
}

func TestConcurrentCalls(t *testing.T) {
	inside, release := make(chan bool), make(chan bool)
	s := start(t, Options{Fault: func(n int, _ *http.Request) Fault {
		if n == 1 {
			inside <- true
			<-release
		}
		return Fault{}
	}})
	s.grace = 100 * time.Millisecond
	first := make(chan error)
	go func() {
		_, _, _, err := do(s, request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1"))))
		first <- err
	}()
	<-inside
	get(t, s, "/up") // is not part of the API
	if got := s.Violations(); len(got) > 0 {
		t.Errorf("GET /up beside a call: %v", got)
	}
	get(t, s, "/api/v1/metrics")
	release <- true
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got, want := rulesOf(s), []Rule{RuleConcurrent}; !slices.Equal(got, want) {
		t.Errorf("rules broken: %v, want %v", got, want)
	}
}

// TestSequentialCallsAreAlone: no call may count as in flight once its client has the
// answer, or has left.
func TestSequentialCallsAreAlone(t *testing.T) {
	// Not the queue: a client that leaves before it has connected takes no fault from it.
	s := start(t, Options{RequestsPerMinute: -1, QueriesPerMinute: -1, Fault: func(_ int, r *http.Request) Fault {
		if r.Header.Get("Hang") != "" {
			return CommitThenHang()
		}
		return Fault{}
	}})
	for range 100 {
		post(t, s, "/api/v1/metrics/batch", batch(slices.Repeat([]string{metric("a", "gauge", "1")}, 100)...))
		get(t, s, "/api/v1/metrics/a/query")
		c := client(s)
		c.Timeout = 2 * time.Millisecond
		r := request(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1")))
		r.Header.Set("Hang", "1")
		if resp, err := c.Do(r); err == nil {
			resp.Body.Close()
			t.Fatal("a hanging call was answered")
		}
	}
	if got := s.Violations(); len(got) > 0 {
		t.Error(got)
	}
}

func TestBatchIdentity(t *testing.T) {
	send := func(s *Server, id, body string) {
		r := request(t, s, "/api/v1/metrics/batch", body)
		r.Header.Set("Sluice-Batch", id)
		do(s, r)
	}
	s := start(t, Options{InProcess: true})
	one, two := batch(metric("a", "counter", "1")), batch(metric("a", "counter", "2"))
	s.Fault(Status(503))
	send(s, "1", one)
	send(s, "1", one) // the same bytes after a refusal: as it should be
	send(s, "2", two)
	if got := s.TakeViolations(); len(got) > 0 {
		t.Fatalf("an honest repetition: %v", got)
	}
	send(s, "2", two)
	if got, want := rulesOf(s), []Rule{RuleTwice}; !slices.Equal(got, want) {
		t.Errorf("stored twice: %v, want %v", got, want)
	}
	if got, want := len(s.Duplicates()), 2; got != want { // 2 and its repetition, after 1
		t.Errorf("len(Duplicates()) = %d, want %d", got, want)
	}
	s.TakeViolations()
	s.Fault(Status(503))
	send(s, "3", one)
	s.Fault(Status(503))
	send(s, "3", two)
	if got, want := rulesOf(s), []Rule{RuleChangedBatch}; !slices.Equal(got, want) {
		t.Errorf("changed: %v, want %v", got, want)
	}
}

// recorder is a testing.TB that keeps errors.
type recorder struct {
	testing.TB
	errs     []string
	cleanups []func()
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(f string, a ...any) { r.errs = append(r.errs, fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(a ...any)            { r.errs = append(r.errs, fmt.Sprint(a...)) }

func TestNewFailsItsTest(t *testing.T) {
	rec := &recorder{}
	s := New(rec, Options{})
	for range 30 {
		post(t, s, "/api/v1/metrics/batch", batch(metric("", "gauge", "1")))
	}
	rec.cleanups[0]()
	s.Close() // once more, harmlessly
	if got, want := len(rec.errs), 21; got != want {
		t.Fatalf("%d errors, want %d: %q", got, want, rec.errs)
	}
	if got, want := rec.errs[0], "name: call 1 item 0"; !strings.Contains(got, want) {
		t.Errorf("first error %q, want it to contain %q", got, want)
	}
	_, _, _, err := do(s, request(t, s, "/up", ""))
	if err == nil || errors.Is(err, http.ErrServerClosed) {
		t.Errorf("a closed server answered (%v)", err)
	}

	clean := &recorder{}
	s = New(clean, Options{})
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1")))
	s.Close()
	if len(clean.errs) > 0 {
		t.Errorf("a clean test failed: %q", clean.errs)
	}
}

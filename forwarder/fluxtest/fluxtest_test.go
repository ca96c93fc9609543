package fluxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a well-formed timestamp, and the start of a minute.
const at = "2024-01-15T10:30:00.000Z"

// start makes a server whose violations the test inspects itself.
func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start("", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// metric is one item as the agent writes it; value is JSON.
func metric(name, typ, value string) string {
	return fmt.Sprintf(`{"name":%q,"type":%q,"value":%s,"timestamp":%q,"tags":{"host":"a"}}`, name, typ, value, at)
}

func batch(items ...string) string { return `{"metrics":[` + strings.Join(items, ",") + `]}` }

// request is a POST, or a GET without a body, with the headers of the contract.
func request(t *testing.T, s *Server, path, body string) *http.Request {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+Key)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "sluice/test")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// client speaks to the server with a connection for each call, and follows nothing.
func client(s *Server) *http.Client {
	var rt http.RoundTripper = &http.Transport{DisableKeepAlives: true}
	if s.opts.InProcess {
		rt = Transport(s.Handler())
	}
	return &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request and reads the answer; status is 0 with an error.
func do(s *Server, r *http.Request) (status int, body string, header http.Header, err error) {
	resp, err := client(s).Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header, err
}

func post(t *testing.T, s *Server, path, body string) (status int, answer string) {
	t.Helper()
	status, answer, _, err := do(s, request(t, s, path, body))
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return status, answer
}

func get(t *testing.T, s *Server, path string) (status int, answer string) {
	t.Helper()
	return post(t, s, path, "")
}

// sameJSON compares two JSON texts by value.
func sameJSON(t *testing.T, call, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Errorf("%s answered %s: %v", call, got, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	gb, _ := json.Marshal(g)
	wb, _ := json.Marshal(w)
	if !bytes.Equal(gb, wb) {
		t.Errorf("%s answered\n%s, want\n%s", call, gb, wb)
	}
}

// rulesOf returns the rules broken so far, each once, sorted.
func rulesOf(s *Server) []Rule {
	var rules []Rule
	for _, v := range s.Violations() {
		rules = append(rules, v.Rule)
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// clock is a hand-moved clock.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC)} }

func (c *clock) read() time.Time { return c.now }

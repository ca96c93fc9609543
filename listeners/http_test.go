package listeners

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
)

// began is when the window of every apiTest opened; it stays open until holds asks. A
// time that is taken later may be in the next one.
var began = time.Now()

// An apiTest is an API in front of a real aggregator, behind the guard, asked
// without sockets.
type apiTest struct {
	t       *testing.T
	api     *API
	home    *aggregator.Aggregator
	handler http.Handler
	host    string // of requests
}

func newAPITest(t *testing.T, o APIOptions) *apiTest {
	t.Helper()
	o.Name, o.Version = "http:test", "1.2.3"
	a := &apiTest{t: t, host: "localhost:8127", api: NewAPI(o), home: aggregator.New(aggregator.Options{
		Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 1000, MaxSeriesPerMetric: 1000, MaxSetMembers: 100,
	}, began)}
	mux := http.NewServeMux()
	a.api.Routes(mux, func(s aggregator.Spelling) Sink { return a.home.Intake(s) })
	a.handler = Guard{}.Wrap(mux)
	return a
}

// do makes a request and returns the answer. headers are "Name=value".
func (a *apiTest) do(method, path, body string, headers ...string) (status int, answer string, header http.Header) {
	a.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = a.host
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Result().Header
}

// post makes a call of which only status and answer matter.
func (a *apiTest) post(path, body string) (status int, answer string) {
	a.t.Helper()
	status, answer, _ = a.do("POST", path, body)
	return status, answer
}

// holds compares everything that the aggregator has with want: one text per
// series, as describe writes them, sorted.
func (a *apiTest) holds(want ...string) {
	a.t.Helper()
	var got []string
	for _, w := range a.home.Rotate(time.Now().Add(time.Minute)) {
		got = append(got, describe(a.t, w)...)
		w.Release()
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		a.t.Errorf("the aggregator holds\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sameJSON compares two JSON texts by what they say. In want "*" stands for any
// text that is not empty.
func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("the answer is no JSON: %v\n%s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("what is wanted is no JSON: %v\n%s", err, want)
	}
	if !matches(g, w) {
		t.Errorf("answer %s, want %s", strings.TrimSpace(got), want)
	}
}

func matches(got, want any) bool {
	switch w := want.(type) {
	case string:
		g, ok := got.(string)
		return ok && (w == "*" && g != "" || g == w)
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for k, v := range w {
			if _, there := g[k]; !there || !matches(g[k], v) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		return ok && slices.EqualFunc(g, w, matches)
	}
	return fmt.Sprint(got) == fmt.Sprint(want)
}

// describe writes a window as texts, one per series and event: "series = value",
// with "late" behind those of other times.
func describe(t testing.TB, w *aggregator.Window) (all []string) {
	t.Helper()
	var parts [][]byte
	for p := range w.Parts() {
		parts = append(parts, bytes.Clone(p))
	}
	r, err := aggregator.OpenReader(parts...)
	if err != nil {
		t.Fatal(err)
	}
	late := ""
	if w.Late {
		late = " late"
	}
	m := aggregator.Merge(100, nil, r)
	for s, v := range m.All() {
		text := s.String() + " = "
		switch s.Kind() {
		case aggregator.Counter:
			text += string(v.AppendTotal(nil))
		case aggregator.Gauge:
			text += fmt.Sprint(v.Last())
		case aggregator.Set:
			text += strings.Join(slices.Collect(v.Members()), " ")
		default:
			text += string(v.AppendCount(nil)) + " values, sum " + string(v.AppendSum(nil))
		}
		all = append(all, text+late)
	}
	for e := range m.Events() {
		text := "event " + string(e.Name)
		for k, v := range e.EachTag() {
			text += " " + string(k) + ":" + string(v)
		}
		if e.HasValue {
			text += fmt.Sprintf(" = %v", e.Value)
		}
		if e.Time < time.Now().Add(-2*time.Hour).UnixNano() {
			text += " at " + string(appendTimestamp(nil, e.Time))
		}
		for _, part := range []struct {
			name string
			text []byte
		}{{"properties", e.Properties}, {"user", e.UserID}, {"session", e.SessionID}, {"request", e.RequestID},
			{"environment", e.Environment}, {"service", e.Service}, {"host", e.Host}} {
			if len(part.text) > 0 {
				text += " " + part.name + "=" + string(part.text)
			}
		}
		all = append(all, text)
	}
	if m.Err() != nil {
		t.Fatal(m.Err())
	}
	return all
}

// raw makes a request whose target stands in the request line as it is.
func (a *apiTest) raw(target, method string) (status int) {
	a.t.Helper()
	r := httptest.NewRequest(method, "/", strings.NewReader(`{"name":"a","value":1}`))
	r.Host, r.RequestURI = "localhost", target
	var err error
	if r.URL, err = r.URL.Parse(target); err != nil {
		return http.StatusBadRequest // what net/http answers
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w.Code
}

package listeners

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"sluice/aggregator"
)

// TestCalls has every path of "Flux", "Pulse" and "Health", under each prefix, with
// the least that it takes. DataCat's are in TestDataCatCalls.
func TestCalls(t *testing.T) {
	const item, event = `{"name":"a","type":"counter","value":1}`, `{"name":"e"}`
	pulse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	provision := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, test := range []struct {
		method, path, body string
		status             int
		prefixes           string // separated by spaces; - is none
	}{
		{"POST", "/api/v1/metrics", item, 201, "- /flux /pulse"},
		{"POST", "/api/v1/metrics/batch", "[" + item + "]", 201, "- /flux /pulse"},
		{"POST", "/api/v1/metrics/batch", `{"metrics":[` + item + `]}`, 201, "- /flux /pulse"},
		{"POST", "/api/v1/events", event, 201, "- /flux"},
		{"POST", "/api/v1/events/batch", "[" + event + "]", 201, "- /flux"},
		{"POST", "/api/v1/events/batch", `{"events":[` + event + `]}`, 201, "- /flux"},
		{"POST", "/api/v1/flux/batch", `{"metrics":[` + item + `],"events":[` + event + `]}`, 201, "- /flux"},
		{"POST", "/api/v1/projects/provision", `{}`, http.StatusTeapot, "- /flux /pulse"},
		{"GET", "/api/v1/projects/lookup", ``, http.StatusTeapot, "- /flux /pulse"},
		{"POST", "/api/v1/traces", `{}`, 202, "- /pulse"},
		{"POST", "/api/v1/traces/batch", `{}`, 202, "- /pulse"},
		{"POST", "/api/v1/spans", `{}`, 202, "- /pulse"},
		{"POST", "/api/v1/spans/batch", `{}`, 202, "- /pulse"},
		{"POST", "/api/v1/browser", `{}`, 202, "- /pulse"},
		{"GET", "/up", ``, 200, "- /flux /pulse"},
		{"GET", "/healthz", ``, 200, "-"},
		{"GET", "/health", ``, 200, "-"},
	} {
		for prefix := range strings.FieldsSeq(test.prefixes) {
			path := strings.TrimPrefix(prefix, "-") + test.path
			a := newAPITest(t, APIOptions{Pulse: pulse, Provision: provision})
			if status, answer, _ := a.do(test.method, path, test.body); status != test.status {
				t.Errorf("%s %s: status %d, want %d: %s", test.method, path, status, test.status, answer)
			}
		}
		if !strings.Contains(test.prefixes, "/pulse") {
			a := newAPITest(t, APIOptions{})
			if status, _, _ := a.do(test.method, "/pulse"+test.path, test.body); status != 404 {
				t.Errorf("%s /pulse%s: status %d, want 404", test.method, test.path, status)
			}
		}
	}
}

// TestKeysAreIgnored is "Keys" of "HTTP: common rules": without a token nothing is
// asked for, and what programs show all the same is in nobody's way.
func TestKeysAreIgnored(t *testing.T) {
	for _, header := range []string{
		"Authorization=Bearer sk_live_x", "Authorization=Bearer ", "Authorization=Bearer", "Authorization=Basic eDp5", "X-API-Key=x", "X-Master-Key=x",
	} {
		a := newAPITest(t, APIOptions{})
		if status, answer, _ := a.do("POST", "/api/v1/metrics?api_key=x", `{"api_key":"x","name":"a","type":"counter"}`, header); status != 201 {
			t.Errorf("%s: status %d, want 201: %s", header, status, answer)
		}
		if status, answer, _ := a.do("POST", "/api/v1/metrics/batch", `{"api_key":"x","metrics":[{"name":"a","type":"counter"}]}`, header); status != 201 {
			t.Errorf("%s: batch: status %d, want 201: %s", header, status, answer)
		}
		if status, answer, _ := a.do("POST", "/register", `{"api_key":"x","product":"p","version":"1"}`, header); status != 200 {
			t.Errorf("%s: DataCat: status %d, want 200: %s", header, status, answer)
		}
		a.holds("a|counter = 2")
	}
}

// TestProbes is "Health": probes need no token, and /up and /health no Host either.
func TestProbes(t *testing.T) {
	mux := http.NewServeMux()
	NewAPI(APIOptions{Version: "1.2.3"}).Routes(mux, func(aggregator.Spelling) Sink { return deaf{} })
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	a := newAPITest(t, APIOptions{})
	a.handler = Guard{Token: "secret"}.Wrap(mux)
	for path, anyHost := range map[string]bool{"/up": true, "/flux/up": true, "/pulse/up": true, "/health": true, "/healthz": false, "/readyz": false} {
		a.host = "localhost:8127"
		if status, answer, _ := a.do("GET", path, ""); status != 200 {
			t.Errorf("GET %s: status %d, want 200: %s", path, status, answer)
		}
		want := map[bool]int{true: 200, false: 421}[anyHost]
		a.host = "metrics.example:8127"
		if status, answer, _ := a.do("GET", path, "", "Sec-Fetch-Site=cross-site"); status != want {
			t.Errorf("GET %s of another host: status %d, want %d: %s", path, status, want, answer)
		}
	}
	_, answer, _ := a.do("GET", "/health", "")
	sameJSON(t, answer, `{"status":"healthy","service":"sluice","version":"1.2.3"}`)
}

// TestMixedBatches: where Flux's and Pulse's items stand in one batch, the first one
// says which limit and which answer there are.
func TestMixedBatches(t *testing.T) {
	const flux, pulse = `{"name":"a","type":"counter"}`, `{"name":"a","value":1,"kind":"counter"}`
	list := func(first string, n int, rest string) string {
		return "[" + first + strings.Repeat(","+rest, n-1) + "]"
	}
	for _, test := range []struct {
		name, path, body string
		status           int
		answer           string
	}{
		{"Flux first", "/api/v1/metrics/batch", list(flux, 2, pulse), 201, `{"data":{"accepted":2,"rejected":0},"ingested":2}`},
		{"Pulse first", "/api/v1/metrics/batch", list(pulse, 2, flux), 201, `{"data":{"accepted":2,"rejected":0},"processed":2}`},
		{"a bad one of Pulse first", "/api/v1/metrics/batch", list(`{"kind":"gauge"}`, 2, flux), 201,
			`{"data":{"accepted":1,"rejected":1},"processed":1,"errors":[{"index":0,"code":"missing_name","message":"*"}]}`},
		{"Flux first, 501", "/api/v1/metrics/batch", list(flux, 501, pulse), 413, `{"error":"*","code":"batch_too_large"}`},
		{"Pulse first, 1,000", "/api/v1/metrics/batch", list(pulse, 1000, flux), 201, `{"data":{"accepted":1000,"rejected":0},"processed":1000}`},
		{"Pulse first, 1,001", "/api/v1/metrics/batch", list(pulse, 1001, flux), 413, `{"error":"*","code":"batch_too_large"}`},
		{"500 events", "/api/v1/events/batch", list(`{"name":"e"}`, 500, `{"name":"e"}`), 201, `{"data":{"accepted":500,"rejected":0},"ingested":500}`},
		{"500 of both", "/api/v1/flux/batch", `{"metrics":` + list(flux, 500, flux) + `,"events":` + list(`{"name":"e"}`, 500, `{"name":"e"}`) + `}`, 201,
			`{"data":{"events":{"accepted":500,"rejected":0},"metrics":{"accepted":500,"rejected":0}},"events_ingested":500,"metrics_ingested":500,"total":1000}`},
		{"501 events", "/api/v1/flux/batch", `{"metrics":[` + flux + `],"events":` + list(`{"name":"e"}`, 501, `{"name":"e"}`) + `}`, 413, `{"error":"*","code":"batch_too_large"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAPITest(t, APIOptions{})
			status, answer := a.post(test.path, test.body)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			sameJSON(t, answer, test.answer)
			if status == 413 {
				a.holds()
			}
		})
	}
}

// TestDataCatBodies: what is wrong with a body is told in DataCat's own way, a line
// of text, and counted under the code that the other dialects answer with.
func TestDataCatBodies(t *testing.T) {
	const good = `{"name":"a","value":1}`
	for _, test := range []struct {
		name    string
		prepare func(a *apiTest)
		body    io.Reader
		header  string
		code    Code
		text    string // "" is the code's message
	}{
		{name: "a form", body: strings.NewReader(good), header: "Content-Type=application/x-www-form-urlencoded", code: UnsupportedMediaType},
		{name: "another coding", body: strings.NewReader(good), header: "Content-Encoding=br", code: UnsupportedMediaType},
		{name: "no gzip", body: strings.NewReader(good), header: "Content-Encoding=gzip", code: InvalidJSON, text: "Invalid request body"},
		{name: "over 4 MiB", body: strings.NewReader(good + strings.Repeat(" ", MaxBody)), code: BodyTooLarge},
		{name: "over 4 MiB inflated", body: strings.NewReader(string(zipped(t, []byte(good+strings.Repeat(" ", MaxBody))))), header: "Content-Encoding=gzip", code: BodyTooLarge},
		{name: "cut off", body: io.MultiReader(strings.NewReader(good[:9]), iotest.ErrReader(io.ErrUnexpectedEOF)), code: BodyTimeout},
		{name: "too slow", body: io.MultiReader(strings.NewReader(good[:9]), iotest.ErrReader(errors.New("i/o timeout"))), code: BodyTimeout},
		{name: "too many bodies", body: strings.NewReader(good + strings.Repeat(" ", 100<<10)), code: Overloaded, prepare: func(a *apiTest) { a.api.bodies.left.Store(1 << 10) }},
		{name: "too many totals", body: strings.NewReader(`{"name":"a","value":1,"type":"counter"}`), code: Overloaded, text: "Too many sessions or running totals",
			prepare: func(a *apiTest) { a.api.sessions.totals.left.Store(0) }},
		{name: "stopping", body: strings.NewReader(good), code: Stopping, prepare: func(a *apiTest) { a.api.Stop() }},
	} {
		for _, kind := range []string{"server", "daemon"} {
			if kind == "daemon" && test.text != "" && test.code != Overloaded {
				continue // the daemon's text is another
			}
			t.Run(test.name+"/"+kind, func(t *testing.T) {
				a := newAPITest(t, APIOptions{})
				id := a.session("/api/sessions")
				if test.prepare != nil {
					test.prepare(a)
				}
				body, path := test.body, "/api/sessions/"+id+"/metrics"
				if kind == "daemon" {
					if test.code == Overloaded || test.code == Stopping { // these need the id
						b, _ := io.ReadAll(body)
						body = strings.NewReader(strings.Replace(string(b), "{", `{"session_id":"`+id+`",`, 1))
					}
					path = "/metric"
				}
				r := httptest.NewRequest("POST", path, body)
				r.Host = a.host
				r.Header.Set("Content-Type", "application/json")
				if name, value, ok := strings.Cut(test.header, "="); ok {
					r.Header.Set(name, value)
				}
				w := httptest.NewRecorder()
				a.handler.ServeHTTP(w, r)
				text := test.text
				if text == "" {
					text = test.code.Message()
				}
				if w.Code != test.code.Status() || w.Body.String() != text+"\n" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
					t.Errorf("status %d, %q (%s), want %d, %q", w.Code, w.Body, w.Header().Get("Content-Type"), test.code.Status(), text)
				}
				if after := w.Header().Get("Retry-After"); (test.code == Overloaded) != (after == "1") {
					t.Errorf("Retry-After %q", after)
				}
				if got := a.api.Stats().Codes[test.code]; got != 1 {
					t.Errorf("%d counted as %s, want 1", got, test.code)
				}
				if test.code != Stopping {
					a.holds()
				}
				if s, ok := test.body.(io.Seeker); ok {
					s.Seek(0, io.SeekStart)
				}
			})
		}
	}
}

// TestBodyTimeout is the same for the others: a body that ends too early, or does not
// come, is 408 and nothing of it is taken.
func TestBodyTimeout(t *testing.T) {
	for _, err := range []error{io.ErrUnexpectedEOF, errors.New("i/o timeout")} {
		for _, path := range []string{"/api/v1/metrics", "/api/v1/metrics/batch", "/api/v1/events", "/pulse/api/v1/metrics/batch"} {
			a := newAPITest(t, APIOptions{})
			r := httptest.NewRequest("POST", path, io.MultiReader(strings.NewReader(`[{"name":"a","type":"counter"}]`), iotest.ErrReader(err)))
			r.Host = a.host
			w := httptest.NewRecorder()
			a.handler.ServeHTTP(w, r)
			checkError(t, w.Code, w.Body.String(), http.StatusRequestTimeout, "body_timeout")
			if w.Header().Get("Connection") != "close" {
				t.Errorf("%s: the connection would be used again", path)
			}
			a.holds()
		}
	}
}

// TestDataCatGzip: bodies of DataCat may be compressed.
func TestDataCatGzip(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	id := a.session("/api/sessions")
	if status, answer, _ := a.do("POST", "/api/sessions/"+id+"/metrics", string(zipped(t, []byte(`{"name":"a","value":1}`))), "Content-Encoding=gzip"); status != 200 {
		t.Errorf("status %d, want 200: %s", status, answer)
	}
	a.holds("a|gauge = 1")
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/forwarder/fluxtest"
)

// A recordedCall is one that the agent has passed on.
type recordedCall struct{ method, path, key, master, body string }

// recording stands in front of a fake upstream: it answers what has no metrics in it
// by itself, and keeps those calls.
func recording(t *testing.T, behind *fluxtest.Server, mine func(*http.Request) (status int, answer string, ok bool)) (at string, calls func() []recordedCall) {
	t.Helper()
	to, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []recordedCall
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, answer, ok := mine(r)
		if !ok {
			proxy.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		all = append(all, recordedCall{r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("X-Master-Key"), string(body)})
		mu.Unlock()
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(front.Close)
	return front.URL, func() []recordedCall {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// TestDataCatSessions runs a program of DataCat against an agent with a DataCat
// upstream: its session is the upstream's, all that is no metric goes there as it
// comes, once, with the agent's key, and its metrics go the way of all metrics.
func TestDataCatSessions(t *testing.T) {
	datacat := fluxtest.New(t, shared(fluxtest.Options{Dialect: fluxtest.DataCat}))
	at, calls := recording(t, datacat, func(r *http.Request) (int, string, bool) {
		id, operation, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/sessions/"), "/")
		switch {
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/sessions/") && operation == "":
			return 200, `{"id":"` + id + `","from":"there"}`, true
		case slices.Contains([]string{"events", "state", "heartbeat", "end", "crash"}, operation):
			return 200, `{"status":"ok"}`, true
		}
		return 0, "", false
	})
	d := start(t, setup{Flux: at, Upstream: "type: datacat"})
	const client = "Authorization=Bearer canary"
	status, answer := d.post("/register", `{"parent_pid":1,"product":"game","version":"1.0"}`, client)
	var session map[string]string
	if err := json.Unmarshal([]byte(answer), &session); err != nil || status != 200 {
		t.Fatalf("register: status %d, %v: %s", status, err, answer)
	}
	id := session["session_id"]
	if !strings.HasPrefix(id, "00000000-0000-4000-8000-") {
		t.Errorf("the session %s is not one that the upstream has made", id)
	}
	for _, call := range []struct{ path, body string }{
		{"/metric", `{"session_id":"` + id + `","name":"kills","type":"counter","value":3}`},
		{"/metric", `{"session_id":"` + id + `","name":"kills","type":"counter","value":5}`},
		{"/event", `{"session_id":"` + id + `","name":"moved","data":{"x":1}}`},
		{"/state", `{"session_id":"` + id + `","state":{"level":2}}`},
		{"/api/sessions/" + id + "/heartbeat", ``},
		{"/api/sessions/" + id + "/metrics", `{"name":"kills","type":"counter","value":9}`},
		{"/api/sessions/" + id + "/end", ``},
	} {
		if status, answer := d.post(call.path, call.body, client); status != 200 {
			t.Errorf("%s %s: status %d, %s", call.path, call.body, status, answer)
		}
	}
	if status, answer := d.get("/session?session_id=" + id); status != 200 || !strings.Contains(answer, `"from":"there"`) {
		t.Errorf("the session: status %d, %s", status, answer)
	}
	d.taken(3)
	d.until("the counter has arrived", func() bool { return datacat.Grown("kills") == 9 })
	d.delivered()
	d.balanced()
	base := "/api/sessions/" + id
	want := []recordedCall{
		{"POST", base + "/events", "", "", `{"session_id":"` + id + `","name":"moved","data":{"x":1}}`},
		{"POST", base + "/state", "", "", `{"level":2}`},
		{"POST", base + "/heartbeat", "", "", `{}`},
		{"POST", base + "/end", "", "", `{}`},
		{"GET", base, "", "", ""},
	}
	for i := range want {
		want[i].key = "Bearer " + fluxtest.Key
	}
	if got := calls(); !slices.Equal(got, want) {
		t.Errorf("passed on were\n%+v\nwant\n%+v", got, want)
	}
}

// TestPulseBeside runs a program of Pulse against an agent with a Pulse upstream:
// traces and spans are passed on as they come, and a project is asked for with the
// program's master key alone.
func TestPulseBeside(t *testing.T) {
	pulse := fluxtest.New(t, shared(fluxtest.Options{Dialect: fluxtest.PulseOpen, MaxItems: 999}))
	at, calls := recording(t, pulse, func(r *http.Request) (int, string, bool) {
		switch {
		case strings.Contains(r.URL.Path, "/projects/"):
			return 200, `{"ingest_key":"theirs"}`, true
		case strings.Contains(r.URL.Path, "/traces"), strings.Contains(r.URL.Path, "/spans"):
			return 201, `{"processed":1}`, true
		}
		return 0, "", false
	})
	d := start(t, setup{Flux: at, Upstream: "type: pulse"})
	ours := "Bearer " + fluxtest.Key
	var want []recordedCall
	for _, call := range []struct {
		path, body string
		status     int
		to         recordedCall
	}{
		{"/pulse/api/v1/traces/batch", `{"traces":[{"trace_id":"t"}]}`, 201, recordedCall{path: "/api/v1/traces/batch", key: ours}},
		{"/api/v1/spans", `{"span_id":"s"}`, 201, recordedCall{path: "/api/v1/spans", key: ours}},
		{"/api/v1/projects/provision", `{"name":"shop"}`, 200, recordedCall{path: "/api/v1/projects/provision", master: "master"}},
	} {
		status, answer := d.post(call.path, call.body, "Authorization=Bearer canary", "X-Master-Key=master")
		if status != call.status {
			t.Errorf("%s: status %d, want %d: %s", call.path, status, call.status, answer)
		}
		call.to.method, call.to.body = "POST", call.body
		want = append(want, call.to)
	}
	if got := calls(); !slices.Equal(got, want) {
		t.Errorf("passed on were\n%+v\nwant\n%+v", got, want)
	}
	if status, answer := d.post("/pulse/api/v1/metrics", `{"name":"jobs","type":"counter","value":7}`); status != 201 {
		t.Errorf("metric: status %d, %s", status, answer)
	}
	d.until("the counter has arrived", func() bool { return pulse.CounterTotal("jobs").Float == 7 })
	d.delivered()
	if status, answer := d.post("/api/v1/projects/provision", `{"name":"shop","environment":"test"}`, "X-Master-Key=master"); status != 503 {
		t.Errorf("a project of Flux, for which there is no upstream: status %d, %s", status, answer)
	}
	if text := fmt.Sprint(calls()); strings.Contains(text, "canary") {
		t.Errorf("a program's key went along: %s", text)
	}
}

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// post makes a call of the local API; status 0 means that there was no answer.
func (d *daemon) post(path, body string, headers ...string) (status int, answer string) {
	d.t.Helper()
	req, err := http.NewRequest("POST", d.http+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		req.Header.Set(name, value)
	}
	return call(req)
}

// TestPublishedExamples sends what the published pages of Flux, Pulse and DataCat
// show, the way a program would that was only told another address, and compares
// what a strict Flux holds afterwards.
func TestPublishedExamples(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	d := start(t, setup{Flux: flux.URL})
	const key = "Authorization=Bearer sk_live_xxx" // the page's own, which goes nowhere
	for _, example := range []struct {
		path, body string
		status     int
	}{
		{"/api/v1/metrics", `{"name": "api.response_time","type": "distribution","value": 145.2,"tags": {"endpoint": "/users","method": "GET","status": "200"}}`, 201},
		{"/api/v1/metrics", `{ "name": "users.online", "type": "gauge", "value": 234 }`, 201},
		{"/api/v1/metrics", `{ "name": "api.requests", "type": "counter", "value": 1 }`, 201},
		{"/api/v1/metrics", `{ "name": "response_time", "type": "distribution", "value": 145.2 }`, 201},
		{"/api/v1/metrics", `{ "name": "daily_active_users", "type": "set", "value": "user_123" }`, 201},
		{"/flux/api/v1/metrics/batch", `{"metrics": [{ "name": "users.online", "type": "gauge", "value": 234 },{ "name": "api.requests", "type": "counter", "value": 1 },{ "name": "response_time", "type": "distribution", "value": 145.2 }]}`, 201},
		{"/api/v1/flux/batch", `{"events": [{ "name": "order.placed", "value": 99.99 }],"metrics": [{ "name": "orders.count", "type": "counter", "value": 1 }]}`, 201},
		{"/pulse/api/v1/metrics", `{"name": "queue_size","value": 42,"type": "gauge","tags": {"queue": "default"}}`, 201},
		{"/pulse/api/v1/metrics/batch", `{"metrics": [{"name": "queue_size","value": 42,"type": "gauge","tags": { "queue": "default" }},{"name": "queue_size","value": 15,"type": "gauge","tags": { "queue": "priority" }},{"name": "jobs_processed","value": 100,"type": "counter"}]}`, 201},
		{"/api/v1/metrics", `{"name": "active_users","value": 150,"kind": "gauge"}`, 201}, // as the SDK sends it
		{"/pulse/api/v1/metrics", `{"name": "response_time_pulse","value": 245,"type": "histogram"}`, 201},
		{"/api/v1/metrics", `{ "name": "users.online", "type": "level", "value": 234 }`, 400},
		{"/api/v1/metrics", `{ "name": "users.online", "type": "gauge", "value": "many" }`, 400},
	} {
		if status, answer := d.post(example.path, example.body, key); status != example.status {
			t.Errorf("%s %s: status %d, want %d: %s", example.path, example.body, status, example.status, answer)
		}
	}
	_, answer := d.post("/api/sessions", `{"product":"app","version":"1"}`)
	var session map[string]string
	if err := json.Unmarshal([]byte(answer), &session); err != nil {
		t.Fatal(err)
	}
	at := "/api/sessions/" + session["session_id"] + "/metrics"
	for _, body := range []string{
		`{"name": "response_time_ms","value": 123.45,"tags": ["api", "v2", "user"]}`,
		`{"name": "memory_mb","value": 512.5,"tags": ["backend"]}`,
		`{"name": "error_count","value": 3,"type": "counter","tags": ["validation", "user_input"]}`,
		`{"name": "error_count","value": 5,"type": "counter","tags": ["validation", "user_input"]}`,
	} {
		if status, answer := d.post(at, body); status != 200 {
			t.Errorf("%s: status %d: %s", body, status, answer)
		}
	}
	d.taken(19)
	d.delivered()
	d.balanced()

	for name, want := range map[string]float64{
		"api.requests": 2, "orders.count": 1, "jobs_processed": 100, "error_count": 5,
		"api.response_time.count": 1, "response_time.count": 2, "response_time_pulse.count": 1,
		"api.response_time.sum": 145.2, "response_time.sum": 290.4, "response_time_pulse.sum": 245,
	} {
		if got := flux.CounterTotal(name).Float; got != want {
			t.Errorf("flux holds %v of the counter %s, want %v", got, name, want)
		}
	}
	for series, want := range map[string]float64{
		"users.online": 234, "queue_size queue:default": 42, "queue_size queue:priority": 15, "active_users": 150,
		"response_time_ms api:true v2:true user:true": 123.45, "memory_mb backend:true": 512.5,
	} {
		name, tags, _ := strings.Cut(series, " ")
		if got, ok := flux.GaugeLast(name, strings.Fields(tags)...); !ok || got.Value != want {
			t.Errorf("flux holds %v (%v) of the gauge %s, want %v", got.Value, ok, series, want)
		}
	}
	if got := flux.SetMembers("daily_active_users"); !slices.Equal(got, []string{"user_123"}) {
		t.Errorf("flux holds the members %v, want user_123", got)
	}
	if got := flux.RowsOf("api.response_time", "endpoint:/users", "method:GET", "status:200"); len(got) != 1 || got[0].Value != 145.2 || got[0].Type != "distribution" {
		t.Errorf("flux holds %v of api.response_time with its tags, want one point of 145.2", got)
	}
	d.until("the event has arrived", func() bool { return len(flux.Events()) > 0 })
	if e := flux.Events(); len(e) != 1 || e[0].Name != "order.placed" || e[0].Value == nil || *e[0].Value != 99.99 {
		t.Errorf("flux holds the events %+v, want order.placed = 99.99", e)
	}
	s := d.status()
	i := slices.IndexFunc(s.Listeners, func(l struct {
		Name          string            `json:"name"`
		Packets       uint64            `json:"packets"`
		Samples       uint64            `json:"samples"`
		Rejected      map[string]uint64 `json:"rejected"`
		KernelDropped uint64            `json:"kernel_dropped"`
	}) bool {
		return strings.HasPrefix(l.Name, "http:")
	})
	if i < 0 {
		t.Fatalf("status has no HTTP listener: %+v", s.Listeners)
	}
	if l := s.Listeners[i]; l.Packets != 18 || l.Samples != 20 || l.Rejected["invalid_type"] != 1 || l.Rejected["invalid_value"] != 1 {
		t.Errorf("status has %+v, want 18 requests, 20 items, and an invalid type and value", l)
	}
	if want := fmt.Sprintf(`sluice_rejected_total{listener="%s",reason="invalid_type"} 1`, s.Listeners[i].Name); !strings.Contains(d.metric("sluice_rejected_total"), want) {
		t.Errorf("/metrics lacks %s", want)
	}
	if strings.Contains(d.log.String(), "sk_live_xxx") {
		t.Error("a client's key is in the log")
	}
}

// TestHalfABody: of a body that is cut off nothing is taken, and whoever still reads is
// told so, in the form of the dialect.
func TestHalfABody(t *testing.T) {
	d := start(t, setup{})
	for path, want := range map[string]string{"/api/v1/metrics/batch": `"code":"body_timeout"`, "/register": "The body did not arrive in time or was cut off\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.http, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n[{\"name\":\"half\",\"type\":\"counter\"}]", path)
		conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || !strings.Contains(string(answer), want) || !strings.Contains(string(answer), "Connection: close") {
			t.Errorf("%s: %q, %v, want 408 and %q", path, answer, err, want)
		}
	}
	if s := d.status(); s.accepted() != 0 {
		t.Errorf("%d samples accepted", s.accepted())
	}
}

// TestStopWhilePosting: whatever was answered with 201 before the agent stopped
// arrives; what was not is not there.
func TestStopWhilePosting(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Dir: t.TempDir(), Flux: flux.URL, Interval: "100ms"}
	d := start(t, s)
	var accepted atomic.Uint64
	var posting sync.WaitGroup
	for range 8 {
		posting.Go(func() {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				resp, err := client.Post(d.http+"/api/v1/metrics/batch", "application/json", strings.NewReader(`[{"name":"stop.http","type":"counter"},{"name":"stop.http","type":"counter"}]`))
				if err != nil {
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusCreated {
					accepted.Add(2)
				}
			}
		})
	}
	d.taken(200)
	d.terminate()
	posting.Wait()
	d = start(t, s)
	d.delivered()
	d.balanced()
	if got := uint64(flux.CounterTotal("stop.http").Float); got != accepted.Load() {
		t.Errorf("%d samples arrived, %d were answered with 201", got, accepted.Load())
	}
}

// TestPassedOn: provisioning goes to the upstream as it came, with the caller's
// master key and no other, and comes back as it is; without an upstream of the
// kind it is unavailable, and Pulse's traces have no path.
func TestPassedOn(t *testing.T) {
	type call struct {
		method, url, body string
		header            http.Header
	}
	var mu sync.Mutex
	var calls []call
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(r.URL.Path, "/projects/") {
			mu.Lock()
			calls = append(calls, call{r.Method, r.URL.String(), string(body), r.Header})
			mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(http.StatusTeapot)
			io.WriteString(w, `{"ingest_key":"theirs"}`)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer up.Close()
	d := start(t, setup{Flux: up.URL + "/base"})
	status, answer := d.post("/flux/api/v1/projects/provision?api_key=canary1&x=1", `{"name":"n","environment":"test"}`,
		"X-Master-Key=master", "Authorization=Bearer canary2", "X-API-Key=canary3", "Cookie=canary4", "X-Forwarded-For=canary5")
	if status != http.StatusTeapot || answer != `{"ingest_key":"theirs"}` {
		t.Errorf("status %d, %s, want what the upstream said", status, answer)
	}
	if status, answer := d.get("/api/v1/projects/lookup?name=n"); status != http.StatusTeapot {
		t.Errorf("lookup: status %d: %s", status, answer)
	}
	if status, answer := d.post("/api/v1/projects/provision", `{"name":"n"}`, "X-Master-Key=master"); status != 503 || !strings.Contains(answer, `"unavailable"`) {
		t.Errorf("provisioning for Pulse: status %d, %s, want 503", status, answer)
	}
	for _, path := range []string{"/api/v1/traces", "/pulse/api/v1/spans/batch", "/api/v1/browser"} {
		if status, answer := d.post(path, `{}`); status != 404 || !strings.Contains(answer, `"not_found"`) {
			t.Errorf("%s without Pulse: status %d, %s, want 404", path, status, answer)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(calls) != 2 {
		t.Fatalf("%d calls reached the upstream, want 2: %+v", len(calls), calls)
	}
	first := calls[0]
	if first.method != "POST" || first.url != "/base/api/v1/projects/provision?x=1" || first.body != `{"name":"n","environment":"test"}` || first.header.Get("X-Master-Key") != "master" {
		t.Errorf("the upstream got %+v", first)
	}
	if all := fmt.Sprint(calls); strings.Contains(all, "canary") || strings.Contains(all, fluxtest.Key) {
		t.Errorf("a key went along: %s", all)
	}
	if calls[1].url != "/base/api/v1/projects/lookup?name=n" {
		t.Errorf("the look-up went to %s", calls[1].url)
	}
}

// TestHTTPSocket serves the API on a Unix socket, whatever the Host is.
func TestHTTPSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	d := start(t, setup{Dir: dir, Listen: fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  http: \"unix:%s\"\n", path)})
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	resp, err := client.Post("http://anything/api/v1/metrics", "application/json", strings.NewReader(`{"name":"a","type":"counter"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("status %d, want 201", resp.StatusCode)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket has %v (%v), want mode 0660", info.Mode(), err)
	}
	d.terminate()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there after a clean stop")
	}
}

// TestBombs: 64 MiB of zeros in 64 KiB of gzip, one after another, are never
// inflated into memory. What does grow is 1 MiB of buffers a connection and all that
// the collector finds only later, so 3 to 9 MiB; a bomb in memory would be 64 at least.
func TestBombs(t *testing.T) {
	var bomb bytes.Buffer
	w, _ := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	for range 64 {
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	d := start(t, setup{})
	d.post("/api/v1/metrics", `{"name":"a","type":"counter"}`)
	before := d.memory("VmHWM")
	for range 5 {
		if status, answer := d.post("/api/v1/metrics", bomb.String(), "Content-Encoding=gzip"); status != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d, want 413: %s", status, answer)
		}
	}
	grown := d.memory("VmHWM") - before
	t.Logf("5 bombs of %d bytes: the memory has grown by %d KiB", bomb.Len(), grown>>10)
	if most := 32 << 20; grown > most && !raceEnabled { // the race detector's own memory is in it
		t.Errorf("the memory has grown by %d bytes, want at most %d", grown, most)
	}
}

// TestManyClients measures: 256 clients that post batches of 100 items each as
// fast as they are answered. Every item must be in the books.
func TestManyClients(t *testing.T) {
	batches := 10
	if os.Getenv("SLUICE_LONG") != "" {
		batches = 400
	}
	const clients, items = 256, 100
	d := start(t, setup{Interval: "10s"})
	var body bytes.Buffer
	body.WriteString(`{"metrics":[`)
	for i := range items {
		kind, value := "counter", "1"
		switch i % 10 {
		case 4, 5, 6:
			kind, value = "distribution", "145.2"
		case 7, 8:
			kind, value = "gauge", "234"
		case 9:
			kind, value = "set", `"user_123"`
		}
		fmt.Fprintf(&body, `%s{"name":"api.metric.%d","type":"%s","value":%s,"tags":{"endpoint":"/users/%d","method":"GET","status":"200"}}`, strings.Repeat(",", min(i, 1)), i, kind, value, i)
	}
	body.WriteString("]}")
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: patience, Transport: transport}
	began, before := time.Now(), d.cpu()
	var posting sync.WaitGroup
	for range clients {
		posting.Go(func() {
			for range batches {
				resp, err := client.Post(d.http+"/api/v1/metrics/batch", "application/json", bytes.NewReader(body.Bytes()))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					t.Errorf("status %d, want 201", resp.StatusCode)
				}
			}
		})
	}
	posting.Wait()
	took, cpu := time.Since(began), d.cpu()-before
	n := uint64(clients * batches * items)
	if s := d.status(); s.accepted() != n {
		t.Errorf("%d items accepted, want %d", s.accepted(), n)
	}
	d.balanced()
	t.Logf("%d clients, %d items in %v: %.0f items/s, %.2f us of CPU per item, %d KiB resident at most", clients, n, took.Round(time.Millisecond),
		float64(n)/took.Seconds(), float64(cpu.Microseconds())/float64(n), d.memory("VmHWM")>>10)
}

// cpu is what the process has used so far, user and system.
func (d *daemon) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		d.t.Skip("needs /proc to read the time of a process")
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

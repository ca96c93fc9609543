package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/configs"
)

// TestPassPulse: traces go to the first upstream of type pulse while they are
// still coming in, with the agent's key; redirects and cookies go nowhere.
func TestPassPulse(t *testing.T) {
	var got *http.Request
	var first, rest string
	came := make(chan bool)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		if strings.HasSuffix(r.URL.Path, "/browser") {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		half := make([]byte, 5)
		io.ReadFull(r.Body, half)
		first = string(half)
		close(came)
		b, _ := io.ReadAll(r.Body)
		rest = string(b)
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "taken")
	}))
	defer up.Close()
	a := &agent{passing: newPassing()}
	defer a.passing.CloseIdleConnections()
	a.config.Upstreams = []configs.Upstream{{Type: configs.Flux, URL: "http://127.0.0.1:1"}, {Type: configs.Pulse, URL: up.URL + "/p", Key: "ours"}}
	local := httptest.NewServer(http.HandlerFunc(a.passPulse))
	defer local.Close()

	in, out := io.Pipe()
	req, err := http.NewRequest("POST", local.URL+"/pulse/api/v1/traces/batch?api_key=canary", in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer canary")
	req.Header.Set("X-Master-Key", "canary")
	req.Header.Set("Content-Type", "application/json")
	go func() {
		io.WriteString(out, "first")
		select {
		case <-came: // before the rest was written: nothing waits for the whole
		case <-time.After(patience):
			t.Error("the upstream has seen nothing yet")
		}
		io.WriteString(out, " and the rest")
		out.Close()
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusAccepted || string(body) != "taken" {
		t.Errorf("status %d, %q, want what the upstream said", resp.StatusCode, body)
	}
	if first+rest != "first and the rest" || got.URL.String() != "/p/api/v1/traces/batch" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the upstream got %q at %s with %v", first+rest, got.URL, got.Header)
	}
	for name, values := range got.Header {
		if strings.Contains(strings.Join(values, " "), "canary") {
			t.Errorf("the caller's %s went along", name)
		}
	}
	if key := got.Header.Get("Authorization"); key != "Bearer ours" {
		t.Errorf("Authorization %q, want the agent's key", key)
	}

	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	moved, err := client.Post(local.URL+"/api/v1/browser", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	moved.Body.Close()
	if moved.StatusCode != http.StatusFound || got.URL.Path == "/elsewhere" {
		t.Errorf("status %d, last path %s: a redirect is for the caller to see, not to be followed with our key", moved.StatusCode, got.URL.Path)
	}

	up.Close()
	away, err := client.Post(local.URL+"/api/v1/spans", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	away.Body.Close()
	if away.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d while the upstream is away, want 503", away.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
	client.CloseIdleConnections()
}

// TestCallDataCat: calls carry the agent's key, and a redirect is not followed.
func TestCallDataCat(t *testing.T) {
	var keys []string
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		keys = append(keys, r.Header.Get("Authorization"))
		if r.URL.Path == "/base/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		io.WriteString(w, r.Method+" "+r.URL.Path+" "+string(b))
	}))
	defer up.Close()
	a := &agent{passing: newPassing()}
	defer a.passing.CloseIdleConnections()
	if a.dataCat() != nil {
		t.Error("there is an upstream, although none is configured")
	}
	a.config.Upstreams = []configs.Upstream{{Type: configs.DataCat, URL: up.URL + "/base/", Key: "ours"}}
	call := a.dataCat()
	status, answer, err := call(context.Background(), "POST", "/api/sessions", []byte(`{}`))
	if err != nil || status != 200 || string(answer) != "POST /base/api/sessions {}" {
		t.Errorf("status %d, %q, %v", status, answer, err)
	}
	if status, _, err := call(context.Background(), "GET", "/moved", nil); err != nil || status != http.StatusFound {
		t.Errorf("a redirect: status %d, %v, want 302 itself", status, err)
	}
	for _, key := range keys {
		if key != "Bearer ours" {
			t.Errorf("Authorization %q, want the agent's key", key)
		}
	}
	if len(keys) != 2 {
		t.Errorf("%d requests, want 2", len(keys))
	}
}

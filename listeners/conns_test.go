package listeners

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
)

// serveLimited serves handler on a listener under limit until the test's end.
func serveLimited(t *testing.T, limit *ConnLimit, l net.Listener, handler http.Handler) {
	t.Helper()
	s := &http.Server{Handler: limit.Wrap(handler), ConnContext: limit.ConnContext, ReadHeaderTimeout: 30 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(limit.Listener(l)) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// gone waits until the other side has closed c.
func gone(t *testing.T, c net.Conn) bool {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(60 * time.Second))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// TestConnLimitEvictsWhoWaitsLongest: silent connections, and those that are idle
// after an answer, make room for new ones, oldest first.
func TestConnLimitEvictsWhoWaitsLongest(t *testing.T) {
	limit := NewConnLimit(3, 3)
	l := loopback(t)
	serveLimited(t, limit, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	addr := l.Addr().String()
	opened := func(n int) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
			if open, evicted := limit.Stats(); open+int(evicted) == n {
				return
			} else if time.Now().After(end) {
				t.Fatalf("%d connections are open and %d were evicted, want %d together", open, evicted, n)
			}
		}
	}
	ask := func(c net.Conn) {
		t.Helper()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	silent, half, used := dial(t, "tcp", addr), net.Conn(nil), net.Conn(nil)
	opened(1)
	half = dial(t, "tcp", addr)
	fmt.Fprintf(half, "POST / HTTP/1.1\r\nHost:")
	opened(2)
	used = dial(t, "tcp", addr)
	opened(3)
	ask(used)
	ask(dial(t, "tcp", addr)) // the 4th, which waits until the first has waited long enough
	if !gone(t, silent) {
		t.Error("the connection that never said anything is still open")
	}
	ask(used) // it was not its turn
	ask(dial(t, "tcp", addr))
	if !gone(t, half) {
		t.Error("the connection with half a header is still open")
	}
	if open, evicted := limit.Stats(); open != 3 || evicted != 2 {
		t.Errorf("%d open, %d evicted, want 3 and 2", open, evicted)
	}
}

// TestConnLimitKeepsWhoIsWorkedFor: when all connections have a request in hand,
// new ones wait until one is answered.
func TestConnLimitKeepsWhoIsWorkedFor(t *testing.T) {
	limit := NewConnLimit(2, 2)
	l := loopback(t)
	release := make(chan struct{})
	serveLimited(t, limit, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	}))
	answers := make(chan error, 3)
	get := func(path string) {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err == nil {
			resp.Body.Close()
		}
		answers <- err
	}
	go get("/slow")
	go get("/slow")
	for open := 0; open < 2; time.Sleep(time.Millisecond) {
		open = 0
		limit.mu.Lock()
		for c := range limit.conns {
			if c.working {
				open++
			}
		}
		limit.mu.Unlock()
	}
	go get("/fast")
	select {
	case err := <-answers:
		t.Fatalf("a third connection was answered (%v), want it to wait", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	for range 3 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// TestEvictedRequestIsNotTaken: a request whose connection was closed while it
// came in is not worked on, for nobody would learn what became of it.
func TestEvictedRequestIsNotTaken(t *testing.T) {
	limit := NewConnLimit(1, 1)
	a, b := net.Pipe()
	defer b.Close()
	began := time.Now()
	c := limit.admit(&limitedListener{}, a)
	if limit.admit(&limitedListener{}, b) == nil {
		t.Fatal("a waiting connection is not evicted")
	}
	if took := time.Since(began); took < patience/2 {
		t.Errorf("it was evicted after %v, want it to have %v", took, patience)
	}
	if c.work() {
		t.Error("an evicted connection may be worked for")
	}
}

// TestHTTPOverUnix: the socket's file has the mode that was asked for, one user has
// no more connections than one may have, no Host is asked for, and the file goes
// with the listener.
func TestHTTPOverUnix(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes of sockets mean nothing there")
	}
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := ListenUnixHTTP(path, 0o660, "")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o660 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("the file has %v (%v), want a socket of mode 0660", info.Mode(), err)
	}
	if _, err := ListenUnixHTTP(path, 0o660, ""); err == nil || !strings.Contains(err.Error(), "listen.http") {
		t.Errorf("the same path again: %v, want an error that names listen.http", err)
	}
	limit := NewConnLimit(10, 2)
	served := Guard{}.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	t.Run("served", func(t *testing.T) {
		serveLimited(t, limit, l, served)
		var conns []net.Conn
		for range 4 {
			c := dial(t, "unix", path)
			conns = append(conns, c)
			fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: whatever\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 200 {
				t.Errorf("status %d, want 200 whatever the Host is", resp.StatusCode)
			}
			time.Sleep(patienceServed + patience) // it waits, and so may be evicted
		}
		open, evicted := limit.Stats()
		if userOf(conns[0].(*net.UnixConn)) == "" {
			t.Log("this system does not tell the user, so its connections are not bounded apart")
		} else if open != 2 || evicted != 2 {
			t.Errorf("%d open, %d evicted, want 2 and 2", open, evicted)
		}
	})
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there after the listener was closed: %v", err)
	}
}

// TestCrossSite is the row "browser: CSRF" and the one on rebinding: five requests
// that a page can cause, and one that a name can lead here, and what each leaves
// behind, which is nothing.
func TestCrossSite(t *testing.T) {
	const item = `{"name":"a","type":"counter"}`
	for _, test := range []struct {
		name, host string
		headers    []string
		status     int
	}{
		{"a form", "localhost:8127", []string{"Content-Type=application/x-www-form-urlencoded", "Origin=https://evil.example", "Sec-Fetch-Site=cross-site"}, 403},
		{"a form of an old browser", "localhost:8127", []string{"Content-Type=text/plain"}, 415},
		{"fetch without cors", "127.0.0.1:8127", []string{"Content-Type=text/plain", "Origin=https://evil.example"}, 403},
		{"fetch with JSON past a preflight", "127.0.0.1:8127", []string{"Origin=https://evil.example", "Sec-Fetch-Site=cross-site"}, 403},
		{"a sandboxed frame", "[::1]:8127", []string{"Origin=null"}, 403},
		{"rebinding", "evil.example:8127", []string{"Origin=http://evil.example:8127", "Sec-Fetch-Site=same-origin"}, 421},
	} {
		for _, path := range []string{"/api/v1/metrics", "/pulse/api/v1/metrics/batch", "/register"} {
			a := newAPITest(t, APIOptions{})
			a.host = test.host
			status, answer, header := a.do("POST", path, item, test.headers...)
			if status != test.status {
				t.Errorf("%s to %s: status %d, want %d: %s", test.name, path, status, test.status, answer)
			}
			if header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s to %s: the answer lets other sites read it", test.name, path)
			}
			if path == "/register" && strings.HasPrefix(answer, "{") {
				t.Errorf("%s to %s: DataCat's errors are text, this is %s", test.name, path, answer)
			}
			a.holds()
		}
	}
	// The preflight itself is not answered as if other sites were welcome.
	a := newAPITest(t, APIOptions{})
	status, _, header := a.do("OPTIONS", "/api/v1/metrics", "", "Origin=https://evil.example", "Access-Control-Request-Method=POST")
	if status < 400 || header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("preflight: status %d, %v, want a refusal", status, header)
	}
}

// TestDataCatToken: with a token its dialect wants it exactly, and says so in its
// own words.
func TestDataCatToken(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	mux := http.NewServeMux()
	NewAPI(APIOptions{}).Routes(mux, func(aggregator.Spelling) Sink { return deaf{} })
	a.handler = Guard{Token: "secret"}.Wrap(mux)
	for header, want := range map[string]int{"Authorization=Bearer secret": 200, "Authorization=Bearer  secret": 401, "Authorization=bearer secret": 401, "X-API-Key=secret": 401, "X=": 401} {
		status, answer, _ := a.do("POST", "/register", `{"product":"p","version":"1"}`, header)
		if status != want || want == 401 && answer != "Unauthorized\n" {
			t.Errorf("%s: status %d, %q, want %d", header, status, answer, want)
		}
	}
	if status, _, _ := a.do("GET", "/health", ""); status != 200 {
		t.Errorf("/health: status %d, want 200 without a token", status)
	}
}

// TestStop: an API that has stopped says so, and takes nothing more.
func TestStop(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	id := a.session("/register")
	a.api.Stop()
	a.api.Stop()
	for path, want := range map[string]int{"/up": 503, "/healthz": 503, "/health": 503} {
		if status, _, _ := a.do("GET", path, ""); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	for _, path := range []string{"/api/v1/metrics", "/api/v1/events"} {
		status, answer := a.post(path, `{"name":"a","type":"counter"}`)
		checkError(t, status, answer, 503, "stopping")
	}
	for _, path := range []string{"/api/v1/metrics/batch", "/pulse/api/v1/metrics/batch", "/api/v1/events/batch"} {
		if status, answer := a.post(path, metrics(2)); status != 503 || !strings.Contains(answer, `"code":"stopping"`) {
			t.Errorf("%s: status %d, %s", path, status, answer)
		}
	}
	if status, answer := a.post("/api/sessions/"+id+"/metrics", `{"name":"a","value":1}`); status != 503 || answer != Stopping.Message()+"\n" {
		t.Errorf("DataCat: status %d, %q", status, answer)
	}
	a.holds()
}

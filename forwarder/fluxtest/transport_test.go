package fluxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newPost is a request as the agent makes it, without a test.
func newPost(s *Server, body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, s.URL+"/api/v1/metrics/batch", strings.NewReader(body))
	if err != nil {
		panic(err) // a constant URL
	}
	for k, v := range map[string]string{"Authorization": "Bearer " + Key, "Accept": "application/json", "User-Agent": "sluice/test", "Content-Type": "application/json"} {
		r.Header.Set(k, v)
	}
	return r
}

// traced sends a request and returns the hooks called, in order. Over a socket an
// answer may be there before the client tells that it has written its request, or
// even returned; that hook is put where it belongs.
func traced(s *Server, r *http.Request) (hooks []string, err error) {
	var mu sync.Mutex
	written := make(chan struct{})
	add := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		hook := fmt.Sprintf(format, a...)
		at := len(hooks)
		if strings.HasPrefix(hook, "WroteRequest") {
			if i := slices.Index(hooks, "GotFirstResponseByte"); i >= 0 {
				at = i
			}
			defer close(written)
		}
		hooks = slices.Insert(hooks, at, hook)
	}
	trace := &httptrace.ClientTrace{
		GetConn:              func(string) { add("GetConn") },
		ConnectStart:         func(string, string) { add("ConnectStart") },
		ConnectDone:          func(_, _ string, err error) { add("ConnectDone(%t)", err == nil) },
		GotConn:              func(httptrace.GotConnInfo) { add("GotConn") },
		WroteHeaders:         func() { add("WroteHeaders") },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { add("WroteRequest(%v)", i.Err) },
		GotFirstResponseByte: func() { add("GotFirstResponseByte") },
	}
	_, _, _, err = do(s, r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	mu.Lock()
	begun := slices.Contains(hooks, "WroteHeaders")
	mu.Unlock()
	if begun {
		<-written
	}
	mu.Lock()
	defer mu.Unlock()
	return hooks, err
}

// TestTransportTraces: a client that classes failures by httptrace sees the same
// hooks in the process and over a socket.
func TestTransportTraces(t *testing.T) {
	for _, fault := range []Fault{{}, CommitThenClose(), Status(500)} {
		var got [2]string
		for i, inProcess := range []bool{false, true} {
			s := start(t, Options{InProcess: inProcess})
			s.Fault(fault)
			hooks, _ := traced(s, newPost(s, batch(metric("a", "gauge", "1"))))
			got[i] = strings.Join(hooks, " ")
		}
		if got[0] != got[1] {
			t.Errorf("%q: in the process %s\nover a socket %s", fault, got[1], got[0])
		}
	}
	s := start(t, Options{InProcess: true})
	s.Pause()
	hooks, err := traced(s, newPost(s, batch(metric("a", "gauge", "1"))))
	if got, want := strings.Join(hooks, " "), "GetConn ConnectStart ConnectDone(false)"; got != want || err == nil {
		t.Errorf("refused: %s, %v; want %s and an error", got, err, want)
	}
}

// TestTransportInBubble runs an hour of calls on the fake clock. That the bubble ends
// shows that no goroutine is left.
func TestTransportInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t, Options{InProcess: true})
		c := &http.Client{Transport: Transport(s.Handler()), Timeout: 120 * time.Second}
		faults := []Fault{{}, CommitThenHang(), Slow(10 * time.Second), Delay(119 * time.Second), HugeBody(500, 1<<30), CommitThenClose(), Refuse(30 * time.Second), Status(503)}
		began := time.Now()
		for i := range 60 {
			s.Fault(faults[i%len(faults)])
			resp, err := c.Do(newPost(s, batch(metric("a", "counter", "1"))))
			if err == nil {
				io.CopyN(io.Discard, resp.Body, 64<<10)
				resp.Body.Close()
			}
			time.Sleep(6 * time.Second)
		}
		if took := time.Since(began); took < time.Hour/4 {
			t.Errorf("took %v of simulated time: the faults did not wait", took)
		}
		if got, want := int(s.CounterTotal("a").Float), 25; got != want { // 5 rounds of 12 calls: 4 of each are refused dials, 5 store
			t.Errorf("%d stored, want %d", got, want)
		}
	})
}

// TestTransportContext: a cancelled call returns at once, before and within the body.
func TestTransportContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t, Options{InProcess: true})
		for _, fault := range []Fault{Hang(), Delay(time.Hour), Slow(time.Hour)} {
			s.Fault(fault)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			began := time.Now()
			_, _, _, err := do(s, newPost(s, batch(metric("a", "gauge", "1"))).WithContext(ctx))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
				t.Errorf("%s: %v after %v, want the deadline after 1m", fault, err, time.Since(began))
			}
		}
	})
}

// pipeListener accepts the server ends of net.Pipe.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return loopback }

// TestHandlerOverPipe drives the Handler with a real http.Server and http.Transport
// over net.Pipe, in a bubble.
func TestHandlerOverPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t, Options{InProcess: true})
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: s.Handler()}
		served := make(chan error)
		go func() { served <- srv.Serve(l) }()
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case l.conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		c := &http.Client{Transport: tr, Timeout: 120 * time.Second}
		for _, fault := range []Fault{{}, CommitThenHang(), ResetAfterRead(), CommitThenClose(), Slow(time.Second), Refuse(time.Second)} {
			s.Fault(fault)
			resp, err := c.Do(newPost(s, batch(metric("a", "counter", "1"))))
			if cut := fault.hang || fault.cut || fault.unread; cut != (err != nil) {
				t.Errorf("%s: error %v", fault, err)
			}
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			time.Sleep(10 * time.Second)
		}
		srv.Close()
		<-served
		if got, want := s.CounterTotal("a").Rows, 4; got != want {
			t.Errorf("%d rows stored, want %d", got, want)
		}
	})
}

// TestTransportCancelledUnread: ending the context frees a handler whose answer nobody
// reads or closes. The bubble would not end otherwise.
func TestTransportCancelledUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t, Options{InProcess: true})
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := Transport(s.Handler()).RoundTrip(newPost(s, batch(metric("a", "gauge", "1"))).WithContext(ctx)); err != nil {
			t.Fatal(err)
		}
		cancel()
	})
}

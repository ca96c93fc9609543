package forwarder

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
	"sluice/spool"
)

// These tests use real sockets on loopback, and so the transport that the agent
// uses. They make one request or two each; what becomes of a batch afterwards is
// tested with simulated time.

// overTCP is a forwarder with one batch sealed, of a known dialect.
func overTCP(t *testing.T, o Options) *Forwarder {
	t.Helper()
	s := spool.New(spool.Options{Dir: filepath.Join(t.TempDir(), "spool")})
	o.Dialect = Hosted
	f := New(o, s)
	if err := s.Attach(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	src := newSource(t, time.Now())
	for i := range 400 {
		src.count(time.Now(), "req", "id:"+strings.Repeat("x", 100)+string(rune('a'+i%26))+string(rune('a'+i/26)), 1)
	}
	w := src.agg.Rotate(time.Now())[0]
	if _, err := s.Append(time.Now(), spool.Meta{Start: w.Start, Width: w.Width, Samples: w.Samples}, w.Parts()); err != nil {
		t.Fatal(err)
	}
	if got := f.turn(t.Context()); got != 0 || len(f.outbox.Batches()) != 1 {
		t.Fatalf("turn = %v with %d batches, want one sealed", got, len(f.outbox.Batches()))
	}
	return f
}

// verdictOf delivers the batch of f and tells what it was taken for.
func verdictOf(t *testing.T, f *Forwarder) (Meaning, string) {
	t.Helper()
	f.turn(t.Context())
	s := f.Stats(time.Now())
	batches := f.outbox.Batches()
	switch {
	case len(batches) == 0 && !s.LastDelivery.IsZero():
		return Delivered, s.LastError
	case len(batches) == 1 && batches[0].State == spool.InDoubt:
		return InDoubt, s.LastError
	case len(batches) == 1 && s.State == "held":
		return Held, s.LastError
	case len(batches) == 1 && s.State == "retrying":
		return Again, s.LastError
	}
	t.Fatalf("%d batches, stats %+v", len(batches), s)
	return 0, ""
}

func tcpOptions(url string) Options {
	o := testOptions()
	o.URL = url
	return o
}

func TestTCPFaults(t *testing.T) {
	for _, tt := range []struct {
		fault fluxtest.Fault
		want  Meaning
	}{
		{fluxtest.Fault{}, Delivered},
		{fluxtest.Slow(time.Millisecond), Delivered},
		{fluxtest.CloseUnread(), InDoubt},
		{fluxtest.ResetAfterRead(), InDoubt},
		{fluxtest.CommitThenClose(), InDoubt},
		{fluxtest.CommitThenHang(), InDoubt},
		{fluxtest.Redirect(302), Held},
		{fluxtest.Redirect(307), Held},
		{fluxtest.Redirect(308), Held},
		{fluxtest.HTML(), InDoubt},
		{fluxtest.Status(503), Again},
	} {
		t.Run(tt.fault.String(), func(t *testing.T) {
			s := fluxtest.New(t, fluxtest.Options{})
			s.Fault(tt.fault)
			o := tcpOptions(s.URL)
			if tt.fault.String() == fluxtest.CommitThenHang().String() {
				o.Timeout = 5 * time.Second
			}
			f := overTCP(t, o)
			if got, reason := verdictOf(t, f); got != tt.want {
				t.Errorf("verdict = %s (%s), want %s", got, reason, tt.want)
			}
			if got := len(s.Requests()); got != 1 {
				t.Errorf("%d requests, want 1: no redirect is followed, no request is repeated", got)
			}
		})
	}
}

// A connection that is refused is certain: nothing was sent.
func TestTCPRefused(t *testing.T) {
	f := overTCP(t, tcpOptions("http://127.0.0.1:1")) // tcpmux (RFC 1078), which nobody has
	if got, reason := verdictOf(t, f); got != Again || !strings.Contains(reason, "refused") {
		t.Errorf("verdict = %s (%s), want again, for it was refused", got, reason)
	}
}

// A name that does not exist, a server that does not speak TLS: nothing was sent.
func TestTCPBeforeTheRequest(t *testing.T) {
	s := fluxtest.New(t, fluxtest.Options{})
	f := overTCP(t, tcpOptions(strings.Replace(s.URL, "http:", "https:", 1)))
	if got, reason := verdictOf(t, f); got != Again {
		t.Errorf("verdict on a failed TLS handshake = %s (%s), want again", got, reason)
	}
}

// A request that is cut while it is being written may have arrived.
func TestTCPCutWhileWriting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var serving sync.WaitGroup
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.CopyN(io.Discard, c, 512)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	f := overTCP(t, tcpOptions("http://"+l.Addr().String()))
	if got, reason := verdictOf(t, f); got != InDoubt {
		t.Errorf("verdict = %s (%s), want in doubt", got, reason)
	}
	serving.Wait()
}

// Every request has a connection of its own.
func TestTCPConnectionPerRequest(t *testing.T) {
	flux := fluxtest.New(t, fluxtest.Options{InProcess: true})
	var opened atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: flux.Handler(), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	defer serving.Wait()
	defer server.Close()
	f := overTCP(t, tcpOptions("http://"+l.Addr().String()))
	b, err := f.outbox.Load(f.outbox.Batches()[0].Seq)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		req, err := f.upstream.Look(b)
		if err != nil {
			t.Fatal(err)
		}
		if o := f.roundTrip(t.Context(), req); o.status != 404 {
			t.Fatalf("outcome %+v, want 404", o)
		}
	}
	if got := opened.Load(); got != 3 {
		t.Errorf("%d connections for 3 requests, want 3", got)
	}
}

// An endless answer is read as far as an answer can be of use.
func TestTCPHugeAnswer(t *testing.T) {
	s := fluxtest.New(t, fluxtest.Options{})
	s.Fault(fluxtest.HugeBody(503, 1<<40))
	f := overTCP(t, tcpOptions(s.URL))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	if got, reason := verdictOf(t, f); got != Again || len(reason) > 500 {
		t.Errorf("verdict = %s (%d bytes of reason), want again, in short", got, len(reason))
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("%d bytes allocated for an answer of 1 TiB, want at most 8 MiB", got)
	}
	if got := time.Since(start); got > 60*time.Second { // 1 TiB takes 5 minutes at the best
		t.Errorf("took %v, want no time: the rest is not read", got)
	}
}

func TestTCPAnswerBound(t *testing.T) {
	s := fluxtest.New(t, fluxtest.Options{})
	s.FaultReads(fluxtest.HugeBody(500, 1<<30))
	f := overTCP(t, tcpOptions(s.URL))
	b, err := f.outbox.Load(f.outbox.Batches()[0].Seq)
	if err != nil {
		t.Fatal(err)
	}
	req, err := f.upstream.Look(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(f.roundTrip(t.Context(), req).body); got != maxAnswer {
		t.Errorf("read %d bytes of an answer of 1 GiB, want %d", got, maxAnswer)
	}
}

// The key is in a header of the request and nowhere else: not in errors, logs,
// status, or on disk.
func TestKeyStaysSecret(t *testing.T) {
	const canary = "sk_live_canary_8d1f7a"
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, fault := range []fluxtest.Fault{
		{}, fluxtest.CloseUnread(), fluxtest.ResetAfterRead(), fluxtest.CommitThenHang(), fluxtest.Redirect(307),
		fluxtest.Status(401), fluxtest.Status(500), fluxtest.Status(422), fluxtest.HTML(), fluxtest.WrongCount(1),
	} {
		s := fluxtest.New(t, fluxtest.Options{Key: canary})
		s.Fault(fault)
		o := tcpOptions(s.URL)
		o.Key, o.Log, o.Timeout = canary, logger, 200*time.Millisecond
		f := overTCP(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		f.turn(ctx)
		f.turn(ctx) // looks, where there was a complete answer
		s.Pause()
		f.notBefore = time.Time{}
		f.turn(ctx)
		cancel()
		if text := f.Stats(time.Now()).LastError; strings.Contains(text, canary) {
			t.Errorf("%s: the key is in the error %q", fault, text)
		}
		for _, b := range f.outbox.Batches() {
			full, err := f.outbox.Load(b.Seq)
			if err != nil || bytes.Contains(full.Body, []byte(canary)) {
				t.Errorf("%s: the key is in batch %d, or %v", fault, b.Seq, err)
			}
		}
	}
	// A key that cannot be in a header: the library's error must not quote it.
	o := tcpOptions("http://127.0.0.1:1")
	o.Key, o.Log = canary+"\n", logger
	f := overTCP(t, o)
	f.turn(t.Context())
	if got := f.Stats(time.Now()).LastError; got == "" || strings.Contains(got, canary) {
		t.Errorf("error for a key with a line break = %q, want one without the key", got)
	}
	if log.Len() == 0 {
		t.Error("nothing was logged at level debug, the test is of no use")
	}
	if i := strings.Index(log.String(), "canary"); i >= 0 {
		t.Errorf("the key is in the log: %s", log.String()[max(0, i-200):min(log.Len(), i+50)])
	}
}

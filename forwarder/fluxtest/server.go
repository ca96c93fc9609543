package fluxtest

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A Server is a fake Flux. Its methods may be called at any time, from any goroutine.
//
// A SelfHosted server answers GET requests as the open-source server's
// MetricsController does: a query takes since and bucket (a SQL interval, "1 hour" by
// default), ignores from, to, interval and aggregation, gives the average, and answers
// {"metric","data":[{"time","value","count"}]} also for a name it does not know; there
// are /metrics/last and /metrics/query beside it, with name and query (a JSON object of
// tags) as parameters.
type Server struct {
	URL string // base URL without a slash at the end; "http://flux.test" when InProcess

	opts  Options
	grace time.Duration // leaveGrace, but for a test of it
	tb    testing.TB    // nil when made by Start

	mu         sync.Mutex // guards the fields below
	http       *http.Server
	served     chan struct{} // closed when http's Serve has returned
	addr       string        // "" when InProcess
	paused     bool
	closed     bool
	reopen     *time.Timer // a Refuse that is under way on a listener
	refusedTo  time.Time   // the same without a listener
	violations []Violation

	requests    []Request
	live        map[*call]bool
	accepted    []time.Time // batch calls served within the last 60 s, for EnforceRate
	writeFaults []Fault
	readFaults  []Fault
	types       map[string]string // name → the type first seen
	contents    map[string]uint64 // Sluice-Batch value → hash of path and body
	committed   map[string]int    // Sluice-Batch value → the call that stored it
	later       []delayed         // by CommitLater
	ledger      ledger

	// Of a DataCat.
	sessions     map[string]bool
	sessionsMade int
	totals       map[string]float64 // by session and series, the greatest
}

// New starts a server for a test and closes it at the test's end. Violations fail
// the test at Close.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	s, err := Start(opts.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	s.tb = t
	t.Cleanup(s.Close)
	return s
}

// Start starts a server outside a test. addr is host:port on a loopback address, ""
// for 127.0.0.1:0; a fixed port lets a later Start take the place of an earlier one.
// It overrides Options.Addr. Violations are only recorded.
func Start(addr string, opts Options) (*Server, error) {
	s := &Server{
		opts:      opts.withDefaults(),
		grace:     leaveGrace,
		URL:       "http://flux.test",
		live:      map[*call]bool{},
		types:     map[string]string{},
		contents:  map[string]uint64{},
		committed: map[string]int{},
		sessions:  map[string]bool{},
		totals:    map[string]float64{},
		ledger:    newLedger(opts.KeepRows),
	}
	if opts.InProcess {
		return s, nil
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("start fake flux: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("start fake flux on %s: not a loopback address", addr)
	}
	s.addr = addr
	if err := s.listenLocked(); err != nil {
		return nil, err
	}
	s.URL = "http://" + s.addr
	return s, nil
}

// listenLocked opens the listener and serves it until it is closed.
func (s *Server) listenLocked() error {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("start fake flux on %s: %w", s.addr, err)
	}
	s.addr = l.Addr().String()
	srv := &http.Server{Handler: s.Handler(), ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	s.http, s.served = srv, served
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	return nil
}

// Become makes the server one of the other dialect: what it holds, stays.
func (s *Server) Become(d Dialect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Dialect = d
}

// Handler serves the API without a listener, for a server of the caller's own (over
// net.Pipe, say) or for Transport.
func (s *Server) Handler() http.Handler { return handler{s} }

// handler is the Server as an http.Handler; Transport asks it whether it refuses.
type handler struct{ *Server }

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve(w, r) }

func (h handler) refusing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.downLocked()
}

func (s *Server) downLocked() bool {
	return s.closed || s.paused || s.opts.Now().Before(s.refusedTo)
}

// Pause closes the listener and every connection: dials are refused, calls in flight
// lose their answer (what they carry may be stored all the same). It is harmless when
// paused already.
func (s *Server) Pause() {
	s.mu.Lock()
	s.paused = true
	served := s.stopLocked()
	s.mu.Unlock()
	wait(served)
}

// Resume listens again on the same port, ending a Pause or a Refuse.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumeLocked()
}

func (s *Server) resumeLocked() error {
	if s.closed {
		return errors.New("resume fake flux: it is closed")
	}
	if s.reopen != nil {
		s.reopen.Stop()
		s.reopen = nil
	}
	s.paused, s.refusedTo = false, time.Time{}
	if s.opts.InProcess || s.http != nil {
		return nil
	}
	return s.listenLocked()
}

// refuse is the part of a Refuse fault that outlives its call.
func (s *Server) refuse(d time.Duration, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.opts.InProcess {
		s.refusedTo = s.opts.Now().Add(d)
		return
	}
	s.stopLocked()
	if s.reopen != nil {
		s.reopen.Stop()
	}
	s.reopen = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed || s.paused {
			return
		}
		if err := s.resumeLocked(); err != nil {
			s.violateLocked(RuleListen, n, -1, "after %v: %v", d, err)
		}
	})
}

// stopLocked closes listener and connections; the result is closed when the accept
// loop has ended, nil when there was none.
func (s *Server) stopLocked() chan struct{} {
	if s.http == nil {
		return nil
	}
	served := s.served
	s.http.Close()
	s.http, s.served = nil, nil
	return served
}

// wait blocks until c is closed; a nil c is closed already.
func wait(c chan struct{}) {
	if c != nil {
		<-c
	}
}

// Close stops the server, waits for the calls in flight and, for a server made by
// New, reports the violations as test errors. A second Close does nothing.
//
// Without a listener the server cannot end a call that hangs; the client must have
// left before.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	if s.reopen != nil {
		s.reopen.Stop()
	}
	served := s.stopLocked()
	var calls []*call
	for c := range s.live {
		calls = append(calls, c)
	}
	s.mu.Unlock()
	wait(served)
	for _, c := range calls {
		<-c.done
	}
	if s.tb == nil {
		return
	}
	s.tb.Helper()
	const most = 20 // enough to see the pattern
	vs := s.Violations()
	for _, v := range vs[:min(len(vs), most)] {
		s.tb.Errorf("flux contract: %v", v)
	}
	if len(vs) > most {
		s.tb.Errorf("flux contract: %d more violations", len(vs)-most)
	}
}

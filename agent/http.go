package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"path"
	"time"

	"sluice/aggregator"
	"sluice/listeners"
)

// Limits of the HTTP server against clients that send slowly or much.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 30 * time.Second
	answerTimeout  = time.Minute // from the end of the header to that of the answer
	maxHeader      = 32 << 10
)

// newRoutes makes the local API. The agent owns the mux; other packages register
// their routes on it, behind one guard.
func (a *agent) newRoutes() http.Handler {
	mux := http.NewServeMux()
	a.api.Routes(mux, a.sink)
	mux.HandleFunc("GET /readyz", a.serveReady)
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	mux.HandleFunc("GET /metrics/application", a.serveApplication)
	mux.HandleFunc("GET /api/agent/status", a.serveStatus)
	a.spoolRoutes(mux)
	mux.HandleFunc("GET /api/agent/metrics", a.serveSizes)
	mux.HandleFunc("GET /api/agent/metrics/tags", a.serveTags)
	mux.HandleFunc("GET /api/agent/tail", a.serveTail)
	return strict(mux)
}

// server makes the HTTP server of one listener.
func (a *agent) server() *http.Server {
	return &http.Server{
		Handler:           a.conns.Wrap(http.HandlerFunc(a.serveGuarded)),
		ConnContext:       a.conns.ConnContext,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// strict answers unknown paths and wrong methods in the API's own form of
// error. A path that is not clean, for which the mux would answer with a redirect,
// is unknown: nobody who means well writes one.
func strict(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			listeners.HTTPError(w, http.StatusNotFound, "not_found", "there is nothing at this path")
			return
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		// Ask the mux itself whether another method would do: it sets Allow then.
		probe := &probeWriter{header: make(http.Header)}
		mux.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			listeners.HTTPError(w, http.StatusMethodNotAllowed, "method_not_allowed", r.Method+" is not for "+r.URL.Path+"; use "+probe.header.Get("Allow"))
			return
		}
		listeners.HTTPError(w, http.StatusNotFound, "not_found", "there is nothing at this path")
	})
}

// probeWriter takes an answer and keeps its status alone.
type probeWriter struct {
	header http.Header
	status int
}

func (p *probeWriter) Header() http.Header         { return p.header }
func (p *probeWriter) Write(b []byte) (int, error) { return len(b), nil }
func (p *probeWriter) WriteHeader(status int) {
	if p.status == 0 {
		p.status = status
	}
}

// serveReady tells whether the agent makes progress, and if not what is in the
// way. Trouble with the disk or an upstream is a detail: samples are taken and
// kept all the same, and a restart would not help.
func (a *agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	r := a.ready()
	status := http.StatusOK
	if !r.OK {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, r)
}

// sink opens a way into the aggregator, for good.
func (a *agent) sink(s aggregator.Spelling) listeners.Sink {
	in := a.aggregator.Intake(s)
	in.From("http")
	return &tappedSink{in, s, &a.tails}
}

func (a *agent) serveStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.status(time.Now()))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	e.Encode(v) // the client may be gone; there is nobody else to tell
}

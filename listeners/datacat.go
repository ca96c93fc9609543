package listeners

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// A DataCatUpstream makes a call to a DataCat server: method, path with a leading
// slash, body or nil. The answer is whole. An error says that there was none.
type DataCatUpstream func(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error)

// Paths of the DataCat dialect, of its server and of its local daemon. Errors
// there are lines of text.
var (
	dataCatServer = []string{"/api/sessions", "/api/data/sessions"}
	dataCatDaemon = []string{"/register", "/metric", "/event", "/state", "/heartbeat", "/pause_heartbeat", "/resume_heartbeat", "/end", "/session", "/sessions"}
)

func isDataCat(path string) bool {
	return slices.Contains(dataCatServer, path) || strings.HasPrefix(path, "/api/sessions/") || slices.Contains(dataCatDaemon, path)
}

func (a *API) dataCatRoutes(mux *http.ServeMux) {
	mux.Handle("/api/sessions", a.dataCat("POST", a.createSession))
	mux.Handle("/api/sessions/", a.dataCat("", a.sessionCall))
	mux.Handle("/api/data/sessions", a.dataCat("GET", a.listSessions))
	mux.Handle("/register", a.dataCat("POST", a.createSession))
	mux.Handle("/metric", a.dataCat("POST", a.daemonCall("metrics")))
	mux.Handle("/event", a.dataCat("POST", a.daemonCall("events")))
	mux.Handle("/state", a.dataCat("POST", a.daemonCall("state")))
	mux.Handle("/heartbeat", a.dataCat("POST", a.daemonCall("heartbeat")))
	mux.Handle("/pause_heartbeat", a.dataCat("POST", a.daemonCall("")))
	mux.Handle("/resume_heartbeat", a.dataCat("POST", a.daemonCall("")))
	mux.Handle("/end", a.dataCat("POST", a.daemonCall("end")))
	mux.Handle("/session", a.dataCat("GET", a.oneSession))
	mux.Handle("/sessions", a.dataCat("GET", a.listSessions))
}

// A ending is how a call of the DataCat dialect ends: with Accepted and what is in
// the exchange's answer, or with a status and a line of text, counted as code.
type ending struct {
	code   Code
	status int
	text   string
}

var done = ending{}

// The texts are those of the DataCat server and daemon: clients print them, and
// some look for them.
var (
	badBody       = ending{InvalidJSON, http.StatusBadRequest, "Invalid request body"}
	badRequest    = ending{InvalidJSON, http.StatusBadRequest, "Invalid request"}
	noProduct     = ending{InvalidItem, http.StatusBadRequest, "Product and version are required fields"}
	noSession     = ending{SessionNotFound, http.StatusNotFound, "session not found"}
	noSessionPage = ending{SessionNotFound, http.StatusNotFound, "Session not found"}
	noOperation   = ending{SessionNotFound, http.StatusNotFound, "Not found"}
	tooManyHere   = ending{Overloaded, http.StatusTooManyRequests, "Too many sessions or running totals"}
	upstreamAway  = ending{NotReady, http.StatusServiceUnavailable, "DataCat upstream is away"}
)

// refusal is how an item that was refused with code ends its call.
func refusal(code Code) ending { return ending{code, code.Status(), code.Message()} }

// dataCat makes a handler of a call. An empty method leaves the choice to it.
func (a *API) dataCat(method string, handle func(x *exchange, r *http.Request, now time.Time) ending) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if method != "" && r.Method != method {
			methodNotAllowed(w, method)
			return
		}
		x := a.pool.Get().(*exchange)
		defer x.release()
		a.requests.Add(1)
		v := done
		if r.Method != http.MethodGet {
			if code := x.read(r); code == InvalidJSON { // no gzip
				v = badBody
			} else if code != Accepted {
				a.refused[code].Add(1)
				fail(w, r, code)
				return
			}
		}
		if v == done {
			a.bytes.Add(uint64(len(x.json)))
			v = handle(x, r, time.Now())
		}
		if v.code == Accepted {
			w.Header()["Content-Type"] = jsonType
			w.Write(x.answer)
			return
		}
		if v.status == http.StatusMethodNotAllowed {
			methodNotAllowed(w, v.text)
			return
		}
		a.refused[v.code].Add(1)
		if v.code == Overloaded {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, v.text, v.status)
	})
}

func methodNotAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
}

// ok answers with the status alone.
func (x *exchange) ok() ending {
	x.answer = append(x.answer, `{"status":"ok"}`+"\n"...)
	return done
}

// object reads the body as an object, one member after another.
func (x *exchange) object(member func(d *jx.Decoder, key []byte) error) bool {
	d := &x.decoder
	d.ResetBytes(withoutMark(x.json))
	return d.ObjBytes(member) == nil && x.end()
}

// createSession is POST /api/sessions and the daemon's POST /register.
func (a *API) createSession(x *exchange, r *http.Request, now time.Time) ending {
	bad := badBody
	s := session{created: now}
	if !x.object(func(d *jx.Decoder, key []byte) error {
		var to *string
		switch string(key) {
		case "product":
			to = &s.product
		case "version":
			to = &s.version
		case "machine_id":
			to = &s.machine
		case "hostname":
			to = &s.host
		}
		if to == nil || d.Next() == jx.Null {
			return d.Skip()
		}
		text, err := d.StrBytes()
		if *to = string(clean(nil, text, maxSessionText)); len(*to) > maxSessionText {
			*to = strings.ToValidUTF8((*to)[:maxSessionText], "")
		}
		return err
	}) {
		return bad
	}
	if s.product == "" || s.version == "" {
		return noProduct
	}
	if up := a.options.DataCat(); up != nil {
		s.id, s.remote = a.remoteSession(r.Context(), up, &s)
	}
	if !s.remote {
		s.id = newSessionID()
	}
	if !a.sessions.add(&s, now) {
		return tooManyHere
	}
	x.answer = append(appendText(append(x.answer, `{"session_id":`...), []byte(s.id)), "}\n"...)
	return done
}

// sessionCall is everything under /api/sessions/.
func (a *API) sessionCall(x *exchange, r *http.Request, now time.Time) ending {
	// What was escaped in the path stays so, and then is no id.
	id, operation, named := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/api/sessions/"), "/")
	if !named {
		if r.Method != http.MethodGet {
			return ending{status: http.StatusMethodNotAllowed, code: InvalidItem, text: "GET"}
		}
		return a.show(x, r, id, now)
	}
	if !slices.Contains([]string{"metrics", "events", "state", "heartbeat", "end", "crash"}, operation) {
		return noOperation
	}
	if r.Method != http.MethodPost {
		return ending{status: http.StatusMethodNotAllowed, code: InvalidItem, text: "POST"}
	}
	if operation == "metrics" {
		quoteNonFinite(x.json)
	}
	return a.call(x, r, id, operation, now, badBody, noSession)
}

// daemonCall is one of the daemon's calls, whose bodies name the session.
func (a *API) daemonCall(operation string) func(*exchange, *http.Request, time.Time) ending {
	return func(x *exchange, r *http.Request, now time.Time) ending {
		if operation == "metrics" {
			quoteNonFinite(x.json)
		}
		var id string
		var state []byte
		if !x.object(func(d *jx.Decoder, key []byte) (err error) {
			switch {
			case string(key) == "session_id" && d.Next() != jx.Null:
				id, err = d.Str()
			case string(key) == "state":
				state, err = d.Raw()
			default:
				err = d.Skip()
			}
			return err
		}) {
			return badRequest
		}
		if operation == "state" { // a server gets it bare
			x.json = state
		}
		return a.call(x, r, id, operation, now, badRequest, noSessionPage)
	}
}

// call is one operation on a session.
func (a *API) call(x *exchange, r *http.Request, id, operation string, now time.Time, bad, unknown ending) ending {
	s := a.sessions.get(id, now)
	if s == nil {
		return unknown
	}
	switch operation {
	case "metrics":
		return a.dataCatMetric(x, s, now, bad)
	case "":
		return x.ok()
	case "end", "crash":
		a.sessions.end(s, operation == "crash", now)
	case "events", "state":
		if !x.object(func(d *jx.Decoder, _ []byte) error { return d.Skip() }) {
			return bad
		}
	}
	if s.remote {
		return a.pass(x, r.Context(), s, operation)
	}
	if operation == "events" {
		if code := a.dataCatEvent(x, s, now.UnixNano()); code == InvalidJSON {
			return bad
		} else if code != Accepted {
			return refusal(code)
		}
	}
	return x.ok()
}

// oneSession is the daemon's GET /session?session_id=.
func (a *API) oneSession(x *exchange, r *http.Request, now time.Time) ending {
	return a.show(x, r, r.URL.Query().Get("session_id"), now)
}

func (a *API) show(x *exchange, r *http.Request, id string, now time.Time) ending {
	s := a.sessions.get(id, now)
	if s == nil {
		return noSessionPage
	}
	if s.remote {
		return a.fetch(x, r.Context(), "/api/sessions/"+s.id)
	}
	x.answer = append(a.sessions.append(x.answer, s), '\n')
	return done
}

func (a *API) listSessions(x *exchange, r *http.Request, now time.Time) ending {
	if a.options.DataCat() != nil {
		return a.fetch(x, r.Context(), "/api/data/sessions")
	}
	x.answer = append(x.answer, '[')
	for i, s := range a.sessions.all(now) {
		if i > 0 {
			x.answer = append(x.answer, ',')
		}
		x.answer = a.sessions.append(x.answer, s)
	}
	x.answer = append(x.answer, ']', '\n')
	return done
}

// dataCatMetric takes one metric of a session.
func (a *API) dataCatMetric(x *exchange, s *session, now time.Time, bad ending) ending {
	m, code, ok := x.readDataCat()
	if !ok {
		return bad
	}
	if code != Accepted {
		return refusal(code)
	}
	sample := aggregator.Sample{Head: m.name, Tags: m.tags, Kind: m.kind, Time: m.time}
	x.batch = x.batch[:0]
	undo := func() {}
	switch {
	case m.kind == aggregator.Counter && m.delta.given:
		set(&sample, &m.delta.number, 1)
		x.batch = append(x.batch, sample)
	case m.kind == aggregator.Counter, m.running:
		// One request at a time may compare a running total with the one before.
		s.mu.Lock()
		defer s.mu.Unlock()
		var v ending
		if undo, v = a.grow(x, s, &sample, m); v != done {
			return v
		}
	default:
		set(&sample, &m.value.number, 1)
		x.batch = append(x.batch, sample)
	}
	codes := slices.Grow(x.metrics.codes[:0], len(x.batch))[:len(x.batch)]
	clear(codes)
	x.add(now.UnixNano(), codes)
	for _, code := range codes { // they are of one series and one time, so they share their fate
		if code != Accepted {
			undo()
			return refusal(code)
		}
	}
	x.answer = append(x.answer, `{"status":"ok","success":true}`+"\n"...)
	return done
}

// pass makes a call on a session of the upstream, and answers what it answered.
func (a *API) pass(x *exchange, ctx context.Context, s *session, operation string) ending {
	body := x.json
	if len(body) == 0 {
		body = []byte("{}")
	}
	return a.passOn(x, ctx, http.MethodPost, "/api/sessions/"+s.id+"/"+operation, body)
}

// fetch reads something from the upstream.
func (a *API) fetch(x *exchange, ctx context.Context, path string) ending {
	return a.passOn(x, ctx, http.MethodGet, path, nil)
}

func (a *API) passOn(x *exchange, ctx context.Context, method, path string, body []byte) ending {
	up := a.options.DataCat()
	if up == nil { // no longer configured
		return upstreamAway
	}
	status, answer, err := up(ctx, method, path, body)
	switch {
	case err != nil:
		return upstreamAway
	case status >= 200 && status < 300:
		x.answer = append(x.answer, answer...)
		return done
	}
	return ending{NotReady, status, strings.TrimSpace(string(answer))}
}

// remoteSession makes a session at the upstream. When that is away the session is
// one of this process: its metrics are taken all the same.
func (a *API) remoteSession(ctx context.Context, up DataCatUpstream, s *session) (id string, ok bool) {
	body := appendText([]byte(`{"product":`), []byte(s.product))
	body = appendText(append(body, `,"version":`...), []byte(s.version))
	for _, m := range [][2]string{{"machine_id", s.machine}, {"hostname", s.host}} {
		if m[1] != "" {
			body = appendText(append(append(append(body, `,"`...), m[0]...), `":`...), []byte(m[1]))
		}
	}
	body = append(body, '}')
	status, answer, err := up(ctx, http.MethodPost, "/api/sessions", body)
	if err == nil && status >= 200 && status < 300 {
		jx.DecodeBytes(answer).Obj(func(d *jx.Decoder, key string) error {
			if key != "session_id" {
				return d.Skip()
			}
			id, err = d.Str()
			return err
		})
	}
	if !validSessionID(id) {
		a.options.Log.Warn("no session at the DataCat upstream; this one stays on this host", "product", s.product, "status", status, "error", err)
		return "", false
	}
	return id, true
}

package listeners

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-faster/jx"
	"github.com/klauspost/compress/gzip"

	"sluice/aggregator"
)

// APIOptions says what an API does beside taking samples and events.
type APIOptions struct {
	Name    string // of its Stats: "http:127.0.0.1:8127"
	Rules   *Rules // what the configuration does to every series; nil is nothing
	Version string // that GET /health tells

	// Provision answers the calls by which an SDK asks for a project and its keys;
	// nil: they are unavailable. Its requests have a body of at most MaxBody bytes.
	Provision http.Handler

	// Pulse answers the calls of Pulse that are no metrics (traces, spans, browser
	// data); nil: there are no such paths.
	Pulse http.Handler

	// DataCat answers how calls are passed on to a DataCat server, whose sessions
	// are then those that clients get. Nil, or the answer nil: sessions exist in
	// this process alone.
	DataCat func() DataCatUpstream

	// Log is told what an operator should know; nil discards it.
	Log *slog.Logger
}

// An API takes samples and events over HTTP in the dialects of Flux, Pulse and
// DataCat. It has the routes; who serves them, and behind which Guard, is the
// owner's affair. It is used by any number of goroutines.
type API struct {
	options  APIOptions
	naming   jsonNaming
	bodies   budget
	pool     sync.Pool     // of *exchange
	sinks    chan Sink     // free ones
	stopped  chan struct{} // closed when nothing is taken any more
	stop     sync.Once
	sessions *sessions

	requests, bytes, samples, events, cut atomic.Uint64
	ruled                                 atomic.Uint64 // items dropped by rules
	refused                               [Codes]atomic.Uint64
}

// NewAPI makes an API. It opens and starts nothing.
func NewAPI(o APIOptions) *API {
	if o.DataCat == nil {
		o.DataCat = func() DataCatUpstream { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{options: o, naming: jsonNaming{rules: o.Rules}, stopped: make(chan struct{}), sessions: newSessions()}
	a.bodies.left.Store(bodyBudget)
	a.pool.New = func() any { return newExchange(a) }
	return a
}

// maxSinks bounds the intakes that requests share: each holds one only while
// it adds what it has parsed.
const maxSinks = 4

// Routes registers the routes on mux, and opens the sinks.
func (a *API) Routes(mux *http.ServeMux, open Sinks) {
	n := min(runtime.GOMAXPROCS(0), maxSinks)
	a.sinks = make(chan Sink, n)
	for range n {
		a.sinks <- open(&a.naming)
	}
	for _, prefix := range []string{"", "/flux"} {
		mux.Handle("POST "+prefix+"/api/v1/metrics", a.json((*exchange).postMetric))
		mux.Handle("POST "+prefix+"/api/v1/metrics/batch", a.json((*exchange).postMetrics))
		mux.Handle("POST "+prefix+"/api/v1/events", a.json((*exchange).postEvent))
		mux.Handle("POST "+prefix+"/api/v1/events/batch", a.json((*exchange).postEvents))
		mux.Handle("POST "+prefix+"/api/v1/flux/batch", a.json((*exchange).postBoth))
	}
	mux.Handle("POST /pulse/api/v1/metrics", a.json((*exchange).postPulse))
	mux.Handle("POST /pulse/api/v1/metrics/batch", a.json((*exchange).postPulses))
	for _, prefix := range []string{"", "/flux", "/pulse"} {
		mux.HandleFunc("POST "+prefix+"/api/v1/projects/provision", a.provision)
		mux.HandleFunc("GET "+prefix+"/api/v1/projects/lookup", a.provision)
		mux.HandleFunc("GET "+prefix+"/up", a.serveUp)
		if prefix != "/flux" && a.options.Pulse != nil {
			for _, path := range pulsePaths {
				mux.Handle("POST "+prefix+"/api/v1/"+path, a.options.Pulse)
			}
		}
	}
	mux.HandleFunc("GET /healthz", a.serveUp)
	mux.HandleFunc("GET /health", a.serveHealth)
	a.dataCatRoutes(mux)
}

var pulsePaths = []string{"traces", "traces/batch", "spans", "spans/batch", "browser"}

// Stop makes the API take nothing any more, and returns when everything that it
// has accepted is in the sinks: requests from then on are answered with 503.
// It may be called more than once, after Routes.
func (a *API) Stop() {
	a.stop.Do(func() {
		close(a.stopped)
		for range cap(a.sinks) {
			<-a.sinks // for good
		}
	})
}

// sink lends a sink, or nil once the API has stopped.
func (a *API) sink() Sink {
	select {
	case <-a.stopped:
		return nil
	default:
	}
	select {
	case <-a.stopped:
		return nil
	case s := <-a.sinks:
		return s
	}
}

// Stats returns what has been counted so far.
func (a *API) Stats() Stats {
	s := Stats{Name: a.options.Name, Packets: a.requests.Load(), Bytes: a.bytes.Load(), Samples: a.samples.Load() + a.events.Load(), TagCut: a.cut.Load()}
	s.Refused[aggregator.DroppedByRule] = a.ruled.Load()
	for c := range a.refused {
		s.Codes[c] = a.refused[c].Load()
	}
	return s
}

// An exchange is one request while it is answered, with all the memory that it
// takes. It is reused: a batch of 500 items allocates next to nothing.
type exchange struct {
	api *API

	json              []byte // the body, which samples and events borrow from
	body, plain       buffer
	compressed        bytes.Reader
	gzip              gzip.Reader
	decoder, inner    jx.Decoder
	scratch           []byte // bytes of samples and events that do not stand in the body as they must
	item              members
	onField           func(*jx.Decoder, []byte) error
	batch             []aggregator.Sample
	events            []aggregator.Event
	metrics, eventual list
	answer            []byte
}

// A list is what became of the items of one list, by index.
type list struct {
	given bool
	codes []Code
}

func (l *list) reset() { l.given, l.codes = false, l.codes[:0] }

// accepted counts the items that were taken.
func (l *list) accepted() (n int) {
	for _, c := range l.codes {
		if c == Accepted {
			n++
		}
	}
	return n
}

func newExchange(a *API) *exchange {
	x := &exchange{api: a}
	x.onField = func(d *jx.Decoder, key []byte) error { return x.item.field(d, key) }
	return x
}

// What an exchange keeps for the next request, in elements.
const elementsKept = 2048

func (x *exchange) release() {
	a := x.api
	x.body.reset(&a.bodies)
	x.plain.reset(&a.bodies)
	x.json = nil
	if cap(x.scratch) > bodyKept || cap(x.answer) > bodyKept || cap(x.batch) > elementsKept || cap(x.events) > elementsKept {
		return
	}
	clear(x.batch)
	clear(x.events)
	x.item = members{}
	x.batch, x.events, x.scratch, x.answer = x.batch[:0], x.events[:0], x.scratch[:0], x.answer[:0]
	x.metrics.reset()
	x.eventual.reset()
	a.pool.Put(x)
}

// json makes a handler of one that answers in JSON: with a status and what it has
// put into x.answer, or with the Code why it did not take anything at all.
func (a *API) json(handle func(x *exchange, now int64) (status int, code Code)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := a.pool.Get().(*exchange)
		defer x.release()
		a.requests.Add(1)
		status, code := 0, x.read(r)
		if code == Accepted {
			a.bytes.Add(uint64(len(x.json)))
			status, code = handle(x, time.Now().UnixNano())
		}
		if code != Accepted {
			a.refused[code].Add(1)
			fail(w, r, code)
			return
		}
		header := w.Header()
		header["Content-Type"] = jsonType
		if status == http.StatusTooManyRequests {
			header.Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		w.Write(x.answer) // the client may be gone; there is nobody else to tell
	})
}

var jsonType = []string{"application/json"}

// fail answers a request that was refused as a whole.
func fail(w http.ResponseWriter, r *http.Request, code Code) {
	switch code {
	case Overloaded:
		w.Header().Set("Retry-After", "1")
	case UnsupportedMediaType:
		w.Header().Set("Accept-Encoding", "gzip, identity")
	case BodyTooLarge, BodyTimeout:
		w.Header().Set("Connection", "close")
	}
	refuse(w, r, code.Status(), code.String(), code.Message())
}

// add hands the samples of the batch to a sink. list has an Accepted for each of
// them; those that the sink refuses get its code.
func (x *exchange) add(now int64, codes []Code) {
	if len(x.batch) == 0 {
		return
	}
	sink := x.api.sink()
	if sink == nil {
		refuseAll(codes)
		return
	}
	marked := sink.Add(now, x.batch)
	x.api.sinks <- sink
	if marked == 0 {
		x.api.samples.Add(uint64(len(x.batch)))
		return
	}
	next, refused, cut := 0, 0, 0
	for i := range codes {
		if codes[i] != Accepted {
			continue
		}
		s := &x.batch[next]
		next++
		if s.Refused == aggregator.DroppedByRule { // as was asked for: the client is told that all is well
			refused++
			x.api.ruled.Add(1)
		} else if codes[i] = codeOf(s.Refused); codes[i] != Accepted {
			refused++
		} else if s.Flags&aggregator.TagCut != 0 {
			cut++
		}
	}
	x.api.samples.Add(uint64(len(x.batch) - refused)) // in one step: a counter never goes down
	x.api.cut.Add(uint64(cut))
}

// refuseAll refuses what would have been accepted.
func refuseAll(codes []Code) {
	for i := range codes {
		if codes[i] == Accepted {
			codes[i] = Stopping
		}
	}
}

// count notes what was refused of a list.
func (x *exchange) count(l *list) {
	for _, c := range l.codes {
		if c != Accepted {
			x.api.refused[c].Add(1)
		}
	}
}

// end answers whether the body has nothing but white space left.
func (x *exchange) end() bool { return x.decoder.Skip() == io.EOF }

func (a *API) provision(w http.ResponseWriter, r *http.Request) {
	if a.options.Provision == nil {
		a.requests.Add(1)
		a.refused[NotReady].Add(1)
		fail(w, r, NotReady)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	a.options.Provision.ServeHTTP(w, r)
}

// serveUp tells that samples are taken.
func (a *API) serveUp(w http.ResponseWriter, r *http.Request) {
	a.health(w, `{"status":"ok","version":`, "}\n")
}

// serveHealth is serveUp the way DataCat's clients know it.
func (a *API) serveHealth(w http.ResponseWriter, r *http.Request) {
	a.health(w, `{"status":"healthy","service":"sluice","version":`, "}\n")
}

func (a *API) health(w http.ResponseWriter, before, after string) {
	select {
	case <-a.stopped:
		HTTPError(w, Stopping.Status(), Stopping.String(), Stopping.Message())
		return
	default:
	}
	w.Header()["Content-Type"] = jsonType
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(appendText([]byte(before), []byte(a.options.Version)), after...))
}

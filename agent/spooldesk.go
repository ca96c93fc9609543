package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/forwarder"
	"sluice/listeners"
	"sluice/spool"
)

// A spoolDesk answers what the commands of sluice spool ask. There are two: a
// spool in this process, which serves the HTTP paths of a running agent, too,
// and the client of one.
type spoolDesk interface {
	list(context.Context) (spoolListDoc, error)
	verify(context.Context) (verifyDoc, error)
	export(context.Context, io.Writer) error
	dead(context.Context) ([]letterDoc, error)
	letters(ctx context.Context, verb string, which lettersDoc) (int, error)
}

// The JSON of the paths below /api/agent/spool.
type (
	spoolListDoc struct {
		Dir       string       `json:"dir"`
		MaxBytes  int64        `json:"max_bytes"`
		Bytes     int64        `json:"bytes"`
		Segments  []segmentDoc `json:"segments"`
		Files     []fileDoc    `json:"files"`
		Upstreams []outboxDoc  `json:"upstreams"`
		LastSeq   uint64       `json:"last_seq"`
	}
	segmentDoc struct {
		File    string     `json:"file"`
		Bytes   int64      `json:"bytes"`
		Windows int        `json:"windows"`
		First   uint64     `json:"first"` // sequence
		Last    uint64     `json:"last"`
		Start   *time.Time `json:"start"`
		End     *time.Time `json:"end"`
		Owed    []string   `json:"owed"`
	}
	fileDoc struct {
		File  string `json:"file"`
		Bytes int64  `json:"bytes"`
	}
	outboxDoc struct {
		Name        string `json:"name"`
		Configured  bool   `json:"configured"` // always false of a stopped agent
		Windows     int    `json:"windows"`
		Batches     int    `json:"batches"`
		BatchBytes  int64  `json:"batch_bytes"`
		DeadLetters int    `json:"dead_letters"`
		DeadLost    uint64 `json:"dead_letters_lost"`
	}
	verifyDoc struct {
		Files       int      `json:"files"`
		Windows     int      `json:"windows"`
		Batches     int      `json:"batches"`
		DeadLetters int      `json:"dead_letters"`
		Upstreams   []string `json:"upstreams"`
		Faults      []string `json:"faults"`
	}
	letterDoc struct {
		Upstream string          `json:"upstream"`
		ID       uint64          `json:"id"`
		Metric   string          `json:"metric"`
		Kind     string          `json:"kind"`
		Samples  uint64          `json:"samples"`
		At       time.Time       `json:"at"`
		Batch    uint64          `json:"batch"`
		Reason   string          `json:"reason"`
		Answer   string          `json:"answer"`
		Item     json.RawMessage `json:"item"`
	}
	// lettersDoc names dead letters: those with the IDs, or all of the upstream.
	lettersDoc struct {
		Upstream string   `json:"upstream"` // may be empty while there is one
		IDs      []uint64 `json:"ids"`
		All      bool     `json:"all"`
	}
)

// localDesk works on a spool of this process.
type localDesk struct {
	spool    *spool.Spool
	dir      string
	maxBytes int64
	reads    diskReads // nil of a stopped agent
}

func (d localDesk) list(ctx context.Context) (spoolListDoc, error) {
	return ask(ctx, d.reads, func(context.Context, func()) (spoolListDoc, error) { return d.listNow() })
}

func (d localDesk) listNow() (spoolListDoc, error) {
	if !d.spool.Attached() {
		return spoolListDoc{}, fmt.Errorf("spool %s: %s", d.dir, d.spool.Stats().Detail)
	}
	s := d.spool.Stats()
	doc := spoolListDoc{Dir: d.dir, MaxBytes: d.maxBytes, Bytes: s.Bytes, LastSeq: s.LastSeq, Segments: []segmentDoc{}, Files: []fileDoc{}, Upstreams: []outboxDoc{}}
	for _, g := range d.spool.Segments() {
		seg := segmentDoc{File: g.File, Bytes: g.Bytes, Windows: g.Records, Start: optional(g.Start), End: optional(g.End), Owed: g.Owed}
		if g.Records > 0 {
			seg.First, seg.Last = g.Seqs.From, g.Seqs.To-1
		}
		doc.Segments = append(doc.Segments, seg)
	}
	for _, f := range d.spool.OtherFiles() {
		doc.Files = append(doc.Files, fileDoc(f))
	}
	for _, name := range d.spool.Outboxes() {
		o, ok := d.spool.Find(name)
		if !ok {
			continue
		}
		u := outboxDoc{Name: name, Configured: o.Configured(), Batches: len(o.Batches()), BatchBytes: o.Bytes(), DeadLetters: len(o.Dead()), DeadLost: o.DeadLost()}
		for _, r := range o.Pending() {
			u.Windows += len(d.spool.Entries(r))
		}
		doc.Upstreams = append(doc.Upstreams, u)
	}
	return doc, nil
}

// count looks into a window and counts its samples.
func count(parts [][]byte) (samples [spool.Kinds]uint64, err error) {
	reader, err := aggregator.OpenReader(parts...)
	if err != nil {
		return samples, err
	}
	m := aggregator.Merge(1<<30, nil, reader)
	for s, v := range m.All() {
		samples[s.Kind()] += v.Samples()
	}
	if m.Err() == nil {
		for range m.Events() {
			samples[aggregator.Events]++
		}
	}
	return samples, m.Err()
}

func (d localDesk) verify(ctx context.Context) (verifyDoc, error) {
	v, err := ask(ctx, d.reads, func(ctx context.Context, step func()) (spool.Verified, error) {
		return d.spool.Verify(ctx, count, step)
	})
	doc := verifyDoc{Files: v.Files, Windows: v.Records, Batches: v.Batches, DeadLetters: v.DeadLetters, Upstreams: d.spool.Outboxes(), Faults: v.Faults}
	return doc, err
}

func (d localDesk) export(ctx context.Context, w io.Writer) error {
	if !d.spool.Attached() {
		return spool.ErrDetached
	}
	for _, e := range d.spool.Entries(spool.Range{From: 0, To: spool.Open}) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		is, err := ask(ctx, d.reads, func(context.Context, func()) (window, error) { return d.read(e.Seqs) })
		if err == nil {
			err = exportWindow(&is.Entry, is.parts, w)
		}
		if err != nil && !errors.Is(err, spool.ErrGone) { // it was evicted meanwhile
			return fmt.Errorf("window %d: %w", e.Seqs.From, err)
		}
	}
	return nil
}

// A window is a record that was read.
type window struct {
	spool.Entry
	parts [][]byte
}

// read reads the window that begins with the first of some sequences, as it is now. It
// holds it no longer than that: whoever it is for may be slow.
func (d localDesk) read(seqs spool.Range) (window, error) {
	defer d.spool.Hold()()
	now := d.spool.Entries(seqs)
	if len(now) == 0 {
		return window{}, spool.ErrGone
	}
	parts, err := d.spool.Read(now[0].Seqs.From)
	return window{now[0], parts}, err
}

// A lasting answer may take as long as it is being read.
type lasting struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (w *lasting) Write(b []byte) (int, error) {
	w.begun = true
	_ = w.control.SetWriteDeadline(time.Now().Add(answerTimeout)) // where there is none, none ends it
	return w.ResponseWriter.Write(b)
}

func (d localDesk) dead(ctx context.Context) ([]letterDoc, error) {
	return ask(ctx, d.reads, func(context.Context, func()) ([]letterDoc, error) { return d.deadNow() })
}

func (d localDesk) deadNow() ([]letterDoc, error) {
	if !d.spool.Attached() {
		return nil, spool.ErrDetached
	}
	list := []letterDoc{}
	for _, name := range d.spool.Outboxes() {
		o, ok := d.spool.Find(name)
		if !ok {
			continue
		}
		for _, l := range o.Dead() {
			list = append(list, letterOf(name, &l))
		}
	}
	return list, nil
}

func letterOf(upstream string, l *spool.DeadLetter) letterDoc {
	doc := letterDoc{Upstream: upstream, ID: l.ID, Kind: aggregator.Kind(l.Kind).String(), Samples: l.Samples, At: l.At.UTC(), Batch: l.Batch,
		Reason: l.Reason, Answer: string(l.Answer), Item: l.Item}
	var named struct{ Name string }
	if json.Unmarshal(l.Item, &named) == nil {
		doc.Metric = named.Name
	}
	if !json.Valid(l.Item) { // it would spoil the answer as a whole
		doc.Item, _ = json.Marshal(string(l.Item))
	}
	return doc
}

// The verbs of dead letters.
const (
	verbRetry = "retry"
	verbDrop  = "drop"
)

func (d localDesk) letters(ctx context.Context, verb string, which lettersDoc) (int, error) {
	n, err := ask(ctx, d.reads, func(context.Context, func()) (int, error) { return d.lettersNow(verb, which) })
	if errors.Is(err, errNoAnswer) {
		err = fmt.Errorf("%s: %w; it may be done when it does", verb, err)
	}
	return n, err
}

func (d localDesk) lettersNow(verb string, which lettersDoc) (n int, err error) {
	if !d.spool.Attached() {
		return 0, spool.ErrDetached
	}
	var boxes []*spool.Outbox
	for _, name := range d.spool.Outboxes() {
		if o, ok := d.spool.Find(name); ok && (which.Upstream == "" || which.Upstream == name) {
			boxes = append(boxes, o)
		}
	}
	switch {
	case len(boxes) == 0:
		return 0, fmt.Errorf("there is no upstream %q; there are %q", which.Upstream, d.spool.Outboxes())
	case len(boxes) > 1 && !which.All:
		return 0, fmt.Errorf("several upstreams have dead letters with these numbers; name one of %q with --upstream", d.spool.Outboxes())
	case which.All == (len(which.IDs) > 0):
		return 0, errors.New("name dead letters by their numbers, or all of them, not both and not neither")
	}
	do := forwarder.Retry
	if verb == verbDrop {
		do = forwarder.Drop
	}
	for _, o := range boxes {
		ids := which.IDs
		if which.All {
			ids = nil
		}
		some, err := do(o, ids)
		if n += some; err != nil {
			return n, err
		}
	}
	return n, nil
}

// remoteDesk asks a running agent.
type remoteDesk struct{ *client }

const spoolPath = "/api/agent/spool"

func (d remoteDesk) list(ctx context.Context) (doc spoolListDoc, err error) {
	return doc, d.ask(ctx, http.MethodGet, spoolPath, nil, into(&doc))
}

func (d remoteDesk) verify(ctx context.Context) (doc verifyDoc, err error) {
	return doc, d.ask(ctx, http.MethodPost, spoolPath+"/verify", nil, into(&doc))
}

func (d remoteDesk) export(ctx context.Context, w io.Writer) error {
	return d.ask(ctx, http.MethodGet, spoolPath+"/export", nil, func(r io.Reader) error { _, err := io.Copy(w, r); return err })
}

func (d remoteDesk) dead(ctx context.Context) (list []letterDoc, err error) {
	return list, d.ask(ctx, http.MethodGet, spoolPath+"/dead", nil, into(&list))
}

func (d remoteDesk) letters(ctx context.Context, verb string, which lettersDoc) (n int, err error) {
	var said struct{ Letters int }
	err = d.ask(ctx, http.MethodPost, spoolPath+"/"+verb, which, into(&said))
	return said.Letters, err
}

// maxLetters bounds the body of a request that names dead letters: 32 MiB of
// them are at most some 300,000.
const maxLetters = 8 << 20

// spoolRoutes registers what the commands ask a running agent.
func (a *agent) spoolRoutes(mux *http.ServeMux) {
	desk := func() localDesk {
		c := a.now().config.Spool
		return localDesk{a.spool, c.Dir, int64(c.MaxBytes), a.reads}
	}
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			spoolError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
	mux.HandleFunc("GET "+spoolPath, func(w http.ResponseWriter, r *http.Request) {
		doc, err := desk().list(r.Context())
		answer(w, doc, err)
	})
	mux.HandleFunc("POST "+spoolPath+"/verify", func(w http.ResponseWriter, r *http.Request) {
		doc, err := desk().verify(r.Context())
		answer(w, doc, err)
	})
	mux.HandleFunc("GET "+spoolPath+"/export", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		to := &lasting{ResponseWriter: w, control: http.NewResponseController(w)}
		if err := desk().export(r.Context(), to); err != nil {
			a.log.Warn("export of the spool ended early", "error", err)
			if !to.begun {
				spoolError(w, err)
				return
			}
			panic(http.ErrAbortHandler) // so that the client does not take it for all there is
		}
	})
	mux.HandleFunc("GET "+spoolPath+"/dead", func(w http.ResponseWriter, r *http.Request) {
		list, err := desk().dead(r.Context())
		answer(w, list, err)
	})
	for _, verb := range []string{verbRetry, verbDrop} {
		mux.HandleFunc("POST "+spoolPath+"/"+verb, func(w http.ResponseWriter, r *http.Request) {
			var which lettersDoc
			in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLetters))
			in.DisallowUnknownFields()
			if err := in.Decode(&which); err != nil {
				listeners.HTTPError(w, http.StatusBadRequest, "bad_body", "the body is not {\"upstream\", \"ids\", \"all\"}: "+err.Error())
				return
			}
			n, err := desk().letters(r.Context(), verb, which)
			a.wakeDeliveries()
			answer(w, map[string]int{"letters": n}, err)
		})
	}
}

// An exported line is one series of one window, or one event.
type exportDoc struct {
	Sequence uint64            `json:"sequence"`
	To       uint64            `json:"to,omitempty"` // exclusive, if the window stands for several
	Start    time.Time         `json:"start"`
	Width    float64           `json:"width"` // seconds
	Late     bool              `json:"late,omitempty"`
	Kind     string            `json:"kind"`
	Name     string            `json:"name"`
	Tags     map[string]string `json:"tags,omitempty"`
	Samples  uint64            `json:"samples,omitempty"`

	Sum     json.Number `json:"sum,omitempty"`   // counter, distribution
	Count   json.Number `json:"count,omitempty"` // distribution
	Last    *float64    `json:"last,omitempty"`  // gauge
	Min     *float64    `json:"min,omitempty"`   // gauge, distribution
	Max     *float64    `json:"max,omitempty"`
	Mean    *float64    `json:"mean,omitempty"`    // gauge
	P50     json.Number `json:"p50,omitempty"`     // distribution
	P95     json.Number `json:"p95,omitempty"`     // distribution
	P99     json.Number `json:"p99,omitempty"`     // distribution
	Unique  *uint64     `json:"unique,omitempty"`  // set
	Members []string    `json:"members,omitempty"` // set, while it is exact

	Value      *float64        `json:"value,omitempty"` // event, and what follows
	Time       *time.Time      `json:"time,omitempty"`
	Properties json.RawMessage `json:"properties,omitempty"`
}

func exportWindow(e *spool.Entry, parts [][]byte, w io.Writer) error {
	reader, err := aggregator.OpenReader(parts...)
	if err != nil {
		return err
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	head := exportDoc{Sequence: e.Seqs.From, Start: e.Start.UTC(), Width: e.Width.Seconds(), Late: e.Flags&aggregator.FlagLate != 0}
	if e.Seqs.To > e.Seqs.From+1 {
		head.To = e.Seqs.To
	}
	m := aggregator.Merge(1<<30, nil, reader)
	for series, v := range m.All() {
		doc := head
		doc.Kind, doc.Name, doc.Samples, doc.Tags = series.Kind().String(), series.Name(), v.Samples(), map[string]string{}
		for k, v := range series.Tags() {
			doc.Tags[k] = v
		}
		doc.value(v)
		if err := out.Encode(doc); err != nil {
			return err
		}
	}
	if m.Err() != nil {
		return m.Err()
	}
	for event := range m.Events() {
		doc, at := head, time.Unix(0, event.Time).UTC()
		doc.Kind, doc.Name, doc.Time, doc.Tags, doc.Properties = aggregator.Events.String(), string(event.Name), &at, map[string]string{}, event.Properties
		for k, v := range event.EachTag() {
			doc.Tags[string(k)] = string(v)
		}
		if event.HasValue {
			doc.Value = &event.Value
		}
		if err := out.Encode(doc); err != nil {
			return err
		}
	}
	return m.Err()
}

// value fills in what is known of a series.
func (doc *exportDoc) value(v *aggregator.Value) {
	at := func(x float64) *float64 { return &x }
	switch v.Kind() {
	case aggregator.Counter:
		doc.Sum = json.Number(v.AppendTotal(nil))
	case aggregator.Gauge:
		doc.Last, doc.Min, doc.Max, doc.Mean = at(v.Last()), at(v.GaugeMin()), at(v.GaugeMax()), at(v.GaugeMean())
	case aggregator.Distribution:
		doc.Count, doc.Sum = json.Number(v.AppendCount(nil)), json.Number(v.AppendSum(nil))
		doc.Min, doc.Max = at(v.Min()), at(v.Max())
		// Within 1 %, so 9 digits are plenty; the last ones depend on the machine.
		quantile := func(q float64) json.Number { return json.Number(strconv.FormatFloat(v.Quantile(q), 'g', 9, 64)) }
		doc.P50, doc.P95, doc.P99 = quantile(0.5), quantile(0.95), quantile(0.99)
	case aggregator.Set:
		n, exact := v.Unique()
		if doc.Unique = &n; exact {
			doc.Members = slices.Collect(v.Members())
		}
	}
}

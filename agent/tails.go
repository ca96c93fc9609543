package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"sluice/aggregator"
	"sluice/listeners"
)

// Bounds of those who watch: how many there may be, how many packets wait for
// each, and how many bytes those may have together. What does not fit is counted
// and told. A reader never waits for a watcher.
const (
	maxTails   = 8
	tailQueue  = 4096
	tailBytes  = 8 << 20
	tailTag    = 64   // what a tag takes beside its text, about
	tailValue  = 1024 // shown of what an event has
	tailRate   = 100  // lines a second, if not asked for otherwise
	tailsFlush = 100 * time.Millisecond
)

// tails are those who watch what arrives. While there are none, a reader
// is asked for nothing.
type tails struct {
	tap   listeners.Tap
	count atomic.Int32 // of the list, for sinks that no tap sees

	mu      sync.Mutex // guards the fields below
	list    []*tail
	stopped chan struct{}
}

// A tail is one who watches.
type tail struct {
	seen   chan arrival
	bytes  atomic.Int64 // in seen
	missed atomic.Uint64
}

// An arrival is a packet, or an item that came over HTTP.
type arrival struct {
	listener string
	at       int64
	packet   []byte
	item     *tailLine
}

// size is about how many bytes it takes while it waits.
func (a *arrival) size() int64 {
	n := len(a.packet)
	if a.item != nil {
		n += len(a.item.Name) + len(a.item.Value)
		for k, v := range a.item.Tags {
			n += len(k) + len(v) + tailTag
		}
	}
	return int64(n)
}

// A tailLine is a line as a watcher is shown it.
type tailLine struct {
	At       time.Time         `json:"at"`
	Listener string            `json:"listener"`
	Kind     string            `json:"kind,omitempty"`
	Name     string            `json:"name,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Value    string            `json:"value,omitempty"`
	Refused  string            `json:"refused,omitempty"` // why the line is not taken
	Line     string            `json:"line,omitempty"`    // as it came; not over HTTP
}

// watch adds a watcher; nil is one too many.
func (t *tails) watch() *tail {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) >= maxTails {
		return nil
	}
	w := &tail{seen: make(chan arrival, tailQueue)}
	t.list = append(slices.Clone(t.list), w)
	t.setLocked()
	return w
}

func (t *tails) leave(w *tail) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(slices.Clone(t.list), func(o *tail) bool { return o == w })
	t.setLocked()
}

func (t *tails) setLocked() {
	list := t.list
	t.count.Store(int32(len(list)))
	if len(list) == 0 {
		t.tap.Set(nil)
		return
	}
	t.tap.Set(func(listener string, at int64, packet []byte) {
		copied := bytes.Clone(packet)
		for _, w := range list {
			w.offer(arrival{listener: listener, at: at, packet: copied})
		}
	})
}

// offer hands over what arrived unless too much waits already.
func (w *tail) offer(a arrival) {
	if w.bytes.Load() > tailBytes {
		w.missed.Add(1)
		return
	}
	select {
	case w.seen <- a:
		w.bytes.Add(a.size())
	default:
		w.missed.Add(1)
	}
}

// took makes room again for what was received.
func (w *tail) took(a arrival) { w.bytes.Add(-a.size()) }

// stop ends all watching, for good.
func (t *tails) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.stopped)
}

// A tappedSink shows the items of HTTP, which come in no packet, to watchers.
type tappedSink struct {
	listeners.Sink
	spelling aggregator.Spelling
	tails    *tails
}

func (s *tappedSink) Add(now int64, batch []aggregator.Sample) (marked int) {
	marked = s.Sink.Add(now, batch)
	if s.tails.count.Load() > 0 {
		s.show(now, batch)
	}
	return marked
}

func (s *tappedSink) AddEvent(now int64, e *aggregator.Event) aggregator.Reason {
	reason := s.Sink.AddEvent(now, e)
	if s.tails.count.Load() > 0 {
		s.tails.showItem(now, tailLineOfEvent(e), reason)
	}
	return reason
}

func (s *tappedSink) show(now int64, batch []aggregator.Sample) {
	for i := range batch {
		s.tails.showItem(now, tailLineOf(s.spelling, batch[i:i+1]), batch[i].Refused)
	}
}

// showItem hands what came over HTTP to everybody who watches.
func (t *tails) showItem(now int64, l *tailLine, refused aggregator.Reason) {
	l.At, l.Listener = time.Unix(0, now).UTC(), "http"
	if refused != aggregator.Taken {
		l.Refused = refused.String()
	}
	t.mu.Lock()
	list := t.list
	t.mu.Unlock()
	for _, w := range list {
		w.offer(arrival{item: l})
	}
}

// tailLineOf says what samples of one line are.
func tailLineOf(spelling aggregator.Spelling, batch []aggregator.Sample) *tailLine {
	var key aggregator.Key
	key.Reset(batch[0].Kind)
	l := &tailLine{Kind: batch[0].Kind.String(), Value: values(batch)}
	if reason := spelling.Name(&key, &batch[0]); reason != aggregator.Taken {
		l.Refused = reason.String()
	}
	if len(key.Name()) == 0 {
		return l
	}
	series := key.Series()
	l.Name = series.Name()
	for k, v := range series.Tags() {
		if l.Tags == nil {
			l.Tags = map[string]string{}
		}
		l.Tags[k] = v
	}
	return l
}

// eventKind is the kind of events and service checks, which are no samples.
const eventKind = "event"

// tailLineOfEvent says what an event or a service check is; rules are about
// metrics alone. Of long properties there is the beginning.
func tailLineOfEvent(e *aggregator.Event) *tailLine {
	l := &tailLine{Kind: eventKind, Name: string(e.Name), Value: string(e.Properties[:min(len(e.Properties), tailValue)])}
	if len(e.Properties) > tailValue {
		l.Value = strings.ToValidUTF8(l.Value, "") + "…"
	}
	if e.HasValue {
		l.Value = strings.TrimSpace(strconv.FormatFloat(e.Value, 'g', -1, 64) + " " + l.Value)
	}
	for k, v := range e.EachTag() {
		if l.Tags == nil {
			l.Tags = map[string]string{}
		}
		l.Tags[string(k)] = string(v)
	}
	return l
}

// A tailFilter says what a watcher wants to see.
type tailFilter struct {
	name, kind, transport string
	tags                  []string
	refused               bool // these alone
}

func (f *tailFilter) wants(l *tailLine) bool {
	switch {
	case f.refused && l.Refused == "",
		f.transport != "" && !isOf(l.Listener, f.transport),
		f.kind != "" && l.Kind != f.kind,
		f.name != "" && !aggregator.Match(f.name, l.Name):
		return false
	}
	for _, t := range f.tags {
		key, value, valued := strings.Cut(t, ":")
		if have, ok := l.Tags[key]; !ok || valued && !aggregator.Match(value, have) {
			return false
		}
	}
	return true
}

// isOf tells whether a listener is of a transport, which may go on with the
// beginning of an address: unix is not unixgram, and udp:127. is some of udp.
func isOf(listener, transport string) bool {
	return strings.HasPrefix(listener+":", transport+":") || strings.Contains(transport, ":") && strings.HasPrefix(listener, transport)
}

// lines takes a packet apart the way its listener does.
func (a *agent) lines(from arrival, each func(*tailLine)) {
	if from.item != nil {
		each(from.item)
		return
	}
	naming := listeners.Naming{TagsInNames: true, Rules: &a.rules}
	parser := listeners.NewParser(&naming)
	for text := range bytes.SplitSeq(from.packet, []byte("\n")) {
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		parser.Refused = [aggregator.Reasons]uint64{}
		parser.Start(text, false)
		l := &tailLine{}
		batch, _ := parser.Next()
		switch events := parser.Events(); {
		case len(batch) > 0:
			l = tailLineOf(&naming, batch)
		case len(events) > 0:
			l = tailLineOfEvent(events[0])
		default:
			l.Refused = strings.TrimPrefix(whyNot(parser), "not taken: ")
		}
		l.At, l.Listener, l.Line = time.Unix(0, from.at).UTC(), from.listener, strings.ToValidUTF8(string(text), "\uFFFD")
		each(l)
	}
}

// serveTail sends what arrives as server-sent events: "line" has a tailLine,
// "skipped" tells once a second of what there was beside, and with packets=1
// "packet" has a capturedPacket, unfiltered.
func (a *agent) serveTail(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	perSecond := tailRate
	if text := q.Get("rate"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 100_000 {
			listeners.HTTPError(w, http.StatusBadRequest, "invalid_rate", "rate is how many lines a second are sent, 1 to 100000")
			return
		}
		perSecond = n
	}
	t := a.tails.watch()
	if t == nil {
		listeners.HTTPError(w, http.StatusTooManyRequests, "too_many_tails", fmt.Sprintf("%d are watching already, which is the limit", maxTails))
		return
	}
	defer a.tails.leave(t)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &stream{w: w, rc: http.NewResponseController(w)}
	out.rc.SetReadDeadline(time.Time{}) // that of the server is for requests
	out.text(": watching\n\n")
	out.flush()

	f := filterOf(q)
	raw := q.Get("packets") != ""
	lines, skipped := 0, 0
	second, flush := time.NewTicker(time.Second), time.NewTicker(tailsFlush)
	defer second.Stop()
	defer flush.Stop()
	for out.err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-a.tails.stopped:
			return
		case <-flush.C:
			out.flush()
		case <-second.C:
			if missed := t.missed.Swap(0); missed > 0 || skipped > 0 {
				out.event("skipped", tailSkipped{Lines: skipped, Packets: missed})
				out.flush()
			} else {
				out.text(":\n\n") // tells us when nobody reads any more
				out.flush()
			}
			lines, skipped = 0, 0
		case from := <-t.seen:
			t.took(from)
			if raw {
				if from.item == nil {
					out.event("packet", capture(from))
				}
				continue
			}
			a.lines(from, func(l *tailLine) {
				if !f.wants(l) {
					return
				}
				if lines++; lines > perSecond {
					skipped++
					return
				}
				out.event("line", l)
			})
			if len(t.seen) == 0 { // a single line is shown at once, many together
				out.flush()
			}
		}
	}
}

type tailSkipped struct {
	Lines   int    `json:"lines"`   // that were wanted, over the rate
	Packets uint64 `json:"packets"` // that nobody looked into, for there were too many
}

func filterOf(q url.Values) tailFilter {
	return tailFilter{name: q.Get("name"), kind: q.Get("kind"), transport: q.Get("transport"), tags: q["tag"], refused: q.Get("refused") != ""}
}

// A stream writes server-sent events (WHATWG HTML, 9.2). A client that does not
// read is given up on.
type stream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	err error
}

func (s *stream) text(text string) {
	if s.err == nil {
		s.rc.SetWriteDeadline(time.Now().Add(headerTimeout))
		_, s.err = s.w.Write([]byte(text))
	}
}

func (s *stream) event(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.err = err
		return
	}
	s.text("event: " + name + "\ndata: " + string(data) + "\n\n")
}

func (s *stream) flush() {
	if s.err == nil {
		s.err = s.rc.Flush()
	}
}

// A capturedPacket is a packet with its time. Text is its content, where that is
// valid UTF-8; else Bytes is.
type capturedPacket struct {
	At    time.Time `json:"at"`
	From  string    `json:"from"` // listener
	Text  string    `json:"text,omitempty"`
	Bytes []byte    `json:"bytes,omitempty"`
}

func capture(a arrival) capturedPacket {
	p := capturedPacket{At: time.Unix(0, a.at).UTC(), From: a.listener}
	if utf8.Valid(a.packet) {
		p.Text = string(a.packet)
	} else {
		p.Bytes = a.packet
	}
	return p
}

func (p *capturedPacket) content() []byte {
	if p.Bytes != nil {
		return p.Bytes
	}
	return []byte(p.Text)
}

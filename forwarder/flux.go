package forwarder

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"sluice/aggregator"
	"sluice/spool"
)

// The Flux API (docs/protocols.md, "upstream").
const (
	fluxBatchPath  = "/api/v1/metrics/batch"
	fluxEventsPath = "/api/v1/events/batch"
	fluxListPath   = "/api/v1/metrics"
	fluxHead       = `{"metrics":[`
	fluxEvents     = `{"events":[`
	fluxTail       = `]}`

	// The marker is the last item of every batch of metrics: a gauge whose value is the
	// batch's sequence, in one of slots series. A batch is stored whole or not at
	// all, so where the marker is, the batch is.
	fluxMarker = "sluice.delivery"
	// fluxHello is the gauge that asks for the dialect.
	fluxHello = "sluice.up"
	// selfHostedSlots is how many series of markers a self-hosted server gets.
	selfHostedSlots = 1024
)

// Dialects of a Flux. Hosted answers {"data":{"accepted":n,"rejected":m}} and
// takes strings in batches; self-hosted answers {"ingested":n} and puts a batch's
// values unquoted into SQL, where one string fails the whole batch.
const (
	Hosted     = "hosted"
	SelfHosted = "self_hosted"
)

const timestamp = "2006-01-02T15:04:05.000Z"

// flux speaks to Flux. The other upstreams render as it does, but for the form of
// an item.
type flux struct {
	*contact
	options Options
	object  objectWriter
	numbers bool      // values are numbers in every dialect
	points  []float64 // scratch
	scratch []byte
}

// An objectWriter writes an item: the value of a series under a name, as a type.
type objectWriter func(dst []byte, s aggregator.Series, at time.Time, name string, typ aggregator.Kind, value func([]byte) []byte) []byte

func newFlux(o Options, c *contact) *flux { return &flux{contact: c, options: o, object: fluxObject} }

var _ Upstream = (*flux)(nil)

func (f *flux) Form() Form { return Form{Head: fluxHead, Events: fluxEvents, Own: 1} }

func (f *flux) Known() bool { return f.dialect != "" }

func (f *flux) Members() bool { return f.dialect == Hosted && !f.numbers }

func (f *flux) Hello(to *Sheet, at time.Time) {
	to.begin(0, 0)
	to.Item(spool.Metrics, func(dst []byte) []byte {
		return f.own(dst, fluxHello, at, "1", "")
	})
}

func (f *flux) Render(to *Sheet, b *Bucket, s aggregator.Series, v *aggregator.Value) {
	switch v.Kind() {
	case aggregator.Counter:
		f.item(to, s, b.At, "", aggregator.Counter, v.AppendTotal)
	case aggregator.Gauge:
		if !b.Deltas {
			f.item(to, s, b.At, "", aggregator.Gauge, float(v.Last()))
		}
	case aggregator.Set:
		f.set(to, b, s, v)
	case aggregator.Distribution:
		f.distribution(to, b, s, v)
	}
}

// set renders the members that the minute has not had yet, in a lane of their
// own, where strings are taken and the budget allows; else their number.
func (f *flux) set(to *Sheet, b *Bucket, s aggregator.Series, v *aggregator.Value) {
	n, exact := v.Unique()
	if f.dialect == SelfHosted && !f.numbers && exact && f.setSingly(to, b, s, v) {
		return
	}
	if !exact || !f.Members() || b.Rung.unique && n > b.LargeSet {
		if !b.Deltas || !f.Members() { // the number of a part says nothing, but it is all there is
			f.item(to, s, b.At, ".unique", aggregator.Gauge, func(dst []byte) []byte { return strconv.AppendUint(dst, n, 10) })
		}
		return
	}
	name := f.names.claim(s.Name(), "", aggregator.Set, "set")
	minute := b.At.Unix() / 60
	for m := range v.Members() {
		f.scratch = f.object(f.scratch[:0], s, b.At, name, aggregator.Set, func(dst []byte) []byte { return quote(dst, m) })
		if f.members.claim(minute, f.scratch) {
			to.Item(spool.Sets, func(dst []byte) []byte { return append(dst, f.scratch...) })
		}
	}
}

// setSingly renders the members for a server that takes strings one by one only,
// if there is room for all that are new.
func (f *flux) setSingly(to *Sheet, b *Bucket, s aggregator.Series, v *aggregator.Value) bool {
	name := f.names.claim(s.Name(), "", aggregator.Set, "set")
	minute, fresh := b.At.Unix()/60, 0
	item := func(m string) []byte {
		f.scratch = f.object(f.scratch[:0], s, b.At, name, aggregator.Set, func(dst []byte) []byte { return quote(dst, m) })
		return f.scratch
	}
	for m := range v.Members() {
		if !f.members.has(minute, item(m)) {
			fresh++
		}
		if fresh > f.definitions.room {
			return false
		}
	}
	for m := range v.Members() {
		if one := item(m); f.members.claim(minute, one) {
			to.Item(spool.Singles, func(dst []byte) []byte { return append(dst, one...) })
			f.definitions.room--
		}
	}
	return true
}

// distribution renders the points, from which the upstream makes its own
// averages and percentiles, and the exact scalars.
func (f *flux) distribution(to *Sheet, b *Bucket, s aggregator.Series, v *aggregator.Value) {
	f.points = appendPoints(f.points[:0], v, b.Rung.points, b.turn)
	if len(f.points) > 0 {
		name := f.names.claim(s.Name(), "", aggregator.Distribution, s.Kind().String())
		for _, p := range f.points {
			write := func(dst []byte) []byte { return f.object(dst, s, b.At, name, aggregator.Distribution, float(p)) }
			if f.definitions.claim(name) {
				to.Light(spool.Singles, write) // it is never sent twice, so it may be lost: the samples ride on another
			} else {
				to.Item(spool.Metrics, write)
			}
		}
	}
	for _, name := range f.options.Scalars {
		adds := name == "count" || name == "sum"
		if !adds && (b.Deltas || b.Rung.few) {
			continue
		}
		switch name {
		case "count":
			f.item(to, s, b.At, ".count", aggregator.Counter, v.AppendCount)
		case "sum":
			f.item(to, s, b.At, ".sum", aggregator.Counter, v.AppendSum)
		case "min":
			f.item(to, s, b.At, ".min", aggregator.Gauge, float(v.Min()))
		case "max":
			f.item(to, s, b.At, ".max", aggregator.Gauge, float(v.Max()))
		default: // p50, p95, p99: checked by configs
			percent, _ := strconv.ParseFloat(name[1:], 64)
			f.item(to, s, b.At, "."+name, aggregator.Gauge, float(v.Quantile(percent/100)))
		}
	}
}

func (f *flux) item(to *Sheet, s aggregator.Series, at time.Time, suffix string, typ aggregator.Kind, value func([]byte) []byte) {
	name := f.names.claim(s.Name(), suffix, typ, s.Kind().String())
	lane := spool.Metrics
	if f.definitions.claim(name) {
		if typ == aggregator.Gauge {
			lane = spool.Singles
		} else { // it adds nothing, so it can be sent as often as needed
			to.Own(func(dst []byte) []byte {
				return f.object(dst, s, at, name, typ, func(dst []byte) []byte { return append(dst, '0') })
			})
		}
	}
	to.Item(lane, func(dst []byte) []byte { return f.object(dst, s, at, name, typ, value) })
}

func fluxObject(dst []byte, s aggregator.Series, at time.Time, name string, typ aggregator.Kind, value func([]byte) []byte) []byte {
	dst = quote(append(dst, `{"name":`...), name)
	dst = append(append(dst, `,"type":"`...), typ.String()...)
	dst = value(append(dst, `","value":`...))
	return appendTimeAndTags(dst, at, s)
}

func appendTimeAndTags(dst []byte, at time.Time, s aggregator.Series) []byte {
	dst = at.UTC().AppendFormat(append(dst, `,"timestamp":"`...), timestamp)
	dst = append(dst, `","tags":{`...)
	sep := ""
	for k, v := range s.Tags() {
		dst = quote(append(dst, sep...), k)
		dst = quote(append(dst, ':'), v)
		sep = ","
	}
	return append(dst, "}}"...)
}

// RenderEvent writes what the event has; members without a value are left out,
// but for the tags.
func (f *flux) RenderEvent(to *Sheet, e *aggregator.Event) {
	to.Item(spool.Events, func(dst []byte) []byte {
		dst = quote(append(dst, `{"name":`...), shorten(string(e.Name), ""))
		if e.HasValue {
			dst = aggregator.AppendFloat(append(dst, `,"value":`...), e.Value)
		}
		dst = time.Unix(0, e.Time).UTC().AppendFormat(append(dst, `,"timestamp":"`...), timestamp)
		dst = append(dst, '"')
		if len(e.Properties) > 0 {
			dst = append(append(dst, `,"properties":`...), withoutNUL(e.Properties)...)
		}
		for _, m := range []struct {
			name string
			text []byte
		}{{"user_id", e.UserID}, {"session_id", e.SessionID}, {"request_id", e.RequestID},
			{"environment", e.Environment}, {"service", e.Service}, {"host", e.Host}} {
			if len(m.text) > 0 {
				dst = append(append(append(dst, `,"`...), m.name...), `":`...)
				dst = quote(dst, string(m.text))
			}
		}
		dst = append(dst, `,"tags":{`...)
		sep := ""
		for k, v := range e.EachTag() {
			dst = quote(append(dst, sep...), string(k))
			dst = quote(append(dst, ':'), string(v))
			sep = ","
		}
		return append(dst, "}}"...)
	})
}

// withoutNUL returns JSON with every escaped NUL in its strings replaced, see
// quote. A backslash that is itself escaped escapes nothing.
func withoutNUL(json []byte) []byte {
	const nul = `\u0000`
	if !bytes.Contains(json, []byte(nul)) {
		return json
	}
	clean := bytes.Clone(json)
	for i := 0; i < len(clean); i++ {
		if clean[i] != '\\' {
			continue
		}
		if bytes.HasPrefix(clean[i:], []byte(nul)) {
			copy(clean[i:], `\u003f`)
		}
		i++
	}
	return clean
}

// own writes an item of the agent's own. Only these carry the agent's tag: on
// others it would make new series of all.
func (f *flux) own(dst []byte, name string, at time.Time, value, slot string) []byte {
	dst = fmt.Appendf(dst, `{"name":%q,"type":"gauge","value":%s,"timestamp":"%s","tags":{"agent":%q`,
		name, value, at.UTC().Format(timestamp), f.agent)
	if slot != "" {
		dst = fmt.Appendf(dst, `,"slot":%q`, slot)
	}
	return append(dst, "}}"...)
}

func float(v float64) func([]byte) []byte {
	return func(dst []byte) []byte { return aggregator.AppendFloat(dst, v) }
}

// quote writes a JSON string. What is not UTF-8 would make the whole batch
// invalid, and NUL is what PostgreSQL's text cannot hold; intake lets neither
// through, but one batch lost to a byte is one too many.
func quote(dst []byte, s string) []byte {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	}
	w := jx.Writer{Buf: dst}
	w.Str(s)
	return w.Buf
}

func (f *flux) Finish(b *spool.Batch) {
	b.Type, b.Dialect, b.URL = Flux, f.dialect, f.options.URL
	switch b.Lane {
	case spool.Singles:
		return
	case spool.Events:
		b.Body = append(b.Body, fluxTail...)
		return
	}
	at := len(b.Body) + 1
	b.Body = f.own(append(b.Body, ','), fluxMarker, b.Sealed, strconv.FormatUint(b.Seq, 10), f.slot(b))
	b.Items = append(b.Items, spool.Item{Off: uint32(at), Len: uint32(len(b.Body) - at)})
	b.Body = append(b.Body, fluxTail...)
}

// slot keeps the markers of one minute apart: two in one series would hide each
// other, and a series for each batch would be without number.
func (f *flux) slot(b *spool.Batch) string {
	slots := uint64(64)
	if b.Dialect == SelfHosted || f.options.RequestsPerMinute > 60 {
		slots = selfHostedSlots // sequences of single items lie between those of batches
	}
	return strconv.FormatUint(b.Seq%slots, 10)
}

func (f *flux) Request(b *spool.Batch) (*http.Request, error) {
	path := fluxBatchPath
	switch b.Lane {
	case spool.Events:
		path = fluxEventsPath
	case spool.Singles:
		path = fluxListPath
	}
	return f.post(path, b, b.Body)
}

// post makes the request that carries b.
func (f *flux) post(path string, b *spool.Batch, body []byte) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodPost, f.options.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // what the HTTP library cannot read again it cannot send again
	req.Header.Set("Content-Type", "application/json")
	// Not Idempotency-Key: Go's client takes that as leave to repeat a POST.
	req.Header.Set("Sluice-Batch", fmt.Sprintf("%s-%s-%d", f.agent, f.generation, b.Seq))
	f.authorize(req)
	return req, nil
}

func (f *flux) authorize(req *http.Request) {
	if f.options.Key != "" { // a DataCat may need none
		req.Header.Set("Authorization", "Bearer "+f.options.Key)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sluice/"+f.options.Version)
}

func (f *flux) Verdict(b *spool.Batch, o outcome, now time.Time) Verdict {
	if b.Lane == spool.Singles {
		return judge(o, 1, now, countSingle)
	}
	return judge(o, len(b.Items), now, countFlux)
}

func (f *flux) Note(*spool.Tx, *spool.Batch, Verdict) {}

func (f *flux) Repeats(_ *spool.Batch, i spool.Item) repeats {
	if repeatable(aggregator.Kind(i.Kind)) {
		return weighs
	}
	return doubles
}

// countSingle reads the answer to a single item, which is counted by the status.
func countSingle(body []byte) (accepted, rejected int, dialect string, ok bool) {
	var answer struct {
		Data    *struct{} `json:"data"`
		Success bool      `json:"success"`
	}
	switch {
	case json.Unmarshal(body, &answer) != nil:
		return 0, 0, "", false
	case answer.Data != nil:
		return 1, 0, Hosted, true
	}
	return 1, 0, SelfHosted, answer.Success
}

// Define adds what the agent's own metrics are defined with: points that say
// nothing, in a series that no batch has.
func (f *flux) Define(to *Sheet, at time.Time) {
	for _, name := range []string{fluxMarker, fluxHello} {
		if f.definitions.claim(name) {
			to.Own(func(dst []byte) []byte { return f.own(dst, name, at, "0", "") })
		}
	}
}

// nameOf reads the name of an item that travels alone.
func nameOf(item []byte) string {
	var it struct {
		Name string `json:"name"`
	}
	_ = json.Unmarshal(item, &it) // we wrote it
	return it.Name
}

// countFlux reads the answer to a batch in either dialect.
func countFlux(body []byte) (accepted, rejected int, dialect string, ok bool) {
	var answer struct {
		Data *struct {
			Accepted *int `json:"accepted"`
			Rejected int  `json:"rejected"`
		} `json:"data"`
		Ingested *int `json:"ingested"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return 0, 0, "", false
	}
	switch {
	case answer.Data != nil && answer.Data.Accepted != nil:
		return *answer.Data.Accepted, answer.Data.Rejected, Hosted, true
	case answer.Ingested != nil:
		return *answer.Ingested, 0, SelfHosted, true
	}
	return 0, 0, "", false
}

// Look asks for the highest marker in the batch's slot within the minute it was
// sealed in; of a self-hosted server, which knows no such query, for the last
// one in the slot. Events have no marker: the read API knows metrics only.
func (f *flux) Look(b *spool.Batch) (*http.Request, error) {
	if b.URL != f.options.URL || b.Dialect == "" || b.Lane == spool.Events || b.Lane == spool.Singles || len(b.Items) == 0 {
		return nil, nil
	}
	// The tags are those in the batch: agent and slots may be others by now.
	var marker struct {
		Tags struct {
			Agent string `json:"agent"`
			Slot  string `json:"slot"`
		} `json:"tags"`
	}
	last := b.Items[len(b.Items)-1]
	if err := json.Unmarshal(b.Body[last.Off:last.Off+last.Len], &marker); err != nil {
		return nil, err
	}
	if b.Dialect == SelfHosted {
		return f.get("/last?" + url.Values{
			"name":  {fluxMarker},
			"query": {fmt.Sprintf(`{"agent":%q,"slot":%q}`, marker.Tags.Agent, marker.Tags.Slot)},
		}.Encode())
	}
	from := b.Sealed.UTC().Truncate(time.Minute)
	q := url.Values{
		"from":        {from.Format(timestamp)},
		"to":          {from.Add(time.Minute).Format(timestamp)},
		"aggregation": {"max"},
		"interval":    {"1m"},
		"tags[agent]": {marker.Tags.Agent},
		"tags[slot]":  {marker.Tags.Slot},
	}
	return f.get("/" + fluxMarker + "/query?" + q.Encode())
}

func (f *flux) List() (*http.Request, error) { return f.get("") }

func (f *flux) get(path string) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodGet, f.options.URL+fluxListPath+path, nil)
	if err != nil {
		return nil, err
	}
	f.authorize(req)
	return req, nil
}

// silent tells whether an outcome says nothing about what the upstream holds: it
// was busy, or somebody else answered, such as a captive portal.
func silent(o outcome) bool {
	return o.err != nil || o.status >= 500 || o.status == 429 || o.status == 408 ||
		o.status >= 300 && o.status < 400 || o.status < 300 && !json.Valid(o.body) && !cutShort(o.body)
}

// cutShort tells whether an answer is the beginning of a JSON object or array that is
// longer than what is read of it: the list of all metrics can be.
func cutShort(body []byte) bool {
	return len(body) == maxAnswer && (body[0] == '{' || body[0] == '[')
}

func (f *flux) Listed(o outcome) finding {
	switch {
	case silent(o):
		return unanswered
	case o.status < 300:
		return absent
	}
	return unreadable
}

func (f *flux) Found(b *spool.Batch, o outcome) finding {
	switch {
	case silent(o):
		return unanswered
	case o.status == 404 && b.Dialect == Hosted:
		return undefined
	case o.status >= 300:
		return unreadable
	case b.Dialect == SelfHosted:
		return foundLast(b, o.body)
	}
	var answer struct {
		Data *struct {
			Series *[]struct {
				Value *float64 `json:"value"`
			} `json:"series"`
		} `json:"data"`
	}
	if json.Unmarshal(o.body, &answer) != nil || answer.Data == nil || answer.Data.Series == nil {
		return unreadable
	}
	found := absent
	for _, p := range *answer.Data.Series {
		switch {
		case p.Value != nil && *p.Value == float64(b.Seq):
			return present
		case p.Value != nil && *p.Value > float64(b.Seq): // a later batch of the slot hides it, or one of a copy of this agent
			found = unreadable
		}
	}
	return found
}

// foundLast reads the self-hosted server's answer, {"timestamp","value"} with
// nulls where there is no point. A later batch of the slot hides an earlier one.
func foundLast(b *spool.Batch, body []byte) finding {
	var answer map[string]json.RawMessage
	var value *float64
	if json.Unmarshal(body, &answer) != nil || answer["value"] == nil || json.Unmarshal(answer["value"], &value) != nil {
		return unreadable
	}
	switch {
	case value == nil || *value < float64(b.Seq):
		return absent
	case *value == float64(b.Seq):
		return present
	}
	return unreadable
}

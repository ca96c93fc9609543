package forwarder

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// The DataCat API (docs/upstreams.md): metrics belong to a
// session and are sent one by one.
const (
	dataCatSessions = "/api/sessions"
	dataCatProduct  = "sluice"

	// totalsTable holds the total of each counter in the present session, by the hash
	// of its series. When it is full the agent begins another session.
	totalsTable = "totals"
	maxTotals   = maxNames
)

// validSession is what a session's name may be to stand in a path, up to maxSession bytes:
// dots and slashes would lead elsewhere.
var validSession = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

const maxSession = 64

// dataCat speaks to DataCat. Batches have one item.
//
// Counters are running totals there, of a session: who reads them looks at how they
// grow. What is sealed is the growth, and the total is made of it when the request is
// made, from the total that was delivered last: so a total counts what was delivered
// and nothing else, begins at 0 in a new session, and can be sent again without
// counting twice.
type dataCat struct {
	*flux
	totals int // in totalsTable; -1 while they have not been counted
}

var _ Upstream = (*dataCat)(nil)

func newDataCat(o Options, c *contact) *dataCat {
	f := newFlux(o, c)
	f.object, f.numbers = dataCatObject, true
	return &dataCat{flux: f, totals: -1}
}

func (d *dataCat) Form() Form { return Form{} }

// Known tells whether there is a session.
func (d *dataCat) Known() bool { return d.session() != "" }

// sessionKey is where a session is kept: 8 bytes, when it was made in seconds since
// 1970, big endian, and its name.
func (d *dataCat) sessionKey() string { return "session " + d.options.URL }

func (d *dataCat) session() string {
	v := d.outbox.Get(stateTable, d.sessionKey())
	if len(v) < 8 {
		return ""
	}
	return string(v[8:])
}

// Hello asks for a session; within one it is the gauge sluice.up.
func (d *dataCat) Hello(to *Sheet, at time.Time) {
	to.begin(0, 0)
	to.Item(spool.Metrics, func(dst []byte) []byte {
		if d.Known() {
			return fmt.Appendf(dst, `{"name":%q,"type":"gauge","value":1,"timestamp":"%s","tags":["agent:%s"]}`, fluxHello, at.UTC().Format(timestamp), d.agent)
		}
		dst = quote(append(dst, `{"product":"`+dataCatProduct+`","version":`...), d.options.Version)
		if d.options.Host != "" {
			dst = quote(append(dst, `,"hostname":`...), d.options.Host)
		}
		return append(dst, '}')
	})
}

// asksSession tells whether a batch is a hello without a session.
func asksSession(b *spool.Batch) bool { return bytes.HasPrefix(b.Body, []byte(`{"product":`)) }

func dataCatObject(dst []byte, s aggregator.Series, at time.Time, name string, typ aggregator.Kind, value func([]byte) []byte) []byte {
	dst = quote(append(dst, `{"name":`...), name)
	dst = append(append(dst, `,"type":"`...), histogram(typ)...)
	dst = value(append(dst, `","value":`...))
	dst = at.UTC().AppendFormat(append(dst, `,"timestamp":"`...), timestamp)
	dst = append(dst, `","tags":[`...)
	sep := ""
	for k, v := range s.Tags() {
		dst = quote(append(dst, sep...), k+":"+v)
		sep = ","
	}
	return append(dst, "]}"...)
}

// histogram names a type as Pulse and DataCat do.
func histogram(typ aggregator.Kind) string {
	if typ == aggregator.Distribution {
		return "histogram"
	}
	return typ.String()
}

func (d *dataCat) Finish(b *spool.Batch) {
	b.Type, b.URL = DataCat, d.options.URL
	if !asksSession(b) {
		b.Dialect = "session" // which one is said when the request is made
	}
}

func (d *dataCat) Request(b *spool.Batch) (*http.Request, error) {
	if asksSession(b) {
		return d.post(dataCatSessions, b, b.Body)
	}
	session := d.session()
	if session == "" {
		return nil, errors.New("there is no session")
	}
	body := b.Body
	if i, ok := counterOf(b); ok {
		sum, rest := d.total(b, i)
		body = append([]byte(nil), b.Body[:i.from]...)
		body = append(aggregator.AppendFloat(body, sum+rest), b.Body[i.to:]...)
	}
	return d.post(dataCatSessions+"/"+session+"/metrics", b, body)
}

// growth is where the value of a counter stands in a body.
type growth struct{ from, to int }

// counterOf finds the growth in a batch that carries a counter. Quotation marks in
// strings are escaped, so the members found are no part of one.
func counterOf(b *spool.Batch) (g growth, ok bool) {
	const before = `,"type":"counter","value":`
	at := bytes.Index(b.Body, []byte(before))
	if at < 0 {
		return g, false
	}
	g.from = at + len(before)
	n := bytes.IndexByte(b.Body[g.from:], ',')
	g.to = g.from + n
	return g, n > 0
}

// total is the total in the present session with the growth in b, as a sum and what
// is lost of it to rounding (Neumaier).
func (d *dataCat) total(b *spool.Batch, g growth) (sum, rest float64) {
	if v := d.outbox.Get(totalsTable, totalKey(b)); len(v) == 16 {
		sum = math.Float64frombits(binary.BigEndian.Uint64(v))
		rest = math.Float64frombits(binary.BigEndian.Uint64(v[8:]))
	}
	grown, err := strconv.ParseFloat(string(b.Body[g.from:g.to]), 64)
	if err != nil {
		return sum, rest // it is sealed as a finite number
	}
	next := sum + grown
	if math.Abs(sum) >= math.Abs(grown) {
		rest += (sum - next) + grown
	} else {
		rest += (grown - next) + sum
	}
	return next, rest
}

func totalKey(b *spool.Batch) string { return strconv.FormatUint(seriesOf(b.Body), 16) }

// Note keeps a session that was made, with all totals at 0; forgets one that is gone;
// and keeps the total that was delivered.
func (d *dataCat) Note(tx *spool.Tx, b *spool.Batch, v Verdict) {
	g, counter := counterOf(b)
	switch {
	case v.Session != "":
		made := binary.BigEndian.AppendUint64(nil, uint64(b.Started.Unix()))
		tx.Put(stateTable, d.sessionKey(), append(made, v.Session...))
		for key := range d.outbox.Table(totalsTable) {
			tx.Delete(totalsTable, key)
		}
		d.totals = 0
	case v.Gone:
		tx.Delete(stateTable, d.sessionKey())
	case v.Is == Delivered && counter:
		sum, rest := d.total(b, g)
		total := binary.BigEndian.AppendUint64(nil, math.Float64bits(sum))
		d.bound(tx, totalKey(b))
		tx.Put(totalsTable, totalKey(b), binary.BigEndian.AppendUint64(total, math.Float64bits(rest)))
	}
}

// bound ends the session before the table of totals gets too large.
func (d *dataCat) bound(tx *spool.Tx, key string) {
	if d.outbox.Get(totalsTable, key) != nil {
		return
	}
	if d.totals < 0 {
		d.totals = 0
		for range d.outbox.Table(totalsTable) {
			d.totals++
		}
	}
	if d.totals++; d.totals >= maxTotals {
		tx.Delete(stateTable, d.sessionKey())
	}
}

func (d *dataCat) Verdict(b *spool.Batch, o outcome, now time.Time) Verdict {
	session := ""
	v := judge(o, len(b.Items), now, func(body []byte) (accepted, rejected int, dialect string, ok bool) {
		if asksSession(b) {
			session, ok = readSession(body)
		} else {
			ok = o.status == http.StatusOK && readDone(body)
		}
		return 1, 0, "", ok
	})
	dataCatRows(o, &v)
	if v.Is == Delivered {
		v.Session = session
	}
	if made := d.outbox.Get(stateTable, d.sessionKey()); v.Gone && len(made) >= 8 {
		age := now.Sub(time.Unix(int64(binary.BigEndian.Uint64(made)), 0))
		if age < minute && age > -minute { // else the clock was set back
			v.Is = Held // a session that does not last: another at once would not either
		}
	}
	if v.Is == InDoubt && (asksSession(b) || d.Repeats(b, b.Items[0]) == nothing) {
		v.Is = Again // a session too many harms nobody
	}
	return v
}

// readSession reads {"session_id":"..."}.
func readSession(body []byte) (session string, ok bool) {
	var answer struct {
		ID string `json:"session_id"`
	}
	err := json.Unmarshal(body, &answer)
	return answer.ID, err == nil && len(answer.ID) <= maxSession && validSession.MatchString(answer.ID)
}

// readDone reads {"success":true} and {"status":"ok"}: the documentation has the one,
// the server the other.
func readDone(body []byte) bool {
	var answer struct {
		Success bool   `json:"success"`
		Status  string `json:"status"`
	}
	return json.Unmarshal(body, &answer) == nil && (answer.Success || answer.Status == "ok")
}

func (d *dataCat) Repeats(b *spool.Batch, _ spool.Item) repeats {
	if _, counter := counterOf(b); counter {
		return nothing
	}
	if bytes.Contains(b.Body, []byte(`,"type":"gauge","value":`)) {
		return weighs
	}
	return doubles
}

// Look: a session's metrics can be read only all at once, without a bound.
func (d *dataCat) Look(*spool.Batch) (*http.Request, error) { return nil, nil }
func (d *dataCat) Found(*spool.Batch, outcome) finding      { return unreadable }
func (d *dataCat) List() (*http.Request, error)             { return nil, errors.New("a DataCat cannot be read") }
func (d *dataCat) Listed(outcome) finding                   { return unreadable }

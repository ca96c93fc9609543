package forwarder

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// The Pulse API (docs/upstreams.md): its paths are those of Flux.
const (
	// pulseTags is how many tags a metric may have there.
	pulseTags = 10
	// pulseMarker begins the names of markers. There is no dot in them, because the
	// open-source server's routes take none in the part of a path that names a metric.
	pulseMarker = "sluice_delivery_"
)

// pulse speaks to Pulse. Its two servers have the dialects of Flux: the hosted one
// counts accepted and rejected items, the open-source one those processed; it takes
// the type as kind, ignores the times of a batch, and stores a batch item by item.
//
// So a batch has two markers: the first item that is stored has twice the batch's
// sequence, the last one more. Reads know no tags, so each slot is a name of its own;
// the greatest value under it tells whether nothing, a part or all is there.
type pulse struct{ *flux }

var _ Upstream = (*pulse)(nil)

func newPulse(o Options, c *contact) *pulse {
	f := newFlux(o, c)
	f.object, f.numbers = pulseObject, true
	return &pulse{f}
}

func (p *pulse) Form() Form {
	return Form{Head: fluxHead, Own: 2, Now: p.dialect == SelfHosted, Tags: pulseTags}
}

func (p *pulse) Hello(to *Sheet, at time.Time) {
	to.begin(0, 0)
	to.Item(spool.Metrics, func(dst []byte) []byte { return p.own(dst, fluxHello, at, 1) })
}

// pulseObject names the type twice: the published API reads type, the open-source
// server kind.
func pulseObject(dst []byte, s aggregator.Series, at time.Time, name string, typ aggregator.Kind, value func([]byte) []byte) []byte {
	dst = quote(append(dst, `{"name":`...), name)
	dst = fmt.Appendf(dst, `,"type":"%s","kind":"%[1]s"`, histogram(typ))
	dst = value(append(dst, `,"value":`...))
	return appendTimeAndTags(dst, at, s)
}

func (p *pulse) own(dst []byte, name string, at time.Time, value uint64) []byte {
	return fmt.Appendf(dst, `{"name":%q,"type":"gauge","kind":"gauge","value":%d,"timestamp":"%s","tags":{"agent":%q}}`,
		name, value, at.UTC().Format(timestamp), p.agent)
}

// Finish puts the markers around the items. In the table of items they come last, as
// all of the agent's own do.
func (p *pulse) Finish(b *spool.Batch) {
	b.Type, b.Dialect, b.URL = Pulse, p.dialect, p.options.URL
	name := p.marker(b)
	first := p.own(nil, name, b.Sealed, 2*b.Seq)
	body := append(make([]byte, 0, len(b.Body)+2*len(first)+8), fluxHead...)
	body = append(append(body, first...), ',')
	shift := uint32(len(body) - len(fluxHead))
	body = append(body, b.Body[len(fluxHead):]...)
	for i := range b.Items {
		b.Items[i].Off += shift
	}
	b.Items = append(b.Items, spool.Item{Off: uint32(len(fluxHead)), Len: uint32(len(first))})
	at := len(body) + 1
	b.Body = p.own(append(body, ','), name, b.Sealed, 2*b.Seq+1)
	b.Items = append(b.Items, spool.Item{Off: uint32(at), Len: uint32(len(b.Body) - at)})
	b.Body = append(b.Body, fluxTail...)
}

// marker is the name of a batch's markers: that of its slot in this generation of the
// outbox, because sequences begin anew with the next. A slot comes round again after
// four minutes, when a batch in doubt has been looked for twice.
func (p *pulse) marker(b *spool.Batch) string {
	slots := uint64(4 * max(p.options.RequestsPerMinute, 10))
	return pulseMarker + p.generation + "_" + strconv.FormatUint(b.Seq%slots, 10)
}

func (p *pulse) Verdict(b *spool.Batch, o outcome, now time.Time) Verdict {
	v := judge(o, len(b.Items), now, countPulse)
	if carried(b) > 0 {
		pulseRows(&v)
	}
	return v
}

// countPulse reads the answer to a batch in either dialect.
func countPulse(body []byte) (accepted, rejected int, dialect string, ok bool) {
	var answer struct {
		Processed *int `json:"processed"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Processed != nil {
		return *answer.Processed, 0, SelfHosted, true
	}
	accepted, rejected, dialect, ok = countFlux(body)
	return accepted, rejected, dialect, ok && dialect == Hosted
}

// Look asks for the greatest value of the batch's markers. The name is that in the
// batch: the slots may be others by now.
func (p *pulse) Look(b *spool.Batch) (*http.Request, error) {
	if b.URL != p.options.URL || b.Dialect == "" || len(b.Items) == 0 {
		return nil, nil
	}
	var marker struct {
		Name string `json:"name"`
	}
	last := b.Items[len(b.Items)-1]
	if err := json.Unmarshal(b.Body[last.Off:last.Off+last.Len], &marker); err != nil {
		return nil, err
	}
	q := url.Values{"since": {"7d"}, "interval": {"day"}}
	if b.Dialect == SelfHosted { // it takes a time, and stamps what arrives with its own clock
		q = url.Values{"since": {b.Started.UTC().Add(-time.Hour).Format(timestamp)}}
	}
	return p.get("/" + url.PathEscape(marker.Name) + "/stats?" + q.Encode())
}

func (p *pulse) Found(b *spool.Batch, o outcome) finding {
	switch {
	case silent(o):
		return unanswered
	case o.status == 404:
		return undefined
	case o.status >= 300:
		return unreadable
	}
	greatest, ok := readMax(b.Dialect, o.body)
	switch whole := float64(2*b.Seq + 1); {
	case !ok:
		return unreadable
	case greatest < whole-1:
		return absent
	case greatest == whole-1:
		return partial
	case greatest == whole:
		return present
	}
	return unreadable // a later batch of the slot hides it
}

// readMax reads the greatest value from statistics: of hosted Pulse
// {"data":{"stats":{"max":n}}}, of the open-source server {"stats":[{"max":n},...]}
// with an element for each minute that has values. No value is less than any.
func readMax(dialect string, body []byte) (greatest float64, ok bool) {
	type stats struct {
		Max *float64 `json:"max"`
	}
	greatest = -1
	if dialect == SelfHosted {
		var answer struct {
			Stats *[]stats `json:"stats"`
		}
		if json.Unmarshal(body, &answer) != nil || answer.Stats == nil {
			return 0, false
		}
		for _, s := range *answer.Stats {
			if s.Max != nil {
				greatest = max(greatest, *s.Max)
			}
		}
		return greatest, true
	}
	var answer struct {
		Data *struct {
			Stats *stats `json:"stats"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Data == nil || answer.Data.Stats == nil {
		return 0, false
	}
	if s := answer.Data.Stats; s.Max != nil {
		greatest = *s.Max
	}
	return greatest, true
}

package listeners

import (
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// maxErrors is how many items an answer explains.
const maxErrors = 20

// readItem reads one element of a list, or the body of a single-item call, into
// x.item. A value that is no object is an InvalidItem; an error says that the
// body is no JSON.
func (x *exchange) readItem(d *jx.Decoder) (Code, error) {
	if d.Next() != jx.Object {
		return InvalidItem, d.Skip()
	}
	x.item = members{}
	return Accepted, d.ObjBytes(x.onField)
}

// tooMany is the error that ends the reading of a list with too many items.
type tooMany struct{}

func (tooMany) Error() string { return "too many items" }

// readMetrics reads a list of metrics into x.batch and x.metrics, and answers in
// which dialect its first item is.
func (x *exchange) readMetrics(d *jx.Decoder, path dialect) (dialect, error) {
	x.batch = x.batch[:0]
	x.metrics.reset()
	if d.Next() == jx.Null {
		return path, d.Skip()
	}
	x.metrics.given = true
	first, limit := path, maxFlux
	err := d.Arr(func(d *jx.Decoder) error {
		code, err := x.readItem(d)
		if err != nil {
			return err
		}
		how := path
		var s aggregator.Sample
		if code == Accepted {
			how = x.dialectOf(path)
			code = x.metric(how, &s)
		}
		if len(x.metrics.codes) == 0 {
			if first = how; first == pulseItem {
				limit = maxPulse
			}
		}
		if len(x.metrics.codes) == limit {
			return tooMany{}
		}
		x.metrics.codes = append(x.metrics.codes, code)
		if code == Accepted {
			x.batch = append(x.batch, s)
		}
		return nil
	})
	return first, err
}

// lists reads a body that is an object with lists in it, or a bare array in the
// place of the list named bare.
func (x *exchange) lists(path dialect, bare string) (first dialect, code Code) {
	first = path
	d := &x.decoder
	d.ResetBytes(withoutMark(x.json))
	read := func(name string) (err error) {
		switch {
		case name == "metrics" && bare != "events":
			first, err = x.readMetrics(d, path)
		case name == "events" && bare != "metrics":
			err = x.readEvents(d)
		default:
			err = d.Skip()
		}
		return err
	}
	var err error
	switch d.Next() {
	case jx.Array:
		if bare == "" {
			return first, InvalidJSON
		}
		err = read(bare)
	case jx.Object:
		err = d.ObjBytes(func(_ *jx.Decoder, key []byte) error { return read(string(key)) })
	default:
		return first, InvalidJSON
	}
	if isTooMany(err) {
		return first, BatchTooLarge
	}
	if err != nil || !x.end() {
		return first, InvalidJSON
	}
	return first, Accepted
}

// single reads the one item of a body.
func (x *exchange) single() Code {
	d := &x.decoder
	d.ResetBytes(withoutMark(x.json))
	if d.Next() == jx.Invalid {
		return InvalidJSON
	}
	code, err := x.readItem(d)
	if err != nil || !x.end() {
		return InvalidJSON
	}
	return code
}

func (x *exchange) postMetric(now int64) (int, Code) { return x.metricCall(now, fluxItem) }
func (x *exchange) postPulse(now int64) (int, Code)  { return x.metricCall(now, pulseItem) }

// metricCall takes one metric.
func (x *exchange) metricCall(now int64, path dialect) (int, Code) {
	code := x.single()
	if code != Accepted {
		return 0, code
	}
	how := x.dialectOf(path)
	var s aggregator.Sample
	if code = x.metric(how, &s); code != Accepted {
		return 0, code
	}
	x.batch = append(x.batch[:0], s)
	x.metrics.codes = append(x.metrics.codes[:0], Accepted)
	x.add(now, x.metrics.codes)
	if code = x.metrics.codes[0]; code != Accepted {
		return 0, code
	}
	at := s.Time
	if at == 0 {
		at = now
	}
	if how == pulseItem {
		x.answerPulse(&s, at)
		return http.StatusCreated, Accepted
	}
	// {"data":{"name","type","value","timestamp"},"success":true,"metric":<name>,"type":<type>}
	typ := x.typeText()
	b := appendText(append(x.answer, `{"data":{"name":`...), s.Head)
	b = appendText(append(b, `,"type":`...), typ)
	b = appendValue(append(b, `,"value":`...), &s)
	b = appendTimestamp(append(b, `,"timestamp":"`...), at)
	b = appendText(append(b, `"},"success":true,"metric":`...), s.Head)
	b = appendText(append(b, `,"type":`...), typ)
	x.answer = append(b, "}\n"...)
	return http.StatusCreated, Accepted
}

// typeText is the type of the item in x.item, which was accepted, as it was
// written.
func (x *exchange) typeText() []byte {
	switch {
	case !absent(x.item.typ):
		return x.text(x.item.typ)
	case !absent(x.item.kind):
		return x.text(x.item.kind)
	}
	return []byte("gauge")
}

func (x *exchange) postMetrics(now int64) (int, Code) { return x.metricsCall(now, fluxItem) }
func (x *exchange) postPulses(now int64) (int, Code)  { return x.metricsCall(now, pulseItem) }

// metricsCall takes a batch of metrics.
func (x *exchange) metricsCall(now int64, path dialect) (int, Code) {
	first, code := x.lists(path, "metrics")
	if code != Accepted {
		return 0, code
	}
	if len(x.metrics.codes) == 0 && first == fluxItem {
		return 0, NoMetrics
	}
	x.add(now, x.metrics.codes)
	x.count(&x.metrics)
	accepted := x.metrics.accepted()
	b := appendCounts(append(x.answer, `{"data":`...), &x.metrics, accepted)
	if first == pulseItem {
		b = append(b, `,"processed":`...)
	} else {
		b = append(b, `,"ingested":`...)
	}
	b = strconv.AppendInt(b, int64(accepted), 10)
	return x.endBatch(b, false)
}

// appendCounts appends {"accepted":n,"rejected":m}.
func appendCounts(dst []byte, l *list, accepted int) []byte {
	dst = strconv.AppendInt(append(dst, `{"accepted":`...), int64(accepted), 10)
	dst = strconv.AppendInt(append(dst, `,"rejected":`...), int64(len(l.codes)-accepted), 10)
	return append(dst, '}')
}

// postBoth takes a combined batch. Nothing of it is a mistake, even if it is empty.
func (x *exchange) postBoth(now int64) (int, Code) {
	if _, code := x.lists(fluxItem, ""); code != Accepted {
		return 0, code
	}
	x.add(now, x.metrics.codes)
	x.addEvents(now)
	x.count(&x.metrics)
	x.count(&x.eventual)
	events, metrics := x.eventual.accepted(), x.metrics.accepted()
	b := appendCounts(append(x.answer, `{"data":{"events":`...), &x.eventual, events)
	b = appendCounts(append(b, `,"metrics":`...), &x.metrics, metrics)
	b = strconv.AppendInt(append(b, `},"events_ingested":`...), int64(events), 10)
	b = strconv.AppendInt(append(b, `,"metrics_ingested":`...), int64(metrics), 10)
	b = strconv.AppendInt(append(b, `,"total":`...), int64(events+metrics), 10)
	return x.endBatch(b, true)
}

// endBatch completes the answer to a batch, which b begins: which items were not
// taken and why. When that is all of them, the answer is an error with the first
// item's code: 429 when it is for want of room alone, 503 when the agent stops,
// else 400.
func (x *exchange) endBatch(b []byte, named bool) (status int, _ Code) {
	lists := [...]struct {
		name string
		of   *list
	}{{"events", &x.eventual}, {"metrics", &x.metrics}}
	taken, rejected, busy := 0, 0, 0
	first := Accepted
	for _, l := range lists {
		for i, code := range l.of.codes {
			if code == Accepted {
				taken++
				continue
			}
			if code == Overloaded || code == Stopping {
				busy++
			}
			if rejected == 0 {
				first = code
				b = append(b, `,"errors":[`...)
			}
			if rejected++; rejected > maxErrors {
				continue
			}
			if rejected > 1 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(append(b, `{"index":`...), int64(i), 10)
			if named {
				b = append(append(append(b, `,"list":"`...), l.name...), '"')
			}
			b = append(append(append(b, `,"code":"`...), code.String()...), `","message":`...)
			b = append(appendText(b, []byte(code.Message())), '}')
		}
	}
	status = http.StatusCreated
	if rejected > 0 {
		b = append(b, ']')
	}
	if rejected > 0 && taken == 0 {
		if status = http.StatusBadRequest; busy == rejected {
			status = first.Status()
		}
		b = appendText(append(b, `,"error":`...), []byte(first.Message()))
		b = append(append(append(b, `,"code":"`...), first.String()...), '"')
	}
	x.answer = append(b, "}\n"...)
	return status, Accepted
}

// appendID appends a random identifier with a prefix.
func appendID(dst []byte, prefix string) []byte {
	var random [12]byte
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	return hex.AppendEncode(append(dst, prefix...), random[:])
}

// answerPulse answers a single metric in Pulse's form:
// {"data":{"id","name","value","type","timestamp"},"metric_id":<id>}
func (x *exchange) answerPulse(s *aggregator.Sample, at int64) {
	b := append(x.answer, `{"data":{"id":"`...)
	start := len(b)
	b = appendID(b, "metric_")
	id := b[start:len(b):len(b)]
	b = appendText(append(b, `","name":`...), s.Head)
	b = appendValue(append(b, `,"value":`...), s)
	b = appendText(append(b, `,"type":`...), x.typeText())
	b = appendTimestamp(append(b, `,"timestamp":"`...), at)
	b = append(append(append(b, `"},"metric_id":"`...), id...), "\"}\n"...)
	x.answer = b
}

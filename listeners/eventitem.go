package listeners

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// readEvents reads a list of events into x.events and x.eventual.
func (x *exchange) readEvents(d *jx.Decoder) error {
	x.events = x.events[:0]
	x.eventual.reset()
	if d.Next() == jx.Null {
		return d.Skip()
	}
	x.eventual.given = true
	return d.Arr(func(d *jx.Decoder) error {
		code, err := x.readItem(d)
		if err != nil {
			return err
		}
		if len(x.eventual.codes) == maxFlux {
			return tooMany{}
		}
		var e aggregator.Event
		if code == Accepted {
			code = x.event(&e)
		}
		x.eventual.codes = append(x.eventual.codes, code)
		if code == Accepted {
			x.events = append(x.events, e)
		}
		return nil
	})
}

func isTooMany(err error) bool { return errors.As(err, new(tooMany)) }

// event makes an event of the item in x.item. Any time is taken.
func (x *exchange) event(e *aggregator.Event) (code Code) {
	m := &x.item
	if !isText(m.name) {
		return MissingName
	}
	if e.Name = x.cleanText(m.name); len(e.Name) == 0 {
		return MissingName
	}
	if !absent(m.value) {
		s := aggregator.Sample{Kind: aggregator.Gauge}
		if code = x.value(&s, m.value); code != Accepted {
			return code
		}
		e.Value, e.HasValue = s.Value, true
	}
	if e.Time, code = x.timestamp(m.timestamp); code != Accepted {
		return code
	}
	var tags []byte
	if tags, code = x.tags(m.tags); code != Accepted {
		return code
	}
	var key aggregator.Key
	if !setTags(&key, tags) {
		return TooManyTags
	}
	x.api.naming.rules.Tag(&key)
	e.Tags = x.scratched(func(dst []byte) []byte { return key.AppendTags(dst) })
	if !absent(m.properties) {
		if m.properties[0] != '{' {
			return InvalidItem
		}
		e.Properties = x.scratched(func(dst []byte) []byte { return appendClean(dst, m.properties) })
	}
	e.UserID, e.SessionID, e.RequestID = x.eventText(m.userID), x.eventText(m.sessionID), x.eventText(m.requestID)
	e.Environment, e.Service, e.Host = x.eventText(m.environment), x.eventText(m.service), x.eventText(m.host)
	return Accepted
}

// scratched returns what is appended to the scratch.
func (x *exchange) scratched(appendTo func([]byte) []byte) []byte {
	start := len(x.scratch)
	x.scratch = appendTo(x.scratch)
	return x.scratch[start:len(x.scratch):len(x.scratch)]
}

// appendClean appends a JSON value, which is valid, in its compact form. Its
// strings are then valid UTF-8 without zero bytes, for neither half a
// surrogate pair nor \u0000 can be stored by the databases behind the upstreams.
func appendClean(dst, raw []byte) []byte {
	w := jx.Writer{Buf: dst}
	copyClean(&w, jx.DecodeBytes(raw))
	return w.Buf
}

func copyClean(w *jx.Writer, d *jx.Decoder) error {
	switch d.Next() {
	case jx.Object:
		w.ObjStart()
		first := true
		err := d.ObjBytes(func(d *jx.Decoder, key []byte) error {
			if !first {
				w.Comma()
			}
			first = false
			w.ByteStr(storable(key))
			w.Raw([]byte{':'})
			return copyClean(w, d)
		})
		w.ObjEnd()
		return err
	case jx.Array:
		w.ArrStart()
		first := true
		err := d.Arr(func(d *jx.Decoder) error {
			if !first {
				w.Comma()
			}
			first = false
			return copyClean(w, d)
		})
		w.ArrEnd()
		return err
	case jx.String:
		text, err := d.StrBytes()
		w.ByteStr(storable(text))
		return err
	}
	raw, err := d.Raw()
	w.Raw(raw)
	return err
}

func storable(b []byte) []byte {
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		return b
	}
	return bytes.ReplaceAll(bytes.ToValidUTF8(b, []byte("\uFFFD")), []byte{0}, []byte{'_'})
}

// eventText reads a member of an event that is text; numbers become text, and
// what is neither is left out.
func (x *exchange) eventText(raw []byte) []byte {
	switch {
	case isText(raw):
		return x.cleanText(raw)
	case isNumber(raw):
		return raw
	}
	return nil
}

// addEvents hands x.events to a sink, and puts the codes of those that it refuses
// into x.eventual.
func (x *exchange) addEvents(now int64) {
	if len(x.events) == 0 {
		return
	}
	sink := x.api.sink()
	if sink == nil {
		refuseAll(x.eventual.codes)
		return
	}
	defer func() { x.api.sinks <- sink }()
	next, taken := 0, 0
	for i, code := range x.eventual.codes {
		if code != Accepted {
			continue
		}
		code = codeOf(sink.AddEvent(now, &x.events[next]))
		if x.eventual.codes[i] = code; code == Accepted {
			taken++
		}
		next++
	}
	x.api.events.Add(uint64(taken))
}

// postEvent takes one event.
func (x *exchange) postEvent(now int64) (int, Code) {
	code := x.single()
	if code != Accepted {
		return 0, code
	}
	var e aggregator.Event
	if code = x.event(&e); code != Accepted {
		return 0, code
	}
	x.events = append(x.events[:0], e)
	x.eventual.codes = append(x.eventual.codes[:0], Accepted)
	x.addEvents(now)
	if code = x.eventual.codes[0]; code != Accepted {
		return 0, code
	}
	at := e.Time
	if at == 0 {
		at = now
	}
	// {"data":{"id","name","timestamp","user_id","value"},"id","name"}
	b := append(x.answer, `{"data":{"id":"`...)
	start := len(b)
	b = appendID(b, "event_")
	id := b[start:len(b):len(b)]
	b = appendText(append(b, `","name":`...), e.Name)
	b = appendTimestamp(append(b, `,"timestamp":"`...), at)
	b = append(b, `","user_id":`...)
	if e.UserID == nil {
		b = append(b, "null"...)
	} else {
		b = appendText(b, e.UserID)
	}
	b = append(b, `,"value":`...)
	if e.HasValue {
		w := jx.Writer{Buf: b}
		w.Float64(e.Value)
		b = w.Buf
	} else {
		b = append(b, "null"...)
	}
	b = append(append(append(b, `},"id":"`...), id...), `","name":`...)
	x.answer = append(appendText(b, e.Name), "}\n"...)
	return http.StatusCreated, Accepted
}

// postEvents takes a batch of events.
func (x *exchange) postEvents(now int64) (int, Code) {
	if _, code := x.lists(fluxItem, "events"); code != Accepted {
		return 0, code
	}
	if len(x.eventual.codes) == 0 {
		return 0, NoEvents
	}
	x.addEvents(now)
	x.count(&x.eventual)
	accepted := x.eventual.accepted()
	b := appendCounts(append(x.answer, `{"data":`...), &x.eventual, accepted)
	b = strconv.AppendInt(append(b, `,"ingested":`...), int64(accepted), 10)
	return x.endBatch(b, false)
}

// dataCatEvent makes an event of what a session reports: its name, the session, its
// labels as tags, and all of it as properties. A session's program and version
// are what tells one program's events from another's.
func (a *API) dataCatEvent(x *exchange, s *session, now int64) Code {
	var name, labels, at []byte
	if !x.object(func(d *jx.Decoder, key []byte) error {
		raw, err := d.Raw()
		switch string(key) {
		case "name":
			name = raw
		case "labels":
			labels = raw
		case "timestamp":
			at = raw
		}
		return err
	}) {
		return InvalidJSON
	}
	x.item = members{name: name, tags: labels, timestamp: at, properties: bytes.TrimSpace(withoutMark(x.json))}
	var e aggregator.Event
	if code := x.event(&e); code != Accepted {
		return code
	}
	e.SessionID, e.Service = []byte(s.id), []byte(s.product)
	if s.host != "" {
		e.Host = []byte(s.host)
	}
	x.events = append(x.events[:0], e)
	x.eventual.codes = append(x.eventual.codes[:0], Accepted)
	x.addEvents(now)
	return x.eventual.codes[0]
}

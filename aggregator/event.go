package aggregator

import (
	"encoding/binary"
	"iter"
	"sync"
)

// Limits of events. A packet of 64 KiB, written as JSON, fits into MaxEvent
// unless most of its bytes must be escaped. MaxEventBytes keeps a window that
// somebody floods with events as small beside its series as one without.
const (
	MaxEvent      = 128 << 10 // bytes of one event in its binary form
	MaxEventBytes = 1 << 20   // bytes of all events in one window, in that form
)

// An Event is something that happened once. It is not aggregated: windows keep
// events one by one, in the order in which they were taken, and merging puts
// them one behind the other. Like a Sample it borrows: of its slices nothing is
// kept when Intake.AddEvent returns, and those of one that was read are valid
// until the next is asked for. All text is UTF-8. Of text and Properties, empty means
// that there is none.
type Event struct {
	Name []byte // not empty
	// Time is when it happened, in nanoseconds since 1970; 0 means now. Any time
	// is taken: the event is in the window in which it arrived.
	Time int64

	// Value is finite; it counts only with HasValue.
	Value    float64
	HasValue bool

	Properties []byte // a JSON object as it goes upstream; whoever makes the event sees that it is valid
	Tags       []byte // written by Key.AppendTags

	UserID, SessionID, RequestID []byte
	Environment, Service, Host   []byte
}

// EachTag yields the tags, sorted by key.
func (e *Event) EachTag() iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for rest := e.Tags; len(rest) > 0; {
			k := rest[1 : 1+int(rest[0])]
			rest = rest[1+len(k):]
			v := rest[1 : 1+int(rest[0])]
			rest = rest[1+len(v):]
			if !yield(k, v) {
				return
			}
		}
	}
}

// Tag returns the value of a tag, nil if there is none.
func (e *Event) Tag(key string) []byte {
	for rest := e.Tags; len(rest) > 0; {
		k := rest[1 : 1+int(rest[0])]
		rest = rest[1+len(k):]
		v := rest[1 : 1+int(rest[0])]
		if rest = rest[1+len(v):]; string(k) == key {
			return v
		}
	}
	return nil
}

// texts are the parts of an event that are text, in the order of its binary form.
func (e *Event) texts() [9]*[]byte {
	return [...]*[]byte{&e.Name, &e.Properties, &e.Tags, &e.UserID, &e.SessionID, &e.RequestID, &e.Environment, &e.Service, &e.Host}
}

// eventValue is a flag in the binary form: there is a value.
const eventValue = 1

// append adds the binary form of an event that arrived at now to dst. Integers
// are little endian.
//
//	length  uvarint, of what follows
//	flags   1 byte, eventValue or 0
//	time    8 bytes, nanoseconds since 1970
//	value   8 bytes, float64; 0 without the flag
//	texts   in the order of Event.texts: uvarint length, then the bytes
func (e *Event) append(dst []byte, now int64) []byte {
	size := 1 + 8 + 8
	for _, t := range e.texts() {
		size += len(binary.AppendUvarint(nil, uint64(len(*t)))) + len(*t)
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	flags, value, at := byte(0), 0.0, e.Time
	if e.HasValue {
		flags, value = eventValue, e.Value
	}
	if at == 0 {
		at = now
	}
	dst = append(dst, flags)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(at))
	dst = appendFloat64(dst, value)
	for _, t := range e.texts() {
		dst = binary.AppendUvarint(dst, uint64(len(*t)))
		dst = append(dst, *t...)
	}
	return dst
}

// decode replaces e by the event at the beginning of d. It borrows from d.
func (e *Event) decode(d *decoder) {
	*e = Event{}
	one := decoder{b: d.bytes(d.uvarint())}
	flags := one.byte()
	e.HasValue = flags == eventValue
	e.Time = int64(one.uint64())
	e.Value = one.finite()
	for _, t := range e.texts() {
		*t = one.bytes(one.uvarint())
	}
	if one.err != nil || len(one.b) != 0 || flags > eventValue || len(e.Name) == 0 || !validTags(string(e.Tags)) {
		d.fail()
	}
}

// An eventList is events in their binary form, one behind the other.
type eventList struct {
	bytes []byte
	len   uint64
}

// all yields the events, which borrow from the list.
func (l eventList) all() iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		d := decoder{b: l.bytes}
		var e Event
		for range l.len {
			if e.decode(&d); !yield(&e) {
				return
			}
		}
	}
}

// openEvents are the events of the open window. There are few, and their order
// counts, so one list and one lock serve all intakes.
type openEvents struct {
	mu       sync.Mutex // guards the fields below
	list     eventList
	accepted uint64 // since New
}

// take adds an event that arrived at now, or refuses it.
func (o *openEvents) take(now int64, e *Event) Reason {
	if len(e.Name) == 0 {
		return BadEvent
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.list.bytes)
	bytes := e.append(o.list.bytes, now)
	switch {
	case len(bytes)-before > MaxEvent:
		return EventTooLarge
	case len(bytes) > MaxEventBytes:
		return TooManyEvents
	}
	o.list.bytes = bytes
	o.list.len++
	o.accepted++
	return Taken
}

// rotate hands over the events of the window that closes.
func (o *openEvents) rotate() eventList {
	o.mu.Lock()
	defer o.mu.Unlock()
	closed := o.list
	o.list = eventList{}
	return closed
}

// AddEvent takes an event that arrived at now, in nanoseconds since 1970, or
// answers why not: BadEvent without a name, EventTooLarge, TooManyEvents. The
// event is the caller's again when AddEvent returns; nothing of it is kept.
func (in *Intake) AddEvent(now int64, e *Event) Reason { return in.home.events.take(now, e) }

package aggregator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// event makes one with a name and nothing else.
func event(name string) *Event { return &Event{Name: []byte(name)} }

func tags(kv ...string) []byte {
	var k Key
	for i := 0; i < len(kv); i += 2 {
		k.Tag([]byte(kv[i]), []byte(kv[i+1]))
	}
	return k.AppendTags(nil)
}

// show writes everything that an event has.
func (e *Event) show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q at %d", e.Name, e.Time)
	if e.HasValue {
		fmt.Fprintf(&b, ", value %g", e.Value)
	}
	for i, t := range e.texts() {
		if name := [...]string{"", "properties", "", "user", "session", "request", "environment", "service", "host"}[i]; name != "" && len(*t) > 0 {
			fmt.Fprintf(&b, ", %s %s", name, *t)
		}
	}
	for k, v := range e.EachTag() {
		fmt.Fprintf(&b, ", tag %s:%s", k, v)
	}
	return b.String()
}

func eventsOf(t testing.TB, in ...*Reader) (all []string) {
	t.Helper()
	m := Merge(100, nil, in...)
	for e := range m.Events() {
		all = append(all, e.show())
	}
	if m.Err() != nil {
		t.Fatalf("Events: %v", m.Err())
	}
	return all
}

func putEvent(t testing.TB, in *Intake, e *Event) {
	t.Helper()
	if got := in.AddEvent(t0.UnixNano(), e); got != Taken {
		t.Fatalf("AddEvent(%s) = %v", e.Name, got)
	}
}

// oneEvent has every part that an event can have.
func oneEvent() *Event {
	return &Event{Name: []byte("deployé"), Time: 1_700_000_000_123_456_789, Value: -2.5, HasValue: true,
		Properties: []byte(`{"version":"1.2","by":["a","b"]}`), Tags: tags("region", "eu", "app", ""),
		UserID: []byte("u1"), SessionID: []byte("s1"), RequestID: []byte("r1"),
		Environment: []byte("production"), Service: []byte("web"), Host: []byte("h1")}
}

// someEvents are small ones of every form.
func someEvents() []*Event {
	return []*Event{oneEvent(), {Name: []byte("bare"), Time: 1}, {Name: []byte("zero"), Time: -1, HasValue: true},
		{Name: []byte("deploy"), Time: t0.UnixNano(), Properties: []byte(`{"text":"a\\nb"}`), Tags: tags("k", "v")},
		{Name: []byte("last"), Time: t0.UnixNano(), Host: []byte("h")}}
}

func TestEventsKeepEverythingAndTheirOrder(t *testing.T) {
	a := New(defaults(), t0)
	one, two := a.Intake(plain{}), a.Intake(plain{})
	full := oneEvent()
	want := []string{full.show()}
	putEvent(t, one, full)
	for _, b := range full.texts() { // borrowed: overwritten by the caller
		clear(*b)
	}
	put(t, one, t0, sample(Counter, "c", 1))
	for i := range 50 {
		in := []*Intake{one, two}[i%2]
		putEvent(t, in, event(fmt.Sprint("e", i)))
		want = append(want, fmt.Sprintf("%q at %d", fmt.Sprint("e", i), t0.UnixNano()))
	}
	putEvent(t, two, &Event{Name: []byte("zero"), HasValue: true, Time: -5})
	want = append(want, `"zero" at -5, value 0`)

	if s := a.Stats(); s.Accepted[Events] != 52 || s.Open[Events] != 52 || s.Windowed[Events] != 0 {
		t.Errorf("before Rotate: %+v", s)
	}
	windows := a.Rotate(t0)
	if len(windows) != 1 {
		t.Fatalf("%d windows, want 1", len(windows))
	}
	if s := a.Stats(); s.Accepted[Events] != 52 || s.Open[Events] != 0 || s.Windowed[Events] != 52 {
		t.Errorf("after Rotate: %+v", s)
	}
	w := windows[0]
	if w.Samples[Events] != 52 || w.Series[Events] != 0 || w.Len() != 1 || w.Absent != 1 {
		t.Errorf("window has %d events, %d series of them, %d series, %d absent", w.Samples[Events], w.Series[Events], w.Len(), w.Absent)
	}
	if got := eventsOf(t, readWindow(t, w)); !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWindowOfEventsAlone(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	putEvent(t, in, event("alone"))
	windows := a.Rotate(t0.Add(10 * time.Second))
	if len(windows) != 1 || windows[0].Len() != 0 {
		t.Fatalf("%d windows, want one without series", len(windows))
	}
	r := readWindow(t, windows[0])
	if got := eventsOf(t, r); len(got) != 1 {
		t.Errorf("events %v", got)
	}
	if got := mergeAll(t, 100, nil, r); len(got) != 0 {
		t.Errorf("%d series", len(got))
	}
	windows[0].Release()
	if got := a.Rotate(t0.Add(20 * time.Second)); len(got) != 0 {
		t.Errorf("the events are there again: %d windows", len(got))
	}
}

func TestEventsAreBounded(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	if got := in.AddEvent(1, &Event{Properties: []byte("{}")}); got != BadEvent {
		t.Errorf("AddEvent without a name = %v", got)
	}
	big := event("big")
	big.Properties = bytes.Repeat([]byte("x"), MaxEvent)
	if got := in.AddEvent(1, big); got != EventTooLarge {
		t.Errorf("AddEvent of %d bytes = %v", len(big.append(nil, 1)), got)
	}
	big.Properties = big.Properties[:MaxEvent-(len(big.append(nil, 1))-MaxEvent)]
	if got := len(big.append(nil, 1)); got != MaxEvent {
		t.Fatalf("the event has %d bytes, want %d", got, MaxEvent)
	}
	for range MaxEventBytes / MaxEvent {
		putEvent(t, in, big)
	}
	if got := in.AddEvent(1, event("one too many")); got != TooManyEvents {
		t.Errorf("AddEvent beyond %d bytes = %v", MaxEventBytes, got)
	}
	if s := a.Stats(); s.Accepted[Events] != 8 || s.Open[Events] != 8 {
		t.Errorf("accepted %d, open %d, want 8", s.Accepted[Events], s.Open[Events])
	}
	w := a.Rotate(t0)[0]
	if got := eventsOf(t, readWindow(t, w)); len(got) != 8 {
		t.Errorf("%d events, want 8", len(got))
	}
	putEvent(t, in, event("into the next window"))
}

// Windows with as many events as there can be, put together as a coarse window
// would be: no part is too large, and nothing changes places.
func TestEventsOfManyWindows(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var want []string
	var windows [][][]byte
	for range 12 {
		a := New(defaults(), t0)
		in := a.Intake(plain{})
		put(t, in, t0, sample(Counter, "c", 1))
		for {
			e := event(fmt.Sprint("event ", len(want)))
			e.Properties = make([]byte, r.IntN(40_000))
			for i := range e.Properties {
				e.Properties[i] = byte(r.Uint32())
			}
			if in.AddEvent(t0.UnixNano(), e) != Taken {
				break
			}
			e.Time = t0.UnixNano()
			want = append(want, e.show())
		}
		windows = append(windows, clone(a.Rotate(t0)[0].Parts()))
	}
	parts, samples, series, err := Coarsen(100, windows)
	if err != nil || samples[Events] != uint64(len(want)) || samples[Counter] != 12 || series[Events] != 0 {
		t.Errorf("Coarsen: %v; %v samples, %v series, want %d events", err, samples, series, len(want))
	}
	if len(parts) < 3 {
		t.Errorf("%d parts are too few to test", len(parts))
	}
	for i, p := range parts {
		if len(p) > maxPart {
			t.Errorf("part %d has %d bytes, want at most %d", i, len(p), maxPart)
		}
	}
	again := reader(t, parts...)
	if got := eventsOf(t, again); !slices.Equal(got, want) {
		t.Errorf("%d events, want %d in their order", len(got), len(want))
	}
	if got := mergeAll(t, 100, nil, again); len(got) != 1 || total(got[0].value) != "12" {
		t.Errorf("series beside the events: %v", got)
	}
	parts[0], parts[1] = parts[1], parts[0]
	if _, err := OpenReader(parts...); err == nil {
		t.Error("parts in the wrong order are taken")
	}
	stopped := 0
	for range Merge(100, nil, again).Events() {
		if stopped++; stopped == 3 {
			break
		}
	}
}

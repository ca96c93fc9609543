package forwarder

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// Types of upstream. Of Flux and Pulse there is a hosted and an open-source server.
const (
	Flux    = "flux"
	Pulse   = "pulse"
	DataCat = "datacat"
)

// newUpstream makes the upstream that the options ask for. configs lets no other
// type through.
func newUpstream(o Options, c *contact) Upstream {
	switch o.Type {
	case Flux:
		return newFlux(o, c)
	case Pulse:
		return newPulse(o, c)
	case DataCat:
		return newDataCat(o, c)
	}
	panic("forwarder: there is no type of upstream " + strconv.Quote(o.Type))
}

// A contact is what a forwarder and its upstream know of each other. The
// forwarder fills it in from the outbox before the upstream is asked to render
// or to send, and stores what is new with the transaction that it belongs to.
type contact struct {
	agent       string // identity of this agent
	generation  string // of its outbox; sequences begin anew with it
	dialect     string // "" while it is not known
	names       names
	members     members
	definitions definitions
	outbox      *spool.Outbox // whose tables an upstream may read
}

// A Form is how an upstream's batches look.
type Form struct {
	Head   string // what a batch's body begins with
	Events string // the same of a batch of events; "" where the upstream takes none
	Own    int    // items that Finish adds to a batch that is not of events
	Now    bool   // the upstream gives items the time at which they come
	Tags   int    // most tags of a series; those that become equal are merged. 0: all
}

// maxBody bounds a batch's body; 4 MiB is what sluice itself takes, and the
// common limit of proxies, less what Finish adds. 498 ordinary items are 80 KB.
const maxBody = 4<<20 - 4096

// An Upstream speaks the protocol of one kind of metrics API. It does no I/O
// and keeps no time; its methods are called by one goroutine.
type Upstream interface {
	// Form tells how batches are built; it is the same as long as the dialect is.
	Form() Form

	// Render adds the items that stand for v, the value of s in a bucket, to the
	// sheet. It may add none.
	Render(to *Sheet, b *Bucket, s aggregator.Series, v *aggregator.Value)

	// RenderEvent adds the item that stands for e to the sheet, in the lane
	// spool.Events. It is called only if Form says that there can be some.
	RenderEvent(to *Sheet, e *aggregator.Event)

	// Hello adds an item that asks for no more than an answer, to learn the
	// dialect from; Known tells whether that is needed.
	Hello(to *Sheet, at time.Time)
	Known() bool

	// Members tells whether the members of a set go out one by one; else it is
	// their number.
	Members() bool

	// Finish closes a batch's body once its sequence is known.
	Finish(b *spool.Batch)

	// Request makes the request that carries b. The key is in its header.
	Request(b *spool.Batch) (*http.Request, error)

	// Verdict says what an outcome means for b.
	Verdict(b *spool.Batch, o outcome, now time.Time) Verdict

	// Note adds to the transaction that acts on a verdict what the upstream has to
	// remember of it.
	Note(tx *spool.Tx, b *spool.Batch, v Verdict)

	// Repeats tells what it does to send an item again that may have arrived.
	Repeats(b *spool.Batch, i spool.Item) repeats

	// Look makes the request that asks whether b, which is in doubt, arrived; nil
	// if this upstream cannot be asked. Found reads the answer.
	Look(b *spool.Batch) (*http.Request, error)
	Found(b *spool.Batch, o outcome) finding
	// List makes a request that succeeds if the key may read at all: after
	// undefined it tells absent from unreadable. Listed reads the answer.
	List() (*http.Request, error)
	Listed(o outcome) finding
}

// repeats is what an item does that is stored twice.
type repeats uint8

const (
	doubles repeats = iota // it counts twice
	weighs                 // it weighs more in averages: sent again once
	nothing                // nobody can tell: sent again as often as need be
)

// A definer is an Upstream where metrics have to be defined by single items.
type definer interface {
	// Define adds what defines the agent's own metrics, once.
	Define(to *Sheet, at time.Time)
}

// finding is what reading back told about a batch in doubt.
type finding uint8

const (
	present    finding = iota + 1 // it is there, all of it
	absent                        // the upstream can be read, and it is not there
	partial                       // a part of it is there, nobody knows which
	undefined                     // the upstream does not know the marker, or says so to those who may not read
	unreadable                    // the upstream does not let itself be read
	unanswered                    // no answer this time
)

// A Sheet collects rendered items into batches. Batches of a lane fill up in
// turn; one is closed when the next item does not fit.
type Sheet struct {
	maxItems int // items a batch may have, less what Finish adds
	maxBody  int // bytes a body may have
	head     string
	events   string                 // head of batches of events
	suspect  func(item []byte) bool // tells what travels apart; nil: nothing does

	batches []*spool.Batch      // in the order they were begun
	apart   []*spool.Batch      // the same, of suspects
	singles []*spool.Batch      // of one item each, sent before the others
	open    [fills]*spool.Batch // by fill
	samples uint64              // of the series or event being rendered: they ride on its first item
	kind    aggregator.Kind
	items   int    // of the series being rendered
	item    []byte // scratch
}

// A sheet fills two batches of each lane at once, the second, at the index
// lane+suspects, with suspects.
const (
	suspects = int(spool.Singles) + 1
	fills    = 2 * suspects
)

// begin announces the items of a series, or of an event.
func (s *Sheet) begin(kind aggregator.Kind, samples uint64) {
	s.kind, s.samples, s.items = kind, samples, 0
}

// Item adds one item, written by write, to a lane.
func (s *Sheet) Item(lane spool.Lane, write func(dst []byte) []byte) {
	s.item = write(s.item[:0])
	if lane == spool.Singles {
		s.single(s.samples)
		s.samples = 0
		return
	}
	fill := int(lane)
	if s.suspect != nil && s.suspect(s.item) {
		fill += suspects
	}
	b := s.open[fill]
	if b == nil || len(b.Items) >= s.maxItems || len(b.Items) > 0 && len(b.Body)+1+len(s.item) > s.maxBody {
		b = s.next(fill)
	}
	if len(b.Items) > 0 {
		b.Body = append(b.Body, ',')
	}
	b.Items = append(b.Items, spool.Item{Off: uint32(len(b.Body)), Len: uint32(len(s.item)), Kind: uint8(s.kind), Samples: s.samples})
	b.Body = append(b.Body, s.item...)
	s.samples = 0
	s.items++
}

// Light adds one item on which no samples ride, though it may be the first.
func (s *Sheet) Light(lane spool.Lane, write func(dst []byte) []byte) {
	samples := s.samples
	s.samples = 0
	s.Item(lane, write)
	s.samples = samples
}

// Own adds one item of the agent's own that travels alone.
func (s *Sheet) Own(write func(dst []byte) []byte) {
	s.item = write(s.item[:0])
	kind := s.kind
	s.kind = 0
	s.single(0)
	s.items--
	s.kind = kind
}

// single makes a batch of the item.
func (s *Sheet) single(samples uint64) {
	s.singles = append(s.singles, &spool.Batch{
		Lane: spool.Singles, Body: bytes.Clone(s.item),
		Items: []spool.Item{{Len: uint32(len(s.item)), Kind: uint8(s.kind), Samples: samples}},
	})
	s.items++
}

// end lets samples that have found no item ride on the last one.
func (s *Sheet) end() {
	if s.samples == 0 || s.items == 0 {
		return
	}
	last := s.singles[len(s.singles)-1] // nothing but light items can have been added
	last.Items[0].Samples, s.samples = s.samples, 0
}

func (s *Sheet) next(fill int) *spool.Batch {
	lane, head := spool.Lane(fill%suspects), s.head
	if lane == spool.Events {
		head = s.events
	}
	b := &spool.Batch{Lane: lane, Body: append(make([]byte, 0, 4096), head...)}
	s.open[fill] = b
	if fill >= suspects {
		s.apart = append(s.apart, b)
	} else {
		s.batches = append(s.batches, b)
	}
	return b
}

// mark remembers how full a sheet is, so that a series that turned out not to
// fit can be taken back whole.
type mark struct {
	batches, apart, singles int
	open                    [fills]*spool.Batch
	items, body             [fills]int
}

func (s *Sheet) mark() mark {
	m := mark{batches: len(s.batches), apart: len(s.apart), singles: len(s.singles), open: s.open}
	for fill, b := range s.open {
		if b != nil {
			m.items[fill], m.body[fill] = len(b.Items), len(b.Body)
		}
	}
	return m
}

func (s *Sheet) back(m mark) {
	s.batches, s.apart, s.singles, s.open = s.batches[:m.batches], s.apart[:m.apart], s.singles[:m.singles], m.open
	for fill, b := range s.open {
		if b != nil {
			b.Items, b.Body = b.Items[:m.items[fill]], b.Body[:m.body[fill]]
		}
	}
}

package fluxtest

import (
	"net/http"
	"time"
)

// Key is the API key that a server expects unless Options.Key names another.
const Key = "sk_live_fluxtest"

// Dialect is which of the two servers is imitated.
type Dialect int

const (
	// Hosted is the published API: items are validated one by one, and batches
	// answer {"data":{"accepted":n,"rejected":m}}.
	Hosted Dialect = iota
	// SelfHosted is the open-source server: batches answer 201 {"ingested":n}, one
	// bad item or string value fails the whole call with 500, and only the
	// single-item endpoint creates metric definitions.
	SelfHosted
	// PulseHosted is Pulse as published: batches answer as those of Hosted do.
	PulseHosted
	// PulseOpen is its open-source server: batches answer 201 {"processed":n}, are
	// stored item by item at the server's own time, and what came before an item that
	// fails stays.
	PulseOpen
	// DataCat takes single metrics of a session.
	DataCat
)

// Options shape a Server. The zero value is a hosted server that knows Key, with
// the published limits, checking every rule and making no faults.
type Options struct {
	Addr      string // of New's listener; "" is 127.0.0.1:0. It must be a loopback address
	InProcess bool   // no listener: calls come through Handler or Transport only
	Dialect   Dialect
	Key       string           // bearer key; "" is Key
	UserAgent string           // required prefix of User-Agent; "" is "sluice/"
	Now       func() time.Time // the server's clock; nil is time.Now

	// Limits whose breach is a violation. 0 is the default, negative is none.
	// The first, third and fourth are per rolling 60 s, by arrival.
	RequestsPerMinute int // batch calls; 10 (published rate limit)
	MaxItems          int // items in one batch call; 500 (published); 499 is what the agent promises
	QueriesPerMinute  int // 60 (published rate limit)
	SinglesPerMinute  int // 60 (the agent's own budget; the published page only says "standard")
	MaxBody           int // bytes; 4 MiB

	// TooLarge is the number of items from which on the server answers 413. It is not
	// a violation in itself. 0 is 500 on Hosted and no limit on SelfHosted.
	TooLarge int
	// EnforceRate answers 429 with Retry-After, storing nothing, to a batch call that
	// finds RequestsPerMinute others served within 60 s. Refused calls do not count
	// as served, so several agents behind one key all get on.
	EnforceRate bool
	// Allow names rules that are not checked.
	Allow []Rule

	// Fault is asked for each call for which no fault is queued. n is the number of
	// the call. It is called without locks held, and may be called concurrently.
	Fault func(n int, r *http.Request) Fault
	// Poison is asked for each well-formed item. A status other than 0 is the answer
	// to the whole call, of which nothing is stored.
	Poison func(Row) int
	// PoisonEvent is the same for events.
	PoisonEvent func(Event) int
	// Reject is asked for each well-formed item; Hosted counts those it returns true
	// for as rejected and does not store them.
	Reject func(Row) bool
	// RejectEvent is the same for events.
	RejectEvent func(Event) bool

	// ReadLag is how long after its commit a row stays invisible to queries.
	ReadLag time.Duration
	// DocumentedReads makes a SelfHosted server answer GET requests as the published
	// page says. The open-source server has another shape; see Server.
	DocumentedReads bool
	// KeepRows bounds the rows kept to the latest n; 0 keeps all. CounterTotal,
	// GaugeLast, SetMembers and Series stay exact, the rest speaks of the kept rows.
	KeepRows int
}

// withDefaults returns o with every zero limit replaced by its default.
func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if o.Dialect == DataCat {
		def(&o.RequestsPerMinute, 600) // the agent's own budget
	}
	def(&o.RequestsPerMinute, 10)
	if o.Dialect.isPulse() {
		def(&o.MaxItems, 1000)
	}
	def(&o.MaxItems, 500)
	def(&o.QueriesPerMinute, 60)
	def(&o.SinglesPerMinute, 60)
	def(&o.MaxBody, 4<<20)
	if o.Dialect == Hosted {
		def(&o.TooLarge, 500)
	}
	if o.Dialect == PulseHosted {
		def(&o.TooLarge, 1000)
	}
	if o.Key == "" {
		o.Key = Key
	}
	if o.UserAgent == "" {
		o.UserAgent = "sluice/"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

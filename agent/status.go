package main

import (
	"slices"
	"strings"
	"time"

	"sluice/aggregator"
	"sluice/listeners"
	"sluice/spool"
)

// The types below are the JSON of GET /api/agent/status, which other programs
// may rely on (docs/operations.md): members are added, not changed.

type statusDoc struct {
	Version   string           `json:"version"`
	Started   time.Time        `json:"started"`
	Ready     readyDoc         `json:"ready"`
	Config    configDoc        `json:"config"`
	Listeners []listenerDoc    `json:"listeners"`
	Series    seriesDoc        `json:"series"`
	Windows   windowsDoc       `json:"windows"`
	Spool     spoolDoc         `json:"spool"`
	Upstreams []upstreamDoc    `json:"upstreams"`
	Ledger    intakeLedgerDocs `json:"ledger"`
}

type readyDoc struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type configDoc struct {
	File    string    `json:"file"`
	Loaded  time.Time `json:"loaded"`
	Error   string    `json:"error"`   // why the file as it is now is not in effect
	Restart []string  `json:"restart"` // keys that wait for a restart
}

type listenerDoc struct {
	Name          string            `json:"name"`
	Packets       uint64            `json:"packets"`
	Samples       uint64            `json:"samples"`
	Rejected      map[string]uint64 `json:"rejected"`
	TagCut        uint64            `json:"tag_cut"`
	KernelDropped uint64            `json:"kernel_dropped"`
	ReceiveBuffer int               `json:"receive_buffer"`
	Connections   int               `json:"connections"`
	Senders       []senderDoc       `json:"senders"`
}

type senderDoc struct {
	PID     int32  `json:"pid"`
	UID     uint32 `json:"uid"`
	Command string `json:"command"`
	Others  bool   `json:"others"`
	Packets uint64 `json:"packets"`
	Samples uint64 `json:"samples"`
}

type seriesDoc struct {
	Open    int         `json:"open"`
	Limit   int         `json:"limit"`
	Folded  []foldedDoc `json:"folded"`
	Biggest []metricDoc `json:"biggest"` // of the last window, at most 10
}

type metricDoc struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"`
	Series int     `json:"series"`
	Rate   float64 `json:"samples_per_second"`
	Values int     `json:"values"` // of distributions and sets: what they hold, at most 100 a series
	Width  float64 `json:"window_seconds"`
}

type foldedDoc struct {
	Metric   string   `json:"metric"`
	Kind     string   `json:"kind"`
	Tag      string   `json:"tag"`
	Examples []string `json:"examples"`
	Sender   string   `json:"sender"`
}

type windowsDoc struct {
	Closed   uint64  `json:"closed"`
	Interval float64 `json:"interval_seconds"`
}

type spoolDoc struct {
	Dir         string     `json:"dir"`
	State       string     `json:"state"`
	Detail      string     `json:"detail"`
	Segments    int        `json:"segments"`
	Bytes       int64      `json:"bytes"`
	Oldest      *time.Time `json:"oldest"`
	LastSeq     uint64     `json:"last_seq"`
	Quarantined int        `json:"quarantined"`
	InMemory    int        `json:"windows_in_memory"`
	Gap         *gapDoc    `json:"gap"` // of windows that left memory before they could be stored
}

type upstreamDoc struct {
	Name         string            `json:"name"`
	Type         string            `json:"type"`
	URL          string            `json:"url"`
	Dialect      string            `json:"dialect"`
	State        string            `json:"state"`
	Width        float64           `json:"width"` // seconds
	Budget       budgetDoc         `json:"budget"`
	Pending      pendingDoc        `json:"pending"`
	Backlog      backlogDoc        `json:"backlog"`
	CatchUp      float64           `json:"catch_up"` // seconds until there is no backlog, as estimated by the last plan; 0 if there is none
	LastDelivery *time.Time        `json:"last_delivery"`
	LastError    string            `json:"last_error"`
	Isolating    int               `json:"isolating"` // refused batches that are being searched
	DeadLetters  int               `json:"dead_letters"`
	Gaps         map[string]gapDoc `json:"gaps"` // by the reason of what was dropped
	Ledger       upstreamLedgerDoc `json:"ledger"`
}

// gapDoc tells from when to when the windows were of which something was dropped.
type gapDoc struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

type budgetDoc struct {
	RequestsUsed    int `json:"requests_used"`
	RequestsAllowed int `json:"requests_allowed"`
	ItemsUsed       int `json:"items_used"`
	ItemsAllowed    int `json:"items_allowed"`
}

type backlogDoc struct {
	Windows int     `json:"windows"`
	Width   float64 `json:"width"` // seconds
}

type pendingDoc struct {
	Windows int        `json:"windows"`
	Batches int        `json:"batches"`
	Oldest  *time.Time `json:"oldest"`
}

// A ledger has a member per kind, in samples, and conservation_error beside
// them.
type intakeLedgerDocs map[string]any

type intakeLedgerDoc struct {
	Accepted uint64            `json:"accepted"`
	Windowed uint64            `json:"windowed"`
	Open     uint64            `json:"open"`
	Dropped  map[string]uint64 `json:"dropped"`
	Lost     uint64            `json:"lost"`
}

type upstreamLedgerDoc map[string]any

type upstreamKindDoc struct {
	Windowed  uint64            `json:"windowed"`
	Delivered uint64            `json:"delivered"`
	Pending   uint64            `json:"pending"`
	Held      uint64            `json:"held"`
	InDoubt   uint64            `json:"in_doubt"`
	Dead      uint64            `json:"dead"`
	Filtered  uint64            `json:"filtered"`
	Dropped   map[string]uint64 `json:"dropped"`
	Items     map[string]uint64 `json:"items"` // of what went out, per column
}

// kinds are those that can have samples; of events, each is one.
var kinds = []aggregator.Kind{aggregator.Counter, aggregator.Gauge, aggregator.Distribution, aggregator.Set, aggregator.Events}

func (a *agent) status(now time.Time) statusDoc {
	stats, is := a.aggregator.Stats(), a.now()
	doc := statusDoc{
		Version: version, Started: a.started.UTC(), Ready: a.ready(),
		Config:    a.configStatus(),
		Listeners: []listenerDoc{},
		Series:    seriesDoc{Open: stats.Series, Limit: stats.Limit, Folded: []foldedDoc{}, Biggest: a.biggest(10)},
		Windows:   windowsDoc{Closed: a.windows.Load(), Interval: a.aggregator.Interval().Seconds()},
		Spool:     a.spoolStatus(),
		Upstreams: []upstreamDoc{},
		Ledger:    a.intakeLedger(stats),
	}
	for _, s := range ofKind(is.sockets, true) {
		d := listenerStatus(s.packet.Stats())
		for _, one := range s.packet.Senders() {
			d.Senders = append(d.Senders, senderDoc(one))
		}
		doc.Listeners = append(doc.Listeners, d)
	}
	if stats, ok := a.apiStats(is); ok {
		doc.Listeners = append(doc.Listeners, listenerStatus(stats))
	}
	for _, f := range stats.Folded {
		doc.Series.Folded = append(doc.Series.Folded, foldedDoc{Metric: f.Metric, Kind: f.Kind.String(), Tag: f.Tag, Examples: f.Examples, Sender: f.Sender})
	}
	for _, d := range is.deliveries {
		doc.Upstreams = append(doc.Upstreams, a.upstreamStatus(d, now))
	}
	return doc
}

func (a *agent) configStatus() configDoc {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := configDoc{File: a.config.File, Loaded: a.loaded.UTC(), Error: a.refused, Restart: slices.Clone(a.restart)}
	if d.Error == "" && a.missing != nil {
		d.Error = a.missing.Error()
	}
	if d.Restart == nil {
		d.Restart = []string{}
	}
	return d
}

// apiStats counts what came over HTTP, on all sockets, under the name of the
// first. ok is false when there is none.
func (a *agent) apiStats(is view) (s listeners.Stats, ok bool) {
	web := ofKind(is.sockets, false)
	if len(web) == 0 {
		return s, false
	}
	s = a.api.Stats()
	s.Name = web[0].name
	return s, true
}

func listenerStatus(s listeners.Stats) listenerDoc {
	d := listenerDoc{Name: s.Name, Packets: s.Packets, Samples: s.Samples, Rejected: map[string]uint64{},
		TagCut: s.TagCut, KernelDropped: s.KernelDropped, ReceiveBuffer: s.ReceiveBuffer, Connections: s.Connections, Senders: []senderDoc{}}
	for reason, n := range s.Rejected() {
		d.Rejected[reason] = n
	}
	return d
}

func (a *agent) spoolStatus() spoolDoc {
	s := a.spool.Stats()
	doc := spoolDoc{Dir: a.now().config.Spool.Dir, State: s.State, Detail: s.Detail, Segments: s.Segments, Bytes: s.Bytes,
		Oldest: optional(s.Oldest), LastSeq: s.LastSeq, Quarantined: s.Quarantined, InMemory: s.MemoryRecords}
	if s.MemoryGap != (spool.Span{}) {
		doc.Gap = &gapDoc{s.MemoryGap.From.UTC(), s.MemoryGap.To.UTC()}
	}
	return doc
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// intakeLedger accounts for every sample that was accepted since the start:
// accepted = windowed + open + dropped. A window that had to leave the memory
// log before it could be stored was windowed first and is dropped now.
func (a *agent) intakeLedger(s aggregator.Stats) intakeLedgerDocs {
	dropped := a.spool.Stats().MemoryDropped
	doc, wrong := intakeLedgerDocs{}, int64(0)
	for _, k := range kinds {
		d := intakeLedgerDoc{Accepted: s.Accepted[k], Windowed: s.Windowed[k] - dropped[k], Open: s.Open[k], Dropped: map[string]uint64{}, Lost: dropped[k]}
		if dropped[k] > 0 {
			d.Dropped["memory_full"] = dropped[k]
		}
		doc[k.String()] = d
		off := int64(d.Accepted - d.Windowed - d.Open - d.Lost)
		wrong += max(off, -off)
	}
	doc["conservation_error"] = wrong
	return doc
}

func (a *agent) upstreamStatus(from *delivery, now time.Time) upstreamDoc {
	s, box := from.stats(now), from.box
	ledger := box.Ledger()
	d := upstreamDoc{Name: s.Name, Type: s.Type, URL: s.URL, Dialect: s.Dialect, State: s.State,
		Width:   max(s.Width, a.aggregator.Interval()).Seconds(),
		Backlog: backlogDoc{Windows: s.Behind, Width: s.BacklogWidth.Seconds()}, CatchUp: s.Drained.Seconds(),
		Budget:  budgetDoc{RequestsUsed: s.RequestsUsed, RequestsAllowed: s.RequestsAllowed, ItemsUsed: s.ItemsUsed, ItemsAllowed: s.ItemsAllowed},
		Pending: a.pending(box), LastDelivery: optional(s.LastDelivery), LastError: s.LastError, Isolating: s.Isolating, DeadLetters: box.DeadCount(),
		Gaps:   gaps(ledger.Gaps),
		Ledger: upstreamLedger(ledger, s.State == "held"),
	}
	return d
}

func gaps(spans map[string]spool.Span) map[string]gapDoc {
	docs := map[string]gapDoc{}
	for reason, s := range spans {
		docs[reason] = gapDoc{s.From.UTC(), s.To.UTC()}
	}
	return docs
}

// checkBooks logs when a ledger begins not to add up, or does so by another
// amount. told has what was logged last, by ledger.
func (a *agent) checkBooks(told map[string]int64) {
	check := func(ledger string, wrong int64) {
		if wrong != told[ledger] {
			a.log.Error("the books do not balance; report it", "ledger", ledger, "conservation_error", wrong)
		}
		told[ledger] = wrong
	}
	wrong, _ := a.intakeLedger(a.aggregator.Stats())["conservation_error"].(int64)
	check("intake", wrong)
	for _, name := range a.spool.Outboxes() {
		if box, ok := a.spool.Find(name); ok {
			check(name, box.Ledger().ConservationError)
		}
	}
}

// pending counts what an upstream is still owed.
func (a *agent) pending(box *spool.Outbox) pendingDoc {
	d := pendingDoc{Batches: len(box.Batches())}
	for _, r := range box.Pending() {
		for _, e := range a.spool.Entries(r) {
			d.Windows++
			if d.Oldest == nil || e.Start.Before(*d.Oldest) {
				d.Oldest = optional(e.Start)
			}
		}
	}
	return d
}

// upstreamLedger accounts for every sample in windows since the upstream was
// added. What waits for a held upstream is held, not pending.
func upstreamLedger(l spool.Ledger, held bool) upstreamLedgerDoc {
	doc := upstreamLedgerDoc{"conservation_error": l.ConservationError}
	for _, k := range kinds {
		d := upstreamKindDoc{
			Windowed: l.Windowed[k].Samples, Delivered: l.Delivered[k].Samples,
			Pending: l.Pending[k].Samples + l.Queued[k].Samples,
			InDoubt: l.Sending[k].Samples + l.InDoubt[k].Samples,
			Dead:    l.Dead[k].Samples, Filtered: l.Filtered[k].Samples, Dropped: map[string]uint64{},
			Items: map[string]uint64{"sealed": l.Sealed[k].Items, "queued": l.Queued[k].Items, "delivered": l.Delivered[k].Items,
				"in_doubt": l.Sending[k].Items + l.InDoubt[k].Items, "dead": l.Dead[k].Items},
		}
		if held {
			d.Held, d.Pending = d.Pending, 0
		}
		for reason, amounts := range l.Dropped {
			if amounts[k].Samples > 0 || amounts[k].Items > 0 {
				d.Dropped[reason] = amounts[k].Samples
			}
		}
		doc[k.String()] = d
	}
	return doc
}

// ready tells whether samples are taken, and what else is not as it should be.
func (a *agent) ready() readyDoc {
	if a.stopping.Load() {
		return readyDoc{Detail: "stopping"}
	}
	is := a.now()
	var details []string
	if c := a.configStatus(); c.Error != "" {
		details = append(details, "the configuration is refused and the one before stays in effect: "+strings.ReplaceAll(c.Error, "\n", "; "))
	} else if len(c.Restart) > 0 {
		details = append(details, "restart to apply "+strings.Join(c.Restart, ", "))
	}
	if s := a.spool.Stats(); s.State != "ok" {
		text := "spool " + s.State + ": " + s.Detail
		if a.spool.StandIn() != nil && len(is.deliveries) > 0 {
			text += "; what comes is delivered from memory"
		}
		details = append(details, text)
	}
	for _, d := range is.deliveries {
		if s := d.stats(time.Now()); s.State != "ok" || s.LastError != "" {
			details = append(details, "upstream "+s.Name+" "+s.State+": "+s.LastError)
		}
	}
	return readyDoc{OK: true, Detail: strings.Join(details, "; ")}
}

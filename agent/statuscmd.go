package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
)

// watchEvery is how often status --watch looks.
const watchEvery = 2 * time.Second

// rateOver is how long status watches for rates when it looks but once.
const rateOver = time.Second

func newStatus() *cobra.Command {
	var f apiFlags
	var asJSON, watch bool
	c := &cobra.Command{
		Use:   "status [--watch] [--json]",
		Short: "Show how a running agent is doing, on one screen",
		Long: `status tells in a sentence whether samples are taken and delivered, then what
is in the way, and below that listeners, series, upstreams, spool and ledger.
Rates are those of a second, or of the time between two looks with --watch.`,
		Example: `  sluice status
  sluice status --watch
  sluice status --json | grep last_error`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON && watch {
				return usagef("--json and --watch do not go together")
			}
			api, err := f.client()
			if err != nil {
				return err
			}
			if asJSON {
				page, err := api.page(c.Context(), statusPath)
				if err == nil {
					_, err = c.OutOrStdout().Write(page)
				}
				return err
			}
			s := newScreen(c.OutOrStdout())
			if watch {
				return watchStatus(c.Context(), api, s)
			}
			before, err := readStatus(c.Context(), api)
			if err == nil {
				err = sleep(c.Context(), rateOver)
			}
			if err != nil {
				return err
			}
			now, err := readStatus(c.Context(), api)
			if err != nil {
				return err
			}
			showStatus(s, before, now)
			return s.err
		},
	}
	addAPIFlags(c, &f)
	c.Flags().BoolVar(&asJSON, "json", false, "print what the agent answers, for programs")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on looking until interrupted")
	return c
}

const statusPath = "/api/agent/status"

// sleep waits unless ctx is done before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func watchStatus(ctx context.Context, api *client, s *screen) error {
	var before *statusPage
	for {
		now, err := readStatus(ctx, api)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && before == nil:
			return err
		}
		s.clear()
		if err != nil { // it may be restarting: that is what somebody watches for
			s.line(red, "%v", err)
		} else {
			showStatus(s, cmp.Or(before, now), now)
			before = now
		}
		if !s.moves {
			s.line("", "")
		}
		if s.err != nil || sleep(ctx, watchEvery) != nil {
			return s.err
		}
	}
}

// A statusPage is the answer about the status as a client reads it.
type statusPage struct {
	statusDoc
	Upstreams []upstreamPage `json:"upstreams"`
	Ledger    ledgerPage     `json:"ledger"`
	at        time.Time
}

type upstreamPage struct {
	upstreamDoc
	Ledger ledgerPage `json:"ledger"`
}

type ledgerPage map[string]json.RawMessage

// kind reads one kind's part into v, and answers whether there is one.
func (l ledgerPage) kind(name string, v any) bool {
	return l[name] != nil && json.Unmarshal(l[name], v) == nil
}

func (l ledgerPage) wrong() (n int64) {
	json.Unmarshal(l["conservation_error"], &n)
	return n
}

func readStatus(ctx context.Context, api *client) (*statusPage, error) {
	data, err := api.page(ctx, statusPath)
	if err != nil {
		return nil, err
	}
	p := &statusPage{at: time.Now()}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("read the status of %s: %w (is it another version?)", api.addr, err)
	}
	return p, nil
}

// showStatus writes the screen. before is an earlier look, for rates.
func showStatus(s *screen, before, now *statusPage) {
	s.wrapped(bold, fmt.Sprintf("sluice %s, up %s: %s", now.Version, span(now.at.Sub(now.Started)), health(now)))
	if now.Ready.Detail != "" {
		for text := range strings.SplitSeq(now.Ready.Detail, "; ") {
			s.wrapped(red, "! "+text)
		}
	}
	showListeners(s, before, now)
	showSeries(s, now)
	for i := range now.Upstreams {
		showUpstream(s, &now.Upstreams[i], now.at)
	}
	showSpool(s, now)
	showLedger(s, now)
}

// health is the state of everything in a few words.
func health(p *statusPage) string {
	taking := "taking samples"
	if !p.Ready.OK {
		taking = "NOT taking samples"
	}
	var good, bad []string
	for _, u := range p.Upstreams {
		if u.State == "ok" {
			good = append(good, u.Name)
		} else {
			bad = append(bad, u.Name+" ("+u.State+")")
		}
	}
	switch {
	case len(p.Upstreams) == 0:
		return taking + ", delivering nowhere: no upstream is configured"
	case len(bad) == 0:
		return taking + ", delivering to " + strings.Join(good, ", ")
	case len(good) == 0:
		return taking + ", NOT delivering to " + strings.Join(bad, ", ")
	}
	return taking + ", delivering to " + strings.Join(good, ", ") + ", NOT to " + strings.Join(bad, ", ")
}

func showListeners(s *screen, before, now *statusPage) {
	wide := len("LISTENERS")
	for _, l := range now.Listeners {
		wide = max(wide, len(l.Name))
	}
	wide = min(wide, 48)
	if s.width > 0 {
		wide = min(wide, max(s.width-26, 12))
	}
	s.line("", "")
	s.line(bold, "%-*s  %10s  %10s", wide, "LISTENERS", "samples/s", "packets/s")
	over := now.at.Sub(before.at).Seconds()
	for _, l := range now.Listeners {
		var was listenerDoc
		if i := slices.IndexFunc(before.Listeners, func(b listenerDoc) bool { return b.Name == l.Name }); i >= 0 {
			was = before.Listeners[i]
		}
		per := func(now, was uint64) string {
			if over <= 0 || now < was { // the same look, or another process
				return "-"
			}
			return rate(float64(now-was) / over)
		}
		s.line("", "%-*s  %10s  %10s", wide, shorten(l.Name, wide), per(l.Samples, was.Samples), per(l.Packets, was.Packets))
		if len(l.Rejected) > 0 {
			s.wrapped("", "rejected since the start: "+reasons(l.Rejected))
		}
		if len(l.Senders) > 0 {
			s.wrapped("", "from "+senders(l.Senders))
		}
		if l.KernelDropped > 0 {
			s.wrapped(red, number(l.KernelDropped)+" packets lost before they could be read: the receive buffer of "+size(int64(l.ReceiveBuffer))+" is too small")
		}
	}
}

// sendersShown is how many programs of a socket the screen names.
const sendersShown = 3

// senders lists the programs that have sent most since the start, and how much of
// it is the rest's. The agent lists those with most samples first.
func senders(all []senderDoc) string {
	var list []string
	var rest uint64
	for i, one := range all {
		if i >= sendersShown || one.Others {
			rest += one.Samples
			continue
		}
		name := one.Command
		if name == "" {
			name = "?"
		}
		list = append(list, fmt.Sprintf("%s (pid %d, uid %d): %s samples", name, one.PID, one.UID, number(one.Samples)))
	}
	if rest > 0 {
		list = append(list, "others: "+number(rest))
	}
	return strings.Join(list, ", ")
}

// shorten cuts the middle out of a name that is too long.
func shorten(name string, most int) string {
	runes := []rune(name)
	if len(runes) <= most || most < 4 {
		return name
	}
	tail := (most - 1) * 2 / 3
	return string(runes[:most-1-tail]) + "…" + string(runes[len(runes)-tail:])
}

// reasons lists counts, the greatest first.
func reasons(of map[string]uint64) string {
	var list []string
	for _, reason := range slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b))
	}) {
		list = append(list, number(of[reason])+" "+reason)
	}
	return strings.Join(list, ", ")
}

func showSeries(s *screen, p *statusPage) {
	s.line("", "")
	s.line(bold, "SERIES")
	s.line("", "%s open, limit %s; windows of %s", number(p.Series.Open), number(p.Series.Limit), width(p.Windows.Interval))
	for _, m := range p.Series.Biggest {
		s.wrapped("", fmt.Sprintf("- %s (%s): %s series, %s samples/s", m.Name, m.Kind, number(m.Series), rate(m.Rate)))
	}
	for _, f := range p.Series.Folded {
		s.wrapped(red, "! "+f.String())
	}
}

// String says what is folded, for a person.
func (f foldedDoc) String() string {
	text := f.Metric + " (" + f.Kind + ") has too many series"
	switch {
	case f.Metric == aggregator.FoldedValue:
		text = "there are too many metrics: new ones (" + f.Kind + "), or their tags, are folded into " + f.Metric
	case f.Tag != "":
		text += ": the values of its tag " + f.Tag + " are folded"
	}
	return text + ", such as " + strings.Join(f.Examples, " ") + "; first from " + f.Sender
}

func showUpstream(s *screen, u *upstreamPage, now time.Time) {
	style := ""
	if u.State != "ok" {
		style = red
	}
	s.line("", "")
	s.line(bold, "UPSTREAM %s (%s)", u.Name, strings.Trim(u.Type+" "+u.Dialect, " "))
	s.line("", "%s", u.URL)
	last := "nothing delivered since the start"
	if u.LastDelivery != nil {
		last = "last delivery " + span(now.Sub(*u.LastDelivery)) + " ago"
	}
	s.line(style, "%s; %s", u.State, last)
	if u.LastError != "" {
		s.wrapped(red, "last error: "+u.LastError)
	}
	items := number(u.Budget.ItemsUsed)
	if u.Budget.ItemsAllowed > 0 {
		items += " of " + number(u.Budget.ItemsAllowed)
	}
	s.wrapped("", fmt.Sprintf("last minute: %s of %s requests, %s items; one item stands for %s", number(u.Budget.RequestsUsed), number(u.Budget.RequestsAllowed), items, width(u.Width)))
	waiting := fmt.Sprintf("waiting: %s windows, %s batches", number(u.Pending.Windows), number(u.Pending.Batches))
	if u.Pending.Oldest != nil {
		waiting += ", the oldest since " + span(now.Sub(*u.Pending.Oldest))
	}
	s.wrapped("", waiting)
	if u.Backlog.Windows > 0 {
		text := fmt.Sprintf("backlog: %s windows at one item for %s", number(u.Backlog.Windows), width(u.Backlog.Width))
		if u.CatchUp > 0 {
			text += ", caught up in about " + span(seconds(u.CatchUp))
		}
		s.wrapped("", text)
	}
	if u.DeadLetters > 0 {
		s.wrapped(red, number(u.DeadLetters)+" items refused for good are kept as dead letters (sluice spool dead)")
	}
	var lost []string
	for _, k := range kinds {
		var d upstreamKindDoc
		if u.Ledger.kind(k.String(), &d) && len(d.Dropped) > 0 {
			lost = append(lost, reasons(d.Dropped)+" ("+k.String()+")")
		}
	}
	if len(lost) > 0 {
		s.wrapped(red, "samples that will not arrive: "+strings.Join(lost, ", "))
	}
	if wrong := u.Ledger.wrong(); wrong != 0 {
		s.wrapped(red, "the books are wrong by "+number(wrong)+" samples, which is a fault in sluice; report it")
	}
}

func showSpool(s *screen, p *statusPage) {
	style := ""
	if p.Spool.State != "ok" {
		style = red
	}
	s.line("", "")
	s.line(bold, "SPOOL")
	text := fmt.Sprintf("%s: %s in %s, %s segments", p.Spool.State, size(p.Spool.Bytes), p.Spool.Dir, number(p.Spool.Segments))
	if p.Spool.Oldest != nil {
		text += ", the oldest window from " + span(p.at.Sub(*p.Spool.Oldest)) + " ago"
	}
	s.wrapped(style, text)
	if p.Spool.Detail != "" {
		s.wrapped(red, p.Spool.Detail)
	}
	if p.Spool.InMemory > 0 {
		s.wrapped(red, number(p.Spool.InMemory)+" windows are in memory alone; a restart loses them")
	}
	if p.Spool.Quarantined > 0 {
		s.wrapped(red, number(p.Spool.Quarantined)+" damaged files are in quarantine/")
	}
}

func showLedger(s *screen, p *statusPage) {
	s.line("", "")
	narrow := s.width > 0 && s.width < 58
	if narrow {
		s.line(bold, "LEDGER")
	} else {
		s.line(bold, "%-14s %14s %14s %12s", "LEDGER", "accepted", "windowed", "lost")
	}
	for _, k := range kinds {
		var d intakeLedgerDoc
		if !p.Ledger.kind(k.String(), &d) || d.Accepted == 0 {
			continue
		}
		if narrow {
			s.wrapped("", fmt.Sprintf("%s: %s accepted, %s windowed, %s lost", k, number(d.Accepted), number(d.Windowed), number(d.Lost)))
		} else {
			s.line("", "%-14s %14s %14s %12s", k, number(d.Accepted), number(d.Windowed), number(d.Lost))
		}
	}
	if wrong := p.Ledger.wrong(); wrong != 0 {
		s.wrapped(red, "the books are wrong by "+number(wrong)+" samples, which is a fault in sluice; report it")
		return
	}
	s.line("", "the books balance")
}

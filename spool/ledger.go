package spool

import (
	"math/bits"
	"time"
)

// Amount counts the same thing in two ways: the samples that rode on items,
// and the items themselves.
type Amount struct{ Samples, Items uint64 }

// Amounts has one Amount per kind.
type Amounts [Kinds]Amount

func (a *Amounts) add(b Amounts) {
	for k := range a {
		a[k].Samples += b[k].Samples
		a[k].Items += b[k].Items
	}
}

func (a *Amounts) sub(b Amounts) {
	for k := range a {
		a[k].Samples -= b[k].Samples
		a[k].Items -= b[k].Items
	}
}

func (a *Amounts) addSamples(n [Kinds]uint64) {
	for k := range a {
		a[k].Samples += n[k]
	}
}

// Span is a stretch of time; the zero value is none.
type Span struct{ From, To time.Time }

// with is the shortest that holds both.
func (s Span) with(o Span) Span {
	if s.From.IsZero() || !o.From.IsZero() && o.From.Before(s.From) {
		s.From = o.From
	}
	if o.To.After(s.To) {
		s.To = o.To
	}
	return s
}

// span is the time of a record.
func (m *Meta) span() Span { return Span{m.Start, m.end()} }

// Ledger is the account of one upstream. In samples, per kind:
//
//	Windowed = Pending + Queued + Sending + InDoubt + Delivered + Dead + Filtered + the sum of Dropped
//
// and in items, per kind:
//
//	Sealed = Queued + Sending + InDoubt + Delivered + Dead + the sum of Dropped
//
// Pending, Queued, Sending and InDoubt are added up from what is there when
// the ledger is asked for; the others are running totals. So the two sides
// come from different places, and ConservationError is a finding.
type Ledger struct {
	Windowed  Amounts // samples of every record since this upstream's start; no items
	Sealed    Amounts // items of every batch ever sealed, less those replaced by others; no samples
	Pending   Amounts // samples of the records still owed, less what the group has sealed; no items
	Queued    Amounts
	Sending   Amounts
	InDoubt   Amounts
	Delivered Amounts
	Dead      Amounts
	Filtered  Amounts            // not for this upstream, by its only/except; no items
	Dropped   map[string]Amounts // by reason
	Gaps      map[string]Span    // from when to when the windows were of which something was dropped, by reason, where that is known

	// ConservationError is the sum of the absolute differences of both
	// equations over all kinds. Anything but 0 is a fault in this program.
	ConservationError int64
}

func (l *Ledger) balance() {
	right := l.Pending
	for _, a := range []Amounts{l.Queued, l.Sending, l.InDoubt, l.Delivered, l.Dead, l.Filtered} {
		right.add(a)
	}
	for _, a := range l.Dropped {
		right.add(a)
	}
	l.ConservationError = 0
	for k := range right {
		l.ConservationError += distance(l.Windowed[k].Samples, right[k].Samples) +
			distance(l.Sealed[k].Items, right[k].Items)
	}
}

// add adds the account of the same upstream in another place.
func (l *Ledger) add(o Ledger) {
	for to, a := range map[*Amounts]Amounts{
		&l.Windowed: o.Windowed, &l.Sealed: o.Sealed, &l.Pending: o.Pending, &l.Queued: o.Queued, &l.Sending: o.Sending,
		&l.InDoubt: o.InDoubt, &l.Delivered: o.Delivered, &l.Dead: o.Dead, &l.Filtered: o.Filtered,
	} {
		to.add(a)
	}
	for reason, a := range o.Dropped {
		sum := l.Dropped[reason]
		sum.add(a)
		l.Dropped[reason] = sum
	}
	for reason, span := range o.Gaps {
		l.Gaps[reason] = l.Gaps[reason].with(span)
	}
	l.ConservationError += o.ConservationError
}

// distance is exact modulo 2^64 and so also finds a column that went below 0.
func distance(a, b uint64) int64 {
	d := int64(a - b)
	return max(d, -d)
}

// share gives the part of each kind's amount that n of its items stand for,
// when it is not known which items they are: in proportion, by largest
// remainder, so that the parts' items add up to n exactly. Items of kind 0 (the
// agent's own) are taken last. n over the number of items is cut to it.
func share(of Amounts, n uint64) (part Amounts) {
	var total uint64
	for k := 1; k < Kinds; k++ {
		total += of[k].Items
	}
	n = min(n, total+of[0].Items)
	if n > total {
		part[0].Items = n - total
		n = total
	}
	if n > 0 {
		var given uint64
		var rest [Kinds]uint64
		for k := 1; k < Kinds; k++ {
			part[k].Items = of[k].Items * n / total
			rest[k] = of[k].Items * n % total
			given += part[k].Items
		}
		for ; given < n; given++ {
			best := 1
			for k := 2; k < Kinds; k++ {
				if rest[k] > rest[best] {
					best = k
				}
			}
			part[best].Items++
			rest[best] = 0
		}
	}
	for k := range part {
		if of[k].Items > 0 {
			part[k].Samples = mulDiv(of[k].Samples, part[k].Items, of[k].Items)
		}
	}
	return part
}

// mulDiv gives a*b/c rounded down, without overflow, for b <= c.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}

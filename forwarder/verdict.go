package forwarder

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Verdict is what the outcome of one request means for its batch.
type Verdict struct {
	Is     Meaning
	Reason string // in a few words, for logs and status; no secrets, no line breaks

	// Of InDoubt: whatever the upstream did with the request, it is done. False
	// when there was no answer, or one that a proxy gives for a server that may
	// still be at work.
	Over bool

	// Answer is the body of the answer, as far as it was read.
	Answer []byte

	// Of InDoubt: the upstream's own answer, or that of a proxy before it, says that
	// it failed. If it does so for one batch and not for others, the batch may be at
	// fault.
	Failed bool

	// Of Delivered: how the upstream counted, and which dialect it answered in.
	Accepted, Rejected int
	Dialect            string
	Session            string // that a DataCat has made

	// Of Again and Held: the session is not there any more.
	Gone bool

	// Of Again: what the upstream asked for, 0 if nothing.
	RetryAfter time.Duration
	// Limited: it counts more requests than it allows.
	Limited bool
}

// Meaning is the kind of a verdict.
type Meaning uint8

const (
	// Delivered: stored, and the upstream's counts say so.
	Delivered Meaning = iota + 1
	// Again: certainly not stored; to be sent again, unchanged, for ever.
	Again
	// InDoubt: stored or not, nobody knows.
	InDoubt
	// Held: the upstream wants none of ours: key, address or rights are wrong.
	// Everything is kept, and asked again slowly.
	Held
	// Refused: certainly not stored, and never will be as it is.
	Refused
	// TooLarge: certainly not stored; halves may be.
	TooLarge
)

func (m Meaning) String() string {
	return [...]string{"none", "delivered", "again", "in_doubt", "held", "refused", "too_large"}[m]
}

// An outcome is what came of one request.
type outcome struct {
	err    error // no answer; then status is 0
	wrote  bool  // the request's headers had been written, so it may have arrived
	status int
	header http.Header
	body   []byte // at most maxAnswer bytes
}

// judge gives the verdict on an outcome for a batch of sent items. The table
// is the same for all upstreams; count reads the answer to a success and
// reports what the upstream took.
//
// Sources of the less usual codes: 408 RFC 9110, 429 RFC 6585; 520 to 530 are
// Cloudflare's ("5xx errors" in its documentation): of them 520 and 524
// are about a request that reached the origin, the others about one that did
// not. 503 counts as certain because the upstream's servers answer it before
// they touch the data.
func judge(o outcome, sent int, now time.Time, count func(body []byte) (accepted, rejected int, dialect string, ok bool)) Verdict {
	v := Verdict{Reason: "status " + strconv.Itoa(o.status), Answer: o.body}
	switch s := o.status; {
	case o.err != nil && !o.wrote:
		v.Is, v.Reason = Again, tidy(o.err.Error())
	case o.err != nil:
		v.Is, v.Reason = InDoubt, tidy(o.err.Error())
	case s >= 200 && s < 300:
		var ok bool
		v.Accepted, v.Rejected, v.Dialect, ok = count(o.body)
		switch {
		case !ok:
			v.Is, v.Over = InDoubt, true
			v.Reason = fmt.Sprintf("status %d with an answer that counts nothing (a proxy's page?)", s)
		case v.Accepted < 0 || v.Rejected < 0 || v.Accepted+v.Rejected != sent:
			v.Is, v.Over = InDoubt, true
			v.Reason = fmt.Sprintf("status %d, but %d accepted and %d rejected of %d items", s, v.Accepted, v.Rejected, sent)
		default:
			v.Is = Delivered
		}
	case s == 429, s == 503, s == 521, s == 522, s == 523, s == 525, s == 526, s == 530:
		v.Is, v.Limited = Again, s == 429
		v.RetryAfter = retryAfter(o.header.Get("Retry-After"), now)
	case s == 408, s >= 500:
		v.Is, v.Over, v.Failed = InDoubt, s == 500, s >= 500
	case s == 400, s == 415, s == 422:
		v.Is = Refused
	case s == 413:
		v.Is = TooLarge
	default: // 3xx, 401, 403, 404, and what no metrics API should answer
		v.Is = Held
		if to := o.header.Get("Location"); to != "" && s < 400 {
			v.Reason += " to " + tidy(to)
		}
	}
	if o.status >= 400 {
		if text := tidy(string(o.body)); text != "" {
			v.Reason += ": " + text
		}
	}
	return v
}

// pulseRows are the rows of the table in which Pulse differs: its open-source server
// stores a batch item by item, so that what came before the item it refuses stays
// stored. Whether there was something the markers tell.
func pulseRows(v *Verdict) {
	if v.Is == Refused {
		v.Is, v.Over, v.Failed = InDoubt, true, true
	}
}

// dataCatRows are the rows in which DataCat differs: it answers 404 to a session it
// does not know, and also when it could not store an item that it has taken already.
// A 404 of somebody else, such as a proxy, stays what it is.
func dataCatRows(o outcome, v *Verdict) {
	if o.err != nil || o.status != http.StatusNotFound {
		return
	}
	switch text := strings.TrimSpace(string(o.body)); {
	case strings.EqualFold(text, "session not found"):
		v.Is, v.Gone = Again, true
	case strings.HasPrefix(text, "failed"):
		v.Is, v.Over, v.Failed = InDoubt, true, true
	}
}

// maxRetryAfter bounds what an upstream may ask for: one that says "in a year"
// is asked again after an hour.
const maxRetryAfter = time.Hour

// retryAfter reads the header's value: seconds or a date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil {
		d = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}

// tidy makes a text from outside fit for one line of a log: at most 200 bytes,
// no control characters.
func tidy(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "..."
	}
	return text
}

package forwarder

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"sluice/aggregator"
	"sluice/spool"
)

// meanings is the table of docs/reliability.md: codes that are not in it are in
// doubt from 500 on, and held below.
var meanings = map[int]Meaning{
	400: Refused, 415: Refused, 422: Refused, 413: TooLarge, 408: InDoubt,
	429: Again, 503: Again, 521: Again, 522: Again, 523: Again, 525: Again, 526: Again, 530: Again,
}

func TestVerdictOfEveryStatus(t *testing.T) {
	for status := 100; status < 600; status++ {
		want, ok := meanings[status]
		switch {
		case ok:
		case status >= 200 && status < 300:
			want = Delivered
		case status >= 500:
			want = InDoubt
		default:
			want = Held
		}
		o := outcome{wrote: true, status: status, header: http.Header{}, body: []byte(`{"data":{"accepted":7,"rejected":0}}`)}
		v := judge(o, 7, time.Now(), countFlux)
		if v.Is != want {
			t.Errorf("judge(%d) = %s, want %s", status, v.Is, want)
		}
		// Only the upstream itself answers 500 of its own accord; what else is in doubt
		// may come from a proxy, with the upstream still at work.
		if got, want := v.Over, status == 500; got != want {
			t.Errorf("judge(%d).Over = %v, want %v", status, got, want)
		}
		if !strings.Contains(v.Reason, fmt.Sprint(status)) {
			t.Errorf("judge(%d).Reason = %q, want the status in it", status, v.Reason)
		}
	}
}

func TestVerdictOfErrors(t *testing.T) {
	err := errors.New("dial tcp: connection\nrefused")
	for _, tt := range []struct {
		wrote bool
		want  Meaning
	}{{false, Again}, {true, InDoubt}} {
		v := judge(outcome{err: err, wrote: tt.wrote}, 7, time.Now(), countFlux)
		if v.Is != tt.want || v.Over || v.Reason != "dial tcp: connection refused" {
			t.Errorf("judge(error, wrote %v) = %+v, want %s, not over, the error in one line", tt.wrote, v, tt.want)
		}
	}
}

func TestVerdictOfSuccesses(t *testing.T) {
	for body, want := range map[string]Verdict{
		`{"data":{"accepted":7,"rejected":0}}`:    {Is: Delivered, Accepted: 7, Dialect: Hosted},
		`{"data":{"accepted":7}}`:                 {Is: Delivered, Accepted: 7, Dialect: Hosted},
		`{"data":{"accepted":4,"rejected":3}}`:    {Is: Delivered, Accepted: 4, Rejected: 3, Dialect: Hosted},
		`{"data":{"accepted":0,"rejected":7}}`:    {Is: Delivered, Rejected: 7, Dialect: Hosted},
		`{"ingested":7}`:                          {Is: Delivered, Accepted: 7, Dialect: SelfHosted},
		`{"ingested":7,"more":[1,{}]}`:            {Is: Delivered, Accepted: 7, Dialect: SelfHosted},
		`{"data":{"accepted":6,"rejected":0}}`:    {Is: InDoubt},
		`{"data":{"accepted":8,"rejected":0}}`:    {Is: InDoubt},
		`{"data":{"accepted":8,"rejected":-1}}`:   {Is: InDoubt},
		`{"data":{"accepted":-1,"rejected":8}}`:   {Is: InDoubt},
		`{"data":{"accepted":7.5,"rejected":0}}`:  {Is: InDoubt},
		`{"data":{"accepted":"7","rejected":0}}`:  {Is: InDoubt},
		`{"data":{"rejected":7}}`:                 {Is: InDoubt},
		`{"data":{"accepted":null,"rejected":7}}`: {Is: InDoubt},
		`{"data":null}`:                           {Is: InDoubt},
		`{"data":[]}`:                             {Is: InDoubt},
		`{"ingested":6}`:                          {Is: InDoubt},
		`{"ingested":99999999999999999999}`:       {Is: InDoubt},
		`{"success":true}`:                        {Is: InDoubt},
		`{}`:                                      {Is: InDoubt},
		`[]`:                                      {Is: InDoubt},
		`7`:                                       {Is: InDoubt},
		`null`:                                    {Is: InDoubt},
		``:                                        {Is: InDoubt},
		`{"data":{"accepted":7,"rejected":0}`:     {Is: InDoubt},
		`{"data":{"accepted":7,"rejected":0}}{}`:  {Is: InDoubt},
		`<!DOCTYPE html><title>Log in</title>`:    {Is: InDoubt},
		"\x00\xff":                                {Is: InDoubt},
	} {
		for _, status := range []int{200, 201, 202} {
			v := judge(outcome{wrote: true, status: status, body: []byte(body)}, 7, time.Now(), countFlux)
			if v.Is != want.Is || v.Over != (want.Is == InDoubt) {
				t.Errorf("judge(%d, %q) = %s, over %v, want %s", status, body, v.Is, v.Over, want.Is)
			}
			if v.Is == Delivered && (v.Accepted != want.Accepted || v.Rejected != want.Rejected || v.Dialect != want.Dialect) {
				t.Errorf("judge(%d, %q) = %+v, want %+v", status, body, v, want)
			}
		}
	}
}

func TestVerdictTellsWhereTo(t *testing.T) {
	o := outcome{wrote: true, status: 302, header: http.Header{"Location": {"https://example.org/login\r\nX: y"}}}
	if got, want := judge(o, 1, time.Now(), countFlux).Reason, "status 302 to https://example.org/login X: y"; got != want {
		t.Errorf("Reason = %q, want %q", got, want)
	}
}

func TestRetryAfterForms(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                                 0,
		"0":                                0,
		"1":                                time.Second,
		"120":                              2 * time.Minute,
		"3600":                             time.Hour,
		"3601":                             time.Hour,
		"999999999999999":                  time.Hour,
		"9223372036854775807":              time.Hour,
		"99999999999999999999":             0, // no number that anybody means
		"-5":                               0,
		"1.5":                              0,
		" 5":                               0, // the library has trimmed what may be trimmed
		"soon":                             0,
		"Thu, 01 Jan 2026 12:00:30 GMT":    30 * time.Second,
		"Thu, 01 Jan 2026 11:59:00 GMT":    0,
		"Fri, 01 Jan 2027 12:00:00 GMT":    time.Hour,
		"Thursday, 01-Jan-26 12:01:00 GMT": time.Minute,
		"Thu Jan  1 12:01:00 2026":         time.Minute,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", text, got, want)
		}
		o := outcome{wrote: true, status: 429, header: http.Header{"Retry-After": {text}}}
		if got := judge(o, 1, now, countFlux).RetryAfter; got != want {
			t.Errorf("judge(429 with %q).RetryAfter = %v, want %v", text, got, want)
		}
	}
}

func TestTidy(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"plain":                  "plain",
		" a \t b\r\n\x00c ":      "a b c",
		"\x1b[31mred\x1b[0m":     "[31mred [0m",
		"caf\u00e9 \u0085\u009b": "café",
		"bad \xff\xfe utf":       "bad ? utf",
		strings.Repeat("x", 300): strings.Repeat("x", 200) + "...",
		strings.Repeat("é", 150): strings.Repeat("é", 100) + "...",
	} {
		if got := tidy(text); got != want {
			t.Errorf("tidy(%q) = %q, want %q", text, got, want)
		}
	}
	// Cut within a character.
	if got, want := tidy("x"+strings.Repeat("é", 150)), "x"+strings.Repeat("é", 99)+"..."; got != want {
		t.Errorf("tidy of a long text = %q, want %q", got, want)
	}
}

func FuzzVerdict(f *testing.F) {
	f.Add(200, "", []byte(`{"data":{"accepted":7,"rejected":0}}`))
	f.Add(302, "/x", []byte(`{"ingested":7}`))
	f.Add(503, "120", []byte("<html>\x1b"))
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		h := http.Header{"Location": {header}, "Retry-After": {header}}
		v := judge(outcome{wrote: true, status: status, header: h, body: body}, 7, time.Now(), countFlux)
		if v.Is == Delivered && (status < 200 || status > 299 || v.Accepted+v.Rejected != 7 || v.Dialect == "") {
			t.Errorf("judge(%d, %q) = %+v", status, body, v)
		}
		if v.RetryAfter < 0 || v.RetryAfter > maxRetryAfter {
			t.Errorf("RetryAfter = %v, want 0 to %v", v.RetryAfter, maxRetryAfter)
		}
		if strings.ContainsFunc(v.Reason, unicode.IsControl) || len(v.Reason) > 500 {
			t.Errorf("Reason = %q, want one short line", v.Reason)
		}
	})
}

// The table is one; these are the rows in which upstreams differ.
func TestVerdictOfUpstreams(t *testing.T) {
	sealed := func(u Upstream, typ aggregator.Kind) *spool.Batch {
		sheet := &Sheet{maxItems: 10, maxBody: maxBody, head: u.Form().Head}
		sheet.begin(typ, 1)
		sheet.Item(spool.Metrics, func(dst []byte) []byte {
			return dataCatObject(dst, aggregator.NewSeries(typ, "n"), t0, "n", typ, float(1))
		})
		b := sheet.batches[0]
		b.Seq = 7
		u.Finish(b)
		return b
	}
	o := outcome{wrote: true}
	text := func(status int, body string) outcome { o.status, o.body = status, []byte(body); return o }
	for _, tt := range []struct {
		o                                outcome
		flux, pulse, total, gauge, point Meaning
	}{
		{text(200, `{"data":{"accepted":2,"rejected":0}}`), Delivered, InDoubt, Again, InDoubt, InDoubt},
		{text(201, `{"data":{"accepted":2,"rejected":1}}`), InDoubt, Delivered, Again, InDoubt, InDoubt},
		{text(201, `{"ingested":2}`), Delivered, InDoubt, Again, InDoubt, InDoubt},
		{text(201, `{"processed":3}`), InDoubt, Delivered, Again, InDoubt, InDoubt},
		{text(200, `{"status":"ok"}`), InDoubt, InDoubt, Delivered, Delivered, Delivered},
		{text(200, `{"success":true}`), InDoubt, InDoubt, Delivered, Delivered, Delivered},
		{text(201, `{"status":"ok"}`), InDoubt, InDoubt, Again, InDoubt, InDoubt},
		{text(200, `{"success":false}`), InDoubt, InDoubt, Again, InDoubt, InDoubt},
		{text(400, "Invalid request body\n"), Refused, InDoubt, Refused, Refused, Refused},
		{text(422, ""), Refused, InDoubt, Refused, Refused, Refused},
		{text(413, ""), TooLarge, TooLarge, TooLarge, TooLarge, TooLarge},
		{text(404, "session not found\n"), Held, Held, Again, Again, Again},
		{text(404, "failed to marshal session: x\n"), Held, Held, Again, InDoubt, InDoubt},
		{text(404, "<html>not here</html>"), Held, Held, Held, Held, Held},
		{text(401, "Unauthorized\n"), Held, Held, Held, Held, Held},
		{text(302, ""), Held, Held, Held, Held, Held},
		{text(429, ""), Again, Again, Again, Again, Again},
		{text(503, ""), Again, Again, Again, Again, Again},
		{text(500, ""), InDoubt, InDoubt, Again, InDoubt, InDoubt},
		{text(504, ""), InDoubt, InDoubt, Again, InDoubt, InDoubt},
		{outcome{err: errors.New("cut"), wrote: true}, InDoubt, InDoubt, Again, InDoubt, InDoubt},
		{outcome{err: errors.New("refused")}, Again, Again, Again, Again, Again},
	} {
		s := spool.New(spool.Options{Dir: t.TempDir()})
		c := &contact{dialect: Hosted, names: names0(), outbox: s.Outbox("x")}
		flux, pulse, cat := newFlux(testOptions(), c), newPulse(testOptions(), c), newDataCat(testOptions(), c)
		for _, v := range []struct {
			name string
			u    Upstream
			typ  aggregator.Kind
			want Meaning
		}{{"flux", flux, aggregator.Counter, tt.flux}, {"pulse", pulse, aggregator.Counter, tt.pulse}, {"datacat total", cat, aggregator.Counter, tt.total},
			{"datacat gauge", cat, aggregator.Gauge, tt.gauge}, {"datacat point", cat, aggregator.Distribution, tt.point}} {
			if got := v.u.Verdict(sealed(v.u, v.typ), tt.o, t0); got.Is != v.want {
				t.Errorf("%s: %d %q %v is %v, want %v", v.name, tt.o.status, tt.o.body, tt.o.err, got.Is, v.want)
			}
		}
	}
}

// A session's name is part of a path.
func TestReadSession(t *testing.T) {
	for body, want := range map[string]string{
		`{"session_id":"550e8400-e29b-41d4-a716-446655440000"}`: "550e8400-e29b-41d4-a716-446655440000",
		`{"session_id":"a_B-1"}`:                                "a_B-1",
		`{"session_id":""}`:                                     "",
		`{"session_id":".."}`:                                   "",
		`{"session_id":"a/../b"}`:                               "",
		`{"session_id":"a%2fb"}`:                                "",
		`{"session_id":"a\u0000"}`:                              "",
		`{"session_id":"a\r\nX: y"}`:                            "",
		`{"session_id":7}`:                                      "",
		`{}`:                                                    "",
		`<html>`:                                                "",
		`{"session_id":"` + strings.Repeat("a", 65) + `"}`: "",
	} {
		if got, ok := readSession([]byte(body)); ok != (want != "") || ok && got != want {
			t.Errorf("readSession(%s) = %q, %t, want %q", body, got, ok, want)
		}
	}
}

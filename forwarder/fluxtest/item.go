package fluxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A problem is a breach of the contract found in an item.
type problem struct {
	rule   Rule
	detail string
}

// An item is one metric or event as parsed: what it would store, what is wrong with
// it by the contract, and what each server makes of that.
type item struct {
	row      Row
	event    Event
	problems []problem
	code     string // the hosted server's reason for rejecting it; "" for none
	sql      bool   // the self-hosted server's INSERT fails on it
	text     bool   // its value is a string
}

func (it *item) bad(rule Rule, format string, args ...any) {
	it.problems = append(it.problems, problem{rule, fmt.Sprintf(format, args...)})
}

// reject notes the hosted server's reason; the first one counts.
func (it *item) reject(code string) {
	if it.code == "" {
		it.code = code
	}
}

var metricMembers = []string{"name", "type", "value", "timestamp", "tags"}

var eventMembers = []string{"name", "value", "timestamp", "tags", "properties",
	"user_id", "session_id", "request_id", "environment", "service", "host"}

// parseMetric reads a metric of the form in docs/protocols.md, "What goes upstream".
func parseMetric(raw []byte, now time.Time) item {
	var it item
	m, ok := it.open(raw, metricMembers)
	if !ok {
		return it
	}
	it.row.Name = it.name(m["name"])
	it.row.Type, ok = str(m["type"])
	if !ok || !slices.Contains([]string{"gauge", "counter", "distribution", "set"}, it.row.Type) {
		it.bad(RuleType, "type %s", show(m["type"]))
		it.reject("invalid_type")
	}
	it.value(m["value"])
	it.row.Time = it.timestamp(m["timestamp"], now)
	it.row.Tags = it.tags(m["tags"])
	return it
}

// parseEvent reads an event.
func parseEvent(raw []byte, now time.Time) item {
	var it item
	m, ok := it.open(raw, eventMembers)
	if !ok {
		return it
	}
	e := &it.event
	e.Name = it.name(m["name"])
	e.Time = it.timestamp(m["timestamp"], now)
	e.Tags = it.tags(m["tags"])
	if v := m["value"]; !null(v) {
		f, err := number(v)
		if err != nil {
			it.bad(RuleValue, "event value %s: %v", show(v), err)
			it.reject("invalid_value")
			it.sql = true
		}
		e.Value = &f
	}
	if p := m["properties"]; !null(p) && json.Unmarshal(p, &e.Properties) != nil {
		it.bad(RuleJSON, "properties %s is not an object", show(p))
	}
	it.noNUL("properties", m["properties"])
	e.Fields = map[string]string{}
	for _, k := range eventMembers[5:] {
		if v := m[k]; !null(v) {
			if e.Fields[k], ok = str(v); !ok {
				it.bad(RuleJSON, "%s %s is not a string", k, show(v))
			}
			it.noNUL(k, v)
		}
	}
	return it
}

// noNUL looks for an escaped NUL in a member of an event, which the database's text
// and jsonb cannot hold: the whole INSERT fails.
func (it *item) noNUL(member string, raw json.RawMessage) {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		if bytes.HasPrefix(raw[i:], []byte(`\u0000`)) {
			it.bad(RuleValue, "%s %s holds NUL", member, show(raw))
			it.reject("invalid_item")
			it.sql = true
			return
		}
		i++
	}
}

// open splits an object into its members.
func (it *item) open(raw []byte, known []string) (map[string]json.RawMessage, bool) {
	m, again, err := members(raw)
	if err != nil {
		it.bad(RuleJSON, "item %s: %v", show(raw), err)
		it.reject("invalid_item")
		it.sql = true
		return nil, false
	}
	for _, k := range again {
		it.bad(RuleMember, "member %q twice", k)
	}
	for k := range m {
		if !slices.Contains(known, k) {
			it.bad(RuleMember, "unknown member %q", k)
		}
	}
	return m, true
}

func (it *item) name(raw json.RawMessage) string {
	name, ok := str(raw)
	switch {
	case !ok || name == "":
		it.bad(RuleName, "name %s is not a string with something in it", show(raw))
		it.reject("missing_name")
		it.sql = it.sql || null(raw) // NOT NULL; "" passes
	case len(name) > 255:
		it.bad(RuleName, "name of %d bytes, limit 255", len(name))
		it.reject("name_too_long")
	case strings.Contains(name, "\x00"):
		it.bad(RuleName, "name %q holds NUL, which PostgreSQL's text cannot", name)
		it.reject("missing_name")
		it.sql = true
	}
	return name
}

func (it *item) value(raw json.RawMessage) {
	if s, ok := str(raw); ok {
		it.text, it.sql = true, true
		it.row.Member = s
		if it.row.Type != "set" || s == "" || strings.Contains(s, "\x00") {
			it.bad(RuleValue, "%s with the value %s", it.row.Type, show(raw))
			it.reject("invalid_value")
		}
		return
	}
	v, err := number(raw)
	if err != nil || it.row.Type == "set" {
		if err == nil {
			err = errors.New("a set needs a string")
		}
		it.bad(RuleValue, "%s value %s: %v", it.row.Type, show(raw), err)
		it.reject("invalid_value")
	}
	it.sql = it.sql || err != nil && it.row.Type != "set"
	it.row.Value, it.row.Literal = v, string(raw)
}

// stampForm is the only form of a timestamp that the agent writes.
var stampForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)

func (it *item) timestamp(raw json.RawMessage, now time.Time) time.Time {
	s, _ := str(raw)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !stampForm.MatchString(s) {
		it.bad(RuleTimestamp, "timestamp %s is not RFC 3339 UTC with milliseconds and Z", show(raw))
	}
	if null(raw) {
		return now // "defaults to now", published API
	}
	if err != nil {
		it.reject("invalid_timestamp")
		it.sql = true
	}
	return t.UTC()
}

func (it *item) tags(raw json.RawMessage) map[string]string {
	tags := map[string]string{}
	m, again, err := members(raw)
	if err != nil {
		it.bad(RuleTags, "tags %s: %v", show(raw), err)
		if !null(raw) {
			it.reject("invalid_tags")
		}
		return tags
	}
	for _, k := range again {
		it.bad(RuleTags, "tag %q twice", k)
	}
	for k, v := range m {
		s, ok := str(v)
		if !ok {
			it.bad(RuleTags, "tag %q: value %s is not a string", k, show(v))
			it.reject("invalid_tags")
			s = string(v)
		}
		if strings.Contains(k+s, "\x00") {
			it.bad(RuleTags, "tag %q: %q holds NUL, which PostgreSQL's jsonb cannot", k, s)
			it.reject("invalid_tags")
			it.sql = true
		}
		tags[k] = s
	}
	return tags
}

// members splits a JSON object, and names the keys that came more than once. raw is
// known to be valid JSON, or empty. encoding/json would lose the repeated keys, or take
// ten times as long as this, token by token.
func members(raw []byte) (m map[string]json.RawMessage, again []string, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, nil, errors.New("missing")
	}
	if raw[0] != '{' {
		return nil, nil, errors.New("not an object")
	}
	m = make(map[string]json.RawMessage, 5)
	for i := 1; ; {
		i = skip(raw, i, " \t\r\n,")
		if raw[i] == '}' {
			return m, again, nil
		}
		end := valueEnd(raw, i)
		k, _ := str(raw[i:end])
		i = skip(raw, end, " \t\r\n:")
		end = valueEnd(raw, i)
		if _, ok := m[k]; ok {
			again = append(again, k)
		}
		m[k] = raw[i:end]
		i = end
	}
}

// skip returns the first index from i on that holds none of the bytes.
func skip(raw []byte, i int, bytes string) int {
	for strings.IndexByte(bytes, raw[i]) >= 0 {
		i++
	}
	return i
}

// valueEnd returns where the JSON value that begins at i ends.
func valueEnd(raw []byte, i int) int {
	depth := 0
	for ; ; i++ {
		switch raw[i] {
		case '"':
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i // of the object around a number or a literal
			}
			if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
}

// number reads a finite JSON number.
func number(raw json.RawMessage) (float64, error) {
	if null(raw) {
		return 0, errors.New("missing")
	}
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		return 0, errors.New("not a number")
	}
	v, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(v, 0) {
		return 0, errors.New("not finite")
	}
	return v, nil
}

// str reads a JSON string.
func str(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return string(raw[1 : len(raw)-1]), true
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// null reports whether a member is missing or null, which both servers take alike.
func null(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// show gives raw JSON for a message, cut to a readable length.
func show(raw []byte) string {
	if len(raw) == 0 {
		return "(missing)"
	}
	const most = 80
	if len(raw) > most {
		return string(raw[:most]) + "..."
	}
	return string(raw)
}

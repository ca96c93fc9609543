package listeners

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"sluice/aggregator"
)

// Rules are what the configuration does to every series, in whatever dialect it
// is spelled: each dialect's Spelling ends by applying them. One is shared by all
// listeners and may be replaced while they run; the aggregator must be told to
// forget then, because it remembers what a spelling came to. The zero value, and
// nil, do nothing.
type Rules struct{ current atomic.Pointer[RuleSet] }

// Set replaces the rules and answers whether they are others than before.
func (r *Rules) Set(s *RuleSet) (changed bool) {
	was := r.current.Swap(s)
	return !reflect.DeepEqual(was, s)
}

// Apply does to the series in dst what the rules say, and answers why it is not
// to be taken, or Taken. It is called when a spelling is met for the first
// time, so it costs nothing per sample.
func (r *Rules) Apply(dst *aggregator.Key) aggregator.Reason {
	if r == nil || r.current.Load() == nil {
		return aggregator.Taken
	}
	return r.current.Load().apply(dst, nil)
}

// Tag sets the configuration's tags alone: rules are about metrics, and events
// have tags, too.
func (r *Rules) Tag(dst *aggregator.Key) {
	if r != nil && r.current.Load() != nil {
		r.current.Load().tag(dst)
	}
}

// A Rule changes series whose name it matches. Its parts are applied in the order
// of the fields; captures are what the stars of Match stood for. In texts that
// are made of them, $1 to $9 is one of them, and $$ a dollar.
type Rule struct {
	Match  string            // glob of names
	Kinds  []aggregator.Kind // none: all
	Drop   bool              // the rest does not matter then
	Class  []Class           // the first of a tag that has its value counts
	Rename []Rename
	Remove []string         // globs of tag keys
	Add    []aggregator.Tag // where there is no such key; values are made of captures
	Name   string           // made of captures; "" leaves it
}

// A Class is one value of a tag in place of several.
type Class struct {
	Tag, As string
	Values  []string // globs
}

// A Rename gives a tag another key, and takes the place of one that has it.
type Rename struct{ From, To string }

// A RuleSet is all that is done to series. It is never changed.
type RuleSet struct {
	rules []Rule
	// tags are set on every series that has no tag of that key. They are dropped
	// rather than let a series exceed aggregator.MaxTags.
	tags []aggregator.Tag
}

// NewRuleSet makes one, which owns the slices. All rules that match are applied,
// each to what those before it made; then the tags are. Keys and values of the tags are
// within aggregator.MaxTagKey and MaxTagValue.
func NewRuleSet(rules []Rule, tags []aggregator.Tag) *RuleSet { return &RuleSet{rules, tags} }

// Trace is Rules.Apply that also tells which rules matched.
func (s *RuleSet) Trace(dst *aggregator.Key) (matched []int, reason aggregator.Reason) {
	reason = s.apply(dst, func(i int) { matched = append(matched, i) })
	return matched, reason
}

func (s *RuleSet) apply(dst *aggregator.Key, matched func(i int)) aggregator.Reason {
	cut := dst.Cut
	for i := range s.rules {
		r := &s.rules[i]
		if len(r.Kinds) > 0 && !slices.Contains(r.Kinds, dst.Kind) {
			continue
		}
		var buf [8]aggregator.Capture
		name := string(dst.Name())
		captures, ok := aggregator.Captures(buf[:0], r.Match, name)
		if !ok {
			continue
		}
		if matched != nil {
			matched(i)
		}
		if reason := r.apply(dst, name, captures); reason != aggregator.Taken {
			return reason
		}
	}
	s.tag(dst)
	dst.Cut = cut // the client is not told about what the configuration adds
	return aggregator.Taken
}

func (s *RuleSet) tag(dst *aggregator.Key) {
	cut := dst.Cut
	for _, t := range s.tags {
		dst.Default(t.Key, t.Value)
	}
	dst.Cut = cut
}

func (r *Rule) apply(dst *aggregator.Key, name string, captures []aggregator.Capture) aggregator.Reason {
	if r.Drop {
		return aggregator.DroppedByRule
	}
	r.classify(dst)
	for _, rename := range r.Rename {
		if value, ok := dst.Value(rename.From); ok {
			value = bytes.Clone(value)
			dst.RemoveKey(rename.From)
			dst.Tag([]byte(rename.To), value)
		}
	}
	for _, glob := range r.Remove {
		dst.Remove(glob)
	}
	for _, t := range r.Add {
		value := strings.ToValidUTF8(fill(t.Value, name, captures), "\uFFFD") // a ? can stand for half a character
		dst.Default(t.Key, value)
	}
	if r.Name == "" {
		return aggregator.Taken
	}
	p := parts{before: []byte(fill(r.Name, name, captures))}
	var buf [aggregator.MaxName + 4]byte
	to, reason := p.name(buf[:0])
	if reason == aggregator.Taken {
		dst.SetName(to)
	}
	return reason
}

// classify puts classes in the place of values. Each tag is looked at once: what
// a class made of it is not classified again.
func (r *Rule) classify(dst *aggregator.Key) {
	done := make(map[string]bool, len(r.Class))
	for i := range r.Class {
		c := &r.Class[i]
		value, ok := dst.Value(c.Tag)
		if !ok || done[c.Tag] {
			continue
		}
		text := string(value)
		if slices.ContainsFunc(c.Values, func(glob string) bool { return aggregator.Match(glob, text) }) {
			dst.Tag([]byte(c.Tag), []byte(c.As))
			done[c.Tag] = true
		}
	}
}

// fill puts captures of name into a text.
func fill(text, name string, captures []aggregator.Capture) string {
	if !strings.Contains(text, "$") {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		if n := int(text[i] - '1'); text[i] >= '1' && n < len(captures) {
			b.WriteString(name[captures[n].Start:captures[n].End])
		} else if text[i] == '$' {
			b.WriteByte('$')
		}
	}
	return b.String()
}

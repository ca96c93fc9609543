package listeners

import (
	"reflect"
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
	if r == nil {
		return aggregator.Taken
	}
	s := r.current.Load()
	if s == nil {
		return aggregator.Taken
	}
	s.tag(dst)
	return aggregator.Taken
}

// Tag sets the configuration's tags alone: rules are about metrics, and events
// have tags, too.
func (r *Rules) Tag(dst *aggregator.Key) {
	if r != nil && r.current.Load() != nil {
		r.current.Load().tag(dst)
	}
}

// A RuleSet is compiled once and never changed.
type RuleSet struct {
	// tags are set on every series that has no tag of that key. They are dropped
	// rather than let a series exceed aggregator.MaxTags.
	tags []aggregator.Tag
}

func (s *RuleSet) tag(dst *aggregator.Key) {
	cut := dst.Cut
	for _, t := range s.tags {
		dst.Default(t.Key, t.Value)
	}
	dst.Cut = cut // the client is not told about the configuration's tags
}

// NewRuleSet compiles rules. Keys and values of the tags are within
// aggregator.MaxTagKey and MaxTagValue.
func NewRuleSet(tags []aggregator.Tag) *RuleSet { return &RuleSet{tags: tags} }

package aggregator

import (
	"bytes"
	"iter"
	"strings"
)

// A Merger puts windows together, series by series. Merging is what makes a
// window final: the result is the same as if all samples had been taken into
// one window, in whatever order and grouping windows are merged (sums of
// fractions to within their last place).
type Merger struct {
	cursors       []cursor
	after         []byte
	maxSetMembers int
	maxTags       int // 0: all
	last          string
	err           error
}

// Merge prepares to merge windows, beginning behind the series whose key is
// after (nil: with the first). Sets become estimates beyond maxSetMembers.
// The readers belong to the Merger from now on; of each one block is decoded
// at a time.
func Merge(maxSetMembers int, after []byte, in ...*Reader) *Merger {
	m := &Merger{after: after, maxSetMembers: maxSetMembers, cursors: make([]cursor, len(in))}
	for i, r := range in {
		m.cursors[i].r = r
	}
	return m
}

// LimitTags leaves each series its first n tags and merges those that become
// equal. They follow each other in the order of keys, so no more than two values
// are held for it. It is called before All.
func (m *Merger) LimitTags(n int) { m.maxTags = n }

// Last returns the key of the last series that is in the value yielded last: what
// another Merger is to begin behind. That is the key of the series yielded, unless
// tags are limited.
func (m *Merger) Last() string { return m.last }

// All yields the series in ascending order of their keys, each once. The value
// is valid until the next is asked for. After damage All ends early, and Err
// tells; nothing wrong is yielded before.
func (m *Merger) All() iter.Seq2[Series, *Value] {
	return func(yield func(Series, *Value) bool) {
		for i := range m.cursors {
			if m.err = m.cursors[i].seek(m.after); m.err != nil {
				return
			}
		}
		var value, other, more Value
		for {
			lowest := m.lowest()
			if lowest == nil {
				return
			}
			s, ok := parseSeries(string(lowest))
			if !ok {
				m.err = errDamaged
				return
			}
			if m.err = m.collect(s, &value, &other); m.err != nil {
				return
			}
			m.last = s.key
			if m.maxTags > 0 {
				s = s.cut(m.maxTags)
				if m.err = m.collectCut(s, &value, &more, &other); m.err != nil {
					return
				}
			}
			if !yield(s, &value) {
				return
			}
		}
	}
}

// collectCut merges the values of the series behind s that are s with more tags.
func (m *Merger) collectCut(s Series, value, more, other *Value) error {
	merged := false
	for lowest := m.lowest(); lowest != nil && strings.HasPrefix(string(lowest), s.key); lowest = m.lowest() {
		next, ok := parseSeries(string(lowest))
		if !ok {
			return errDamaged
		}
		if next.cut(m.maxTags) != s {
			break
		}
		if err := m.collect(next, more, other); err != nil {
			return err
		}
		value.merge(more, m.maxSetMembers)
		m.last, merged = next.key, true
	}
	if merged {
		value.settle(m.maxSetMembers)
	}
	return nil
}

// Events yields the events of all windows, in the order in which the readers
// were given: merging puts them one behind the other. An event is valid until
// the next is asked for. After damage the rest of that window's events are
// left out, and Err tells. Not while All is under way: the two share a reader's
// one block.
func (m *Merger) Events() iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		for i := range m.cursors {
			more, err := m.cursors[i].r.eachEvent(yield)
			if err != nil {
				m.err = err
			} else if !more {
				return
			}
		}
	}
}

// Err returns why All or Events ended early, if they did.
func (m *Merger) Err() error { return m.err }

func (m *Merger) lowest() []byte {
	var lowest []byte
	for _, c := range m.cursors {
		if c.key != nil && (lowest == nil || bytes.Compare(c.key, lowest) < 0) {
			lowest = c.key
		}
	}
	return lowest
}

// collect merges the values of s into value and moves the cursors on.
func (m *Merger) collect(s Series, value, other *Value) error {
	found := false
	for i := range m.cursors {
		c := &m.cursors[i]
		if string(c.key) != s.key {
			continue
		}
		into := other
		if !found {
			into = value
		}
		d := decoder{b: c.value}
		if into.decode(s.Kind(), &d); d.err != nil {
			return d.err
		}
		if found {
			value.merge(other, m.maxSetMembers)
		}
		found = true
		if err := c.next(); err != nil {
			return err
		}
	}
	value.settle(m.maxSetMembers)
	return nil
}

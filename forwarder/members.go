package forwarder

import (
	"bytes"

	"github.com/cespare/xxhash/v2"

	"sluice/spool"
)

// maxMembers bounds how many members of sets are remembered, 8 bytes and their
// place in a map each, some 40 MB in all. Members beyond are sent again.
const maxMembers = 1_000_000

// members are the members of sets that went out with a time in the newest minute
// there was: one that is upstream counts no more if it is sent again. They are not
// stored; after a restart members of the minute may repeat, which is harmless.
type members struct {
	minute int64           // since 1970
	sent   map[uint64]bool // by memberOf
	fresh  []uint64        // since the last commit, in order
}

// claim tells whether an item of a minute is to be sent, and remembers it.
func (m *members) claim(minute int64, item []byte) bool {
	if minute > m.minute || m.sent == nil {
		m.minute, m.sent, m.fresh = minute, make(map[uint64]bool), m.fresh[:0]
	}
	if minute < m.minute {
		return true
	}
	hash := memberOf(item)
	if m.sent[hash] {
		return false
	}
	if len(m.sent) < maxMembers {
		m.sent[hash] = true
		m.fresh = append(m.fresh, hash)
	}
	return true
}

// has tells whether claim would answer false.
func (m *members) has(minute int64, item []byte) bool {
	return minute == m.minute && m.sent[memberOf(item)]
}

// mark answers what back is to be given to take back what is claimed from now on.
func (m *members) mark() int { return len(m.fresh) }

func (m *members) back(mark int) {
	mark = min(mark, len(m.fresh)) // a newer minute has begun since
	for _, hash := range m.fresh[mark:] {
		delete(m.sent, hash)
	}
	m.fresh = m.fresh[:mark]
}

// keep is called when what was claimed is on disk.
func (m *members) keep() { m.fresh = m.fresh[:0] }

// lose forgets the members in a batch that did not arrive.
func (m *members) lose(b *spool.Batch) {
	if b.Lane == spool.Metrics || b.Lane == spool.Events {
		return
	}
	for _, item := range b.Items {
		delete(m.sent, memberOf(b.Body[item.Off:item.Off+item.Len]))
	}
}

// memberOf identifies the member of a series: all of an item but its time. A
// quotation mark in a string is escaped, so what is found is no part of one.
func memberOf(item []byte) uint64 {
	const member = `,"timestamp":"`
	sum := xxhash.New()
	i := bytes.Index(item, []byte(member))
	if i < 0 || len(item) < i+len(member)+len(timestamp) {
		return xxhash.Sum64(item)
	}
	sum.Write(item[:i])
	sum.Write(item[i+len(member)+len(timestamp):])
	return sum.Sum64()
}

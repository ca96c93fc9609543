package spool

import (
	"iter"
	"time"
)

// record is a window on its way to the disk. It owns its bytes.
type record struct {
	meta  Meta
	parts [][]byte
	bytes int64
	tried bool // it may be on disk, for all that its append answered an error
}

// gather copies the parts: they are the caller's only until the next one is
// asked for, while a transaction and the memory log need them longer.
func gather(m Meta, parts iter.Seq[[]byte]) record {
	rec := record{meta: m}
	for p := range parts {
		rec.parts = append(rec.parts, append(make([]byte, 0, len(p)), p...))
		rec.bytes += int64(len(p))
	}
	return rec
}

// memory is the log that stands in for the disk: records in the order they
// came, at most limit bytes of parts. What is dropped first is the oldest,
// because the newest is what an operator looks at while the disk is being
// repaired; it is counted per kind.
type memory struct {
	limit   int64
	bytes   int64
	records []record
	first   uint64        // how many have left: tells one first record from another
	dropped [Kinds]uint64 // samples
	gap     Span          // of the records dropped
	since   time.Time     // since when records have not been written; zero while they are
}

func (m *memory) push(rec record) {
	m.records = append(m.records, rec)
	m.bytes += rec.bytes
	for m.bytes > m.limit && len(m.records) > 0 {
		addTo(&m.dropped, &m.records[0].meta.Samples)
		m.gap = m.gap.with(m.records[0].meta.span())
		m.pop()
	}
}

func (m *memory) pop() {
	m.bytes -= m.records[0].bytes
	m.records[0] = record{} // so that its bytes can go
	m.records = m.records[1:]
	m.first++
}

// overdue tells whether records have not been written for so long that they are not
// to wait any more.
func (m *memory) overdue(now time.Time) bool {
	if n := len(m.records); n > 0 && !m.since.IsZero() {
		return now.Sub(m.since) >= max(standInAfter, standInWindows*m.records[n-1].meta.Width)
	}
	return false
}

// claim takes the oldest records out that are certainly not on disk, up to so many
// bytes, but one at least.
func (m *memory) claim(most int64) (taken []record) {
	var bytes int64
	left := m.records[:0:0]
	for i, rec := range m.records {
		if rec.tried {
			left = append(left, rec)
			continue
		}
		if bytes+rec.bytes > most && len(taken) > 0 {
			left = append(left, m.records[i:]...)
			break
		}
		taken = append(taken, rec)
		bytes += rec.bytes
	}
	if len(taken) > 0 {
		m.records, m.bytes = left, m.bytes-bytes
	}
	return taken
}

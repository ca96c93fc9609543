package spool

import (
	"iter"
	"slices"
	"time"
)

// record is a window on its way to the disk. It owns its bytes.
type record struct {
	meta  Meta
	parts [][]byte
	bytes int64
	tried bool   // it may be on disk, for all that its append answered an error
	n     uint64 // which of all that were ever pushed, from 1
}

// gather copies the parts: they are the caller's only until the next one is
// asked for, while a transaction and the memory log need them longer.
func gather(m Meta, parts iter.Seq[[]byte]) record {
	rec := record{meta: m}
	for p := range parts {
		rec.add(p)
	}
	return rec
}

func (r *record) add(p []byte) {
	r.parts = append(r.parts, append(make([]byte, 0, len(p)), p...))
	r.bytes += int64(len(p))
}

// memory is the log through which records go to the disk, and where they stay while
// that cannot be written: in the order they came. At most limit bytes of parts stay,
// beside the record that came last and one that is being written. What is dropped first is
// the oldest, because the newest is what an operator looks at while the disk is being
// repaired; it is counted per kind.
type memory struct {
	limit   int64
	bytes   int64
	records []record
	pushed  uint64        // records, ever
	writing bool          // the first record, so it must stay
	last    uint64        // record that was written last
	lastSeq uint64        // that it got
	dropped [Kinds]uint64 // samples
	gap     Span          // of the records dropped
	since   time.Time     // since when records have not been written; zero while they are
}

func (m *memory) push(rec record) {
	m.pushed++
	rec.n = m.pushed
	m.records = append(m.records, rec)
	m.bytes += rec.bytes
}

// trim drops what is too much.
func (m *memory) trim() {
	stay := 0
	if m.writing {
		stay = 1
	}
	for m.bytes > m.limit && len(m.records) > stay {
		addTo(&m.dropped, &m.records[stay].meta.Samples)
		m.gap = m.gap.with(m.records[stay].meta.span())
		m.remove(stay)
	}
}

// next begins to write the first record, if there is one.
func (m *memory) next() (rec record, ok bool) {
	if len(m.records) == 0 {
		return record{}, false
	}
	m.writing, m.records[0].tried = true, true
	return m.records[0], true
}

// wrote ends it. Without an error the record is not in memory any more.
func (m *memory) wrote(seq uint64, err error) {
	if m.writing = false; err != nil {
		return
	}
	m.last, m.lastSeq, m.since = m.records[0].n, seq, time.Time{}
	m.remove(0)
}

func (m *memory) remove(i int) {
	m.bytes -= m.records[i].bytes
	if i == 0 {
		m.records[0] = record{} // so that its bytes can go
		m.records = m.records[1:]
		return
	}
	m.records = slices.Delete(m.records, i, i+1)
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

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
	writing int           // of the first records, so they must stay
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
	stay := m.writing
	for m.bytes > m.limit && len(m.records) > stay {
		addTo(&m.dropped, &m.records[stay].meta.Samples)
		m.gap = m.gap.with(m.records[stay].meta.span())
		m.remove(stay)
	}
}

// small tells whether a record goes into one transaction with others: that of a late window
// mostly has one series.
func (r *record) small() bool { return len(r.parts) == 1 && r.bytes <= ownBucket/2 }

// together is how many small records are written in one transaction at most.
const together = 512

// next begins to write the first record, if there is one, and with it those behind it that
// are small as well, up to so many bytes. It gives a copy of the list.
func (m *memory) next(most int64) []record {
	n, bytes := min(len(m.records), 1), int64(0)
	for n > 0 && n < min(len(m.records), together) && m.records[n-1].small() && m.records[n].small() {
		if bytes += m.records[n].bytes; bytes > most {
			break
		}
		n++
	}
	m.writing = n
	for i := range n {
		m.records[i].tried = true
	}
	return slices.Clone(m.records[:n])
}

// wrote ends it: so many were written, from seq on, and are not in memory any more.
func (m *memory) wrote(seq uint64, n int) {
	m.writing = 0
	for i := range n {
		m.last, m.lastSeq, m.since = m.records[0].n, seq+uint64(i), time.Time{}
		m.remove(0)
	}
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

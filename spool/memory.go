package spool

import "iter"

// record is a window on its way to the disk. It owns its bytes.
type record struct {
	meta  Meta
	parts [][]byte
	bytes int64
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

package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// Kinds is the length of an array that is indexed by a kind number, 1 to 5
// (counter, gauge, distribution, set, event). What they mean is not known here.
const Kinds = 6

// Meta is what the spool knows about a record without looking into it.
type Meta struct {
	ID     uint64 // of the window, given by whoever closed it
	Start  time.Time
	Width  time.Duration
	Flags  uint16
	Absent uint32 // series of the record before this one that are not in it

	Samples, Series [Kinds]uint64

	// Running totals of the agent at the time the record was made.
	Accepted, Dropped [Kinds]uint64
}

// end is when the record's time is over.
func (m *Meta) end() time.Time { return m.Start.Add(m.Width) }

// Entry is one complete record in the index.
type Entry struct {
	Seqs  Range  // one sequence, or those that a rolled-up record stands for
	Bytes uint32 // of the parts
	Meta
}

// cursor is one upstream's ranges as they were when a record was appended:
// what is left of them when outbox.db is lost.
type cursor struct {
	name       string
	generation uint64
	pending    Pending
}

// The fixed part of a frame; doc.go has the picture.
const (
	frameVersion  = 1
	frameStreamed = 2  // a record of several transactions: only the last part tells how many there are
	frameHead     = 44 // bytes before the meta
	frameTail     = 4  // bytes behind the body
	flagLast      = 1  // in the flags byte: the record's last part

	partsMax = math.MaxUint16
)

var frameMagic = [4]byte{'S', 'L', 'W', 'F'}

// frame is the decoded head of one part of a record.
type frame struct {
	version     uint8
	seqs        Range
	part, parts uint16 // parts is 0 in those of a streamed record but the last
	bind        uint32 // CRC-32C of the record's meta: parts of one writing only
	meta        []byte // in part 0
	body        int    // length
}

// partKey is the key of a part: ascending keys are ascending sequences.
func partKey(seq uint64, part uint16) []byte {
	return be.AppendUint16(be.AppendUint64(make([]byte, 0, 10), seq), part)
}

// seal fills in the head and the checksums of a frame whose meta and body are in
// place.
func (f *frame) seal(b []byte) {
	h := append(b[:0], frameMagic[:]...)
	h = append(h, f.version, 0)
	if f.part+1 == f.parts {
		h[5] |= flagLast
	}
	h = be.AppendUint16(h, f.part)
	h = appendRange(h, f.seqs)
	h = be.AppendUint16(h, f.parts)
	h = be.AppendUint16(h, 0)
	h = be.AppendUint32(h, f.bind)
	h = be.AppendUint32(h, uint32(len(f.meta)))
	h = be.AppendUint32(h, uint32(len(b)-frameHead-len(f.meta)-frameTail))
	be.AppendUint32(h, crc32.Update(checksum(h), castagnoli, f.meta))
	end := len(b) - frameTail
	be.AppendUint32(b[:end], checksum(b[:end]))
}

// encodeFrames gives one frame per part.
func encodeFrames(seqs Range, meta []byte, parts [][]byte) [][]byte {
	h := frame{version: frameVersion, seqs: seqs, parts: uint16(len(parts)), bind: checksum(meta)}
	frames := make([][]byte, len(parts))
	for i, body := range parts {
		h.part, h.meta = uint16(i), nil
		if i == 0 {
			h.meta = meta
		}
		f := make([]byte, frameHead+len(h.meta)+len(body)+frameTail)
		copy(f[frameHead+copy(f[frameHead:], h.meta):], body)
		h.seal(f)
		frames[i] = f
	}
	return frames
}

// decodeHead reads and verifies a frame's head and meta, but not its body, so
// that an index is built without reading the bodies. It keeps parts of v.
func decodeHead(key, v []byte) (f frame, err error) {
	if len(v) < frameHead+frameTail || !bytes.Equal(v[:4], frameMagic[:]) {
		return f, errors.New("frame has no magic")
	}
	if f.version = v[4]; f.version != frameVersion && f.version != frameStreamed {
		return f, fmt.Errorf("frame has version %d, this program reads %d and %d", v[4], frameVersion, frameStreamed)
	}
	r := reader{b: v[6:frameHead]}
	f.part = r.u16()
	f.seqs = r.span()
	f.parts = r.u16()
	r.u16()
	f.bind = r.u32()
	metaLen, bodyLen, sum := uint64(r.u32()), uint64(r.u32()), r.u32()
	if frameHead+metaLen+bodyLen+frameTail != uint64(len(v)) {
		return f, fmt.Errorf("frame of %d bytes says meta %d, body %d", len(v), metaLen, bodyLen)
	}
	f.meta = v[frameHead : frameHead+metaLen]
	f.body = int(bodyLen)
	if got := crc32.Update(crc32.Checksum(v[:frameHead-4], castagnoli), castagnoli, f.meta); got != sum {
		return f, fmt.Errorf("frame head has CRC-32C %08x, want %08x", got, sum)
	}
	last := v[5]&flagLast != 0
	switch {
	case f.seqs.Empty() || !f.tells() || last != (f.part+1 == f.parts):
		return f, errors.New("frame head contradicts itself")
	case !bytes.Equal(key, partKey(f.seqs.From, f.part)):
		return f, fmt.Errorf("frame of record %d part %d stands under another key", f.seqs.From, f.part)
	case f.part == 0 && crc32.Checksum(f.meta, castagnoli) != f.bind:
		return f, errors.New("frame head names another meta")
	}
	return f, nil
}

// tells is whether the number of parts is one that may stand there.
func (f *frame) tells() bool {
	if f.version == frameStreamed {
		return f.part < partsMax && (f.parts == f.part+1 || f.parts == 0 && f.part < partsMax-1)
	}
	return f.part < f.parts
}

// decodeFrame verifies the whole frame and gives its body, a part of v.
func decodeFrame(key, v []byte) (frame, []byte, error) {
	f, err := decodeHead(key, v)
	if err != nil {
		return f, nil, err
	}
	end := len(v) - frameTail
	if got, want := crc32.Checksum(v[:end], castagnoli), be.Uint32(v[end:]); got != want {
		return f, nil, fmt.Errorf("frame has CRC-32C %08x, want %08x", got, want)
	}
	return f, v[end-f.body : end], nil
}

// appendMeta writes m and the cursors of at most 255 upstreams.
func appendMeta(dst []byte, m *Meta, cursors []cursor) []byte {
	dst = be.AppendUint64(dst, m.ID)
	dst = appendTime(dst, m.Start)
	dst = be.AppendUint64(dst, uint64(m.Width))
	dst = be.AppendUint16(dst, m.Flags)
	dst = be.AppendUint32(dst, m.Absent)
	for _, n := range []*[Kinds]uint64{&m.Samples, &m.Series, &m.Accepted, &m.Dropped} {
		dst = appendCounts(dst, n)
	}
	cursors = cursors[:min(len(cursors), math.MaxUint8)]
	dst = append(dst, byte(len(cursors)))
	for _, c := range cursors {
		dst = appendText(dst, c.name)
		dst = be.AppendUint64(dst, c.generation)
		dst = appendPending(dst, c.pending)
	}
	return dst
}

// decodeMeta keeps nothing of b. Bytes behind what it knows are ignored: a
// later release may add fields.
func decodeMeta(b []byte) (m Meta, cursors []cursor, err error) {
	r := reader{b: b}
	m.ID = r.u64()
	m.Start = r.time()
	m.Width = time.Duration(r.u64())
	m.Flags = r.u16()
	m.Absent = r.u32()
	for _, n := range []*[Kinds]uint64{&m.Samples, &m.Series, &m.Accepted, &m.Dropped} {
		*n = r.counts()
	}
	for range r.u8() {
		c := cursor{name: string(r.text()), generation: r.u64(), pending: r.pending()}
		if r.bad {
			break
		}
		cursors = append(cursors, c)
	}
	return m, cursors, r.err()
}

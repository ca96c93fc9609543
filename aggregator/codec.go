package aggregator

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The binary form of a window (its payload; the spool puts a frame of its own
// around each part). All fixed-width integers are little endian.
//
// A window is one or more parts, each of at most maxPart bytes and readable by
// itself:
//
//	version  1 byte: 2 if there are blocks of events, else 1
//	flags    1 byte, 0
//	blocks   2 bytes, their number
//	series   4 bytes, in this part
//	index    per block:
//	           type    1 byte, blockSeries or blockEvents
//	           raw     4 bytes, length before compression
//	           stored  4 bytes, length as stored
//	           crc     4 bytes, CRC-32C of the stored bytes
//	           key     2 bytes length, then the key of the block's first series, or
//	                   4 bytes, big endian: how many events of the window come before
//	crc      4 bytes, CRC-32C of all bytes before it
//	blocks   one after another, each one zstd frame without checksum
//
// A block of series, uncompressed:
//
//	count    4 bytes
//	offsets  4 bytes each: where an entry begins, counted from the first entry
//	entries  key: 2 bytes length, then the bytes (see Series);
//	         value: up to the next entry, in the form of its kind
//
// Keys ascend through all blocks of series and parts. So one series is found by
// two binary searches and one block's decompression.
//
// A block of events, uncompressed, behind all blocks of series:
//
//	count    4 bytes
//	events   one behind the other, see Event
//
// Releases before version 2 say of such a part that its version is unknown; what
// has no events they can read.
const (
	versionSeries = 1
	versionEvents = 2 // the newest
	blockSeries   = 1
	blockEvents   = 2

	// maxPart: bbolt takes values far below a segment's 32 MiB; a window of
	// 100,000 busy distributions is 21 MiB.
	maxPart = 4 << 20
	// blockTarget closes a block: small enough to decode one for one series,
	// large enough to compress well.
	blockTarget = 64 << 10
	// maxBlock bounds what a file can make a reader allocate: a block below
	// blockTarget takes one more entry, and the largest is a set (maxSetBytes of
	// text and a length each) or 27 KiB of key.
	maxBlock = 4 << 20
	// maxBlocks keeps the index, at most 27 KiB a block, small beside a part.
	maxBlocks = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(128<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		panic("aggregator: " + err.Error()) // the options are constants
	}
	return e
})

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock))
	if err != nil {
		panic("aggregator: " + err.Error()) // the options are constants
	}
	return d
})

// encode yields the parts of a window that consists of the series and values
// of entries, in ascending order of their keys, and of events. A part is valid
// until the next is asked for. No entry and no event: no part.
func encode(entries iter.Seq2[Series, appender], events iter.Seq[*Event]) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var p partWriter
		for s, v := range entries {
			if p.add(s, v); len(p.entries) >= blockTarget && p.closeBlock() && !yield(p.closePart()) {
				return
			}
		}
		full := p.closeBlock()
		for e := range events {
			if full && !yield(p.closePart()) {
				return
			}
			full = false
			if p.addEvent(e); len(p.entries) >= blockTarget {
				full = p.closeEvents()
			}
		}
		p.closeEvents()
		if p.blocks > 0 {
			yield(p.closePart())
		}
	}
}

// An appender is a value that can write itself in the form of its kind.
type appender interface{ append(dst []byte) []byte }

type partWriter struct {
	// The block being written.
	entries []byte
	offsets []uint32
	first   string
	events  int // in the block; written with those before

	// The part being written.
	index, stored, part, raw []byte
	blocks, series           int
	version                  byte

	before uint32 // events in blocks that are closed
}

func (p *partWriter) add(s Series, v appender) {
	if len(p.offsets) == 0 {
		p.first = s.key
	}
	p.offsets = append(p.offsets, uint32(len(p.entries)))
	p.entries = binary.LittleEndian.AppendUint16(p.entries, uint16(len(s.key)))
	p.entries = append(p.entries, s.key...)
	p.entries = v.append(p.entries)
}

func (p *partWriter) addEvent(e *Event) {
	p.entries = e.append(p.entries, e.Time)
	p.events++
}

// closeBlock ends the block of series, if one is open, and answers whether the
// part could not take another.
func (p *partWriter) closeBlock() (full bool) {
	if len(p.offsets) == 0 {
		return false
	}
	p.raw = binary.LittleEndian.AppendUint32(p.raw[:0], uint32(len(p.offsets)))
	for _, o := range p.offsets {
		p.raw = binary.LittleEndian.AppendUint32(p.raw, o)
	}
	p.raw = append(p.raw, p.entries...)
	p.version = max(p.version, versionSeries)
	p.series += len(p.offsets)
	p.offsets = p.offsets[:0]
	return p.store(blockSeries, p.first)
}

// closeEvents ends the block of events, like closeBlock.
func (p *partWriter) closeEvents() (full bool) {
	if p.events == 0 {
		return false
	}
	p.raw = binary.LittleEndian.AppendUint32(p.raw[:0], uint32(p.events))
	p.raw = append(p.raw, p.entries...)
	p.version = versionEvents
	key := binary.BigEndian.AppendUint32(nil, p.before)
	p.before += uint32(p.events)
	p.events = 0
	return p.store(blockEvents, string(key))
}

// store compresses the block in raw into the part.
func (p *partWriter) store(kind byte, key string) (full bool) {
	begin := len(p.stored)
	p.stored = zstdEncoder().EncodeAll(p.raw, p.stored)

	p.index = append(p.index, kind)
	p.index = binary.LittleEndian.AppendUint32(p.index, uint32(len(p.raw)))
	p.index = binary.LittleEndian.AppendUint32(p.index, uint32(len(p.stored)-begin))
	p.index = binary.LittleEndian.AppendUint32(p.index, crc32.Checksum(p.stored[begin:], castagnoli))
	p.index = binary.LittleEndian.AppendUint16(p.index, uint16(len(key)))
	p.index = append(p.index, key...)
	p.blocks++
	p.entries = p.entries[:0]
	// Would the part still be within its bound with another block as large as can be?
	return len(p.stored)+len(p.index)+maxBlock/2 > maxPart || p.blocks == maxBlocks
}

func (p *partWriter) closePart() []byte {
	b := append(p.part[:0], p.version, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(p.blocks))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.series))
	b = append(b, p.index...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = append(b, p.stored...)
	p.part, p.index, p.stored = b, p.index[:0], p.stored[:0]
	p.blocks, p.series, p.version = 0, 0, 0
	return b
}

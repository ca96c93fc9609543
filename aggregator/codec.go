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
//	version  1 byte, payloadVersion
//	flags    1 byte, 0
//	blocks   2 bytes, their number
//	series   4 bytes, in this part
//	index    per block:
//	           type    1 byte, blockSeries (blockEvents is reserved)
//	           raw     4 bytes, length before compression
//	           stored  4 bytes, length as stored
//	           crc     4 bytes, CRC-32C of the stored bytes
//	           key     2 bytes length, then the key of the block's first series
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
// Keys ascend through all blocks and parts. So one series is found by two
// binary searches and one block's decompression.
const (
	payloadVersion = 1
	blockSeries    = 1
	blockEvents    = 2

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
// of entries, in ascending order of their keys. A part is valid until the next
// is asked for. No entry: no part.
func encode(entries iter.Seq2[Series, appender]) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var p partWriter
		for s, v := range entries {
			p.add(s, v)
			if len(p.entries) < blockTarget {
				continue
			}
			// Would the part still be within its bound with another block as large as can be?
			if p.closeBlock(); len(p.stored)+len(p.index)+maxBlock/2 > maxPart || p.blocks == maxBlocks {
				if !yield(p.closePart()) {
					return
				}
			}
		}
		p.closeBlock()
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

	// The part being written.
	index, stored, part, raw []byte
	blocks, series           int
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

func (p *partWriter) closeBlock() {
	if len(p.offsets) == 0 {
		return
	}
	p.raw = binary.LittleEndian.AppendUint32(p.raw[:0], uint32(len(p.offsets)))
	for _, o := range p.offsets {
		p.raw = binary.LittleEndian.AppendUint32(p.raw, o)
	}
	p.raw = append(p.raw, p.entries...)
	begin := len(p.stored)
	p.stored = zstdEncoder().EncodeAll(p.raw, p.stored)

	p.index = append(p.index, blockSeries)
	p.index = binary.LittleEndian.AppendUint32(p.index, uint32(len(p.raw)))
	p.index = binary.LittleEndian.AppendUint32(p.index, uint32(len(p.stored)-begin))
	p.index = binary.LittleEndian.AppendUint32(p.index, crc32.Checksum(p.stored[begin:], castagnoli))
	p.index = binary.LittleEndian.AppendUint16(p.index, uint16(len(p.first)))
	p.index = append(p.index, p.first...)
	p.blocks++
	p.series += len(p.offsets)
	p.entries, p.offsets = p.entries[:0], p.offsets[:0]
}

func (p *partWriter) closePart() []byte {
	b := append(p.part[:0], payloadVersion, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(p.blocks))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.series))
	b = append(b, p.index...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = append(b, p.stored...)
	p.part, p.index, p.stored = b, p.index[:0], p.stored[:0]
	p.blocks, p.series = 0, 0
	return b
}

package aggregator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
)

// A Reader reads a window from its binary form, in place. It borrows the
// parts it was opened with. It is for one goroutine.
type Reader struct {
	blocks []blockRef // of series
	events []blockRef // of events
	series int

	// The block decoded last.
	at      int // its index, -1 for none
	raw     []byte
	offsets []byte
	entries []byte
}

type blockRef struct {
	first          []byte // key of its first series, or how many events come before
	events         bool
	raw, size, sum uint32 // length decompressed, length and CRC-32C as stored
	stored         []byte
}

// OpenReader checks the parts of one window, every byte by checksum, and
// returns a reader for them. Damaged parts are an error; no parts are an empty
// window.
func OpenReader(parts ...[]byte) (*Reader, error) {
	r := &Reader{at: -1}
	for i, p := range parts {
		if err := r.addPart(p); err != nil {
			return nil, fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
		}
	}
	return r, nil
}

// Len returns the number of series.
func (r *Reader) Len() int { return r.series }

func (r *Reader) addPart(p []byte) error {
	d := decoder{b: p}
	version := d.byte()
	if d.err == nil && (version < versionSeries || version > versionEvents) {
		return fmt.Errorf("window of format %d, this program reads up to %d: %w", version, versionEvents, errDamaged)
	}
	flags, n := d.byte(), d.uint16()
	series := d.uint32()
	refs := make([]blockRef, 0, min(n, maxBlocks))
	for range n {
		kind := d.byte()
		ref := blockRef{raw: d.uint32(), size: d.uint32(), sum: d.uint32()}
		ref.first = d.bytes(uint64(d.uint16()))
		ref.events = kind == blockEvents && version == versionEvents && len(ref.first) == 4
		if kind != blockSeries && !ref.events || ref.raw > maxBlock {
			d.fail()
		}
		if d.err != nil {
			return d.err
		}
		refs = append(refs, ref)
	}
	head := p[:len(p)-len(d.b)]
	if sum := d.uint32(); d.err != nil || flags != 0 || crc32.Checksum(head, castagnoli) != sum {
		return errDamaged
	}
	for _, ref := range refs {
		ref.stored = d.bytes(uint64(ref.size))
		if d.err != nil || crc32.Checksum(ref.stored, castagnoli) != ref.sum {
			return errDamaged
		}
		list := &r.blocks
		if ref.events {
			list = &r.events
		}
		if last := len(*list) - 1; last >= 0 && bytes.Compare(ref.first, (*list)[last].first) <= 0 {
			return errDamaged
		}
		*list = append(*list, ref)
	}
	if len(d.b) != 0 {
		return errDamaged
	}
	r.series += int(series)
	return nil
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// load makes block i the current one.
func (r *Reader) load(i int) error {
	if r.at == i {
		return nil
	}
	n, d, err := r.unpack(&r.blocks[i])
	if err != nil {
		return err
	}
	r.offsets = d.bytes(4 * n)
	r.entries = d.b
	if d.err != nil {
		return errDamaged
	}
	r.at = i
	return nil
}

// unpack decompresses a block into raw, where the current one was. It answers
// how many entries the block has, and what comes behind that number.
func (r *Reader) unpack(ref *blockRef) (n uint64, d decoder, err error) {
	r.at = -1
	raw, err := zstdDecoder().DecodeAll(ref.stored, r.raw[:0])
	if err != nil {
		return 0, d, fmt.Errorf("%w: %v", errDamaged, err)
	}
	r.raw = raw
	d = decoder{b: raw}
	n = uint64(d.uint32())
	if d.err != nil || n == 0 || len(raw) != int(ref.raw) {
		return 0, d, errDamaged
	}
	return n, d, nil
}

// eachEvent yields the events in their order. It answers false when the loop
// was left, and an error on damage, after the events before it.
func (r *Reader) eachEvent(yield func(*Event) bool) (more bool, err error) {
	before := uint64(0)
	for i := range r.events {
		ref := &r.events[i]
		n, d, err := r.unpack(ref)
		if err != nil {
			return false, err
		}
		if before != uint64(binary.BigEndian.Uint32(ref.first)) {
			return false, errDamaged
		}
		before += n
		var e Event
		for range n {
			if e.decode(&d); d.err != nil {
				return false, d.err
			}
			if !yield(&e) {
				return false, nil
			}
		}
		if len(d.b) != 0 {
			return false, errDamaged
		}
	}
	return true, nil
}

func (r *Reader) count() int { return len(r.offsets) / 4 }

// entry returns the key and the value's bytes of entry i of the current block.
func (r *Reader) entry(i int) (key, value []byte, err error) {
	begin, end := binary.LittleEndian.Uint32(r.offsets[4*i:]), uint32(len(r.entries))
	if i+1 < r.count() {
		end = binary.LittleEndian.Uint32(r.offsets[4*i+4:])
	}
	if begin > end || end > uint32(len(r.entries)) {
		return nil, nil, errDamaged
	}
	d := decoder{b: r.entries[begin:end]}
	key = d.bytes(uint64(d.uint16()))
	return key, d.b, d.err
}

// Find puts the value of s into v, decoding only the block it is in. It
// answers false if the window does not have s.
func (r *Reader) Find(s Series, v *Value) (bool, error) {
	block := sort.Search(len(r.blocks), func(i int) bool { return string(r.blocks[i].first) > s.key }) - 1
	if block < 0 {
		return false, nil
	}
	if err := r.load(block); err != nil {
		return false, err
	}
	var failed error
	at := sort.Search(r.count(), func(i int) bool {
		key, _, err := r.entry(i)
		if err != nil {
			failed = err
		}
		return string(key) >= s.key
	})
	if failed != nil || at == r.count() {
		return false, failed
	}
	key, value, err := r.entry(at)
	if err != nil || string(key) != s.key {
		return false, err
	}
	d := decoder{b: value}
	v.decode(s.Kind(), &d)
	return d.err == nil, d.err
}

// A cursor walks through a reader's series.
type cursor struct {
	r            *Reader
	block, index int
	key, value   []byte // of the current series; key is nil at the end
	last         []byte
}

// seek moves to the first series whose key is greater than after, from wherever it is.
func (c *cursor) seek(after []byte) error {
	c.block = max(0, sort.Search(len(c.r.blocks), func(i int) bool { return bytes.Compare(c.r.blocks[i].first, after) > 0 })-1)
	c.index, c.key = -1, nil
	for {
		if err := c.next(); err != nil || c.key == nil || len(after) == 0 || bytes.Compare(c.key, after) > 0 {
			return err
		}
	}
}

func (c *cursor) next() error {
	c.last = append(c.last[:0], c.key...)
	c.key = nil
	for ; c.block < len(c.r.blocks); c.block, c.index = c.block+1, -1 {
		if err := c.r.load(c.block); err != nil {
			return err
		}
		if c.index++; c.index == c.r.count() {
			continue
		}
		key, value, err := c.r.entry(c.index)
		if err != nil {
			return err
		}
		if bytes.Compare(key, c.last) <= 0 || c.index == 0 && !bytes.Equal(key, c.r.blocks[c.block].first) {
			return errDamaged // out of order
		}
		c.key, c.value = key, value
		return nil
	}
	return nil
}

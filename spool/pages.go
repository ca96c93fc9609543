package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// pages reads a bbolt file without bbolt. A damaged file can kill or hang the
// process that opens it with bbolt (a page id beyond the mapping faults, a
// cycle of branch pages never ends); this walk reads through ReadAt, checks
// every offset against the page it stands in, and visits no page twice, so it
// ends, and an error is all that can come of it. The format is that of bbolt's
// internal/common: page.go, meta.go, inode.go; it has not changed since 2014.
// Numbers in it have the byte order of the machine that wrote them.
type pages struct {
	r        io.ReaderAt
	size     int64
	pageSize int64
	high     uint64 // first page id that was never given out
	used     map[uint64]bool
}

const (
	pageHead    = 16 // id 8, flags 2, count 2, overflow 4
	pageBranch  = 0x01
	pageLeaf    = 0x02
	pageFree    = 0x10
	leafElement = 16 // flags 4, pos 4, ksize 4, vsize 4
	leafBucket  = 0x01
	metaBytes   = 64
	metaMagic   = 0xED0CDAED
	noFreelist  = 1<<64 - 1
	depthMax    = 32 // far over a tree of 2^20 pages
	pageSizeMin = 512
	pageSizeMax = 1 << 20
)

var native = binary.NativeEndian

type pagesMeta struct{ pageSize, root, freelist, high, tx uint64 }

// walkPages verifies the structure of a bbolt file of size bytes and calls fn
// for every key and value. path is the buckets above; all slices are valid
// during the call only.
func walkPages(r io.ReaderAt, size int64, fn func(path [][]byte, key, value []byte) error) error {
	m, err := findMeta(r, size)
	if err != nil {
		return err
	}
	p := &pages{r: r, size: size, pageSize: int64(m.pageSize), high: m.high, used: map[uint64]bool{0: true, 1: true}}
	if m.high < 2 || m.high > uint64(size/p.pageSize) {
		return fmt.Errorf("file of %d bytes ends before its last page %d of %d bytes", size, m.high, m.pageSize)
	}
	if m.freelist == noFreelist {
		// Opening such a file makes bbolt scan it in a goroutine of its own.
		return errors.New("file has no freelist; spool never writes one without")
	}
	if err := p.tree(nil, m.root, 0, fn); err != nil {
		return err
	}
	return p.freelist(m.freelist)
}

// findMeta gives the newer of the two meta pages that is intact.
func findMeta(r io.ReaderAt, size int64) (best pagesMeta, err error) {
	try := func(at int64) (pagesMeta, bool) {
		b := make([]byte, pageHead+metaBytes)
		if _, err := r.ReadAt(b, at); err != nil {
			return pagesMeta{}, false
		}
		b = b[pageHead:]
		sum := fnv.New64a()
		sum.Write(b[:metaBytes-8])
		m := pagesMeta{
			pageSize: uint64(native.Uint32(b[8:])), root: native.Uint64(b[16:]),
			freelist: native.Uint64(b[32:]), high: native.Uint64(b[40:]), tx: native.Uint64(b[48:]),
		}
		ok := native.Uint32(b) == metaMagic && native.Uint32(b[4:]) == 2 && native.Uint64(b[56:]) == sum.Sum64() &&
			m.pageSize >= pageSizeMin && m.pageSize <= pageSizeMax
		return m, ok
	}
	first, ok := try(0)
	if ok {
		best = first
	}
	for n := int64(pageSizeMin); n <= pageSizeMax && n < size; n *= 2 {
		if second, ok := try(n); ok && int64(second.pageSize) == n && (best.pageSize == 0 || second.tx > best.tx) {
			best = second
		}
	}
	if best.pageSize == 0 {
		return best, errors.New("neither meta page is intact")
	}
	return best, nil
}

// load reads a page with its overflow and books it as used.
func (p *pages) load(id uint64) ([]byte, error) {
	if id < 2 || id >= p.high {
		return nil, fmt.Errorf("page %d is outside 2 to %d", id, p.high)
	}
	var head [pageHead]byte
	if _, err := p.r.ReadAt(head[:], int64(id)*p.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	over := uint64(native.Uint32(head[12:]))
	if native.Uint64(head[:]) != id || id+over >= p.high {
		return nil, fmt.Errorf("page %d says it is %d with %d more", id, native.Uint64(head[:]), over)
	}
	for n := id; n <= id+over; n++ {
		if p.used[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		p.used[n] = true
	}
	b := make([]byte, int64(over+1)*p.pageSize)
	if _, err := p.r.ReadAt(b, int64(id)*p.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return b, nil
}

func (p *pages) tree(path [][]byte, id uint64, depth int, fn func([][]byte, []byte, []byte) error) error {
	if depth > depthMax {
		return fmt.Errorf("page %d is %d levels deep", id, depth)
	}
	b, err := p.load(id)
	if err != nil {
		return err
	}
	return p.elements(path, b, id, depth, fn)
}

// elements goes through one page, which may stand inline in a bucket's value.
func (p *pages) elements(path [][]byte, b []byte, id uint64, depth int, fn func([][]byte, []byte, []byte) error) error {
	if len(b) < pageHead {
		return fmt.Errorf("page %d is cut off", id)
	}
	flags, count := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	if flags != pageLeaf && flags != pageBranch {
		return fmt.Errorf("page %d has flags %#x, want a branch or a leaf", id, flags)
	}
	if pageHead+count*leafElement > len(b) {
		return fmt.Errorf("page %d of %d bytes has %d elements", id, len(b), count)
	}
	cut := func(at int, off, n uint64) ([]byte, error) {
		from := uint64(at) + off
		if from+n > uint64(len(b)) {
			return nil, fmt.Errorf("page %d: element at %d reaches to %d of %d", id, at, from+n, len(b))
		}
		return b[from : from+n], nil
	}
	var last []byte
	for i := range count {
		at := pageHead + i*leafElement
		e := b[at : at+leafElement]
		if flags == pageBranch { // pos 4, ksize 4, page 8
			if err := p.tree(path, native.Uint64(e[8:]), depth+1, fn); err != nil {
				return err
			}
			continue
		}
		pos, ksize, vsize := uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		key, err := cut(at, pos, ksize)
		if err != nil {
			return err
		}
		value, err := cut(at, pos+ksize, vsize)
		if err != nil {
			return err
		}
		if i > 0 && string(key) <= string(last) {
			return fmt.Errorf("page %d: key %x comes after %x", id, key, last)
		}
		last = key
		if native.Uint32(e)&leafBucket == 0 {
			if err := fn(path, key, value); err != nil {
				return err
			}
			continue
		}
		if len(value) < 16 { // root 8, sequence 8
			return fmt.Errorf("page %d: bucket %x is cut off", id, key)
		}
		under := append(path[:len(path):len(path)], key)
		if root := native.Uint64(value); root != 0 {
			err = p.tree(under, root, depth+1, fn)
		} else {
			err = p.elements(under, value[16:], id, depth+1, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freelist verifies that every page is either used or free, and none both: a
// page in use that the list calls free would be written over later.
func (p *pages) freelist(id uint64) error {
	b, err := p.load(id)
	if err != nil {
		return err
	}
	if flags := native.Uint16(b[8:]); flags != pageFree {
		return fmt.Errorf("page %d has flags %#x, want the freelist", id, flags)
	}
	ids, n := b[pageHead:], uint64(native.Uint16(b[10:]))
	if n == 0xFFFF { // the count stands in front of the ids
		n, ids = native.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return fmt.Errorf("freelist of %d bytes has %d pages", len(ids), n)
	}
	for i := range n {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= p.high || p.used[id] {
			return fmt.Errorf("page %d is free and in use, twice free or outside the file", id)
		}
		p.used[id] = true
	}
	if uint64(len(p.used)) != p.high {
		return fmt.Errorf("%d of %d pages are neither free nor in use", p.high-uint64(len(p.used)), p.high)
	}
	return nil
}

package spool

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// recordsBucket is the only bucket of a segment.
var recordsBucket = []byte("records")

// allocSize is the step in which a bbolt file grows beyond its first mebibyte.
// bbolt's own 16 MiB would leave half of a 32 MiB segment unused, because
// MaxSize counts the step.
const allocSize = 1 << 20

// segment is one NNNNNN.seg.
type segment struct {
	number uint64
	size   int64 // of the file
	born   time.Time

	stiff bool // no roll-up: a record is damaged, or nothing would be won; guarded by Spool.rolling

	// Guarded by Spool.io.
	db      *bolt.DB // while open
	largest int64    // frame in it, at least while it is the tail
}

func segmentName(n uint64) string { return fmt.Sprintf("%06d%s", n, segmentSuffix) }

// segmentNumber is 0 for a name that is not a segment's.
func segmentNumber(name string) uint64 {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || segmentName(n) != name {
		return 0
	}
	return n
}

func (g *segment) name() string { return segmentName(g.number) }

// createSegment makes an empty segment under a temporary name and renames it:
// a bbolt file that a crash left half made cannot be opened.
func (d *folder) createSegment(number uint64, maxSize int64, now time.Time) (*segment, error) {
	g := &segment{number: number, born: now}
	temp := g.name() + tempSuffix
	_ = d.root.Remove(temp) // a full disk may have cut the last attempt short: what it left cannot be opened
	db, err := d.openDB(temp, d.dbOptions())
	if err != nil {
		return nil, err
	}
	err = guard(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket(recordsBucket)
			return err
		})
	})
	if err = errors.Join(err, closeDB(db)); err == nil {
		err = d.rename(temp, g.name())
	}
	if err != nil {
		_ = d.root.Remove(temp)
		return nil, fmt.Errorf("create %s: %w", g.name(), err)
	}
	return g, d.openTail(g, maxSize)
}

// openTail opens a segment for appending.
func (d *folder) openTail(g *segment, maxSize int64) error {
	if _, err := d.regular(g.name()); err != nil {
		return err
	}
	opt := d.dbOptions()
	opt.MaxSize = int(maxSize)
	db, err := d.openDB(g.name(), opt)
	if err != nil {
		return err
	}
	db.AllocSize = int(min(allocSize, max(maxSize/8, 4096)))
	g.db = db
	if g.size == 0 { // later only put changes it, under Spool.mu: Stats may be reading it
		g.size = d.size(g.name())
	}
	return nil
}

// openOld opens a segment for reading.
func (d *folder) openOld(g *segment) error {
	if _, err := d.regular(g.name()); err != nil {
		return err
	}
	opt := d.dbOptions()
	opt.ReadOnly = true
	db, err := d.openDB(g.name(), opt)
	if err != nil {
		return err
	}
	g.db = db
	if g.size == 0 { // later only put changes it, under Spool.mu: Stats may be reading it
		g.size = d.size(g.name())
	}
	return nil
}

func (g *segment) close() error {
	if g == nil || g.db == nil {
		return nil
	}
	db := g.db
	g.db = nil
	return closeDB(db)
}

// ownBucket is the size, in bytes, from which on a record has a bucket of its own.
// bbolt keeps up to four values in a page however large they are (node.go,
// splitTwo), and writes a page anew when one is added: a large record would be
// written four times and more. In pages of its own it is written once, and of the
// last page, which is only partly filled, half is lost, a quarter of this at most.
const ownBucket = 8 << 10

// put writes frames of one record in one transaction and so one sync. Keys
// only grow, so that pages are filled to the brim.
func (g *segment) put(seq uint64, first uint16, frames [][]byte) error {
	return guard(func() error {
		return g.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(recordsBucket)
			if b == nil {
				return fmt.Errorf("%w: %s has no bucket", ErrDamaged, g.name())
			}
			size := 0
			for _, f := range frames {
				size += len(f)
			}
			to := b.Bucket(seqKey(seq)) // a streamed record has it already
			if to == nil && size < ownBucket {
				to = b
			} else if to == nil {
				var err error
				if to, err = b.CreateBucket(seqKey(seq)); err != nil {
					return err
				}
			}
			b.FillPercent, to.FillPercent = 1.0, 1.0
			for i, f := range frames {
				if err := to.Put(partKey(seq, first+uint16(i)), f); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// putSmall writes records of one part each, from seq on, in one transaction.
func (g *segment) putSmall(seq uint64, frames [][]byte) error {
	return guard(func() error {
		return g.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(recordsBucket)
			if b == nil {
				return fmt.Errorf("%w: %s has no bucket", ErrDamaged, g.name())
			}
			b.FillPercent = 1.0
			for i, f := range frames {
				if err := b.Put(partKey(seq+uint64(i), 0), f); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// find gives a part of a record that was written with bind, verified: where the
// records are, or in the record's own bucket. Both may have one under its key, of two
// attempts. ErrGone when there is none.
func find(records *bolt.Bucket, seq uint64, part uint16, bind uint32) (body []byte, err error) {
	key := partKey(seq, part)
	err = ErrGone
	for _, b := range []*bolt.Bucket{records, records.Bucket(seqKey(seq))} {
		if b == nil {
			continue
		}
		v := b.Get(key)
		if v == nil {
			continue
		}
		f, body, damage := decodeFrame(key, v)
		if damage == nil && f.bind == bind {
			return body, nil
		}
		if damage != nil {
			err = fmt.Errorf("%w: %w", ErrDamaged, damage)
		}
	}
	return nil, err
}

// remove takes out the first parts of a record that were written with bind.
func (g *segment) remove(seq uint64, bind uint32, parts int) error {
	return guard(func() error {
		return g.db.Update(func(tx *bolt.Tx) error {
			records := tx.Bucket(recordsBucket)
			own := records.Bucket(seqKey(seq))
			for part := range parts {
				key := partKey(seq, uint16(part))
				for _, b := range []*bolt.Bucket{records, own} {
					if b == nil {
						continue
					}
					f, err := decodeHead(key, b.Get(key))
					if err != nil || f.bind != bind {
						continue
					}
					if err := b.Delete(key); err != nil {
						return err
					}
				}
			}
			if own == nil {
				return nil
			}
			if k, _ := own.Cursor().First(); k != nil {
				return nil
			}
			return records.DeleteBucket(seqKey(seq))
		})
	})
}

// get gives a copy of the body of one part written with bind. ErrGone when the
// segment has no such part.
func (g *segment) get(seq uint64, part uint16, bind uint32) (body []byte, err error) {
	err = guard(func() error {
		return g.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(recordsBucket)
			if b == nil {
				return fmt.Errorf("%w: %s has no bucket", ErrDamaged, g.name())
			}
			in, err := find(b, seq, part, bind)
			body = slices.Clone(in)
			return err
		})
	})
	return body, err
}

// scan calls fn for every frame whose head is whole, in order, and counts the
// others. f.meta is valid during the call.
func (g *segment) scan(fn func(f frame)) (damaged int, err error) {
	err = guard(func() error {
		return g.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(recordsBucket)
			if b == nil {
				return fmt.Errorf("%w: %s has no bucket", ErrDamaged, g.name())
			}
			one := func(k, v []byte) error {
				f, err := decodeHead(k, v)
				if err != nil {
					damaged++
					return nil
				}
				fn(f)
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				if own := b.Bucket(k); v == nil && own != nil {
					return own.ForEach(one)
				}
				return one(k, v)
			})
		})
	})
	return damaged, err
}

package spool

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// box is outbox.db: a bucket "spool" with the generation, and a bucket
// "outboxes" with one bucket per upstream.
type box struct {
	dir        *folder
	generation uint64

	mu sync.RWMutex // guards db: held for reading while it is used
	db *bolt.DB     // nil after a failed commit, until it was opened again

	kept keptBuckets // of a stand-in, which has no file; guarded by mu
}

// bucket is what is read of an upstream's buckets.
type bucket interface {
	Get(key []byte) []byte
	ForEach(func(k, v []byte) error) error
}

var (
	spoolBucket   = []byte("spool")
	outboxBucket  = []byte("outboxes")
	generationKey = []byte("generation")
	outboxVersion = byte(1)
)

// reserveMax is written to a new outbox.db, and to a copy of one, and deleted
// again: blocks that belong to the file, so that batches can still be settled on
// a full disk.
const reserveMax = 1 << 20

var errBoxClosed = errors.New("outbox.db is closed after an error")

// write is one change in an upstream's bucket; value nil deletes the key.
type write struct {
	bucket string // "" is the upstream's own
	key    []byte
	value  []byte
}

// createBox makes an empty outbox.db of a new generation.
func (d *folder) createBox(generation uint64, reserve int64) error {
	temp := outboxName + tempSuffix
	_ = d.root.Remove(temp)
	db, err := d.openDB(temp, d.reservingOptions(reserve))
	if err != nil {
		return err
	}
	value := be.AppendUint64([]byte{outboxVersion}, generation)
	err = guard(func() error {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket(spoolBucket)
			if err != nil {
				return err
			}
			if _, err := tx.CreateBucket(outboxBucket); err != nil {
				return err
			}
			return b.Put(generationKey, closed(generationKey, value))
		})
		if err != nil {
			return err
		}
		return addReserve(db, reserve)
	})
	if err = errors.Join(err, closeDB(db)); err == nil {
		err = d.rename(temp, outboxName)
	}
	if err != nil {
		_ = d.root.Remove(temp)
		return fmt.Errorf("create %s: %w", outboxName, err)
	}
	return nil
}

// reservingOptions are for a new file that is given a reserve: mapped as a whole at once, it
// is not mapped anew for that, before which bbolt copies all that it is to write.
func (d *folder) reservingOptions(reserve int64) *bolt.Options {
	opt := d.dbOptions()
	if runtime.GOOS != "windows" { // there a file is as large as its map
		opt.InitialMmapSize = int(reserve + reserve/2)
	}
	return opt
}

// reservePart is how much of the reserve is in memory at once.
const reservePart = 64 << 10

// addReserve writes pages and frees them.
func addReserve(db *bolt.DB, bytes int64) error {
	part := make([]byte, min(bytes, reservePart))
	each := func(do func(b *bolt.Bucket, key []byte) error) error {
		return db.Update(func(tx *bolt.Tx) error {
			for at := int64(0); at < bytes; at += reservePart {
				if err := do(tx.Bucket(spoolBucket), fmt.Appendf(nil, "reserve%d", at)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := each(func(b *bolt.Bucket, key []byte) error { return b.Put(key, part) }); err != nil {
		return err
	}
	return each((*bolt.Bucket).Delete)
}

// open opens the file and loads every upstream's state from it. An error that
// wraps ErrDamaged means that the file is of no use.
func (x *box) open() (states map[string]*state, err error) {
	if _, err := x.dir.regular(outboxName); err != nil {
		return nil, err
	}
	db, err := x.dir.openDB(outboxName, x.dir.dbOptions())
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	db.AllocSize = allocSize
	states = map[string]*state{}
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			top, all := tx.Bucket(spoolBucket), tx.Bucket(outboxBucket)
			if top == nil || all == nil {
				return errors.New("buckets are missing")
			}
			v, err := opened(generationKey, top.Get(generationKey))
			if err != nil {
				return fmt.Errorf("generation: %w", err)
			}
			if len(v) != 9 || v[0] != outboxVersion {
				return fmt.Errorf("version is not %d", outboxVersion)
			}
			x.generation = be.Uint64(v[1:])
			return all.ForEachBucket(func(name []byte) error {
				st, err := loadState(all.Bucket(name))
				if err != nil {
					return fmt.Errorf("upstream %q: %w", name, err)
				}
				states[string(name)] = st
				return nil
			})
		})
	})
	if err != nil {
		_ = closeDB(db)
		return nil, fmt.Errorf("load %s: %w: %w", outboxName, ErrDamaged, err)
	}
	x.mu.Lock()
	x.db = db
	x.mu.Unlock()
	return states, nil
}

func loadState(b *bolt.Bucket) (*state, error) {
	st, err := decodeState(b.Get([]byte(stateKey)), b.Get([]byte(ledgerKey)), b.Get([]byte(requestsKey)))
	if err != nil {
		return nil, err
	}
	each := func(bucket string, fn func(k, v []byte) error) error {
		sub := b.Bucket([]byte(bucket))
		if sub == nil {
			return nil
		}
		return sub.ForEach(fn)
	}
	err = errors.Join(
		each(headsBucket, func(k, v []byte) error {
			if len(k) != 8 {
				return fmt.Errorf("batch key %x", k)
			}
			h, err := decodeHeadRecord(be.Uint64(k), v)
			st.heads = append(st.heads, h)
			return err
		}),
		each(deadBucket, func(k, v []byte) error {
			if len(k) != 8 {
				return fmt.Errorf("dead letter key %x", k)
			}
			st.letters = append(st.letters, letter{be.Uint64(k), int64(len(v))})
			return nil
		}),
		each(tablesBucket, func(k, v []byte) error {
			v, err := opened(k, v)
			r := reader{b: k}
			table := string(r.text())
			if err = errors.Join(err, r.err()); err != nil {
				return fmt.Errorf("table key %x: %w", k, err)
			}
			st.put(table, string(r.b), slices.Clone(v))
			return nil
		}))
	return st, err
}

// close is used after an error, too: it says nothing then.
func (x *box) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil {
		return nil
	}
	db := x.db
	x.db = nil
	return closeDB(db)
}

// commit writes the changes of several upstreams in one transaction. After an
// error it is open whether they are on disk: the file must be opened anew.
func (x *box) commit(changes map[string][]write) error {
	if x.kept != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.kept.commit(changes)
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.db == nil {
		return errBoxClosed
	}
	return guard(func() error {
		return x.db.Update(func(tx *bolt.Tx) error {
			all := tx.Bucket(outboxBucket)
			for name, writes := range changes {
				b, err := all.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				for _, w := range writes {
					if err := w.apply(b); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
}

func (w write) apply(b *bolt.Bucket) (err error) {
	if w.bucket != "" {
		if b, err = b.CreateBucketIfNotExists([]byte(w.bucket)); err != nil {
			return err
		}
	}
	b.FillPercent = 0.5 // values come and go everywhere
	if w.value == nil {
		return b.Delete(w.key)
	}
	return b.Put(w.key, w.value)
}

// view calls fn with one of an upstream's buckets; fn is not called when there
// is none.
func (x *box) view(name, bucket string, fn func(bucket) error) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.kept != nil {
		return fn(x.kept[name+"/"+bucket])
	}
	if x.db == nil {
		return errBoxClosed
	}
	return guard(func() error {
		return x.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(outboxBucket).Bucket([]byte(name))
			if b != nil {
				b = b.Bucket([]byte(bucket))
			}
			if b == nil {
				return nil
			}
			return fn(b)
		})
	})
}

// compact copies outbox.db when more than half of it is free, beyond the
// reserve, which the copy gets anew. A file that cannot be copied is left as it
// is.
func (d *folder) compact(reserve int64) error {
	db, err := d.openDB(outboxName, d.dbOptions())
	if err != nil {
		return err
	}
	free, size := int64(0), d.size(outboxName)
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			for id := 2; ; id++ {
				page, err := tx.Page(id)
				if err != nil || page == nil {
					return err
				}
				if page.Type == "free" {
					free += int64(db.Info().PageSize)
				}
			}
		})
	})
	if err != nil || free < 2*reserveMax || free < size/2 {
		return errors.Join(err, closeDB(db))
	}
	temp := outboxName + tempSuffix
	_ = d.root.Remove(temp)
	to, err := d.openDB(temp, d.reservingOptions(reserve))
	if err != nil {
		return errors.Join(err, closeDB(db))
	}
	to.AllocSize = allocSize
	err = guard(func() error {
		if err := bolt.Compact(to, db, 0); err != nil {
			return err
		}
		return addReserve(to, reserve)
	})
	if err = errors.Join(err, closeDB(to), closeDB(db)); err == nil {
		err = d.rename(temp, outboxName)
	}
	if err != nil {
		_ = d.root.Remove(temp)
	}
	return err
}

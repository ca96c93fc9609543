package forwarder

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"sluice/aggregator"
	"sluice/spool"
)

// retryTable names the dead letters that are to be sent once more, by ID. It is
// a table, and not a call into a running forwarder, because whoever asks may have
// nothing but the spool of a stopped agent.
const retryTable = "retry"

// lettersAtOnce bounds what one transaction does to dead letters.
const lettersAtOnce = 500

// Retry has dead letters of an outbox sent once more: those with the IDs, or all
// there are if ids is nil. It answers how many. The forwarder takes them up when
// it next has room, also that of a later process, so their batches may be refused
// again; until then they stay what they are. An ID that is not there is an
// error, and then nothing has happened.
func Retry(o *spool.Outbox, ids []uint64) (n int, err error) {
	return eachLetter(o, ids, func(tx *spool.Tx, d spool.DeadLetter) {
		tx.Put(retryTable, strconv.FormatUint(d.ID, 10), []byte{1})
	})
}

// Drop gives dead letters up: those with the IDs, or all there are if ids is nil.
// Their samples are dropped as "discarded". It answers how many.
func Drop(o *spool.Outbox, ids []uint64) (n int, err error) {
	return eachLetter(o, ids, func(tx *spool.Tx, d spool.DeadLetter) {
		tx.Exhume(d.ID)
		var samples [spool.Kinds]uint64
		samples[d.Kind] = d.Samples
		tx.Dropped("discarded", samples)
		if o.Get(retryTable, strconv.FormatUint(d.ID, 10)) != nil {
			tx.Delete(retryTable, strconv.FormatUint(d.ID, 10))
		}
	})
}

func eachLetter(o *spool.Outbox, ids []uint64, do func(*spool.Tx, spool.DeadLetter)) (n int, err error) {
	letters := o.Dead()
	if ids != nil {
		for _, id := range ids {
			if !slices.ContainsFunc(letters, func(d spool.DeadLetter) bool { return d.ID == id }) {
				return 0, fmt.Errorf("dead letter %d of %s: %w", id, o.Name(), spool.ErrGone)
			}
		}
		letters = slices.DeleteFunc(letters, func(d spool.DeadLetter) bool { return !slices.Contains(ids, d.ID) })
	}
	for some := range slices.Chunk(letters, lettersAtOnce) {
		err := o.Update(func(tx *spool.Tx) error {
			for _, d := range some {
				do(tx, d)
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += len(some)
	}
	return n, nil
}

// revive seals dead letters that are to be sent once more, as many as one
// request takes. They travel apart: what was refused before may be again. It
// answers whether there were any.
func (f *Forwarder) revive(now time.Time) (bool, error) {
	var ids []uint64
	for key := range f.outbox.Table(retryTable) {
		if id, err := strconv.ParseUint(key, 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return false, nil
	}
	slices.Sort(ids)
	letters := f.outbox.Dead()
	sheet := f.newSheet()
	sheet.suspect = func([]byte) bool { return true }
	gone, taken := ids, []uint64(nil)
	for _, d := range letters {
		if _, wanted := slices.BinarySearch(ids, d.ID); !wanted {
			continue
		}
		if len(taken) == f.room() {
			break
		}
		sheet.begin(aggregator.Kind(d.Kind), d.Samples)
		sheet.Item(d.Lane, func(dst []byte) []byte { return append(dst, d.Item...) })
		taken = append(taken, d.ID)
	}
	if len(taken) == f.room() {
		gone = taken // the others have their turn
	}
	return true, f.store(sheet, now, func(tx *spool.Tx) error {
		for _, id := range taken {
			tx.Exhume(id)
		}
		for _, id := range gone {
			tx.Delete(retryTable, strconv.FormatUint(id, 10))
		}
		return nil
	})
}

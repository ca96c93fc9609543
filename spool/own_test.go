package spool

import (
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// TestLargeRecordsApart: large records do not share a page, which would be written
// anew with each, and large and small ones stand side by side in a segment and are
// found again.
func TestLargeRecordsApart(t *testing.T) {
	opt := Options{Dir: filepath.Join(t.TempDir(), "spool")}
	s := attach(t, opt, "flux")
	sizes := []int{80_000, 100, ownBucket - 400, ownBucket, 20_000, 3000}
	size := func(id uint64) int { return sizes[id%uint64(len(sizes))] }
	for id := uint64(1); id <= 60; id++ {
		mustAppend(t, s, id, t0, content(id, 1, size(id)))
	}
	err := s.tail.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
			if len(v) >= ownBucket {
				t.Errorf("record %x of %d bytes shares its page", k, len(v))
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for id := uint64(1); id <= 60; id++ {
			if got, err := s.Read(id); err != nil || !sameParts(got, content(id, 1, size(id))) {
				t.Errorf("Read(%d) = %d parts, %v", id, len(got), err)
			}
		}
		if st := s.Stats(); st.Records != 60 || st.DamagedRecords != 0 {
			t.Errorf("Stats() = %+v", st)
		}
		s.Close()
		if err := CheckFile(filepath.Join(opt.Dir, segmentName(1))); err != nil {
			t.Error(err)
		}
		s = attach(t, opt, "flux")
	}
}

package spool

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

// CheckFile verifies a file of the spool, by its name a segment (.seg) or the
// outbox (.db): the structure of the bbolt file, and the checksum of every
// record. It opens the file for reading only, does not use bbolt, and neither
// panics, faults nor hangs on any content. The error wraps ErrDamaged, also for
// a page that the disk cannot read; when the file cannot be opened it does not.
func CheckFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	verify := checkOutboxValue
	if strings.HasSuffix(path, segmentSuffix) {
		verify = checkSegmentValue
	}
	if err := walkPages(f, info.Size(), verify); err != nil {
		return fmt.Errorf("check %s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

func checkSegmentValue(path [][]byte, key, value []byte) error {
	if len(path) == 0 || len(path) > 2 || string(path[0]) != string(recordsBucket) || len(path) == 2 && !bytes.HasPrefix(key, path[1]) {
		return fmt.Errorf("key %x stands outside the records", key)
	}
	_, _, err := decodeFrame(key, value)
	return err
}

func checkOutboxValue(path [][]byte, key, value []byte) error {
	if _, err := opened(key, value); err != nil {
		return fmt.Errorf("key %q in %q: %w", key, path, err)
	}
	return nil
}

// guard runs fn so that neither a panic in bbolt nor a fault in its memory map
// (a file cut off while it is open) ends the process.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

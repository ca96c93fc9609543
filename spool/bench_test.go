package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func smallFile(t testing.TB) []byte {
	opt := Options{Dir: filepath.Join(t.TempDir(), "spool")}
	s := attach(t, opt, "flux")
	for id := uint64(1); id <= 30; id++ {
		mustAppend(t, s, id, t0, content(id, 1, 2000))
	}
	s.Close()
	b, err := os.ReadFile(filepath.Join(opt.Dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := attach(b, Options{Dir: filepath.Join(b.TempDir(), "spool")})
			parts := content(1, 1, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if seq, err := s.Append(t0, Meta{Start: t0}, slices.Values(parts)); err != nil || seq == 0 {
					b.Fatal(seq, err, s.Stats().Detail)
				}
			}
		})
	}
}

// BenchmarkBatch is what one request costs: three transactions.
func BenchmarkBatch(b *testing.B) {
	s := attach(b, Options{Dir: filepath.Join(b.TempDir(), "spool")}, "flux")
	o := s.Outbox("flux")
	b.ReportAllocs()
	for b.Loop() {
		batch := batchOf(0, 498)
		for _, fn := range []func(*Tx){
			func(tx *Tx) { tx.Seal(&batch) },
			func(tx *Tx) { tx.State(batch.Seq, Sending, t0, t0, 1) },
			func(tx *Tx) { tx.Settle(batch.Seq, Settlement{To: Delivered}) },
		} {
			if err := o.Update(func(tx *Tx) error { fn(tx); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAttach(b *testing.B) {
	opt := Options{Dir: filepath.Join(b.TempDir(), "spool")}
	s := attach(b, opt, "flux")
	for id := uint64(1); id <= 2000; id++ {
		mustAppend(b, s, id, t0.Add(time.Duration(id)*10*time.Second), content(id, 1, 20_000))
	}
	s.Close()
	for name, clean := range map[string]bool{"clean": true, "unclean": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !clean {
					os.Remove(filepath.Join(opt.Dir, trustedName))
				}
				s := New(opt)
				s.Outbox("flux")
				if err := s.Attach(b.Context(), t0); err != nil {
					b.Fatal(err)
				}
				if n := s.Stats().Records; n != 2000 {
					b.Fatal(n)
				}
				s.Close()
			}
		})
	}
}

// BenchmarkClaim claims a record when 1,000 are held already, which nobody takes.
func BenchmarkClaim(b *testing.B) {
	s := New(Options{Dir: b.TempDir()})
	s.Outbox("flux")
	id := uint64(0)
	one := func() {
		id++
		now := t0.Add(time.Duration(id) * 10 * time.Second)
		m := Meta{ID: id, Start: now, Width: time.Second, Samples: [Kinds]uint64{1: 1}}
		if _, err := s.Append(now, m, slices.Values(content(id, 1, 300))); err != nil {
			b.Fatal(err)
		}
		s.Claim(now)
	}
	for range 1000 {
		one()
	}
	for b.Loop() {
		one()
	}
}

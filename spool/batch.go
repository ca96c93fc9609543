package spool

import (
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Lane is a queue of its own inside an outbox: a batch in doubt or refused in
// one lane does not stop the others. The numbers are part of the format.
type Lane uint8

const (
	Metrics Lane = 1
	Sets    Lane = 2
	Events  Lane = 3
	Singles Lane = 4 // batches of one item, for single-item endpoints
)

// State is where a batch is on its way. The numbers are part of the format.
//
//	            ┌──────────── definitely not delivered ───────────┐
//	            ▼                                                 │
//	Seal ──▶ Queued ── before the request is written ──▶ Sending ─┤
//	            ▲                                         │       └─▶ Settle
//	            └──── verified as absent ── InDoubt ◀─────┘
//	                                           └────────────────────▶ Settle
type State uint8

const (
	Queued  State = 1 // certainly not with the upstream
	Sending State = 2 // a request is being written; found after a restart it is in doubt
	InDoubt State = 3 // may or may not be with the upstream
)

// Item says where one JSON item stands in Body, and which samples ride on it:
// every sample rides on exactly one item.
type Item struct {
	Off, Len uint32
	Kind     uint8 // index below Kinds; 0 is the agent's own, such as a marker
	Samples  uint64
}

// Batch is what one request carries. Once sealed, Items and Body never change.
type Batch struct {
	Seq      uint64 // assigned by Tx.Seal, from 1, never reused in a generation
	Lane     Lane
	State    State
	Due      time.Time // not to be sent earlier
	Attempts uint32
	Started  time.Time // of the last attempt
	Sealed   time.Time // set by the caller
	Windows  Range     // sequences of the records it was made from

	// The target it was rendered for.
	Type, Dialect, URL string

	Items []Item
	Body  []byte
}

// head is a batch without what is large: kept in memory and written anew with
// every change of state.
type head struct {
	Batch           // Items and Body are nil
	amounts Amounts // of Items
	raw     uint32  // length of items and body before compression
	stored  uint32  // and after
}

// The bounds of a batch refuse nonsense before memory is asked for it; real
// ones are 500 items and 100 kB.
const (
	itemsMax = 1 << 16
	rawMax   = 16 << 20
)

const itemBytes = 17

// checkBatch says why b cannot be sealed, or nil.
func checkBatch(b *Batch) error {
	if b.Lane < Metrics || b.Lane > Singles {
		return fmt.Errorf("batch has lane %d, want %d to %d", b.Lane, Metrics, Singles)
	}
	if n := len(b.Items); n > itemsMax {
		return fmt.Errorf("batch has %d items, want at most %d", n, itemsMax)
	}
	if n := len(b.Body) + itemBytes*len(b.Items); n > rawMax {
		return fmt.Errorf("batch is %d bytes with its item table, want at most %d", n, rawMax)
	}
	for i, it := range b.Items {
		if it.Kind >= Kinds || uint64(it.Off)+uint64(it.Len) > uint64(len(b.Body)) {
			return fmt.Errorf("batch item %d: kind %d, bytes %d+%d of %d", i, it.Kind, it.Off, it.Len, len(b.Body))
		}
	}
	return nil
}

func seqKey(seq uint64) []byte { return be.AppendUint64(nil, seq) }

const batchVersion = 1

func encodeHead(h *head) []byte {
	v := []byte{batchVersion, byte(h.Lane), byte(h.Batch.State), 0}
	v = be.AppendUint32(v, h.Attempts)
	v = appendTime(appendTime(appendTime(v, h.Due), h.Started), h.Sealed)
	v = appendRange(v, h.Windows)
	v = be.AppendUint32(be.AppendUint32(v, h.raw), h.stored)
	v = appendAmounts(v, &h.amounts)
	v = appendText(appendText(appendText(v, h.Type), h.Dialect), h.URL)
	return closed(seqKey(h.Seq), v)
}

func decodeHeadRecord(seq uint64, v []byte) (h head, err error) {
	v, err = opened(seqKey(seq), v)
	if err != nil {
		return h, err
	}
	r := reader{b: v}
	if n := r.u8(); n != batchVersion {
		return h, fmt.Errorf("batch has version %d, this program reads %d", n, batchVersion)
	}
	h.Seq = seq
	h.Lane, h.Batch.State = Lane(r.u8()), State(r.u8())
	r.u8()
	h.Attempts = r.u32()
	h.Due, h.Started, h.Sealed = r.time(), r.time(), r.time()
	h.Windows = r.span()
	h.raw, h.stored = r.u32(), r.u32()
	h.amounts = r.amounts()
	h.Type, h.Dialect, h.URL = string(r.text()), string(r.text()), string(r.text())
	return h, r.err()
}

// One encoder and one decoder serve the process: outboxes are written by one
// transaction at a time. Fastest level and a small window, because a batch is
// some 100 kB of repetitive JSON and shrinks to a twentieth all the same.
var (
	zstdWriter, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(128<<10))
	zstdReader, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(rawMax))
)

// encodeContent gives the record of items and body, and its length before
// compression.
func encodeContent(seq uint64, b *Batch) (v []byte, raw int) {
	plain := make([]byte, 0, len(b.Items)*itemBytes+len(b.Body))
	for _, it := range b.Items {
		plain = be.AppendUint32(be.AppendUint32(plain, it.Off), it.Len)
		plain = be.AppendUint64(append(plain, it.Kind), it.Samples)
	}
	plain = append(plain, b.Body...)
	v = []byte{batchVersion, 0, 0, 0}
	v = be.AppendUint32(v, uint32(len(b.Items)))
	v = zstdWriter.EncodeAll(plain, v)
	return closed(seqKey(seq), v), len(plain)
}

// decodeContent fills in items and body, which belong to the caller.
func decodeContent(seq uint64, v []byte, b *Batch) error {
	v, err := opened(seqKey(seq), v)
	if err != nil {
		return err
	}
	r := reader{b: v}
	version := r.u8()
	r.take(3)
	n := r.u32()
	if r.bad || version != batchVersion || n > itemsMax {
		return fmt.Errorf("batch content has version %d and %d items", version, n)
	}
	plain, err := zstdReader.DecodeAll(r.b, nil)
	if err != nil {
		return fmt.Errorf("decompress batch content: %w", err)
	}
	r = reader{b: plain}
	b.Items = make([]Item, 0, min(int(n), len(plain)/itemBytes))
	for range n {
		b.Items = append(b.Items, Item{Off: r.u32(), Len: r.u32(), Kind: r.u8(), Samples: r.u64()})
		if r.bad {
			return errShort
		}
	}
	b.Body = r.b
	return checkBatch(b)
}

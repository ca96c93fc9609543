package spool

import (
	"bytes"
	"testing"
)

// FuzzFrame: any bytes are refused or are a frame that encodes to themselves.
func FuzzFrame(f *testing.F) {
	meta := appendMeta(nil, &Meta{ID: 1, Start: t0}, []cursor{{"flux", 7, Pending{{1, 3}, {5, Open}}}})
	frames := encodeFrames(Range{5, 6}, meta, [][]byte{[]byte("one"), []byte("two")})
	f.Add(partKey(5, 0), frames[0])
	f.Add(partKey(5, 1), frames[1])
	f.Fuzz(func(t *testing.T, key, v []byte) {
		// Checksums are made right, so that what lies behind them is reached.
		if len(v) >= frameHead+frameTail {
			v = bytes.Clone(v)
			if n := int(be.Uint32(v[32:])); n >= 0 && n <= len(v)-frameHead-frameTail {
				be.PutUint32(v[28:], checksum(v[frameHead:frameHead+n]))
				be.PutUint32(v[40:], checksum(append(bytes.Clone(v[:40]), v[frameHead:frameHead+n]...)))
			}
			be.PutUint32(v[len(v)-4:], checksum(v[:len(v)-4]))
		}
		fr, body, err := decodeFrame(key, v)
		if err != nil {
			return
		}
		if len(body) != fr.body || !bytes.Equal(key, partKey(fr.seqs.From, fr.part)) {
			t.Fatalf("frame %+v with a body of %d", fr, len(body))
		}
		if fr.part != 0 {
			return
		}
		m, cursors, err := decodeMeta(fr.meta)
		if err != nil {
			return
		}
		m2, _, err := decodeMeta(appendMeta(nil, &m, cursors))
		if err != nil || m2 != m {
			t.Fatalf("meta %+v comes back as %+v, %v", m, m2, err)
		}
	})
}

// FuzzBatch: no bytes make the decoders of outbox.db panic, or take more
// memory than a batch may have.
func FuzzBatch(f *testing.F) {
	b := batchOf(9, 3)
	content, raw := encodeContent(3, &b)
	h := head{Batch: b, raw: uint32(raw), stored: uint32(len(content))}
	h.Seq = 3
	st := newState(Pending{{1, 3}, {5, Open}}, 5)
	st.group = &Group{Seqs: Range{1, 3}, After: []byte("x")}
	st.drop("x", Amounts{1: {1, 2}})
	st.requests = append(st.requests, t0)
	for i, v := range [][]byte{content, encodeHead(&h), st.encode(), st.encodeLedger(), st.encodeRequests(), encodeLetter(&DeadLetter{ID: 3, Reason: "r"})} {
		f.Add(uint8(i), v[:len(v)-4])
	}
	f.Fuzz(func(t *testing.T, which uint8, v []byte) {
		key := seqKey(3)
		switch which % 6 {
		case 0:
			b := Batch{Lane: Metrics}
			if decodeContent(3, closed(key, v), &b) == nil {
				if err := checkBatch(&Batch{Lane: Metrics, Items: b.Items, Body: b.Body}); err != nil {
					t.Fatal(err)
				}
			}
		case 1:
			if h, err := decodeHeadRecord(3, closed(key, v)); err == nil {
				if h2, err := decodeHeadRecord(3, encodeHead(&h)); err != nil || h2.amounts != h.amounts || h2.URL != h.URL {
					t.Fatalf("head %+v comes back as %+v, %v", h, h2, err)
				}
			}
		case 2:
			decodeState(closed([]byte(stateKey), v), st.encodeLedger(), nil)
		case 3:
			decodeState(st.encode(), closed([]byte(ledgerKey), v), nil)
		case 4:
			decodeState(st.encode(), st.encodeLedger(), closed([]byte(requestsKey), v))
		case 5:
			if d, err := decodeLetter(key, closed(key, v)); err == nil {
				if d2, err := decodeLetter(key, encodeLetter(&d)); err != nil || d2.Reason != d.Reason || !bytes.Equal(d2.Item, d.Item) {
					t.Fatalf("letter %+v comes back as %+v, %v", d, d2, err)
				}
			}
		}
	})
}

// FuzzPages: no bytes make the walk over a bbolt file panic, hang or take more
// memory than the file is long.
func FuzzPages(f *testing.F) {
	base := smallFile(f)
	f.Add(uint32(4096*3+10), []byte{0xff, 0xff})
	f.Add(uint32(0), []byte("not a database"))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(base)
		walkPages(bytes.NewReader(patch), int64(len(patch)), func([][]byte, []byte, []byte) error { return nil })
		copy(b[int(at)%len(b):], patch)
		seen := 0
		walkPages(bytes.NewReader(b), int64(len(b)), func(_ [][]byte, k, v []byte) error { seen += len(k) + len(v); return nil })
		if seen > 2*len(b) {
			t.Fatalf("%d bytes seen in a file of %d", seen, len(b))
		}
	})
}

package spool

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the reference: what the spool should hold, in plain maps. Crashes
// copy the folder under a running spool and go on with the copy, so that every
// promise is checked against what is on disk.
type model struct {
	rt   *rapid.T
	base string
	n    int // folders used
	s    *Spool
	opt  Options
	now  time.Time

	records map[uint64]uint64 // sequence to id, of what must be readable
	next    uint64
	ids     uint64
	holes   uint64 // records that went before older ones
	up      map[string]*modelOutbox
}

type modelOutbox struct {
	pending map[uint64]uint64 // sequence to samples
	batches map[uint64]modelBatch
	columns map[string]uint64 // samples
	tables  map[string]string
	spent   []time.Time
}

type modelBatch struct {
	state   State
	samples uint64
	body    string
}

func (m *model) attach() {
	m.s = New(m.opt)
	for name := range m.up {
		m.s.Outbox(name)
	}
	if err := m.s.Attach(context.Background(), m.now); err != nil {
		m.rt.Fatalf("Attach: %v", err)
	}
}

func (m *model) anyUpstream() (string, *modelOutbox) {
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.up))).Draw(m.rt, "upstream")
	return name, m.up[name]
}

func (m *model) Append(rt *rapid.T) {
	m.ids++
	m.now = m.now.Add(10 * time.Second)
	parts := content(m.ids, rapid.IntRange(1, 4).Draw(rt, "parts"), rapid.SampledFrom([]int{0, 1, 900, 70_000}).Draw(rt, "size"))
	seq, err := m.s.Append(m.now, Meta{ID: m.ids, Start: m.now, Width: 10 * time.Second, Samples: [Kinds]uint64{1: m.ids}}, slices.Values(parts))
	if err != nil || seq != m.next {
		rt.Fatalf("Append = %d, %v, want %d", seq, err, m.next)
	}
	m.records[seq] = m.ids
	for _, u := range m.up {
		u.pending[seq] = m.ids
	}
	m.next++
	m.trim()
}

// trim follows evictions: what was still pending of them is spool_full.
func (m *model) trim() {
	have := map[uint64]bool{}
	for _, e := range m.s.Entries(Range{0, Open}) {
		have[e.Seqs.From] = true
	}
	for seq := range m.records {
		if have[seq] {
			continue
		}
		delete(m.records, seq)
		for older := range have {
			if older < seq {
				m.holes++
				break
			}
		}
		for _, u := range m.up {
			u.columns["spool_full"] += u.pending[seq]
			delete(u.pending, seq)
		}
	}
}

func (m *model) Seal(rt *rapid.T) {
	name, u := m.anyUpstream()
	o := m.s.Outbox(name)
	seqs := slices.Sorted(maps.Keys(u.pending))
	if len(seqs) == 0 {
		return
	}
	i := rapid.IntRange(0, len(seqs)-1).Draw(rt, "from")
	j := rapid.IntRange(i, min(i+3, len(seqs)-1)).Draw(rt, "to")
	r := Range{seqs[i], seqs[j] + 1}
	var sum uint64
	for _, seq := range seqs[i : j+1] {
		sum += u.pending[seq]
	}
	fail := rapid.IntRange(0, 9).Draw(rt, "fail") == 0
	filter := rapid.Uint64Range(0, sum).Draw(rt, "filtered")
	b := batchOf(sum-filter, rapid.IntRange(1, 5).Draw(rt, "items"))
	ok := false
	err := o.Update(func(tx *Tx) error {
		var p Pending
		if p, ok = tx.Pending().Without(r); !ok {
			return fmt.Errorf("too many holes")
		}
		tx.Progress(p, nil)
		tx.Filtered([Kinds]uint64{1: filter})
		tx.Seal(&b)
		if fail {
			return fmt.Errorf("changed its mind")
		}
		return nil
	})
	if (err != nil) != (fail || !ok) {
		rt.Fatalf("Update = %v", err)
	}
	if err != nil {
		return
	}
	for _, seq := range seqs[i : j+1] {
		delete(u.pending, seq)
	}
	u.columns["filtered"] += filter
	u.batches[b.Seq] = modelBatch{Queued, sum - filter, string(b.Body)}
}

func (m *model) anyBatch(rt *rapid.T) (*Outbox, *modelOutbox, uint64) {
	name, u := m.anyUpstream()
	if len(u.batches) == 0 {
		return nil, nil, 0
	}
	return m.s.Outbox(name), u, rapid.SampledFrom(slices.Sorted(maps.Keys(u.batches))).Draw(rt, "batch")
}

func (m *model) State(rt *rapid.T) {
	o, u, seq := m.anyBatch(rt)
	if o == nil {
		return
	}
	st := State(rapid.IntRange(1, 3).Draw(rt, "state"))
	if err := o.Update(func(tx *Tx) error { tx.State(seq, st, m.now, m.now, 7); return nil }); err != nil {
		rt.Fatal(err)
	}
	b := u.batches[seq]
	b.state = st
	u.batches[seq] = b
}

func (m *model) Settle(rt *rapid.T) {
	o, u, seq := m.anyBatch(rt)
	if o == nil {
		return
	}
	to := Column(rapid.IntRange(1, 3).Draw(rt, "column"))
	if err := o.Update(func(tx *Tx) error {
		tx.Settle(seq, Settlement{To: to, Reason: "unverified", At: m.now})
		return nil
	}); err != nil {
		rt.Fatal(err)
	}
	u.columns[[]string{1: "delivered", 2: "unverified", 3: "dead"}[to]] += u.batches[seq].samples
	delete(u.batches, seq)
}

func (m *model) Table(rt *rapid.T) {
	name, u := m.anyUpstream()
	key, value := rapid.SampledFrom([]string{"a", "b", ""}).Draw(rt, "key"), rapid.SampledFrom([]string{"", "1", "2"}).Draw(rt, "value")
	drop := rapid.Bool().Draw(rt, "delete")
	times := []time.Time{m.now, m.now.Add(time.Second)}
	if err := m.s.Outbox(name).Update(func(tx *Tx) error {
		tx.Spent(times)
		if drop {
			tx.Delete("t", key)
			return nil
		}
		tx.Put("t", key, []byte(value))
		return nil
	}); err != nil {
		rt.Fatal(err)
	}
	u.spent = times
	if u.tables[key] = value; drop {
		delete(u.tables, key)
	}
}

// Crash goes on with what is on disk at this moment. The old spool is closed
// afterwards, only so that its files do not stay open.
func (m *model) Crash(rt *rapid.T) {
	m.n++
	dir := filepath.Join(m.base, fmt.Sprint(m.n))
	if err := os.CopyFS(dir, os.DirFS(m.opt.Dir)); err != nil {
		rt.Fatal(err)
	}
	if err := m.s.Close(); err != nil {
		rt.Fatal(err)
	}
	os.RemoveAll(m.opt.Dir)
	m.opt.Dir = dir
	m.attach()
	// A segment that nobody is owed goes before an older one, where a record may
	// have begun whose end it had.
	if st := m.s.Stats(); st.Quarantined != 0 || st.DamagedRecords > m.holes {
		rt.Fatalf("after a crash: %+v", st)
	}
}

func (m *model) Reopen(rt *rapid.T) {
	if err := m.s.Close(); err != nil {
		rt.Fatal(err)
	}
	m.attach()
}

func (m *model) Maintain(rt *rapid.T) {
	if err := m.s.Maintain(m.now); err != nil {
		rt.Fatal(err)
	}
	if n := m.s.Stats().Bytes; n > m.opt.MaxBytes {
		rt.Fatalf("%d bytes after maintenance, over %d", n, m.opt.MaxBytes)
	}
	m.trim()
}

// Check compares everything after every step.
func (m *model) Check(rt *rapid.T) {
	if got := m.s.Next(); got != m.next {
		rt.Fatalf("Next() = %d, want %d", got, m.next)
	}
	entries := m.s.Entries(Range{0, Open})
	if len(entries) != len(m.records) {
		rt.Fatalf("%d entries, want %d", len(entries), len(m.records))
	}
	for _, e := range entries {
		if e.ID != m.records[e.Seqs.From] {
			rt.Fatalf("record %d has id %d, want %d", e.Seqs.From, e.ID, m.records[e.Seqs.From])
		}
	}
	if len(entries) > 0 {
		e := entries[rapid.IntRange(0, len(entries)-1).Draw(rt, "read")]
		parts, err := m.s.Read(e.Seqs.From)
		size := 0
		if err == nil {
			size = len(parts[0])
		}
		if err != nil || !sameParts(parts, content(e.ID, len(parts), size)) || uint32(len(parts)*size) != e.Bytes {
			rt.Fatalf("Read(%d): %v", e.Seqs.From, err)
		}
	}
	for name, u := range m.up {
		o := m.s.Outbox(name)
		for seq := uint64(1); seq < m.next; seq++ {
			if _, want := u.pending[seq]; m.records[seq] != 0 && o.Pending().Contains(seq) != want {
				rt.Fatalf("%s: pending of %d is not %v in %v", name, seq, want, o.Pending())
			}
		}
		list := o.Batches()
		if len(list) != len(u.batches) {
			rt.Fatalf("%s: %d batches, want %d", name, len(list), len(u.batches))
		}
		for _, b := range list {
			full, err := o.Load(b.Seq)
			if want := u.batches[b.Seq]; err != nil || b.State != want.state || string(full.Body) != want.body {
				rt.Fatalf("%s: batch %d is %+v, %v, want %+v", name, b.Seq, full, err, want)
			}
		}
		table := map[string]string{}
		for k, v := range o.Table("t") {
			table[k] = string(v)
		}
		if !maps.Equal(table, u.tables) || !slices.EqualFunc(o.Requests(), u.spent, time.Time.Equal) {
			rt.Fatalf("%s: table %v, want %v; requests %v, want %v", name, table, u.tables, o.Requests(), u.spent)
		}
		l := o.Ledger()
		got := map[string]uint64{"delivered": l.Delivered[1].Samples, "dead": l.Dead[1].Samples, "filtered": l.Filtered[1].Samples}
		for reason, a := range l.Dropped {
			got[reason] = a[1].Samples
		}
		for column, n := range u.columns {
			if got[column] != n {
				rt.Fatalf("%s: column %s = %d, want %d", name, column, got[column], n)
			}
		}
		if l.ConservationError != 0 {
			rt.Fatalf("%s: conservation error %d in %+v", name, l.ConservationError, l)
		}
	}
	// Transactions of the outbox make room for themselves only with the next
	// append or maintenance.
	if st := m.s.Stats(); st.Bytes > m.opt.MaxBytes+256<<10 || st.State != "ok" {
		rt.Fatalf("stats %+v over %d bytes or not ok", st, m.opt.MaxBytes)
	}
}

// TestModel runs random steps, crashes among them, against the model. rapid
// prints the seed of a failure.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base, err := os.MkdirTemp(t.TempDir(), "model")
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{
			rt: rt, base: base, now: t0, next: 1, records: map[uint64]uint64{}, up: map[string]*modelOutbox{},
			opt: Options{Dir: filepath.Join(base, "0"), SegmentBytes: 256 << 10, MaxBytes: 3 << 20, SegmentAge: time.Minute, transaction: 100_000},
		}
		for _, name := range []string{"flux", "pulse"} {
			m.up[name] = &modelOutbox{map[uint64]uint64{}, map[uint64]modelBatch{}, map[string]uint64{}, map[string]string{}, nil}
		}
		m.attach()
		defer func() { m.s.Close(); os.RemoveAll(base) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "append2": m.Append, "seal": m.Seal, "state": m.State, "settle": m.Settle,
			"table": m.Table, "crash": m.Crash, "reopen": m.Reopen, "maintain": m.Maintain, "": m.Check,
		})
	})
}

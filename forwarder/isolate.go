package forwarder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"sluice/aggregator"
	"sluice/spool"
)

// A trial finds the items at fault in a batch that the upstream refused. What is
// left of the batch is in two batches: test, which is sent next, and wait, which
// is not sent yet and consists of parts, the last that was split off first. If
// sibling is set, test and the first part hold a fault together: it is in that
// part if test is delivered.
//
//	test is refused, several items: its unusual ones, or its first half, are the
//	                                next test; the others are a part of wait
//	test is refused, one item:      a dead letter; the next test is all of wait, or,
//	                                after the second, its first part
//	test is delivered:              the next test is half of its sibling, or as above
//
// One item of 498 at fault takes at most 16 requests: the first, two for unusual
// items that were not it, nine for the halves, two for the item, of which one shows
// that others are taken, a question of that kind, and one for all the others.
// Each step is one transaction: a crash finds the one before it or the one after.
type trial struct {
	root    uint64   // sequence of the batch that was refused; trials are held in its order
	test    uint64   // sequence
	wait    uint64   // the same; 0 if there is none
	parts   []uint32 // items of each; their sum is what wait carries
	sibling bool
	spent   uint32 // requests
	dead    uint32 // times that something became dead letters
	convict bool   // all of test are of series that were at fault before
}

const (
	// trialTable holds the trials, by root.
	trialTable = "trials"
	// convictTable names series of which an item became a dead letter. What is
	// rendered of them travels apart, so that it does not cost the others a trial
	// each time; once a batch of them is taken, they are like all others again.
	convictTable = "convicts"
	maxConvicts  = 1000

	// isolationShare: every fifth request at most is one for a trial, as the time
	// between them.
	isolationShare = 5
	// After roughTrial requests up to roughItems that are refused together are dead
	// together, and after maxTrial whatever is refused: a batch of which many items
	// are at fault would take hundreds of requests, for hours.
	roughTrial = 24
	roughItems = 16
	maxTrial   = 96
	// maxIsolation is how many bytes of batches trials may hold, half of what an
	// outbox may: so the others have room. A batch that is refused beyond is dead
	// as a whole.
	maxIsolation = outboxMax / 2
)

func trialKey(root uint64) string { return strconv.FormatUint(root, 10) }

func (t *trial) encode() []byte {
	v := binary.BigEndian.AppendUint64(nil, t.test)
	v = binary.BigEndian.AppendUint64(v, t.wait)
	v = binary.BigEndian.AppendUint32(v, t.spent)
	v = binary.BigEndian.AppendUint32(v, t.dead)
	flags := byte(0)
	if t.convict {
		flags |= 1
	}
	if t.sibling {
		flags |= 2
	}
	v = append(v, flags)
	for _, n := range t.parts {
		v = binary.BigEndian.AppendUint32(v, n)
	}
	return v
}

func decodeTrial(key string, v []byte) (t trial, ok bool) {
	root, err := strconv.ParseUint(key, 10, 64)
	if err != nil || len(v) < 25 {
		return t, false
	}
	t = trial{
		root: root, test: binary.BigEndian.Uint64(v), wait: binary.BigEndian.Uint64(v[8:]),
		spent: binary.BigEndian.Uint32(v[16:]), dead: binary.BigEndian.Uint32(v[20:]),
		convict: v[24]&1 != 0, sibling: v[24]&2 != 0,
	}
	for v = v[25:]; len(v) >= 4; v = v[4:] {
		t.parts = append(t.parts, binary.BigEndian.Uint32(v))
	}
	return t, true
}

// dies tells whether a test that was refused is dead as it is.
func (t *trial) dies(b *spool.Batch) bool {
	switch n := carried(b); {
	case n == 1, t.spent >= maxTrial, t.convict && oneSeries(b):
		return true
	default:
		return t.spent >= roughTrial && n <= roughItems
	}
}

// reloadTrials is called when an update is on disk.
func (f *Forwarder) reloadTrials() {
	if f.tidyTrials {
		f.tidyTrials = false
		f.loadTrials()
	}
}

// loadTrials takes up the trials and the convicts as they are in the outbox.
func (f *Forwarder) loadTrials() {
	f.trials, f.convicts = nil, make(map[uint64]bool)
	for key, v := range f.outbox.Table(trialTable) {
		if t, ok := decodeTrial(key, v); ok {
			f.trials = append(f.trials, t)
		}
	}
	slices.SortFunc(f.trials, func(a, b trial) int {
		switch {
		case a.convict != b.convict && a.convict: // new faults first: others wait with them
			return 1
		case a.convict != b.convict:
			return -1
		case a.root < b.root:
			return -1
		}
		return 1
	})
	f.mu.Lock()
	f.stats.Isolating = len(f.trials)
	f.mu.Unlock()
	for key := range f.outbox.Table(convictTable) {
		if series, err := strconv.ParseUint(key, 16, 64); err == nil {
			f.convicts[series] = true
		}
	}
}

// tried tells whether a batch belongs to a trial.
func (f *Forwarder) tried(seq uint64) bool {
	return slices.ContainsFunc(f.trials, func(t trial) bool { return t.test == seq || t.wait == seq })
}

func (f *Forwarder) trialOf(test uint64) (trial, bool) {
	i := slices.IndexFunc(f.trials, func(t trial) bool { return t.test == test })
	if i < 0 {
		return trial{}, false
	}
	return f.trials[i], true
}

// hearing returns the batch that the next request for a trial carries, if its
// time has come, and else when that is; the zero time if there is none.
func (f *Forwarder) hearing(now time.Time) (b *spool.Batch, at time.Time) {
	if len(f.trials) == 0 {
		return nil, at
	}
	open := now
	if !f.isolated.IsZero() {
		open = f.isolated.Add(isolationShare * window / time.Duration(f.limit()))
	}
	batches := f.outbox.Batches()
	for _, t := range f.trials {
		i := slices.IndexFunc(batches, func(b spool.Batch) bool { return b.Seq == t.test })
		if i < 0 || batches[i].State != spool.Queued || f.condemned(t.test) {
			continue
		}
		due := batches[i].Due
		if due.Before(open) {
			due = open
		}
		if !due.After(now) {
			return &batches[i], now
		}
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return nil, at
}

// missing goes on with a trial whose test could not be read.
func (f *Forwarder) missing(test *spool.Batch, now time.Time) time.Duration {
	if slices.ContainsFunc(f.outbox.Batches(), func(b spool.Batch) bool { return b.Seq == test.Seq }) {
		return time.Second // for now
	}
	err := f.outbox.Update(func(tx *spool.Tx) error {
		return f.lost(tx, test, now)
	})
	if err != nil {
		f.ready = false
		return f.trouble("go on without a batch that was damaged", err)
	}
	f.reloadTrials()
	return 0
}

// refused acts on a batch that the upstream will never take as it is. Nothing
// becomes a dead letter before something else was delivered since: an upstream
// that refuses everything wants none of ours, see fault.
func (f *Forwarder) refused(tx *spool.Tx, b *spool.Batch, v Verdict, now time.Time) error {
	t, known := f.trialOf(b.Seq)
	if !known {
		t.root = b.Seq
	}
	f.tidyTrials = true
	if t.spent++; !t.dies(b) && (known || f.isolating() < maxIsolation) {
		return f.divide(tx, t, b, now)
	}
	others := t.dead > 0 && f.refusals == 0 // the last request was for one that was taken
	if have := f.faults[b.Seq]; !others && (have == nil || f.passes == have.passes) {
		f.condemn(b, v)
		tx.State(b.Seq, spool.Queued, now, b.Started, b.Attempts)
		if known {
			tx.Put(trialTable, trialKey(t.root), t.encode())
		}
		return nil
	}
	f.convict(tx, b, now)
	f.log.Error("the upstream refused items for good: they are dead letters", "batch", b.Seq, "items", carried(b), "answer", v.Reason,
		"first", tidy(string(b.Body[b.Items[0].Off:b.Items[0].Off+b.Items[0].Len])))
	f.settle(tx, b, spool.Settlement{To: spool.Dead, Reason: v.Reason, Answer: v.Answer, At: now})
	t.dead++
	return f.proceed(tx, t, now)
}

// divide makes two of a test that was refused.
func (f *Forwarder) divide(tx *spool.Tx, t trial, b *spool.Batch, now time.Time) error {
	first := f.suspects(b)
	test := part(f.upstream, b, func(i int, _ spool.Item) bool { return first[i] })
	rest := part(f.upstream, b, func(i int, _ spool.Item) bool { return !first[i] })
	size := uint32(len(rest.Items))
	waits, err := f.waiting(tx, &t, now)
	if err != nil {
		return err
	}
	if waits != nil {
		rest = f.join(rest, waits)
		f.settle(tx, waits, spool.Settlement{To: spool.Replaced, At: now})
	}
	t.parts, t.sibling = slices.Insert(slices.Clone(t.parts), 0, size), true
	f.sealBatch(tx, test, now)
	f.sealBatch(tx, rest, now)
	f.settle(tx, b, spool.Settlement{To: spool.Replaced, At: now})
	t.test, t.wait = test.Seq, rest.Seq
	tx.Put(trialTable, trialKey(t.root), t.encode())
	return nil
}

// waiting reads what waits in a trial, if anything does. What is damaged on disk is
// given up.
func (f *Forwarder) waiting(tx *spool.Tx, t *trial, now time.Time) (*spool.Batch, error) {
	if t.wait == 0 {
		return nil, nil
	}
	waits, err := f.outbox.Load(t.wait)
	if errors.Is(err, spool.ErrDamaged) {
		f.log.Error("a batch that waits for its isolation is damaged and dropped", "batch", t.wait, "error", err)
		f.settle(tx, &spool.Batch{Seq: t.wait}, spool.Settlement{To: spool.Dropped, Reason: "damaged", At: now})
		t.wait, t.parts = 0, nil
		return nil, nil
	}
	return waits, err
}

// passed goes on with a trial whose test was delivered, and notes what the
// upstream takes.
func (f *Forwarder) passed(tx *spool.Tx, b *spool.Batch, now time.Time) error {
	for _, item := range b.Items {
		i := b.Body[item.Off : item.Off+item.Len]
		if item.Kind == 0 {
			continue
		}
		if len(f.seen) < maxNames {
			f.seen[xxhash.Sum64(before(i))] = true
		}
		if series := seriesOf(i); f.convicts[series] {
			tx.Delete(convictTable, convictKey(series))
			f.tidyTrials = true
		}
	}
	t, ok := f.trialOf(b.Seq)
	if !ok {
		return nil
	}
	f.tidyTrials = true
	t.spent++
	if t.sibling && t.parts[0] > 1 { // asking for all of it is not necessary
		half := t.parts[0] / 2
		t.parts = slices.Insert(slices.Clone(t.parts), 0, half)
		t.parts[1] -= half
		return f.take(tx, t, 1, now)
	}
	if t.sibling {
		t.sibling = false
		return f.take(tx, t, 1, now)
	}
	return f.proceed(tx, t, now)
}

// proceed goes on with what waits, of which nothing is known, or ends the trial.
func (f *Forwarder) proceed(tx *spool.Tx, t trial, now time.Time) error {
	t.sibling = false
	switch {
	case t.wait == 0:
		if f.outbox.Get(trialTable, trialKey(t.root)) != nil {
			tx.Delete(trialTable, trialKey(t.root))
		}
		return nil
	case t.dead < 2: // likely there is no other fault
		return f.take(tx, t, len(t.parts), now)
	}
	return f.take(tx, t, 1, now)
}

// take makes the first parts of what waits the next test.
func (f *Forwarder) take(tx *spool.Tx, t trial, parts int, now time.Time) error {
	count := 0
	for _, n := range t.parts[:parts] {
		count += int(n)
	}
	t.parts = t.parts[parts:]
	if len(t.parts) == 0 {
		t.test, t.wait = t.wait, 0
		tx.Put(trialTable, trialKey(t.root), t.encode())
		return nil
	}
	waits, err := f.waiting(tx, &t, now)
	if err != nil {
		return err
	}
	if waits == nil {
		return f.proceed(tx, t, now)
	}
	test := part(f.upstream, waits, func(i int, _ spool.Item) bool { return i < count })
	rest := part(f.upstream, waits, func(i int, _ spool.Item) bool { return i >= count })
	f.sealBatch(tx, test, now)
	f.sealBatch(tx, rest, now)
	f.settle(tx, waits, spool.Settlement{To: spool.Replaced, At: now})
	t.test, t.wait = test.Seq, rest.Seq
	tx.Put(trialTable, trialKey(t.root), t.encode())
	return nil
}

// lost ends the test of a trial that was given up without an answer.
func (f *Forwarder) lost(tx *spool.Tx, b *spool.Batch, now time.Time) error {
	t, ok := f.trialOf(b.Seq)
	if !ok {
		return nil
	}
	f.tidyTrials = true
	return f.proceed(tx, t, now)
}

// isolating is how many bytes trials hold.
func (f *Forwarder) isolating() (n int64) {
	if len(f.trials) == 0 {
		return 0
	}
	return f.outbox.BytesOf(func(b *spool.Batch) bool { return f.tried(b.Seq) })
}

// sealApart stores a batch of suspects as a trial of its own, or with the one
// that waits already: what comes while the test of convicts waits for its turn
// goes with it, and so takes no more requests.
func (f *Forwarder) sealApart(tx *spool.Tx, b *spool.Batch, joined map[uint64]bool, now time.Time) error {
	f.tidyTrials = true
	for _, have := range f.outbox.Batches() {
		t, ok := f.trialOf(have.Seq)
		if !ok || !t.convict || t.wait != 0 || joined[t.root] || have.Lane != b.Lane || have.State != spool.Queued || have.Attempts > 0 {
			continue
		}
		waits, err := f.outbox.Load(have.Seq)
		if errors.Is(err, spool.ErrDamaged) {
			continue // its turn comes, and then it is dropped
		}
		if err != nil {
			return err
		}
		if carried(waits)+len(b.Items) > f.room() || len(waits.Body)+len(b.Body) > maxBody {
			continue
		}
		joined[t.root] = true
		b = f.join(waits, b)
		f.sealBatch(tx, b, now)
		f.settle(tx, waits, spool.Settlement{To: spool.Replaced, At: now})
		t.test = b.Seq
		tx.Put(trialTable, trialKey(t.root), t.encode())
		return nil
	}
	f.sealBatch(tx, b, now)
	if f.isolating() >= maxIsolation {
		f.log.Error("too much waits for its isolation; items of series that were refused before are dropped", "items", len(b.Items)-1)
		tx.Settle(b.Seq, spool.Settlement{To: spool.Dropped, Reason: "isolation_full", At: now})
		return nil
	}
	t := trial{root: b.Seq, test: b.Seq, convict: true}
	tx.Put(trialTable, trialKey(t.root), t.encode())
	return nil
}

// join makes one batch of the items of two, in that order.
func (f *Forwarder) join(a, b *spool.Batch) *spool.Batch {
	sheet := f.newSheet()
	sheet.maxItems, sheet.maxBody = len(a.Items)+len(b.Items), len(a.Body)+len(b.Body)
	for _, from := range []*spool.Batch{a, b} {
		for _, item := range from.Items {
			if item.Kind == 0 {
				continue
			}
			sheet.begin(aggregator.Kind(item.Kind), item.Samples)
			sheet.Item(from.Lane, func(dst []byte) []byte { return append(dst, from.Body[item.Off:item.Off+item.Len]...) })
		}
	}
	joined := sheet.batches[0]
	joined.Windows = spool.Range{From: min(a.Windows.From, b.Windows.From), To: max(a.Windows.To, b.Windows.To)}
	return joined
}

// convict remembers the series of a batch that turned out to be at fault: of one
// item, or of one series.
func (f *Forwarder) convict(tx *spool.Tx, b *spool.Batch, now time.Time) {
	if !oneSeries(b) {
		return
	}
	item := b.Items[0]
	series := seriesOf(b.Body[item.Off : item.Off+item.Len])
	if len(f.convicts) >= maxConvicts && !f.convicts[series] {
		oldest, since := "", now
		for key, v := range f.outbox.Table(convictTable) {
			if at := time.Unix(int64(binary.BigEndian.Uint64(v)), 0); oldest == "" || at.Before(since) {
				oldest, since = key, at
			}
		}
		tx.Delete(convictTable, oldest)
	}
	tx.Put(convictTable, convictKey(series), binary.BigEndian.AppendUint64(nil, uint64(now.Unix())))
}

func convictKey(series uint64) string { return strconv.FormatUint(series, 16) }

// before returns what stands in front of an item's value and time: its name, and
// its type if it is no event. An event may have no value, and such a member in its
// properties.
func before(item []byte) []byte {
	end := len(item)
	for _, member := range []string{`,"value":`, `,"timestamp":`} {
		if i := bytes.Index(item[:end], []byte(member)); i >= 0 {
			end = i
		}
	}
	return item[:end]
}

// seriesOf identifies the series of an item: all of it but value and time. A
// quotation mark in a string is escaped, so the members found are no part of one.
func seriesOf(item []byte) uint64 {
	sum := xxhash.New()
	sum.Write(before(item))
	if i := bytes.Index(item, []byte(`,"tags":`)); i >= 0 {
		sum.Write(item[i:])
	}
	return sum.Sum64()
}

func oneSeries(b *spool.Batch) bool {
	first, n := uint64(0), 0
	for _, item := range b.Items {
		if item.Kind == 0 {
			continue
		}
		series := seriesOf(b.Body[item.Off : item.Off+item.Len])
		if n++; n > 1 && series != first {
			return false
		}
		first = series
	}
	return n > 0
}

// suspects chooses the items of a batch to be asked for first: those of convicts;
// else those that are unusual; if there are none, or more than half are, the first
// half.
func (f *Forwarder) suspects(b *spool.Batch) []bool {
	n := carried(b)
	for _, suspect := range []func(item []byte) bool{
		func(item []byte) bool { return f.convicts[seriesOf(item)] },
		f.unusual,
	} {
		chosen, count := make([]bool, len(b.Items)), 0
		for i, item := range b.Items {
			if item.Kind != 0 && suspect(b.Body[item.Off:item.Off+item.Len]) {
				chosen[i] = true
				count++
			}
		}
		if count > 0 && count <= n/2 {
			return chosen
		}
	}
	chosen := make([]bool, len(b.Items))
	for i, left := 0, n/2; left > 0; i++ { // the agent's own items come last
		chosen[i] = true
		left--
	}
	return chosen
}

// What is longer than these, in bytes, is unusual: ordinary items are about 160,
// and a number has at most 17 digits (IEEE 754 binary64), a sign and a point.
const (
	longHead  = 128
	longItem  = 400
	longValue = 19
)

// unusual tells whether an item has something that upstreams stumble over: great
// length, bytes that are not plain ASCII, an extreme value, or a name that they
// have not taken before.
func (f *Forwarder) unusual(item []byte) bool {
	name := before(item)
	if len(name) > longHead || len(item) > longItem || bytes.IndexByte(item, '\\') >= 0 || !f.seen[xxhash.Sum64(name)] {
		return true
	}
	if slices.ContainsFunc(item, func(c byte) bool { return c >= utf8.RuneSelf }) {
		return true
	}
	value, _, _ := bytes.Cut(item[len(name):], []byte(`,"timestamp":`))
	value = bytes.TrimPrefix(value, []byte(`,"value":`))
	return len(value) > longValue && value[0] != '"' || bytes.IndexByte(value, 'e') >= 0 && value[0] != '"'
}

package aggregator

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/DataDog/sketches-go/ddsketch/store"
)

// oneOfEach is a small window with every form a value has.
func oneOfEach(t testing.TB) []fixed {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	big := sample(Counter, "wide,a:b", 0)
	big.Flags, big.Whole = Whole, math.MaxInt64
	weighted := sample(Distribution, "weighted", 2.5)
	weighted.Weight = 1 / 0.3
	put(t, in, t0, big, big, big,
		sample(Counter, "exact", 1<<53), sample(Counter, "exact", 1),
		sample(Counter, "mixed,k:v", 7), sample(Counter, "mixed,k:v", 0.1), sample(Counter, "mixed,k:v", -0.3),
		sample(Gauge, "temperature,room:cellar", 12.5), sample(Gauge, "temperature,room:cellar", -3),
		sample(Distribution, "raw", 3), sample(Distribution, "raw", -1), sample(Distribution, "raw", 0),
		weighted, sample(Distribution, "weighted", -1),
		member("few", "anna"), member("few", "otto"), member("few", "anna"))
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		put(t, in, t0, sample(Distribution, "sketch,k:v", math.Trunc(r.NormFloat64()*50)))
	}
	for range 3000 {
		put(t, in, t0, sample(Distribution, "wide.sketch", math.Exp(r.Float64()*1200-600)))
	}
	for i := range 200 {
		put(t, in, t0, member("many", string(binary.AppendUvarint([]byte("m"), uint64(i)))))
	}
	windows := a.Rotate(t0)
	return mergeAll(t, 100, nil, readWindow(t, windows[0]))
}

// Every way to change one byte of a window, and every way to cut it short.
func TestDamagedByte(t *testing.T) {
	values := oneOfEach(t)
	small := values[:0]
	for _, f := range values {
		if len(f.value.append(nil)) < 200 {
			small = append(small, f)
		}
	}
	parts := eventParts(small, someEvents()[:3], 2, 2, 1)
	if len(parts) < 3 || len(small) < 6 {
		t.Fatalf("%d series in %d parts is too small a window", len(small), len(parts))
	}
	for n, part := range parts {
		whole := bytes.Clone(part)
		for at := range part {
			for x := 1; x < 256; x++ {
				part[at] = whole[at] ^ byte(x)
				if _, err := OpenReader(parts...); !errors.Is(err, errDamaged) {
					t.Fatalf("part %d, byte %d changed by %#x: OpenReader answers %v", n, at, x, err)
				}
			}
			part[at] = whole[at]
			parts[n] = part[:at]
			if _, err := OpenReader(parts...); !errors.Is(err, errDamaged) {
				t.Fatalf("part %d cut to %d of %d bytes: OpenReader answers %v", n, at, len(part), err)
			}
			parts[n] = part
		}
		parts[n] = append(whole, 0)
		if _, err := OpenReader(parts...); !errors.Is(err, errDamaged) {
			t.Fatalf("part %d with a byte behind it: OpenReader answers %v", n, err)
		}
		parts[n] = part
	}
	parts[0], parts[1] = parts[1], parts[0]
	if _, err := OpenReader(parts...); !errors.Is(err, errDamaged) {
		t.Errorf("parts in the wrong order: OpenReader answers %v", err)
	}
	if _, err := OpenReader(parts[0], parts[0]); !errors.Is(err, errDamaged) {
		t.Errorf("a part twice: OpenReader answers %v", err)
	}
}

func TestDamageAtRandom(t *testing.T) {
	a := New(defaults(), t0)
	in := a.Intake(plain{})
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 900 {
		for range 120 {
			put(t, in, t0, sample(Distribution, counterSeries(i).Name()+",code:"+string(rune('a'+i)), r.ExpFloat64()))
		}
	}
	w := a.Rotate(t0)[0]
	parts := clone(w.Parts())
	seed := rand.Uint64()
	r = rand.New(rand.NewPCG(seed, 0))
	for n := range 2000 {
		broken := bytes.Clone(parts[0])
		at := r.IntN(len(broken))
		switch length := min(1+r.IntN(4096), len(broken)-at); n % 4 {
		case 0: // one bit
			broken[at] ^= 1 << r.IntN(8)
		case 1: // a sector of zeros
			clear(broken[at : at+length])
		case 2: // another place's bytes
			copy(broken[at:at+length], broken[r.IntN(len(broken)):])
		case 3: // some bytes lost
			broken = append(broken[:at], broken[at+length:]...)
		}
		if bytes.Equal(broken, parts[0]) {
			continue
		}
		if _, err := OpenReader(broken); !errors.Is(err, errDamaged) {
			t.Fatalf("seed %d, damage %d at %d: OpenReader answers %v", seed, n, at, err)
		}
	}
}

func TestNewerFormat(t *testing.T) {
	p := smallParts(oneOfEach(t)[:1], 1, 1)[0]
	p[0] = 9
	if _, err := OpenReader(p); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("OpenReader of format 9: %v", err)
	}
}

// FuzzOpenReader gives the reader bytes of three kinds: as they are, with all
// checksums made right, and as the inside of a block, so that what lies behind
// the checksums is tried, too. Either there is an error, or the values make
// sense; and no value takes memory beyond its bounds.
func FuzzOpenReader(f *testing.F) {
	values := oneOfEach(f)
	for _, part := range eventParts(values, someEvents(), 3, 2, 2) {
		f.Add(part, uint8(0))
		f.Add(part, uint8(1))
		r := reader(f, part)
		for i := range r.events {
			if _, _, err := r.unpack(&r.events[i]); err != nil {
				f.Fatal(err)
			}
			f.Add(bytes.Clone(r.raw), uint8(3))
		}
		for i := range r.blocks {
			if err := r.load(i); err != nil {
				f.Fatal(err)
			}
			f.Add(bytes.Clone(r.raw), uint8(2))
		}
	}
	for i := range values {
		var p partWriter
		p.add(values[i].series, &values[i].value)
		p.closeBlock()
		f.Add(bytes.Clone(p.raw), uint8(2))
	}
	f.Fuzz(func(t *testing.T, data []byte, mode uint8) {
		switch mode % 4 {
		case 1:
			data = repair(bytes.Clone(data))
		case 2:
			data = wrap(data)
		case 3:
			data = wrapEvents(data)
		}
		r, err := OpenReader(data)
		if err != nil {
			return
		}
		other := reader(t, data)
		m := Merge(100, nil, r)
		for s, v := range m.All() {
			var found Value
			allocated := allocations()
			ok, err := other.Find(s, &found)
			if got, limit := allocations()-allocated, uint64(4<<20+maxBlock); got > limit {
				t.Errorf("decoding %s took %d bytes, want at most %d", s, got, limit)
			}
			if ok && err == nil {
				consistent(t, s, &found)
			}
			consistent(t, s, v)
		}
		m = Merge(100, nil, reader(t, data), reader(t, data)) // with itself
		for s, v := range m.All() {
			consistent(t, s, v)
		}
		allocated := allocations()
		for e := range m.Events() {
			consistentEvent(t, e)
		}
		if got, limit := allocations()-allocated, uint64(8<<20+maxBlock); got > limit {
			t.Errorf("decoding events took %d bytes, want at most %d", got, limit)
		}
	})
}

// consistentEvent demands what the forwarder relies on.
func consistentEvent(t *testing.T, e *Event) {
	t.Helper()
	if len(e.Name) == 0 || math.IsNaN(e.Value) || math.IsInf(e.Value, 0) {
		t.Errorf("event %s", e.show())
	}
	last, n := "", 0
	for k := range e.EachTag() {
		if n++; string(k) <= last {
			t.Errorf("event %s: tag %q behind %q", e.show(), k, last)
		}
		last = string(k)
	}
	var again Event
	d := decoder{b: e.append(nil, e.Time)}
	if again.decode(&d); d.err != nil || again.show() != e.show() {
		t.Errorf("event %s written again is %s, %v", e.show(), again.show(), d.err)
	}
}

// wrapEvents makes a part of one block of events out of what is in the block.
func wrapEvents(raw []byte) []byte {
	p := partWriter{raw: raw, version: versionEvents}
	p.store(blockEvents, "\x00\x00\x00\x00")
	return p.closePart()
}

// Every byte of a block of events changed in ten ways, behind right checksums.
func TestDamagedEventsBehindChecksums(t *testing.T) {
	var p partWriter
	for _, e := range someEvents() {
		p.addEvent(e)
	}
	p.closeEvents()
	raw, refused := bytes.Clone(p.raw), 0
	for at := range raw {
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 127, 255} {
			raw[at] ^= x
			part := wrapEvents(raw)
			raw[at] ^= x
			m := Merge(100, nil, reader(t, part), reader(t, part))
			for e := range m.Events() {
				consistentEvent(t, e)
			}
			if m.Err() == nil {
				continue
			}
			if refused++; !errors.Is(m.Err(), errDamaged) {
				t.Errorf("byte %d changed by %#x: %v", at, x, m.Err())
			}
		}
	}
	if refused == 0 {
		t.Error("no damage was found")
	}
	good := wrapEvents(raw)
	for name, change := range map[string]func(p []byte){
		"an event less":      func(p []byte) { binary.LittleEndian.PutUint32(p, 4) },
		"an event more":      func(p []byte) { binary.LittleEndian.PutUint32(p, 6) },
		"4 billion of them":  func(p []byte) { binary.LittleEndian.PutUint32(p, math.MaxUint32) },
		"none in the block":  func(p []byte) { clear(p[:4]) },
		"a length of 2^63-1": func(p []byte) { copy(p[4:], "\xff\xff\xff\xff\xff\xff\xff\xff\x7f") },
	} {
		broken := bytes.Clone(raw)
		change(broken)
		m := Merge(100, nil, reader(t, wrapEvents(broken)))
		for range m.Events() {
		}
		if !errors.Is(m.Err(), errDamaged) {
			t.Errorf("%s: %v", name, m.Err())
		}
	}
	good[0] = versionSeries // which has no such blocks
	if _, err := OpenReader(repair(good)); !errors.Is(err, errDamaged) {
		t.Errorf("events in version 1: %v", err)
	}
	// A block that says another number of events come before it.
	q := partWriter{raw: raw, version: versionEvents}
	q.store(blockEvents, "\x00\x00\x00\x01")
	m := Merge(100, nil, reader(t, q.closePart()))
	for range m.Events() {
		t.Error("an event of a block that is not the first is yielded as the first")
	}
	if !errors.Is(m.Err(), errDamaged) {
		t.Errorf("block out of place: %v", m.Err())
	}
}

func allocations() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// consistent demands what the forwarder relies on.
func consistent(t *testing.T, s Series, v *Value) {
	t.Helper()
	number := func(what string, b []byte) {
		if !json.Valid(b) {
			t.Errorf("%s: %s is %s, not JSON", s, what, b)
		}
	}
	if v.Kind() != s.Kind() || v.Samples() == 0 {
		t.Errorf("%s: kind %s, %d samples", s, v.Kind(), v.Samples())
	}
	switch v.Kind() {
	case Counter:
		number("total", v.AppendTotal(nil))
		number("total", AppendFloat(nil, v.Total()))
	case Gauge:
		if v.Last() < v.GaugeMin() || v.Last() > v.GaugeMax() {
			t.Errorf("%s: last %g outside %g to %g", s, v.Last(), v.GaugeMin(), v.GaugeMax())
		}
		number("mean", AppendFloat(nil, v.GaugeMean()))
	case Distribution:
		number("count", v.AppendCount(nil))
		number("sum", v.AppendSum(nil))
		last := v.Min()
		for _, q := range []float64{math.NaN(), -1, 0, 0.25, 0.5, 0.99, 1, 2} {
			got := v.Quantile(q)
			if !(got >= last && got <= v.Max()) {
				t.Errorf("%s: Quantile(%g) = %g, outside %g to %g", s, q, got, last, v.Max())
			}
			last = got
		}
		last = v.Min()
		for _, b := range v.Bins() {
			if !(b.Value >= last && b.Value <= v.Max() && b.Weight > 0) {
				t.Errorf("%s: bin %v, outside %g to %g", s, b, last, v.Max())
			}
			last = b.Value
		}
	case Set:
		n, exact := v.Unique()
		members := uint64(0)
		for range v.Members() {
			members++
		}
		if exact && n != members || !exact && members != 0 {
			t.Errorf("%s: Unique() = %d, %v with %d members", s, n, exact, members)
		}
	}
	// What was read can be written and read again.
	d := decoder{b: v.append(nil)}
	var again Value
	if again.decode(s.Kind(), &d); d.err != nil {
		t.Errorf("%s: %+v written is not readable", s, v)
	} else if !bytes.Equal(again.append(nil), v.append(nil)) {
		t.Errorf("%s: %x written again is %x", s, v.append(nil), again.append(nil))
	}
}

// repair makes the checksums of a part right, as far as its index can be read.
func repair(p []byte) []byte {
	d := decoder{b: p}
	d.bytes(2)
	n := d.uint16()
	d.bytes(4)
	type place struct{ sum, size int }
	var blocks []place
	for range n {
		d.bytes(5)
		size := d.uint32()
		sum := len(p) - len(d.b)
		d.bytes(4)
		d.bytes(uint64(d.uint16()))
		blocks = append(blocks, place{sum, int(size)})
	}
	head := len(p) - len(d.b)
	if d.bytes(4); d.err != nil {
		return p
	}
	for _, b := range blocks {
		binary.LittleEndian.PutUint32(p[b.sum:], crc32.Checksum(d.bytes(uint64(b.size)), castagnoli))
		if d.err != nil {
			return p
		}
	}
	binary.LittleEndian.PutUint32(p[head:], crc32.Checksum(p[:head], castagnoli))
	return p
}

// wrap makes a part of one block out of what is in the block.
func wrap(raw []byte) []byte {
	d := decoder{b: raw}
	d.bytes(4 * uint64(d.uint32()))
	first := d.bytes(uint64(d.uint16()))
	p := partWriter{raw: raw, version: versionSeries, series: 1}
	p.store(blockSeries, string(first))
	return p.closePart()
}

// What is behind right checksums and yet damaged: every byte of a block's
// inside changed in ten ways.
func TestDamageBehindChecksums(t *testing.T) {
	changes := []byte{1, 2, 4, 8, 16, 32, 64, 128, 127, 255}
	for _, f := range oneOfEach(t) {
		var p partWriter
		p.add(f.series, &f.value)
		p.closeBlock()
		raw := bytes.Clone(p.raw)
		step := 1 + len(raw)/100
		for at := 0; at < len(raw); at += step {
			for _, x := range changes {
				raw[at] ^= x
				part := wrap(raw)
				raw[at] ^= x
				r, err := OpenReader(part)
				if err != nil {
					continue
				}
				m := Merge(100, nil, r, reader(t, part))
				for s, v := range m.All() {
					consistent(t, s, v)
				}
				if m.Err() != nil && !errors.Is(m.Err(), errDamaged) {
					t.Errorf("%s, byte %d changed by %#x: %v", f.series, at, x, m.Err())
				}
			}
		}
	}
}

// Values that contradict themselves.
func TestContradictionIsDamage(t *testing.T) {
	for name, spoil := range map[string]func(*distribution){
		"samples":       func(d *distribution) { d.samples++ },
		"count":         func(d *distribution) { d.count.addInt(1) },
		"count of none": func(d *distribution) { d.count, d.raw = number{}, d.raw[:0] },
		"empty sketch": func(d *distribution) {
			d.count, d.raw, d.sketch = number{}, nil, newSketch(store.NewBufferedPaginatedStore(), store.NewBufferedPaginatedStore())
		},
		"minimum": func(d *distribution) { d.min = 2 },
		"maximum": func(d *distribution) { d.max = 2 },
		"weight":  func(d *distribution) { d.raw[0].Weight, d.raw[1].Weight = -1, 3 },
	} {
		v := distributionOf(1, 3)
		spoil(&v.dist)
		var again Value
		d := decoder{b: v.append(nil)}
		if again.decode(Distribution, &d); d.err == nil {
			t.Errorf("%s: %+v is taken", name, again.dist)
		}
	}
	// A rounding error of this size is not one that add makes; it must not spread.
	n := number{lost: math.MaxFloat64}
	for range 3 {
		m := n
		n.merge(&m)
	}
	if d := (decoder{b: n.append(nil)}); d.number() != n || d.err != nil {
		t.Errorf("%+v cannot be read again: %v", n, d.err)
	}
}

// A sketch of another precision is well-formed for its library, and would not
// merge.
func TestForeignSketchIsDamage(t *testing.T) {
	for _, header := range [][4]byte{{2, 14, 0, 1}, {2, 4, 0, 0}, {1, 14, 0, 0}, {2, 18, 0, 0}} {
		p := int(header[1])
		data := binary.BigEndian.AppendUint32(header[:], 1<<p)
		switch {
		case header[3] == 1:
			data = append(data[:4], make([]byte, 16)...)
		case header[0] == 1:
			data = append(data, make([]byte, 1<<p/2)...)
		default:
			data = append(data, make([]byte, 1<<p)...)
		}
		var v Value
		b := append([]byte{1, setEstimate}, binary.AppendUvarint(nil, uint64(len(data)))...)
		d := decoder{b: append(b, data...)}
		if v.decode(Set, &d); d.err == nil {
			t.Errorf("a sketch with the header %v is taken", header)
		}
	}
}

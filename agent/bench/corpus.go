//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	"sluice/aggregator"
)

// corpusLines is how many lines are rendered before they repeat, unless there
// are more series.
const corpusLines = 1 << 17

// maxMember is the number of different members of a set.
const maxMember = 1000

// A corpus is a workload rendered beforehand, so that sending costs little, and
// what is in it.
type corpus struct {
	packets [][]byte
	starts  []int32 // of each packet's lines in lines; one more at the end
	lines   []line
	series  []aggregator.Series
}

// A line is what one line says: its series and its value, in hundredths.
type line struct {
	series int32
	value  int32
}

func (c *corpus) samples(packet int) int { return int(c.starts[packet+1] - c.starts[packet]) }

// render makes the corpus of a workload, always the same.
func render(w *workload) *corpus {
	c := &corpus{series: make([]aggregator.Series, w.series)}
	kinds := map[byte]aggregator.Kind{'c': aggregator.Counter, 'd': aggregator.Distribution, 'g': aggregator.Gauge, 's': aggregator.Set}
	kindOf := func(i int) byte { return w.kinds[i%len(w.kinds)] }
	for i := range c.series {
		c.series[i] = aggregator.NewSeries(kinds[kindOf(i)], fmt.Sprintf("shop.req.%c%04d", kindOf(i), i),
			aggregator.Tag{Key: "env", Value: "prod"}, aggregator.Tag{Key: "service", Value: "checkout"}, aggregator.Tag{Key: "route", Value: fmt.Sprintf("u_%04d", i)})
	}
	random := rand.New(rand.NewPCG(1, 2))
	var order []int
	var packet, text []byte
	finish := func() {
		if len(packet) > 0 {
			c.packets = append(c.packets, append([]byte(nil), packet...))
			packet = packet[:0]
		}
	}
	for n := range max(corpusLines/w.series, 1) * w.series {
		if n%w.series == 0 { // each series once, in an order of its own
			order = random.Perm(w.series)
		}
		l := line{series: int32(order[n%w.series])}
		text = l.append(text[:0], kindOf(int(l.series)), random)
		if len(packet) > 0 && (w.pack == 0 || len(packet)+1+len(text) > w.pack) {
			finish()
		}
		if len(packet) == 0 {
			c.starts = append(c.starts, int32(len(c.lines)))
		} else {
			packet = append(packet, '\n')
		}
		packet = append(packet, text...)
		c.lines = append(c.lines, l)
	}
	finish()
	c.starts = append(c.starts, int32(len(c.lines)))
	return c
}

// append writes the line with a value that random chooses.
func (l *line) append(dst []byte, kind byte, random *rand.Rand) []byte {
	dst = fmt.Appendf(dst, "shop.req.%c%04d:", kind, l.series)
	typ := string(kind)
	switch kind {
	case 'c':
		l.value = 100 * (1 + random.Int32N(9))
		dst = strconv.AppendInt(dst, int64(l.value/100), 10)
	case 'g':
		l.value = 100 * random.Int32N(1000)
		dst = strconv.AppendInt(dst, int64(l.value/100), 10)
	case 's':
		l.value = random.Int32N(maxMember)
		dst = fmt.Appendf(dst, "u%d", l.value)
	default: // skewed, as times are
		l.value = 1 + random.Int32N(1000)*(1+random.Int32N(200))
		dst = fmt.Appendf(dst, "%d.%02d", l.value/100, l.value%100)
		typ = "ms"
	}
	return fmt.Appendf(dst, "|%s|#env:prod,service:checkout,route:u_%04d", typ, l.series)
}

// truth is what must have become of one series.
type truth struct {
	samples, sum uint64 // sum in hundredths
	last         int32
	members      map[int32]struct{}
}

// truths adds up what was sent: all packets so often, and the first ones of a
// round that was not finished.
func (c *corpus) truths(times, more int) []truth {
	all := make([]truth, len(c.series))
	for p := range c.packets {
		n := uint64(times)
		if p < more {
			n++
		}
		if n == 0 {
			break
		}
		for _, l := range c.lines[c.starts[p]:c.starts[p+1]] {
			t := &all[l.series]
			t.samples += n
			t.sum += n * uint64(l.value)
			if c.series[l.series].Kind() == aggregator.Set {
				if t.members == nil {
					t.members = make(map[int32]struct{})
				}
				t.members[l.value] = struct{}{}
			}
		}
	}
	if times > 0 { // the round before the unfinished one came to the end
		c.lastValues(all, len(c.packets))
	}
	c.lastValues(all, more)
	return all
}

func (c *corpus) lastValues(all []truth, packets int) {
	for _, l := range c.lines[:c.starts[packets]] {
		all[l.series].last = l.value
	}
}

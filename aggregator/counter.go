package aggregator

import "encoding/binary"

// A counter adds its values up.
type counter struct {
	samples uint64
	total   number
}

func (c *counter) take(s *Sample) {
	c.samples++
	if s.Flags&Whole != 0 {
		c.total.addInt(s.Whole)
	} else {
		c.total.add(s.Value)
	}
}

func (c *counter) merge(o *counter) {
	c.samples += o.samples
	c.total.merge(&o.total)
}

func (c *counter) append(dst []byte) []byte {
	return c.total.append(binary.AppendUvarint(dst, c.samples))
}

func (c *counter) decode(d *decoder) {
	c.samples = d.uvarint()
	c.total = d.number()
}

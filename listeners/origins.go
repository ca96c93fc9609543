package listeners

import "bytes"

// whence is what a Parser knows of where its packet comes from.
type whence struct {
	kernel uint32 // the origin that the kernel tells of; 0: none
	now    int64  // when it is asked for
	on     bool   // whether origins are looked for

	// The last claim that was looked up in the packet, and what came of it: the
	// lines of a packet mostly make the same.
	claim  []byte
	origin uint32
}

// From says which process sends the next packets, as the kernel tells; 0 is an unknown
// one. now is in nanoseconds since 1970.
func (p *Parser) From(pid int32, now int64) {
	o := p.naming.Origins
	if o == nil || !o.On() {
		if p.whence.on {
			p.whence = whence{}
		}
		return
	}
	p.whence = whence{kernel: o.Process(pid, now), now: now, on: true}
}

// from tells what the field c: or e: says. What the kernel says goes before
// what a sender does.
func (w *whence) from(n *Naming, claim []byte) uint32 {
	switch {
	case w.kernel != 0 || !w.on:
		return w.kernel
	case w.claim == nil || !bytes.Equal(claim, w.claim):
		w.claim, w.origin = claim, n.Origins.Claim(claim, w.now)
	}
	return w.origin
}

// entityID is the tag in which older clients say in which pod they are.
var entityID = []byte("dd.internal.entity_id:")

// tagged tells what the tags say of where a line comes from.
func (w *whence) tagged(n *Naming, tags []byte) uint32 {
	if w.kernel != 0 || !w.on {
		return w.kernel
	}
	i := bytes.Index(tags, entityID)
	if i < 0 {
		return 0
	}
	value, _, _ := bytes.Cut(tags[i+len(entityID):], []byte(","))
	return w.from(n, value)
}

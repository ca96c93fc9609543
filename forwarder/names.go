package forwarder

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

	"sluice/aggregator"
)

// Names upstream have one type each, for ever. Programs do use one name for two
// kinds, and the scalars of a distribution need names of their own; so what each
// rendered name stands for is remembered, in the outbox's table namesTable, and who
// comes second goes out under another name.
const (
	namesTable = "names"
	// maxNames bounds the table. Names beyond are rendered as they are: two kinds
	// of one name can then meet.
	maxNames = 100_000
	// maxName is the longest name that upstreams take, in bytes.
	maxName = 255
)

// A use is what a rendered name stands for: the type upstream, and whether it
// is derived from a distribution (1) or is a client's own (0).
type use [2]byte

type names struct {
	uses  map[string]use
	fresh []string // claimed since the last commit
}

// claim answers the name under which base+suffix goes out as typ. kind is what
// the name gets as a further suffix when another use has it.
func (n *names) claim(base, suffix string, typ aggregator.Kind, kind string) string {
	u := use{byte(typ)}
	if suffix != "" {
		u[1] = 1
	}
	name := shorten(base, suffix)
	for { // each name is longer, or has another hash, than those before: one is free
		have, ok := n.uses[name]
		if !ok && len(n.uses) < maxNames {
			n.uses[name] = u
			n.fresh = append(n.fresh, name)
		}
		if !ok || have == u {
			return name
		}
		base += "." + kind
		name = shorten(base, suffix)
	}
}

// shorten returns base+suffix, cutting a base that is too long and marking the
// cut with a hash of what was there.
func shorten(base, suffix string) string {
	if len(base)+len(suffix) <= maxName {
		return base + suffix
	}
	sum := fmt.Sprintf("~%08x", uint32(xxhash.Sum64String(base)))
	cut := maxName - len(suffix) - len(sum)
	for cut > 0 && base[cut]&0xC0 == 0x80 { // not inside a character
		cut--
	}
	return base[:cut] + sum + suffix
}

// keep is called when the fresh names are on disk, forget when they are not.
func (n *names) keep() { n.fresh = n.fresh[:0] }

func (n *names) forget() {
	for _, name := range n.fresh {
		delete(n.uses, name)
	}
	n.fresh = n.fresh[:0]
}

package forwarder

import "sluice/spool"

// planLook is how many records are looked at in one go: the index of a week's
// backlog is not to be copied for each window.
const planLook = 64

// plan chooses the stretch of windows to render next, given what the upstream
// is still owed: the one that is partly sealed, or else the oldest window, at
// its own width. next is the sequence the next record will get; entries
// returns the records of a range. ok is false if nothing is owed.
func plan(pending spool.Pending, group spool.Group, next uint64, entries func(spool.Range) []spool.Entry) (g spool.Group, e spool.Entry, ok bool) {
	for _, r := range pending {
		for from := r.From; from < min(r.To, next); from += planLook {
			found := entries(spool.Range{From: from, To: min(r.To, next, from+planLook)})
			if len(found) == 0 {
				continue
			}
			e = found[0]
			if group.Seqs == e.Seqs {
				return group, e, true
			}
			return spool.Group{Seqs: e.Seqs, Width: e.Width, K: fixedPoints}, e, true
		}
	}
	return g, e, false
}

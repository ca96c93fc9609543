package forwarder

import (
	"slices"
	"time"
)

// window is the stretch of time that upstreams count requests in.
const window = time.Minute

// A budget keeps requests within what the upstream allows in any minute, not
// in each calendar minute and not on average: it remembers when each request
// of the last minute was made. (A token bucket of 10 that refills at 10 a
// minute lets 19 through in one minute.)
//
// A request counts from the moment its answer came, or could no longer come:
// the upstream cannot have seen it later than that, so however long requests
// take on their way, any minute of the upstream's has no more than limit.
type budget struct {
	limit int         // may be lowered for a while, see share
	most  int         // that limit has
	times []time.Time // at most most, ascending
	items []int       // sent with each; 0 for those of an earlier process
}

// newBudget takes up the request log of an earlier process. Times in the
// future, by a clock that has been set back since, count as now. All are put on
// the monotonic clock of now, so that no later step of the clock moves them.
func newBudget(limit int, stored []time.Time, now time.Time) *budget {
	b := &budget{limit: limit, most: limit}
	for _, t := range stored {
		b.times = append(b.times, now.Add(min(0, t.Sub(now))))
	}
	slices.SortFunc(b.times, time.Time.Compare)
	b.items = make([]int, len(b.times))
	b.trim()
	return b
}

// next returns the earliest time from now on at which a request may be made.
func (b *budget) next(now time.Time) time.Time {
	if len(b.times) < b.limit {
		return now
	}
	if free := b.times[len(b.times)-b.limit].Add(window); free.After(now) {
		return free
	}
	return now
}

// left returns how many requests may be made at once.
func (b *budget) left(now time.Time) int { return max(0, b.limit-b.used(now)) }

// used returns how many requests count at now.
func (b *budget) used(now time.Time) int {
	requests, _ := b.spent(now)
	return requests
}

// spent returns how many requests count at now, and their items.
func (b *budget) spent(now time.Time) (requests, items int) {
	for i, t := range b.times {
		if now.Sub(t) < window {
			requests++
			items += b.items[i]
		}
	}
	return requests, items
}

// begin notes a request that is about to be made.
func (b *budget) begin(now time.Time, items int) {
	b.times, b.items = append(b.times, now), append(b.items, items)
	b.trim()
}

// end notes that the request begun last is over.
func (b *budget) end(now time.Time) { b.times[len(b.times)-1] = now }

// stored gives the times as they are to be kept on disk: by the wall clock of now, which
// may have been set since.
func (b *budget) stored(now time.Time) []time.Time {
	times := make([]time.Time, len(b.times))
	for i, t := range b.times {
		times[i] = now.Add(t.Sub(now))
	}
	return times
}

func (b *budget) trim() {
	if extra := len(b.times) - b.most; extra > 0 {
		b.times, b.items = slices.Delete(b.times, 0, extra), slices.Delete(b.items, 0, extra)
	}
}

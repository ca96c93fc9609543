package forwarder

import (
	"time"

	"sluice/aggregator"
)

// A turn says which part of its slices a bucket shows: the windows of one
// minute, which is the finest bucket of the upstream's queries, take turns, so
// that together they show every part once. The zero turn shows slices whole.
type turn struct{ at, of int } // at < of

// maxTurns bounds the parts of a slice: the windows of a minute at the default
// interval. With more, one window by itself would show too little of its tail.
const maxTurns = 6

// turnOf gives the turn of a bucket from its place on the clock, so that it needs
// no memory, and a bucket that is rendered once more gets the same one. Minutes
// take turns, too: what is measured once a minute would else show the same part
// for ever. A bucket that is a minute or more shows its slices whole.
func turnOf(start time.Time, width time.Duration) turn {
	if width <= 0 || width >= minute {
		return turn{}
	}
	of := int64(min(minute/width, maxTurns))
	n := start.Unix() / int64(minute/time.Second)
	n += int64(start.Sub(start.Truncate(minute)) / width)
	return turn{int((n%of + of) % of), int(of)}
}

// appendPoints chooses at most k values that stand for a distribution: all of
// them if there are no more and none weighs more than another. Else the weight is
// cut into k equal slices, each slice into as many equal parts as there are turns,
// and a slice is represented by the mean of the part whose turn it is: so the mean
// of the points of all turns is that of the distribution, and their ranks lie
// between each other instead of repeating. The values are appended to dst in
// ascending order. docs/points.md has the errors, beside those of other choices.
func appendPoints(dst []float64, v *aggregator.Value, k int, t turn) []float64 {
	bins := v.Bins()
	if k <= 0 || len(bins) == 0 {
		return dst
	}
	if raw := v.Raw(); raw != nil && len(raw) <= k && evenWeights(raw) {
		for _, r := range raw {
			dst = append(dst, r.Value)
		}
		return dst
	}
	total := 0.0
	for _, b := range bins {
		total += b.Weight
	}
	t.of = max(t.of, 1)
	part := total / float64(k) / float64(t.of)
	c := cutter{bins: bins, left: bins[0].Weight}
	low := v.Min()
	for range k {
		c.mean(part * float64(t.at))
		mean := c.mean(part)
		c.mean(part * float64(t.of-1-t.at))
		low = max(low, min(mean, v.Max())) // within what there was, and ascending in spite of rounding
		dst = append(dst, low)
	}
	return dst
}

// A cutter cuts weight off bins, from the lowest value up.
type cutter struct {
	bins []aggregator.Weighted // those that are not used up
	left float64               // of the weight of the first
}

// mean cuts off weight and returns the mean of its values.
func (c *cutter) mean(weight float64) float64 {
	mean, need := 0.0, weight
	for need > 0 {
		last := len(c.bins) == 1
		w := min(need, c.left)
		if last {
			w = need // rounding may have left the last bin short
		}
		mean += c.bins[0].Value * (w / weight)
		need -= w
		if c.left -= w; c.left <= 0 && !last {
			c.bins = c.bins[1:]
			c.left = c.bins[0].Weight
		}
	}
	return mean
}

func evenWeights(raw []aggregator.Weighted) bool {
	for _, r := range raw {
		if r.Weight != raw[0].Weight {
			return false
		}
	}
	return true
}

package forwarder

import "sluice/aggregator"

// appendPoints chooses at most k values that stand for a distribution: all of
// them if there are no more and none weighs more than another; else the means of
// k slices of equal weight, so that the mean of the points is the distribution's.
// The values are appended to dst in ascending order.
func appendPoints(dst []float64, v *aggregator.Value, k int) []float64 {
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
	slice := total / float64(k)
	bin, left := 0, bins[0].Weight // left of the current bin's weight
	low := v.Min()
	for range k {
		mean, need := 0.0, slice
		for need > 0 && bin < len(bins) {
			w := min(need, left)
			mean += bins[bin].Value * (w / slice)
			need -= w
			if left -= w; left <= 0 {
				if bin++; bin < len(bins) {
					left = bins[bin].Weight
				}
			}
		}
		if need > 0 { // rounding left the last slice short: it is part of the last bin
			mean += bins[len(bins)-1].Value * (need / slice)
		}
		low = max(low, min(mean, v.Max())) // within what there was, and ascending in spite of rounding
		dst = append(dst, low)
	}
	return dst
}

func evenWeights(raw []aggregator.Weighted) bool {
	for _, r := range raw {
		if r.Weight != raw[0].Weight {
			return false
		}
	}
	return true
}

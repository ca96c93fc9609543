package configs

import (
	"fmt"
	"regexp"
	"strconv"
)

// buckets checks expose.buckets. A bucket for what is above all of them is always there.
func (k *checker) buckets(list []float64) {
	for i := 1; i < min(len(list), maxEntries); i++ {
		if list[i] <= list[i-1] {
			at := fmt.Sprintf("expose.buckets[%d]", i)
			k.add(at, "%s is not above the one before it, %s; sort them, and keep one of two that are the same",
				formatNumber(list[i]), formatNumber(list[i-1]))
			return
		}
	}
}

var decimalForm = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?$`)

// parseNumber takes decimal digits with a point among them, and so nothing that is not
// finite.
func parseNumber(text string) (float64, error) {
	if !decimalForm.MatchString(text) {
		return 0, fmt.Errorf("is not a number; write it like 0.25 or 500, with at most 16 digits before the point and 15 behind it")
	}
	return strconv.ParseFloat(text, 64)
}

func formatNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

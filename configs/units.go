package configs

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written like 256MiB.
type Size int64

// String is the form that the file takes: the largest unit that divides the
// size, binary units first.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"B", 1},
}

var sizeForm = regexp.MustCompile(`^(0|[1-9][0-9]*)([A-Za-z]+)$`)

// The errors of this file follow the value in a message and do not repeat it:
// it may come from a variable.
const sizeHelp = "write a whole number with a unit: B, KiB, MiB, GiB, TiB, or decimal kB, MB, GB, TB"

func parseSize(text string) (Size, error) {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("is not a size; %s", sizeHelp)
	}
	for _, u := range sizeUnits {
		if u.name != m[2] {
			continue
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes {
			return 0, fmt.Errorf("is over the largest size of %d bytes; lower it", int64(math.MaxInt64))
		}
		return Size(n * u.bytes), nil
	}
	return 0, fmt.Errorf("has an unknown unit; %s", sizeHelp)
}

const durationHelp = "write a number with a unit: 250ms, 10s, 5m, 1h30m"

var bareNumber = regexp.MustCompile(`^[-+]?[0-9]*\.?[0-9]+$`)

// parseDuration is time.ParseDuration, but a number without a unit is refused
// even when it is 0: people mean seconds, milliseconds or minutes by it.
func parseDuration(text string) (time.Duration, error) {
	if bareNumber.MatchString(text) {
		return 0, fmt.Errorf("has no unit; %s", durationHelp)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("is not a duration; %s", durationHelp)
	}
	return d, nil
}

// formatDuration is Duration.String without its zero tail: 6h, not 6h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

var intForm = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// parseInt takes decimal digits only. YAML's own rules would also take 0777
// (511), 1_000, 3.0 and 1e3.
func parseInt(text string) (int, error) {
	if !intForm.MatchString(text) {
		return 0, fmt.Errorf("is not a whole number; write decimal digits only")
	}
	n, err := strconv.ParseInt(text, 10, 0)
	if err != nil {
		return 0, fmt.Errorf("is over the largest number of %d; lower it", math.MaxInt)
	}
	return int(n), nil
}

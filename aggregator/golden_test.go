package aggregator

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the last version of testdata/window-v*.bin anew; only before the format is released")

// Windows of every version of the format, written once and read for ever. A reader
// that answers anything else would misread what users have on disk.
func TestGolden(t *testing.T) {
	for version := versionSeries; version <= versionEvents; version++ {
		golden(t, filepath.Join("testdata", fmt.Sprintf("window-v%d.bin", version)), *update && version == versionEvents)
	}
}

func golden(t *testing.T, name string, update bool) {
	if update {
		var file []byte
		parts := eventParts(oneOfEach(t), someEvents(), 4, 3, 2)
		for _, part := range parts {
			file = append(file, fmt.Sprintf("%08d", len(part))...)
			file = append(file, part...)
		}
		if err := os.WriteFile(name, file, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name+".txt", []byte(describe(t, oneOfEach(t))+strings.Join(eventsOf(t, reader(t, parts...)), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var parts [][]byte
	for len(file) > 0 {
		var n int
		if _, err := fmt.Sscanf(string(file[:8]), "%d", &n); err != nil {
			t.Fatal(err)
		}
		parts, file = append(parts, file[8:8+n]), file[8+n:]
	}
	got := describe(t, mergeAll(t, 100, nil, reader(t, parts...)))
	for _, e := range eventsOf(t, reader(t, parts...)) {
		got += e + "\n"
	}
	want, err := os.ReadFile(name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s reads as\n%s\nwant\n%s", name, got, want)
	}
}

// describe writes everything that can be asked of values.
func describe(t *testing.T, values []fixed) string {
	t.Helper()
	var b strings.Builder
	for _, f := range values {
		v := &f.value
		fmt.Fprintf(&b, "%s: %d samples", f.series, v.Samples())
		switch v.Kind() {
		case Counter:
			fmt.Fprintf(&b, ", total %s", v.AppendTotal(nil))
		case Gauge:
			fmt.Fprintf(&b, ", last %g at %d, seq %d, min %g, max %g, mean %g", v.Last(), v.gauge.time, v.gauge.seq, v.GaugeMin(), v.GaugeMax(), v.GaugeMean())
		case Distribution:
			fmt.Fprintf(&b, ", count %s, sum %s, min %g, max %g, raw %v\n ", v.AppendCount(nil), v.AppendSum(nil), v.Min(), v.Max(), v.Raw() != nil)
			bins := v.Bins()
			for i, bin := range bins {
				if len(bins) > 200 && i%64 != 0 && i != len(bins)-1 {
					continue // of a wide sketch a few
				}
				// Values of bins go through math.Exp, whose last digits depend on the machine.
				fmt.Fprintf(&b, " %.9g*%g", bin.Value, bin.Weight)
			}
		case Set:
			n, exact := v.Unique()
			fmt.Fprintf(&b, ", %d unique, exact %v:", n, exact)
			for m := range v.Members() {
				fmt.Fprintf(&b, " %q", m)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

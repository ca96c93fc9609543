package aggregator

// A MetricSize is what one metric, a name and a kind, takes of a window.
type MetricSize struct {
	Name    string
	Kind    Kind
	Series  int
	Samples uint64
	Values  int // of distributions: the least of samples and 100, of each series; of sets: members
}

// Sizes tells how large each metric in the window is, in the order of names. It
// takes one look at each series.
func (w *Window) Sizes() (sizes []MetricSize) {
	for i := range w.values {
		v := &w.values[i]
		name, kind := v.series.Name(), v.series.Kind()
		n := len(sizes)
		if n == 0 || sizes[n-1].Kind != kind || sizes[n-1].Name != name {
			sizes = append(sizes, MetricSize{Name: name, Kind: kind})
			n++
		}
		m := &sizes[n-1]
		m.Series++
		m.Samples += v.value.taken()
		switch of := v.value.(type) {
		case *distribution:
			m.Values += int(min(of.samples, maxPointsMeant))
		case *set:
			m.Values += max(len(of.members), 1)
		}
	}
	return sizes
}

// maxPointsMeant is how many points an upstream takes of a distribution unless it
// is configured to take another number.
const maxPointsMeant = 100

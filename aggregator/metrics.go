package aggregator

import "iter"

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
func (w *Window) Sizes() iter.Seq[MetricSize] {
	return func(yield func(MetricSize) bool) {
		var m MetricSize
		for i := range w.values {
			v := &w.values[i]
			if name, kind := v.series.Name(), v.series.Kind(); i == 0 || m.Kind != kind || m.Name != name {
				if i > 0 && !yield(m) {
					return
				}
				m = MetricSize{Name: name, Kind: kind}
			}
			m.add(v.value)
		}
		if len(w.values) > 0 {
			yield(m)
		}
	}
}

func (m *MetricSize) add(value aggregate) {
	m.Series++
	m.Samples += value.taken()
	switch of := value.(type) {
	case *distribution:
		m.Values += int(min(of.samples, maxPointsMeant))
	case *set:
		m.Values += max(len(of.members), 1)
	}
}

// maxPointsMeant is how many points an upstream takes of a distribution unless it
// is configured to take another number.
const maxPointsMeant = 100

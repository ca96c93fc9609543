package main

import (
	"cmp"
	"net/http"
	"slices"

	"sluice/aggregator"
)

// maxSizes is how many metrics of a window are kept to be asked about: those with
// the most series, which is what they cost.
const maxSizes = 1000

// noteSizes keeps what the metrics of a live window took.
func (a *agent) noteSizes(w *aggregator.Window) {
	if w.Late {
		return
	}
	var sizes []aggregator.MetricSize
	var least aggregator.MetricSize // that may still be among the largest
	for m := range w.Sizes() {
		if bySize(m, least) >= 0 {
			continue
		}
		if sizes = append(sizes, m); len(sizes) == 2*maxSizes {
			sizes = largest(sizes)
			least = sizes[maxSizes-1]
		}
	}
	sizes = largest(sizes)
	list := make([]metricDoc, 0, len(sizes))
	for _, m := range sizes {
		list = append(list, metricDoc{Name: m.Name, Kind: m.Kind.String(), Series: m.Series, Values: m.Values,
			Rate: float64(m.Samples) / w.Width.Seconds(), Width: w.Width.Seconds()})
	}
	a.sizes.Store(&list)
}

// largest sorts metrics by size, the largest first, and leaves maxSizes.
func largest(sizes []aggregator.MetricSize) []aggregator.MetricSize {
	slices.SortStableFunc(sizes, bySize)
	return sizes[:min(len(sizes), maxSizes)]
}

func bySize(x, y aggregator.MetricSize) int {
	return cmp.Or(cmp.Compare(y.Series, x.Series), cmp.Compare(y.Samples, x.Samples))
}

// biggest are the metrics of the last window with the most series, at most n.
func (a *agent) biggest(n int) []metricDoc {
	list := a.sizes.Load()
	if list == nil {
		return []metricDoc{}
	}
	return (*list)[:min(len(*list), n)]
}

// serveSizes answers with the metrics of the last window.
func (a *agent) serveSizes(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"metrics": a.biggest(maxSizes)})
}

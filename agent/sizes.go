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
	sizes := w.Sizes()
	slices.SortStableFunc(sizes, func(x, y aggregator.MetricSize) int {
		return cmp.Or(cmp.Compare(y.Series, x.Series), cmp.Compare(y.Samples, x.Samples))
	})
	list := make([]metricDoc, 0, min(len(sizes), maxSizes))
	for _, m := range sizes[:min(len(sizes), maxSizes)] {
		list = append(list, metricDoc{Name: m.Name, Kind: m.Kind.String(), Series: m.Series, Values: m.Values,
			Rate: float64(m.Samples) / w.Width.Seconds(), Width: w.Width.Seconds()})
	}
	a.sizes.Store(&list)
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

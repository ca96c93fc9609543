package main

import (
	"net/http"
	"time"

	"sluice/listeners"
)

const promContentType = "text/plain; version=0.0.4; charset=utf-8"

// serveApplication answers with what programs sent, in the Prometheus text format. It
// writes a few hundred series at a time, so that neither memory nor whoever closes windows
// waits for a slow client. An answer that cannot be ended is cut, which Prometheus takes
// for no answer.
func (a *agent) serveApplication(w http.ResponseWriter, r *http.Request) {
	if !takesText(r.Header.Values("Accept")) {
		listeners.HTTPError(w, http.StatusNotAcceptable, "not_acceptable", "there is only "+promContentType)
		return
	}
	list, about, ok := a.exposed.ask(time.Now())
	if !ok {
		listeners.HTTPError(w, http.StatusNotFound, "not_found", "metrics of applications are not shown here (see expose.max_series)")
		return
	}
	w.Header().Set("Content-Type", promContentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Write(about)
	var buf []byte
	var before *shownFamily
	for len(list) > 0 {
		n := min(len(list), exposedChunk)
		buf = a.exposed.appendSeries(buf[:0], list[:n], before)
		if _, err := w.Write(buf); err != nil {
			return // the client is gone
		}
		before, list = list[n-1].family, list[n:]
	}
}

func (a *agent) exposedMetrics(e *exposition) {
	shown, left, skipped := a.exposed.stats()
	e.one("sluice_exposed_series", "gauge", "Series that /metrics/application shows.", float64(shown))
	e.one("sluice_exposed_left_out", "gauge", "Series of the last window that it does not show.", float64(left))
	e.one("sluice_exposed_skipped_total", "counter", "Negative sums of counters in a window, which it cannot show.", float64(skipped))
}

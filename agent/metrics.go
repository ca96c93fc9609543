package main

import (
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/aggregator"
	"sluice/forwarder"
	"sluice/listeners"
	"sluice/spool"
)

// serveMetrics answers in the Prometheus text format, version 0.0.4
// (prometheus.io, "Exposition formats"). docs/operations.md lists every family
// with what to do about it.
func (a *agent) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", promContentType)
	w.Write(a.appendMetrics(nil, time.Now()))
}

// An exposition writes metric families one after another.
type exposition struct {
	b    []byte
	name string
}

// family begins a family; samples of it follow.
func (e *exposition) family(name, typ, help string) {
	e.name = name
	e.b = append(e.b, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+typ+"\n"...)
}

// sample writes one line; labels are names and values in turn.
func (e *exposition) sample(value float64, labels ...string) {
	e.b = append(e.b, e.name...)
	for i := 0; i < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		e.b = append(append(e.b, sep), labels[i]...)
		e.b = append(append(append(e.b, '=', '"'), labelEscapes.Replace(labels[i+1])...), '"')
	}
	if len(labels) > 0 {
		e.b = append(e.b, '}')
	}
	e.b = strconv.AppendFloat(append(e.b, ' '), value, 'g', -1, 64)
	e.b = append(e.b, '\n')
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (e *exposition) one(name, typ, help string, value float64) {
	e.family(name, typ, help)
	e.sample(value)
}

func (a *agent) appendMetrics(dst []byte, now time.Time) []byte {
	e := &exposition{b: dst}
	e.family("sluice_build_info", "gauge", "Always 1; the labels tell what is running.")
	e.sample(1, "version", version, "go", runtime.Version())
	e.one("sluice_start_time_seconds", "gauge", "When the agent was started, in seconds since 1970.", float64(a.started.UnixMilli())/1e3)
	e.one("sluice_goroutines", "gauge", "Goroutines that exist.", float64(runtime.NumGoroutine()))
	a.configMetrics(e)
	e.one("sluice_tails", "gauge", "Who watches samples arrive: sluice tail, capture and the console.", float64(a.tails.count.Load()))
	e.one("sluice_own_metrics", "gauge", "Figures of the agent's own that it sent like any metric in the last minute.", float64(a.own.sent.Load()))
	e.one("sluice_own_metrics_left_out", "gauge", "Figures of the agent's own that had no room.", float64(a.own.left.Load()))
	a.listenerMetrics(e)
	a.originMetrics(e)
	a.intakeMetrics(e)
	a.exposedMetrics(e)
	a.spoolMetrics(e)
	a.upstreamMetrics(e, now)
	return e.b
}

func (a *agent) configMetrics(e *exposition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.one("sluice_config_loaded_seconds", "gauge", "When the configuration in effect was read, in seconds since 1970.", float64(a.loaded.UnixMilli())/1e3)
	e.one("sluice_config_reloads_total", "counter", "Configurations put into effect since the start.", float64(a.reloads))
	e.one("sluice_config_refused_total", "counter", "Configurations refused since the start.", float64(a.refusals))
	e.one("sluice_config_refused", "gauge", "1 while the file as it is now is refused.", truth(a.refused != "" || a.missing != nil))
	e.one("sluice_config_restart_needed", "gauge", "Keys whose new value waits for a restart.", float64(len(a.restart)))
}

// listenerStats are those of all listeners.
func (a *agent) listenerStats() (all []listeners.Stats) {
	now := a.now()
	for _, s := range ofKind(now.sockets, true) {
		all = append(all, s.packet.Stats())
	}
	if stats, ok := a.apiStats(now); ok {
		all = append(all, stats)
	}
	return all
}

func (a *agent) listenerMetrics(e *exposition) {
	all := a.listenerStats()
	each := func(name, typ, help string, value func(listeners.Stats) float64) {
		e.family(name, typ, help)
		for _, s := range all {
			e.sample(value(s), "listener", s.Name)
		}
	}
	each("sluice_packets_total", "counter", "Datagrams read.", func(s listeners.Stats) float64 { return float64(s.Packets) })
	each("sluice_received_bytes_total", "counter", "Bytes in them.", func(s listeners.Stats) float64 { return float64(s.Bytes) })
	each("sluice_samples_total", "counter", "Samples taken.", func(s listeners.Stats) float64 { return float64(s.Samples) })
	e.family("sluice_rejected_total", "counter", "Lines, or values where it says so in the documentation, that were not taken, by reason.")
	for _, s := range all {
		for reason, n := range s.Rejected() {
			e.sample(float64(n), "listener", s.Name, "reason", reason)
		}
	}
	each("sluice_tag_cut_total", "counter", "Lines taken with a tag cut to its limit.", func(s listeners.Stats) float64 { return float64(s.TagCut) })
	open, evicted := a.conns.Stats()
	e.one("sluice_http_connections", "gauge", "HTTP connections that are open.", float64(open))
	e.one("sluice_http_evicted_total", "counter", "HTTP connections closed to make room for others.", float64(evicted))
	e.one("sluice_datacat_sessions", "gauge", "Sessions of DataCat programs that are known.", float64(a.api.Sessions()))
	each("sluice_kernel_dropped_total", "counter", "Datagrams the kernel dropped because the receive buffer was full.", func(s listeners.Stats) float64 { return float64(s.KernelDropped) })
	each("sluice_stream_connections", "gauge", "Open connections of a Unix stream socket.", func(s listeners.Stats) float64 { return float64(s.Connections) })
	each("sluice_stream_evicted_total", "counter", "Connections closed because there were too many.", func(s listeners.Stats) float64 { return float64(s.Evicted) })
	each("sluice_receive_buffer_bytes", "gauge", "Receive buffer the kernel granted.", func(s listeners.Stats) float64 { return float64(s.ReceiveBuffer) })
}

func (a *agent) originMetrics(e *exposition) {
	s := a.origins.Stats()
	e.one("sluice_origin_answers", "gauge", "Processes and claims of clients whose origin was looked up and is remembered.", float64(s.Answers))
	e.one("sluice_origin_known", "gauge", "Those of them that are known.", float64(s.Known))
	e.one("sluice_origin_containers", "gauge", "Containers that the kubelet and the map file tell of.", float64(s.Containers))
	e.one("sluice_origin_lookups_total", "counter", "Processes and claims looked up.", float64(s.Looked))
	e.one("sluice_origin_delayed_total", "counter", "Packets and lines whose origin could not be asked for at once, for too many were.", float64(s.Dropped))
	e.one("sluice_origin_evicted_total", "counter", "Answers forgotten because there were too many.", float64(s.Evicted))
	e.one("sluice_origin_polls_total", "counter", "Answers of the kubelet that were taken.", float64(s.Asked))
	e.one("sluice_origin_failures_total", "counter", "Questions to the kubelet and readings of the map file that failed.", float64(s.Failed))
}

func (a *agent) intakeMetrics(e *exposition) {
	s := a.aggregator.Stats()
	byKind := func(name, typ, help string, n [aggregator.Kinds]uint64) {
		e.family(name, typ, help)
		for _, k := range kinds {
			e.sample(float64(n[k]), "kind", k.String())
		}
	}
	byKind("sluice_accepted_total", "counter", "Samples taken into windows, by kind.", s.Accepted)
	byKind("sluice_windowed_total", "counter", "Samples in windows that were closed, by kind.", s.Windowed)
	byKind("sluice_open_samples", "gauge", "Samples in windows that are open, by kind.", s.Open)
	e.family("sluice_dropped_total", "counter", "Samples lost after they were accepted and before any upstream, by reason.")
	for _, k := range kinds {
		e.sample(float64(a.spool.Stats().MemoryDropped[k]), "kind", k.String(), "reason", "memory_full")
	}
	wrong, _ := a.intakeLedger(s)["conservation_error"].(int64)
	e.one("sluice_conservation_error", "gauge", "Samples that the intake's books cannot explain; anything but 0 is a fault in sluice.", float64(wrong))
	e.one("sluice_windows_total", "counter", "Windows closed with something in them.", float64(a.windows.Load()))
	e.one("sluice_intakes", "gauge", "Readers that add samples.", float64(s.Intakes))
	e.one("sluice_series", "gauge", "Series that are open.", float64(s.Series))
	e.one("sluice_values_bytes", "gauge", "Memory that values take, in open windows and in closed ones that are not stored yet.", float64(s.Memory))
	e.one("sluice_values_limit_bytes", "gauge", "Bound of it; it follows from aggregate.max_series.", float64(s.MemoryLimit))
	e.one("sluice_early_windows_total", "counter", "Windows closed before their time, because values took half of that.", float64(a.early.Load()))
	e.one("sluice_series_limit", "gauge", "aggregate.max_series.", float64(s.Limit))
	e.one("sluice_folded_metrics", "gauge", "Metrics whose new series are folded, for they reached a limit.", float64(len(s.Folded)))
	e.family("sluice_folded_metric_info", "gauge", "1 for each of them, at most 100; tag names the one that explodes, or is empty: all are folded.")
	for _, f := range s.Folded {
		e.sample(1, "metric", f.Metric, "kind", f.Kind.String(), "tag", f.Tag, "sender", f.Sender)
	}
	e.family("sluice_folded_samples_total", "counter", "Samples taken into a series that stands in for theirs.")
	for _, k := range kinds {
		e.sample(float64(s.FoldedSamples[k]), "kind", k.String())
	}
}

var spoolStates = []string{"ok", "memory", "full"}

func (a *agent) spoolMetrics(e *exposition) {
	s := a.spool.Stats()
	e.family("sluice_spool_state", "gauge", "1 for the state the spool is in.")
	for _, state := range spoolStates {
		e.sample(truth(s.State == state), "state", state)
	}
	e.one("sluice_spool_bytes", "gauge", "Disk the spool takes.", float64(s.Bytes))
	e.one("sluice_spool_segments", "gauge", "Segment files.", float64(s.Segments))
	e.one("sluice_spool_last_sequence", "gauge", "Sequence of the window stored last.", float64(s.LastSeq))
	e.one("sluice_spool_quarantined_files", "gauge", "Damaged files that were set aside.", float64(s.Quarantined))
	e.one("sluice_spool_memory_windows", "gauge", "Windows that wait in memory for the disk, or are delivered from there.", float64(s.MemoryRecords))
	e.one("sluice_spool_memory_bytes", "gauge", "Their bytes.", float64(s.MemoryBytes))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var upstreamStates = []string{"ok", "retrying", "held", "in_doubt"}

func (a *agent) upstreamMetrics(e *exposition, now time.Time) {
	type upstream struct {
		doc   upstreamDoc
		stats forwarder.Stats
		books spool.Ledger
	}
	var all []upstream
	for _, d := range a.now().deliveries {
		all = append(all, upstream{a.upstreamStatus(d, now), d.stats(now), d.box.Ledger()})
	}
	each := func(name, typ, help string, value func(upstream) float64) {
		e.family(name, typ, help)
		for _, u := range all {
			e.sample(value(u), "upstream", u.doc.Name)
		}
	}
	e.family("sluice_upstream_state", "gauge", "1 for the state the upstream is in.")
	for _, u := range all {
		for _, state := range upstreamStates {
			e.sample(truth(u.doc.State == state), "upstream", u.doc.Name, "state", state)
		}
	}
	each("sluice_upstream_requests_total", "counter", "Batch requests made.", func(u upstream) float64 { return float64(u.stats.Requests) })
	each("sluice_upstream_single_requests_total", "counter", "Requests with a single item, beside the batch requests.", func(u upstream) float64 { return float64(u.stats.Singles) })
	each("sluice_upstream_items_total", "counter", "Items in them.", func(u upstream) float64 { return float64(u.stats.Items) })
	each("sluice_upstream_retries_total", "counter", "Requests that were not the first for their batch.", func(u upstream) float64 { return float64(u.stats.Retries) })
	each("sluice_upstream_verified_total", "counter", "Batches in doubt that were found upstream.", func(u upstream) float64 { return float64(u.stats.Verified) })
	each("sluice_upstream_budget_requests_used", "gauge", "Requests that count against the budget now.", func(u upstream) float64 { return float64(u.doc.Budget.RequestsUsed) })
	each("sluice_upstream_budget_requests_allowed", "gauge", "Requests allowed in any 60 seconds.", func(u upstream) float64 { return float64(u.doc.Budget.RequestsAllowed) })
	each("sluice_upstream_budget_items_used", "gauge", "Items that count against the budget now.", func(u upstream) float64 { return float64(u.doc.Budget.ItemsUsed) })
	each("sluice_upstream_budget_items_allowed", "gauge", "Items that the requests allowed have room for.", func(u upstream) float64 { return float64(u.doc.Budget.ItemsAllowed) })
	each("sluice_upstream_width_seconds", "gauge", "The time that an item of new windows stands for.", func(u upstream) float64 { return u.doc.Width })
	each("sluice_upstream_catch_up_seconds", "gauge", "Time until there is no backlog, as estimated; 0 if there is none.", func(u upstream) float64 { return u.doc.CatchUp })
	each("sluice_upstream_isolating", "gauge", "Refused batches that are searched for the items at fault.", func(u upstream) float64 { return float64(u.doc.Isolating) })
	each("sluice_upstream_pending_windows", "gauge", "Windows not yet rendered for the upstream.", func(u upstream) float64 { return float64(u.doc.Pending.Windows) })
	each("sluice_upstream_pending_batches", "gauge", "Sealed batches that wait for their answer.", func(u upstream) float64 { return float64(u.doc.Pending.Batches) })
	each("sluice_upstream_oldest_pending_seconds", "gauge", "Age of the oldest window not yet rendered; 0 if there is none.", func(u upstream) float64 {
		if u.doc.Pending.Oldest == nil {
			return 0
		}
		return now.Sub(*u.doc.Pending.Oldest).Seconds()
	})
	each("sluice_upstream_last_delivery_seconds", "gauge", "When a batch was delivered last, in seconds since 1970; 0 if never since the start.", func(u upstream) float64 {
		if u.doc.LastDelivery == nil {
			return 0
		}
		return float64(u.doc.LastDelivery.UnixMilli()) / 1e3
	})
	each("sluice_upstream_dead_letters", "gauge", "Items that the upstream refused for good and that are kept.", func(u upstream) float64 { return float64(u.doc.DeadLetters) })
	e.family("sluice_upstream_samples", "gauge", "The upstream's books, in samples, since it was added: windowed is the sum of the other columns.")
	for _, u := range all {
		for _, c := range ledgerColumns {
			for _, k := range kinds {
				e.sample(float64(c.of(&u.books)[k].Samples), "upstream", u.doc.Name, "kind", k.String(), "column", c.name)
			}
		}
	}
	e.family("sluice_upstream_dropped_total", "counter", "Samples that will not reach the upstream, by reason.")
	for _, u := range all {
		reasons := make([]string, 0, len(u.books.Dropped))
		for reason := range u.books.Dropped {
			reasons = append(reasons, reason)
		}
		slices.Sort(reasons)
		for _, reason := range reasons {
			for _, k := range kinds {
				e.sample(float64(u.books.Dropped[reason][k].Samples), "upstream", u.doc.Name, "kind", k.String(), "reason", reason)
			}
		}
	}
	e.family("sluice_upstream_conservation_error", "gauge", "Samples and items that the upstream's books cannot explain; anything but 0 is a fault in sluice.")
	for _, u := range all {
		e.sample(float64(u.books.ConservationError), "upstream", u.doc.Name)
	}
}

var ledgerColumns = []struct {
	name string
	of   func(*spool.Ledger) *spool.Amounts
}{
	{"windowed", func(l *spool.Ledger) *spool.Amounts { return &l.Windowed }},
	{"pending", func(l *spool.Ledger) *spool.Amounts { return &l.Pending }},
	{"queued", func(l *spool.Ledger) *spool.Amounts { return &l.Queued }},
	{"sending", func(l *spool.Ledger) *spool.Amounts { return &l.Sending }},
	{"in_doubt", func(l *spool.Ledger) *spool.Amounts { return &l.InDoubt }},
	{"delivered", func(l *spool.Ledger) *spool.Amounts { return &l.Delivered }},
	{"dead", func(l *spool.Ledger) *spool.Amounts { return &l.Dead }},
	{"filtered", func(l *spool.Ledger) *spool.Amounts { return &l.Filtered }},
}

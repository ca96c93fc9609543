package clients

import (
	"strings"
	"testing"

	"github.com/DataDog/datadog-go/v5/statsd"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestMetricsParse reads /metrics the way Prometheus does.
func TestMetricsParse(t *testing.T) {
	t.Parallel()
	a := start(t)
	client, err := statsd.New(a.udp, statsd.WithoutClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	client.Count("parse.count", 1, []string{"a:b"}, 1)
	client.Count("parse.bad name", 1, nil, 1)
	client.Gauge("sluice.reserved", 1, nil, 1)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the counter is upstream", func() bool { return a.flux.CounterTotal("parse.count").Float == 1 })
	text := a.get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(families) < 25 {
		t.Errorf("%d families, want all of them\n%s", len(families), text)
	}
	for name, f := range families {
		if f.GetHelp() == "" || f.Type == nil || len(f.Metric) == 0 || !strings.HasPrefix(name, "sluice_") {
			t.Errorf("family %s: help %q, type %v, %d metrics", name, f.GetHelp(), f.Type, len(f.Metric))
		}
	}
	if got := families["sluice_accepted_total"]; got == nil || got.Metric[0].GetCounter().GetValue() != 2 {
		t.Errorf("sluice_accepted_total = %v, want 2 counters", got)
	}
}

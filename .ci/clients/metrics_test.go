package clients

import (
	"strings"
	"testing"

	"github.com/DataDog/datadog-go/v5/statsd"
	dto "github.com/prometheus/client_model/go"
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

// TestApplicationParse reads /metrics/application the way Prometheus does: what Datadog's
// client sent, with names and tags that Prometheus does not take as they are.
func TestApplicationParse(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.get("/metrics/application") // counting begins
	client, err := statsd.New(a.udp, statsd.WithoutClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	client.Count("app.orders", 3, []string{"shop:a", "le:x", `quote:"\`}, 1)
	client.Gauge("app.orders.open", 4, nil, 1)
	client.Gauge("app_orders", 9, nil, 1) // the counter's name
	client.Set("app.users", "u1", nil, 1)
	for _, v := range []float64{0.3, 0.5, 7, 1e6} {
		client.Distribution("app.took", v, []string{"größe:groß"}, 1)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	var families map[string]*dto.MetricFamily
	until(t, "all of it is shown", func() bool {
		parser := expfmt.NewTextParser(model.LegacyValidation)
		text := a.get("/metrics/application")
		if families, err = parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		took := families["app_took"] // sent last
		return took != nil && took.Metric[0].GetHistogram().GetSampleCount() == 4
	})
	labels := map[string]string{}
	for _, l := range families["app_orders"].Metric[0].Label {
		labels[l.GetName()] = l.GetValue()
	}
	if got := families["app_orders"].Metric[0].GetCounter().GetValue(); got != 3 || len(labels) != 3 || labels["shop"] != "a" || labels["tag_le"] != "x" || labels["quote"] != `"\` {
		t.Errorf("app_orders is %v with the labels %q", got, labels)
	}
	for name, want := range map[string]float64{"app_orders_open": 4, "app_orders_gauge": 9, "app_users_unique": 1} {
		if f := families[name]; f == nil || f.Metric[0].GetGauge().GetValue() != want {
			t.Errorf("%s is %v, want a gauge of %v", name, f, want)
		}
	}
	if len(families) != 5 {
		t.Errorf("%d families, want 5: %v", len(families), families)
	}
	h := families["app_took"].Metric[0].GetHistogram()
	if h.GetSampleSum() != 1e6+7.8 {
		t.Errorf("the values of app_took are together %v, want %v", h.GetSampleSum(), 1e6+7.8)
	}
	for _, b := range h.Bucket {
		want := uint64(0)
		for _, v := range []float64{0.3, 0.5, 7, 1e6} {
			if v <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d values are at most %v, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if len(h.Bucket) != 21 {
		t.Errorf("%d buckets, want the 20 of the default and the last", len(h.Bucket))
	}
}

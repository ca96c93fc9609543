package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sluice/aggregator"
)

// topOrders are what top sorts by, the first being the default.
var topOrders = []string{"items", "samples", "series", "growth"}

func newTop() *cobra.Command {
	var f apiFlags
	var by string
	var lines int
	var once bool
	c := &cobra.Command{
		Use:   "top [GLOB] [--by ORDER]",
		Short: "Show the metrics of a running agent that are largest, live",
		Long: `top shows what the metrics of the last window took: samples a second, series,
how many series more than when it began to look, and about how many items a minute
they cost upstream. It draws again every two seconds until it is interrupted; in a
pipe, or with --once, it looks once. sluice plan tells which tags make the series.`,
		Example: `  sluice top
  sluice top 'api.*' --by growth
  sluice top --once -n 5`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("top takes one GLOB, got %d (put quotes around it)", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(topOrders, by) {
				return usagef("--by %q: choose one of %s", by, strings.Join(topOrders, ", "))
			}
			api, err := f.client()
			if err != nil {
				return err
			}
			t := &top{by: by, lines: lines, glob: cmp.Or(strings.Join(args, ""), "*"), began: make(map[string]int)}
			s := newScreen(c.OutOrStdout())
			for {
				if err := t.look(c.Context(), api); err != nil {
					if c.Context().Err() != nil {
						return nil
					}
					return err
				}
				s.clear()
				t.show(s)
				if once || s.width == 0 || s.err != nil || sleep(c.Context(), watchEvery) != nil {
					return s.err
				}
			}
		},
	}
	addAPIFlags(c, &f)
	c.Flags().StringVar(&by, "by", topOrders[0], "sort by `ORDER`: "+strings.Join(topOrders, ", "))
	c.Flags().IntVarP(&lines, "lines", "n", 20, "show `N` metrics")
	c.Flags().BoolVar(&once, "once", false, "look once")
	return c
}

// top is what is known from looking.
type top struct {
	by, glob string
	lines    int
	began    map[string]int // series of each metric when it was first seen
	metrics  []metricDoc
	width    float64 // seconds that one item upstream stands for
	status   *statusPage
}

func (t *top) look(ctx context.Context, api *client) error {
	data, err := api.page(ctx, "/api/agent/metrics")
	if err != nil {
		return err
	}
	var page struct{ Metrics []metricDoc }
	if err := json.Unmarshal(data, &page); err != nil {
		return fmt.Errorf("read the metrics of %s: %w (is it another version?)", api.addr, err)
	}
	if t.status, err = readStatus(ctx, api); err != nil {
		return err
	}
	t.width = t.status.Windows.Interval
	if len(t.status.Upstreams) > 0 {
		t.width = max(t.width, t.status.Upstreams[0].Width)
	}
	t.take(page.Metrics)
	return nil
}

// take keeps the metrics that are wanted, sorted.
func (t *top) take(all []metricDoc) {
	t.metrics = slices.DeleteFunc(all, func(m metricDoc) bool { return !aggregator.Match(t.glob, m.Name) })
	for _, m := range t.metrics {
		if _, ok := t.began[m.Kind+" "+m.Name]; !ok {
			t.began[m.Kind+" "+m.Name] = m.Series
		}
	}
	key := func(m metricDoc) float64 {
		switch t.by {
		case "samples":
			return m.Rate
		case "series":
			return float64(m.Series)
		case "growth":
			return float64(t.growth(m))
		}
		return t.items(m)
	}
	slices.SortStableFunc(t.metrics, func(a, b metricDoc) int {
		return cmp.Or(cmp.Compare(key(b), key(a)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
}

func (t *top) growth(m metricDoc) int { return m.Series - t.began[m.Kind+" "+m.Name] }

// items is about how many items a minute a metric costs: a series is one a width, a
// distribution seven scalars and its values, a set its members once a minute.
func (t *top) items(m metricDoc) float64 {
	per := 60 / max(t.width, 1)
	switch m.Kind {
	case aggregator.Distribution.String():
		return float64(7*m.Series+m.Values) * per
	case aggregator.Set.String():
		return float64(m.Values)
	}
	return float64(m.Series) * per
}

func (t *top) show(s *screen) {
	allowed := ""
	for _, u := range t.status.Upstreams {
		if u.Budget.ItemsAllowed > 0 {
			allowed += fmt.Sprintf("; %s allows %s items a minute", u.Name, number(u.Budget.ItemsAllowed))
		}
	}
	s.line(bold, "%s metrics by %s; one item stands for %s%s", number(len(t.metrics)), t.by, width(t.width), allowed)
	s.line(bold, "%10s %10s %8s %8s  %s", "items/min", "samples/s", "series", "growth", "metric")
	for _, m := range t.metrics[:min(len(t.metrics), t.lines)] {
		s.line("", "%10s %10s %8s %+8d  %s (%s)", number(int64(t.items(m)+0.5)), rate(m.Rate), number(m.Series), t.growth(m), m.Name, m.Kind)
	}
	if more := len(t.metrics) - t.lines; more > 0 {
		s.line("", "and %s more", number(more))
	}
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
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
they cost upstream. It draws again every two seconds until q is pressed; in a pipe,
or with --once, it looks once. Keys:

    up down      choose a metric           o            the next order
    enter right  its tags, and of a tag    i s n g      order by items, samples,
                 the values, and so on                  series, growth
    esc left     back                      /            filter: a glob, or a part
    page keys    a screen up or down       q            quit`,
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
			t := newTopView(by)
			t.here().filter = strings.Join(args, "")
			if err := t.look(c.Context(), api); err != nil {
				return err
			}
			s := newScreen(c.OutOrStdout())
			in, keyed := c.InOrStdin().(*os.File)
			if keyed && s.moves && !once {
				if restore, err := readKeys(in); err == nil {
					defer restore()
					return t.live(c.Context(), api, in, c.OutOrStdout(), restore)
				}
			}
			return t.plain(c.Context(), api, s, lines, once || s.width == 0)
		},
	}
	addAPIFlags(c, &f)
	c.Flags().StringVar(&by, "by", topOrders[0], "sort by `ORDER`: "+strings.Join(topOrders, ", "))
	completes(c, "by", topOrders...)
	c.Flags().IntVarP(&lines, "lines", "n", 20, "show `N` metrics where no keys are read")
	c.Flags().BoolVar(&once, "once", false, "look once")
	return c
}

// plain draws without keys: once, or until ctx is done.
func (t *topView) plain(ctx context.Context, api *client, s *screen, lines int, once bool) error {
	for {
		if !once {
			s.clear()
		}
		t.narrow = s.width > 0 && s.width < topWide
		head, rows := t.table()
		for _, text := range head {
			s.line(bold, "%s", text)
		}
		for _, r := range rows[:min(len(rows), lines)] {
			s.line("", "%s", r.text)
		}
		if more := len(rows) - lines; more > 0 {
			s.line("", "and %s more", number(more))
		}
		if !once && !s.moves {
			s.line("", "")
		}
		if once || s.err != nil || sleep(ctx, watchEvery) != nil {
			return s.err
		}
		if err := t.look(ctx, api); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A topLevel is a place in the view: all metrics, the tags of the series of one that
// have certain tags, or the values of one of those.
type topLevel struct {
	name, kind string   // "" is all metrics
	with       []string // KEY:VALUE
	key        string   // whose values are shown; "" is all tags
	filter     string
	at         int // the row chosen
}

// topView is what is known from looking, and where one is.
type topView struct {
	by      string
	began   map[string]int // series of each metric when it was first seen
	levels  []topLevel     // the last is where one is
	metrics []metricDoc
	tags    *tagsDoc // of the metric where one is
	status  *statusPage
	width   float64 // seconds that one item upstream stands for
	failed  error   // of the last look

	typing bool // the filter
	page   int  // rows on a screen, as drawn last
	narrow bool // there is room for one figure beside a name
}

// topWide is how many columns a terminal must have for all figures and a name.
const topWide = 60

func newTopView(by string) *topView {
	return &topView{by: by, began: make(map[string]int), levels: make([]topLevel, 1), page: 20}
}

func (t *topView) here() *topLevel { return &t.levels[len(t.levels)-1] }

// look asks the agent for what is shown.
func (t *topView) look(ctx context.Context, api *client) error {
	var page struct{ Metrics []metricDoc }
	err := askJSON(ctx, api, "/api/agent/metrics", &page)
	if err != nil {
		return err
	}
	if t.status, err = readStatus(ctx, api); err != nil {
		return err
	}
	t.width = t.status.Windows.Interval
	if len(t.status.Upstreams) > 0 {
		t.width = max(t.width, t.status.Upstreams[0].Width)
	}
	t.take(page.Metrics)
	return t.lookCloser(ctx, api)
}

// lookCloser asks for the tags where one is.
func (t *topView) lookCloser(ctx context.Context, api *client) error {
	at := t.here()
	if at.name == "" {
		return nil
	}
	tags := new(tagsDoc)
	q := url.Values{"name": {at.name}, "kind": {at.kind}, "tag": at.with}
	if err := askJSON(ctx, api, "/api/agent/metrics/tags?"+q.Encode(), tags); err != nil {
		return err
	}
	t.tags = tags
	return nil
}

func askJSON(ctx context.Context, api *client, path string, v any) error {
	data, err := api.page(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read the answer of %s: %w (is it another version?)", api.addr, err)
	}
	return nil
}

// take keeps the metrics, and how many series they began with.
func (t *topView) take(all []metricDoc) {
	t.metrics = all
	for _, m := range all {
		if _, ok := t.began[m.Kind+" "+m.Name]; !ok {
			t.began[m.Kind+" "+m.Name] = m.Series
		}
	}
}

func (t *topView) growth(m *metricDoc) int { return m.Series - t.began[m.Kind+" "+m.Name] }

// items is about how many items a minute so many series of a kind cost: each is one a
// width, of a distribution seven scalars and its values, of a set its members once a
// minute.
func (t *topView) items(kind string, series, values int) float64 {
	per := 60 / max(t.width, 1)
	switch kind {
	case aggregator.Distribution.String():
		return float64(7*series+values) * per
	case aggregator.Set.String():
		return float64(values)
	}
	return float64(series) * per
}

// A topRow is one line of the table, and where enter leads.
type topRow struct {
	text string
	to   topLevel
}

// table is what is shown where one is: two lines of heads, and rows.
func (t *topView) table() (head [2]string, rows []topRow) {
	at := t.here()
	switch {
	case at.name == "":
		head, rows = t.metricTable()
	case t.tags == nil || t.tags.Name != at.name:
		head[0] = at.name
	case at.key == "":
		head, rows = t.tagTable()
	default:
		head, rows = t.valueTable()
	}
	return head, rows
}

// columns writes figures in columns, and a name behind them. Where all do not fit,
// there is the one that the order goes by.
func (t *topView) columns(name string, figures ...string) string {
	if t.narrow {
		i := max(slices.Index(topOrders, t.by), 0)
		return fmt.Sprintf("%9s  %s", figures[min(i, len(figures)-1)], name)
	}
	var b strings.Builder
	for i, f := range figures {
		fmt.Fprintf(&b, "%*s ", []int{10, 10, 8, 8}[i], f)
	}
	return b.String() + " " + name
}

// wanted tells whether a name passes the filter: one without * and ? is looked for
// within the name.
func (l *topLevel) wanted(name string) bool {
	if strings.ContainsAny(l.filter, "*?") {
		return aggregator.Match(l.filter, name)
	}
	return strings.Contains(name, l.filter)
}

// sorted gives rows in the order that was chosen.
func (t *topView) sorted(list []metricDoc) []metricDoc {
	key := func(m *metricDoc) float64 {
		switch t.by {
		case "samples":
			return m.Rate
		case "series":
			return float64(m.Series)
		case "growth":
			return float64(t.growth(m))
		}
		return t.items(m.Kind, m.Series, m.Values)
	}
	slices.SortStableFunc(list, func(a, b metricDoc) int {
		return cmp.Or(cmp.Compare(key(&b), key(&a)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	return list
}

func (t *topView) metricTable() (head [2]string, rows []topRow) {
	at := t.here()
	for _, m := range t.sorted(slices.Clone(t.metrics)) {
		if at.wanted(m.Name) {
			rows = append(rows, topRow{
				t.columns(m.Name+" ("+m.Kind+")", number(int64(t.items(m.Kind, m.Series, m.Values)+0.5)), rate(m.Rate), number(m.Series), fmt.Sprintf("%+d", t.growth(&m))),
				topLevel{name: m.Name, kind: m.Kind}})
		}
	}
	head[0] = fmt.Sprintf("%s metrics by %s; one item stands for %s", number(len(rows)), t.by, width(t.width))
	for _, u := range t.status.Upstreams {
		if u.Budget.ItemsAllowed > 0 {
			head[0] += fmt.Sprintf("; %s allows %s items a minute", u.Name, number(u.Budget.ItemsAllowed))
		}
	}
	head[1] = t.columns("metric", "items/min", "samples/s", "series", "growth")
	return head, rows
}

func (t *topView) tagTable() (head [2]string, rows []topRow) {
	at, d := t.here(), t.tags
	head[0] = strings.Join(append([]string{at.name}, at.with...), " ") +
		fmt.Sprintf(" (%s): %s series, %s samples/s, %s items/min", at.kind, number(d.Series), rate(d.Rate), number(int64(t.items(d.Kind, d.Series, d.Values)+0.5)))
	head[1] = fmt.Sprintf("%9s %11s  %s", "values", "without it", "tag")
	for _, tag := range d.Tags {
		if !at.wanted(tag.Key) {
			continue
		}
		without := "-"
		if tag.Without > 0 {
			without = number(tag.Without)
		}
		to := *at
		to.key, to.filter, to.at = tag.Key, "", 0
		rows = append(rows, topRow{fmt.Sprintf("%9s %11s  %s", number(tag.Values), without, tag.Key), to})
	}
	return head, rows
}

func (t *topView) valueTable() (head [2]string, rows []topRow) {
	at, d := t.here(), t.tags
	head[0] = strings.Join(append([]string{at.name}, at.with...), " ") + ": the values of " + at.key
	head[1] = t.columns("value", "items/min", "samples/s", "series")
	i := slices.IndexFunc(d.Tags, func(tag tagDoc) bool { return tag.Key == at.key })
	if i < 0 {
		return head, nil
	}
	tag := d.Tags[i]
	var list []metricDoc // what a value is of, in its name
	for _, v := range tag.Top {
		if at.wanted(v.Value) {
			list = append(list, metricDoc{Name: v.Value, Kind: d.Kind, Series: v.Series, Rate: v.Rate, Values: v.Values})
		}
	}
	for _, m := range t.sorted(list) {
		with, tag := slices.Clone(at.with), at.key+":"+m.Name
		if !slices.Contains(with, tag) { // that of before may be chosen again
			with = append(with, tag)
		}
		rows = append(rows, topRow{
			t.columns(m.Name, number(int64(t.items(m.Kind, m.Series, m.Values)+0.5)), rate(m.Rate), number(m.Series)),
			topLevel{name: at.name, kind: at.kind, with: with}})
	}
	if more := tag.Values - len(tag.Top); more > 0 {
		head[0] += fmt.Sprintf(" with the most series; %s more", number(more))
	}
	return head, rows
}

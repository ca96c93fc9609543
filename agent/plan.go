package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/forwarder"
	"sluice/listeners"
)

// maxPlanSeries bounds what plan keeps of a capture.
const maxPlanSeries = 200_000

func newPlan() *cobra.Command {
	var f apiFlags
	var most time.Duration
	var lines int
	c := &cobra.Command{
		Use:   "plan [FILE] [--for TIME]",
		Short: "Tell what traffic costs of an upstream's budget, and what would cost less",
		Long: `plan counts the items that traffic makes: of a capture in FILE, or of what arrives
at a running agent for a time. It tells at which width they fit into the budget of
each upstream, which metrics cost most, and of which tag to take leave. Rules and
tags are those of the configuration. What comes over HTTP is in no capture.`,
		Example: `  sluice plan --for 1m
  sluice capture traffic.json --for 5m && sluice plan traffic.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("plan takes one FILE, got %d (see sluice plan --help)", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := clientConfig(f.file)
			if err != nil {
				return err
			}
			p, err := newTraffic(cfg)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				err = p.readFile(args[0])
			} else {
				err = p.watch(c.Context(), &f, most, newScreen(c.ErrOrStderr()))
			}
			if err != nil {
				return err
			}
			s := newScreen(c.OutOrStdout())
			p.show(s, cfg, lines)
			return s.err
		},
	}
	addAPIFlags(c, &f)
	c.Flags().DurationVar(&most, "for", time.Minute, "watch for this `TIME`")
	c.Flags().IntVarP(&lines, "lines", "n", 10, "show the `N` metrics that cost most")
	return c
}

// traffic is what packets came to, as series in windows.
type traffic struct {
	rules       listeners.Rules
	naming      listeners.Naming
	parser      *listeners.Parser
	interval    time.Duration
	series      map[aggregator.Series]*seriesTraffic
	first, last time.Time
	packets     int
	samples     int
	refused     int
	missed      uint64
	beyond      int // samples of series over maxPlanSeries
}

// seriesTraffic is what came of one series: samples by the number of their window, and of
// a set how many members more are in a minute than in the one that begins a window
// earlier, by the window it begins with.
type seriesTraffic struct {
	windows map[int64]int
	members map[string]int64 // the last window in which each was there
	minutes map[int64]int
}

func newTraffic(cfg configs.Config) (*traffic, error) {
	set, err := ruleSet(cfg.Aggregate)
	if err != nil {
		return nil, err
	}
	t := &traffic{interval: cfg.Aggregate.Interval, series: make(map[aggregator.Series]*seriesTraffic)}
	t.rules.Set(set)
	t.naming = listeners.Naming{TagsInNames: true, Rules: &t.rules}
	t.parser = listeners.NewParser(&t.naming)
	return t, nil
}

// add takes one packet.
func (t *traffic) add(p *capturedPacket) {
	t.packets++
	if t.first.IsZero() || p.At.Before(t.first) {
		t.first = p.At
	}
	if p.At.After(t.last) {
		t.last = p.At
	}
	t.parser.Start(p.content(), false)
	for more := true; more; {
		var batch []aggregator.Sample
		batch, more = t.parser.Next()
		for i := range batch {
			t.sample(p.At, &batch[i])
		}
	}
	for _, n := range t.parser.Refused {
		t.refused += int(n)
	}
	t.parser.Refused = [aggregator.Reasons]uint64{}
}

func (t *traffic) sample(at time.Time, s *aggregator.Sample) {
	var key aggregator.Key
	key.Reset(s.Kind)
	if t.naming.Name(&key, s) != aggregator.Taken {
		t.refused++
		return
	}
	t.samples++
	series := key.Series()
	of := t.series[series]
	if of == nil {
		if len(t.series) >= maxPlanSeries {
			t.beyond++
			return
		}
		of = &seriesTraffic{windows: make(map[int64]int)}
		t.series[series] = of
	}
	window := t.window(at)
	of.windows[window]++
	if s.Kind == aggregator.Set {
		of.member(string(s.Member), window, int64(time.Minute/t.interval))
	}
}

// window numbers the windows since 1970.
func (t *traffic) window(at time.Time) int64 { return at.UnixNano() / int64(t.interval) }

// member notes that a member was there in a window; a minute has so many.
func (of *seriesTraffic) member(text string, window, minute int64) {
	if of.members == nil {
		of.members, of.minutes = make(map[string]int64), make(map[int64]int)
	}
	last, known := of.members[text]
	if known && window <= last || !known && len(of.members) >= maxPlanSeries {
		return
	}
	of.members[text] = window
	first := window - minute + 1
	if known {
		first = max(first, last+1)
	}
	of.minutes[first]++
	of.minutes[window+1]--
}

func (t *traffic) readFile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read the capture: %w", err)
	}
	defer file.Close()
	err = eachCaptured(file, func(p *capturedPacket) error { t.add(p); return nil })
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (t *traffic) watch(ctx context.Context, f *apiFlags, most time.Duration, progress *screen) error {
	api, err := f.client()
	if err != nil {
		return err
	}
	progress.line("", "watching %s for %s", api.addr, width(most.Seconds()))
	return follow(ctx, api, url.Values{"packets": {"1"}}, most, func(event string, data []byte) (bool, error) {
		if event == "skipped" {
			var k tailSkipped
			err := json.Unmarshal(data, &k)
			t.missed += k.Packets
			return true, err
		}
		var p capturedPacket
		if err := json.Unmarshal(data, &p); err != nil {
			return false, err
		}
		t.add(&p)
		return true, nil
	})
}

// eachCaptured reads the packets of a capture. One that was cut off is read as far
// as it goes.
func eachCaptured(file io.Reader, each func(*capturedPacket) error) error {
	in := bufio.NewReaderSize(file, 64<<10)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			if err == nil {
				continue
			}
			if n == 1 {
				return errors.New("it is empty")
			}
			return nil
		}
		var line struct {
			captureHead
			capturedPacket
		}
		if bad := json.Unmarshal(text, &line); bad != nil {
			if err == io.EOF && n > 1 {
				return nil
			}
			return fmt.Errorf("line %d is no line of a capture: %w", n, bad)
		}
		switch {
		case n == 1 && line.Format != captureFormat:
			return errors.New("this is no capture, or one of another version")
		case line.From == "": // the head, the end, or something of a later version
			continue
		}
		if err := each(&line.capturedPacket); err != nil {
			return err
		}
	}
}

// items is how many items a minute a series makes at a step of the ladder: the mean of
// all times of that width that lie in the traffic, wherever they begin, for where a minute
// begins is not where the traffic does. When there is less traffic than that, it is taken
// to go on as it did.
func (t *traffic) items(s aggregator.Series, of *seriesTraffic, step forwarder.Step, scalars int) float64 {
	if step.Few {
		scalars = min(scalars, 2)
	}
	first, last := t.window(t.first), t.window(t.last)
	have := last - first + 1
	if s.Kind() == aggregator.Set && !step.Unique { // a member goes out once a minute
		begins := max(have-int64(time.Minute/t.interval), 0) + 1
		return meanOf(of.minutes, first, begins, func(members int) float64 { return float64(members) })
	}
	wide := int64(step.Width / t.interval)
	changes := make(map[int64]int, 2*len(of.windows)) // of the samples in a time, by the window it begins with
	for window, samples := range of.windows {
		changes[window-wide+1] += samples
		changes[window+1] -= samples
	}
	mean := meanOf(changes, first, max(have-wide, 0)+1, func(samples int) float64 {
		switch {
		case samples == 0:
			return 0
		case s.Kind() == aggregator.Distribution:
			seen := float64(samples) * max(float64(wide)/float64(have), 1)
			return float64(scalars) + min(seen, float64(step.Points))
		}
		return 1
	})
	return mean / step.Width.Minutes()
}

// meanOf is the mean of what so many numbers in a row come to, by the window that each
// stands for, from first on. A number is the sum of the changes up to it.
func meanOf(changes map[int64]int, first, n int64, of func(int) float64) float64 {
	sum, value, last := 0.0, 0, first
	for _, at := range append(slices.Sorted(maps.Keys(changes)), first+n) {
		if to := min(at, first+n); to > last {
			sum += float64(to-last) * of(value)
			last = to
		}
		value += changes[at]
	}
	return sum / float64(n)
}

func (t *traffic) total(step forwarder.Step, scalars int) (sum float64) {
	for s, of := range t.series {
		sum += t.items(s, of, step, scalars)
	}
	return sum
}

func (t *traffic) show(s *screen, cfg configs.Config, lines int) {
	if t.packets == 0 {
		s.line("", "nothing arrived over datagram sockets")
		return
	}
	s.wrapped(bold, fmt.Sprintf("%s of traffic: %s packets, %s samples, %s series", span(t.last.Sub(t.first)), number(t.packets), number(t.samples), number(len(t.series))))
	if t.refused > 0 {
		s.wrapped("", number(t.refused)+" lines were not taken (sluice tail --refused shows why)")
	}
	if t.missed > 0 {
		s.wrapped(red, number(t.missed)+" packets came too fast and are not in the figures; capture a shorter time, or fewer programs")
	}
	if t.beyond > 0 {
		s.wrapped(red, fmt.Sprintf("%s samples are of more than %s series and are not in the figures", number(t.beyond), number(maxPlanSeries)))
	}
	if t.last.Sub(t.first) < 50*time.Second {
		s.wrapped("", "less than a minute: figures are taken to go on like this")
	}
	upstreams := cfg.Upstreams
	if len(upstreams) == 0 {
		upstreams = []configs.Upstream{configs.DefaultUpstream(configs.Flux)}
		s.wrapped("", "no upstream is configured: this is what hosted Flux would take")
	}
	var at forwarder.Step
	for _, u := range upstreams {
		at = t.showUpstream(s, &u)
	}
	t.showMetrics(s, at, len(upstreams[len(upstreams)-1].Scalars), lines)
}

// showUpstream writes the ladder down to the first step that fits, and returns it.
func (t *traffic) showUpstream(s *screen, u *configs.Upstream) forwarder.Step {
	budget := float64(u.RequestsPerMinute * max(u.ItemsPerRequest-1, 1)) // one of each is the marker
	s.line("", "")
	s.line(bold, "UPSTREAM %s: %s items a minute", u.Name, number(int64(budget)))
	steps := forwarder.Ladder(t.interval, u.Points)
	for i, step := range steps {
		items := t.total(step, len(u.Scalars))
		fits := items <= budget
		text := fmt.Sprintf("%-4s %5d points %12s items/min", width(step.Width.Seconds()), step.Points, number(int64(items+0.5)))
		if step.Unique {
			text += ", large sets as their number"
		}
		if step.Few {
			text += ", count and sum alone"
		}
		if fits {
			s.line(bold, "%s  fits: this is what is sent", text)
			return step
		}
		s.line("", "%s  does not fit", text)
		if i == len(steps)-1 {
			s.wrapped(red, "even that does not fit: the oldest windows would be lost. Send fewer series, or ask for a larger budget")
		}
	}
	return steps[len(steps)-1]
}

// metricTraffic is what one metric costs.
type metricTraffic struct {
	name   string
	kind   aggregator.Kind
	items  float64
	series []aggregator.Series
}

func (t *traffic) showMetrics(s *screen, step forwarder.Step, scalars, lines int) {
	byName := make(map[string]*metricTraffic)
	all := 0.0
	for series, of := range t.series {
		key := series.Kind().String() + " " + series.Name()
		m := byName[key]
		if m == nil {
			m = &metricTraffic{name: series.Name(), kind: series.Kind()}
			byName[key] = m
		}
		n := t.items(series, of, step, scalars)
		m.items += n
		all += n
		m.series = append(m.series, series)
	}
	list := slices.SortedFunc(maps.Values(byName), func(a, b *metricTraffic) int {
		return cmp.Or(cmp.Compare(b.items, a.items), cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
	s.line("", "")
	s.line(bold, "WHAT COSTS MOST (at %s)", width(step.Width.Seconds()))
	for i, m := range list {
		if i == lines {
			s.line("", "and %s more metrics", number(len(list)-lines))
			break
		}
		s.wrapped("", fmt.Sprintf("- %s (%s): %s items/min, %.0f %%; %s series", m.name, m.kind, number(int64(m.items+0.5)), 100*m.items/max(all, 1), number(len(m.series))))
		if tag, values, left := costly(m.series); tag != "" {
			s.wrapped("", fmt.Sprintf("    without the tag %s (%s values) it has %s series: drop_tags: [%s], or classes", tag, number(values), number(left), tag))
		}
	}
}

// costly finds the tag without which a metric has the fewest series, if that is at
// most half of them.
func costly(series []aggregator.Series) (tag string, values, left int) {
	if len(series) < 4 {
		return "", 0, 0
	}
	of := make(map[string]map[string]bool)
	for _, s := range series {
		for k, v := range s.Tags() {
			if of[k] == nil {
				of[k] = make(map[string]bool)
			}
			of[k][v] = true
		}
	}
	left = len(series)/2 + 1
	for _, k := range slices.Sorted(maps.Keys(of)) {
		if len(of[k]) < 2 {
			continue
		}
		rest := make(map[string]bool)
		for _, s := range series {
			var b strings.Builder
			for key, v := range s.Tags() {
				if key != k {
					b.WriteString(key + "\x00" + v + "\x00")
				}
			}
			rest[b.String()] = true
		}
		if len(rest) < left {
			tag, values, left = k, len(of[k]), len(rest)
		}
	}
	return tag, values, left
}

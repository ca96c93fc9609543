package listeners

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"sluice/aggregator"
)

// heard is one sample as a sink that keeps everything would describe it.
// Values are comparable with ==.
type heard struct {
	series aggregator.Series
	member string
	value  float64 // 0 when whole
	whole  bool
	exact  int64
	weight float64 // never 0
	time   int64
	sign   byte
	cut    bool
}

// A verdict is what a packet amounts to.
type verdict struct {
	samples []heard
	events  []string // as showEvent writes them
	refused [aggregator.Reasons]uint64
	tagCut  uint64
}

// oracle reads a packet as docs/protocols.md says, sentence by sentence, with
// strings and regular expressions. It shares no code with the parser, and is
// as slow as it is plain.
func oracle(n *Naming, packet string, truncated bool) verdict {
	var v verdict
	if truncated {
		v.refused[aggregator.Truncated]++
		end := strings.LastIndex(packet, "\n")
		if end < 0 {
			return v
		}
		packet = packet[:end]
	}
	packet = strings.TrimPrefix(packet, "\uFEFF")
	for line := range strings.SplitSeq(packet, "\n") {
		if e, reason, is := oracleEvent(n, strings.TrimLeft(line, " \t")); is {
			v.refused[reason]++
			if reason == aggregator.Taken {
				v.events = append(v.events, e.text)
				if e.cut {
					v.tagCut++
				}
			}
			continue
		}
		line = strings.TrimLeft(strings.TrimRight(line, "\r\x00 \t"), " \t")
		if line == "" {
			continue
		}
		samples, reason := oracleLine(n, string([]rune(line)))
		v.refused[reason]++
		v.samples = append(v.samples, samples...)
		if len(samples) > 0 && samples[0].cut {
			v.tagCut++
		}
	}
	v.refused[aggregator.Taken] = 0
	return v
}

var (
	numberForm  = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$`)
	integerForm = regexp.MustCompile(`^[+-]?[0-9]+$`)
	nanForm     = regexp.MustCompile(`^[+-]?(?i:nan|inf|infinity|∞)$`)
	timeForm    = regexp.MustCompile(`^[0-9]*[1-9][0-9]*$`)
	gapForm     = regexp.MustCompile(`[ \p{Cc}]+`)
	controlForm = regexp.MustCompile(`\p{Cc}`)
)

var oracleKinds = map[string]aggregator.Kind{
	"c": aggregator.Counter, "m": aggregator.Counter, "g": aggregator.Gauge, "s": aggregator.Set,
	"ms": aggregator.Distribution, "h": aggregator.Distribution, "d": aggregator.Distribution,
}

func oracleLine(n *Naming, line string) ([]heard, aggregator.Reason) {
	fields := strings.Split(line, "|")
	head := fields[0]
	if len(fields) < 2 || !strings.Contains(head, ":") {
		return nil, aggregator.MalformedLine
	}
	if head[0] == ':' {
		return nil, aggregator.BadName
	}
	kind, ok := oracleKinds[fields[1]]
	if !ok {
		return nil, aggregator.BadType
	}

	name, values, inner := oracleHead(n, head, kind)
	name = strings.ReplaceAll(gapForm.ReplaceAllString(name, "_"), "/", "-")
	switch {
	case name == "":
		return nil, aggregator.BadName
	case len(name) > 255:
		return nil, aggregator.NameTooLong
	case strings.HasPrefix(name, "sluice."):
		return nil, aggregator.ReservedName
	}

	var written []string
	var numbers []float64
	if kind == aggregator.Set {
		if values == "" {
			return nil, aggregator.BadValue
		}
	} else {
		for w := range strings.SplitSeq(values, ":") {
			if w == "" {
				continue
			}
			v, reason := oracleNumber(w)
			if reason != aggregator.Taken {
				return nil, reason
			}
			written, numbers = append(written, w), append(numbers, v)
		}
		if len(written) == 0 {
			return nil, aggregator.BadValue
		}
	}

	rate, at, outer := 1.0, int64(0), ""
	for _, f := range fields[2:] {
		switch {
		case strings.HasPrefix(f, "@"):
			r, reason := oracleNumber(f[1:])
			if reason != aggregator.Taken || r < 1e-6 {
				return nil, aggregator.BadRate
			}
			rate = math.Min(r, 1)
		case strings.HasPrefix(f, "T"):
			if !timeForm.MatchString(f[1:]) {
				return nil, aggregator.BadTimestamp
			}
			at = math.MaxInt64
			if sec, err := strconv.ParseInt(f[1:], 10, 64); err == nil && sec <= math.MaxInt64/1_000_000_000 {
				at = sec * 1_000_000_000
			}
		case strings.HasPrefix(f, "#"):
			outer += "," + f[1:]
		}
	}
	if kind == aggregator.Counter {
		for i := range numbers {
			numbers[i] /= rate
			if math.IsInf(numbers[i], 0) {
				return nil, aggregator.BadValue
			}
		}
	}
	if strings.HasPrefix(name, "datadog.dogstatsd.client.") && !n.ClientTelemetry {
		return nil, aggregator.ClientTelemetry
	}

	tags, cut := map[string]string{}, false
	for _, t := range inner {
		cut = oracleTag(tags, t, "=") || cut
	}
	for t := range strings.SplitSeq(outer, ",") {
		cut = oracleTag(tags, t, ":") || cut
	}
	if len(tags) > 100 {
		return nil, aggregator.TooManyTags
	}
	for _, t := range oracleTags(n.Rules) {
		if _, ok := tags[t.Key]; !ok && len(tags) < 100 {
			tags[t.Key] = t.Value
		}
	}
	var list []aggregator.Tag
	for k, v := range tags {
		list = append(list, aggregator.Tag{Key: k, Value: v})
	}
	base := heard{series: aggregator.NewSeries(kind, name, list...), weight: 1, cut: cut}

	if kind == aggregator.Set {
		base.member = controlForm.ReplaceAllString(values, "_")
		return []heard{base}, aggregator.Taken
	}
	if kind == aggregator.Distribution {
		base.weight = 1 / rate
	} else {
		base.time = at
	}
	var all []heard
	for i, w := range written {
		h := base
		h.value = numbers[i]
		if i, err := strconv.ParseInt(strings.TrimPrefix(w, "+"), 10, 64); kind == aggregator.Counter && rate == 1 && integerForm.MatchString(w) && err == nil {
			h.whole, h.exact, h.value = true, i, 0
		}
		if kind == aggregator.Gauge && at == 0 && strings.ContainsAny(w[:1], "+-") {
			h.sign = w[0]
		}
		all = append(all, h)
	}
	return all, aggregator.Taken
}

// oracleHead finds name, values and the tags inside the name.
func oracleHead(n *Naming, head string, kind aggregator.Kind) (name, values string, inner []string) {
	first, rest, _ := strings.Cut(head, ":")
	i := strings.IndexAny(first, ",;#[")
	if i < 0 || !n.TagsInNames {
		return first, rest, nil
	}
	if first[i] == '[' {
		in, after, ok := strings.Cut(first[i+1:], "]")
		if !ok || !strings.Contains(in, "=") {
			return first, rest, nil
		}
		// A run of spaces may go on behind the brackets: the two parts are one name.
		return first[:i] + after, rest, strings.Split(in, ",")
	}
	if !strings.Contains(first[i+1:], "=") {
		return first, rest, nil
	}
	text := first[i+1:]
	if kind != aggregator.Set {
		last := strings.LastIndex(head, ":")
		text, rest = head[i+1:last], head[last+1:]
	}
	if first[i] == ';' {
		return first[:i], rest, strings.Split(text, ";")
	}
	return first[:i], rest, strings.Split(text, ",")
}

// oracleTag puts one element into tags and answers whether it was cut.
func oracleTag(tags map[string]string, element, equals string) (cut bool) {
	element = strings.Trim(element, " \t")
	k, v, ok := strings.Cut(element, equals)
	if !ok {
		v = "true"
	}
	k, v = strings.Trim(k, " \t"), strings.Trim(v, " \t")
	switch k {
	case "", "dd.internal.entity_id", "dd.internal.card", "dd.internal.jmx_check_name":
		return false
	}
	k, v = controlForm.ReplaceAllString(k, "_"), controlForm.ReplaceAllString(v, "_")
	short := func(s string, limit int) string {
		for len(s) > limit {
			r := []rune(s)
			s = string(r[:len(r)-1])
			cut = true
		}
		return s
	}
	if len(k) > 1000 { // only to keep the loop above short
		k, cut = strings.ToValidUTF8(k[:1000], ""), true
	}
	if len(v) > 1000 {
		v, cut = strings.ToValidUTF8(v[:1000], ""), true
	}
	tags[short(k, 64)] = short(v, 200)
	return cut
}

func oracleNumber(s string) (float64, aggregator.Reason) {
	switch {
	case nanForm.MatchString(s):
		return 0, aggregator.NonFinite
	case !numberForm.MatchString(s):
		return 0, aggregator.BadValue
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, aggregator.BadValue
	}
	if v == 0 {
		return 0, aggregator.Taken
	}
	return v, aggregator.Taken
}

func oracleTags(r *Rules) []aggregator.Tag {
	if r == nil {
		return nil
	}
	return r.current.Load().tags
}

package main

import (
	"strings"

	"sluice/aggregator"
)

// promName makes a name that Prometheus takes everywhere, [a-zA-Z_][a-zA-Z0-9_]*, of a
// metric's: every other byte becomes a _. (A colon is for the names of recording rules.)
func promName(name string) string {
	b := []byte(name)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			b[i] = '_'
		}
	}
	if b[0] >= '0' && b[0] <= '9' {
		return "_" + string(b)
	}
	return string(b)
}

// promLabel makes the name of a label of a tag's key. Names that begin with __ are
// Prometheus' own, and le is the one by which a histogram's buckets differ.
func promLabel(key string) string {
	name := promName(key)
	if strings.HasPrefix(name, "__") || name == "le" {
		return "tag_" + strings.TrimLeft(name, "_")
	}
	return name
}

// appendLabels writes a series' tags as labels, without the braces around them. A label
// without a value is none (prometheus.io, "Data model"). Values of tags whose labels have
// one name stand behind each other, as OpenTelemetry's exporter has it (specification,
// "Prometheus and OpenMetrics Compatibility", Metric Attributes).
func appendLabels(dst []byte, s aggregator.Series) []byte {
	type label struct{ name, value string }
	var labels []label
	for key, value := range s.Tags() {
		if value == "" {
			continue
		}
		l := label{promLabel(key), strings.ToValidUTF8(value, "\uFFFD")}
		same := false
		for i := range labels {
			if same = labels[i].name == l.name; same {
				labels[i].value += ";" + l.value
				break
			}
		}
		if !same {
			labels = append(labels, l)
		}
	}
	for i, l := range labels {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, l.name...), '=', '"'), labelEscapes.Replace(l.value)...)
		dst = append(dst, '"')
	}
	return dst
}

var helpEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`)

// takesText tells whether a client that sends such a header Accept takes the Prometheus
// text format: whoever asks for nothing does, and whoever takes anything.
func takesText(accept []string) bool {
	if len(accept) == 0 {
		return true
	}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, parameters, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/plain", "text/*", "*/*", "":
			if !refusedByWeight(parameters) {
				return true
			}
		}
	}
	return false
}

// refusedByWeight tells of q=0, which says: not this one (RFC 9110, 12.4.2).
func refusedByWeight(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") && strings.Trim(value, "0.") == "" {
			return true
		}
	}
	return false
}

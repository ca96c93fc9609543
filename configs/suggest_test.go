package configs

import (
	"slices"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"interval", "max_series", "max_series_per_metric", "level", "url"}
	for key, want := range map[string]string{
		"intervall": "interval", "intreval": "interval", "Interval": "interval", "elvel": "level", "levl": "level",
		"max-series": "max_series", "maxSeries": "max_series", "max_series_pr_metric": "max_series_per_metric", "urls": "url",
		"": "", "x": "", "velle": "", "interim": "", "uri_": "",
	} {
		if got := nearest(key, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", key, got, want)
		}
	}
}

// The schema is walked by reflection: a field without its tag, or a key twice,
// would be a key that no file can set.
func TestSchema(t *testing.T) {
	sorted := slices.Sorted(slices.Values(schema))
	if got := slices.Compact(sorted); len(got) != len(schema) || slices.Contains(got, "") {
		t.Errorf("the schema has a key twice or without a name: %q", schema)
	}
}

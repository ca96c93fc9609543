package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestIntegrations plays what an application counts of its partners, and has promtool
// evaluate what the dashboard of integrations asks: payments fails every fourth time,
// mail never, and nobody asks maps for anything.
func TestIntegrations(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool")
	}
	queries, rows := panelQueries(t)
	if rows != 6 {
		t.Errorf("%d rows, want 6", rows)
	}
	const series = `rule_files: []
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'integration_requests_total{partner="payments",endpoint="/charge",method="POST",status="success"}', values: '0+45x20'}
      - {series: 'integration_requests_total{partner="payments",endpoint="/charge",method="POST",status="error_503"}', values: '0+7.5x20'}
      - {series: 'integration_requests_total{partner="payments",endpoint="/charge",method="POST",status="timeout"}', values: '0+7.5x20'}
      - {series: 'integration_requests_total{partner="mail",endpoint="/send",method="POST",status="success"}', values: '0+60x20'}
      - {series: 'integration_requests_total{partner="maps",endpoint="/find",method="GET",status="success"}', values: '7+0x20'}
      - {series: 'integration_request_duration_seconds_bucket{partner="mail",endpoint="/send",method="POST",le="1"}', values: '0+60x20'}
      - {series: 'integration_request_duration_seconds_bucket{partner="mail",endpoint="/send",method="POST",le="2"}', values: '0+120x20'}
      - {series: 'integration_request_duration_seconds_bucket{partner="mail",endpoint="/send",method="POST",le="+Inf"}', values: '0+120x20'}
      - {series: 'integration_retries_total{partner="payments",attempt_number="1"}', values: '0+7.5x20'}
      - {series: 'integration_circuit_breaker_state{partner="payments",state="open"}', values: '1x20'}
      - {series: 'integration_circuit_breaker_state{partner="payments",state="closed"}', values: '0x20'}
    promql_expr_test:
`
	var b strings.Builder
	b.WriteString(series)
	for title, want := range map[string]map[string]float64{
		"Errors, by partner":                  {`{partner="payments"}`: 25, `{partner="mail"}`: 0},
		"Requests, by partner":                {`{partner="payments"}`: 1, `{partner="mail"}`: 1, `{partner="maps"}`: 0},
		"Errors, by status":                   {`{partner="payments", status="error_503"}`: 0.125, `{partner="payments", status="timeout"}`: 0.125},
		"p50, by partner":                     {`{partner="mail"}`: 1},
		"p95, by partner":                     {`{partner="mail"}`: 1.9},
		"p99, by partner":                     {`{partner="mail"}`: 1.98},
		"Retries, by partner":                 {`{partner="payments"}`: 0.125},
		"Retries of 100 requests, by partner": {`{partner="payments"}`: 12.5},
		"Circuit breakers, by partner":        {`{partner="payments", state="open"}`: 1},
	} {
		expr := queries[title]
		if delete(queries, title); expr == "" {
			t.Errorf("no panel asks for %q", title)
			continue
		}
		quoted, _ := json.Marshal(expr)
		fmt.Fprintf(&b, "      - expr: %s\n        eval_time: 10m\n        exp_samples:\n", quoted)
		for labels, value := range want {
			fmt.Fprintf(&b, "          - {labels: '%s', value: %v}\n", labels, value)
		}
	}
	for title := range queries {
		t.Errorf("the panel %q is not evaluated", title)
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "promtool", "test", "rules", file)
}

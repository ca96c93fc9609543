package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAlerts has promtool check the alert rules, and play them.
func TestAlerts(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool")
	}
	run(t, "promtool", "check", "rules", "../grafana/alerts.yaml")
	run(t, "promtool", "test", "rules", "../grafana/alerts_test.yaml")
}

// TestDashboards holds dashboards and alerts against the list of metrics, and has
// promtool parse what the dashboards ask for.
func TestDashboards(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, found := range regexp.MustCompile("`(sluice_[a-z_]+)").FindAllStringSubmatch(string(page), -1) {
		known[found[1]] = true
	}
	files, err := filepath.Glob("../grafana/*")
	if err != nil || len(files) < 3 {
		t.Fatalf("the files are %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`sluice_[a-z_]+`).FindAllString(string(text), -1) {
			if !known[name] {
				t.Errorf("%s asks for %s, which docs/operations.md does not know", filepath.Base(file), name)
			}
		}
		if strings.HasSuffix(file, ".json") {
			checkQueries(t, file, text)
		}
	}
}

func checkQueries(t *testing.T, file string, text []byte) {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: all\n    rules:\n")
	n := 0
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(q.Expr)
			quoted, _ := json.Marshal(expr)
			rules.WriteString("      - record: x:y\n        expr: " + string(quoted) + "\n        labels: {panel: \"" + p.Title + "\", n: \"" + string(rune('a'+n%26)) + string(rune('a'+n/26)) + "\"}\n")
			n++
		}
	}
	if n < 10 {
		t.Errorf("%s has %d queries", file, n)
	}
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool")
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "promtool", "check", "rules", path)
}

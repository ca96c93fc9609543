package listeners

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/aggregator"
)

func protocols(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/protocols.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestEveryReasonIsDocumented looks for the row of each reason that a line can
// have.
func TestEveryReasonIsDocumented(t *testing.T) {
	page := protocols(t)
	for reason := aggregator.Taken + 1; reason < aggregator.Reasons; reason++ {
		if row := "\n| `" + reason.String() + "` | "; !strings.Contains(page, row) {
			t.Errorf("docs/protocols.md says nothing about the reason %s", reason)
		}
	}
	for code := Accepted + 1; code < Codes; code++ {
		if !strings.Contains(page, "`"+code.String()+"`") && code != SessionNotFound { // DataCat's texts have no codes
			t.Errorf("docs/protocols.md says nothing about the code %s", code)
		}
	}
}

// TestEverySectionIsTested: each section of docs/protocols.md is named by a test, in
// quotes, and each reason and code is what some test expects.
func TestEverySectionIsTested(t *testing.T) {
	var tests strings.Builder
	for _, dir := range []string{".", "../aggregator", "../agent"} {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("no tests in %s: %v", dir, err)
		}
		for _, file := range files {
			if filepath.Base(file) == "docs_test.go" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(text)
		}
	}
	all := tests.String()
	for _, m := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(protocols(t), -1) {
		if !strings.Contains(all, `"`+m[1]+`"`) && !slices.Contains([]string{"HTTP", "Examples", "Reasons"}, m[1]) { // they have no rules of their own
			t.Errorf("no test names the section %q", m[1])
		}
	}
	// A refused line is expected by "!reason" or by the constant, an item by "code" or that.
	expected := func(text string) bool {
		name := ""
		for word := range strings.SplitSeq(text, "_") {
			name += strings.ToUpper(word[:1]) + word[1:]
		}
		return regexp.MustCompile(`["!:` + "`" + `]` + text + `\b|\b` + name + `\b`).MatchString(all)
	}
	for reason := aggregator.Taken + 1; reason < aggregator.Reasons; reason++ {
		if !expected(reason.String()) {
			t.Errorf("no test expects the reason %s", reason)
		}
	}
	for code := Accepted + 1; code < Codes; code++ {
		if !expected(code.String()) {
			t.Errorf("no test expects the code %s", code)
		}
	}
}

// TestEveryExampleIsTested: each line of the table in "Examples" is a line of some
// packet in rows, which says what it amounts to.
func TestEveryExampleIsTested(t *testing.T) {
	_, table, found := strings.Cut(protocols(t), "\n## Examples\n")
	table, _, end := strings.Cut(table, "\n## ")
	if !found || !end {
		t.Fatal("docs/protocols.md has no section Examples")
	}
	var known []string
	for _, row := range rows {
		known = append(known, strings.Split(row.packet, "\n")...)
	}
	n := 0
	for _, m := range regexp.MustCompile("(?m)^\\| (`.*?`) \\| ").FindAllStringSubmatch(table, -1) {
		for line := range strings.SplitSeq(m[1], "`, `") {
			n++
			if line = strings.ReplaceAll(strings.Trim(line, "`"), `\|`, "|"); !slices.Contains(known, line) {
				t.Errorf("no row has the example %q", line)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d examples found", n)
	}
}

package clients

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRecipes runs every block of code in docs/recipes.md as it stands there, but
// for the addresses, and looks for what the page says that each of them sends.
func TestRecipes(t *testing.T) {
	page, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 15 {
		t.Fatalf("%d blocks of code, want those of all clients", len(blocks))
	}
	count := map[string]int{}
	for _, block := range blocks {
		language, code := block[1], block[2]
		count[language]++
		t.Run(fmt.Sprintf("%s/%d", language, count[language]), func(t *testing.T) {
			t.Parallel()
			needRecipe(t, language, code)
			a := start(t)
			execute := recipe(t, language, a.recipe(code))
			run(t, environment(a), execute...)
			want := newTotals()
			var tags []string
			if strings.Contains(code, "region") {
				tags = []string{"region:eu"}
			}
			if strings.Contains(code, "_e{") {
				want.happened("deploy", []string{"text=version%202", "alert_type=success", "priority=normal", "kind=event"}, tags...)
			} else {
				want.count("orders", 1, tags...)
				want.gauge("queue", 42)
				want.observe("checkout", 145, 1)
			}
			a.compare(want)
		})
	}
}

// recipe is the code with the addresses of this agent.
func (a *agent) recipe(code string) string {
	_, udp, _ := net.SplitHostPort(a.udp)
	_, web, _ := net.SplitHostPort(strings.TrimPrefix(a.http, "http://"))
	return strings.NewReplacer("8125", udp, "8127", web, "/run/sluice/statsd.sock", a.unixgram, "/run/sluice/stream.sock", a.unix).Replace(code)
}

// recipe returns the command that runs code.
func recipe(t *testing.T, language, code string) []string {
	switch language {
	case "go":
		imports, body, _ := strings.Cut(code, "\n\n")
		file := filepath.Join(t.TempDir(), "main.go")
		text := "package main\n\nimport \"log\"\nimport \"time\"\n" + imports + "\n\nfunc main() {\n" + body + "}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"go", "run", file}
	case "python":
		return []string{"/usr/bin/python3", "-c", code}
	case "js":
		return []string{"node", "-e", code}
	case "ruby", "perl":
		return []string{language, "-e", code}
	case "sh":
		return []string{"bash", "-c", code}
	}
	t.Fatalf("the page has a block in %q", language)
	return nil
}

// needRecipe skips the test where what the code uses is not installed.
func needRecipe(t *testing.T, language, code string) {
	t.Helper()
	env := environment(nil)
	switch language {
	case "python":
		for _, m := range regexp.MustCompile(`(?m)^import (.*)$`).FindAllStringSubmatch(code, -1) {
			need(t, env, "/usr/bin/python3", "-c", "import "+m[1])
		}
	case "js":
		need(t, env, "node", "-e", "fetch")
		for _, m := range regexp.MustCompile(`require\('.*?'\)`).FindAllString(code, -1) {
			need(t, env, "node", "-e", m)
		}
	case "ruby":
		for _, m := range regexp.MustCompile(`(?m)^require ".*"$`).FindAllString(code, -1) {
			need(t, env, "ruby", "-e", m)
		}
	case "perl":
		need(t, env, "perl", "-MNet::Statsd", "-e", "1")
	case "sh":
		for _, tool := range []string{"nc.openbsd", "ncat", "socat", "curl"} {
			if strings.Contains(code, tool+" ") {
				need(t, env, "bash", "-c", "command -v "+tool)
			}
		}
	}
}

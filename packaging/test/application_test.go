package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestIntegrationsOfAgent has programs send what the dashboard of integrations asks for to an
// agent, minute by minute, takes what /metrics/application then shows for a Prometheus'
// scrapes, and has promtool evaluate the dashboard's queries on them: as in
// TestIntegrations, but nothing is made up.
func TestIntegrationsOfAgent(t *testing.T) {
	program := dist(t, "linux-amd64/sluice")
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool")
	}
	a := startAgent(t, "", program)
	const minute = "integration_requests_total:45|c|#partner:payments,endpoint:/charge,method:POST,status:success\n" +
		"integration_requests_total:15|c|#partner:payments,endpoint:/charge,method:POST,status:error_503\n" +
		"integration_requests_total:60|c|#partner:mail,endpoint:/send,method:POST,status:success\n" +
		"integration_request_duration_seconds:0.04|d|@0.05|#partner:mail,endpoint:/send,method:POST\n" + // 20 of them
		"integration_request_duration_seconds:0.3|d|@0.05|#partner:mail,endpoint:/send,method:POST\n" +
		"integration_circuit_breaker_state:1|g|#partner:payments,state:open\n" +
		"integration_circuit_breaker_state:0|g|#partner:payments,state:closed\n" +
		"integration_retries_total:15|c|#partner:payments,attempt_number:1\n"
	const minutes = 8
	scrapes := map[string][]string{}
	for i := range minutes {
		a.send(minute)
		last := fmt.Sprintf("integration_retries_total{attempt_number=\"1\",partner=\"payments\"} %d\n", 15*(i+1))
		var text string
		until(t, "the minute is shown", func() bool {
			text = a.get("/metrics/application")
			return strings.Contains(text, last)
		})
		for line := range strings.Lines(text) {
			if name, value, ok := cutLast(strings.TrimSpace(line)); ok && line[0] != '#' {
				scrapes[name] = append(scrapes[name], value)
			}
		}
	}
	var b strings.Builder
	b.WriteString("rule_files: []\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n")
	for name, values := range scrapes {
		if len(values) != minutes {
			t.Errorf("%s is in %d answers of %d", name, len(values), minutes)
		}
		fmt.Fprintf(&b, "      - {series: '%s', values: '%s'}\n", name, strings.Join(values, " "))
	}
	b.WriteString("    promql_expr_test:\n")
	queries, _ := panelQueries(t)
	for title, want := range map[string]map[string]float64{
		"Errors, by partner":                  {`{partner="payments"}`: 25, `{partner="mail"}`: 0},
		"Requests, by partner":                {`{partner="payments"}`: 1, `{partner="mail"}`: 1},
		"Errors, by status":                   {`{partner="payments", status="error_503"}`: 0.25},
		"p50, by partner":                     {`{partner="mail"}`: 0.05},
		"p99, by partner":                     {`{partner="mail"}`: 0.495},
		"Retries, by partner":                 {`{partner="payments"}`: 0.25},
		"Retries of 100 requests, by partner": {`{partner="payments"}`: 25},
		"Circuit breakers, by partner":        {`{partner="payments", state="open"}`: 1},
	} {
		quoted, _ := json.Marshal(queries[title])
		fmt.Fprintf(&b, "      - expr: %s\n        eval_time: %dm\n        exp_samples:\n", quoted, minutes-1)
		for labels, value := range want {
			fmt.Fprintf(&b, "          - {labels: '%s', value: %v}\n", labels, value)
		}
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "promtool", "test", "rules", file)
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(a.get("/metrics/application"))
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// cutLast cuts a line of the exposition before its value.
func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// panelQueries are the queries of the dashboard of integrations by the titles of their
// panels, and how many rows it has.
func panelQueries(t *testing.T) (queries map[string]string, rows int) {
	t.Helper()
	text, err := os.ReadFile("../grafana/integrations.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	queries = map[string]string{}
	for _, p := range d.Panels {
		if p.Type == "row" {
			rows++
		}
		for _, q := range p.Targets {
			queries[p.Title] = strings.ReplaceAll(q.Expr, "$partner", ".*")
		}
	}
	return queries, rows
}

// An agent is the program of the release, with a configuration for one test.
type agent struct {
	t         *testing.T
	udp, http string
}

// startAgent starts it, with more lines of configuration. program is its name, behind that of
// an emulator where it needs one.
func startAgent(t *testing.T, more string, program ...string) *agent {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "sluice.yaml")
	text := fmt.Sprintf("listen: {udp: [\"127.0.0.1:0\"], http: \"127.0.0.1:0\"}\naggregate: {interval: 200ms}\nspool: {dir: %q}\n", filepath.Join(dir, "spool")) + more
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program[0], append(program[1:], "run", "--config", config)...)
	cmd.Env = []string{"HOME=" + dir}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
	var found []string
	until(t, "the agent is ready", func() bool {
		text, _ := os.ReadFile(log.Name())
		found = regexp.MustCompile(`listen="udp:(\S+) http:([^\s"]+)`).FindStringSubmatch(string(text))
		return found != nil
	})
	a := &agent{t, found[1], "http://" + found[2]}
	a.get("/metrics/application") // counting begins
	return a
}

func (a *agent) send(text string) {
	a.t.Helper()
	conn, err := net.Dial("udp", a.udp)
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) get(path string) string {
	a.t.Helper()
	answer, err := http.Get(a.http + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		a.t.Fatalf("GET %s: %s, %v\n%s", path, answer.Status, err, text)
	}
	return string(text)
}

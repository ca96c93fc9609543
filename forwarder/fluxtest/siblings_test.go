package fluxtest

import (
	"slices"
	"strings"
	"testing"
)

func pulseMetric(name, typ, kind, value string) string {
	return strings.Replace(metric(name, typ, value), `"value"`, `"kind":"`+kind+`","value"`, 1)
}

func session(t *testing.T, s *Server) string {
	t.Helper()
	status, answer := post(t, s, "/api/sessions", `{"product":"sluice","version":"1"}`)
	if status != 200 || !strings.Contains(answer, "session_id") {
		t.Fatalf("session: %d %s", status, answer)
	}
	return "/api/sessions/" + strings.Split(answer, `"`)[3] + "/metrics"
}

func dataCatMetric(typ, value string) string {
	return `{"name":"a","type":"` + typ + `","value":` + value + `,"timestamp":"` + at + `","tags":["host:a"]}`
}

// TestSiblingRules breaks the rules that are particular to a Pulse and to a DataCat.
func TestSiblingRules(t *testing.T) {
	good := pulseMetric("a", "counter", "counter", "1")
	eleven := `{"k1":"","k2":"","k3":"","k4":"","k5":"","k6":"","k7":"","k8":"","k9":"","k10":"","k11":""}`
	for _, dialect := range []Dialect{PulseHosted, PulseOpen} {
		for _, tt := range []struct {
			name, path, body string
			want             Rule
		}{
			{name: "good", body: batch(good, pulseMetric("h", "histogram", "histogram", "2"))},
			{name: "good single", path: "/api/v1/metrics", body: good},
			{name: "1,000 items", body: batch(slices.Repeat([]string{good}, 1000)...)},
			{name: "1,001 items", body: batch(slices.Repeat([]string{good}, 1001)...), want: RuleItems},
			{name: "no kind", body: batch(metric("a", "counter", "1")), want: RuleType},
			{name: "another kind", body: batch(pulseMetric("a", "counter", "gauge", "1")), want: RuleType},
			{name: "distribution", body: batch(pulseMetric("a", "distribution", "distribution", "1")), want: RuleType},
			{name: "string", body: batch(pulseMetric("a", "gauge", "gauge", `"x"`)), want: RuleValue},
			{name: "11 tags", body: batch(strings.Replace(good, `{"host":"a"}`, eleven, 1)), want: RuleTags},
			{name: "events", path: "/api/v1/events/batch", body: `{"events":[]}`, want: RulePath},
			{name: "query of Flux", path: "/api/v1/metrics/a/query", want: RulePath},
		} {
			s := start(t, Options{InProcess: true, Dialect: dialect})
			if tt.path == "" {
				tt.path = "/api/v1/metrics/batch"
			}
			post(t, s, tt.path, tt.body)
			if got := rulesOf(s); tt.want == "" && len(got) > 0 || tt.want != "" && !slices.Equal(got, []Rule{tt.want}) {
				t.Errorf("dialect %d, %s: rules broken: %v, want %q", dialect, tt.name, s.Violations(), tt.want)
			}
		}
	}
	for _, tt := range []struct {
		name string
		want Rule
		do   func(s *Server, path string)
	}{
		{"good", "", func(s *Server, path string) { post(t, s, path, dataCatMetric("counter", "1")) }},
		{"growing", "", func(s *Server, path string) {
			post(t, s, path, dataCatMetric("counter", "1"))
			post(t, s, path, dataCatMetric("counter", "1"))
			post(t, s, session(t, s), dataCatMetric("counter", "0.5"))
		}},
		{"shrinking", RuleTotal, func(s *Server, path string) {
			post(t, s, path, dataCatMetric("counter", "2"))
			post(t, s, path, dataCatMetric("counter", "1"))
		}},
		{"tags are an object", RuleTags, func(s *Server, path string) {
			post(t, s, path, strings.Replace(dataCatMetric("gauge", "1"), `["host:a"]`, `{"host":"a"}`, 1))
		}},
		{"timer", RuleType, func(s *Server, path string) { post(t, s, path, dataCatMetric("timer", "1")) }},
		{"unknown member", RuleMember, func(s *Server, path string) {
			post(t, s, path, strings.Replace(dataCatMetric("gauge", "1"), `"name"`, `"delta":1,"name"`, 1))
		}},
		{"machine of a session", RuleMember, func(s *Server, _ string) {
			post(t, s, "/api/sessions", `{"product":"sluice","version":"1","machine_id":"m"}`)
		}},
		{"reading a session", "", func(s *Server, path string) { get(t, s, strings.TrimSuffix(path, "/metrics")) }},
		{"reading metrics", RulePath, func(s *Server, path string) { get(t, s, path) }},
		{"heartbeat", RulePath, func(s *Server, path string) { post(t, s, strings.Replace(path, "metrics", "heartbeat", 1), "{}") }},
	} {
		s := start(t, Options{InProcess: true, Dialect: DataCat})
		tt.do(s, session(t, s))
		if got := rulesOf(s); tt.want == "" && len(got) > 0 || tt.want != "" && !slices.Equal(got, []Rule{tt.want}) {
			t.Errorf("DataCat, %s: rules broken: %v, want %q", tt.name, s.Violations(), tt.want)
		}
	}
}

// What came before an item that fails stays stored at an open Pulse, and at no other.
func TestPulseStoresInPart(t *testing.T) {
	items := batch(pulseMetric("a", "counter", "counter", "1"), pulseMetric("b", "counter", "counter", "1"), pulseMetric("c", "counter", "counter", "1"))
	for dialect, want := range map[Dialect]int{PulseHosted: 0, PulseOpen: 1} {
		s := start(t, Options{InProcess: true, Dialect: dialect, Poison: func(r Row) int {
			if r.Name == "b" {
				return 422
			}
			return 0
		}})
		if status, _ := post(t, s, "/api/v1/metrics/batch", items); status != 422 || len(s.Rows()) != want {
			t.Errorf("dialect %d: status %d and %d rows, want 422 and %d", dialect, status, len(s.Rows()), want)
		}
	}
	s := start(t, Options{InProcess: true, Dialect: PulseOpen})
	s.Fault(PartThen(2, 500))
	if status, _ := post(t, s, "/api/v1/metrics/batch", items); status != 500 || len(s.Rows()) != 2 {
		t.Errorf("PartThen(2, 500): status %d and %d rows", status, len(s.Rows()))
	}
	if status, answer := get(t, s, "/api/v1/metrics/b/stats"); status != 200 || !strings.Contains(answer, `"max":1`) {
		t.Errorf("stats: %d %s", status, answer)
	}
	if status, _ := get(t, s, "/api/v1/metrics/c/stats"); status != 404 {
		t.Errorf("stats of a metric that is not there: %d, want 404", status)
	}
	if got := s.Rows()[0].Time; stamp(got) == at {
		t.Errorf("an open Pulse kept the time %v of a batch", got)
	}
}

// A DataCat that has forgotten its sessions says so, in text.
func TestDataCatForgets(t *testing.T) {
	s := start(t, Options{InProcess: true, Dialect: DataCat})
	path := session(t, s)
	post(t, s, path, dataCatMetric("counter", "3"))
	s.EndSessions()
	if status, answer := post(t, s, path, dataCatMetric("counter", "5")); status != 404 || answer != "session not found\n" {
		t.Errorf("after EndSessions: %d %q", status, answer)
	}
	post(t, s, session(t, s), dataCatMetric("counter", "2"))
	if got := s.Grown("a", "host:a"); got != 5 {
		t.Errorf("Grown() = %v, want 3 and 2", got)
	}
	if got := s.Sessions(); got != 2 {
		t.Errorf("Sessions() = %d, want 2", got)
	}
}

package fluxtest

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// loose allows what the published examples leave out and the agent must not.
var loose = []Rule{RuleTimestamp, RuleTags, RuleMixed, RuleValue, RuleName, RuleType, RuleStringBatch, RuleItems}

// TestHostedExamples sends the examples of the published Metrics API page and expects
// the answers printed there.
func TestHostedExamples(t *testing.T) {
	s := start(t, Options{InProcess: true, Allow: loose})
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"metrics", `{"name":"api.response_time","type":"distribution","value":145.2,"timestamp":"2024-01-15T10:30:00Z",
			"tags":{"endpoint":"/users","method":"GET","status":"200"}}`, 201,
			`{"data":{"name":"api.response_time","type":"distribution","value":145.2,"timestamp":"2024-01-15T10:30:00Z"}}`},
		{"metrics", `{"name":"daily_active_users","type":"set","value":"user_123","timestamp":"2024-01-15T10:30:00Z"}`, 201,
			`{"data":{"name":"daily_active_users","type":"set","value":"user_123","timestamp":"2024-01-15T10:30:00Z"}}`},
		{"metrics/batch", `{"metrics":[{"name":"users.online","type":"gauge","value":234},{"name":"api.requests","type":"counter","value":1},
			{"name":"response_time","type":"distribution","value":145.2}]}`, 201, `{"data":{"accepted":3,"rejected":0}}`},
		{"flux/batch", `{"events":[{"name":"order.placed","value":99.99}],"metrics":[{"name":"orders.count","type":"counter","value":1}]}`, 201,
			`{"data":{"events":{"accepted":1,"rejected":0},"metrics":{"accepted":1,"rejected":0}}}`},
		{"metrics", `{"type":"gauge","value":1}`, 400, `{"error":"Metric name is required","code":"missing_name"}`},
		{"metrics", `{"name":"x","type":"histogram","value":1}`, 400, `{"error":"Type must be gauge/counter/distribution/set","code":"invalid_type"}`},
		{"metrics", `{"name":"x","type":"gauge","value":"1"}`, 400, `{"error":"Value must be numeric (string for sets)","code":"invalid_value"}`},
		{"metrics/batch", batch(metric("users.online", "gauge", "1"), metric("users.online", "gauge", `"x"`), metric("", "gauge", "1")), 201,
			`{"data":{"accepted":1,"rejected":2}}`},
		{"metrics/batch", batch(strings.Split(strings.Repeat(metric("a", "gauge", "1")+"\n", 500)+metric("a", "gauge", "1"), "\n")...), 413,
			`{"error":"Batch exceeds 500 metrics","code":"batch_too_large"}`},
	} {
		status, answer := post(t, s, "/api/v1/"+tt.path, tt.body)
		if status != tt.status {
			t.Errorf("POST %s answered %d %s, want %d", tt.path, status, answer, tt.status)
		}
		sameJSON(t, "POST "+tt.path, answer, tt.want)
	}
	if got, want := len(s.Rows()), 7; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	if got, want := len(s.Events()), 1; got != want {
		t.Errorf("%d events, want %d", got, want)
	}
	if got := s.Violations(); len(got) > 0 {
		t.Errorf("violations: %v", got)
	}
}

func TestSelfHostedExamples(t *testing.T) {
	s := start(t, Options{InProcess: true, Dialect: SelfHosted, Allow: loose})
	event := `{"name":"e","timestamp":"` + at + `","tags":{}}`
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
		rows       int // stored altogether
	}{
		{"metrics/batch", batch(metric("a", "gauge", "1"), metric("b", "gauge", "2")), 201, `{"ingested":2}`, 2},
		{"metrics/batch", batch(metric("a", "gauge", "1"), metric("s", "set", `"u"`)), 500, `{"error":"Internal Server Error"}`, 2},
		{"metrics/batch", batch(metric("a", "gauge", "1"), metric("a", "gauge", "null")), 500, `{"error":"Internal Server Error"}`, 2},
		{"metrics/batch", batch(metric("a", "nonsense", "3")), 201, `{"ingested":1}`, 3}, // the type is not looked at
		{"metrics/batch", batch(strings.Split(strings.Repeat(metric("a", "gauge", "1")+"\n", 600)+metric("a", "gauge", "1"), "\n")...), 201, `{"ingested":601}`, 604},
		{"metrics", metric("single", "set", `"u"`), 201, `{"success":true,"metric":"single","type":"set"}`, 605},
		{"metrics", metric("zero", "gauge", `"high"`), 201, `{"success":true,"metric":"zero","type":"gauge"}`, 606},
		{"metrics", metric("x", "histogram", "1"), 400, `{"error":"Invalid metric type. Use: gauge, counter, distribution, or set"}`, 606},
		{"metrics", metric("", "gauge", "1"), 422, `{"error":"Validation failed: Metric name can't be blank"}`, 606},
		{"events/batch", `{"events":[` + event + `,` + event + `]}`, 201, `{"ingested":2}`, 606},
		{"flux/batch", `{"metrics":[` + metric("a", "gauge", "1") + `]}`, 201, `{"events_ingested":0,"metrics_ingested":1,"total":1}`, 607},
	} {
		status, answer := post(t, s, "/api/v1/"+tt.path, tt.body)
		if status != tt.status {
			t.Errorf("POST %s answered %d %s, want %d", tt.path, status, answer, tt.status)
		}
		sameJSON(t, "POST "+tt.path, answer, tt.want)
		if got := len(s.Rows()); got != tt.rows {
			t.Errorf("after POST %s %.60s: %d rows, want %d", tt.path, tt.body, got, tt.rows)
		}
	}
	// A mixed call whose metrics fail has stored its events: why it is forbidden.
	post(t, s, "/api/v1/flux/batch", `{"events":[`+event+`],"metrics":[`+metric("s", "set", `"u"`)+`]}`)
	if got, want := len(s.Events()), 3; got != want {
		t.Errorf("%d events, want %d", got, want)
	}
	if r, ok := s.GaugeLast("zero"); !ok || r.Value != 0 {
		t.Errorf("a gauge that is no number was stored as %v, want 0", r)
	}
	_, list := get(t, s, "/api/v1/metrics")
	sameJSON(t, "list", list, `{"metrics":[
		{"name":"single","display_name":null,"type":"set","unit":null,"description":null},
		{"name":"zero","display_name":null,"type":"gauge","unit":null,"description":null}]}`)
	if status, _ := get(t, s, "/api/v1/metrics/a"); status != 404 {
		t.Errorf("a metric that came in batches only was found (%d), want 404", status)
	}
}

// row is an item with everything chosen.
func row(name, typ, value, at, tags string) string {
	return `{"name":"` + name + `","type":"` + typ + `","value":` + value + `,"timestamp":"2024-01-15T` + at + `.000Z","tags":` + tags + `}`
}

func TestHostedQuery(t *testing.T) {
	c := newClock()
	s := start(t, Options{InProcess: true, Now: c.read})
	post(t, s, "/api/v1/metrics/batch", batch(
		row("lat", "distribution", "1", "10:00:00", `{"p":"/a"}`), row("lat", "distribution", "3", "10:00:59", `{"p":"/a"}`),
		row("lat", "distribution", "8", "10:01:00", `{"p":"/b"}`),
		row("req", "counter", "30", "10:00:00", `{"p":"/a"}`), row("req", "counter", "90", "10:00:30", `{"p":"/b"}`),
		row("mem", "gauge", "5", "10:00:30", `{}`), row("mem", "gauge", "4", "10:00:00", `{}`),
		row("usr", "set", `"x"`, "10:00:00", `{}`), row("usr", "set", `"x"`, "10:00:01", `{}`), row("usr", "set", `"y"`, "10:00:02", `{}`)))
	for _, tt := range []struct{ query, want string }{
		{"lat/query?aggregation=avg&interval=1m", `{"data":{"name":"lat","aggregation":"avg","interval":"1m","series":[
			{"timestamp":"2024-01-15T10:00:00Z","value":2},{"timestamp":"2024-01-15T10:01:00Z","value":8}]}}`},
		{"lat/query?aggregation=p50,count,max&interval=1h", `{"data":{"name":"lat","interval":"1h","series":[
			{"timestamp":"2024-01-15T10:00:00Z","p50":3,"count":3,"max":8}]}}`},
		{"lat/query?aggregation=sum&tags[p]=/a", `{"data":{"name":"lat","aggregation":"sum","interval":"1m","series":[
			{"timestamp":"2024-01-15T10:00:00Z","value":4}]}}`},
		{"lat/query?aggregation=sum&from=2024-01-15T10:00:59Z&to=2024-01-15T10:01:00Z&interval=1d",
			`{"data":{"name":"lat","aggregation":"sum","interval":"1d","series":[{"timestamp":"2024-01-15T00:00:00Z","value":11}]}}`},
		{"lat/query?aggregation=sum&from=2024-01-15T11:00:00Z", `{"data":{"name":"lat","aggregation":"sum","interval":"1m","series":[]}}`},
		{"req/query?aggregation=sum&interval=1h&group_by=tags.p", `{"data":{"groups":{
			"/a":[{"timestamp":"2024-01-15T10:00:00Z","value":30}],"/b":[{"timestamp":"2024-01-15T10:00:00Z","value":90}]}}}`},
		{"req/query?aggregation=rate", `{"data":{"name":"req","aggregation":"rate","interval":"1m","series":[{"timestamp":"2024-01-15T10:00:00Z","value":2}]}}`},
		{"mem/query?aggregation=last", `{"data":{"name":"mem","aggregation":"last","interval":"1m","series":[{"timestamp":"2024-01-15T10:00:00Z","value":5}]}}`},
		{"usr/query", `{"data":{"name":"usr","aggregation":"count","interval":"1m","series":[{"timestamp":"2024-01-15T10:00:00Z","value":2}]}}`},
		{"mem", `{"data":{"name":"mem","type":"gauge","tags":[],"first_seen":"2024-01-15T10:30:00Z","last_seen":"2024-01-15T10:30:00Z","data_points":2}}`},
	} {
		status, answer := get(t, s, "/api/v1/metrics/"+tt.query)
		if status != 200 {
			t.Errorf("GET %s answered %d, want 200", tt.query, status)
		}
		sameJSON(t, "GET "+tt.query, answer, tt.want)
	}
	if got := s.TakeViolations(); len(got) > 0 {
		t.Errorf("violations: %v", got)
	}
	for query, want := range map[string]int{
		"none": 404, "none/query": 404,
		"mem/query?aggregation=p99": 400, "mem/query?interval=1w": 400, "mem/query?from=yesterday": 400, "mem/query?group_by=host": 400,
	} {
		if status, _ := get(t, s, "/api/v1/metrics/"+query); status != want {
			t.Errorf("GET %s answered %d, want %d", query, status, want)
		}
	}
	if got, want := len(s.Violations()), 4; got != want {
		t.Errorf("%d violations of bad parameters, want %d: %v", got, want, s.Violations())
	}
	_, list := get(t, s, "/api/v1/metrics")
	if got, want := strings.Count(list, `"name"`), 4; got != want || !strings.Contains(list, `"tags":["p"]`) {
		t.Errorf("list %s, want %d metrics, some with the tag p", list, want)
	}
}

// TestSelfHostedQuery expects what MetricsController of brainz-lab/flux answers.
func TestSelfHostedQuery(t *testing.T) {
	c := newClock()
	opts := Options{InProcess: true, Now: c.read, Dialect: SelfHosted}
	s := start(t, opts)
	body := batch(row("m", "gauge", "1", "10:00:00", `{"agent":"x"}`), row("m", "gauge", "3", "10:01:00", `{"agent":"x"}`),
		row("m", "gauge", "9", "10:28:00", `{"agent":"y"}`))
	post(t, s, "/api/v1/metrics/batch", body)
	filter := "&query=" + url.QueryEscape(`{"agent":"x"}`)
	for _, tt := range []struct{ query, want string }{
		{"m/query?aggregation=max&tags[agent]=x&interval=1m", `{"metric":"m","aggregation":"max","bucket":"1 hour","since":"2024-01-14T10:30:00Z",
			"data":[{"time":"2024-01-15T10:00:00Z","value":2,"count":2}]}`},
		{"m/query?bucket=1+minute&since=29m", `{"metric":"m","aggregation":"avg","bucket":"1 minute","since":"2024-01-15T10:01:00Z",
			"data":[{"time":"2024-01-15T10:01:00Z","value":3,"count":1},{"time":"2024-01-15T10:28:00Z","value":9,"count":1}]}`},
		{"none/query", `{"metric":"none","aggregation":"avg","bucket":"1 hour","since":"2024-01-14T10:30:00Z","data":[]}`},
		{"last?name=m" + filter, `{"timestamp":"2024-01-15T10:01:00Z","value":3}`},
		{"last?name=none", `{"timestamp":null,"value":null}`},
		{"query?name=m&aggregation=sum&window=1h", `{"name":"m","value":13,"window":"1h"}`},
		{"query?name=m&aggregation=count&window=5m", `{"name":"m","value":1,"window":"5m"}`},
	} {
		_, answer := get(t, s, "/api/v1/metrics/"+tt.query)
		sameJSON(t, "GET "+tt.query, answer, tt.want)
	}
	opts.DocumentedReads = true
	s = start(t, opts)
	post(t, s, "/api/v1/metrics/batch", body)
	if status, _ := get(t, s, "/api/v1/metrics/m/query"); status != 404 {
		t.Errorf("documented query of a name without a definition answered %d, want 404", status)
	}
	post(t, s, "/api/v1/metrics", row("m", "gauge", "7", "10:28:01", `{}`))
	_, answer := get(t, s, "/api/v1/metrics/m/query?aggregation=max&interval=1d")
	sameJSON(t, "documented query", answer, `{"data":{"name":"m","aggregation":"max","interval":"1d","series":[{"timestamp":"2024-01-15T00:00:00Z","value":9}]}}`)
}

func TestReadLag(t *testing.T) {
	c := newClock()
	s := start(t, Options{InProcess: true, Now: c.read, ReadLag: 10 * time.Second})
	post(t, s, "/api/v1/metrics/batch", batch(metric("a", "gauge", "1")))
	for _, want := range []bool{false, true} {
		_, answer := get(t, s, "/api/v1/metrics/a/query")
		if got := strings.Contains(answer, `"value":1`); got != want {
			t.Errorf("visible %t, want %t: %s", got, want, answer)
		}
		c.now = c.now.Add(10 * time.Second)
	}
}

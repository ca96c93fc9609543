package listeners

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/aggregator"
)

// The sections that these tests name are those of docs/protocols.md.

// TestFluxItems is "Items": what each item becomes, or the code it is refused
// with, alone and as the second of a batch.
func TestFluxItems(t *testing.T) {
	long := strings.Repeat("n", 255)
	tags := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":%d`, i, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	now := began.UTC()
	for _, test := range []struct{ item, want string }{
		// The examples of the published API.
		{`{"name":"users.online","type":"gauge","value":234}`, "users.online|gauge = 234"},
		{`{"name":"api.requests","type":"counter","value":1}`, "api.requests|counter = 1"},
		{`{"name":"response_time","type":"distribution","value":145.2}`, "response_time|distribution = 1 values, sum 145.2"},
		{`{"name":"daily_active_users","type":"set","value":"user_123"}`, "daily_active_users|set = user_123"},
		{`{"name":"a","type":"histogram","value":1}`, "a|distribution = 1 values, sum 1"},

		// Names.
		{`{"type":"gauge","value":1}`, "missing_name"},
		{`{"name":"","type":"gauge","value":1}`, "missing_name"},
		{`{"name":null,"type":"gauge","value":1}`, "missing_name"},
		{`{"name":7,"type":"gauge","value":1}`, "missing_name"},
		{`{"name":"` + long + `","type":"gauge","value":1}`, long + "|gauge = 1"},
		{`{"name":"` + long + `n","type":"gauge","value":1}`, "name_too_long"},
		{`{"name":"sluice.x","type":"gauge","value":1}`, "reserved_name"},
		{`{"name":"\u0073luice.x","type":"gauge","value":1}`, "reserved_name"},
		{`{"name":"a/b c,d=e:f","type":"gauge","value":1}`, "a/b c,d=e:f|gauge = 1"},
		{`{"name":"a\n\u0000b","type":"gauge","value":1}`, "a__b|gauge = 1"},
		{`{"name":"a\ud800b","type":"gauge","value":1}`, "a\uFFFDb|gauge = 1"},
		{"{\"name\":\"a\xffb\",\"type\":\"gauge\",\"value\":1}", "a\uFFFDb|gauge = 1"},
		{`{"n\u0061me":"a","type":"gauge","value":1}`, "a|gauge = 1"},
		{`{"name":"x","name":"a","type":"gauge","value":1}`, "a|gauge = 1"},
		{`{"Name":"x","name":"a","type":"gauge","value":1,"unknown":{"deep":[1,{}]}}`, "a|gauge = 1"},

		// Types.
		{`{"name":"a","value":1}`, "invalid_type"},
		{`{"name":"a","type":null,"value":1}`, "invalid_type"},
		{`{"name":"a","type":7,"value":1}`, "invalid_type"},
		{`{"name":"a","type":"Gauge","value":1}`, "invalid_type"},
		{`{"name":"a","type":"timer","value":1}`, "invalid_type"},

		// Values.
		{`{"name":"a","type":"gauge"}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":null}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":true}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":[1]}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":"x"}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":"NaN"}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":"Infinity"}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":"0x10"}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":1e400}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":-0}`, "a|gauge = 0"},
		{`{"name":"a","type":"gauge","value":-5}`, "a|gauge = -5"},
		{`{"name":"a","type":"gauge","value":"+5"}`, "a|gauge = 5"},
		{`{"name":"a","type":"gauge","value":"0.1452e3"}`, "a|gauge = 145.2"},
		{`{"name":"a","type":"distribution","value":"145.2"}`, "a|distribution = 1 values, sum 145.2"},
		{`{"name":"a","type":"counter"}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","value":null}`, "invalid_value"},
		{`{"name":"a","type":"counter","value":9007199254740993}`, "a|counter = 9007199254740993"},
		{`{"name":"a","type":"counter","value":-2.5}`, "a|counter = -2.5"},
		{`{"name":"a","type":"set"}`, "invalid_value"},
		{`{"name":"a","type":"set","value":""}`, "invalid_value"},
		{`{"name":"a","type":"set","value":null}`, "invalid_value"},
		{`{"name":"a","type":"set","value":{}}`, "invalid_value"},
		{`{"name":"a","type":"set","value":12.50}`, "a|set = 12.50"},
		{`{"name":"a","type":"set","value":true}`, "a|set = true"},
		{`{"name":"a","type":"set","value":"a\tb"}`, "a|set = a_b"},
		{`{"name":"a","type":"set","value":"` + strings.Repeat("m", maxMember+1) + `"}`, "invalid_value"},

		// Timestamps.
		{`{"name":"a","type":"counter","timestamp":null}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","timestamp":"` + now.Format(time.RFC3339Nano) + `"}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","timestamp":"` + now.Add(-30*time.Minute).Format(time.DateTime) + `"}`, "a|counter = 1 late"},
		{`{"name":"a","type":"distribution","value":1,"timestamp":` + fmt.Sprint(now.Add(-30*time.Minute).Unix()) + `}`, "a|distribution = 1 values, sum 1 late"},
		{`{"name":"a","type":"set","value":"m","timestamp":` + fmt.Sprint(now.Add(-30*time.Minute).UnixMilli()) + `}`, "a|set = m late"},
		{`{"name":"a","type":"counter","timestamp":"2024-01-15T10:30:00Z"}`, "invalid_timestamp"},
		{`{"name":"a","type":"counter","timestamp":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`, "invalid_timestamp"},
		{`{"name":"a","type":"counter","timestamp":0}`, "invalid_timestamp"},
		{`{"name":"a","type":"counter","timestamp":"yesterday"}`, "invalid_timestamp"},
		{`{"name":"a","type":"counter","timestamp":"2024-01-15T10:30:00"}`, "invalid_timestamp"},
		{`{"name":"a","type":"counter","timestamp":true}`, "invalid_timestamp"},

		// Tags.
		{`{"name":"a","type":"counter","tags":null}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","tags":{}}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","tags":[]}`, "a|counter = 1"},
		{`{"name":"a","type":"counter","tags":{ "b":"x", "a":1.50, "c":true, "d":null, "e":[1, {"f": 2}] }}`,
			`a{a:1.50,b:x,c:true,d:,e:[1,{"f":2}]}|counter = 1`},
		{`{"name":"a","type":"counter","tags":{"k":"v","k":"w","":"x"}}`, "a{k:w}|counter = 1"},
		{`{"name":"a","type":"counter","tags":{"k\n":"\u0000é\ud83d\ude00"}}`, "a{k_:_é😀}|counter = 1"},
		{`{"name":"a","type":"counter","tags":["k: v ","bare","u:http://h:80/x",":z","dd.internal.card:low"]}`, "a{bare:true,k:v,u:http://h:80/x}|counter = 1"},
		{`{"name":"a","type":"counter","tags":{"k":"` + strings.Repeat("v", 201) + `"}}`, "a{k:" + strings.Repeat("v", 200) + "}|counter = 1"},
		{`{"name":"a","type":"counter","tags":"k:v"}`, "invalid_tags"},
		{`{"name":"a","type":"counter","tags":7}`, "invalid_tags"},
		{`{"name":"a","type":"counter","tags":""}`, "invalid_tags"}, // found by FuzzMetrics, as the next one
		{`{"name":"a","type":"counter","tags":10}`, "invalid_tags"},
		{`{"name":"a","type":"counter","tags":["k:v",7]}`, "invalid_tags"},
		{`{"name":"a","type":"counter","tags":` + tags(101) + `}`, "too_many_tags"},

		// Of several faults the first of the table counts.
		{`{"type":"x","value":null,"timestamp":"x","tags":7}`, "missing_name"},
		{`{"name":"a","type":"x","value":null,"timestamp":"x","tags":7}`, "invalid_type"},
		{`{"name":"a","type":"gauge","value":null,"timestamp":"x","tags":7}`, "invalid_value"},
		{`{"name":"a","type":"gauge","value":1,"timestamp":"x","tags":7}`, "invalid_timestamp"},

		{`7`, "invalid_item"}, {`"a"`, "invalid_item"}, {`null`, "invalid_item"}, {`[]`, "invalid_item"},
	} {
		t.Run(shorten(test.item), func(t *testing.T) {
			refused := !strings.Contains(test.want, " = ")
			a := newAPITest(t, APIOptions{})
			status, answer := a.post("/api/v1/metrics", test.item)
			if refused {
				checkError(t, status, answer, 400, test.want)
				a.holds()
			} else {
				if status != 201 {
					t.Errorf("status %d, want 201: %s", status, answer)
				}
				a.holds(test.want)
			}
			a = newAPITest(t, APIOptions{})
			status, answer = a.post("/flux/api/v1/metrics/batch", `{"metrics":[{"name":"z","type":"counter"},`+test.item+`]}`)
			if status != 201 {
				t.Errorf("batch: status %d, want 201: %s", status, answer)
			}
			if refused {
				a.holds("z|counter = 1")
				sameJSON(t, answer, `{"data":{"accepted":1,"rejected":1},"ingested":1,"errors":[{"index":1,"code":"`+test.want+`","message":"*"}]}`)
			} else {
				a.holds("z|counter = 1", test.want)
				sameJSON(t, answer, `{"data":{"accepted":2,"rejected":0},"ingested":2}`)
			}
		})
	}
}

// checkError compares an answer with the form of errors: {"error","code"}.
func checkError(t *testing.T, status int, answer string, wantStatus int, wantCode string) {
	t.Helper()
	if status != wantStatus {
		t.Errorf("status %d, want %d: %s", status, wantStatus, answer)
	}
	sameJSON(t, answer, `{"error":"*","code":"`+wantCode+`"}`)
}

// TestFluxEvents is "Events" of the same section.
func TestFluxEvents(t *testing.T) {
	for _, test := range []struct{ item, want string }{
		{`{"name":"order.placed","value":99.99}`, "event order.placed = 99.99"},
		{`{"name":"a","timestamp":"2024-01-15T10:30:00+02:00"}`, "event a at 2024-01-15T08:30:00.000Z"},
		{`{"name":"a","timestamp":0}`, "event a at 1970-01-01T00:00:00.000Z"},
		{`{"name":"a","value":null,"timestamp":null,"tags":null,"properties":null,"user_id":null}`, "event a"},
		{`{"name":"a","tags":{"b":1,"a":"x"},"user_id":7,"session_id":"s","request_id":"r","environment":"e","service":"v","host":"h"}`,
			"event a a:x b:1 user=7 session=s request=r environment=e service=v host=h"},
		{`{"name":"a","properties":{ "b" : [1, "x\u0000\ud800", {"c":null}], "d":1e400 }}`, `event a properties={"b":[1,"x_` + "\uFFFD" + `",{"c":null}],"d":1e400}`},
		{`{"name":"sluice.is.no.metric"}`, "event sluice.is.no.metric"},
		{`{"value":1}`, "missing_name"},
		{`{"name":""}`, "missing_name"},
		{`{"name":"a","value":"x"}`, "invalid_value"},
		{`{"name":"a","value":1e400}`, "invalid_value"},
		{`{"name":"a","timestamp":"x"}`, "invalid_timestamp"},
		{`{"name":"a","tags":7}`, "invalid_tags"},
		{`{"name":"a","properties":7}`, "invalid_item"},
		{`{"name":"a","properties":{"x":"` + strings.Repeat("x", aggregator.MaxEvent) + `"}}`, "event_too_large"},
		{`[]`, "invalid_item"},
	} {
		t.Run(shorten(test.item), func(t *testing.T) {
			a := newAPITest(t, APIOptions{})
			status, answer := a.post("/api/v1/events", test.item)
			if !strings.HasPrefix(test.want, "event ") {
				checkError(t, status, answer, map[bool]int{false: 400, true: 413}[test.want == "event_too_large"], test.want)
				a.holds()
				status, answer = a.post("/flux/api/v1/events/batch", `[{"name":"z"},`+test.item+`]`)
				if status != 201 {
					t.Errorf("status %d of a batch with one good event, want 201", status)
				}
				sameJSON(t, answer, `{"data":{"accepted":1,"rejected":1},"ingested":1,"errors":[{"index":1,"code":"`+test.want+`","message":"*"}]}`)
				a.holds("event z")
				return
			}
			if status != 201 {
				t.Errorf("status %d, want 201: %s", status, answer)
			}
			a.holds(test.want)
			status, answer = a.post("/flux/api/v1/events/batch", `{"events":[{"name":"z"},`+test.item+`]}`)
			if status != 201 {
				t.Errorf("batch: status %d, want 201", status)
			}
			sameJSON(t, answer, `{"data":{"accepted":2,"rejected":0},"ingested":2}`)
			a.holds("event z", test.want)
		})
	}
}

// TestFluxAnswers is "Answers": all that both the published API and the open-source
// server say, and the batch limits.
func TestFluxAnswers(t *testing.T) {
	const bad = `{"name":"b","type":"x"}`
	for _, test := range []struct {
		name, path, body string
		status           int
		answer           string
	}{
		{"metric", "/api/v1/metrics", `{"name":"a","type":"distribution","value":145.2,"tags":{"k":"v"}}`, 201,
			`{"data":{"name":"a","type":"distribution","value":145.2,"timestamp":"*"},"success":true,"metric":"a","type":"distribution"}`},
		{"metric with a number as text", "/api/v1/metrics", `{"name":"a\"","type":"histogram","value":"1e3"}`, 201,
			`{"data":{"name":"a\"","type":"histogram","value":1000,"timestamp":"*"},"success":true,"metric":"a\"","type":"histogram"}`},
		{"set", "/api/v1/metrics", `{"name":"a","type":"set","value":"user_123"}`, 201,
			`{"data":{"name":"a","type":"set","value":"user_123","timestamp":"*"},"success":true,"metric":"a","type":"set"}`},
		{"batch", "/api/v1/metrics/batch", `{"metrics":[{"name":"a","type":"counter"}]}`, 201, `{"data":{"accepted":1,"rejected":0},"ingested":1}`},
		{"batch as an array", "/api/v1/metrics/batch", ` [{"name":"a","type":"counter"}] `, 201, `{"data":{"accepted":1,"rejected":0},"ingested":1}`},
		{"batch with a mark", "/api/v1/metrics/batch", "\xEF\xBB\xBF" + `[{"name":"a","type":"counter"}]`, 201, `{"data":{"accepted":1,"rejected":0},"ingested":1}`},
		{"the last of two lists", "/api/v1/metrics/batch", `{"metrics":[{"name":"a","type":"counter"}],"metrics":[{"name":"b","type":"counter"},` + bad + `]}`, 201,
			`{"data":{"accepted":1,"rejected":1},"ingested":1,"errors":[{"index":1,"code":"invalid_type","message":"*"}]}`},
		{"nothing accepted", "/api/v1/metrics/batch", `[` + bad + `,{}]`, 400,
			`{"data":{"accepted":0,"rejected":2},"ingested":0,"errors":[{"index":0,"code":"invalid_type","message":"*"},{"index":1,"code":"missing_name","message":"*"}],"error":"*","code":"invalid_type"}`},
		{"empty list", "/api/v1/metrics/batch", `{"metrics":[]}`, 400, `{"error":"No metrics provided","code":"no_metrics"}`},
		{"no list", "/api/v1/metrics/batch", `{}`, 400, `{"error":"No metrics provided","code":"no_metrics"}`},
		{"null for a list", "/api/v1/metrics/batch", `{"metrics":null}`, 400, `{"error":"No metrics provided","code":"no_metrics"}`},
		{"no array", "/api/v1/metrics/batch", `{"metrics":7}`, 400, `{"error":"*","code":"invalid_json"}`},
		{"no object", "/api/v1/metrics/batch", `7`, 400, `{"error":"*","code":"invalid_json"}`},
		{"no JSON", "/api/v1/metrics/batch", `{"metrics":[{"name":"a","type":"counter"}]`, 400, `{"error":"*","code":"invalid_json"}`},
		{"JSON and more", "/api/v1/metrics/batch", `[{"name":"a","type":"counter"}]{}`, 400, `{"error":"*","code":"invalid_json"}`},
		{"nothing", "/api/v1/metrics", ``, 400, `{"error":"*","code":"invalid_json"}`},
		{"500 metrics", "/api/v1/metrics/batch", metrics(500), 201, `{"data":{"accepted":500,"rejected":0},"ingested":500}`},
		{"501 metrics", "/api/v1/metrics/batch", metrics(501), 413, `{"error":"*","code":"batch_too_large"}`},
		{"event", "/api/v1/events", `{"name":"e","user_id":"u","value":2,"timestamp":"2024-01-15T10:30:00.5Z"}`, 201,
			`{"data":{"id":"*","name":"e","timestamp":"2024-01-15T10:30:00.500Z","user_id":"u","value":2},"id":"*","name":"e"}`},
		{"bare event", "/api/v1/events", `{"name":"e"}`, 201, `{"data":{"id":"*","name":"e","timestamp":"*","user_id":null,"value":null},"id":"*","name":"e"}`},
		{"events", "/api/v1/events/batch", `{"events":[{"name":"e"}]}`, 201, `{"data":{"accepted":1,"rejected":0},"ingested":1}`},
		{"no events", "/api/v1/events/batch", `{"events":[]}`, 400, `{"error":"No events provided","code":"no_events"}`},
		{"501 events", "/api/v1/events/batch", metrics(501), 413, `{"error":"*","code":"batch_too_large"}`},
		{"both", "/api/v1/flux/batch", `{"events":[{"name":"order.placed","value":99.99}],"metrics":[{"name":"orders.count","type":"counter","value":1}]}`, 201,
			`{"data":{"events":{"accepted":1,"rejected":0},"metrics":{"accepted":1,"rejected":0}},"events_ingested":1,"metrics_ingested":1,"total":2}`},
		{"both, empty", "/api/v1/flux/batch", `{}`, 201,
			`{"data":{"events":{"accepted":0,"rejected":0},"metrics":{"accepted":0,"rejected":0}},"events_ingested":0,"metrics_ingested":0,"total":0}`},
		{"both, one list", "/api/v1/flux/batch", `{"events":[],"metrics":[{"name":"a","type":"counter"}]}`, 201,
			`{"data":{"events":{"accepted":0,"rejected":0},"metrics":{"accepted":1,"rejected":0}},"events_ingested":0,"metrics_ingested":1,"total":1}`},
		{"both, faults", "/api/v1/flux/batch", `{"metrics":[` + bad + `],"events":[{},{"name":"e"}]}`, 201,
			`{"data":{"events":{"accepted":1,"rejected":1},"metrics":{"accepted":0,"rejected":1}},"events_ingested":1,"metrics_ingested":0,"total":1,
			"errors":[{"index":0,"list":"events","code":"missing_name","message":"*"},{"index":0,"list":"metrics","code":"invalid_type","message":"*"}]}`},
		{"both, nothing accepted", "/api/v1/flux/batch", `{"metrics":[` + bad + `]}`, 400,
			`{"data":{"events":{"accepted":0,"rejected":0},"metrics":{"accepted":0,"rejected":1}},"events_ingested":0,"metrics_ingested":0,"total":0,
			"errors":[{"index":0,"list":"metrics","code":"invalid_type","message":"*"}],"error":"*","code":"invalid_type"}`},
		{"both, 501 metrics", "/api/v1/flux/batch", `{"events":[{"name":"e"}],"metrics":` + metrics(501) + `}`, 413, `{"error":"*","code":"batch_too_large"}`},
		{"both, an array", "/api/v1/flux/batch", `[]`, 400, `{"error":"*","code":"invalid_json"}`},
		{"provisioning without an upstream", "/api/v1/projects/provision", `{"name":"x"}`, 503, `{"error":"*","code":"unavailable"}`},

		// Pulse.
		{"pulse", "/pulse/api/v1/metrics", `{"name":"queue_size","value":42,"type":"gauge","tags":{"queue":"default"}}`, 201,
			`{"data":{"id":"*","name":"queue_size","value":42,"type":"gauge","timestamp":"*"},"metric_id":"*"}`},
		{"pulse on the path of Flux", "/api/v1/metrics", `{"name":"a","value":1,"kind":"histogram"}`, 201,
			`{"data":{"id":"*","name":"a","value":1,"type":"histogram","timestamp":"*"},"metric_id":"*"}`},
		{"pulse without a type", "/pulse/api/v1/metrics", `{"name":"a","value":1}`, 201,
			`{"data":{"id":"*","name":"a","value":1,"type":"gauge","timestamp":"*"},"metric_id":"*"}`},
		{"a set is not for pulse", "/pulse/api/v1/metrics", `{"name":"a","value":1,"type":"set"}`, 400, `{"error":"*","code":"invalid_type"}`},
		{"pulse batch", "/pulse/api/v1/metrics/batch", `{"metrics":[{"name":"a","value":1,"type":"counter"},{"name":"b"}]}`, 201,
			`{"data":{"accepted":1,"rejected":1},"processed":1,"errors":[{"index":1,"code":"invalid_value","message":"*"}]}`},
		{"pulse batch on the path of Flux", "/api/v1/metrics/batch", `{"metrics":[{"name":"a","value":1,"kind":"counter"},{"name":"b","type":"counter"}]}`, 201,
			`{"data":{"accepted":2,"rejected":0},"processed":2}`},
		{"empty pulse batch", "/pulse/api/v1/metrics/batch", `{"metrics":[]}`, 201, `{"data":{"accepted":0,"rejected":0},"processed":0}`},
		{"1,000 of pulse", "/pulse/api/v1/metrics/batch", metrics(1000), 201, `{"data":{"accepted":1000,"rejected":0},"processed":1000}`},
		{"1,001 of pulse", "/pulse/api/v1/metrics/batch", metrics(1001), 413, `{"error":"*","code":"batch_too_large"}`},
		{"10 tags of pulse", "/pulse/api/v1/metrics", `{"name":"a","value":1,"tags":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"j":2}}`, 201,
			`{"data":{"id":"*","name":"a","value":1,"type":"gauge","timestamp":"*"},"metric_id":"*"}`},
		{"11 tags of pulse", "/pulse/api/v1/metrics", `{"name":"a","value":1,"tags":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":2}}`, 400,
			`{"error":"*","code":"too_many_tags"}`},
		{"256 bytes", "/pulse/api/v1/metrics", `{"name":"` + strings.Repeat("n", 256) + `","value":1}`, 400, `{"error":"*","code":"name_too_long"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAPITest(t, APIOptions{})
			status, answer := a.post(test.path, test.body)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			sameJSON(t, answer, test.answer)
			if status == 413 {
				a.holds() // nothing taken
			}
		})
	}
}

// metrics is a list of n items that are good for every path.
func metrics(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(`{"name":"a","type":"counter","value":1},`, n), ",") + "]"
}

// TestFirstErrors: an answer explains the first 20 faults.
func TestFirstErrors(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	_, answer := a.post("/api/v1/metrics/batch", "["+strings.TrimSuffix(strings.Repeat("{},", 500), ",")+"]")
	var got struct {
		Data   struct{ Accepted, Rejected int }
		Errors []struct{ Index int }
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatal(err)
	}
	if got.Data.Rejected != 500 || len(got.Errors) != 20 || got.Errors[19].Index != 19 {
		t.Errorf("%d rejected, %d explained, want 500 and 20: %s", got.Data.Rejected, len(got.Errors), answer)
	}
	if s := a.api.Stats(); s.Codes[MissingName] != 500 || s.Samples != 0 || s.Packets != 1 {
		t.Errorf("stats %d missing_name, %d samples, %d requests, want 500, 0, 1", s.Codes[MissingName], s.Samples, s.Packets)
	}
}

// TestGaugesKeepTheLatest is the end of "Items": signs are only signs, and the
// latest value stays, by its time.
func TestGaugesKeepTheLatest(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	a.post("/api/v1/metrics/batch", `[{"name":"g","type":"gauge","value":"+5"},{"name":"g","type":"gauge","value":"-3"},{"name":"d","type":"distribution","value":1},{"name":"d","type":"distribution","value":2}]`)
	a.holds("g|gauge = -3", "d|distribution = 2 values, sum 3")
}

// TestConfiguredTags: they are added where an item has none of that key, to
// series and events alike.
func TestConfiguredTags(t *testing.T) {
	rules := new(Rules)
	rules.Set(NewRuleSet(nil, []aggregator.Tag{{Key: "env", Value: "test"}}))
	a := newAPITest(t, APIOptions{Rules: rules})
	a.post("/api/v1/flux/batch", `{"events":[{"name":"e"}],"metrics":[{"name":"a","type":"counter"},{"name":"b","type":"counter","tags":{"env":"x"}}]}`)
	a.holds("a{env:test}|counter = 1", "b{env:x}|counter = 1", "event e env:test")
}

// TestDroppedByRule: what the configuration drops is no fault of the client's, who
// is told nothing, and it is counted.
func TestDroppedByRule(t *testing.T) {
	rules := new(Rules)
	rules.Set(NewRuleSet([]Rule{{Match: "debug.*", Drop: true}, {Match: "*", Class: []Class{{Tag: "status", As: "client_error", Values: []string{"4??"}}}}}, nil))
	a := newAPITest(t, APIOptions{Rules: rules})
	status, answer := a.post("/api/v1/metrics/batch", `[{"name":"debug.x","type":"counter"},{"name":"a","type":"counter","tags":{"status":404}}]`)
	if status >= 300 || strings.Contains(answer, "error") {
		t.Errorf("status %d, %s", status, answer)
	}
	a.holds("a{status:client_error}|counter = 1")
	if s := a.api.Stats(); s.Samples != 1 || s.Refused[aggregator.DroppedByRule] != 1 {
		t.Errorf("stats %d samples, %d dropped by rule, want 1 and 1", s.Samples, s.Refused[aggregator.DroppedByRule])
	}
}

// TestOverload: when an item cannot be taken for want of room, the answer says
// that it can be tried again.
func TestOverload(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	big := `{"name":"e","properties":{"x":"` + strings.Repeat("x", 100_000) + `"}}`
	status, answer := 0, ""
	for range 11 { // a window has 1 MiB
		status, answer = a.post("/api/v1/events", big)
	}
	checkError(t, status, answer, http.StatusTooManyRequests, "overloaded")
	status, _, header := a.do("POST", "/api/v1/events/batch", "["+big+"]")
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "1" {
		t.Errorf("batch: status %d, Retry-After %q, want 429 and 1", status, header.Get("Retry-After"))
	}

	// Bodies take from a budget that all requests share.
	a = newAPITest(t, APIOptions{})
	a.api.bodies.left.Store(100 << 10)
	large := metrics(400)[:1] + strings.Repeat(" ", 200<<10) + metrics(400)[1:]
	status, answer, header = a.do("POST", "/api/v1/metrics/batch", large)
	checkError(t, status, answer, http.StatusTooManyRequests, "overloaded")
	if header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q, want 1", header.Get("Retry-After"))
	}
	if status, answer = a.post("/api/v1/metrics", `{"name":"a","type":"counter"}`); status != 201 {
		t.Errorf("a small body meanwhile: status %d, want 201: %s", status, answer)
	}
	a.holds("a|counter = 1")
	if left := a.api.bodies.left.Load(); left != 100<<10 {
		t.Errorf("%d bytes are left of the budget, want all %d", left, 100<<10)
	}
}

package listeners

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// session makes a session and returns its id.
func (a *apiTest) session(path string) string {
	a.t.Helper()
	status, answer := a.post(path, `{"parent_pid":7,"product":"game","version":"1.0","machine_id":"m","hostname":"h"}`)
	// The Go client decodes into a map of strings.
	var got map[string]string
	if err := json.Unmarshal([]byte(answer), &got); err != nil || status != 200 || len(got) != 1 {
		a.t.Fatalf("POST %s: status %d, %v: %s", path, status, err, answer)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got["session_id"]) {
		a.t.Errorf("session_id %q is no UUID", got["session_id"])
	}
	return got["session_id"]
}

const datacatOK = `{"status":"ok","success":true}` + "\n"

// TestDataCatMetrics is "DataCat": what each metric becomes at the server's and
// the daemon's path, or the text and status that it is refused with. An item may
// be several, separated by newlines.
func TestDataCatMetrics(t *testing.T) {
	const bad = "400"
	now := time.Now().UTC()
	for _, test := range []struct{ item, want string }{
		// The examples of the published API.
		{`{"name":"response_time_ms","value":123.45,"tags":["api","v2","user"]}`, "response_time_ms{api:true,user:true,v2:true}|gauge = 123.45"},
		{`{"name":"memory_mb","value":512.5,"tags":["backend"]}`, "memory_mb{backend:true}|gauge = 512.5"},
		{`{"name":"http_requests","value":100,"tags":["endpoint:users","method:GET"]}`, "http_requests{endpoint:users,method:GET}|gauge = 100"},

		{`{"name":"a","value":1,"type":"gauge","count":3,"unit":"s","tags":null,"metadata":null,"timestamp":null}`, "a|gauge = 1"},
		{`{"name":"a","value":1,"type":"anything"}`, "a|gauge = 1"},
		{`{"name":"a"}`, "a|gauge = 0"},
		{`{"name":"a","value":2,"type":"timer","count":10}`, "a|distribution = 1 values, sum 2"},
		{`{"name":"a","value":2,"type":"histogram"}`, "a|distribution = 1 values, sum 2"},
		{`{"name":"a","value":2,"type":"histogram","metadata":{"buckets":[0.1,1,Infinity],"nan":NaN,"low":-Infinity,"text":"NaN \" Infinity"}}`, "a|distribution = 1 values, sum 2"},
		{`{"name":"a","value":1,"type":"counter","delta":2,"timestamp":"` + now.Add(-30*time.Minute).Format(time.RFC3339) + `"}`, "a|counter = 2 late"},

		// Traps: deltas, and running totals.
		{`{"name":"a","value":0,"type":"counter","delta":5}` + "\n" + `{"name":"a","value":0,"type":"counter","delta":5}`, "a|counter = 10"},
		{`{"name":"a","value":3,"type":"counter"}` + "\n" + `{"name":"a","value":10,"type":"counter"}` + "\n" + `{"name":"a","value":10,"type":"counter"}`, "a|counter = 10"},
		{`{"name":"a","value":10,"type":"counter"}` + "\n" + `{"name":"a","value":4,"type":"counter"}` + "\n" + `{"name":"a","value":6,"type":"counter"}`, "a|counter = 16"},
		{`{"name":"a","value":9007199254740993,"type":"counter"}` + "\n" + `{"name":"a","value":9007199254740994,"type":"counter"}`, "a|counter = 9007199254740994"},
		{`{"name":"a","value":9007199254740992,"type":"counter"}` + "\n" + `{"name":"a","value":9007199254740993,"type":"counter"}`, "a|counter = 9007199254740993"},
		{`{"name":"a","value":3,"type":"counter","tags":["x","y"]}` + "\n" + `{"name":"a","value":5,"type":"counter","tags":["y","x"]}` + "\n" + `{"name":"b","value":5,"type":"counter"}`,
			"a{x:true,y:true}|counter = 5; b|counter = 5"},
		{`{"name":"a","value":0,"type":"counter"}`, ""},
		// 4 values up to 1 and 6 up to 2 with a sum of 9 lie at 0.3 of their buckets;
		// then 2 more up to 1 with 0.6, as many as the growth.
		{`{"name":"a","value":0.9,"type":"histogram","metadata":{"buckets":[{"le":1,"count":4},{"le":2,"count":6},{"le":Infinity,"count":0}],"sum":9,"count":10}}` + "\n" +
			`{"name":"a","value":0.8,"type":"histogram","metadata":{"buckets":[{"le":1,"count":6},{"le":2,"count":6},{"le":Infinity,"count":0}],"sum":9.6,"count":12}}`,
			"a|distribution = 12 values, sum 9.6"},
		{`{"name":"a","type":"histogram","metadata":{"buckets":[{"le":1,"count":4},{"le":"+Inf","count":1}],"sum":20}}` + "\n" +
			`{"name":"a","type":"histogram","metadata":{"buckets":[{"le":1,"count":1},{"le":"+Inf","count":0}],"sum":0.5}}`,
			"a|distribution = 6 values, sum 20.5"},

		// What the server's decoder does not take.
		{`{"name":"a","value":"1"}`, bad}, {`{"name":"a","value":NaN}`, bad}, {`{"name":"a","value":Infinity}`, bad}, {`{"name":"a","value":1e400}`, bad},
		{`{"name":"a","value":1,"tags":{"k":"v"}}`, bad}, {`{"name":"a","value":1,"tags":[1]}`, bad},
		{`{"name":"a","value":1,"timestamp":1700000000}`, bad}, {`{"name":"a","value":1,"timestamp":"2024-01-15 10:30:00"}`, bad},
		{`{"name":1,"value":1}`, bad}, {`{"name":"a","value":1,"metadata":[NaN]}`, bad}, {`{"name":"a","value":1,"other":{"x":NaN}}`, bad},
		{`{"name":"a","value":1`, bad}, {`[]`, bad}, {``, bad}, {`{"name":"a","value":1}}`, bad},
		{`{"name":"a","type":"histogram","metadata":{"buckets":[{"le":1,"count":-1}]}}`, bad},
		{`{"name":"a","type":"histogram","metadata":{"buckets":[{"le":2,"count":1},{"le":1,"count":1}]}}`, bad},
		{`{"name":"a","type":"histogram","metadata":{"buckets":[{"count":1}]}}`, bad},
		// What sluice does not.
		{`{"value":1}`, "missing_name"},
		{`{"name":"sluice.a","value":1}`, "reserved_name"},
		{`{"name":"a","value":1,"timestamp":"2024-01-15T10:30:00Z"}`, "invalid_timestamp"},
	} {
		t.Run(shorten(test.item), func(t *testing.T) {
			for _, daemon := range []bool{false, true} {
				a := newAPITest(t, APIOptions{})
				path, badText := "", "Invalid request body\n"
				id := a.session(map[bool]string{false: "/api/sessions", true: "/register"}[daemon])
				if path = "/api/sessions/" + id + "/metrics"; daemon {
					path, badText = "/metric", "Invalid request\n"
				}
				status, answer := 0, ""
				for item := range strings.SplitSeq(test.item, "\n") {
					if daemon {
						item = strings.Replace(item, "{", `{"session_id":"`+id+`",`, 1)
						item = strings.Replace(item, ",}", "}", 1)
					}
					status, answer = a.post(path, item)
				}
				if !strings.Contains(test.want, " = ") && test.want != "" {
					want := badText
					for code := range Codes {
						if code.String() == test.want {
							want = code.Message() + "\n"
						}
					}
					if status != 400 || answer != want {
						t.Errorf("%s: status %d, text %q, want 400, %q", path, status, answer, want)
					}
					a.holds()
					continue
				}
				if status != 200 || answer != datacatOK {
					t.Errorf("%s: status %d, answer %q, want 200, %q", path, status, answer, datacatOK)
				}
				want := strings.Split(test.want, "; ")
				if test.want == "" {
					want = nil
				}
				a.holds(want...)
			}
		})
	}
}

// TestDataCatRefusedTotal: a running total that was refused is not forgotten: what
// it has grown by comes with the next one.
func TestDataCatRefusedTotal(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	path := "/api/sessions/" + a.session("/api/sessions") + "/metrics"
	a.post(path, `{"name":"a","value":3,"type":"counter"}`)
	if status, answer := a.post(path, `{"name":"a","value":8,"type":"counter","timestamp":"2024-01-15T10:30:00Z"}`); status != 400 {
		t.Fatalf("status %d, want 400: %s", status, answer)
	}
	a.post(path, `{"name":"a","value":9,"type":"counter"}`)
	a.holds("a|counter = 9")
}

// TestDataCatRefusedRoom: a running total that was refused takes no room, however often
// it comes and whatever it was before.
func TestDataCatRefusedRoom(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	id := a.session("/api/sessions")
	post := func(buckets, time string, want int) {
		t.Helper()
		item := `{"name":"a","type":"histogram","metadata":{"buckets":[` + buckets + `]}` + time + `}`
		if status, answer := a.post("/api/sessions/"+id+"/metrics", item); status != want {
			t.Fatalf("status %d, want %d: %s", status, want, answer)
		}
	}
	const late = `,"timestamp":"2024-01-15T10:30:00Z"`
	const one, two = `{"le":1,"count":1}`, `{"le":1,"count":1},{"le":2,"count":1}`
	all := a.api.sessions.totals.left.Load()
	left := func(want int64) {
		t.Helper()
		s := a.api.sessions.get(id, time.Now())
		if got := a.api.sessions.totals.left.Load(); got != want || int64(s.bytes) != all-want {
			t.Errorf("%d bytes are left and the session has %d, want %d and %d", got, s.bytes, want, all-want)
		}
	}
	for range 3 {
		post(one, late, 400)
	}
	left(all)
	post(one, "", 200)
	kept := a.api.sessions.totals.left.Load()
	if kept >= all {
		t.Error("a running total takes no room")
	}
	for range 3 {
		post(two, late, 400)
	}
	left(kept)
	post(two, "", 200)
	left(kept - 16)
	post(one, late, 400)
	left(kept - 16)
}

// TestDataCatCalls is the tables of server and daemon paths: statuses and texts of
// everything beside metrics.
func TestDataCatCalls(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	id := a.session("/api/sessions")
	const unknown = "00000000-0000-4000-8000-000000000000"
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"POST", "/api/sessions", `{}`, 400, "Product and version are required fields\n"},
		{"POST", "/api/sessions", `{"product":"p"}`, 400, "Product and version are required fields\n"},
		{"POST", "/api/sessions", `x`, 400, "Invalid request body\n"},
		{"POST", "/api/sessions", `{"product":7,"version":"1"}`, 400, "Invalid request body\n"},
		{"GET", "/api/sessions", ``, 405, "Method not allowed\n"},
		{"PUT", "/api/sessions", `{}`, 405, "Method not allowed\n"},
		{"POST", "/api/sessions/" + unknown + "/metrics", `{"name":"a","value":1}`, 404, "session not found\n"},
		{"POST", "/api/sessions/" + unknown + "/events", `{}`, 404, "session not found\n"},
		{"POST", "/api/sessions/" + id + "/state", `{"level":1}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/api/sessions/" + id + "/state", `7`, 400, "Invalid request body\n"},
		{"POST", "/api/sessions/" + id + "/heartbeat", ``, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/api/sessions/" + id + "/crash", `{}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/api/sessions/" + id + "/end", ``, 200, `{"status":"ok"}` + "\n"},
		{"GET", "/api/sessions/" + id + "/end", ``, 405, "Method not allowed\n"},
		{"POST", "/api/sessions/" + id, `{}`, 405, "Method not allowed\n"},
		{"POST", "/api/sessions/" + id + "/dance", `{}`, 404, "Not found\n"},
		{"POST", "/api/sessions/" + id + "/metrics/", `{}`, 404, "Not found\n"},
		{"POST", "/api/sessions/" + id + "/", `{}`, 404, "Not found\n"},
		{"GET", "/api/sessions/" + unknown, ``, 404, "Session not found\n"},
		{"POST", "/api/data/sessions", `{}`, 405, "Method not allowed\n"},
		{"POST", "/register", `{"parent_pid":1}`, 400, "Product and version are required fields\n"},
		{"GET", "/register", ``, 405, "Method not allowed\n"},
		{"POST", "/metric", `{"session_id":"` + unknown + `","name":"a","value":1}`, 404, "Session not found\n"},
		{"POST", "/metric", `x`, 400, "Invalid request\n"},
		{"POST", "/event", `{"session_id":"` + unknown + `"}`, 404, "Session not found\n"},
		{"POST", "/state", `{"session_id":"` + id + `","state":{"a":1}}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/heartbeat", `{"session_id":"` + id + `"}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/pause_heartbeat", `{"session_id":"` + id + `"}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/resume_heartbeat", `{"session_id":"` + id + `"}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/end", `{"session_id":"` + id + `"}`, 200, `{"status":"ok"}` + "\n"},
		{"POST", "/end", `{}`, 404, "Session not found\n"},
		{"GET", "/session?session_id=" + unknown, ``, 404, "Session not found\n"},
		{"DELETE", "/sessions", ``, 405, "Method not allowed\n"},
		{"GET", "/health", ``, 200, `{"status":"healthy","service":"sluice","version":"1.2.3"}` + "\n"},
	} {
		status, answer, header := a.do(test.method, test.path, test.body)
		if status != test.status || answer != test.answer {
			t.Errorf("%s %s %s: status %d, answer %q, want %d, %q", test.method, test.path, test.body, status, answer, test.status, test.answer)
		}
		if status >= 400 && !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s %s: Content-Type %q, want text", test.method, test.path, header.Get("Content-Type"))
		}
		if status == 405 && header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", test.method, test.path)
		}
	}
	if got := a.api.Stats().Codes[SessionNotFound]; got != 10 {
		t.Errorf("%d counted as %s, want 10", got, SessionNotFound)
	}
	for _, path := range []string{"/api/sessions/" + id, "/session?session_id=" + id} {
		_, answer, _ := a.do("GET", path, "")
		sameJSON(t, answer, `{"id":"`+id+`","created_at":"*","updated_at":"*","ended_at":"*","active":false,"suspended":false,"crashed":false,"hung":false,
			"machine_id":"m","hostname":"h","state":{"product":"game","version":"1.0"},"state_history":[],"events":[],"metrics":[]}`)
	}
	for _, path := range []string{"/api/data/sessions", "/sessions"} {
		if _, answer, _ := a.do("GET", path, ""); strings.Count(answer, `"id":`) != 1 {
			t.Errorf("%s lists %s, want one session", path, answer)
		}
	}
	a.holds()
}

// TestDataCatEvents: they become events like all others.
func TestDataCatEvents(t *testing.T) {
	a := newAPITest(t, APIOptions{})
	id := a.session("/api/sessions")
	body := `{"name":"player_moved","labels":["level:3"],"data":{"x":10}}`
	if status, answer := a.post("/api/sessions/"+id+"/events", body); status != 200 || answer != `{"status":"ok"}`+"\n" {
		t.Errorf("status %d, answer %q", status, answer)
	}
	a.holds("event player_moved level:3 properties=" + body + " session=" + id + " service=game host=h")
	if status, answer := a.post("/api/sessions/"+id+"/events", `{"data":{}}`); status != 400 || answer != MissingName.Message()+"\n" {
		t.Errorf("without a name: status %d, answer %q", status, answer)
	}
}

// TestSessionIDs: 40 ids that are none reach no session and no upstream. Threats:
// what url.PathEscape leaves alone, and what a server takes for a slash.
func TestSessionIDs(t *testing.T) {
	calls := 0
	a := newAPITest(t, APIOptions{DataCat: func() DataCatUpstream {
		return func(context.Context, string, string, []byte) (int, []byte, error) {
			calls++
			return 200, []byte(`{}`), nil
		}
	}})
	ids := []string{"", ".", "..", "...", "../..", "..%2f", "%2e%2e", "%2E%2E%2Fmetrics", "%2f", "%5c", "\\", "..\\..", "a%2fb", "a/b", "a%00", "%00", "a%0d%0aHost:x", "%0a",
		"a%20b", "%7f", "%c0%af", "%ff", "%e2%88%95", "é", "😀", "a;b", "a:b", "a@b", "a?b", "a%3Fb", "a%23b", "a%25b", "%252e%252e", "*", "$(id)", "a'b", "a%22b", "<a>",
		strings.Repeat("a", 65), strings.Repeat("a", 4096)}
	if len(ids) != 40 {
		t.Fatalf("%d ids, want 40", len(ids))
	}
	for _, id := range ids {
		for _, operation := range []string{"/metrics", "/events", "/end", ""} {
			method := "POST"
			if operation == "" {
				method = "GET"
			}
			target := "/api/sessions/" + id + operation
			if status := a.raw(target, method); status/100 == 2 {
				t.Errorf("%s %s: status %d", method, target, status)
			}
			body, _ := json.Marshal(map[string]any{"session_id": id, "name": "a", "value": 1})
			if status, _ := a.post("/metric", string(body)); status != 404 {
				t.Errorf("/metric of the id %q: status %d, want 404", id, status)
			}
		}
		if validSessionID(id) {
			t.Errorf("%q is taken for an id", id)
		}
	}
	if calls != 0 {
		t.Errorf("%d requests went to the upstream, want 0", calls)
	}
	a.holds()
}

// TestDataCatUpstream: sessions are the upstream's, and what is no metric is
// passed on; a session that it cannot give is one of ours.
func TestDataCatUpstream(t *testing.T) {
	var calls []string
	away := false
	a := newAPITest(t, APIOptions{DataCat: func() DataCatUpstream {
		return func(_ context.Context, method, path string, body []byte) (int, []byte, error) {
			calls = append(calls, fmt.Sprintf("%s %s %s", method, path, body))
			switch {
			case away:
				return 0, nil, errors.New("refused")
			case path == "/api/sessions":
				return 200, []byte(`{"session_id":"theirs-1"}`), nil
			case strings.HasSuffix(path, "/heartbeat"):
				return 404, []byte("session not found\n"), nil
			}
			return 200, []byte(`{"from":"there"}`), nil
		}
	}})
	_, answer := a.post("/register", `{"product":"p","version":"1","machine_id":"m"}`)
	sameJSON(t, answer, `{"session_id":"theirs-1"}`)
	if status, answer := a.post("/metric", `{"session_id":"theirs-1","name":"a","value":1}`); status != 200 || answer != datacatOK {
		t.Errorf("metric: status %d, %s", status, answer)
	}
	a.post("/event", `{"session_id":"theirs-1","name":"e"}`)
	a.post("/state", `{"session_id":"theirs-1","state":{"a":1}}`)
	if status, answer := a.post("/heartbeat", `{"session_id":"theirs-1"}`); status != 404 || answer != "session not found\n" {
		t.Errorf("heartbeat: status %d, %q, want the upstream's 404", status, answer)
	}
	_, answer, _ = a.do("GET", "/api/sessions/theirs-1", "")
	sameJSON(t, answer, `{"from":"there"}`)
	a.post("/api/sessions/theirs-1/end", ``)
	want := []string{
		`POST /api/sessions {"product":"p","version":"1","machine_id":"m"}`,
		`POST /api/sessions/theirs-1/events {"session_id":"theirs-1","name":"e"}`,
		`POST /api/sessions/theirs-1/state {"a":1}`,
		`POST /api/sessions/theirs-1/heartbeat {"session_id":"theirs-1"}`,
		`GET /api/sessions/theirs-1 `,
		`POST /api/sessions/theirs-1/end {}`,
	}
	if got := strings.Join(calls, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the upstream got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	a.holds("a|gauge = 1")

	away = true
	if status, answer := a.post("/api/sessions/theirs-1/heartbeat", ``); status != 503 || answer != "DataCat upstream is away\n" {
		t.Errorf("heartbeat while it is away: status %d, %q", status, answer)
	}
	id := a.session("/api/sessions")
	if status, _ := a.post("/api/sessions/"+id+"/metrics", `{"name":"b","value":1}`); status != 200 {
		t.Errorf("metric of a session of ours: status %d", status)
	}
	before := len(calls)
	a.post("/api/sessions/"+id+"/heartbeat", ``)
	if len(calls) != before {
		t.Error("a session of ours was passed on")
	}
}

// TestSessionBounds: sessions end, and do not grow without bound, nor do running
// totals.
func TestSessionBounds(t *testing.T) {
	l := newSessions()
	now := time.Now()
	add := func(id string, at time.Time) bool { return l.add(&session{id: id, created: at}, at) }
	for i := range maxSessions {
		if !add(fmt.Sprint("s", i), now.Add(time.Duration(i)*time.Millisecond)) {
			t.Fatalf("session %d has no room", i)
		}
	}
	if add("more", now.Add(time.Minute)) {
		t.Error("one session more than allowed")
	}
	later := now.Add(idleSession + time.Minute)
	if !add("more", later) || l.get("s0", later) != nil || l.get("s1", later) == nil {
		t.Error("the session that was idle longest does not give way")
	}
	if l.get("s2", now.Add(longestSession+time.Hour)) != nil {
		t.Error("a session lives longer than a day without a call")
	}
	l.end(l.get("s1", later), true, later)
	if l.get("s1", later.Add(idleEnded-time.Second)) == nil || l.get("s1", later.Add(2*idleEnded)) != nil {
		t.Error("a session that has ended does not go after ten minutes")
	}
	if !add("next", now.Add(100*time.Hour)) || len(l.byID) != 1 {
		t.Errorf("%d sessions, want the others swept", len(l.byID))
	}

	a := newAPITest(t, APIOptions{})
	id := a.session("/api/sessions")
	a.api.sessions.totals.left.Store(1000)
	refused := 0
	for i := range 10 {
		if status, _ := a.post("/api/sessions/"+id+"/metrics", fmt.Sprintf(`{"name":"t%d","value":1,"type":"counter"}`, i)); status == 429 {
			refused++
		}
	}
	if refused != 6 {
		t.Errorf("%d of 10 running totals refused, want 6", refused)
	}
	s := a.api.sessions.get(id, time.Now())
	a.api.sessions.mu.Lock()
	a.api.sessions.forgetLocked(s)
	a.api.sessions.mu.Unlock()
	if left := a.api.sessions.totals.left.Load(); left != 1000 {
		t.Errorf("%d bytes are left once the session is forgotten, want all 1000", left)
	}
}

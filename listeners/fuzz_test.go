package listeners

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"sluice/aggregator"
)

// A collector is a sink that keeps everything as text. It refuses what an intake
// refuses for its spelling.
type collector struct {
	t        testing.TB
	spelling aggregator.Spelling
	samples  []string
	events   int
}

func (c *collector) Add(now int64, batch []aggregator.Sample) (marked int) {
	for i := range batch {
		s := &batch[i]
		if math.IsNaN(s.Value-s.Value) || s.Weight != 0 && s.Weight < 1 || !utf8.Valid(s.Member) || bytes.ContainsFunc(s.Member, unicode.IsControl) {
			c.t.Errorf("sample %+v breaks the contract of aggregator.Sample", *s)
		}
		key := aggregator.Key{Kind: s.Kind}
		if s.Refused = c.spelling.Name(&key, s); s.Refused != aggregator.Taken {
			marked++
			continue
		}
		series := key.Series()
		for k, v := range series.Tags() {
			if !utf8.ValidString(k+v) || strings.ContainsFunc(k+v, unicode.IsControl) {
				c.t.Errorf("tag %q:%q of %q", k, v, series)
			}
		}
		value := strconv.FormatFloat(s.Value, 'g', -1, 64)
		if s.Flags&aggregator.Whole != 0 {
			value = strconv.FormatInt(s.Whole, 10)
		}
		c.samples = append(c.samples, fmt.Sprintf("%s %s %q x%v @%d", series, value, s.Member, max(s.Weight, 1), s.Time))
	}
	return marked
}

func (c *collector) From(string) {}

func (c *collector) AddEvent(now int64, e *aggregator.Event) aggregator.Reason {
	if len(e.Name) == 0 || math.IsNaN(e.Value-e.Value) || len(e.Properties) > 0 && (!json.Valid(e.Properties) || !utf8.Valid(e.Properties) ||
		e.Properties[0] != '{' || regexp.MustCompile(`(^|[^\\])(\\\\)*\\u0000`).Match(e.Properties)) {
		c.t.Errorf("event %q with %v and the properties %q", e.Name, e.Value, e.Properties)
	}
	for _, text := range [][]byte{e.Name, e.UserID, e.SessionID, e.RequestID, e.Environment, e.Service, e.Host} {
		if !utf8.Valid(text) || bytes.ContainsFunc(text, unicode.IsControl) {
			c.t.Errorf("event %q has the text %q", e.Name, text)
		}
	}
	for range e.EachTag() {
	}
	c.events++
	return aggregator.Taken
}

// newCollected is an API whose samples a collector has.
func newCollected(t testing.TB) (*API, http.Handler, *collector) {
	c := &collector{t: t}
	a := NewAPI(APIOptions{})
	mux := http.NewServeMux()
	a.Routes(mux, func(s aggregator.Spelling) Sink { c.spelling = s; return c })
	return a, mux, c
}

func ask(h http.Handler, path string, body []byte, headers ...string) (status int, answer []byte) {
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// tree reads JSON the slow way: all of it into maps and slices, of two members of
// one name the last.
func tree(body []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\uFEFF"))))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, err == io.EOF
}

// plainText is what docs/protocols.md makes of a text: control characters are _.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func cutText(s string, n int) string {
	for len(s) > n || !utf8.ValidString(s) {
		s = s[:min(len(s)-1, n)]
	}
	return s
}

var slowForm = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

func slowNumber(s string) (f float64, ok bool) {
	f, err := strconv.ParseFloat(s, 64)
	return f + 0, slowForm.MatchString(s) && err == nil
}

// slowTags reads tags as the pages say.
func slowTags(v any) (tags map[string]string, code string) {
	tags = map[string]string{}
	put := func(k, v string) {
		if k = cutText(plainText(k), 64); k != "" {
			tags[k] = cutText(plainText(v), 200)
		}
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if _, twice := tags[cutText(plainText(k), 64)]; twice {
				return nil, "unsure" // the tree does not know which came last
			}
			switch value := v[k].(type) {
			case nil:
				put(k, "")
			case string:
				put(k, value)
			case json.Number:
				put(k, value.String())
			case bool:
				put(k, fmt.Sprint(value))
			default:
				return nil, "unsure" // the order and escapes of what is nested are not in the tree
			}
		}
	case []any:
		for _, e := range v {
			text, ok := e.(string)
			if !ok {
				return nil, "invalid_tags"
			}
			k, value, colon := strings.Cut(strings.Trim(text, " \t"), ":")
			if k = strings.Trim(k, " \t"); !colon {
				value = "true"
			}
			if k != "dd.internal.entity_id" && k != "dd.internal.card" && k != "dd.internal.jmx_check_name" {
				put(k, strings.Trim(value, " \t"))
			}
		}
	default:
		return nil, "invalid_tags"
	}
	return tags, ""
}

// slowMetric reads one item as "Items" of docs/protocols.md says. It answers what a
// collector would keep, or the code.
func slowMetric(v any, pulse bool) (sample, code string, isPulse bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return "", "invalid_item", pulse
	}
	typ, kind := m["type"], m["kind"]
	if !pulse && typ == nil && kind != nil {
		pulse = true
	}
	name, ok := m["name"].(string)
	name = plainText(name)
	switch {
	case !ok || name == "":
		return "", "missing_name", pulse
	case len(name) > 255:
		return "", "name_too_long", pulse
	case strings.HasPrefix(name, "sluice."):
		return "", "reserved_name", pulse
	}
	if pulse && typ == nil {
		if typ = kind; typ == nil {
			typ = "gauge"
		}
	}
	kinds := map[any]aggregator.Kind{"gauge": aggregator.Gauge, "counter": aggregator.Counter, "histogram": aggregator.Distribution}
	if !pulse {
		kinds["distribution"], kinds["set"] = aggregator.Distribution, aggregator.Set
	}
	text, ok := typ.(string)
	k, known := kinds[text]
	if !ok || !known {
		return "", "invalid_type", pulse
	}
	value, member := "0", ""
	given, there := m["value"]
	if n, ok := given.(json.Number); ok {
		given = n.String()
	}
	switch {
	case k == aggregator.Set:
		if b, ok := given.(bool); ok {
			given = fmt.Sprint(b)
		}
		text, _ := given.(string)
		if member = plainText(text); member == "" || len(member) > maxMember {
			return "", "invalid_value", pulse
		}
	case k == aggregator.Counter && !there:
		value = "1"
	default:
		text, isText := given.(string)
		f, ok := slowNumber(text)
		if !isText || !ok {
			return "", "invalid_value", pulse
		}
		value = strconv.FormatFloat(f, 'g', -1, 64)
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && k == aggregator.Counter {
			value = strconv.FormatInt(n, 10)
		}
	}
	at := int64(0)
	switch given := m["timestamp"].(type) {
	case nil:
	case json.Number:
		f, ok := slowNumber(given.String())
		if math.Abs(f) >= 1e11 {
			f /= 1000
		}
		if !ok || math.Abs(f) > 9e9 {
			return "", "invalid_timestamp", pulse
		}
		return "", "unsure", pulse // digits beyond those of a float
	case string:
		t, err := time.Parse(time.RFC3339Nano, given)
		if err != nil {
			if t, err = time.Parse("2006-01-02 15:04:05.999999999", given); err != nil || strings.Contains(given, ",") {
				return "", "unsure", pulse // cases where time.Parse is narrower or wider are rows of TestTimestamps
			}
		}
		if t.Year() < 1680 || t.Year() > 2260 || strings.Contains(given, ",") || len(given) > 35 || given[13] != ':' { // it takes an hour of one digit
			return "", "unsure", pulse
		}
		if at = t.UnixNano(); at == 0 {
			at = 1
		}
	default:
		return "", "invalid_timestamp", pulse
	}
	tags, code := slowTags(m["tags"])
	switch {
	case code != "":
		return "", code, pulse
	case pulse && len(tags) > 10 || len(tags) > 100:
		return "", "too_many_tags", pulse
	}
	var list []aggregator.Tag
	for key, v := range tags {
		list = append(list, aggregator.Tag{Key: key, Value: v})
	}
	return fmt.Sprintf("%s %s %q x1 @%d", aggregator.NewSeries(k, name, list...), value, member, at), "", pulse
}

// FuzzMetrics compares what becomes of a body at the batch paths with what the
// slow reading of it says: the samples, the codes by index, the status.
func FuzzMetrics(f *testing.F) {
	for _, item := range []string{
		`{"name":"a","type":"gauge","value":1}`, `{"name":"a","type":"set","value":"\u0000é"}`, `{"name":"a","kind":"counter","value":"1e3","tags":{"k":null,"l":1.50}}`,
		`{"name":"sluice.x"}`, `{"name":"a","type":"counter","tags":["k:v","bare"],"timestamp":"2024-01-15T10:30:00.5+02:00"}`, `7`, `{"name":"a","type":"counter","timestamp":1700000000}`,
	} {
		f.Add([]byte("["+item+"]"), uint8(0))
		f.Add([]byte(`{"x":{},"metrics":[`+item+`,{}]}`), uint8(1))
	}
	a, handler, c := newCollected(f)
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		c.t, c.samples = t, nil
		pulse := which&1 != 0
		path := "/api/v1/metrics/batch"
		if pulse {
			path = "/pulse" + path
		}
		before := bytes.Clone(body)
		status, answer := ask(handler, path, body)
		if !bytes.Equal(body, before) {
			t.Errorf("the body was changed")
		}
		if a.bodies.left.Load() != bodyBudget {
			t.Errorf("the budget has %d left", a.bodies.left.Load())
		}
		var got struct {
			Data   struct{ Accepted, Rejected int }
			Errors []struct {
				Index int
				Code  string
			}
			Code string
		}
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatalf("the answer is no JSON: %v: %s", err, answer)
		}
		list, want := slowList(body)
		if want == "" && len(list) == 0 && !pulse {
			want = "no_metrics"
		}
		if want == "" && len(list) > 400 {
			return // limits are rows of TestFluxAnswers
		}
		if want != "" {
			if got.Code != want || status != 400 || len(c.samples) > 0 {
				t.Errorf("%s %q: status %d, %s, %d samples; want 400 and %s", path, body, status, answer, len(c.samples), want)
			}
			return
		}
		var samples, codes []string
		for i, item := range list {
			sample, code, _ := slowMetric(item, pulse)
			if code == "unsure" {
				return
			}
			if code != "" {
				codes = append(codes, fmt.Sprint(i, " ", code))
			} else {
				samples = append(samples, sample)
			}
		}
		if !slices.Equal(c.samples, samples) {
			t.Errorf("%s %q:\n got %q\nwant %q", path, body, c.samples, samples)
		}
		var explained []string
		for _, e := range got.Errors {
			explained = append(explained, fmt.Sprint(e.Index, " ", e.Code))
		}
		if len(codes) != got.Data.Rejected || len(samples) != got.Data.Accepted || !slices.Equal(explained, codes[:min(len(codes), maxErrors)]) {
			t.Errorf("%s %q: %s, want %d accepted and %q", path, body, answer, len(samples), codes)
		}
		wantStatus := 201
		if len(samples) == 0 && len(list) > 0 {
			wantStatus = 400
		}
		if status != wantStatus {
			t.Errorf("%s %q: status %d, want %d", path, body, status, wantStatus)
		}
	})
}

// slowList finds the list of metrics in a body.
func slowList(body []byte) (list []any, code string) {
	v, ok := tree(body)
	if !ok {
		return nil, "invalid_json"
	}
	switch v := v.(type) {
	case []any:
		return v, ""
	case map[string]any:
		switch list := v["metrics"].(type) {
		case nil:
			return nil, ""
		case []any:
			return list, ""
		}
	}
	return nil, "invalid_json"
}

// FuzzBodies holds every other path against what must always be true: the answer
// has a form of its dialect, what was accepted is what the answer says, and what
// reaches the sink is fit for it (see collector).
func FuzzBodies(f *testing.F) {
	paths := []string{"/api/v1/metrics", "/pulse/api/v1/metrics", "/api/v1/events", "/api/v1/events/batch", "/api/v1/flux/batch", "/api/sessions", "/register", "/metric", "/event", "/end", "/api/sessions/SESSION/metrics", "/api/sessions/SESSION/events"}
	for i, body := range []string{
		`{"name":"a","type":"gauge","value":1}`, `{"name":"a","kind":"histogram","value":"2"}`, `{"name":"e","properties":{"a":["\ud800\u0000"]},"tags":{"a":[1]},"timestamp":0}`,
		`[{"name":"e","user_id":1}]`, `{"events":[{"name":"e"}],"metrics":[{"name":"a","type":"counter"}]}`, `{"product":"p","version":"1"}`, `{"product":"p","version":"1","parent_pid":1}`,
		`{"session_id":"SESSION","name":"a","type":"counter","delta":1}`, `{"session_id":"SESSION","name":"e","labels":["a"]}`, `{"session_id":"SESSION"}`,
		`{"name":"a","type":"histogram","metadata":{"buckets":[{"le":1,"count":2},{"le":Infinity,"count":3}],"sum":9,"x":NaN}}`, `{"name":"e","data":{}}`,
	} {
		f.Add([]byte(body), uint8(i))
		f.Add([]byte(body), uint8(i+1))
	}
	a, handler, c := newCollected(f)
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		c.t, c.samples, c.events = t, nil, 0
		a.sessions = newSessions() // not in use between two calls
		a.sessions.add(&session{id: "s1", created: time.Now()}, time.Now())
		path := strings.Replace(paths[int(which)%len(paths)], "SESSION", "s1", 1)
		body = bytes.ReplaceAll(body, []byte("SESSION"), []byte("s1"))
		status, answer := ask(handler, path, body)
		taken := len(c.samples) + c.events
		if isDataCat(path) {
			switch {
			case status == 200 && json.Valid(answer):
			case status >= 400 && bytes.HasSuffix(answer, []byte("\n")) && taken == 0:
			default:
				t.Errorf("%s %q: status %d, %q, %d taken", path, body, status, answer, taken)
			}
			return
		}
		var got struct {
			Code   string
			Total  *int
			Data   struct{ Accepted *int }
			Errors []any
		}
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatalf("%s %q: no JSON: %s", path, body, answer)
		}
		says := 0
		switch {
		case got.Total != nil:
			says = *got.Total
		case got.Data.Accepted != nil:
			says = *got.Data.Accepted
		case status == 201:
			says = 1
		}
		if says != taken || (status == 201) != (got.Code == "") {
			t.Errorf("%s %q: status %d, %s, but %d were taken", path, body, status, answer, taken)
		}
		if _, ok := tree(body); !ok && taken > 0 {
			t.Errorf("%s %q: %d taken of what is no JSON", path, body, taken)
		}
	})
}

// FuzzGzip: a compressed body is taken as its content, or refused, in bounded
// memory.
func FuzzGzip(f *testing.F) {
	item := []byte(`{"name":"a","type":"counter","value":1}`)
	f.Add(zipped(f, item))
	f.Add(append(zipped(f, item[:9]), zipped(f, item[9:])...))
	f.Add(zipped(f, item)[:25])
	f.Add([]byte{0x1f, 0x8b})
	reserved := zipped(f, item)
	reserved[3] = 0x40
	f.Add(reserved)
	f.Add([]byte{})
	a, handler, c := newCollected(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		c.t, c.samples = t, nil
		status, answer := ask(handler, "/api/v1/metrics", body, "Content-Encoding=gzip")
		if a.bodies.left.Load() != bodyBudget {
			t.Errorf("the budget has %d left", a.bodies.left.Load())
		}
		content, err := slowGunzip(body)
		switch {
		case len(content) > MaxBody:
			if status != 413 {
				t.Errorf("status %d, want 413", status)
			}
		case err != nil:
			if status != 400 || len(c.samples) > 0 {
				t.Errorf("%q is no gzip (%v): status %d, %s", body, err, status, answer)
			}
		default:
			got := c.samples
			c.samples = nil
			if want, _ := ask(handler, "/api/v1/metrics", content); status != want || !slices.Equal(got, c.samples) {
				t.Errorf("%q: status %d, %q; uncompressed %d, %q", body, status, got, want, c.samples)
			}
		}
	})
}

// slowGunzip inflates member by member. Bits of a header that RFC 1952, 2.3.1.2,
// reserves are an error, which compress/gzip passes over.
func slowGunzip(body []byte) (content []byte, err error) {
	in := bytes.NewReader(body)
	for r := new(gzip.Reader); len(content) <= MaxBody && (in.Len() > 0 || len(body) == 0); {
		if head := body[len(body)-in.Len():]; len(head) > 3 && head[3]&0xE0 != 0 {
			return content, gzip.ErrHeader
		}
		if err := r.Reset(in); err != nil {
			return content, err
		}
		r.Multistream(false)
		part, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
		if content = append(content, part...); err != nil {
			return content, err
		}
	}
	return content, nil
}

// FuzzSessionID: what is taken for an id stays one segment of a path, whoever
// decodes it.
func FuzzSessionID(f *testing.F) {
	for _, id := range []string{"..", "a", "a-b_C9", "%2e", "a/b", newSessionID(), "\x00"} {
		f.Add(id)
	}
	form := regexp.MustCompile(`\A[A-Za-z0-9_-]{1,64}\z`)
	f.Fuzz(func(t *testing.T, id string) {
		if got, want := validSessionID(id), form.MatchString(id); got != want {
			t.Errorf("validSessionID(%q) = %v, want %v", id, got, want)
		}
	})
}

package listeners

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/aggregator"
)

// showEvent writes all of an event.
//
//	name[=value][@nanoseconds] {property:"value",...} [host:h env:e service:s] [tag:value,...]
func showEvent(e *aggregator.Event) string {
	var properties map[string]string
	if err := json.Unmarshal(e.Properties, &properties); err != nil {
		panic(fmt.Sprintf("properties %q: %v", e.Properties, err))
	}
	tags := map[string]string{}
	for k, v := range e.EachTag() {
		tags[string(k)] = string(v)
	}
	if !e.HasValue {
		e.Value = -1
	}
	if len(e.UserID)+len(e.SessionID)+len(e.RequestID) > 0 {
		panic("a line has no ids")
	}
	return describeEvent(string(e.Name), e.Value, e.Time, properties, string(e.Host), string(e.Environment), string(e.Service), tags)
}

func describeEvent(name string, value float64, at int64, properties map[string]string, host, environment, service string, tags map[string]string) string {
	text := strconv.Quote(name)
	if value >= 0 {
		text += fmt.Sprintf("=%g", value)
	}
	if at != 0 {
		text += fmt.Sprintf("@%d", at)
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		list = append(list, k+":"+strconv.Quote(properties[k]))
	}
	text += " {" + strings.Join(list, ",") + "}"
	for _, m := range [][2]string{{"host", host}, {"env", environment}, {"service", service}} {
		if m[1] != "" {
			text += " " + m[0] + ":" + m[1]
		}
	}
	if len(tags) > 0 {
		list = nil
		for _, k := range slices.Sorted(maps.Keys(tags)) {
			list = append(list, k+":"+tags[k])
		}
		text += " [" + strings.Join(list, ",") + "]"
	}
	return text
}

// told is what an event or a check amounts to.
type told struct {
	text string
	cut  bool
}

var (
	eventForm = regexp.MustCompile(`(?s)^_e\{([0-9]+),([0-9]+)\}:(.*)$`)
	checkForm = regexp.MustCompile(`(?s)^_sc\|([^|]+)\|([0-3])(?:\|(.*))?$`)
	textForm  = regexp.MustCompile(`[^\P{Cc}\t]`)
)

// oracleEvent reads a line that may be an event or a check, with the white space
// behind it, as docs/protocols.md says.
func oracleEvent(n *Naming, line string) (e told, reason aggregator.Reason, is bool) {
	trimmed := strings.TrimRight(line, "\r\x00 \t")
	switch {
	case strings.HasPrefix(trimmed, "_e{"):
		e, reason = oracleTold(n, line)
		return e, reason, true
	case strings.HasPrefix(trimmed, "_sc|"):
		e, reason = oracleCheck(n, trimmed)
		return e, reason, true
	}
	return e, aggregator.Taken, false
}

// units gives where each unit of s begins, and its end; -1 is in the midst of one.
func units(s, unit string) (at []int) {
	if unit == "bytes" {
		for i := range len(s) + 1 {
			at = append(at, i)
		}
		return at
	}
	for i, r := range s { // invalid bytes one by one
		at = append(at, i)
		if unit == "utf16" && r > 0xFFFF {
			at = append(at, -1)
		}
	}
	return append(at, len(s))
}

func oracleText(s string, message bool) string {
	s = textForm.ReplaceAllString(string([]rune(s)), "_")
	if message {
		return strings.NewReplacer(`\n`, "\n", `m\:`, "m:").Replace(s)
	}
	return strings.ReplaceAll(s, `\n`, "\n")
}

// oracleFields are those that events and checks share.
type oracleFields struct {
	time int64
	host string
	tags map[string]string
	cut  bool
}

func (f *oracleFields) read(field string) {
	if rest, ok := strings.CutPrefix(field, "d:"); ok && timeForm.MatchString(rest) {
		if at, err := strconv.ParseInt(rest, 10, 64); err == nil && at < 9_214_646_400 {
			f.time = at * 1e9
		}
	}
	if rest, ok := strings.CutPrefix(field, "h:"); ok {
		f.host = oracleText(rest, false)
	}
	if rest, ok := strings.CutPrefix(field, "#"); ok {
		for element := range strings.SplitSeq(string([]rune(rest)), ",") {
			f.cut = oracleTag(f.tags, element, ":") || f.cut
		}
	}
}

func (f *oracleFields) told(n *Naming, name string, value float64, properties map[string]string) (told, aggregator.Reason) {
	if len(f.tags) > aggregator.MaxTags {
		return told{}, aggregator.TooManyTags
	}
	for _, t := range oracleTags(n.Rules) {
		if _, ok := f.tags[t.Key]; !ok && len(f.tags) < aggregator.MaxTags {
			f.tags[t.Key] = t.Value
		}
	}
	host := f.host
	if host == "" {
		host = f.tags["host"]
	}
	return told{describeEvent(name, value, f.time, properties, host, f.tags["env"], f.tags["service"], f.tags), f.cut}, aggregator.Taken
}

func oracleTold(n *Naming, line string) (told, aggregator.Reason) {
	m := eventForm.FindStringSubmatch(line)
	if m == nil {
		return told{}, aggregator.BadEvent
	}
	titleLength, err1 := strconv.Atoi(m[1])
	textLength, err2 := strconv.Atoi(m[2])
	if err1 != nil || err2 != nil || titleLength == 0 {
		return told{}, aggregator.BadEvent
	}
	for _, unit := range []string{"bytes", "utf16", "runes"} {
		body := m[3]
		at := units(body, unit)
		if titleLength >= len(at)-1 || at[titleLength] < 0 || body[at[titleLength]] != '|' {
			continue
		}
		title, body := body[:at[titleLength]], body[at[titleLength]+1:]
		at = units(body, unit)
		if textLength >= len(at) || at[textLength] < 0 {
			continue
		}
		text, rest := body[:at[textLength]], strings.TrimRight(body[at[textLength]:], "\r\x00 \t")
		if rest != "" && rest[0] != '|' {
			continue
		}
		name := oracleText(title, false)
		p := map[string]string{"kind": "event", "text": oracleText(text, false), "alert_type": "info", "priority": "normal"}
		if len(name) > 255 {
			p["title"] = name
			for len(name) > 255 {
				r := []rune(name)
				name = string(r[:len(r)-1])
			}
		}
		f := oracleFields{tags: map[string]string{}}
		for field := range strings.SplitSeq(rest, "|") {
			f.read(field)
			for prefix, property := range map[string]string{"k:": "aggregation_key", "s:": "source_type_name"} {
				if v, ok := strings.CutPrefix(field, prefix); ok {
					if p[property] = oracleText(v, false); p[property] == "" {
						delete(p, property)
					}
				}
			}
			if v, ok := strings.CutPrefix(field, "p:"); ok && slices.Contains([]string{"low", "normal"}, v) {
				p["priority"] = v
			}
			if v, ok := strings.CutPrefix(field, "t:"); ok && slices.Contains([]string{"info", "warning", "error", "success"}, v) {
				p["alert_type"] = v
			}
		}
		return f.told(n, name, -1, p)
	}
	return told{}, aggregator.BadEvent
}

func oracleCheck(n *Naming, line string) (told, aggregator.Reason) {
	m := checkForm.FindStringSubmatch(line)
	if m == nil {
		return told{}, aggregator.BadServiceCheck
	}
	name := oracleText(m[1], false)
	if len(name) > 255 {
		return told{}, aggregator.NameTooLong
	}
	p := map[string]string{"kind": "service_check", "status": map[string]string{"0": "ok", "1": "warning", "2": "critical", "3": "unknown"}[m[2]]}
	f := oracleFields{tags: map[string]string{}}
	message, open := "", false
	for field := range strings.SplitSeq(m[3], "|") {
		known := regexp.MustCompile(`^(d:|h:|#|m:|c:|e:|card:)`).FindString(field)
		switch {
		case known == "m:":
			message, open = field[2:], true
		case known != "":
			open = false
			f.read(field)
		case open:
			message += "|" + field
		}
	}
	if message != "" {
		p["message"] = oracleText(message, true)
	}
	return f.told(n, name, float64(m[2][0]-'0'), p)
}

const (
	asEvent = `alert_type:"info",kind:"event",priority:"normal",`
	asCheck = `{kind:"service_check",`
)

var longTitle = strings.Repeat("é", 128) // 256 bytes

// eventRows are packets with events and checks, like rows.
var eventRows = []struct{ section, packet, want string }{
	{"Events", "_e{5,4}:title|text", `"title" {` + asEvent + `text:"text"}`},
	{"Events", "_e{5,0}:title|", `"title" {` + asEvent + `text:""}`},
	{"Events", "_e{05,004}:title|text", `"title" {` + asEvent + `text:"text"}`},
	{"Events", "_e{0,4}:|text", "!bad_event"},
	{"Events", "_e{", "!bad_event"},
	{"Events", "_e{5}:title", "!bad_event"},
	{"Events", "_e{5,4}", "!bad_event"},
	{"Events", "_e{5,4}title|text", "!bad_event"},
	{"Events", "_e{5,4}:title", "!bad_event"},
	{"Events", "_e{5,4}:title|tex", "!bad_event"},
	{"Events", "_e{5,4}:title|texts", "!bad_event"},
	{"Events", "_e{5,4}:titletext", "!bad_event"},
	{"Events", "_e{-5,4}:title|text", "!bad_event"},
	{"Events", "_e{5, 4}:title|text", "!bad_event"},
	{"Events", "_e{,}:title|text", "!bad_event"},
	{"Events", "_e{18446744073709551621,4}:title|text", "!bad_event"},
	{"Events", "_e{5,99999999999999999999}:title|text", "!bad_event"},
	{"Events", "_e{5,4}:ti|le|te|t", `"ti|le" {` + asEvent + `text:"te|t"}`},
	{"Events", `_e{8,8}:ti\ntle2|a\nb\\nc`, `"ti\ntle2" {` + asEvent + `text:"a\nb\\\nc"}`},
	{"Events", "_e{5,4}:title|text\r\n_e{1,1}:a|b \t", `"title" {` + asEvent + `text:"text"}; "a" {` + asEvent + `text:"b"}`},
	{"Events", "_e{5,6}:title|text  ", `"title" {` + asEvent + `text:"text  "}`},
	{"Events", " \t_e{5,4}:title|text", `"title" {` + asEvent + `text:"text"}`},
	{"Events", "_e{6,5}:tétle|téxt", `"tétle" {` + asEvent + `text:"téxt"}`},           // bytes
	{"Events", "_e{5,4}:tétle|téxt", `"tétle" {` + asEvent + `text:"téxt"}`},           // both of the others
	{"Events", "_e{3,4}:a\U0001F600|b\U0001F600c", `"a😀" {` + asEvent + `text:"b😀c"}`}, // UTF-16
	{"Events", "_e{2,3}:a\U0001F600|b\U0001F600c", `"a😀" {` + asEvent + `text:"b😀c"}`}, // characters
	{"Events", "_e{2,4}:a\U0001F600|b\U0001F600c", "!bad_event"},                       // neither
	{"Events", "_e{2,1}:a\xFF|\xFE", `"a` + "\uFFFD" + `" {` + asEvent + `text:"` + "\uFFFD" + `"}`},
	{"Events", "_e{2,3}:a\x00|b\x01\x00", `"a_" {` + asEvent + `text:"b__"}`},
	{"Events", "_e{1,1}:a|b|d:1700000000|h:web-1|k:key|p:low|s:my app|t:error|#env:prod,service:web,x",
		`"a"@1700000000000000000 {aggregation_key:"key",alert_type:"error",kind:"event",priority:"low",source_type_name:"my app",text:"b"} host:web-1 env:prod service:web [env:prod,service:web,x:true]`},
	{"Events", "_e{1,1}:a|b|t:success|p:normal|t:warning", `"a" {alert_type:"warning",kind:"event",priority:"normal",text:"b"}`},
	{"Events", "_e{1,1}:a|b|#host:db-1", `"a" {` + asEvent + `text:"b"} host:db-1 [host:db-1]`},
	{"Events", "_e{1,1}:a|b|h:x|#host:db-1|h:y", `"a" {` + asEvent + `text:"b"} host:y [host:db-1]`},
	{"Events", "_e{1,1}:a|b|d:x|d:-5|d:0|d:1.5|d:99999999999999999999|t:fatal|p:high|k:|unknown|c:1|e:2|card:low||", `"a" {` + asEvent + `text:"b"}`},
	{"Events", "_e{1,1}:a|b|#a:1,b|#a:2", `"a" {` + asEvent + `text:"b"} [a:2,b:true]`},
	{"Events", "_e{1,1}:a|b|#k:" + strings.Repeat("v", 201), `"a" {` + asEvent + `text:"b"} [k:` + strings.Repeat("v", 200) + "]"},
	{"Events", "_e{1,1}:a|b|#" + manyTags(100), `"a" {` + asEvent + `text:"b"} [` + manyTags(100) + "]"},
	{"Events", "_e{1,1}:a|b|#" + manyTags(101), "!too_many_tags"},
	{"Events", "_e{256,1}:" + longTitle + "|b", `"` + longTitle[:254] + `" {` + asEvent + `text:"b",title:"` + longTitle + `"}`},
	{"Events", "a:1|c\n_e{1,1}:a|b\nb:1|c\n_e{", `a|counter 1; b|counter 1; "a" {` + asEvent + `text:"b"}; !bad_event`},

	{"Service checks", "_sc|db.up|0", `"db.up"=0 ` + asCheck + `status:"ok"}`},
	{"Service checks", "_sc|db.up|1", `"db.up"=1 ` + asCheck + `status:"warning"}`},
	{"Service checks", "_sc|db.up|2", `"db.up"=2 ` + asCheck + `status:"critical"}`},
	{"Service checks", "_sc|db.up|3", `"db.up"=3 ` + asCheck + `status:"unknown"}`},
	{"Service checks", "_sc|db.up|4", "!bad_service_check"},
	{"Service checks", "_sc|db.up|", "!bad_service_check"},
	{"Service checks", "_sc|db.up|00", "!bad_service_check"},
	{"Service checks", "_sc|db.up|ok", "!bad_service_check"},
	{"Service checks", "_sc|db.up", "!bad_service_check"},
	{"Service checks", "_sc||0", "!bad_service_check"},
	{"Service checks", "_sc|", "!bad_service_check"},
	{"Service checks", "_sc|" + strings.Repeat("n", 255) + "|0", `"` + strings.Repeat("n", 255) + `"=0 ` + asCheck + `status:"ok"}`},
	{"Service checks", "_sc|" + strings.Repeat("n", 256) + "|0", "!name_too_long"},
	{"Service checks", "_sc|db.up|2|d:1700000000|h:web-1|#env:prod|m:no answer",
		`"db.up"=2@1700000000000000000 ` + asCheck + `message:"no answer",status:"critical"} host:web-1 env:prod [env:prod]`},
	{"Service checks", "_sc|db.up|2|m:no answer|#env:prod|c:abc", `"db.up"=2 ` + asCheck + `message:"no answer",status:"critical"} env:prod [env:prod]`},
	{"Service checks", "_sc|db.up|2|m:a|b||c: d|x", `"db.up"=2 ` + asCheck + `message:"a|b|",status:"critical"}`},
	{"Service checks", "_sc|db.up|2|m:a|t:b|k:|p:", `"db.up"=2 ` + asCheck + `message:"a|t:b|k:|p:",status:"critical"}`},
	{"Service checks", "_sc|db.up|2|before|m:|after", `"db.up"=2 ` + asCheck + `message:"|after",status:"critical"}`},
	{"Service checks", "_sc|db.up|2|m:a|h:h|b", `"db.up"=2 ` + asCheck + `message:"a",status:"critical"} host:h`},
	{"Service checks", `_sc|db.up|2|m:a\nb m\: c|m:last m\:`, `"db.up"=2 ` + asCheck + `message:"last m:",status:"critical"}`},
	{"Service checks", `_sc|db.up|2|m:a\nb m\: c`, `"db.up"=2 ` + asCheck + `message:"a\nb m: c",status:"critical"}`},
	{"Service checks", "_sc|db.up|0|m:a|", `"db.up"=0 ` + asCheck + `message:"a|",status:"ok"}`},
	{"Service checks", "_sc|db.up|0|m:", `"db.up"=0 ` + asCheck + `status:"ok"}`},
	{"Service checks", "_sc|db up\x01|0|#" + manyTags(101), "!too_many_tags"},
	{"Service checks", "_sc|db up\x01/x|0 \r", `"db up_/x"=0 ` + asCheck + `status:"ok"}`},
}

// What a sink does not take counts under its reason, and not as a sample.
func TestRefusedEvents(t *testing.T) {
	p := NewParser(&normal)
	f := feed{parser: p, sink: refusing{}}
	f.take(0, []byte("_e{1,1}:a|b\n_sc|x|0\n"), false)
	if f.tally.samples != 0 || p.Refused[aggregator.TooManyEvents] != 2 {
		t.Errorf("%d samples, refused %v, want 2 of too_many_events", f.tally.samples, p.Refused)
	}
}

type refusing struct{ deaf }

func (refusing) AddEvent(int64, *aggregator.Event) aggregator.Reason { return aggregator.TooManyEvents }

// A packet full of events comes in portions, in its order.
func TestManyEventsInOnePacket(t *testing.T) {
	var packet, want []string
	for i := range 1000 {
		packet = append(packet, fmt.Sprintf("_e{4,1}:e%03d|x", i), "c:1|c")
		want = append(want, fmt.Sprintf(`"e%03d" {`+asEvent+`text:"x"}`, i))
	}
	v := parse(NewParser(&normal), []byte(strings.Join(packet, "\n")), false)
	if !slices.Equal(v.events, want) || len(v.samples) != 1000 {
		t.Errorf("%d events, %d samples, want 1000 of each, in order", len(v.events), len(v.samples))
	}
}

// FuzzEvent puts anything between the marks of an event and of a check.
func FuzzEvent(f *testing.F) {
	f.Add(5, 4, []byte("title"), []byte("text"), []byte("d:1|h:x|#a:b"))
	f.Add(2, 3, []byte("a\U0001F600"), []byte("b\xFFc\\n"), []byte("m:a|b|c:d|m\\:|t:error"))
	f.Fuzz(func(t *testing.T, titleLength, textLength int, title, text, fields []byte) {
		for _, packet := range []string{
			fmt.Sprintf("_e{%d,%d}:%s|%s|%s", titleLength, textLength, title, text, fields),
			fmt.Sprintf("_e{%d,%d}:%s|%s|%s", len(title), len(text), title, text, fields),
			fmt.Sprintf("_e{%d,%d}:%s|%s|%s", len([]rune(string(title))), len([]rune(string(text))), title, text, fields),
			fmt.Sprintf("_sc|%s|%d|%s", title, titleLength%4, fields),
			fmt.Sprintf("_sc|x|0|%s|m:%s|%s", fields, text, fields),
		} {
			got, want := parse(NewParser(&normal), []byte(packet), false), oracle(&normal, packet, false)
			if got.String() != want.String() || got.tagCut != want.tagCut {
				t.Errorf("parse(%q)\n got %s\nwant %s", packet, got, want)
			}
		}
	})
}

package listeners

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/aggregator"
)

// A recorder is a sink that names every sample, as an aggregator does on a spelling
// it has not met, and keeps a copy of all it takes.
type recorder struct {
	spelling aggregator.Spelling
	samples  []heard
	last     heard // of the line that Same samples belong to
	reason   aggregator.Reason
	events   []string
}

func (r *recorder) From(string) {}

func (r *recorder) AddEvent(_ int64, e *aggregator.Event) aggregator.Reason {
	r.events = append(r.events, showEvent(e))
	return aggregator.Taken
}

func (r *recorder) Add(now int64, batch []aggregator.Sample) (marked int) {
	for i := range batch {
		s := &batch[i]
		if s.Flags&aggregator.Same == 0 {
			key := aggregator.Key{Kind: s.Kind}
			r.last = heard{}
			if r.reason = r.spelling.Name(&key, s); r.reason == aggregator.Taken {
				r.last = heard{series: key.Series(), cut: key.Cut}
			}
		} else if i == 0 {
			panic("a batch begins with the rest of a line")
		}
		if s.Refused = r.reason; s.Refused != aggregator.Taken {
			marked++
			continue
		}
		h := r.last
		if h.cut {
			s.Flags |= aggregator.TagCut
			marked++
		}
		h.member, h.value, h.weight, h.time = string(s.Member), s.Value, s.Weight, s.Time
		if h.weight == 0 {
			h.weight = 1
		}
		switch {
		case s.Flags&aggregator.Plus != 0:
			h.sign = '+'
		case s.Flags&aggregator.Minus != 0:
			h.sign = '-'
		}
		if s.Flags&aggregator.Whole != 0 {
			h.whole, h.exact, h.value = true, s.Whole, 0
		}
		r.samples = append(r.samples, h)
	}
	return marked
}

// parse drives a packet through parser, naming and the counting of a reader.
func parse(p *Parser, packet []byte, truncated bool) verdict {
	p.Refused = [aggregator.Reasons]uint64{}
	r := recorder{spelling: p.naming}
	var t tally
	f := feed{parser: p, sink: &r}
	f.take(0, packet, truncated)
	if t = f.tally; t.samples != uint64(len(r.samples)+len(r.events)) {
		panic(fmt.Sprintf("counted %d samples, the sink took %d and %d events", t.samples, len(r.samples), len(r.events)))
	}
	return verdict{samples: r.samples, events: r.events, refused: p.Refused, tagCut: t.cut}
}

// String writes a verdict as the tables below do: samples and reasons, separated by "; ".
//
//	name{key:value}|kind value [weight w] [plus|minus] [at nanoseconds] [cut]
//
// A counter's value that is not exact has a ~ before it.
func (v verdict) String() string {
	var out []string
	for _, h := range v.samples {
		text := h.series.String() + " "
		switch {
		case h.series.Kind() == aggregator.Set:
			text += strconv.Quote(h.member)
		case h.whole:
			text += strconv.FormatInt(h.exact, 10)
		case h.series.Kind() == aggregator.Counter:
			text += "~" + strconv.FormatFloat(h.value, 'g', -1, 64)
		default:
			text += strconv.FormatFloat(h.value, 'g', -1, 64)
		}
		if h.weight != 1 {
			text += fmt.Sprintf(" weight %.6g", h.weight)
		}
		switch h.sign {
		case '+':
			text += " plus"
		case '-':
			text += " minus"
		}
		if h.time != 0 {
			text += fmt.Sprintf(" at %d", h.time)
		}
		if h.cut {
			text += " cut"
		}
		out = append(out, text)
	}
	out = append(out, v.events...)
	for reason, n := range v.refused {
		if n > 0 {
			out = append(out, "!"+aggregator.Reason(reason).String())
		}
		if n > 1 {
			out[len(out)-1] += fmt.Sprint(" ", n)
		}
	}
	return strings.Join(out, "; ")
}

// manyTags writes n different tags.
func manyTags(n int) string {
	var tags []string
	for i := range n {
		tags = append(tags, fmt.Sprintf("k%03d:v", i))
	}
	return strings.Join(tags, ",")
}

// countTags is what a series with the first n of manyTags looks like.
func countTags(name string, n int) string { return name + "{" + manyTags(n) + "}" }

// rows are packets and what they amount to, under the section of
// docs/protocols.md that says so.
var rows = []struct{ section, packet, want string }{
	{"Lines", "", ""},
	{"Lines", "\n\n \t\r\n\x00\n", ""},
	{"Lines", "a:1|c\nb:2|c", "a|counter 1; b|counter 2"},
	{"Lines", "a:1|c\nb:2|c\n", "a|counter 1; b|counter 2"},
	{"Lines", "a:1|c\r\nb:2|c\r\n", "a|counter 1; b|counter 2"},
	{"Lines", " \t a:1|c \t\r\x00\r\n", "a|counter 1"},
	{"Lines", "\x00a:1|c", "_a|counter 1"},
	{"Lines", "\ra:1|c", "_a|counter 1"},
	{"Lines", "\uFEFFa:1|c\n\uFEFFb:1|c", "a|counter 1; \uFEFFb|counter 1"},
	{"Lines", "\uFEFF", ""},
	{"Lines", "\xEF\xBBa:1|c", "\uFFFD\uFFFDa|counter 1"},
	{"Lines", "_scope.x:1|c", "_scope.x|counter 1"},
	{"Lines", "_e:1|c", "_e|counter 1"},
	{"Lines", "_sc:1|c", "_sc|counter 1"},
	{"Lines", "_:1|c", "_|counter 1"},
	{"Lines", "a\xFF\xFEb:1|c", "a\uFFFD\uFFFDb|counter 1"},
	{"Lines", "a:1|c|#k\xE2\x82:\xC3v", "a{k\uFFFD\uFFFD:\uFFFDv}|counter 1"},
	{"Lines", "a:\xE2\x82|s", `a|set "��"`},
	{"Lines", "a:\xC3|c", "!bad_value"},
	{"Lines", "bad\na:1|c\nbad|\nb:x|g\nc:1|g", "a|counter 1; c|gauge 1; !malformed_line 2; !bad_value"},

	{"Metrics", "a", "!malformed_line"},
	{"Metrics", "a:1", "!malformed_line"},
	{"Metrics", "a|c", "!malformed_line"},
	{"Metrics", "|", "!malformed_line"},
	{"Metrics", "|:1|c", "!malformed_line"},
	{"Metrics", "a|1:2|c", "!malformed_line"},
	{"Metrics", "a,k=v|c:1", "!malformed_line"},
	{"Metrics", ":1|c", "!bad_name"},
	{"Metrics", ":|", "!bad_name"},
	{"Metrics", ":1|x", "!bad_name"},
	{"Metrics", "sluice.x:y|z|@0", "!bad_type"},
	{"Metrics", "sluice.x:y|c|@0", "!reserved_name"},
	{"Metrics", "sluice.x:1|c|@0", "!reserved_name"},
	{"Metrics", "sluice.x:1|c|T0", "!reserved_name"},
	{"Metrics", "sluice.x:nan|c", "!reserved_name"},
	{"Metrics", "sluice.x:|s", "!reserved_name"},
	{"Metrics", ",k=v:y|c", "!bad_name"},
	{"Metrics", "a:nan|c|@0", "!non_finite"},
	{"Metrics", "a:y|c|@0|T0", "!bad_value"},
	{"Metrics", "a:1|c|@0|T0", "!bad_rate"},
	{"Metrics", "a:1|c|T0|@0", "!bad_timestamp"},
	{"Metrics", "a:1|c|@0|#" + manyTags(101), "!bad_rate"},
	{"Metrics", "a:|s|@0|T0", "!bad_value"},
	{"Metrics", "a:x|c|#" + manyTags(101), "!bad_value"},
	{"Metrics", strings.Repeat("n", 256) + ":1|q", "!bad_type"},
	{"Metrics", strings.Repeat("n", 256) + ":1|c|@0", "!name_too_long"},
	{"Metrics", "a,k=v|c", "!malformed_line"},
	{"Metrics", "a:1|c|x|T5|#k:v|@0.5\na:1|c|@0.5|#k:v|T5|x", "a{k:v}|counter ~2 at 5000000000; a{k:v}|counter ~2 at 5000000000"},

	{"Types", "a:1|c\na:1|m", "a|counter 1; a|counter 1"},
	{"Types", "a:1|g", "a|gauge 1"},
	{"Types", "a:1|ms\na:1|h\na:1|d", "a|distribution 1; a|distribution 1; a|distribution 1"},
	{"Types", "a:1|s", `a|set "1"`},
	{"Types", "a:1|C", "!bad_type"},
	{"Types", "a:1|", "!bad_type"},
	{"Types", "a:1||c", "!bad_type"},
	{"Types", "a:1|kv\na:1|a\na:1|t", "!bad_type 3"},
	{"Types", "a:1|c |#k:v", "!bad_type"},
	{"Types", "a:1|c:2|ms", "!bad_type"},

	{"Values", "a:1:2:3|c", "a|counter 1; a|counter 2; a|counter 3"},
	{"Values", "a:1::3|ms\na::1:2:|ms", "a|distribution 1; a|distribution 3; a|distribution 1; a|distribution 2"},
	{"Values", "a:|g\na::|g\na:|c\na:|d", "!bad_value 4"},
	{"Values", "a:1:2:x|c", "!bad_value"},
	{"Values", "a:x:nan|c", "!bad_value"},
	{"Values", "a:nan:x|c", "!non_finite"},
	{"Values", "a:5:5.:.5|g", "a|gauge 5; a|gauge 5; a|gauge 0.5"},
	{"Values", "a:1e+22:1.0e-07:1E-05|g", "a|gauge 1e+22; a|gauge 1e-07; a|gauge 1e-05"},
	{"Values", "a:0x10|c\na:1_000|c\na: 1|c\na:1 |c\na:١|c\na:1,5|c", "!bad_value 6"},
	{"Values", "a:.|c\na:+|c\na:e5|c\na:5e|c\na:5e+|c\na:--5|c\na:+-5|c\na:1e5.0|c\na:1.2.3|c\na:0b1|c\na:0o7|c\na:1p4|c\na:5f|c\na:.e1|c", "!bad_value 14"},
	{"Values", "a:nan|g\na:NaN|g\na:inf|g\na:+Inf|g\na:-Infinity|g\na:INFINITY|c\na:∞|ms\na:-∞|d", "!non_finite 8"},
	{"Values", "a:-nan|g\na:+∞|c\na:1:inf|c\na:+infinity|ms", "!non_finite 4"},
	{"Values", "a:infi|g\na:nan1|g\na:++inf|g\na:in|g\na:∞∞|g\na:1inf|g", "!bad_value 6"},
	{"Values", "a:1e400|g\na:-1e400|g\na:1e99999999999999999999|c", "!bad_value 3"},
	{"Values", "a:1e18446744073709551617|g\na:1e-18446744073709551617|g", "a|gauge 0; !bad_value"},
	{"Values", "a:1e-400:-1e-400:-0:0e400:-0.0|g", "a|gauge 0; a|gauge 0 minus; a|gauge 0 minus; a|gauge 0; a|gauge 0 minus"},
	{"Values", "a:9223372036854775807:-9223372036854775808|c", "a|counter 9223372036854775807; a|counter -9223372036854775808"},
	{"Values", "a:9223372036854775808:-9223372036854775809|c", "a|counter ~9.223372036854776e+18; a|counter ~-9.223372036854776e+18"},
	{"Values", "a:18446744073709551616:99999999999999999999|c", "a|counter ~1.8446744073709552e+19; a|counter ~1e+20"},
	{"Values", "a:9007199254740993:00000000000000000000007:+5:-5|c", "a|counter 9007199254740993; a|counter 7; a|counter 5; a|counter -5"},
	{"Values", "a:1.5:1.0:-0:1e3|c", "a|counter ~1.5; a|counter ~1; a|counter 0; a|counter ~1000"},
	{"Values", "a:-1.5:-3|d", "a|distribution -1.5; a|distribution -3"},
	{"Values", "u:user:2:x|s", `u|set "user:2:x"`},
	{"Values", "u:a\tb|s\nu:c\td|s", `u|set "a_b"; u|set "c_d"`},
	{"Values", "u::|s", `u|set ":"`},
	{"Values", "u:|s", "!bad_value"},
	{"Values", "u:a\tb\x01\u0085c é|s", `u|set "a_b__c é"`},
	{"Values", "g:1:2:-3|g", "g|gauge 1; g|gauge 2; g|gauge -3 minus"},

	{"Sections", "req:1|c|@0.1", "req|counter ~10"},
	{"Sections", "t:1:2:3|ms|@0.5|#k:v", "t{k:v}|distribution 1 weight 2; t{k:v}|distribution 2 weight 2; t{k:v}|distribution 3 weight 2"},
	{"Sections", "t:1|h|@0.3", "t|distribution 1 weight 3.33333"},
	{"Sections", "a:1|c|@1\na:1|c|@2\na:1|c|@1e9\na:1|d|@5", "a|counter 1; a|counter 1; a|counter 1; a|distribution 1"},
	{"Sections", "a:1|c|@0.5|@0.1\na:1|c|@0.1|@1", "a|counter ~10; a|counter 1"},
	{"Sections", "a:1|c|@0.5|@x", "!bad_rate"},
	{"Sections", "a:1|c|@0\na:1|c|@-1\na:1|c|@\na:1|c|@nan\na:1|c|@inf\na:1|c|@1e400\na:1|c|@0x1\na:1|c|@ 1\na:1|c|@9e-7", "!bad_rate 9"},
	{"Sections", "a:1|c|@1e-6\na:1|d|@0.000001", "a|counter ~1e+06; a|distribution 1 weight 1e+06"},
	{"Sections", "a:1|g|@0.5\na:x|s|@0.5", `a|gauge 1; a|set "x"`},
	{"Sections", "a:1|g|@0\na:x|s|@0", "!bad_rate 2"},
	{"Sections", "a:1e308|c|@0.1", "!bad_value"},
	{"Sections", "a:1e308:x|c|@0.1\na:1e308|c|@0.1|T0", "!bad_value; !bad_timestamp"},
	{"Sections", "a:1e308|d|@0.1", "a|distribution 1e+308 weight 10"},
	{"Sections", "a:1|c|#a:b|#c,d:e", "a{a:b,c:true,d:e}|counter 1"},
	{"Sections", "a:1|c|#a:b|#|@0.5|#a:c|#x", "a{a:c,x:true}|counter ~2"},
	{"Sections", "a:1|c|#a:1|#b:2\nb:1|c|#c:3|#d:4", "a{a:1,b:2}|counter 1; b{c:3,d:4}|counter 1"},
	{"Sections", "a:1|g|T1700000000\na:1|c|T1", "a|gauge 1 at 1700000000000000000; a|counter 1 at 1000000000"},
	{"Sections", "a:1|g|T5|T6", "a|gauge 1 at 6000000000"},
	{"Sections", "a:1|d|T5\na:x|s|T5", `a|distribution 1; a|set "x"`},
	{"Sections", "a:1|g|T0\na:1|g|T\na:1|g|T-5\na:1|g|T+5\na:1|g|T1.5\na:1|g|T1e9\na:1|d|T0\na:x|s|Tx\na:1|g|T000", "!bad_timestamp 9"},
	{"Sections", "a:1|g|T9223372036\na:1|g|T9223372037\na:1|g|T99999999999999999999999", "a|gauge 1 at 9223372036000000000; a|gauge 1 at 9223372036854775807; a|gauge 1 at 9223372036854775807"},
	{"Sections", "a:1|c|c:abc|e:it-false|card:low|||x|t5|c", "a|counter 1"},
	{"Sections", "a:1|c|#k:a|b", "a{k:a}|counter 1"},
	{"Sections", "a:1|c|c:ci-8f3b0d6c|e:it-false,cn-web,pu-810fe89d|card:orchestrator\na:1|c|c:in-4242", "a|counter 1; a|counter 1"},
	// The orders in which clients write: Go, Python, Ruby, Java, .NET, PHP, Node.
	{"Sections", "a:1|c|@0.5|#k:v|c:ci-8f|e:it-false|T5|card:low", "a{k:v}|counter ~2 at 5000000000"},
	{"Sections", "a:1|c|@0.5|#k:v|c:ci-8f|e:it-false|card:low|T5", "a{k:v}|counter ~2 at 5000000000"},
	{"Sections", "a:1|c|@0.5|#k:v|c:ci-8f|e:it-false|card:low", "a{k:v}|counter ~2"},
	{"Sections", "a:1|c|@0.5|T5|#k:v|card:low|c:ci-8f|e:it-false", "a{k:v}|counter ~2 at 5000000000"},
	{"Sections", "a:1|c|@0.5|#k:v|T5|c:ci-8f|e:it-false|card:low", "a{k:v}|counter ~2 at 5000000000"},
	{"Sections", "a:1|c|@0.5|#k:v|e:it-false|card:low|c:ci-8f", "a{k:v}|counter ~2"},
	{"Sections", "a:1|c|@0.5|T5|#k:v|c:ci-8f|e:it-false|card:low", "a{k:v}|counter ~2 at 5000000000"},
	{"Sections", "a:1|c|", "a|counter 1"},

	{"Tags", "a:1|c|#k:v,k:w", "a{k:w}|counter 1"},
	{"Tags", "a:1|c|#b:2,a:1", "a{a:1,b:2}|counter 1"},
	{"Tags", "a:1|c|#k=v", "a{k=v:true}|counter 1"},
	{"Tags", "a:1|c|#" + strings.Repeat("k", 64) + "a:1," + strings.Repeat("k", 64) + "b:2", "a{" + strings.Repeat("k", 64) + ":2}|counter 1 cut"},
	{"Tags", "a:1|c|# k : v , , l :\tw x\t,,m", "a{k:v,l:w x,m:true}|counter 1"},
	{"Tags", "a:1|c|#u:http://h:80/x", "a{u:http://h:80/x}|counter 1"},
	{"Tags", "a:1|c|#k:,:v, : v,l", "a{k:,l:true}|counter 1"},
	{"Tags", "a:1|c|#", "a|counter 1"},
	{"Tags", "a:1|c|#Größe:Ä b,K:k,k:k", "a{Größe:Ä b,K:k,k:k}|counter 1"},
	{"Tags", "a:1|c|#k\x01\u0085:v\tw\x7F", "a{k__:v_w_}|counter 1"},
	{"Tags", "a:1|c|#" + strings.Repeat("k", 64) + ":" + strings.Repeat("v", 200), "a{" + strings.Repeat("k", 64) + ":" + strings.Repeat("v", 200) + "}|counter 1"},
	{"Tags", "a:1|c|#" + strings.Repeat("k", 65) + ":v", "a{" + strings.Repeat("k", 64) + ":v}|counter 1 cut"},
	{"Tags", "a:1|c|#k:" + strings.Repeat("v", 201), "a{k:" + strings.Repeat("v", 200) + "}|counter 1 cut"},
	{"Tags", "a:1|c|#k:" + strings.Repeat("é", 101), "a{k:" + strings.Repeat("é", 100) + "}|counter 1 cut"},
	{"Tags", "a:1|c|#" + strings.Repeat("k", 63) + "é:v", "a{" + strings.Repeat("k", 63) + ":v}|counter 1 cut"},
	{"Tags", "a:1|c|#k:" + strings.Repeat("\xFF", 67), "a{k:" + strings.Repeat("\uFFFD", 66) + "}|counter 1 cut"},
	{"Tags", "a:1|c|#k:" + strings.Repeat("v", 199) + "\u0085", "a{k:" + strings.Repeat("v", 199) + "_}|counter 1"},
	{"Tags", "a:1|c|#k:" + strings.Repeat("v", 199) + "\u0085w", "a{k:" + strings.Repeat("v", 199) + "_}|counter 1 cut"},
	{"Tags", "a:1|c|#dd.internal.entity_id:x,dd.internal.card:low,dd.internal.jmx_check_name:y,dd.internal.other:z", "a{dd.internal.other:z}|counter 1"},
	{"Tags", "a:1:2|c|#dd.internal.card:" + strings.Repeat("v", 201), "a|counter 1; a|counter 2"},
	{"Tags", "a:1:2:3|d|#" + manyTags(100), countTags("a", 100) + "|distribution 1; " + countTags("a", 100) + "|distribution 2; " + countTags("a", 100) + "|distribution 3"},
	{"Tags", "a:1:2:3|d|#" + manyTags(101), "!too_many_tags"},
	{"Tags", "a:1|c|#" + manyTags(100) + ",k000:w,dd.internal.card:x", strings.Replace(countTags("a", 100), "k000:v", "k000:w", 1) + "|counter 1"},

	{"Names", "a/b c:1|c", "a-b_c|counter 1"},
	{"Names", "a \t\x01\u0085 b//c:1|c", "a_b--c|counter 1"},
	{"Names", "a  :1|c", "a_|counter 1"},
	{"Names", "Ünïcode.µ:1|c", "Ünïcode.µ|counter 1"},
	{"Names", "a\u00A0\u2003b:1|c", "a\u00A0\u2003b|counter 1"},
	{"Names", strings.Repeat("n", 255) + ":1|c", strings.Repeat("n", 255) + "|counter 1"},
	{"Names", strings.Repeat("n", 256) + ":1|c", "!name_too_long"},
	{"Names", strings.Repeat("n", 256) + ":x|c", "!name_too_long"},
	{"Names", strings.Repeat("\xFF", 85) + ":1|c", strings.Repeat("\uFFFD", 85) + "|counter 1"},
	{"Names", strings.Repeat("\xFF", 86) + ":1|c", "!name_too_long"},
	{"Names", strings.Repeat(" a", 127) + strings.Repeat(" ", 100) + ":1|c", "a" + strings.Repeat("_a", 126) + "_|counter 1"},
	{"Names", "sluice.x:1|c\nsluice.:1|c\nsluice/x:1|c\nsluice:1|c\nSluice.x:1|c", "sluice-x|counter 1; sluice|counter 1; Sluice.x|counter 1; !reserved_name 2"},
	{"Names", "sluice." + strings.Repeat("n", 255) + ":1|c", "!name_too_long"},

	{"Tags inside names", "name,k=v,l=w:1|c", "name{k:v,l:w}|counter 1"},
	{"Tags inside names", "name#k=v:1|c", "name{k:v}|counter 1"},
	{"Tags inside names", "name#k=v,l=w;x:1|c", "name{k:v,l:w;x}|counter 1"},
	{"Tags inside names", "name;k=v;l=w,x:1|c", "name{k:v,l:w,x}|counter 1"},
	{"Tags inside names", "name,k=v;l=w:1|c\nname;k=v#l=w:1|c\nname#k=v[l=w]:1|c", "name{k:v;l=w}|counter 1; name{k:v#l=w}|counter 1; name{k:v[l=w]}|counter 1"},
	{"Tags inside names", "na[k=v,l,=x,m=]me:1|c", "name{k:v,l:true,m:}|counter 1"},
	{"Tags inside names", "name;k=v:1|g|@0.5|#k:w|#l:x,m:y", "name{k:w,l:x,m:y}|gauge 1"},
	{"Tags inside names", "na[k=v,l=w]me:1|c", "name{k:v,l:w}|counter 1"},
	{"Tags inside names", "na[k=v]me:1:2|c", "name{k:v}|counter 1; name{k:v}|counter 2"},
	{"Tags inside names", "na [k=v] me:1|c", "na_me{k:v}|counter 1"},
	{"Tags inside names", "a[k=v:1|c", "a[k=v|counter 1"},
	{"Tags inside names", "a[k=v:x]:1|c", "!bad_value"},
	{"Tags inside names", "a[k]:1|c", "a[k]|counter 1"},
	{"Tags inside names", "a[b,k=v:1|c", "a[b,k=v|counter 1"},
	{"Tags inside names", "a[]k=v:1|c", "a[]k=v|counter 1"},
	{"Tags inside names", "a[k=v]b[l=w]:1|c", "ab[l=w]{k:v}|counter 1"},
	{"Tags inside names", "a$b,c:1|c", "a$b,c|counter 1"},
	{"Tags inside names", "a,b;k=v:1|c", "a{b;k:v}|counter 1"},
	{"Tags inside names", "a,b:k=v:1|c", "!bad_value"},
	{"Tags inside names", "web.url,app=my service,u=http://h:80/a?b=c:1|g", "web.url{app:my service,u:http://h:80/a?b=c}|gauge 1"},
	{"Tags inside names", "a,k=v:1:2|c", "a{k:v:1}|counter 2"},
	{"Tags inside names", "a,k=v:1:|c", "!bad_value"},
	{"Tags inside names", "a,k=v:x:y|s", `a{k:v}|set "x:y"`},
	{"Tags inside names", "a,k=http://x:y|s", `a{k:http}|set "//x:y"`},
	{"Tags inside names", "a,k=v,k=w,l=:1|c|#k:x,m", "a{k:x,l:,m:true}|counter 1"},
	{"Tags inside names", "a, k = v ,, l,=x:1|c", "a{k:v,l:true}|counter 1"},
	{"Tags inside names", "a,dd.internal.card=x:1|c", "a|counter 1"},
	{"Tags inside names", ",k=v:1|c\n[k=v]:1|c", "!bad_name 2"},
	{"Tags inside names", "sluice.x,k=v:1|c", "!reserved_name"},
	{"Tags inside names", "slui[k=v]ce.x:1|c", "!reserved_name"},
	{"Tags inside names", "\xC3[k=v]\xA9:1|c", "\uFFFD\uFFFD{k:v}|counter 1"},
	{"Tags inside names", "a," + strings.ReplaceAll(manyTags(60), ":", "=") + ":1|c|#" + strings.ReplaceAll(manyTags(60), "k", "l"), "!too_many_tags"},

	{"Gauge signs and timestamps", "g:-5|g\ng:+5|g\ng:5|g", "g|gauge -5 minus; g|gauge 5 plus; g|gauge 5"},
	{"Gauge signs and timestamps", "g:+1:-1:1|g", "g|gauge 1 plus; g|gauge -1 minus; g|gauge 1"},
	{"Gauge signs and timestamps", "g:-5|g|T7\ng:+5|g|T7", "g|gauge -5 at 7000000000; g|gauge 5 at 7000000000"},

	{"Client telemetry", "datadog.dogstatsd.client.metrics:5|c\na:1|c", "a|counter 1; !client_telemetry"},
	{"Client telemetry", "datadog.dogstatsd.client.x:1:2:3|c|#" + manyTags(101), "!client_telemetry"},
	{"Client telemetry", "datadog.dogstatsd.client.x:y|c", "!bad_value"},
	{"Client telemetry", "datadog.dogstatsd.clients:5|c", "datadog.dogstatsd.clients|counter 5"},
}

// normal is how the agent is configured by default.
var normal = Naming{TagsInNames: true}

// tagging are rules that set tags.
func tagging(tags []aggregator.Tag) *Rules {
	r := new(Rules)
	r.Set(NewRuleSet(nil, tags))
	return r
}

func TestPackets(t *testing.T) {
	for _, row := range slices.Concat(rows, eventRows) {
		t.Run(row.section+"/"+shorten(row.packet), func(t *testing.T) {
			packet := []byte(row.packet)
			if got := parse(NewParser(&normal), packet, false).String(); got != row.want {
				t.Errorf("parse(%q)\n got %s\nwant %s", row.packet, got, row.want)
			}
			if string(packet) != row.packet {
				t.Errorf("parse(%q) changed the packet to %q", row.packet, packet)
			}
			if got := oracle(&normal, row.packet, false).String(); got != row.want {
				t.Errorf("oracle(%q)\n got %s\nwant %s", row.packet, got, row.want)
			}
		})
	}
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// TestOptions has the rows that depend on the Naming.
func TestOptions(t *testing.T) {
	for _, row := range []struct {
		naming       Naming
		packet, want string
	}{
		{Naming{}, "name,k=v:1:2|c", "name,k=v|counter 1; name,k=v|counter 2"},
		{Naming{}, "na[k=v]me:1|c", "na[k=v]me|counter 1"},
		{Naming{ClientTelemetry: true}, "datadog.dogstatsd.client.x:1|c", "datadog.dogstatsd.client.x|counter 1"},
		{Naming{Rules: tagging([]aggregator.Tag{{Key: "env", Value: "prod"}, {Key: "host", Value: "h"}})}, "a:1|c|#env:dev", "a{env:dev,host:h}|counter 1"},
		{Naming{Rules: tagging([]aggregator.Tag{{Key: "x", Value: "1"}, {Key: "y", Value: "2"}})}, "a:1|c|#" + manyTags(99), countTags("a", 99)[:len(countTags("a", 99))-1] + ",x:1}|counter 1"},
		{Naming{Rules: tagging([]aggregator.Tag{{Key: "x", Value: strings.Repeat("v", 201)}})}, "a:1|c", "a{x:" + strings.Repeat("v", 200) + "}|counter 1"},
	} {
		if got := parse(NewParser(&row.naming), []byte(row.packet), false).String(); got != row.want {
			t.Errorf("parse(%q) with %+v\n got %s\nwant %s", row.packet, row.naming, got, row.want)
		}
	}
}

func TestTruncatedPacket(t *testing.T) {
	for packet, want := range map[string]string{
		"a:1|c\nb:2|c\nc:3": "a|counter 1; b|counter 2; !truncated",
		"a:1|c\n":           "a|counter 1; !truncated", // the line that was cut off has no byte here
		"a:1|c":             "!truncated",
		"":                  "!truncated",
		"bad\nb:2|c":        "!malformed_line; !truncated",
	} {
		if got := parse(NewParser(&normal), []byte(packet), true).String(); got != want {
			t.Errorf("parse(%q, truncated)\n got %s\nwant %s", packet, got, want)
		}
	}
}

// TestBatches proves that batches are bounded, that no line is spread over two, and
// that a packet gives the same samples however it is cut into batches.
func TestBatches(t *testing.T) {
	line := "a:1:2:3:4:5:6:7|ms\n" // 512 is no multiple of 7
	packet := []byte(strings.Repeat(line, 1000) + "p" + strings.Repeat(":1", 30000) + "|c\n" + strings.Repeat(line, 100))
	p := NewParser(&normal)
	for range 2 {
		p.Start(packet, false)
		total, batches := 0, 0
		for more := true; more; batches++ {
			var batch []aggregator.Sample
			batch, more = p.Next()
			if len(batch) > 0 && batch[0].Flags&aggregator.Same != 0 {
				t.Fatalf("batch %d begins inside a line", batches)
			}
			if got, limit := len(batch), batchSize+6; got%30000 > limit { // the long line may come on top
				t.Fatalf("batch %d has %d samples, want at most %d", batches, got, limit)
			}
			total += len(batch)
		}
		if want := 7*1100 + 30000; total != want {
			t.Errorf("%d samples, want %d", total, want)
		}
	}
	p.Start(nil, false)
	if got := cap(p.batch); got > batchKept {
		t.Errorf("a batch of %d samples is kept, want at most %d", got, batchKept)
	}
}

// TestMarks proves what a mark of the sink counts: the line, except for what
// is said of each value.
func TestMarks(t *testing.T) {
	same, cut := aggregator.Same, aggregator.TagCut
	batch := []aggregator.Sample{
		{}, {Flags: cut}, {Flags: cut | same}, {Flags: same},
		{Refused: aggregator.TooManyTags}, {Refused: aggregator.TooManyTags, Flags: same},
		{Refused: aggregator.Late}, {Refused: aggregator.Late, Flags: same}, {Refused: aggregator.Future},
		{Refused: aggregator.TooManyLate}, {Refused: aggregator.TooManyLate, Flags: same},
		{Refused: aggregator.BadName, Flags: cut},
	}
	got := tally{samples: uint64(len(batch))}
	var refused [aggregator.Reasons]uint64
	got.marks(batch, &refused)
	if want := (tally{samples: 4, cut: 1}); got != want {
		t.Errorf("marks() = %+v, want %+v", got, want)
	}
	if got, want := (verdict{refused: refused}).String(), "!bad_name; !too_many_tags; !late 2; !future; !too_many_late 2"; got != want {
		t.Errorf("marks() refused %s, want %s", got, want)
	}
}

// TestNumbers compares with strconv on numbers around the border of the short path.
func TestNumbers(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	digits := func(n int) (s string) {
		for range n {
			s += string(rune('0' + rng.IntN(10)))
		}
		return s
	}
	for range 100_000 {
		text := []string{"", "+", "-"}[rng.IntN(3)] + digits(1+rng.IntN(20))
		if rng.IntN(2) == 0 {
			text += "." + digits(rng.IntN(20))
		}
		if rng.IntN(2) == 0 {
			text += "e" + strconv.Itoa(rng.IntN(70)-35)
		}
		want, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		var n number
		if reason := n.parse([]byte(text)); reason != aggregator.Taken || n.value != want || math.Signbit(n.value) && n.value == 0 {
			t.Fatalf("parse(%q) = %v, %v, want %v (seed %d)", text, n.value, reason, want, seed)
		}
	}
}

// shapes are the lines that programs send, each to be parsed without allocation.
var shapes = map[string]string{
	"counter":     "app.requests:1|c",
	"tagged":      "app.request.count:1|c|#env:production,service:checkout,status:200",
	"timer":       "app.request.duration:145.2|ms|@0.5|#env:production,service:checkout",
	"gauge":       "app.memory.used:-1.25e6|g|#env:production|T1700000000",
	"set":         "app.users:user-4711|s|#env:production",
	"packed":      "app.request.duration" + strings.Repeat(":145.2", 200) + "|d|#env:production",
	"inner":       "app.request.count,env=production,url=http://h:80/x:1|c",
	"sections":    "app.x:1|c|#env:production|@0.5|#service:checkout|c:abc|e:x",
	"dirty set":   "app.users:a\tb\xFF|s",
	"long number": "app.x:0.12345678901234567890|g",
	"bad value":   "app.x:1_000|c",
	"not finite":  "app.x:+Inf|g",
	"bad name":    "sluice.x:y|c",
	"malformed":   "what is this",
	"event":       "_e{5,4}:title|text|d:1700000000|h:web-1|#env:prod,a:b|t:error|p:low",
	"check":       "_sc|db.up|2|#env:prod|m:no answer",
	"bad event":   "_e{1,1}:ab|b",
}

func TestParserDoesNotAllocate(t *testing.T) {
	p := NewParser(&normal)
	for name, line := range shapes {
		packet := []byte(line + "\n" + line + "\n")
		if n := testing.AllocsPerRun(100, func() { drain(p, packet) }); n != 0 {
			t.Errorf("%s: %v allocations per packet, want 0", name, n)
		}
	}
	if got := cap(p.scratch); got > 1024 { // it does not grow from packet to packet
		t.Errorf("the scratch has grown to %d bytes, want at most 1024", got)
	}
}

// drain parses a packet and returns how many samples it has.
func drain(p *Parser, packet []byte) (n int) {
	p.Start(packet, false)
	for more := true; more; {
		var batch []aggregator.Sample
		batch, more = p.Next()
		n += len(batch)
	}
	return n
}

// FuzzPacket compares the parser with the oracle: the samples, the reasons, and
// that neither depends on where a stream of lines is cut into packets.
func FuzzPacket(f *testing.F) {
	for _, row := range slices.Concat(rows, eventRows) {
		f.Add([]byte(row.packet), uint16(0), uint8(1))
		f.Add([]byte(row.packet), uint16(len(row.packet)/2), uint8(6))
	}
	f.Fuzz(func(t *testing.T, data []byte, at uint16, options uint8) {
		n := Naming{TagsInNames: options&1 != 0, ClientTelemetry: options&2 != 0}
		if options&4 != 0 {
			n.Rules = tagging([]aggregator.Tag{{Key: "env", Value: "prod"}, {Key: "k", Value: "global"}})
		}
		p := NewParser(&n)
		cut := min(int(at), len(data))
		for i, packet := range [][]byte{data[:cut], data[cut:]} {
			truncated := options&8 != 0 && i == 0
			before := string(packet)
			got, want := parse(p, packet, truncated), oracle(&n, before, truncated)
			if !slices.Equal(got.samples, want.samples) || !slices.Equal(got.events, want.events) || got.refused != want.refused || got.tagCut != want.tagCut {
				t.Errorf("parse(%q, %v) with %+v\n got %s, %d cut\nwant %s, %d cut", before, truncated, n, got, got.tagCut, want, want.tagCut)
			}
			if string(packet) != before {
				t.Errorf("the packet was changed to %q", packet)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	p := NewParser(&normal)
	run := func(name, packet string) {
		b.Run(name, func(b *testing.B) {
			data := []byte(packet)
			samples := 0
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				samples += drain(p, data)
			}
			if samples > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		run("line="+name, shapes[name])
	}
	line := func(i int) string {
		kind := []string{"c", "c", "c", "c", "ms", "ms", "ms", "g", "g", "s"}[i%10]
		return fmt.Sprintf("bench.metric.%04d:%d|%s|#env:prod,host:web-%02d,route:r%d\n", i%1000, i*7%1000, kind, i%20, i%7)
	}
	for _, size := range []int{1432, 8192} {
		packet := ""
		for i := 0; len(packet)+len(line(i)) <= size; i++ {
			packet += line(i)
		}
		run(fmt.Sprintf("packet=%d", size), packet)
	}
	run("packet=8192-values", "bench.metric"+strings.Repeat(":145.2", 1360)+"|d|#env:prod")
}

func BenchmarkNumber(b *testing.B) {
	for _, text := range []string{"1", "145.2", "1700000000", "1.0e-07", "0.12345678901234567"} {
		data := []byte(text)
		b.Run("ours="+text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var n number
				n.parse(data)
			}
		})
		b.Run("strconv="+text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				strconv.ParseFloat(string(data), 64)
			}
		})
	}
}

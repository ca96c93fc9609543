package listeners

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sluice/aggregator"
)

// named is what a line's metric is called when rules have been applied.
func named(t testing.TB, set *RuleSet, line string) string {
	t.Helper()
	rules := new(Rules)
	rules.Set(set)
	n := Naming{TagsInNames: true, Rules: rules}
	p := NewParser(&n)
	p.Start([]byte(line), false)
	batch, _ := p.Next()
	if len(batch) != 1 {
		t.Fatalf("%q: %d samples, want 1", line, len(batch))
	}
	var k aggregator.Key
	k.Reset(batch[0].Kind)
	if reason := n.Name(&k, &batch[0]); reason != aggregator.Taken {
		return "!" + reason.String()
	}
	if k.Cut {
		return k.Series().String() + " cut"
	}
	return k.Series().String()
}

func TestRules(t *testing.T) {
	status := []Class{
		{Tag: "status", As: "success", Values: []string{"2??", "3??"}},
		{Tag: "status", As: "client_error", Values: []string{"404", "4??"}},
		{Tag: "status", As: "timeout", Values: []string{"timeout", "*"}},
		{Tag: "code", As: "404", Values: []string{"200"}},
		{Tag: "code", As: "no", Values: []string{"404"}}, // not what the one before made
	}
	global := []aggregator.Tag{{Key: "env", Value: "prod"}}
	long := strings.Repeat("n", 250)
	for _, c := range []struct {
		rules []Rule
		line  string
		want  string
	}{
		{nil, "a:1|c", "a{env:prod}|counter"},
		{[]Rule{{Match: "api.*.*.count", Name: "api.requests", Add: []aggregator.Tag{{Key: "service", Value: "$1"}, {Key: "to", Value: "x-$2-$$1"}}}},
			"api.users.get.count:1|c|#env:dev", "api.requests{env:dev,service:users,to:x-get-$1}|counter"},
		{[]Rule{{Match: "api.*.*.count", Name: "$2"}}, "api.users.v2.get.count:1|c", "v2.get{env:prod}|counter"},
		{[]Rule{{Match: "api.*.*.count", Name: "x"}}, "api.users.count:1|c", "api.users.count{env:prod}|counter"},
		{[]Rule{{Match: "*", Class: status}}, "a:1|c|#status:204,code:200", "a{code:404,env:prod,status:success}|counter"},
		{[]Rule{{Match: "*", Class: status}}, "a:1|c|#status:499", "a{env:prod,status:client_error}|counter"},
		{[]Rule{{Match: "*", Class: status}}, "a:1|c|#status:5000", "a{env:prod,status:timeout}|counter"},
		{[]Rule{{Match: "*", Class: status}}, "a:1|c", "a{env:prod}|counter"},
		{[]Rule{{Match: "*", Rename: []Rename{{"a", "b"}, {"none", "x"}}}}, "m:1|c|#a:1,b:2", "m{b:1,env:prod}|counter"},
		{[]Rule{{Match: "*", Remove: []string{"id", "*_id"}}}, "m:1|c|#id:1,user_id:2,ids:3", "m{env:prod,ids:3}|counter"},
		{[]Rule{{Match: "*", Remove: []string{"x"}, Add: []aggregator.Tag{{Key: "x", Value: "new"}}}}, "m:1|c|#x:old", "m{env:prod,x:new}|counter"},
		{[]Rule{{Match: "*", Add: []aggregator.Tag{{Key: "env", Value: "rule"}}}}, "m:1|c", "m{env:rule}|counter"},
		{[]Rule{{Match: "debug.*", Drop: true}}, "debug.x:1|c", "!dropped_by_rule"},
		{[]Rule{{Match: "debug.*", Drop: true, Kinds: []aggregator.Kind{aggregator.Gauge}}}, "debug.x:1|c", "debug.x{env:prod}|counter"},
		{[]Rule{{Match: "a", Name: "b"}, {Match: "b", Name: "c"}, {Match: "a", Drop: true}}, "a:1|c", "c{env:prod}|counter"},
		{[]Rule{{Match: "*.*", Name: "$2.$1"}}, "x.sluice:1|c", "!reserved_name"},
		{[]Rule{{Match: "*", Name: "$1$1"}}, long + ":1|c", "!name_too_long"},
		{[]Rule{{Match: "x*", Name: "$1"}}, "x:1|c", "!bad_name"},
		{[]Rule{{Match: "*", Add: []aggregator.Tag{{Key: "n", Value: "$1"}}}}, long + ":1|c", long + "{env:prod,n:" + long[:200] + "}|counter"},
		{[]Rule{{Match: "*?", Add: []aggregator.Tag{{Key: "n", Value: "$1"}}}}, "é:1|c", "é{env:prod,n:\uFFFD}|counter"},
	} {
		if got := named(t, NewRuleSet(c.rules, global), c.line); got != c.want {
			t.Errorf("%+v\n%s becomes %s\nwant %s", c.rules, c.line, got, c.want)
		}
	}
}

// TestRulesSet: what is the same is no change, and the aggregator need not forget.
func TestRulesSet(t *testing.T) {
	var r Rules
	make := func() *RuleSet {
		return NewRuleSet([]Rule{{Match: "a", Class: []Class{{Tag: "t", As: "x", Values: []string{"*"}}}}}, []aggregator.Tag{{Key: "k", Value: "v"}})
	}
	if !r.Set(make()) || r.Set(make()) || !r.Set(NewRuleSet(nil, nil)) {
		t.Error("Set() does not tell what is another set of rules")
	}
}

// FuzzRules: whatever rules make of a name, it is a series or is refused.
func FuzzRules(f *testing.F) {
	f.Add("api.*.?", "x.$1$$", "$2", "api.users.é:1|c|#a:b")
	f.Add("*", "$1", "$1", "a,b=c:1|c")
	f.Fuzz(func(t *testing.T, match, name, value, line string) {
		set := NewRuleSet([]Rule{{Match: match, Name: name, Add: []aggregator.Tag{{Key: "k", Value: value}}}}, nil)
		var n Naming
		p := NewParser(&n)
		p.Start([]byte(line), false)
		batch, _ := p.Next()
		for i := range batch {
			var k aggregator.Key
			k.Reset(batch[i].Kind)
			if n.Name(&k, &batch[i]) != aggregator.Taken {
				continue
			}
			if _, reason := set.Trace(&k); reason != aggregator.Taken {
				continue
			}
			s := k.Series()
			if n := len(s.Name()); n == 0 || n > aggregator.MaxName || strings.HasPrefix(s.Name(), reservedPrefix) {
				t.Errorf("the name %q came out of %q, %q", s.Name(), match, name)
			}
			for k, v := range s.Tags() {
				if k == "k" && utf8.ValidString(value) && !utf8.ValidString(v) {
					t.Errorf("the tag value %q came out of %q, %q", v, match, value)
				}
			}
		}
	})
}

// BenchmarkRules takes packets of series that are known, without rules and with
// a hundred: what a spelling comes to is remembered, so there is no difference.
func BenchmarkRules(b *testing.B) {
	many := make([]Rule, 100)
	for i := range many {
		many[i] = Rule{Match: fmt.Sprintf("bench.*.%d", i), Add: []aggregator.Tag{{Key: "n", Value: "$1"}}}
	}
	for name, list := range map[string][]Rule{"none": nil, "100": many} {
		b.Run(name, func(b *testing.B) {
			rules := new(Rules)
			rules.Set(NewRuleSet(list, nil))
			n := Naming{TagsInNames: true, Rules: rules}
			now := time.Now()
			a := aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxSeries: 1000, MaxSetMembers: 10}, now)
			in := a.Intake(&n)
			p := NewParser(&n)
			var packet []byte
			for i := range 20 {
				packet = fmt.Appendf(packet, "bench.requests.%d:1|c|#route:/users,status:200\n", i)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(packet)))
			for b.Loop() {
				p.Start(packet, false)
				batch, _ := p.Next()
				in.Add(now.UnixNano(), batch)
			}
		})
	}
}

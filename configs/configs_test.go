package configs

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// env is a Lookup over pairs of name and value.
func env(pairs ...string) Lookup {
	return func(name string) (string, bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestTemplateIsDefault(t *testing.T) {
	got, err := Parse("", []byte(Template), env())
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("Parse(Template) = %+v, want %+v", got, want)
	}
}

var (
	commentedKey = regexp.MustCompile(`(?m)^( +)# ((- |  )[a-z_]+:|    - \{)`)
	index        = regexp.MustCompile(`\[\d+\]`)
)

// The template with its examples uncommented shows every key of the schema,
// each with its default.
func TestTemplateHasEveryKey(t *testing.T) {
	full := commentedKey.ReplaceAllString(Template, "$1$2")
	p := newParser("", env("FLUX_API_KEY", "k"))
	c := p.parse([]byte(full))
	if err := p.finish(&c); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for path := range p.at {
		seen[index.ReplaceAllString(path, "[]")] = true
	}
	for _, path := range schema {
		if !seen[path] {
			t.Errorf("sluice.yaml does not show %s", path)
		}
	}

	want := Default()
	u := DefaultUpstream(Flux)
	u.APIKey, u.Key = "k", "k"
	want.Upstreams = []Upstream{u}
	want.Aggregate.Rules = []Rule{{Match: "api.*.*.count", Classes: []Class{{Tag: "status", As: "success", Values: []string{"2??"}}},
		AddTags: map[string]string{"service": "$1"}, Name: "api.requests"}}
	want.Listen.Unixgram = []Socket{{Path: "/run/sluice/statsd.sock", Mode: 0o660}}
	want.Listen.Unix = []Socket{{Path: "/run/sluice/stream.sock", Mode: 0o660}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("the template uncommented = %+v, want %+v", c, want)
	}
}

// docs/configuration.md has one row per key with the type, default and bounds
// of the schema, and none for a key that does not exist.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 5 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		path := strings.Trim(cells[0], "`")
		if rows[path] != nil {
			t.Errorf("%s has two rows", path)
		}
		rows[path] = cells
	}
	for _, k := range documented() {
		row := rows[k.path]
		if row == nil {
			t.Errorf("%s has no row", k.path)
			continue
		}
		if got, want := row[1:4], []string{k.typ, k.def, k.bounds}; !slices.Equal(got, want) {
			t.Errorf("row of %s has type, default and bounds %q, want %q", k.path, got, want)
		}
		if len(row[4]) < 20 {
			t.Errorf("%s: the meaning %q explains nothing", k.path, row[4])
		}
		delete(rows, k.path)
	}
	for path := range rows {
		t.Errorf("%s has a row but is no key", path)
	}
}

type documentedKey struct{ path, typ, def, bounds string }

// documented lists the leaves of the schema as the page shows them. Where the
// bounds are a rule and not a pair of numbers, the page says so below the row;
// its cell has a dash.
func documented() []documentedKey {
	c := Default()
	c.Listen.Unixgram, c.Listen.Unix = []Socket{{Mode: 0o660}}, []Socket{{Mode: 0o660}}
	c.Upstreams = []Upstream{DefaultUpstream(Flux)}
	c.Aggregate.Rules = []Rule{{Classes: []Class{{}}}}
	var list []documentedKey
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for f, fv := range v.Fields() {
			key := f.Tag.Get("yaml")
			if key == "-" {
				continue
			}
			p := join(path, key)
			switch fv.Interface().(type) {
			case []Socket, []Upstream, []Rule, []Class:
				walk(fv.Index(0), p+"[]")
				continue
			}
			if fv.Kind() == reflect.Struct {
				walk(fv, p)
				continue
			}
			out, err := yaml.Marshal(node(fv))
			if err != nil {
				panic(err)
			}
			def := strings.TrimSpace(string(out))
			k := documentedKey{p, typeNames[fv.Type().String()], "`" + def + "`", "-"}
			if low, ok := f.Tag.Lookup("min"); ok {
				k.bounds = low + " to " + f.Tag.Get("max")
			}
			if p == "upstreams[].items_per_request" {
				k.bounds = "1 to 499"
			}
			if words := f.Tag.Get("oneof"); words != "" {
				k.bounds = "`" + strings.ReplaceAll(words, "|", "`, `") + "`"
			}
			list = append(list, k)
		}
	}
	walk(reflect.ValueOf(c), "")
	return list
}

var typeNames = map[string]string{
	"string": "text", "[]string": "list of texts", "bool": "truth value", "int": "whole number",
	"configs.Size": "size", "time.Duration": "duration", "fs.FileMode": "file mode",
	"configs.Secret": "secret", "map[string]string": "mapping", "[]float64": "list of numbers",
}

// Every example of the page is a file that is taken.
func TestDocsExamples(t *testing.T) {
	data, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(data), "```yaml\n")[1:]
	if len(examples) == 0 {
		t.Error("the page has no examples")
	}
	for _, e := range examples {
		file, _, _ := strings.Cut(e, "```")
		if _, err := Parse("", []byte(file), env("FLUX_API_KEY", "k", "CREDENTIALS_DIRECTORY", "/run/c", "TEAM", "a")); err != nil {
			t.Errorf("%v in\n%s", err, file)
		}
	}
}

package configs

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	base := func() Config {
		c := Default()
		c.Upstreams = []Upstream{DefaultUpstream(Flux), DefaultUpstream(Pulse)}
		c.Upstreams[0].APIKeyFile, c.Upstreams[0].Key = "/k", "one"
		c.Upstreams[1].APIKey, c.Upstreams[1].Key = "two", "two"
		return c
	}
	for want, change := range map[string]func(*Config){
		"":                               func(*Config) {},
		"listen.udp":                     func(c *Config) { c.Listen.UDP = nil },
		"aggregate.tags":                 func(c *Config) { c.Aggregate.Tags = map[string]string{"a": "b"} },
		"aggregate.interval":             func(c *Config) { c.Aggregate.Interval = time.Second },
		"upstreams[pulse].points":        func(c *Config) { c.Upstreams[1].Points = 3 },
		"upstreams[flux].api_key_file":   func(c *Config) { c.Upstreams[0].Key = "other" }, // the file's content
		"upstreams[pulse].api_key":       func(c *Config) { c.Upstreams[1].APIKey, c.Upstreams[1].Key = "x", "x" },
		"upstreams[pulse]":               func(c *Config) { c.Upstreams = c.Upstreams[:1] },
		"upstreams[flux] upstreams[new]": func(c *Config) { c.Upstreams[0].Name = "new" },
		"listen.http_token_file":         func(c *Config) { c.Listen.HTTPToken = "t" },
	} {
		c := base()
		change(&c)
		got := Diff(base(), c)
		text := ""
		for i, key := range got {
			if i > 0 {
				text += " "
			}
			text += key
		}
		if text != want {
			t.Errorf("Diff() = %q, want %q", text, want)
		}
	}
	c := base()
	slices.Reverse(c.Upstreams)
	if got := Diff(base(), c); got != nil {
		t.Errorf("Diff() = %q for upstreams in another order, want none", got)
	}
}

// TestDiffSeesEveryKey: whatever key the schema has, a change of it is seen.
func TestDiffSeesEveryKey(t *testing.T) {
	var walk func(path string, index []int, typ reflect.Type)
	walk = func(path string, index []int, typ reflect.Type) {
		for f := range typ.Fields() {
			key := f.Tag.Get("yaml")
			if key == "-" || f.Type == reflect.TypeFor[[]Upstream]() {
				continue
			}
			at, to := join(path, key), append(slices.Clone(index), f.Index...)
			if f.Type.Kind() == reflect.Struct {
				walk(at, to, f.Type)
				continue
			}
			a, b := Default(), Default()
			v := reflect.ValueOf(&b).Elem().FieldByIndex(to)
			switch v.Kind() {
			case reflect.String:
				v.SetString("other")
			case reflect.Bool:
				v.SetBool(!v.Bool())
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 7, 7))
			case reflect.Map:
				v.Set(reflect.ValueOf(map[string]string{"a": "b"}))
			default:
				v.SetInt(v.Int() + 1)
			}
			if got := Diff(a, b); !slices.Equal(got, []string{at}) {
				t.Errorf("Diff() = %q after a change of %s", got, at)
			}
		}
	}
	walk("", nil, reflect.TypeFor[Config]())
}

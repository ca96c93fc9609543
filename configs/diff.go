package configs

import (
	"fmt"
	"reflect"
	"slices"
)

// Diff lists the keys in which two configurations differ, in the order of the
// schema: aggregate.tags, upstreams[flux].points. An upstream that only one of
// them has is upstreams[name]. The content of a file of keys counts as the key that
// names it. Values are never in the list.
func Diff(a, b Config) (keys []string) {
	d := differ{}
	d.compare("", reflect.ValueOf(a), reflect.ValueOf(b))
	if a.Listen.HTTPToken != b.Listen.HTTPToken {
		d.add("listen.http_token_file")
	}
	return d.keys
}

type differ struct{ keys []string }

func (d *differ) add(key string) {
	if !slices.Contains(d.keys, key) {
		d.keys = append(d.keys, key)
	}
}

func (d *differ) compare(path string, a, b reflect.Value) {
	switch list := a.Interface().(type) {
	case []Upstream:
		d.upstreams(path, list, b.Interface().([]Upstream))
		return
	}
	if a.Kind() != reflect.Struct {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			d.add(path)
		}
		return
	}
	for f, fv := range a.Fields() {
		if key := f.Tag.Get("yaml"); key != "-" {
			d.compare(join(path, key), fv, b.FieldByIndex(f.Index))
		}
	}
}

func (d *differ) upstreams(path string, a, b []Upstream) {
	named := func(list []Upstream, name string) (Upstream, bool) {
		i := slices.IndexFunc(list, func(u Upstream) bool { return u.Name == name })
		if i < 0 {
			return Upstream{}, false
		}
		return list[i], true
	}
	for _, u := range a {
		at := fmt.Sprintf("%s[%s]", path, u.Name)
		other, ok := named(b, u.Name)
		if !ok {
			d.add(at)
			continue
		}
		d.compare(at, reflect.ValueOf(u), reflect.ValueOf(other))
		switch {
		case u.Key == other.Key:
		case other.APIKeyFile != "":
			d.add(at + ".api_key_file")
		default:
			d.add(at + ".api_key")
		}
	}
	for _, u := range b {
		if _, ok := named(a, u.Name); !ok {
			d.add(fmt.Sprintf("%s[%s]", path, u.Name))
		}
	}
}

package configs

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// schema lists the paths of all keys, in the order of the struct tree; the
// element of a list is [].
var schema = slices.Collect(func(yield func(string) bool) {
	walkSchema(reflect.TypeFor[Config](), "", func(path string, _ reflect.StructField) { yield(path) })
})

// walkSchema calls f for every key of a struct type, parents first.
func walkSchema(t reflect.Type, path string, f func(path string, field reflect.StructField)) {
	for field := range t.Fields() {
		key := field.Tag.Get("yaml")
		if key == "-" {
			continue
		}
		p := join(path, key)
		f(p, field)
		switch ft := field.Type; {
		case ft.Kind() == reflect.Struct:
			walkSchema(ft, p, f)
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			walkSchema(ft.Elem(), p+"[]", f)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// remedy says what to do about an unknown key in a mapping that knows these
// keys: the nearest of them, else the place where the key does belong, else
// all of them.
func remedy(key string, known []string) string {
	if near := nearest(key, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	for _, path := range schema {
		dot := strings.LastIndex(path, ".")
		if path == key && dot < 0 {
			return "it belongs at the top of the file, without indentation"
		}
		if path == key {
			return fmt.Sprintf("keys are nested: write %q under %q", path[dot+1:], path[:dot])
		}
		if strings.HasSuffix(path, "."+key) {
			return fmt.Sprintf("did you mean %q?", path)
		}
	}
	return "known here: " + strings.Join(known, ", ")
}

// nearest is the known key with the fewest edits, at most a third of its
// length; "" when all are farther away. Case and hyphens are no edits.
func nearest(key string, known []string) string {
	if len(key) > 64 { // longer than every key: bounds the work
		return ""
	}
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, least := "", 0
	for _, k := range known {
		d := distance(key, k)
		if d <= max(1, len(k)/3) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

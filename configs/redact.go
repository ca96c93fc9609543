package configs

import (
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

// Redacted is the configuration as a file: every key in the order of the
// schema, secrets as ***. Parse reads it back as the same configuration, apart
// from the secrets. The caller owns the bytes.
func Redacted(c Config) []byte {
	out, err := yaml.Marshal(node(reflect.ValueOf(c)))
	if err != nil {
		panic(fmt.Sprintf("configs: print the configuration: %v", err)) // nodes of our own making
	}
	return out
}

func node(v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case Secret:
		return text(x.String())
	case string:
		return text(escape(x))
	case time.Duration:
		return word(formatDuration(x))
	case Size:
		return word(x.String())
	case int:
		return word(strconv.Itoa(x))
	case float64:
		return word(formatNumber(x))
	case bool:
		return word(strconv.FormatBool(x))
	case fs.FileMode:
		return &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Value: fmt.Sprintf("%04o", uint32(x))}
	case map[string]string:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for _, key := range slices.Sorted(maps.Keys(x)) {
			m.Content = append(m.Content, text(key), text(escape(x[key])))
		}
		return m
	}
	if v.Kind() == reflect.Struct {
		m := &yaml.Node{Kind: yaml.MappingNode}
		for f, fv := range v.Fields() {
			if key := f.Tag.Get("yaml"); key != "-" {
				m.Content = append(m.Content, word(key), node(fv))
			}
		}
		return m
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	if elem := v.Type().Elem().Kind(); v.Len() == 0 || elem == reflect.String || elem == reflect.Float64 {
		list.Style = yaml.FlowStyle
	}
	for i := range v.Len() {
		list.Content = append(list.Content, node(v.Index(i)))
	}
	return list
}

func word(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

// plainText cannot be taken for a number or for YAML's syntax: a colon
// stands only where more text follows.
var plainText = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._-]*(:[A-Za-z0-9/._-]+)*$`)

// text is quoted unless it is plain.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} // the tag keeps a text like null in quotes
	if !plainText.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

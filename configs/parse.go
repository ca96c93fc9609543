package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// maxFile bounds the file and, separately, what variables add to it: the YAML
// parser needs half a second for half of this.
const maxFile = 1 << 20

// parser walks over the nodes of one file. The YAML library is used for the
// syntax only: its own decoding takes octal numbers, 1_000 and merge keys, and
// stops at the first fault.
type parser struct {
	faults
	lookup Lookup
	grown  int // bytes that variables have put into values so far
}

// Parse reads a configuration from memory: the file's keys over the defaults,
// then the environment (FLUX_API_KEY and FLUX_URL when no upstream is
// configured), then all checks that need no file. The name stands in the
// messages. The error is an Errors.
func Parse(name string, data []byte, lookup Lookup) (Config, error) {
	p := newParser(name, lookup)
	c := p.parse(data)
	p.environment(&c)
	if err := p.finish(&c); err != nil {
		return Config{}, err
	}
	return c, nil
}

func newParser(file string, lookup Lookup) *parser {
	root := map[string]place{"": {line: 1, col: 1}}
	return &parser{faults: faults{file: file, at: root}, lookup: lookup}
}

func (p *parser) parse(data []byte) Config {
	c := Default()
	c.File = p.file
	if len(data) > maxFile {
		p.add("", "the file is over the limit of %d bytes; is it the right file?", maxFile)
		return c
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return c // empty, or comments only
	} else if err != nil {
		p.syntax(err)
		return c
	}
	switch err := d.Decode(&second); {
	case err == nil:
		p.addAt(max(1, second.Line), max(1, second.Column), "", "a second document starts here; keep one in the file")
	case !errors.Is(err, io.EOF):
		p.syntax(err)
	}
	for _, n := range doc.Content {
		p.plain(n)
		p.value(n, reflect.ValueOf(&c).Elem(), "")
	}
	return c
}

var syntaxForm = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)`)

// syntax reports an error of the YAML library. It knows a line at most, and
// that can be the line of the block around.
func (p *parser) syntax(err error) {
	m := syntaxForm.FindStringSubmatch(err.Error())
	line, _ := strconv.Atoi(m[1])
	p.addAt(max(1, line), 1, "", "not valid YAML here or just before: %s; look at the indentation (spaces, no tabs), and put quotes around a ${NAME} inside [ ] or { }", m[2])
}

// plain refuses what makes a file other than it looks: anchors, aliases, merge
// keys and tags. An alias is not followed anywhere, so it cannot be a bomb.
func (p *parser) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		p.addAt(n.Line, n.Column, "", "aliases (*%s) are not taken; write the value out", n.Value)
	case n.Anchor != "":
		p.addAt(n.Line, n.Column, "", "anchors (&%s) are not taken; write the value out where it is needed", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		p.addAt(n.Line, n.Column, "", "YAML tags (%s) are not taken; leave it out", n.Tag)
	}
	for _, child := range n.Content {
		p.plain(child)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// value puts a node into v. A null leaves the default that is already there.
func (p *parser) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode || isNull(n) {
		return
	}
	if path != "" {
		p.at[path] = place{line: n.Line, col: n.Column}
	}
	switch v.Kind() {
	case reflect.Struct:
		if s, ok := v.Addr().Interface().(*Socket); ok && n.Kind == yaml.ScalarNode {
			s.Path = p.text(n, path)
			return
		}
		p.mapping(n, path, "a mapping (lines of key: value)", func(key, value *yaml.Node) {
			p.field(key, value, v, path)
		})
	case reflect.Slice:
		p.sequence(n, v, path)
	case reflect.Map:
		tags := map[string]string{}
		p.mapping(n, path, "a mapping like {env: production}", func(key, value *yaml.Node) {
			at := joinKey(path, key.Value)
			if strings.Contains(key.Value, "${") {
				p.addAt(key.Line, key.Column, at, "variables are not expanded in keys; write the key out")
			}
			if isNull(value) {
				p.addAt(key.Line, key.Column, at, `has no value; write "" for an empty one`)
				return
			}
			p.at[at] = place{line: value.Line, col: value.Column}
			tags[key.Value] = p.text(value, at)
		})
		if len(tags) > 0 {
			v.Set(reflect.ValueOf(tags))
		}
	default:
		p.scalar(n, v, path)
	}
}

// mapping calls f for each key with a text and its value; a key that was there
// before is refused.
func (p *parser) mapping(n *yaml.Node, path, want string, f func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		subject := ""
		if path == "" {
			subject = "the file "
		}
		p.addAt(n.Line, n.Column, path, "%sis %s; write %s", subject, describe(n), want)
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch line, again := first[key.Value]; {
		case key.Kind == yaml.AliasNode:
			// refused by plain
		case key.Tag == "!!merge":
			p.addAt(key.Line, key.Column, path, "merge keys (<<) are not taken; write the keys out")
		case key.Kind != yaml.ScalarNode:
			p.addAt(key.Line, key.Column, path, "%s stands where a key should be; write key: value (and put quotes around a ${NAME} inside [ ] or { })", describe(key))
		case again:
			p.addAt(key.Line, key.Column, joinKey(path, key.Value), "the key is already in line %d; keep one of the two", line)
		default:
			first[key.Value] = key.Line
			f(key, value)
		}
	}
}

func (p *parser) field(key, value *yaml.Node, v reflect.Value, path string) {
	var known []string
	for f, fv := range v.Fields() {
		name := f.Tag.Get("yaml")
		if name == key.Value && name != "-" {
			p.value(value, fv, join(path, name))
			return
		}
		if name != "-" {
			known = append(known, name)
		}
	}
	p.addAt(key.Line, key.Column, joinKey(path, key.Value), "unknown key; %s", remedy(key.Value, known))
}

// sequence replaces the default list; an empty one becomes nil.
func (p *parser) sequence(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		want := `a list like [a, b]`
		if n.Kind == yaml.ScalarNode {
			want = "a list, also of one: [" + quote(n.Value) + "]"
		}
		p.addAt(n.Line, n.Column, path, "is %s; write %s", describe(n), want)
		return
	}
	v.SetZero()
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(item) {
			p.addAt(item.Line, item.Column, at, "has no value; write one, or take the entry out")
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		switch e := e.Addr().Interface().(type) {
		case *Socket:
			e.Mode = 0o660 // its owner and group only; others need a wider mode in the file
		case *Upstream:
			*e = DefaultUpstream(p.upstreamType(item))
		}
		p.value(item, e, at)
		v.Set(reflect.Append(v, e))
	}
}

// upstreamType looks ahead: the other defaults depend on the type.
func (p *parser) upstreamType(n *yaml.Node) string {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value != "type" || value.Kind != yaml.ScalarNode || isNull(value) {
			continue
		}
		if typ, _, err := expand(value.Value, p.lookup); err == nil {
			return typ
		}
	}
	return Flux
}

// text is a scalar with its variables expanded, whatever type YAML sees in
// it: the tag value 1.10 is "1.10". After a fault it is "".
func (p *parser) text(n *yaml.Node, path string) string {
	if n.Kind != yaml.ScalarNode {
		if n.Kind != yaml.AliasNode {
			p.addAt(n.Line, n.Column, path, "is %s; write one value", describe(n))
		}
		return ""
	}
	value, expanded, err := expand(n.Value, p.lookup)
	if err != nil {
		p.addAt(n.Line, n.Column, path, "%s %v", quote(n.Value), err)
		return ""
	}
	if expanded {
		p.at[path] = place{line: n.Line, col: n.Column, written: n.Value}
		if p.grown += len(value); p.grown > maxFile {
			p.addAt(n.Line, n.Column, path, "%s brings the values from variables over the limit of %d bytes together; shorten them", quote(n.Value), maxFile)
			return ""
		}
	}
	return value
}

func (p *parser) scalar(n *yaml.Node, v reflect.Value, path string) {
	before := len(p.list)
	text := p.text(n, path)
	if len(p.list) > before || n.Kind != yaml.ScalarNode {
		return
	}
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 && p.at[path].written == ""
	var err error
	switch to := v.Addr().Interface().(type) {
	case *string:
		*to = text
	case *Secret:
		*to = Secret(strings.TrimSpace(text)) // a variable filled from a file ends in a newline
	case *time.Duration:
		*to, err = parseDuration(text)
	case *Size:
		*to, err = parseSize(text)
	case *int:
		if *to, err = parseInt(text); quoted {
			err = errors.New("is text; write a whole number, without quotes")
		}
	case *float64:
		if *to, err = parseNumber(text); quoted {
			err = errors.New("is text; write a number, without quotes")
		}
	case *bool:
		if *to = text == "true"; quoted || text != "true" && text != "false" {
			err = errors.New("is not a truth value; write true or false, without quotes")
		}
	case *fs.FileMode:
		// Without quotes other YAML tools would rewrite 0660 to 432.
		bits, bad := strconv.ParseUint(text, 8, 9)
		if *to = fs.FileMode(bits); bad != nil || !quoted && p.at[path].written == "" || text[0] != '0' {
			err = errors.New(`is not a file mode; write up to three octal digits after a 0, in quotes, like "0660"`)
		}
	default:
		panic(fmt.Sprintf("configs: the schema has a %T at %s, which nothing reads", to, path))
	}
	if err != nil {
		p.addAt(n.Line, n.Column, path, "%s %v", p.show(path, text), err)
	}
}

// joinKey joins a key as it stands in a file, which can be any text.
func joinKey(path, key string) string {
	if wordForm.MatchString(key) && len(key) <= maxWord {
		return join(path, key)
	}
	return path + "[" + quote(key) + "]"
}

// wordForm is a plain word; maxWord is how long one may be, in bytes. Counted by the
// expression the length would take a step of its own for each.
var wordForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

const maxWord = 64

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "empty"
	case n.Kind == yaml.ScalarNode:
		return "one value"
	}
	return "an alias"
}
